"""What follows from the path: where each label stands, and how probable it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from ctcx._arrays.facts import index_dtype, is_undecided
from ctcx._core.context import Context
from ctcx._core.occupancy import LIMIT

if TYPE_CHECKING:
    from ctcx._typing import Array, ArrayModule

__all__ = [
    "PathFacts",
    "are_paths",
    "are_sampled_paths",
    "label_frames",
    "path_columns",
    "path_facts",
]


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
    xp, frames, width = context.xp, states.shape[1], labels.shape[1]
    states, counts, lengths = map(context.as_indices, (states, label_lengths, logit_lengths))
    found = counts == 0 if frames == 0 else xp.where(lengths > 0, states[:, 0] >= 0, counts == 0)
    running = _running_sums(log_probs, context)
    score = sum(part[:, -1] for part in reversed(running))
    feasible = found & (score >= -LIMIT)
    nothing = xp.where(xp.isnan(score), score, -float("inf"))
    score = context.cast(xp.where(feasible, score, nothing))
    states = xp.where(feasible[:, None], states, -1)
    log_probs = xp.where(feasible[:, None], log_probs, 0.0)

    starts, ends = label_frames(states, width, context)
    position = context.arange(0, width)[None, :]
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


def label_frames(states: Array, width: int, context: Context) -> tuple[Array, Array]:
    """Frames where each label starts, and where it ends, (N, S).

    A path never goes back, so the keys (sequence, state) of all frames are in order, and a search
    among them finds the first frame of each label, and the first one after it.
    """
    xp, (rows, frames) = context.xp, states.shape
    past = 2 * width + 1
    states = xp.where(states >= 0, states, past)
    label = 2 * context.arange(0, width) + 1
    if is_undecided(rows, frames, width) or context.index_dtype != xp.int64:
        # JAX searches no array of undecided size, and the answer of a search may be int64. XLA,
        # which computes where the sizes are large, makes no array of all three axes.
        state, label = states[:, :, None], label[None, None, :]
        counts = [xp.astype(before, xp.int32) for before in (state < label, state <= label)]
        return tuple(context.as_indices(xp.sum(count, axis=1, dtype=xp.int32)) for count in counts)
    row = context.arange(0, rows)[:, None]
    keys = xp.reshape(row * (past + 1) + states, (-1,))
    wanted = xp.reshape(row * (past + 1) + label[None, :], (-1,))

    def found(side: Literal["left", "right"]) -> Array:
        place = context.as_indices(xp.searchsorted(keys, wanted, side=side))
        return xp.reshape(place, (rows, width)) - row * frames

    return found("left"), found("right")


def _integers(one: Array, other: Array, xp: ArrayModule) -> tuple[Array, Array]:
    return xp.astype(one, xp.int32), xp.astype(other, xp.int32)


def are_paths(
    states: Array,
    log_probs: Array,
    labels: Array,
    logit_lengths: Array,
    label_lengths: Array,
    constants: tuple[()],  # noqa: ARG001 - none
) -> Array:
    """Whether a kernel's states (N, T), T at least 1, are paths of the labels, or all -1: (N,)."""
    context = Context.of(log_probs, labels)
    context = context._replace(index_dtype=index_dtype(context.xp, context.device))
    xp, (_, frames) = context.xp, states.shape
    lengths, counts = context.as_indices(logit_lengths), context.as_indices(label_lengths)
    lengths, counts = lengths[:, None], counts[:, None]
    states = context.as_indices(states)
    found = states[:, :1] >= 0
    inside = (context.arange(0, frames)[None, :] < lengths) & found
    fits = xp.where(inside, (states >= 0) & (states <= 2 * counts), states == -1)
    fits = fits & ~xp.isnan(log_probs)
    far = xp.max(states, axis=1, keepdims=True) >= 2 * counts - 1
    fits = xp.all(fits & (~found | ((states[:, :1] <= 1) & far)), axis=1)
    step = states[:, 1:] - states[:, :-1]
    right = (step == 0) | (step == 1)
    if labels.shape[1] > 1:
        label = xp.clip(states // 2, 0, labels.shape[1] - 1)
        said = xp.take_along_axis(labels, label, axis=1)
        skips = (step == 2) & (states[:, 1:] % 2 == 1)
        right = right | (skips & (said[:, 1:] != said[:, :-1]))
    return fits & xp.all(right | ~inside[:, 1:], axis=1)


def are_sampled_paths(
    states: Array,
    logits: Array,
    labels: Array,
    logit_lengths: Array,
    label_lengths: Array,
    constants: tuple[()],
) -> Array:
    """Whether all of a kernel's states (N, K, T), K and T at least 1, are such paths: (N,)."""
    context = Context.of(logits, labels)
    xp, (rows, paths, frames), width = context.xp, states.shape, labels.shape[1]

    def each(array: Array, *shape: int) -> Array:
        whole = xp.broadcast_to(xp.reshape(array, (rows, 1, *shape)), (rows, paths, *shape))
        return xp.reshape(whole, (rows * paths, *shape))

    fits = are_paths(
        xp.reshape(states, (rows * paths, frames)),
        context.full((rows * paths, frames), 0.0),
        each(labels, width),
        each(logit_lengths),
        each(label_lengths),
        constants,
    )
    return xp.all(xp.reshape(fits, (rows, paths)), axis=1)


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
