"""Forms of labels: padded indices, ragged lists, one-hot."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import array_api_compat
import numpy as np

from ctcx._arrays import index_dtype, is_array
from ctcx._errors import CTCInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ctcx._typing import Array

__all__ = ["from_lists", "labels_from_one_hot", "labels_to_one_hot", "min_frames", "resolve_blank"]


def resolve_blank(blank: int, num_classes: int) -> int:
    """Index of the blank in ``range(num_classes)``; negative ones count from the end.

    Raises
    ------
    CTCInputError
        Not an integer, or out of range.
    """
    if isinstance(blank, bool):
        index = None
    else:
        try:
            index = operator.index(blank)
        except TypeError:
            index = None
    if index is None:
        msg = f"blank must be an int, got {blank!r} of type {type(blank).__name__}"
        raise CTCInputError(msg, argument="blank", value=blank)
    if not -num_classes <= index < num_classes:
        msg = (
            f"blank={index} is out of range for {num_classes} classes: "
            f"expected {-num_classes} to {num_classes - 1} (negative ones count from the end)"
        )
        raise CTCInputError(msg, argument="blank", value=index)
    return index % num_classes


def from_lists(rows: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pad ragged label lists: ``(labels (N, S), label_lengths (N,))``, S the longest, padding 0.

    Raises
    ------
    CTCInputError
        A row that is no list, or a label that is no integer; names sequence and position.
    """
    checked = [_row(sequence, row) for sequence, row in enumerate(rows)]
    lengths = np.asarray([len(row) for row in checked], dtype=np.int64)
    labels = np.zeros((len(checked), max(lengths, default=0)), dtype=np.int64)
    for sequence, row in enumerate(checked):
        labels[sequence, : len(row)] = row
    return labels, lengths


def _row(sequence: int, row: Any) -> list[int]:
    if isinstance(row, (str, bytes)) or not hasattr(row, "__iter__"):
        msg = (
            f"labels[{sequence}] must be a list of ints, got {row!r}: for several sequences give "
            f"a list of lists, one list a sequence"
        )
        raise CTCInputError(msg, argument="labels", sequence=sequence, value=row)
    if is_array(row) and getattr(row, "ndim", 1) != 1:
        msg = f"labels[{sequence}] must have one dimension, got shape {tuple(row.shape)}"
        raise CTCInputError(msg, argument="labels", sequence=sequence)
    labels = []
    for position, label in enumerate(row):
        try:
            if isinstance(label, (bool, np.bool_)):
                raise TypeError
            index = operator.index(label)
            labels.append(int(np.int64(index)))
        except (TypeError, OverflowError):
            msg = (
                f"labels[{sequence}][{position}] is {label!r} of type {type(label).__name__}: "
                f"expected an integer class index"
            )
            raise CTCInputError(
                msg, argument="labels", sequence=sequence, position=position, value=label
            ) from None
    return labels


