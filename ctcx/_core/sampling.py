r"""The kernel ``sample_paths`` of the ``array-api`` backend; see :class:`ctcx.plugin.Backend`.

Followed backwards, the paths that emit the labels are a Markov chain (Rabiner 1989, section III):
of the states from which a state can come, each has the probability that its forward variable is a
part of their sum. So one pass forwards leaves the forward variables of all frames, and one
backwards picks a state a frame for all paths at once.

Frames past a sequence's length hold all probability in its last blank
(:mod:`ctcx._core.emissions`), so every path starts there: the pick at its last frame is that of
the end, where the last label comes before the blank.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from ctcx._arrays.facts import index_dtype, is_undecided, library_name
from ctcx._core.context import DEAD, START
from ctcx._core.emissions import Emissions
from ctcx._core.kernels import loop_for, run
from ctcx._core.lattice import States, advance, is_due, renormalise
from ctcx._core.occupancy import LIMIT
from ctcx._core.recursion import Recursion

if TYPE_CHECKING:
    from ctcx._core.context import Context
    from ctcx._typing import Array

__all__ = ["sample_paths"]

_TINY = 1e-30


def sample_paths(
    logits: Array,
    labels: Array,
    logit_lengths: Array,
    label_lengths: Array,
    *,
    blank: int,
    uniforms: Array,
) -> Array:
    """States (N, K, T) of K paths of each sequence, drawn by ``uniforms`` (N, K, T)."""
    arrays = (logits, labels, logit_lengths, label_lengths, uniforms)
    return cast("Array", run(_sample_paths, arrays, blank))


def _sample_paths(
    logits: Array,
    labels: Array,
    logit_lengths: Array,
    label_lengths: Array,
    uniforms: Array,
    blank: int,
) -> Array:
    loop = loop_for(library_name(logits))
    call = Recursion(loop, logits, labels, logit_lengths, label_lengths, blank)
    xp, device = call.context.xp, call.context.device
    if not is_undecided(*uniforms.shape) and 0 in uniforms.shape:
        return xp.zeros(uniforms.shape, dtype=xp.int32, device=device)
    call.prepare()
    # Some libraries look things up with integers of one width only.
    context = call.context._replace(index_dtype=index_dtype(xp, device))
    frames = logits.shape[1]
    last, forward = _forward(call)
    counts, lengths = map(context.as_indices, (call.label_lengths, call.logit_lengths))
    path = _Backwards(call, uniforms, lengths, context)(2 * counts[:, None], forward)
    path = xp.permute_dims(xp.flip(path, axis=0)[:frames, ...], (1, 2, 0))
    inside = call.inside & _possible(call, last, counts, context)[:, None]
    return xp.astype(xp.where(inside[:, None, :], path, -1), xp.int32)


def _forward(call: Recursion) -> tuple[States, Any]:
    """States after the last frame, and by block the forward variables of all states in the order
    of a path: exponents and mantissas (frames, N, 2S+2).
    """
    xp, rows, plan = call.context.xp, call.logits.shape[0], call.plan
    # The recursion's other direction isn't needed.
    start = States(*(part[:rows, :] for part in call.start))
    whole = call.topology
    topology = whole._replace(
        **{name: getattr(whole, name)[:rows, :] for name in whole._fields if name != "all_differ"}
    )

    def emissions(first: int, count: int) -> Emissions:
        return Emissions(*(part[:, :rows, :] for part in call.emissions(first, count)))

    def step(states: States, emissions: Emissions, _: None) -> tuple[States, tuple[Array, ...]]:
        after = []
        for frame in range(plan.size):
            if is_due(frame):
                states = renormalise(states, call.loop, xp)
            states = advance(states, topology, emissions, frame, call.loop, xp)[1]
            after.append(states)
        label_e, label_m, blank_e, blank_m = (xp.stack(part) for part in zip(*after, strict=True))
        shape = (*label_e.shape[:2], 2 * label_e.shape[2])
        pairs = ((blank_e, label_e), (blank_m, label_m))
        # In the narrower dtype, which rounds once: it is most of the memory.
        both = (xp.reshape(call.context.cast(xp.stack(pair, axis=3)), shape) for pair in pairs)
        return states, tuple(both)

    return call.loop.scan(step, start, emissions, first=0, blocks=2 * plan.blocks, size=plan.size)


def _possible(call: Recursion, states: States, counts: Array, context: Context) -> Array:
    """Whether some path emits the labels, (N,), as far as can be known without the softmax."""
    xp = context.xp
    label = xp.maximum(counts - 1, 0)[:, None]
    has_label, counts = context.cast(counts > 0), counts[:, None]
    label_e, label_m = (xp.take_along_axis(part, label, axis=1)[:, 0] for part in states[:2])
    blank_e, blank_m = (xp.take_along_axis(part, counts, axis=1)[:, 0] for part in states[2:])
    label_e = xp.where(has_label > 0, label_e, DEAD)
    top = xp.maximum(label_e, blank_e)
    likelihood = label_m * has_label * xp.exp(label_e - top) + blank_m * xp.exp(blank_e - top)
    logarithm = (top - START) + xp.log(xp.maximum(likelihood, _TINY)) + call.source.shift
    loss = xp.sum(call.peak - call.reference, axis=1) - logarithm
    return (top > 0.1 * DEAD) & (likelihood > 0.0) & (loss <= LIMIT)


class _Backwards:
    """The way back, all paths of a batch at once."""

    def __init__(self, call: Recursion, uniforms: Array, lengths: Array, context: Context) -> None:
        xp, plan, (rows, frames) = context.xp, call.plan, call.logits.shape[:2]
        self._context, self._plan, self._loop = context, plan, call.loop
        steps = 2 * plan.half
        by_frame = context.cast(xp.permute_dims(uniforms, (2, 0, 1)))
        if is_undecided(steps, frames) or steps > frames:
            rest = context.full((steps - frames, *by_frame.shape[1:]), 0.0)
            by_frame = xp.concat([by_frame, rest])
        at_end = context.arange(0, steps)[:, None, None] == lengths[None, :, None] - 1
        self._steps = xp.flip(by_frame, axis=0), xp.flip(at_end, axis=0)
        may_skip = call.topology.may_skip[:rows, :]
        skips = xp.stack([xp.zeros_like(may_skip), may_skip], axis=2) > 0
        self._width = 2 * may_skip.shape[1]
        self._skips = xp.reshape(skips, (-1,))  # whether a state may come from two before
        self._row = context.arange(0, rows)[:, None] * self._width
        self._back = context.arange(0, 3)[:, None, None]

    def __call__(self, position: Array, forward: Any) -> Array:
        """States by step, the last one first, (steps, N, K), from the one after the end (N, 1)."""
        uniforms, at_end = self._steps
        position = self._context.xp.broadcast_to(position, uniforms.shape[1:])

        def source(first: int, count: int) -> tuple[Array, Array]:
            part = slice(first, first + count)
            return uniforms[part, ...], at_end[part, ...]

        _, path = self._loop.scan(
            self._block,
            position,
            source,
            first=0,
            blocks=2 * self._plan.blocks,
            size=self._plan.size,
            past=forward,
        )
        return self._loop.joined(path, self._context.xp)[0]

    def _block(
        self, position: Array, source: tuple[Array, Array], forward: tuple[Array, Array]
    ) -> tuple[Array, tuple[Array]]:
        xp, size = self._context.xp, self._plan.size
        uniforms, at_end = source
        path = []
        for i in range(size):
            weights = self._weights(position, *(part[size - 1 - i, ...] for part in forward))
            position = self._picked(position, uniforms[i, ...], at_end[i, ...], weights)
            path.append(position)
        return position, (xp.stack(path),)

    def _weights(self, position: Array, exponents: Array, mantissas: Array) -> Array:
        """Forward variables of the state itself, the one before and the one before that, if a path
        can come from there: (3, N, K), but for a factor.
        """
        xp = self._context.xp
        place = self._row + position
        before = position[None, ...] - self._back
        skips = xp.reshape(xp.take(self._skips, xp.reshape(place, (-1,)), axis=0), place.shape)
        allowed = (before >= 0) & ((self._back < 2) | skips[None, ...])
        flat = xp.reshape(self._row[None, ...] + xp.maximum(before, 0), (-1,))
        exponent, mantissa = (
            xp.reshape(xp.take(xp.reshape(part, (-1,)), flat, axis=0), before.shape)
            for part in (exponents, mantissas)
        )
        exponent = xp.where(allowed, exponent, DEAD)
        top = xp.max(exponent, axis=0, keepdims=True)
        return xp.where(allowed, mantissa * xp.exp(exponent - top), 0.0)

    def _picked(self, position: Array, uniform: Array, at_end: Array, weights: Array) -> Array:
        """Pick by a number from 0 to 1, and never a state of weight 0, however that is rounded."""
        xp = self._context.xp
        stay, one_back, two_back = (weights[i, ...] for i in range(3))
        first = xp.where(at_end, one_back, stay)  # the label before the blank after it
        second = xp.where(at_end, stay, one_back)
        sought = uniform * (first + second + two_back)
        is_third = (two_back > 0.0) & (sought >= first + second)
        is_second = (second > 0.0) & (sought >= first) & ~is_third
        moves = self._context.as_indices(is_second != at_end) + 2 * self._context.as_indices(
            is_third
        )
        return xp.maximum(position - moves, 0)
