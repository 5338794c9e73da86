"""``ctc_loss`` and ``ctc_decode`` with the signatures of Keras'; imports no Keras."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from ctcx._api.beam_search import check_sizes, ctc_beam_search
from ctcx._api.loss import ctc_loss as _ctc_loss
from ctcx._arrays.facts import device_of, is_array, namespace_of
from ctcx._inputs.options import check_choice
from ctcx.compat._shared.argument_names import in_terms, is_ragged, refuse, shape_of
from ctcx.compat._shared.decoding import greedy_with_logits
from ctcx.compat._shared.tensorflow_bridge import (
    holds_tensors,
    in_single_or_double,
    on_host,
    without_autograph,
)

if TYPE_CHECKING:
    from ctcx._typing import Array

__all__ = ["ctc_decode", "ctc_loss"]

_TERMS = {
    "logits": "output",
    "labels": "target",
    "logit_lengths": "output_length",
    "label_lengths": "target_length",
    "logit_length": "output_length",
    "label_length": "target_length",
    "blank": "mask_index",
    "blank_index": "mask_index",
}
_TERMS_OF_DECODE = {
    "logits": "inputs",
    "logit_lengths": "sequence_lengths",
    "blank": "mask_index",
    "width": "beam_width",
    "top": "top_paths",
}


@without_autograph
def ctc_loss(
    target: Any, output: Array, target_length: Any, output_length: Any, mask_index: int = 0
) -> Array:
    """CTC loss with the signature of ``keras.ops.ctc_loss``.

    Parameters
    ----------
    target : array of int (N, S)
        Entries past ``target_length`` are ignored.
    output : array (N, T, C)
        Before the softmax. Of TensorFlow or any array library, or symbolic.
    target_length, output_length : array of int (N,)
        Labels, and frames, of each sequence.
    mask_index : int
        Class of the blank; negative ones count from the end, on all backends.

    Returns
    -------
    array (N,)
        In nats, +inf where no path emits the labels; float64 for float64, else float32.

    Raises
    ------
    CTCInputError
        Wrong ranks, shapes, dtypes, libraries or devices; a target out of range or equal to
        ``mask_index``, a length out of range.
    """
    if is_ragged(target):
        refuse(
            "target",
            "be padded: pass target.to_tensor(), and target.row_lengths() as target_length",
            "a RaggedTensor",
        )
    keras = sys.modules.get("keras")
    arguments = (target, output, target_length, output_length)
    if keras is not None and any(isinstance(value, keras.KerasTensor) for value in arguments):
        from ctcx.compat.keras._losses import CTCLossOperation

        return CTCLossOperation(mask_index)(*arguments)
    with in_terms(_TERMS):
        if holds_tensors(*arguments):
            from ctcx.compat.tensorflow import ctc_loss as tensorflow_ctc_loss

            return tensorflow_ctc_loss(
                target,
                output,
                target_length,
                output_length,
                logits_time_major=False,
                blank_index=mask_index,
            )
        if not is_array(output) or output.ndim != 3:
            refuse("output", "have shape (N, T, C)", shape_of(output))
        return _ctc_loss(output, target, output_length, target_length, blank=mask_index)


@without_autograph
def ctc_decode(
    inputs: Array,
    sequence_lengths: Any,
    strategy: str = "greedy",
    beam_width: int = 100,
    top_paths: int = 1,
    merge_repeated: bool = True,  # noqa: FBT001, FBT002 - Keras' signature
    mask_index: int | None = 0,
) -> tuple[Array, Array]:
    """Decode with the signature of ``keras.ops.ctc_decode``.

    Parameters
    ----------
    inputs : array (N, T, C)
        Before the softmax. Of TensorFlow or any array library, or symbolic.
    sequence_lengths : array of int (N,)
        Frames of each sequence.
    strategy : {"greedy", "beam_search"}
        The labels of the most probable path (:func:`ctcx.ctc_greedy`), or the most probable labels
        (:func:`ctcx.ctc_beam_search`).
    beam_width, top_paths : int
        How many prefixes the beam search keeps, and how many results it returns.
    merge_repeated : bool
        Whether equal neighbours are one label. Beam search, where they always are, ignores it.
    mask_index : int or None
        Class of the blank; negative ones count from the end, on all backends. None: the last class.

    Returns
    -------
    decoded : array of int32 (P, N, T)
        The labels, padded with -1. P is ``top_paths``, and 1 for the greedy strategy.
    scores : array (N, P)
        Greedy: minus the sum of the largest logit of each frame. Beam search: logarithms of the
        probabilities of the labels by all their paths, -inf where there are fewer results. float64
        for float64, else float32.

    Raises
    ------
    CTCInputError
        Wrong ranks, shapes, dtypes, libraries or devices; a length or ``mask_index`` out of range;
        a NaN or +inf logit in a sequence; another strategy; ``top_paths`` above ``beam_width``.
    """
    keras = sys.modules.get("keras")
    arguments = (inputs, sequence_lengths)
    options = (strategy, beam_width, top_paths, merge_repeated, mask_index)
    with in_terms(_TERMS_OF_DECODE):
        check_choice("strategy", strategy, ("greedy", "beam_search"))
        check_sizes(beam_width, top_paths, None)
    if keras is not None and any(isinstance(value, keras.KerasTensor) for value in arguments):
        from ctcx.compat.keras._losses import CTCDecodeOperation

        symbolic: tuple[Array, Array] = CTCDecodeOperation(*options)(*arguments)
        return symbolic
    if not holds_tensors(*arguments):
        if not is_array(inputs) or inputs.ndim != 3:
            refuse("inputs", "have shape (N, T, C)", shape_of(inputs))
        return _decoded(*options, *arguments)
    inputs = in_single_or_double(inputs)
    dtypes = ("int32", inputs.dtype)
    decoded, scores = on_host(partial(_decoded, *options), (inputs, sequence_lengths), dtypes)
    count, frames, _ = inputs.shape if inputs.shape.rank == 3 else (None, None, None)
    paths = top_paths if strategy == "beam_search" else 1
    decoded.set_shape([paths, count, frames])
    scores.set_shape([count, paths])
    return decoded, scores


def _decoded(
    strategy: str,
    beam_width: int,
    top_paths: int,
    merge_repeated: bool,  # noqa: FBT001
    mask_index: int | None,
    inputs: Array,
    sequence_lengths: Any,
) -> tuple[Array, Array]:
    blank = -1 if mask_index is None else mask_index
    with in_terms(_TERMS_OF_DECODE):
        if strategy == "greedy":
            labels, scores = greedy_with_logits(
                inputs,
                sequence_lengths,
                blank=blank,
                time_major=False,
                merge_repeated=merge_repeated,
            )
            labels = labels[:, None, :]
        else:
            found = ctc_beam_search(
                inputs, sequence_lengths, width=beam_width, top=top_paths, blank=blank
            )
            labels, scores = found.labels, found.log_probs
    xp = namespace_of(labels)
    shape = (*labels.shape[:2], inputs.shape[1] - labels.shape[2])
    padding = xp.full(shape, -1, dtype=labels.dtype, device=device_of(labels))
    return xp.permute_dims(xp.concat([labels, padding], axis=2), (1, 0, 2)), scores
