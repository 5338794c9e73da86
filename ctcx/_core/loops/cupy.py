"""The loop for CuPy: what works element by element becomes one kernel.

A frame of the recursion is some forty operations on small arrays. On a GPU each would be a launch,
and a launch takes longer than the arithmetic.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, cast

import cupy

from ctcx._core.loops.base import PythonLoop, by_comparison, exponential

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctcx._core.context import Context
    from ctcx._typing import Array, ArrayModule

__all__ = ["CUPY_LOOP", "CupyLoop"]

_MOST_COMPARED = 2**24


class CupyLoop(PythonLoop):
    """A :class:`PythonLoop` that compiles the elementwise functions of the core."""

    def fused(self, function: Callable[..., Any], xp: ArrayModule) -> Callable[..., Any]:
        """One kernel for each combination of dtypes, compiled on first use."""
        return _fuse(function, xp)

    def largest(self, values: Array, count: int, context: Context) -> Array:
        """By comparison, or where that is too much one after the other: CuPy sorts slowly."""
        rows, size = values.shape
        if rows * size * size <= _MOST_COMPARED:
            return by_comparison(values, count, context)
        xp, found = context.xp, []
        place = context.arange(0, size)[None, :]
        # Below all that are left are those that have been found.
        values = xp.maximum(values, float(xp.finfo(values.dtype).min))
        for _ in range(count):
            best = context.as_indices(xp.argmax(values, axis=1))
            found.append(best)
            values = xp.where(place == best[:, None], -float("inf"), values)
        return xp.stack(found, axis=1)


@lru_cache(maxsize=32)
def _fuse(function: Callable[..., Any], xp: ArrayModule) -> Callable[..., Any]:
    name = f"ctcx_{function.__name__.strip('_')}"
    return cast(
        "Callable[..., Any]", cupy.fuse(kernel_name=name)(partial(function, xp, exponential))
    )


CUPY_LOOP = CupyLoop()
