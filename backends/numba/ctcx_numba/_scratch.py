"""Memory that kernels work in: kept between calls, and used by one call at a time."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ctcx_numba._half import scratch_sizes

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Scratch", "forget", "give_back", "take"]

_ALIGNMENT = 64
_MULTIPLE = 2 * _ALIGNMENT  # elements, so that a half of them is aligned too
_MOST_KEPT = 2**25
"""Bytes of a scratch that is kept. Larger ones are for rare, very long sequences."""

_ROWS_TOGETHER = 4096
"""Logits that the loss alone keeps the softmax of."""

_EXPONENTS = {"float32": np.int32, "float64": np.int64}


class Scratch(NamedTuple):
    """Mantissas, exponents, classes, sums, rows of softmax: of one half of a sequence, or two."""

    m: NDArray[Any]
    e: NDArray[Any]
    ids: NDArray[np.int32]
    sums: NDArray[np.float64]
    rows: NDArray[Any]


# Threads need no lock for these: lists append and pop in one step.
_shelves: dict[str, list[Scratch]] = {"float32": [], "float64": []}


def take(dtype: str, frames: int, classes: int, labels: int, halves: int) -> Scratch:
    """Scratch for so many halves of sequences of up to so many frames, classes and labels."""
    sizes = _sizes(dtype, frames, classes, labels, halves)
    try:
        scratch = _shelves[dtype].pop()
    except IndexError:
        return _new(dtype, sizes)
    if any(part.size < size for part, size in zip(scratch, sizes, strict=True)):
        # No part smaller than it was, so that it soon fits all shapes of a program.
        largest = (max(part.size, size) for part, size in zip(scratch, sizes, strict=True))
        return _new(dtype, tuple(largest))
    return scratch


def give_back(scratch: Scratch) -> None:
    """Keep it for the next call."""
    if sum(part.nbytes for part in scratch) <= _MOST_KEPT:
        _shelves[scratch.m.dtype.name].append(scratch)


def forget() -> None:
    """Free what is kept."""
    for shelf in _shelves.values():
        shelf.clear()


@lru_cache(maxsize=256)
def _sizes(dtype: str, frames: int, classes: int, labels: int, halves: int) -> tuple[int, ...]:
    lanes = _ALIGNMENT // np.dtype(dtype).itemsize
    m, ids, sums = scratch_sizes(-(-frames // 2), classes, labels, lanes)
    rows = max(_ROWS_TOGETHER, classes)
    return tuple(-(-halves * size // _MULTIPLE) * _MULTIPLE for size in (m, m, ids, sums, rows))


def _new(dtype: str, sizes: tuple[int, ...]) -> Scratch:
    kinds = (np.dtype(dtype), _EXPONENTS[dtype], np.int32, np.float64, np.dtype(dtype))
    return Scratch(*(_aligned(size, kind) for size, kind in zip(sizes, kinds, strict=True)))


def _aligned(size: int, kind: Any) -> NDArray[Any]:
    """Uninitialised array that begins at a multiple of a vector."""
    length = size * np.dtype(kind).itemsize
    room = np.empty(length + _ALIGNMENT, dtype=np.uint8)
    first = -room.ctypes.data % _ALIGNMENT
    return room[first : first + length].view(kind)
