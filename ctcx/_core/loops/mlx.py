"""The loop for MLX: what a block of frames needs is computed before the next block is noted.

MLX only notes what is to be done until somebody asks for a value. A whole recursion would be a
graph of some ten thousand operations, and all of their results.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ctcx._arrays.mlx import as_constant, evaluate
from ctcx._core.loops.base import Loop, by_comparison, one_by_one, slices

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from ctcx._core.context import Context
    from ctcx._typing import Array, ArrayModule

__all__ = ["MLX_LOOP", "MlxLoop"]

_MOST_COMPARED = 2**20


def _power(exponents: Array, xp: ArrayModule) -> Array:
    """``exp`` of numbers of at most 0."""
    return 1.0 / (xp.expm1(-exponents) + 1.0)


class MlxLoop(Loop):
    """A :class:`Loop` that computes as it goes, where MLX doesn't trace."""

    def run(
        self, kernel: Callable[..., Any], arrays: tuple[Array, ...], constants: Hashable
    ) -> Any:
        """Call it, and compute.

        With copies, for under ``mx.grad`` MLX would keep all that is made from arrays that it
        follows.
        """
        copies = (None if array is None else as_constant(array) for array in arrays)
        result = kernel(*copies, constants)
        evaluate(result)
        return result

    def scan(
        self,
        step: Callable[[Any, Any, Any], tuple[Any, Any]],
        carry: Any,
        source: Callable[[int, int], Any],
        *,
        first: int,
        blocks: int,
        size: int,
        past: Any = None,
    ) -> tuple[Any, Any]:
        """Run block after block, and compute each."""

        def computed(carry: Any, block: Any, earlier: Any) -> tuple[Any, Any]:
            result = step(carry, block, earlier)
            evaluate(result)
            return result

        return super().scan(
            computed, carry, source, first=first, blocks=blocks, size=size, past=past
        )

    def fused(self, function: Callable[..., Any], xp: ArrayModule) -> Callable[..., Any]:
        """Operation by operation: ``mx.compile`` would take longer than to compute."""
        return partial(function, xp, _power)

    def largest(self, values: Array, count: int, context: Context) -> Array:
        """By comparison, or where that is too much one after the other."""
        rows, size = values.shape
        if rows * size * size <= _MOST_COMPARED:
            return by_comparison(values, count, context)
        return one_by_one(values, count, context)

    def assemble(
        self,
        block: Callable[[slice, slice], tuple[Array, ...]],
        shape: tuple[int, int],
        templates: Sequence[tuple[tuple[int, ...], Any]],
        block_shape: tuple[int, int],
        context: Context,
    ) -> tuple[Array, ...]:
        """Make block after block and join them: MLX's arrays can't be written to in part."""
        xp, parts = context.xp, []
        for rows in slices(shape[0], block_shape[0]):
            beside = [block(rows, frames) for frames in slices(shape[1], block_shape[1])]
            evaluate(beside)
            if beside:
                parts.append([xp.concat(pieces, axis=1) for pieces in zip(*beside, strict=True)])
        if not parts:
            return tuple(
                xp.zeros((*shape, *trailing), dtype=dtype) for trailing, dtype in templates
            )
        return tuple(
            xp.concat([piece.astype(dtype) for piece in pieces])
            for pieces, (_, dtype) in zip(zip(*parts, strict=True), templates, strict=True)
        )

    def over_blocks(
        self,
        step: Callable[[Any, tuple[Array, ...]], tuple[Any, tuple[Array, ...]]],
        carry: Any,
        arrays: tuple[Array, ...],
        size: int,
        context: Context,
    ) -> tuple[Any, tuple[Array, ...]]:
        """Run block after block, compute each, and join them."""
        made = []
        for part in slices(arrays[0].shape[0], size):
            carry, pieces = step(carry, tuple(array[part, ...] for array in arrays))
            evaluate(carry, pieces)
            made.append(pieces)
        return carry, tuple(context.xp.concat(pieces) for pieces in zip(*made, strict=True))


MLX_LOOP = MlxLoop()
