"""The CTC functions with the signatures of TensorFlow's; imports no TensorFlow."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ctcx._api.loss import ctc_loss as _ctc_loss
from ctcx._api.loss import ctc_loss_and_grad as _ctc_loss_and_grad
from ctcx._arrays.facts import device_of, is_array, is_numpy, namespace_of
from ctcx._errors import CTCInputError
from ctcx._inputs.host_data import check_integer_dtype, plain
from ctcx.compat._shared.argument_names import (
    in_terms,
    is_ragged,
    refuse,
    required,
    shape_of,
    to_host,
)
from ctcx.compat._shared.tensorflow_bridge import (
    differentiable,
    holds_tensors,
    on_host,
    without_autograph,
)
from ctcx.compat.tensorflow._non_standard_lattices import leaky, unmerged
from ctcx.compat.tensorflow._sparse_labels import Sparse, as_sparse, collapsed, dense, unique_labels

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ctcx._typing import Array

__all__ = [
    "as_logits",
    "collapse_repeated",
    "ctc_loss",
    "ctc_loss_v1",
    "ctc_unique_labels",
    "in_library_of",
]

_TERMS = {
    "logit_lengths": "logit_length",
    "label_lengths": "label_length",
    "blank": "blank_index",
    "time_major": "logits_time_major",
}
_TERMS_V1 = {"logits": "inputs", "logit_lengths": "sequence_length"}


@without_autograph
def ctc_loss(
    labels: Any,
    logits: Array,
    label_length: Array | Sequence[int] | None,
    logit_length: Array | Sequence[int] | None,
    logits_time_major: bool = True,  # noqa: FBT001, FBT002 - TensorFlow's signature
    unique: Any = None,
    blank_index: int | None = None,
    name: str | None = None,
    *,
    strict_compat: bool = False,
) -> Array:
    """CTC loss with the signature of ``tf.nn.ctc_loss``.

    Parameters
    ----------
    labels : array of int (N, S), SparseTensor, or (indices, values, shape)
        Padded or sparse. Entries past ``label_length`` are ignored.
    logits : array (T, N, C)
        Before the softmax. (N, T, C) with ``logits_time_major=False``. A TensorFlow tensor or
        variable, or an array of any array library; a list becomes a tensor.
    label_length : array of int (N,) or None
        Labels of each sequence; None to use all. Ignored for sparse labels, which know theirs.
    logit_length : array of int (N,) or None
        Frames of each sequence; None for all.
    logits_time_major : bool
        Whether frames come first in ``logits``.
    unique : tuple, optional
        Ignored: ctcx needs no such help. What :func:`ctc_unique_labels` returns.
    blank_index : int, optional
        Class of the blank, negative ones counted from the end; 0 for dense labels. Sparse ones need
        it, as in TensorFlow.
    name : str, optional
        Scope of TensorFlow's operations.
    strict_compat : bool
        For dense labels, compute what ``tf.nn.ctc_loss`` does where no path emits the labels, or
        where the loss is over 700: 706.8936 and what leaks, with its gradient. For comparing old
        logs. Sparse labels, for which TensorFlow has no such number, stay as they are.

    Returns
    -------
    array (N,)
        In nats; float64 for float64, else float32. A TensorFlow tensor if any argument is one, and
        then known to ``tf.GradientTape``; else in the library of ``logits``.

    Raises
    ------
    CTCInputError
        Wrong ranks, shapes, dtypes, libraries or devices; a label out of range or equal to the
        blank, a length out of range; sparse labels without ``blank_index``. Inside ``tf.function``
        TensorFlow wraps it in ``tf.errors.InvalidArgumentError``.

    Examples
    --------
    >>> import numpy as np
    >>> from ctcx.compat.tensorflow import ctc_loss
    >>> few_frames = np.zeros((2, 1, 4), dtype=np.float32)
    >>> ctc_loss(np.asarray([[1, 1]]), few_frames, [2], [2])
    array([inf], dtype=float32)
    >>> ctc_loss(np.asarray([[1, 1]]), few_frames, [2], [2], strict_compat=True)
    array([708...], dtype=float32)
    """
    del unique
    _refuse_ragged(labels)
    sparse = as_sparse(labels)
    if sparse is not None and blank_index is None:
        refuse("blank_index", "be given for sparse labels", "None")
    return _loss(
        logits,
        (labels,) if sparse is None else sparse,
        label_length if sparse is None else None,
        logit_length,
        form=_as_given if sparse is None else _as_dense,
        solve=_LEAKY if strict_compat and sparse is None else _CTC,
        blank=0 if blank_index is None else blank_index,
        time_major=logits_time_major,
        name=name,
        terms=_TERMS,
    )


@without_autograph
def ctc_loss_v1(
    labels: Any,
    inputs: Array | None = None,
    sequence_length: Array | Sequence[int] | None = None,
    preprocess_collapse_repeated: bool = False,  # noqa: FBT001, FBT002 - TensorFlow's signature
    ctc_merge_repeated: bool = True,  # noqa: FBT001, FBT002
    ignore_longer_outputs_than_inputs: bool = False,  # noqa: FBT001, FBT002
    time_major: bool = True,  # noqa: FBT001, FBT002
    logits: Array | None = None,
) -> Array:
    """CTC loss with the signature of ``tf.compat.v1.nn.ctc_loss``; the blank is the last class.

    Parameters
    ----------
    labels : SparseTensor or (indices, values, shape)
        int.
    inputs : array (T, N, C)
        Before the softmax. (N, T, C) with ``time_major=False``.
    sequence_length : array of int (N,)
        Frames of each sequence; None for all.
    preprocess_collapse_repeated : bool
        Merge equal neighbours in the labels first.
    ctc_merge_repeated : bool
        False: a path spells all its non-blank classes, equal neighbours too, so that labels need
        no blank between them and may not be emitted twice. That isn't CTC.
    ignore_longer_outputs_than_inputs : bool
        Whether sequences whose labels no path emits count as 0 instead of +inf. Their gradient is
        0 either way.
    time_major : bool
        Whether frames come first.
    logits : array
        Another name for ``inputs``.

    Returns
    -------
    array (N,)
        As from :func:`ctc_loss`.

    Raises
    ------
    CTCInputError
        As for :func:`ctc_loss`; labels that aren't sparse.
    """
    if (inputs is None) == (logits is None):
        refuse("inputs", "be given, by this name or as logits", "both or none of them")
    given = logits if inputs is None else inputs
    _refuse_ragged(labels)
    sparse = as_sparse(labels)
    if sparse is None:
        refuse(
            "labels", "be a SparseTensor, or a triple (indices, values, shape)", shape_of(labels)
        )
    return _loss(
        given,
        sparse,
        None,
        sequence_length,
        form=partial(_as_dense, collapse=preprocess_collapse_repeated),
        solve=_CTC if ctc_merge_repeated else _UNMERGED,
        infeasible="zero" if ignore_longer_outputs_than_inputs else "inf",
        blank=-1,
        time_major=time_major,
        name=None,
        terms=_TERMS_V1,
    )


@without_autograph
def ctc_unique_labels(labels: Any, name: str | None = None) -> tuple[Any, Any]:
    """Each row's labels once, as ``tf.nn.ctc_unique_labels``; :func:`ctc_loss` has no use for it.

    Parameters
    ----------
    labels : array of int (N, S)
        Padded.
    name : str, optional
        Ignored.

    Returns
    -------
    unique : array of int64 (N, S)
        In order of first appearance, padded with 0.
    places : array of int32 (N, S)
        Where each label stands in ``unique``.

    Raises
    ------
    CTCInputError
        Wrong rank or dtype.

    Examples
    --------
    >>> import numpy as np
    >>> from ctcx.compat.tensorflow import ctc_unique_labels
    >>> ctc_unique_labels(np.asarray([[3, 1, 3]]))
    (array([[3, 1, 0]]), array([[0, 1, 0]], dtype=int32))
    """
    del name
    if holds_tensors(labels):
        unique, places = on_host(unique_labels, (labels,), ("int64", "int32"))
        unique.set_shape(labels.shape)
        places.set_shape(labels.shape)
        return unique, places
    return in_library_of(labels, unique_labels(_host_labels(labels)))


@without_autograph
def collapse_repeated(
    labels: Any, seq_length: Array | Sequence[int], name: str | None = None
) -> tuple[Any, Any]:
    """Merge equal neighbours, as ``tf.nn.collapse_repeated``.

    Parameters
    ----------
    labels : array of int (N, S)
        Padded.
    seq_length : array of int (N,)
        Labels of each sequence.
    name : str, optional
        Ignored.

    Returns
    -------
    labels : array of int (N, S')
        S' is the longest that is left; padded with 0.
    lengths : array of int (N,)
        In the dtype of ``seq_length``.

    Raises
    ------
    CTCInputError
        Wrong ranks or dtypes, a length out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from ctcx.compat.tensorflow import collapse_repeated
    >>> collapse_repeated(np.asarray([[1, 1, 2, 2, 1], [1, 2, 3, 4, 5]]), np.asarray([5, 4]))
    (array([[1, 2, 1, 0],
           [1, 2, 3, 4]]), array([3, 4]))
    """
    del name
    if holds_tensors(labels, seq_length):
        tf = required("tensorflow", "tensorflow", "a TensorFlow tensor")
        labels, seq_length = tf.convert_to_tensor(labels), tf.convert_to_tensor(seq_length)
        merged, lengths = on_host(
            _collapsed, (labels, seq_length), (labels.dtype, seq_length.dtype)
        )
        merged.set_shape([labels.shape[0], None])
        lengths.set_shape(seq_length.shape)
        return merged, lengths
    return in_library_of(labels, _collapsed(labels, seq_length))


def _collapsed(labels: Any, seq_length: Any) -> tuple[Any, Any]:
    """Check what comes, and merge equal neighbours."""
    host, lengths = _host_labels(labels), to_host("seq_length", seq_length)
    if lengths.shape != host.shape[:1]:
        refuse("seq_length", f"have shape {host.shape[:1]}", shape_of(lengths))
    if lengths.size:
        check_integer_dtype("seq_length", lengths)
    for sequence, length in enumerate(lengths.tolist()):
        if not 0 <= length <= host.shape[1]:
            msg = (
                f"seq_length[{sequence}] is {length}: expected 0 to {host.shape[1]}, the number of "
                f"label positions"
            )
            raise CTCInputError(msg, argument="seq_length", sequence=sequence, value=length)
    return collapsed(host, lengths)


class _Solver(NamedTuple):
    """What computes a loss, and a loss with its gradient, from arguments as ctcx takes them."""

    loss: Callable[..., Array]
    loss_and_grad: Callable[..., Any]


_CTC = _Solver(_ctc_loss, _ctc_loss_and_grad)
_LEAKY = _Solver(lambda *args, **options: leaky(*args, **options)[0], leaky)
_UNMERGED = _Solver(lambda *args, **options: unmerged(*args, **options)[0], unmerged)


def _loss(
    logits: Any,
    parts: tuple[Any, ...],
    label_length: Any,
    logit_length: Any,
    *,
    form: Callable[..., tuple[Any, Any]],
    solve: _Solver,
    time_major: bool,
    name: str | None,
    terms: Mapping[str, str],
    **options: Any,
) -> Any:
    """Loss of labels that ``form(parts, label_length)`` makes padded, with their lengths."""

    def run(function: Callable[..., Any], logits: Any, *others: Any) -> Any:
        label_length, logit_length, *parts = others
        with in_terms(terms):
            labels, lengths = form(parts, label_length)
            return function(logits, labels, logit_length, lengths, time_major=time_major, **options)

    logits = as_logits(logits, terms, time_major=time_major)
    others = (label_length, logit_length, *parts)
    if holds_tensors(logits, *others):
        return differentiable(
            lambda *arrays: tuple(run(solve.loss_and_grad, *arrays)[:2]),
            logits,
            others,
            time_major=time_major,
            name=name,
        )
    return run(solve.loss, logits, *others)


def as_logits(logits: Any, terms: Mapping[str, str], *, time_major: bool) -> Any:
    """Take an array or tensor as it is; a list becomes a tensor.

    Raises
    ------
    CTCInputError
        It is neither, or has not three axes.
    """
    name = terms.get("logits", "logits")
    if isinstance(logits, (list, tuple)):  # which have no library, and are tensors to TensorFlow
        tf = required("tensorflow", "tensorflow", f"a list for {name}")
        with in_terms(terms):
            logits = [plain("logits", part) for part in logits]
        try:
            logits = tf.convert_to_tensor(logits)
        except (TypeError, ValueError) as error:
            refuse(name, "be an array, or a list that makes one", f"a list: {error}")
    with in_terms(terms):
        logits = plain("logits", logits)
    _check_rank(name, logits, time_major=time_major)
    return logits


def _as_given(parts: Sequence[Any], lengths: Any) -> tuple[Any, Any]:
    return parts[0], lengths


def _as_dense(parts: Sequence[Any], _: None, *, collapse: bool = False) -> tuple[Any, Any]:
    return dense(Sparse(*(to_host("labels", part) for part in parts)), collapse=collapse)


def _refuse_ragged(labels: Any) -> None:
    if is_ragged(labels):
        refuse(
            "labels",
            "be dense or sparse: pass labels.to_sparse(), or labels.to_tensor() with "
            "label_length=labels.row_lengths()",
            "a RaggedTensor",
        )


def _check_rank(argument: str, logits: Any, *, time_major: bool) -> None:
    rank = getattr(getattr(logits, "shape", None), "rank", None)  # TensorFlow's may be unknown
    if rank is None and is_array(logits):
        rank = logits.ndim
    if rank not in {None, 3}:
        shape = "(T, N, C), frames first," if time_major else "(N, T, C)"
        refuse(argument, f"have shape {shape} for this call", shape_of(logits))


def _host_labels(labels: Any) -> Any:
    host = to_host("labels", labels)
    if host.ndim != 2 or host.dtype.kind not in "iu":
        refuse("labels", "be integers (N, S)", f"{shape_of(host)} of {host.dtype}")
    return host


def in_library_of(labels: Any, results: tuple[Any, ...]) -> tuple[Any, ...]:
    """NumPy arrays in the library and on the device of ``labels``."""
    if not is_array(labels) or is_numpy(labels):
        return results
    xp, device = namespace_of(labels), device_of(labels)
    return tuple(xp.asarray(result, device=device) for result in results)
