"""Sparse labels, as TensorFlow has them, and what TensorFlow does to label sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ctcx.compat._shared.argument_names import refuse, shape_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Sparse", "as_sparse", "collapsed", "dense", "to_sparse", "unique_labels"]


class Sparse(NamedTuple):
    """Parts of a sparse tensor: indices (M, 2), values (M,), shape (2,)."""

    indices: Any
    values: Any
    shape: Any


def as_sparse(labels: Any) -> Sparse | None:
    """Parts of a SparseTensor, or of a triple of arrays or lists; None for anything else."""
    if all(hasattr(labels, name) for name in ("indices", "values", "dense_shape")):
        return Sparse(labels.indices, labels.values, labels.dense_shape)
    if isinstance(labels, tuple) and len(labels) == len(Sparse._fields):
        return Sparse(*labels)
    return None


def dense(sparse: Sparse, *, collapse: bool = False) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return padded labels (N, S) and their lengths (N,), in the order of the values.

    Only the row of an index counts, as for TensorFlow. ``collapse`` merges equal neighbours.

    Raises
    ------
    CTCInputError
        Parts whose shapes don't go together, or a row out of range.
    """
    indices, values = np.asarray(sparse.indices), np.asarray(sparse.values)
    shape = np.asarray(sparse.shape)
    if values.ndim != 1 or indices.shape != (values.shape[0], 2) or shape.shape != (2,):
        refuse(
            "labels",
            "be sparse with indices (M, 2), values (M,) and shape (2,)",
            f"{shape_of(indices)}, {shape_of(values)} and {shape_of(shape)}",
        )
    if values.dtype.kind not in "iu":
        refuse("labels", "have an integer dtype", values.dtype)
    count = int(shape[0])
    rows = indices[:, 0].astype(np.int64)
    if rows.size and not (rows.min() >= 0 and rows.max() < count):
        refuse("labels", f"have rows from 0 to {count - 1}", f"{rows.tolist()}")
    order = np.argsort(rows, kind="stable")
    rows, values = rows[order], values[order]
    lengths = np.bincount(rows, minlength=count).astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    labels = np.zeros((count, int(lengths.max(initial=0))), dtype=values.dtype)
    labels[rows, np.arange(rows.size) - starts[rows]] = values
    return collapsed(labels, lengths) if collapse else (labels, lengths)


def to_sparse(labels: NDArray[Any], lengths: NDArray[Any]) -> Sparse:
    """Sparse labels, all int64, of padded ones (N, S) and their lengths."""
    rows, columns = np.nonzero(np.arange(labels.shape[1]) < lengths[:, None])
    shape = np.asarray([labels.shape[0], lengths.max(initial=0)], dtype=np.int64)
    indices = np.stack([rows, columns], axis=1).astype(np.int64)
    return Sparse(indices, labels[rows, columns].astype(np.int64), shape)


def collapsed(labels: NDArray[Any], lengths: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Equal neighbours merged: labels (N, S'), S' the longest, padded with 0, and new lengths."""
    kept = np.ones(labels.shape, dtype=bool)
    kept[:, 1:] = labels[:, 1:] != labels[:, :-1]
    kept &= np.arange(labels.shape[1]) < lengths[:, None]
    counts = kept.sum(axis=1)
    merged = np.zeros((labels.shape[0], int(counts.max(initial=0))), dtype=labels.dtype)
    merged[np.arange(merged.shape[1]) < counts[:, None]] = labels[kept]
    return merged, counts.astype(lengths.dtype)


def unique_labels(labels: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Each row's labels once, in order of appearance, padded with 0; and where each one went."""
    same = labels[:, :, None] == labels[:, None, :]
    first = same.argmax(axis=2)
    new = first == np.arange(labels.shape[1])
    places = np.take_along_axis(new.cumsum(axis=1) - 1, first, axis=1)
    unique = np.zeros(labels.shape, dtype=np.int64)
    np.put_along_axis(unique, places, labels.astype(np.int64), axis=1)
    return unique, places.astype(np.int32)
