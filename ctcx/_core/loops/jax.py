"""The loop for JAX: ``lax.scan`` over blocks of frames, in one compiled function.

Unrolled in Python, a recursion of 100 frames takes XLA minutes to compile; scanned, a second or two
at any length. Calls outside of ``jax.jit`` are compiled too, once for each shape; the programs of
the shapes used last are kept.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import jax

from ctcx._arrays.jax import same_axes

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from ctcx._core.context import Context
    from ctcx._typing import Array, ArrayModule

__all__ = ["JAX_LOOP", "JaxLoop"]


@partial(jax.jit, static_argnums=(0, 2))
def _compiled(kernel: Callable[..., Any], arrays: tuple[Array, ...], constants: Hashable) -> Any:
    return kernel(*arrays, constants)


def _program(
    kernel: Callable[..., Any],
    constants: Hashable,
    forms: tuple[Any, ...],  # noqa: ARG001 - one program for each
) -> Callable[..., Any]:
    def call(*arrays: Array) -> Any:
        return kernel(*arrays, constants)

    # A function of its own: what JAX compiles for it is dropped together with it.
    compiled: Callable[..., Any] = jax.jit(call)
    return compiled


class JaxLoop:
    """A :class:`ctcx._core.loops.base.Loop` that XLA can compile at any number of frames.

    Parameters
    ----------
    programs
        How many of those compiled outside of ``jax.jit`` are kept, the ones used last. On a CPU one
        takes up to 400 memory maps; a process that needs more than 65,530 is ended by Linux.
    """

    reads_values = False
    frames_a_block = 4  # a step is unrolled, and its compile time grows with it

    def __init__(self, programs: int = 128) -> None:
        self._program = lru_cache(maxsize=programs)(_program)

    def run(
        self, kernel: Callable[..., Any], arrays: tuple[Array, ...], constants: Hashable
    ) -> Any:
        """Compile the kernel for these shapes, or take the program that is kept, and call it."""
        if any(isinstance(array, jax.core.Tracer) for array in arrays):
            return _compiled(kernel, arrays, constants)  # a part of the caller's program
        forms = tuple(None if array is None else (array.shape, array.dtype) for array in arrays)
        return self._program(kernel, constants, forms)(*arrays)

    def fused(self, function: Callable[..., Any], xp: ArrayModule) -> Callable[..., Any]:
        """As it is: XLA fuses what stands together."""
        return partial(function, xp)

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
        """Scan over blocks. A past is a tree of arrays (blocks, size, ...)."""

        def in_blocks(array: Array) -> Array:
            return array.reshape(blocks, size, *array.shape[1:])

        inputs = jax.tree.map(in_blocks, source(first, blocks * size))
        earlier = jax.tree.map(lambda array: array[::-1], past)

        def one_block(carry: Any, block: tuple[Any, Any]) -> tuple[Any, Any]:
            return step(carry, *block)

        carry, _ = same_axes((carry, (inputs, earlier)))
        last, past = jax.lax.scan(one_block, carry, (inputs, earlier))
        return last, past

    def joined(self, past: Any, xp: ArrayModule) -> tuple[Array, ...]:
        """Merge the axes of blocks and frames."""
        return tuple(
            xp.reshape(part, (part.shape[0] * part.shape[1], *part.shape[2:])) for part in past
        )

    def largest(self, values: Array, count: int, context: Context) -> Array:
        """By XLA's own operation, which puts the first of equal ones first."""
        return jax.lax.top_k(values, count)[1].astype(context.index_dtype)

    def assemble(
        self,
        block: Callable[[slice, slice], tuple[Array, ...]],
        shape: tuple[int, int],
        templates: Sequence[tuple[tuple[int, ...], Any]],  # noqa: ARG002 - the protocol's
        block_shape: tuple[int, int],  # noqa: ARG002
        context: Context,  # noqa: ARG002
    ) -> tuple[Array, ...]:
        """Make all in one block: XLA fuses what happens in it."""
        return block(slice(0, shape[0]), slice(0, shape[1]))


JAX_LOOP = JaxLoop()