def _padded(labels: Any, label_lengths: Any) -> tuple[Array, Array, bool]:
    """Labels (N, S) and lengths (N,) in the index dtype, and whether it was one sequence (S,)."""
    single = False
    if not is_array(labels):
        rows = list(labels)
        single = not rows or not hasattr(rows[0], "__iter__")
        labels, own_lengths = from_lists([rows] if single else rows)
        label_lengths = own_lengths if label_lengths is None else label_lengths
    xp = array_api_compat.array_namespace(labels)
    if not xp.isdtype(labels.dtype, "integral"):
        msg = f"labels must have an integer dtype, got {labels.dtype}"
        raise CTCInputError(msg, argument="labels")
    if labels.ndim == 1:
        single, labels = True, labels[None, :]
    if labels.ndim != 2:
        msg = f"labels must have shape (N, S) or (S,), got {tuple(labels.shape)}"
        raise CTCInputError(msg, argument="labels")
    device = array_api_compat.device(labels)
    dtype = index_dtype(xp, device)
    if label_lengths is None:
        label_lengths = xp.full((labels.shape[0],), labels.shape[1], dtype=dtype, device=device)
    elif not is_array(label_lengths) or array_api_compat.is_numpy_array(label_lengths):
        label_lengths = xp.asarray(np.asarray(label_lengths).tolist(), dtype=dtype, device=device)
    label_lengths = xp.astype(xp.reshape(label_lengths, (-1,)), dtype)
    return xp.astype(labels, dtype, copy=False), label_lengths, single


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
        Labels that aren't integers, or of the wrong number of dimensions.

    Examples
    --------
    >>> import ctcx
    >>> ctcx.min_frames([[1, 2, 3], [1, 1, 1]])
    array([3, 5])
    """
    labels, label_lengths, single = _padded(labels, label_lengths)
    xp = array_api_compat.array_namespace(labels)
    device, dtype, width = array_api_compat.device(labels), labels.dtype, labels.shape[1]
    repeats = labels[:, 1:] == labels[:, :-1]
    counted = (
        xp.arange(1, max(1, width), dtype=dtype, device=device)[None, :] < label_lengths[:, None]
    )
    frames = label_lengths + xp.sum(xp.astype(repeats & counted, dtype), axis=1, dtype=dtype)
    return frames[0, ...] if single else frames


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
        Wrong number of dimensions, or ``blank`` out of range.

    Examples
    --------
    >>> import numpy as np, ctcx
    >>> labels, lengths = ctcx.labels_from_one_hot(np.eye(4)[[0, 3, 1, 1]], blank=-1)
    >>> labels, int(lengths)
    (array([0, 1, 1, 3]), 3)
    """
    if not is_array(one_hot) or one_hot.ndim not in (2, 3) or one_hot.shape[-1] == 0:
        shape = f"shape {tuple(one_hot.shape)}" if is_array(one_hot) else type(one_hot).__name__
        msg = f"one_hot must be an array (N, R, C) or (R, C) with C >= 1, got {shape}"
        raise CTCInputError(msg, argument="one_hot")
    xp = array_api_compat.array_namespace(one_hot)
    blank = resolve_blank(blank, one_hot.shape[-1])
    single = one_hot.ndim == 2
    if single:
        one_hot = one_hot[None, ...]
    if xp.isdtype(one_hot.dtype, "bool"):
        one_hot = xp.astype(one_hot, xp.int8)
    device = array_api_compat.device(one_hot)
    dtype = index_dtype(xp, device)
    rows = one_hot.shape[1]
    if rows == 0:
        found = xp.zeros(one_hot.shape[:2], dtype=dtype, device=device)
        lengths = xp.zeros(one_hot.shape[:1], dtype=dtype, device=device)
    else:
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
        found = xp.where(place[None, :] <= lengths[:, None], found, padding)
    return (found[0, ...], lengths[0, ...]) if single else (found, lengths)


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
        More labels than frames, a label or ``blank`` out of range.

    Examples
    --------
    >>> import ctcx
    >>> ctcx.labels_to_one_hot([0, 1], num_classes=3, num_frames=3, blank=-1)
    array([[1., 0., 0.],
           [0., 1., 0.],
           [0., 0., 1.]])
    """
    blank = resolve_blank(blank, num_classes)
    labels, label_lengths, single = _padded(labels, label_lengths)
    xp = array_api_compat.array_namespace(labels)
    device, dtype, (count, width) = array_api_compat.device(labels), labels.dtype, labels.shape
    _check_for_one_hot(labels, label_lengths, num_classes, num_frames)
    keep = min(width, num_frames)
    padding = xp.full((count, num_frames - keep), blank, dtype=dtype, device=device)
    padded = xp.concat([labels[:, :keep], padding], axis=1)
    place = xp.arange(0, num_frames, dtype=dtype, device=device)
    padded = xp.where(place[None, :] < label_lengths[:, None], padded, xp.full_like(padded, blank))
    every = xp.arange(0, num_classes, dtype=dtype, device=device)
    floating = xp.__array_namespace_info__().default_dtypes(device=device)["real floating"]
    one_hot = xp.astype(padded[:, :, None] == every[None, None, :], floating)
    return one_hot[0, ...] if single else one_hot


def _check_for_one_hot(labels: Array, lengths: Array, num_classes: int, num_frames: int) -> None:
    """These are small and on their way to people, so they are read and checked one by one."""
    for sequence in range(labels.shape[0]):
        length = int(lengths[sequence])
        if length > num_frames:
            msg = (
                f"sequence {sequence} has {length} labels and only {num_frames} frames "
                f"(num_frames) to write them into"
            )
            raise CTCInputError(msg, argument="num_frames", sequence=sequence, value=num_frames)
        for position in range(length):
            label = int(labels[sequence, position])
            if not 0 <= label < num_classes:
                msg = (
                    f"labels[{sequence}, {position}] is {label}: expected 0 to {num_classes - 1} "
                    f"for num_classes={num_classes}"
                )
                raise CTCInputError(
                    msg, argument="labels", sequence=sequence, position=position, value=label
                )
