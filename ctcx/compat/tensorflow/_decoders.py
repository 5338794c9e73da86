"""The CTC decoders with the signatures of TensorFlow's; imports no TensorFlow."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ctcx._api.beam_search import check_sizes
from ctcx._api.beam_search import ctc_beam_search as _ctc_beam_search
from ctcx._inputs.options import check_flag
from ctcx.compat._shared.argument_names import in_terms, to_host
from ctcx.compat._shared.decoding import greedy_with_logits
from ctcx.compat._shared.tensorflow_bridge import (
    holds_tensors,
    in_single_or_double,
    on_host,
    without_autograph,
)
from ctcx.compat.tensorflow._ctc import as_logits, in_library_of
from ctcx.compat.tensorflow._sparse_labels import collapsed, to_sparse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ctcx._typing import Array

__all__ = ["ctc_beam_search_decoder", "ctc_beam_search_decoder_v1", "ctc_greedy_decoder"]

_TERMS = {
    "logits": "inputs",
    "logit_lengths": "sequence_length",
    "blank": "blank_index",
    "width": "beam_width",
    "top": "top_paths",
}


@without_autograph
def ctc_greedy_decoder(
    inputs: Array,
    sequence_length: Array | Sequence[int] | None,
    merge_repeated: bool = True,  # noqa: FBT001, FBT002 - TensorFlow's signature
    blank_index: int | None = None,
) -> tuple[list[Any], Array]:
    """Labels of the most probable path, with the signature of ``tf.nn.ctc_greedy_decoder``.

    Parameters
    ----------
    inputs : array (T, N, C)
        Before the softmax. A TensorFlow tensor or variable, or an array of any array library; a
        list becomes a tensor.
    sequence_length : array of int (N,) or None
        Frames of each sequence; None for all.
    merge_repeated : bool
        Whether equal neighbours are one label. False makes a label of each frame that isn't blank.
    blank_index : int, optional
        Class of the blank, negative ones counted from the end; the last class by default.

    Returns
    -------
    decoded : list of one SparseTensor
        The labels, int64. A triple of indices, values and shape if no argument is a tensor.
    neg_sum_logits : array (N, 1)
        Minus the sum of the largest logit of each frame; float64 for float64, else float32.

    Raises
    ------
    CTCInputError
        Wrong ranks, shapes, dtypes, libraries or devices; a length or ``blank_index`` out of range;
        a NaN or +inf logit in a sequence. Inside ``tf.function`` TensorFlow wraps it in
        ``tf.errors.InvalidArgumentError``.

    Examples
    --------
    >>> import numpy as np
    >>> from ctcx.compat.tensorflow import ctc_greedy_decoder
    >>> logits = np.asarray([[[3.0, 0, 0]], [[3, 0, 0]], [[0, 0, 3]], [[0, 3, 0]]])
    >>> ((_, labels, _),), score = ctc_greedy_decoder(logits, [4])
    >>> labels, score
    (array([0, 1]), array([[-12.]]))
    """
    blank = -1 if blank_index is None else blank_index

    def search(logits: Any, lengths: Any) -> tuple[Any, Any]:
        labels, score = greedy_with_logits(
            logits, lengths, blank=blank, time_major=True, merge_repeated=merge_repeated
        )
        return labels[:, None, :], score

    return _decoded(search, inputs, sequence_length, paths=1, merge=False)


def ctc_beam_search_decoder(
    inputs: Array,
    sequence_length: Array | Sequence[int] | None,
    beam_width: int = 100,
    top_paths: int = 1,
) -> tuple[list[Any], Array]:
    """Most probable labels, with the signature of ``tf.nn.ctc_beam_search_decoder``.

    The blank is the last class.

    Parameters
    ----------
    inputs, sequence_length
        As for :func:`ctc_greedy_decoder`.
    beam_width : int
        How many prefixes are kept after each frame.
    top_paths : int
        How many results to return, at most ``beam_width``.

    Returns
    -------
    decoded : list of ``top_paths`` SparseTensors
        Labels, the most probable first, as from :func:`ctc_greedy_decoder`; none where there are
        fewer results.
    log_probability : array (N, top_paths)
        Of all paths of the labels (:func:`ctcx.ctc_beam_search`), which TensorFlow's falls short
        of: that is of the paths that its beam has kept. -inf where there are fewer results.

    Raises
    ------
    CTCInputError
        As for :func:`ctc_greedy_decoder`; ``top_paths`` above ``beam_width``.
    """
    return ctc_beam_search_decoder_v1(
        inputs, sequence_length, beam_width, top_paths, merge_repeated=False
    )


@without_autograph
def ctc_beam_search_decoder_v1(
    inputs: Array,
    sequence_length: Array | Sequence[int] | None,
    beam_width: int = 100,
    top_paths: int = 1,
    merge_repeated: bool = True,  # noqa: FBT001, FBT002 - TensorFlow's signature
) -> tuple[list[Any], Array]:
    """Most probable labels, as ``tf.compat.v1.nn.ctc_beam_search_decoder``.

    Parameters
    ----------
    inputs, sequence_length, beam_width, top_paths
        As for :func:`ctc_beam_search_decoder`.
    merge_repeated : bool
        Whether to merge equal neighbours among the labels that were found, so that no double
        letters are left. TensorFlow's default, which is hardly ever wanted.

    Returns
    -------
    decoded, log_probability
        As from :func:`ctc_beam_search_decoder`; probabilities are those of the labels as found.

    Raises
    ------
    CTCInputError
        As for :func:`ctc_beam_search_decoder`.
    """
    with in_terms(_TERMS):
        check_sizes(beam_width, top_paths, None)
        check_flag("merge_repeated", merge_repeated)

    def search(logits: Any, lengths: Any) -> tuple[Any, Any]:
        found = _ctc_beam_search(
            logits, lengths, width=beam_width, top=top_paths, blank=-1, time_major=True
        )
        return found.labels, found.log_probs

    return _decoded(search, inputs, sequence_length, paths=int(top_paths), merge=merge_repeated)


def _decoded(
    search: Callable[[Any, Any], tuple[Any, Any]],
    logits: Any,
    lengths: Any,
    *,
    paths: int,
    merge: bool,
) -> tuple[list[Any], Any]:
    """Make labels (N, paths, K), which ``search`` gives, sparse; its scores are (N, paths)."""
    logits = as_logits(logits, _TERMS, time_major=True)
    run = partial(_sparse, search, merge=merge)
    if not holds_tensors(logits, lengths):
        *parts, scores = run(logits, lengths)
        return _triples(in_library_of(logits, tuple(parts))), scores
    import tensorflow as tf

    logits = in_single_or_double(logits)
    *parts, scores = on_host(run, (logits, lengths), ["int64"] * 3 * paths + [logits.dtype])
    count = logits.shape[1] if logits.shape.rank == 3 else None
    scores.set_shape([count, paths])
    for indices, values, shape in _triples(parts):
        indices.set_shape([None, 2])
        values.set_shape([None])
        shape.set_shape([2])
    return [tf.SparseTensor(*part) for part in _triples(parts)], scores


def _triples(parts: Sequence[Any]) -> list[tuple[Any, ...]]:
    return [tuple(parts[first : first + 3]) for first in range(0, len(parts), 3)]


def _sparse(
    search: Callable[[Any, Any], tuple[Any, Any]], logits: Any, lengths: Any, *, merge: bool
) -> tuple[Any, ...]:
    """Give indices, values and shape of each path, then the scores."""
    with in_terms(_TERMS):
        labels, scores = search(logits, lengths)
    host = to_host("labels", labels)
    parts: list[Any] = []
    for k in range(host.shape[1]):
        found = host[:, k, :], (host[:, k, :] >= 0).sum(axis=1)
        parts += to_sparse(*(collapsed(*found) if merge else found))
    return *parts, scores
