"""What a greedy decoder reads out of the most probable class of each frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ctcx._arrays.facts import index_dtype, is_numpy, is_undecided
from ctcx._core.context import Context
from ctcx._core.spans import label_frames

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctcx._typing import Array

__all__ = ["Readout", "label_counts", "readout", "readout_of_numpy"]


class Readout(NamedTuple):
    """About the best classes of a batch; shapes as in :class:`ctcx.Decoded`."""

    labels: Array
    lengths: Array
    starts: Array
    ends: Array
    log_probs: Array
    score: Array


def readout(classes: Array, log_probs: Array, constants: tuple[int, bool, int]) -> Readout:
    """Merge repeats and leave out blanks; ``constants`` are blank, merge_repeated and width.

    The width is that of the results, at least the number of labels of any sequence.
    """
    blank, merge_repeated, width = constants
    context = _context(classes, log_probs)
    xp = context.xp
    wide = xp.float64 if context.has_float64 else context.dtype
    score = context.cast(xp.sum(xp.astype(log_probs, wide), axis=1))
    state, count = _states(classes, blank, merge_repeated=merge_repeated, context=context)
    starts, ends = label_frames(state, width, context)
    there = context.arange(0, width)[None, :] < count[:, None]
    starts, last = xp.where(there, starts, 0), xp.where(there, ends - 1, 0)
    if not is_undecided(classes.shape[1]) and classes.shape[1] == 0:
        labels, best = starts, xp.zeros(starts.shape, dtype=context.dtype, device=context.device)
    else:
        labels = xp.take_along_axis(classes, starts, axis=1)
        best = xp.take_along_axis(_running_best(log_probs, state, context), last, axis=1)

    def integers(array: Array) -> Array:
        return xp.astype(xp.where(there, array, -1), xp.int32)

    return Readout(
        integers(labels),
        xp.astype(count, xp.int32),
        integers(starts),
        integers(last + 1),
        xp.where(there, best, 0.0),
        score,
    )


def readout_of_numpy(
    classes: NDArray[Any],
    log_probs: NDArray[Any],
    blank: int,
    *,
    merge_repeated: bool,
    width: int | None,
) -> Readout:
    """Do the same in NumPy, which can list the labels: several times as fast.

    The width of None is the largest number of labels.
    """
    rows, frames = classes.shape
    is_label = (classes >= 0) & (classes != blank)
    begins, goes_on = is_label.copy(), np.zeros_like(is_label)
    if merge_repeated:
        repeats = classes[:, 1:] == classes[:, :-1]
        begins[:, 1:] &= ~repeats
        np.logical_and(is_label[:, 1:], repeats, out=goes_on[:, :-1])
    count = np.count_nonzero(begins, axis=1)
    width = int(count.max(initial=0)) if width is None else width
    # Indices into flat arrays of all frames, one for each label of the batch.
    first = np.flatnonzero(begins)
    end = np.flatnonzero(is_label & ~goes_on) + 1
    row = np.repeat(np.arange(rows), count)
    before = np.cumsum(count) - count
    place = np.arange(len(first)) + (row * width - before[row])

    def placed(values: NDArray[Any], padding: int, dtype: Any) -> NDArray[Any]:
        array = np.full((rows, width), padding, dtype=dtype)
        array.reshape(-1)[place] = values
        return array

    # Most labels have one frame. Of the others, the segments from first to end are every other one.
    values = np.append(log_probs, -np.inf).astype(log_probs.dtype, copy=False)
    best, several = values[first], np.flatnonzero(end - first > 1)
    if len(several):
        segments = np.stack((first[several], end[several]), axis=1).reshape(-1)
        best[several] = np.maximum.reduceat(values, segments)[::2]
    return Readout(
        placed(classes.reshape(-1)[first], -1, np.int32),
        count.astype(np.int32),
        placed(first - row * frames, -1, np.int32),
        placed(end - row * frames, -1, np.int32),
        placed(best, 0, log_probs.dtype),
        np.sum(log_probs, axis=1, dtype=np.float64).astype(log_probs.dtype),
    )


def label_counts(classes: Array, log_probs: Array, constants: tuple[int, bool]) -> Array:
    """How many labels each sequence has, (N,); ``constants`` are blank and merge_repeated."""
    blank, merge_repeated = constants
    context = _context(classes, log_probs)
    return _states(classes, blank, merge_repeated=merge_repeated, context=context)[1]


def _context(classes: Array, log_probs: Array) -> Context:
    context = Context.of(log_probs, classes)
    return context._replace(index_dtype=index_dtype(context.xp, context.device))


def _states(
    classes: Array, blank: int, *, merge_repeated: bool, context: Context
) -> tuple[Array, Array]:
    """States of the frames as an alignment numbers them (N, T), and counts of labels (N,).

    2j in the blanks before label j, 2j + 1 in label j.
    """
    xp = context.xp
    is_label = (classes >= 0) & (classes != blank)
    starts = is_label
    if merge_repeated:
        nothing = xp.full((classes.shape[0], 1), -1, dtype=classes.dtype, device=context.device)
        starts = is_label & (classes != xp.concat([nothing, classes], axis=1)[:, :-1])
    ones = xp.astype(starts, context.index_dtype)
    so_far = xp.cumulative_sum(ones, axis=1, dtype=context.index_dtype)
    count = xp.sum(ones, axis=1, dtype=context.index_dtype)
    return 2 * so_far - xp.astype(is_label, context.index_dtype), count


def _running_best(log_probs: Array, state: Array, context: Context) -> Array:
    """Largest number so far among the frames of the same label, (N, T).

    In steps that double how far back a frame has looked.
    """
    xp, frames = context.xp, state.shape[1]
    frame = context.arange(0, frames)[None, :]
    is_label = state % 2 == 1
    back, limit = 1, 2**31 if is_undecided(frames) else frames
    while back < limit:
        same = (xp.roll(state, back, axis=1) == state) & (frame >= back) & is_label
        if is_numpy(same) and not same.any():  # no label is longer; elsewhere, asking takes time
            break
        before = xp.where(same, xp.roll(log_probs, back, axis=1), -float("inf"))
        log_probs = xp.maximum(log_probs, before)
        back *= 2
    return log_probs
