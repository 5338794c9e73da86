"""Forms of labels: padded indices, ragged lists, one-hot."""

from __future__ import annotations

import operator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias, overload

import numpy as np

from ctcx._arrays.facts import (
    any_traced,
    device_name,
    device_of,
    first_true,
    index_dtype,
    is_array,
    is_elsewhere,
    is_numpy,
    is_undecided,
    library_name,
    looked_into,
    namespace_of,
)
from ctcx._arrays.jax_types import without_jax_types
from ctcx._arrays.tensor_forms import UNREADABLE, forms_of, is_torch_recording
from ctcx._errors import CTCInputError, short_repr
from ctcx._inputs.host_data import (
    as_integer,
    check_integer_dtype,
    check_sizes,
    host_lengths,
    integers,
    is_list,
    plain,
    to_lists,
    type_name,
    what_to_pass,
    whole_number,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ctcx._typing import Array, ArrayModule, ArrayT

    Integers: TypeAlias = NDArray[np.int64]
    HostLabels: TypeAlias = Sequence[int] | Sequence[Sequence[int]] | NDArray[np.integer[Any]]

__all__ = ["from_lists", "labels_from_one_hot", "labels_to_one_hot", "min_frames", "resolve_blank"]


def resolve_blank(blank: object, num_classes: int) -> int:
    """Index of the blank in ``range(num_classes)``; negative ones count from the end.

    Raises CTCInputError: not an integer, or out of range.
    """
    index = as_integer(blank)
    if index is None:
        msg = f"blank must be an int, got {short_repr(blank)} of type {type_name(blank)}"
        if isinstance(blank, int) and not isinstance(blank, bool):
            msg = f"blank={short_repr(blank)} is out of range{_range(num_classes)}"
        raise CTCInputError(msg, argument="blank", value=blank)
    if is_undecided(num_classes):
        if index >= 0:
            return index
        msg = (
            f"blank={index} counts from the end, and the number of classes is undecided "
            f"({num_classes}): pass the class itself"
        )
        raise CTCInputError(msg, argument="blank", value=index)
    if not -num_classes <= index < num_classes:
        msg = f"blank={index} is out of range{_range(num_classes)}"
        raise CTCInputError(msg, argument="blank", value=index)
    return index % num_classes


def _range(num_classes: int) -> str:
    if is_undecided(num_classes):
        return ": expected an int of at most 64 bits"
    return (
        f" for {num_classes} classes: expected {-num_classes} to {num_classes - 1} (negative ones "
        f"count from the end)"
    )


def from_lists(rows: Sequence[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pad ragged label lists: ``(labels (N, S), label_lengths (N,))``, S the longest, padding -1.

    -1 is no class, so that no other lengths can make labels of the padding.

    Raises CTCInputError: a row that is no list, or a label that is no integer; names sequence and
    position.
    """
    checked = [_row(sequence, row) for sequence, row in enumerate(rows)]
    lengths = np.asarray([len(row) for row in checked], dtype=np.int64)
    labels = np.full((len(checked), max(lengths, default=0)), -1, dtype=np.int64)
    for sequence, row in enumerate(checked):
        labels[sequence, : len(row)] = row
    return labels, lengths


def _row(sequence: int, row: Any) -> NDArray[np.int64]:
    if is_list(row):
        return integers("labels", row, sequence)
    argument = f"labels[{sequence}]"
    try:
        if not is_array(row):
            msg = (
                f"{argument} must be a list of integers, for labels are an array or a list of "
                f"lists, one a sequence; got {short_repr(row)} of type {type_name(row)}"
                f"{what_to_pass(row)}"
            )
            raise CTCInputError(msg, argument=argument, value=row)
        row = plain(argument, row)
        if row.ndim != 1:
            msg = f"{argument} must have one dimension, got shape {tuple(row.shape)}"
            raise CTCInputError(msg, argument=argument)
        check_integer_dtype(argument, row)
    except CTCInputError as error:
        raise CTCInputError(
            str(error), argument="labels", sequence=sequence, value=error.value
        ) from None
    return integers("labels", to_lists(row), sequence)


class _Padded(NamedTuple):
    """Labels (N, S) and lengths (N,) in the index dtype, and whether it was one sequence (S,)."""

    labels: Array
    lengths: Array
    single: bool


def _padded(
    labels: Any, label_lengths: Any, *, classes: int | None = None, blank: int | None = None
) -> _Padded:
    """Check labels and lengths as far as can be, and bring them into one form.

    Labels must be below ``classes`` and not be the ``blank``, where these are known.
    """
    labels = plain("labels", labels)
    single = False
    if not is_array(labels):
        if not is_list(labels):
            msg = (
                f"labels must be an array of integers or a list of lists, got "
                f"{type_name(labels)}{what_to_pass(labels)}"
            )
            raise CTCInputError(msg, argument="labels", value=labels)
        single = not len(labels) or not _is_row(labels[0])
        labels, own_lengths = from_lists([labels] if single else labels)
        label_lengths = own_lengths if label_lengths is None else label_lengths
    check_integer_dtype("labels", labels)
    if labels.ndim == 1:
        single, labels = True, labels[None, :]
    if labels.ndim != 2:
        msg = f"labels must have shape (N, S) or (S,), got {tuple(labels.shape)}"
        raise CTCInputError(msg, argument="labels")
    check_sizes("labels", labels)
    xp, device = namespace_of(labels), device_of(labels)
    dtype = index_dtype(xp, device)
    count, width = labels.shape
    if label_lengths is None:
        lengths = xp.full((count,), width, dtype=dtype, device=device)
    else:
        lengths = _lengths(label_lengths, labels, single=single)
    found = xp.astype(labels, dtype, copy=False)
    if _is_readable(labels, lengths):
        _check_values(labels, found, lengths, classes, blank)
    if is_numpy(lengths) and not is_numpy(labels):
        lengths = xp.asarray(lengths.tolist(), dtype=dtype, device=device)
    return _Padded(found, xp.astype(lengths, dtype, copy=False), single)


def _is_readable(*arrays: Array) -> bool:
    """Whether values can be looked at, which a tracer has none of."""
    if any_traced(*arrays):
        return False
    tensors = [array for array in arrays if library_name(array) == "torch"]
    return not (tensors and (is_torch_recording(tensors[0]) or forms_of(*tensors) & UNREADABLE))


def _is_row(value: Any) -> bool:
    return hasattr(value, "__iter__") and getattr(value, "ndim", 1) > 0


def _lengths(given: Any, labels: Array, *, single: bool) -> Array:
    given = plain("label_lengths", given)
    if not is_array(given):
        given = host_lengths("label_lengths", given)
    check_integer_dtype("label_lengths", given)
    if given.ndim == 0 and single:
        given = given[None]
    count = labels.shape[0]
    if tuple(given.shape) != (count,):
        expected = "an int or (1,)" if single else f"({count},), one for each sequence"
        msg = f"label_lengths must have shape {expected}; got {tuple(given.shape)}"
        raise CTCInputError(msg, argument="label_lengths")
    if is_numpy(given):
        return given
    here, there = (f"{library_name(a)} on {device_name(a)}" for a in (given, labels))
    if library_name(given) != library_name(labels) or is_elsewhere(
        device_name(given), device_name(labels)
    ):
        msg = (
            f"label_lengths is an array of {here}, but the labels are of {there}: move it there, "
            f"or pass a NumPy array or a list"
        )
        raise CTCInputError(msg, argument="label_lengths")
    return given


def _check_values(
    labels: Array, narrowed: Array, lengths: Array, classes: int | None, blank: int | None
) -> None:
    """Refuse lengths out of range, and labels that are out of range or the blank."""
    xp, width = namespace_of(narrowed), labels.shape[1]
    counts = to_lists(lengths)
    for sequence, length in enumerate(counts):
        if not 0 <= length <= width:
            msg = (
                f"label_lengths[{sequence}] is {length}: expected 0 to {width}, the number of "
                f"label positions"
            )
            raise CTCInputError(msg, argument="label_lengths", sequence=sequence, value=length)
    wrong = narrowed < 0  # which unsigned ones of 64 bits can become, too
    if classes is not None:
        wrong = wrong | (narrowed >= classes)
    if blank is not None:
        wrong = wrong | (narrowed == blank)
    if not bool(xp.any(wrong)):
        return
    wrong, labels = looked_into(wrong), looked_into(labels)
    for sequence, length in enumerate(counts):
        for position in range(length):
            if bool(wrong[sequence, position]):
                _refuse_label(int(labels[sequence, position]), sequence, position, classes)


def _refuse_label(label: int, sequence: int, position: int, classes: int | None) -> NoReturn:
    if label < 0 or classes is None or label >= classes:
        problem = "expected a class"
        if classes is not None:
            problem = f"expected 0 to {classes - 1} for num_classes={classes}"
        if label < 0:
            problem += "; padding belongs past the sequence's label_lengths (-1 is that of lists)"
    else:
        problem = (
            "that is the blank, which no label may be; padding belongs past the sequence's "
            "label_lengths"
        )
    msg = f"labels[{sequence}, {position}] is {label} (sequence {sequence}, position {position}): "
    raise CTCInputError(
        msg + problem, argument="labels", sequence=sequence, position=position, value=label
    )


@overload
def min_frames(labels: HostLabels, label_lengths: Any = None) -> Integers: ...
@overload
def min_frames(labels: ArrayT, label_lengths: Any = None) -> ArrayT: ...
def min_frames(
    labels: Array | Sequence[Sequence[int]], label_lengths: Array | None = None
) -> Array:
    """Fewest frames that can emit the labels: their number plus that of equal neighbours.

    Two equal labels in a row need a blank between them, or CTC would merge them (Graves et al.
    2006, section 3.1). A sequence with fewer frames is infeasible: its loss is +inf.

    Parameters
    ----------
    labels : array of int (N, S) or list of lists
        Padded labels, or one list a sequence. (S,) or a flat list for one sequence.
    label_lengths : array of int (N,), optional
        Labels used of each row; default: all. An int for one sequence.

    Returns
    -------
    array of int (N,)
        In the library of ``labels`` (NumPy for lists); a 0-d array for one sequence.

    Raises
    ------
    CTCInputError
        Labels or lengths that aren't integers, of the wrong shape, negative, or, for lengths, over
        S. Names argument, sequence, position and value. Values are checked where they can be read.

    Examples
    --------
    >>> import ctcx
    >>> ctcx.min_frames([[1, 2, 3], [1, 1, 1]])
    array([3, 5])
    """
    labels, label_lengths, single = _padded(labels, label_lengths)
    xp = namespace_of(labels)
    device, dtype, width = device_of(labels), labels.dtype, labels.shape[1]

    def counted(labels: Array, label_lengths: Array) -> Array:
        repeats = labels[:, 1:] == labels[:, :-1]
        place = xp.arange(1, max(1, width), dtype=dtype, device=device)
        repeats = repeats & (place[None, :] < label_lengths[:, None])
        return label_lengths + xp.sum(xp.astype(repeats, dtype), axis=1, dtype=dtype)

    frames: Array = without_jax_types(counted, (labels, label_lengths), 1)
    return frames[0, ...] if single else frames


@overload
def labels_from_one_hot(one_hot: NDArray[Any], *, blank: int) -> tuple[Integers, Integers]: ...
@overload
def labels_from_one_hot(one_hot: ArrayT, *, blank: int) -> tuple[ArrayT, ArrayT]: ...
def labels_from_one_hot(one_hot: Array, *, blank: int) -> tuple[Array, Array]:
    """Labels as indices, from one-hot rows in the shape of the logits (the TensorFlow.js form).

    Rows that are the blank, and rows of zeros, are padding wherever they stand; the order of the
    others is kept. A row's class is that of its largest element, so soft labels work too.

    Parameters
    ----------
    one_hot : array (N, R, C) or (R, C)
        R rows, at least as many as labels.
    blank : int
        Index of the blank class; negative ones count from the end.

    Returns
    -------
    labels : array of int (N, R)
        Padded with ``blank``. (R,) for one sequence.
    label_lengths : array of int (N,)
        0-d for one sequence.

    Raises
    ------
    CTCInputError
        Wrong dtype or number of dimensions, ``blank`` out of range, or NaN.

    Examples
    --------
    >>> import numpy as np, ctcx
    >>> labels, lengths = ctcx.labels_from_one_hot(np.eye(4)[[0, 3, 1, 1]], blank=-1)
    >>> labels, int(lengths)
    (array([0, 1, 1, 3]), 3)
    """
    one_hot = plain("one_hot", one_hot)
    if not is_array(one_hot) or one_hot.ndim not in (2, 3) or one_hot.shape[-1] == 0:
        kind = type_name(one_hot) + what_to_pass(one_hot, or_list=False)
        shape = f"shape {tuple(one_hot.shape)}" if is_array(one_hot) else kind
        msg = f"one_hot must be an array (N, R, C) or (R, C) with C >= 1, got {shape}"
        raise CTCInputError(msg, argument="one_hot")
    xp = namespace_of(one_hot)
    _check_one_hot(one_hot, xp)
    blank = resolve_blank(blank, one_hot.shape[-1])
    single = one_hot.ndim == 2
    if single:
        one_hot = one_hot[None, ...]
    if xp.isdtype(one_hot.dtype, "bool"):
        one_hot = xp.astype(one_hot, xp.int8)
    read = partial(_indices_and_lengths, blank=blank, xp=xp)
    found, lengths = without_jax_types(read, (one_hot,), (2, 1))
    return (found[0, ...], lengths[0, ...]) if single else (found, lengths)


def _indices_and_lengths(one_hot: Array, *, blank: int, xp: ArrayModule) -> tuple[Array, Array]:
    """Labels (N, R), padded with the blank, and their number (N,), of rows (N, R, C)."""
    device = device_of(one_hot)
    dtype = index_dtype(xp, device)
    rows = one_hot.shape[1]
    if rows == 0:
        found = xp.zeros(one_hot.shape[:2], dtype=dtype, device=device)
        return found, xp.zeros(one_hot.shape[:1], dtype=dtype, device=device)
    top = xp.max(one_hot, axis=2, keepdims=True)
    every = xp.arange(0, one_hot.shape[2], dtype=dtype, device=device)
    # The first class that reaches the top; argmax would give another integer dtype.
    classes = xp.min(xp.where(one_hot == top, every, one_hot.shape[2] - 1), axis=2)
    is_label = (classes != blank) & (top[:, :, 0] > 0)
    counted = xp.astype(is_label, dtype)
    lengths = xp.sum(counted, axis=1, dtype=dtype)
    # Label k is the class of the row where the running count of labels becomes k + 1.
    running = xp.cumulative_sum(counted, axis=1, dtype=dtype)
    place = xp.arange(1, rows + 1, dtype=dtype, device=device)
    chosen = (running[:, None, :] == place[None, :, None]) & is_label[:, None, :]
    found = xp.sum(xp.astype(chosen, dtype) * classes[:, None, :], axis=2, dtype=dtype)
    padding = xp.full_like(found, blank)
    return xp.where(place[None, :] <= lengths[:, None], found, padding), lengths


def _check_one_hot(one_hot: Array, xp: ArrayModule) -> None:
    if is_numpy(one_hot):
        numbers = one_hot.dtype.kind in "biuf"
    else:
        numbers = xp.isdtype(one_hot.dtype, ("bool", "integral", "real floating"))
    if not numbers:
        msg = f"one_hot must be of booleans or real numbers, got {one_hot.dtype}"
        raise CTCInputError(msg, argument="one_hot")
    if _is_readable(one_hot) and bool(xp.any(one_hot != one_hot)):  # noqa: PLR0124 - NaN alone
        values = one_hot if one_hot.ndim == 3 else one_hot[None, ...]
        bad = xp.any(values != values, axis=2)  # noqa: PLR0124
        first = first_true(bad, xp)
        sequence, row = divmod(first, values.shape[1])
        msg = f"one_hot has NaN in row {row} of sequence {sequence}: expected numbers"
        raise CTCInputError(
            msg, argument="one_hot", sequence=sequence, position=row, value=float("nan")
        )


@overload
def labels_to_one_hot(
    labels: HostLabels, label_lengths: Any = None, *, num_classes: int, num_frames: int, blank: int
) -> NDArray[np.float64]: ...
@overload
def labels_to_one_hot(
    labels: ArrayT, label_lengths: Any = None, *, num_classes: int, num_frames: int, blank: int
) -> ArrayT: ...
def labels_to_one_hot(
    labels: Array | Sequence[Sequence[int]],
    label_lengths: Array | None = None,
    *,
    num_classes: int,
    num_frames: int,
    blank: int,
) -> Array:
    """Labels as one-hot rows in the shape of the logits (the TensorFlow.js form).

    Parameters
    ----------
    labels : array of int (N, S) or list of lists
        (S,) for one sequence.
    label_lengths : array of int (N,), optional
        Labels used of each row; default: all.
    num_classes, num_frames : int
        C and T of the logits.
    blank : int
        Index of the blank class, which fills the rows after the labels; may be negative.

    Returns
    -------
    array (N, T, C)
        Of the library's default floating-point dtype; NumPy for lists. (T, C) for one sequence.

    Raises
    ------
    CTCInputError
        More labels than frames, a label out of range or equal to ``blank``, which is out of range
        itself, or whatever :func:`min_frames` refuses.

    Examples
    --------
    >>> import ctcx
    >>> ctcx.labels_to_one_hot([0, 1], num_classes=3, num_frames=3, blank=-1)
    array([[1., 0., 0.],
           [0., 1., 0.],
           [0., 0., 1.]])
    """
    for argument, size, least in (("num_classes", num_classes, 1), ("num_frames", num_frames, 0)):
        number = whole_number(size)
        if number is None or not least <= number < 2**31:
            msg = f"{argument} must be an int from {least} to 2147483647, got {short_repr(size)}"
            raise CTCInputError(msg, argument=argument, value=size)
    num_classes, num_frames = operator.index(num_classes), operator.index(num_frames)
    blank = resolve_blank(blank, num_classes)
    labels, label_lengths, single = _padded(labels, label_lengths, classes=num_classes, blank=blank)
    xp = namespace_of(labels)
    device, dtype, (count, width) = device_of(labels), labels.dtype, labels.shape
    for sequence, length in enumerate(to_lists(label_lengths) if _is_readable(labels) else ()):
        if length > num_frames:
            msg = (
                f"sequence {sequence} has {length} labels and only {num_frames} frames "
                f"(num_frames) to write them into"
            )
            raise CTCInputError(msg, argument="num_frames", sequence=sequence, value=num_frames)
    keep = min(width, num_frames)

    def written(labels: Array, label_lengths: Array) -> Array:
        padding = xp.full((count, num_frames - keep), blank, dtype=dtype, device=device)
        padded = xp.concat([labels[:, :keep], padding], axis=1)
        place = xp.arange(0, num_frames, dtype=dtype, device=device)
        is_label = place[None, :] < label_lengths[:, None]
        padded = xp.where(is_label, padded, xp.full_like(padded, blank))
        every = xp.arange(0, num_classes, dtype=dtype, device=device)
        floating = xp.__array_namespace_info__().default_dtypes(device=device)["real floating"]
        return xp.astype(padded[:, :, None] == every[None, None, :], floating)

    one_hot: Array = without_jax_types(written, (labels, label_lengths), 3)
    return one_hot[0, ...] if single else one_hot
