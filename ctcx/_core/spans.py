"""What follows from the path: where each label stands, and how probable it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ctcx._arrays.facts import index_dtype
from ctcx._core.context import Context
from ctcx._core.occupancy import LIMIT

if TYPE_CHECKING:
    from ctcx._typing import Array, ArrayModule

__all__ = ["PathFacts", "path_columns", "path_facts"]


class PathFacts(NamedTuple):
    """About the best paths of a batch; shapes as in :class:`ctcx.Alignment`.

    ``columns`` (N, T) are the classes, those of wildcards and free ends among them.
    """

    states: Array
    columns: Array
    starts: Array
    ends: Array
    log_probs: Array
    label_log_probs: Array
    score: Array
    feasible: Array


def path_facts(
    states: Array,
    log_probs: Array,
    labels: Array,
    logit_lengths: Array,
    label_lengths: Array,
    constants: tuple[int, tuple[int, int]],
) -> PathFacts:
    """Make them of what a kernel returned and got; ``constants`` are the blank and the ends."""
    context = Context.of(log_probs, labels)
    context = context._replace(index_dtype=index_dtype(context.xp, context.device))
    xp, (rows, frames) = context.xp, states.shape
    width = labels.shape[1]
    states, counts, lengths = map(context.as_indices, (states, label_lengths, logit_lengths))
    found = counts == 0 if frames == 0 else xp.where(lengths > 0, states[:, 0] >= 0, counts == 0)
    running = _running_sums(log_probs, context)
    score = sum(part[:, -1] for part in reversed(running))
    feasible = found & (score >= -LIMIT)
    nothing = xp.where(xp.isnan(score), score, -float("inf"))
    score = context.cast(xp.where(feasible, score, nothing))
    states = xp.where(feasible[:, None], states, -1)
    log_probs = xp.where(feasible[:, None], log_probs, 0.0)

    # States never go down. Numbered row after row they are sorted, and padding comes last.
    row = context.arange(0, rows)[:, None]
    size = 2 * width + 2
    flat = xp.reshape(xp.where(states >= 0, states, size - 1) + row * size, (-1,))
    position = context.arange(0, width)[None, :]
    wanted = xp.reshape(row * size + (2 * position + 1), (-1,))
    starts, ends = (
        xp.reshape(context.as_indices(xp.searchsorted(flat, wanted, side=side)), (rows, width))
        - row * frames
        for side in ("left", "right")
    )
    there = feasible[:, None] & (position < counts[:, None])
    starts, ends = xp.where(there, starts, 0), xp.where(there, ends, 0)
    spent = sum(
        xp.take_along_axis(part, ends, axis=1) - xp.take_along_axis(part, starts, axis=1)
        for part in reversed(running)
    )
    mean = context.cast(spent / xp.astype(xp.maximum(ends - starts, 1), spent.dtype))
    return PathFacts(
        *_integers(states, path_columns(states, labels, counts, constants, context), xp),
        *_integers(xp.where(there, starts, -1), xp.where(there, ends, -1), xp),
        log_probs,
        xp.where(there, mean, 0.0),
        score,
        feasible,
    )


def _integers(one: Array, other: Array, xp: ArrayModule) -> tuple[Array, Array]:
    return xp.astype(one, xp.int32), xp.astype(other, xp.int32)


def path_columns(
    states: Array,
    labels: Array,
    counts: Array,
    constants: tuple[int, tuple[int, int]],
    context: Context,
) -> Array:
    """Classes of a path's states (N, T), -1 in padding."""
    blank, (first, last) = constants
    xp, width = context.xp, labels.shape[1]
    columns = xp.where(states >= 0, blank, states)
    if (first, last) != (blank, blank):
        columns = xp.where(states == 2 * counts[:, None], last, columns)
        columns = xp.where(states == 0, first, columns)
    if width == 0:
        return columns
    label = xp.minimum(xp.maximum(states, 0) // 2, width - 1)
    found = xp.take_along_axis(context.as_indices(labels), label, axis=1)
    return xp.where((states >= 0) & (states % 2 == 1), found, columns)


def _running_sums(log_probs: Array, context: Context) -> tuple[Array, ...]:
    """Sum up the first k frames, (N, T+1), in one array or in two to be added.

    The difference of two float32 sums over many frames would say little about a few of them. So
    without float64 the numbers are split: the larger parts are multiples of one unit, of which
    float32 holds all sums exactly.
    """
    xp = context.xp
    if context.has_float64:
        parts: tuple[Array, ...] = (xp.astype(log_probs, xp.float64, copy=False),)
    else:
        # Adding a number that is larger than all sums leaves multiples of its last digit.
        large = 4.0 * xp.sum(xp.abs(log_probs), axis=1, keepdims=True)
        whole = (log_probs + large) - large
        parts = (whole, log_probs - whole)
    return tuple(xp.cumulative_sum(part, axis=1, include_initial=True) for part in parts)
