r"""Emission probabilities of the labels and the blank, as mantissa and whole exponent.

With ``x`` a logit, ``exp(x) = mantissa * exp(exponent)`` where ``exponent = round(x)``: the rest
``x - round(x)`` is exact, so nothing is lost. The softmax's denominator is left out: it is the same
for all states of a frame, so it drops out of every occupancy, and the loss adds it up apart
(:func:`ctcx._arrayapi.occupancy.loss_of`).

Frames past a sequence's length, in either direction, emit the blank with probability 1 and labels
with probability 0. All probability then rests in one blank before the first frame and after the
last, and sequences of different lengths run side by side without a further mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ctcx._arrayapi.lattice import DEAD
from ctcx._arrays import is_contiguous

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctcx._arrayapi.context import Context
    from ctcx._typing import Array

__all__ = ["EmissionSource", "Emissions"]


class Emissions(NamedTuple):
    """Emission probabilities of some frames: (frames, M, S+1) for labels, (frames, M, 1) for blank.

    The last column of the labels repeats the blank; it belongs to no label.
    """

    exponent: Array
    mantissa: Array
    blank_exponent: Array
    blank_mantissa: Array


class EmissionSource:
    """Looks up emissions by frame, for both directions of the recursion at once.

    Rows 0 to N-1 are the sequences; rows N to 2N-1 the same read backwards, labels and frames.

    Parameters
    ----------
    logits
        (N, T, C).
    forward, backward
        (N, S+1): classes of the labels in the order of each direction, the blank's last. Past a
        sequence's length stands any valid class.
    inside
        (N, T): which frames are within the sequences' lengths.
    steps
        How many frames a direction runs through: T, or more.
    """

    def __init__(
        self,
        logits: Array,
        forward: Array,
        backward: Array,
        inside: Array,
        *,
        steps: int,
        context: Context,
    ) -> None:
        xp = context.xp
        self._look_up = _flat_look_up(logits, context) or _strided_look_up(logits, context)
        self._forward = forward
        self._backward = backward
        self._shape = logits.shape[:2]
        self._inside = xp.permute_dims(inside, (1, 0))[:, :, None]
        self._steps = steps
        self._context = context
        labels = forward.shape[1] - 1
        self._resting = xp.concat([context.full((labels,), DEAD), context.full((1,), 0.0)])

    def __call__(self, first: int, count: int) -> Emissions:
        """Emissions of steps ``first`` to ``first + count - 1``: (count, 2N, S+1)."""
        xp = self._context.xp
        forward = self._gather(self._forward, first, first + count)
        backward = self._gather(self._backward, self._steps - first - count, self._steps - first)
        logits = xp.concat([forward, xp.flip(backward, axis=0)], axis=1)
        exponent = xp.maximum(xp.round(logits), DEAD)
        mantissa = xp.exp(logits - exponent)
        return Emissions(exponent, mantissa, exponent[..., -1:], mantissa[..., -1:])

    def _gather(self, index: Array, first: int, stop: int) -> Array:
        """Logits of the indexed classes in frames ``first`` to ``stop - 1``: (frames, N, S+1)."""
        context, xp = self._context, self._context.xp
        rows, frames = self._shape
        first_real, stop_real = min(first, frames), min(stop, frames)
        picked = context.cast(self._look_up(index, first_real, stop_real))
        inside = self._inside[first_real:stop_real, :, :]
        picked = xp.where(inside, picked, self._resting)
        missing = stop - first - picked.shape[0]
        if missing:
            resting = xp.broadcast_to(self._resting, (missing, rows, index.shape[1]))
            picked = xp.concat([picked, resting])
        return picked


LookUp: TypeAlias = "Callable[[Array, int, int], Array]"
"""``(index (N, K), first, stop) -> (stop - first, N, K)``: the indexed logits of some frames."""


def _flat_look_up(logits: Array, context: Context) -> LookUp | None:
    """By position in memory, twice as fast on NumPy; None if the logits don't lie in one piece."""
    xp = context.xp
    rows, frames, classes = logits.shape
    if rows * frames * classes > xp.iinfo(context.index_dtype).max:
        return None
    time_major = xp.permute_dims(logits, (1, 0, 2))
    if is_contiguous(logits):
        flat, row_step, frame_step = xp.reshape(logits, (-1,)), frames * classes, classes
    elif is_contiguous(time_major):
        flat, row_step, frame_step = xp.reshape(time_major, (-1,)), classes, rows * classes
    else:
        return None
    row_start = context.arange(0, rows)[:, None] * row_step

    def look_up(index: Array, first: int, stop: int) -> Array:
        frame_start = context.arange(first, stop)[:, None, None] * frame_step
        place = frame_start + (index + row_start)
        return xp.reshape(xp.take(flat, xp.reshape(place, (-1,)), axis=0), place.shape)

    return look_up


def _strided_look_up(logits: Array, context: Context) -> LookUp:
    """By row, frame and class, wherever the logits lie."""
    xp = context.xp
    time_major = xp.permute_dims(logits, (1, 0, 2))

    def look_up(index: Array, first: int, stop: int) -> Array:
        return xp.take_along_axis(time_major[first:stop, :, :], index[None, :, :], axis=2)

    return look_up
