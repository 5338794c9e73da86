"""The one seam between the core and the array library: how to loop.

The standard has no scan. A Python loop over blocks of frames is right for libraries that compute at
once; where a library traces and compiles, the loop must be the library's own, or compiling it takes
minutes. A library's :class:`~ctcx.plugin.Namespace` names its loop in the field ``loop``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ctcx._core.gradient import ClassSums
from ctcx._core.viterbi import Viterbi

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

    from ctcx._core.context import Context
    from ctcx._core.occupancy import Likelihood
    from ctcx._core.recursion import Recursion
    from ctcx._typing import Array, ArrayModule

__all__ = ["Loop", "Power", "by_comparison", "exponential", "one_by_one", "slices"]


Power = Callable[[Any, Any], Any]


def exponential(exponents: Array, xp: ArrayModule) -> Array:
    """Give the power of each exponent."""
    return xp.exp(exponents)


class Loop:
    """The loop in Python, for libraries that compute at once; others replace what they must.

    A *past* is what earlier blocks left, in the loop's own form.
    """

    reads_values = False
    """Whether reading a value costs nothing: no synchronisation, no error while tracing."""

    look_up: Callable[[Any, Any], Any] | None = None
    """Looks up the classes (N, S) in an array (N, T, C), to (N, T, S).

    For loops that ask for the source of all their frames at once, else None.
    """

    frames_a_block = 16
    """How many frames a step does at most."""

    def run(
        self, kernel: Callable[..., Any], arrays: tuple[Array, ...], constants: Hashable
    ) -> Any:
        """Call ``kernel(*arrays, constants)``; the place to compile it.

        NumPy would warn of numbers that are meant to vanish.
        """
        with np.errstate(all="ignore"):
            return kernel(*arrays, constants)

    def fused(self, function: Callable[..., Any], xp: ArrayModule) -> Callable[..., Any]:
        """Give ``function(xp, power, *arrays)`` as a function of the arrays, which may compile it.

        ``function`` stands in a module, and works element by element on arrays that broadcast.
        ``power(exponents, xp)`` is ``exp`` of numbers of at most 0 that are multiples of
        :data:`ctcx._core.context.GRAIN`.
        """
        return partial(function, xp, exponential)

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
        """Run ``carry, out = step(carry, source(frame, size), earlier)`` for each block of frames.

        ``frame`` counts up from ``first``. ``earlier`` is an element of ``past``, the last one
        first, or None. Returns the last carry and the past that the ``out`` make.
        """
        # Takes ``past`` apart on the way, so that its memory is freed.
        made = []
        for block in range(blocks):
            earlier = None if past is None else past.pop()
            carry, out = step(carry, source(first + block * size, size), earlier)
            made.append(out)
        return carry, made

    def meet(
        self,
        recursion: Recursion,  # noqa: ARG002 - for subclasses
    ) -> tuple[Array, Array, Likelihood] | None:
        """Run a recursion of the loop's own, if it has one.

        Gives the probability of each label's state (half, 2N, S) and each blank (half, 2N, S+1),
        but for a factor that those of a frame have in common, and the likelihood (2N, 1). Each
        direction's rows are of the frames of its first half.
        """
        return None

    def joined(self, past: Any, xp: ArrayModule) -> tuple[Array, ...]:
        """Join a past of tuples of arrays (frames, ...) along the frames."""
        return tuple(xp.concat(parts) for parts in zip(*past, strict=True))

    def class_sums(
        self, classes: Array, num_classes: int, context: Context
    ) -> Callable[[Array, slice], Array]:
        """Give what adds up occupancies by class, as :class:`ctcx._core.gradient.ClassSums`."""
        return ClassSums(classes, num_classes, context)

    def viterbi(self, context: Context) -> Viterbi:
        """Give what goes through frames of the recursion for the best path."""
        return Viterbi(context)

    def largest(self, values: Array, count: int, context: Context) -> Array:
        """Where the largest numbers of each row (M, K) stand, largest first: (M, count).

        Of equal ones the first goes first.
        """
        xp = context.xp
        if context.index_dtype != xp.int64:  # sorting may give integers that the device has not
            return by_comparison(values, count, context)
        # Sort all, or groups by their largest and then those that can hold one.
        size = values.shape[1]
        group = round(math.sqrt(size / count))
        groups = -(-size // group) if group > 2 else 0
        if groups <= count:
            return xp.argsort(-values, axis=1, stable=True)[:, :count]
        if groups * group != size:
            fill = context.full((values.shape[0], groups * group - size), -math.inf)
            values = xp.concat([values, fill], axis=1)
        parts = xp.reshape(values, (-1, groups, group))
        best = xp.argsort(-xp.max(parts, axis=2), axis=1, stable=True)[:, :count]
        best = xp.sort(best, axis=1)[:, :, None]
        some = xp.reshape(
            best * group + context.arange(0, group)[None, None, :], (-1, count * group)
        )
        order = xp.argsort(-xp.take_along_axis(values, some, axis=1), axis=1, stable=True)
        # The fill, of -inf, must not stand for anything.
        return xp.minimum(xp.take_along_axis(some, order[:, :count], axis=1), size - 1)

    def assemble(
        self,
        block: Callable[[slice, slice], tuple[Array, ...]],
        shape: tuple[int, int],
        templates: Sequence[tuple[tuple[int, ...], Any]],
        block_shape: tuple[int, int],
        context: Context,
    ) -> tuple[Array, ...]:
        """Make arrays ``(*shape, *trailing)`` of the templates ``(trailing, dtype)`` in blocks.

        ``block(rows, frames)`` gives one block of each.
        """
        # Written into arrays of its own: concatenating would hold them twice.
        wholes = tuple(
            context.xp.empty((*shape, *trailing), dtype=dtype, device=context.device)
            for trailing, dtype in templates
        )

        def make(part: tuple[slice, slice]) -> None:
            for whole, piece in zip(wholes, block(*part), strict=True):
                whole[(*part, ...)] = piece

        parts = (
            (rows, frames)
            for rows in slices(shape[0], block_shape[0])
            for frames in slices(shape[1], block_shape[1])
        )
        self.each(make, parts, sum(math.prod((*shape, *trailing)) for trailing, _ in templates))
        return wholes

    def over_blocks(
        self,
        step: Callable[[Any, tuple[Array, ...]], tuple[Any, tuple[Array, ...]]],
        carry: Any,
        arrays: tuple[Array, ...],
        size: int,
        context: Context,
    ) -> tuple[Any, tuple[Array, ...]]:
        """Run ``carry, made = step(carry, block)`` for each block of the arrays' rows.

        ``block`` has up to ``size`` rows of each of the arrays, and ``made`` as many rows of each
        result. Returns the last carry and the results, of all rows.
        """
        wholes: tuple[Array, ...] | None = None
        length = arrays[0].shape[0]
        for part in slices(length, size):
            carry, made = step(carry, tuple(array[part, ...] for array in arrays))
            if wholes is None:
                wholes = tuple(
                    context.xp.empty(
                        (length, *piece.shape[1:]), dtype=piece.dtype, device=context.device
                    )
                    for piece in made
                )
            for whole, piece in zip(wholes, made, strict=True):
                whole[part, ...] = piece
        return carry, wholes or ()

    def each(
        self,
        task: Callable[[Any], None],
        parts: Iterator[Any],
        elements: int,  # noqa: ARG002 - for subclasses to judge by
    ) -> None:
        """Run ``task`` for each part; together they make so many elements."""
        for part in parts:
            task(part)


def by_comparison(values: Array, count: int, context: Context) -> Array:
    """Do what :meth:`Loop.largest` does by comparing each with each: for where sorting is slow."""
    xp, size = context.xp, values.shape[1]
    place = context.arange(0, size)
    mine, other = values[:, :, None], values[:, None, :]
    first = (other > mine) | ((other == mine) & (place[None, :] < place[:, None])[None, ...])
    rank = xp.sum(xp.astype(first, xp.int32), axis=2, dtype=xp.int32)
    which = xp.arange(count, dtype=xp.int32, device=context.device)[None, :, None]
    is_here = rank[:, None, :] == which
    return xp.max(xp.where(is_here, place[None, None, :], 0), axis=2)


def one_by_one(values: Array, count: int, context: Context) -> Array:
    """Do what :meth:`Loop.largest` does by looking for one after the other."""
    xp, found = context.xp, []
    place = context.arange(0, values.shape[1])[None, :]
    # Below all that are left are those that have been found.
    values = xp.maximum(values, float(xp.finfo(values.dtype).min))
    for _ in range(count):
        best = context.as_indices(xp.argmax(values, axis=1))
        found.append(best)
        values = xp.where(place == best[:, None], -float("inf"), values)
    return xp.stack(found, axis=1)


def slices(length: int, step: int) -> list[slice]:
    """Cut into parts of ``step``, the last one shorter."""
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]
