"""``ctc_loss`` with the signature of Keras'; imports no Keras."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ctcx._api.loss import ctc_loss as _ctc_loss
from ctcx._arrays.facts import is_array
from ctcx.compat._shared.argument_names import in_terms, is_ragged, refuse, shape_of
from ctcx.compat._shared.tensorflow_bridge import holds_tensors, without_autograph

if TYPE_CHECKING:
    from ctcx._typing import Array

__all__ = ["ctc_loss"]

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


@without_autograph
def ctc_loss(
    target: Any, output: Array, target_length: Any, output_length: Any, mask_index: int = 0
) -> Array:
    """CTC loss with the signature of ``keras.ops.ctc_loss``.

    Parameters
    ----------
    target : array of int (N, S)
        What stands past ``target_length`` never matters.
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
