"""The loop for JAX: ``lax.scan`` over blocks of frames, in one compiled function.

Unrolled in Python, a recursion of 100 frames takes XLA minutes to compile; scanned, a second or two
at any length. Calls outside of ``jax.jit`` are compiled too, once for each shape; the programs of
the shapes used last are kept.
"""

from __future__ import annotations

import math
from contextvars import ContextVar
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import jax

from ctcx._arrays.facts import is_undecided
from ctcx._arrays.jax import has_explicit_axes, same_axes, varying_axes, without_types
from ctcx._core.context import GRAIN
from ctcx._core.gradient import ClassSums
from ctcx._core.loops.base import Loop
from ctcx._core.loops.jax_recursion import meet

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from ctcx._core.context import Context
    from ctcx._core.occupancy import Likelihood
    from ctcx._core.recursion import Recursion
    from ctcx._typing import Array, ArrayModule

__all__ = ["JAX_LOOP", "JaxLoop"]


_axes: ContextVar[frozenset[str]] = ContextVar("axes", default=frozenset())
"""Axes of ``jax.shard_map`` that the arrays vary over of which a kernel is being traced."""


@partial(jax.jit, static_argnums=(0, 2))
def _compiled(kernel: Callable[..., Any], arrays: tuple[Array, ...], constants: Hashable) -> Any:
    before = _axes.set(varying_axes(arrays))
    try:
        return kernel(*arrays, constants)
    finally:
        _axes.reset(before)


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


def _look_up(array: Array, classes: Array) -> Array:
    # All are in range, and to check them again would take longer than to look up.
    return jax.numpy.take_along_axis(array, classes[:, None, :], axis=2, mode="promise_in_bounds")


_FEW_CLASSES = 256
_POWERS = tuple(math.exp(-GRAIN * grains) for grains in range(9))


def _power(exponents: Array, xp: ArrayModule) -> Array:
    """Give the power of each exponent, 0 where it wouldn't count beside 1.

    A handful of comparisons is cheaper than ``exp``, above all as XLA computes what is used in
    several places in each of them.
    """
    power = xp.zeros_like(exponents)
    # Mantissas are at most exp(17) apart: what is further down than these is below an ulp of 1.
    for grains in reversed(range(9 if exponents.dtype == xp.float64 else 5)):
        power = xp.where(exponents > -GRAIN * (grains + 0.5), _POWERS[grains], power)
    return power


class JaxLoop(Loop):
    """A :class:`Loop` that XLA can compile at any number of frames.

    It keeps so many of the ``programs`` compiled outside of ``jax.jit``, the ones used last. On a
    CPU one takes up to 400 memory maps; a process that needs more than 65,530 is ended by Linux.
    """

    reads_values = False
    look_up = staticmethod(_look_up)
    frames_a_block = 1  # XLA would compute again what several frames of a step share

    def __init__(self, programs: int = 128) -> None:
        self._program = lru_cache(maxsize=programs)(_program)

    def run(
        self, kernel: Callable[..., Any], arrays: tuple[Array, ...], constants: Hashable
    ) -> Any:
        """Compile the kernel for these shapes, or take the program that is kept, and call it."""
        if any(isinstance(array, jax.core.Tracer) for array in arrays):
            # A part of the caller's program.
            return without_types(lambda *arrays: _compiled(kernel, arrays, constants), arrays)
        if has_explicit_axes(*arrays):
            return without_types(lambda *arrays: self.run(kernel, arrays, constants), arrays)
        forms = tuple(None if array is None else (array.shape, array.dtype) for array in arrays)
        return self._program(kernel, constants, forms)(*arrays)

    def fused(self, function: Callable[..., Any], xp: ArrayModule) -> Callable[..., Any]:
        """As it is: XLA fuses what stands together."""
        return partial(function, xp, _power)

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
        # A step may read any array of the kernel's, and what it returns varies as these do.
        carry, past = same_axes((carry, past), _axes.get())

        def one_block(carry: Any, block: tuple[Any, Any]) -> tuple[Any, Any]:
            number, now = block
            at = partial(jax.lax.dynamic_index_in_dim, index=blocks - 1 - number, keepdims=False)
            return step(carry, now, jax.tree.map(at, past))

        last, past = jax.lax.scan(one_block, carry, (jax.numpy.arange(blocks), inputs))
        return last, past

    def meet(self, recursion: Recursion) -> tuple[Array, Array, Likelihood]:
        """By operations that XLA vectorises."""
        return meet(recursion)

    def joined(self, past: Any, xp: ArrayModule) -> tuple[Array, ...]:
        """Merge the axes of blocks and frames."""
        return tuple(
            xp.reshape(part, (part.shape[0] * part.shape[1], *part.shape[2:])) for part in past
        )

    def class_sums(
        self, classes: Array, num_classes: int, context: Context
    ) -> Callable[[Array, slice], Array]:
        """By a matrix product, where there are few classes."""
        if is_undecided(num_classes) or num_classes > _FEW_CLASSES:
            return ClassSums(classes, num_classes, context)
        of_class = classes[:, :, None] == context.arange(0, num_classes)[None, None, :]
        one_hot = context.cast(of_class)

        def sums(occupancy: Array, rows: slice) -> Array:
            # Else GPUs and TPUs would round what they multiply.
            return jax.numpy.einsum("tns,nsc->ntc", occupancy, one_hot[rows], precision="highest")

        return sums

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

    def over_blocks(
        self,
        step: Callable[[Any, tuple[Array, ...]], tuple[Any, tuple[Array, ...]]],
        carry: Any,
        arrays: tuple[Array, ...],
        size: int,
        context: Context,  # noqa: ARG002 - the protocol's
    ) -> tuple[Any, tuple[Array, ...]]:
        """Loop over full blocks, and do what is left by itself: no array is copied or padded."""
        length = arrays[0].shape[0]

        def part(start: Any, rows: int) -> tuple[Array, ...]:
            return tuple(
                jax.lax.dynamic_slice_in_dim(array, start, rows, axis=0) for array in arrays
            )

        def write(state: Any, start: Any, rows: int) -> Any:
            carry, wholes = state
            carry, made = step(carry, part(start, rows))
            put = partial(jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=0)
            return same_axes((carry, tuple(map(put, wholes, made))), _axes.get())

        _, made = jax.eval_shape(lambda carry: step(carry, part(0, 1)), carry)
        wholes = tuple(
            jax.numpy.zeros((length, *piece.shape[1:]), dtype=piece.dtype) for piece in made
        )
        state = same_axes((carry, wholes), _axes.get())
        blocks = length // size
        state = jax.lax.fori_loop(
            0, blocks, lambda block, state: write(state, block * size, size), state
        )
        if left := length - blocks * size:
            state = write(state, blocks * size, left)
        carry, wholes = state
        return carry, wholes


JAX_LOOP = JaxLoop()
