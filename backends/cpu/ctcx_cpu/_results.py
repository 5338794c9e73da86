"""Memory for results: aligned, in huge pages where the system has them, and used again.

Fresh memory is slow. The system maps it page by page, on first touch, and fills it with zeros: for
a gradient of some megabytes that takes as long as computing it. A training loop drops one gradient
and asks for the next of the same shape. So memory whose array and all views of it are gone is kept
for the next result, up to a limit.
"""

from __future__ import annotations

import math
import mmap
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

__all__ = [
    "KEPT_FROM",
    "MOST_KEPT",
    "empty",
    "empty_like",
    "forget",
    "has_huge_pages",
    "kept_bytes",
]

MOST_KEPT = 2**29
"""Bytes that are kept at most while no array uses them."""

KEPT_FROM = 2**18
"""Bytes below which NumPy's own memory is as fast."""

_HUGE_PAGE = 2**21
"""Bytes of a huge page on x86-64 and most Arm systems."""


class _Piece:
    """Memory from the system, and where in it an array may begin."""

    __slots__ = ("_mapped", "address", "size")

    def __init__(self, size: int) -> None:
        # Private: a forked child must not write into the parent's results.
        self._mapped = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.size = size
        page = mmap.PAGESIZE
        if size > _HUGE_PAGE and has_huge_pages():
            page = _HUGE_PAGE
            with suppress(OSError):  # a system without huge pages: slower, not wrong
                self._mapped.madvise(mmap.MADV_HUGEPAGE)
        first = np.frombuffer(self._mapped, dtype=np.uint8, count=1).ctypes.data
        self.address = -(-first // page) * page


# Lists are changed in one step each, so that threads and the garbage collector may do so any time.
_free: list[_Piece] = []


class _Lease:
    """Keeps a piece of memory until the last array that uses it is gone, then frees it."""

    __slots__ = ("__array_interface__", "_piece")

    def __init__(self, piece: _Piece, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._piece = piece
        self.__array_interface__ = {
            "shape": shape,
            "typestr": dtype.str,
            "data": (piece.address, False),
            "version": 3,
        }

    def __del__(self) -> None:
        _free.append(self._piece)
        while kept_bytes() > MOST_KEPT:
            try:
                _free.pop(0)
            except IndexError:  # another thread was faster
                break


def empty_like(array: NDArray[Any], dtype: DTypeLike | None = None) -> NDArray[Any]:
    """Uninitialised array of the same shape, with frames or sequences outside alike.

    Parameters
    ----------
    array
        (N, T, C). The result's classes are side by side, whatever those of the array are.
    dtype
        Of the result; None for that of the array.
    """
    if array.flags.c_contiguous:
        if array.nbytes < KEPT_FROM:  # at once, as small calls pay
            return np.empty_like(array, dtype, subok=False)
        return empty(array.shape, array.dtype if dtype is None else dtype)
    dtype = array.dtype if dtype is None else np.dtype(dtype)
    frames_outside = abs(array.strides[1]) > abs(array.strides[0])
    axes = (1, 0, 2) if frames_outside else (0, 1, 2)
    result = empty(tuple(array.shape[axis] for axis in axes), dtype)
    return result.transpose(axes) if frames_outside else result


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Uninitialised array, contiguous."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    # NumPy's own memory for the sake of small calls, and where there is no other.
    if size < KEPT_FROM or not hasattr(mmap, "MAP_PRIVATE"):
        return np.empty(shape, dtype=dtype)
    try:
        return np.asarray(_Lease(_piece(size), shape, dtype))
    except OSError:  # the system has no more: what is kept goes back, and NumPy says what is wanted
        forget()
        return np.empty(shape, dtype=dtype)


def has_huge_pages() -> bool:
    """Whether this system lets a program ask for huge pages."""
    return hasattr(mmap, "MADV_HUGEPAGE")


def kept_bytes() -> int:
    """How much memory is kept that no array uses."""
    return sum(piece.size for piece in list(_free))


def forget() -> None:
    """Give the memory that no array uses back to the system."""
    _free.clear()


def _piece(size: int) -> _Piece:
    """Memory of at least that size: a free piece that is not much larger, or a new one."""
    size = _mapped(size)
    fitting = [piece for piece in list(_free) if size <= piece.size <= size + size // 4]
    for piece in sorted(fitting, key=lambda piece: piece.size):
        with suppress(ValueError):  # another thread was faster
            _free.remove(piece)
            return piece
    return _Piece(size)


def _mapped(size: int) -> int:
    """Bytes to map: from a megabyte on whole huge pages, and one more to begin at one's start."""
    if size < _HUGE_PAGE // 2:
        return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    return -(-size // _HUGE_PAGE) * _HUGE_PAGE + _HUGE_PAGE
