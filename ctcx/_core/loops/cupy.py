"""The loop for CuPy: what works element by element becomes one kernel.

A frame of the recursion is some forty operations on small arrays. On a GPU each would be a launch,
and a launch takes longer than the arithmetic.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, cast

import cupy

from ctcx._core.loops.base import Loop, by_comparison, exponential, one_by_one

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctcx._core.context import Context
    from ctcx._typing import Array, ArrayModule

__all__ = ["CUPY_LOOP", "CupyLoop"]

_MOST_COMPARED = 2**24


class CupyLoop(Loop):
    """A :class:`Loop` that compiles the elementwise functions of the core."""

    def fused(self, function: Callable[..., Any], xp: ArrayModule) -> Callable[..., Any]:
        """One kernel for each combination of dtypes, compiled on first use."""
        return _fuse(function, xp)

    def largest(self, values: Array, count: int, context: Context) -> Array:
        """By comparison, or where that is too much one after the other: CuPy sorts slowly."""
        rows, size = values.shape
        if rows * size * size <= _MOST_COMPARED:
            return by_comparison(values, count, context)
        return one_by_one(values, count, context)


@lru_cache(maxsize=32)
def _fuse(function: Callable[..., Any], xp: ArrayModule) -> Callable[..., Any]:
    name = f"ctcx_{function.__name__.strip('_')}"
    return cast(
        "Callable[..., Any]", cupy.fuse(kernel_name=name)(partial(function, xp, exponential))
    )


CUPY_LOOP = CupyLoop()
