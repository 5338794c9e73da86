"""Memory that kernels work in: kept between calls, and used by one call at a time."""

from __future__ import annotations

from operator import lt
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ctcx_numba._entries import room_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctcx_numba._entries import Batch

__all__ = ["Scratch", "forget", "give_back", "name_of", "sizes_of", "take"]

_Sizes: TypeAlias = "tuple[int, ...]"

_ALIGNMENT = 64
_MOST_KEPT = 2**24
"""Bytes of a scratch that is kept. Larger ones are for rare, very long sequences."""

_EXPONENTS = {"float32": np.int32, "float64": np.int64}


Scratch: TypeAlias = "tuple[NDArray[Any], ...]"
"""Mantissas, exponents, classes, sums, rows of softmax: of one half of a sequence."""

# What is on a shelf, by dtype, with the sizes of its parts. Threads need no lock for these: lists
# append and pop in one step.
_shelves: dict[str, list[tuple[_Sizes, Scratch]]] = {"float32": [], "float64": []}


def name_of(reals: NDArray[Any]) -> str:
    """``"float32"`` or ``"float64"``; ``dtype.name`` takes microseconds."""
    return "float64" if reals.itemsize == 8 else "float32"


def sizes_of(batch: Batch, losses: NDArray[Any]) -> _Sizes:
    """Elements of each of the arrays, so that each half of a batch has room."""
    m, *others = room_of(batch, _ALIGNMENT // losses.itemsize)
    return (m, m, *others)


def take(dtype: str, needed: _Sizes) -> Scratch:
    """Scratch of at least such sizes."""
    try:
        sizes, scratch = _shelves[dtype].pop()
    except IndexError:
        return _new(dtype, needed)
    if sizes != needed and any(map(lt, sizes, needed)):
        # No part smaller than it was, so that it soon fits all shapes of a program.
        return _new(dtype, tuple(map(max, sizes, needed)))
    return scratch


def give_back(scratch: Scratch) -> None:
    """Keep it for the next call."""
    if sum(part.nbytes for part in scratch) <= _MOST_KEPT:
        sizes = tuple(part.size for part in scratch)
        _shelves[name_of(scratch[0])].append((sizes, scratch))


def forget() -> None:
    """Free what is kept."""
    for shelf in _shelves.values():
        shelf.clear()


def _new(dtype: str, sizes: _Sizes) -> Scratch:
    kinds = (np.dtype(dtype), _EXPONENTS[dtype], np.int32, np.float64, np.dtype(dtype))
    return tuple(_aligned(size, kind) for size, kind in zip(sizes, kinds, strict=True))


def _aligned(size: int, kind: Any) -> NDArray[Any]:
    """Uninitialised array that begins at a multiple of a vector."""
    length = size * np.dtype(kind).itemsize
    room = np.empty(length + _ALIGNMENT, dtype=np.uint8)
    first = -room.ctypes.data % _ALIGNMENT
    return room[first : first + length].view(kind)
