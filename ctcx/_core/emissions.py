r"""Emission probabilities of the labels and the blank, as mantissa and exponent.

With ``x`` a logit and ``p`` the largest of its frame, over all classes,
``exp(x) = mantissa * exp(exponent + reference)``, where ``reference`` is p and ``exponent +
reference`` is x, both rounded to a multiple of :data:`ctcx._core.context.GRAIN`. What rounding
takes from x goes into the mantissa, and is exact. So nothing is lost, and a constant that is added
to all logits of a frame changes nothing, however large it is. The softmax's denominator is left
out: it is the same for all states of a frame, so it drops out of every occupancy, and the loss adds
it up apart (:func:`ctcx._core.occupancy.loss_of`).

Equal frames would be rounded alike, and the errors of many would add up with their number, not with
its root. So in a long sequence all logits of a frame are lowered by a shift of its own, which
rounds each differently. It is a multiple of 2**-13, so that taking it off is exact, but for logits
near 0.

Frames past a sequence's length, in either direction, emit the blank with probability 1 and labels
with probability 0. All probability then rests in one blank before the first frame and after the
last, and sequences of different lengths run side by side without a further mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ctcx._arrays.facts import is_contiguous, is_undecided
from ctcx._core.context import DEAD, GRAIN, in_grains

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctcx._core.context import Context
    from ctcx._typing import Array

    LookUp = Callable[[Array, Array], Array]

__all__ = ["ClassLookup", "EmissionSource", "Emissions"]


_FEW = 128
"""Errors of so many equal frames don't add up to much."""


class LabelLogits(NamedTuple):
    """Logits of some frames, (frames, M, S+1), the last column the blank's.

    ``reference`` is that of each frame, (frames, M, 1), and ``shifts`` what is taken off, or None.
    """

    logits: Array
    reference: Array
    shifts: Array | None


class Emissions(NamedTuple):
    """Emission probabilities of some frames: (frames, M, S+1) for labels, (frames, M, 1) for blank.

    The last column of the labels repeats the blank; it belongs to no label.
    """

    exponent: Array
    mantissa: Array
    blank_exponent: Array
    blank_mantissa: Array


def _shifts(frame: Array, context: Context) -> Array:
    """Give the shifts of frames: multiples of 2**-13, within 1/4.

    By the golden ratio, so that they fill the range evenly; two by two they add up to 0.
    """
    pair, second = frame // 2, frame % 2
    return context.cast((pair * 1265 % 2048) * (1 - 2 * second)) * 2.0**-13


class ClassLookup:
    """Looks up the labels' and the blank's entries by step, for both directions at once."""

    def __init__(
        self,
        array: Array,  # (N, T, C)
        classes: Array,  # (N, S), the labels; past a length any valid class
        blank: int,
        logit_lengths: Array,  # (N,)
        resting: Array,  # (2N, S+1): the entries of frames past a length
        *,
        steps: int,  # how many frames a direction runs through: T, or more
        look_up: LookUp | None,  # to look all up now, each entry once, not by step, each twice
        context: Context,
    ) -> None:
        xp = context.xp
        rows, frames, num_classes = array.shape
        time_major = xp.permute_dims(array, (1, 0, 2))
        if is_contiguous(time_major) and not is_contiguous(array):
            self._flat, row_step, frame_step = time_major, num_classes, rows * num_classes
        else:
            self._flat, row_step, frame_step = array, frames * num_classes, num_classes
        self._flat = xp.reshape(self._flat, (-1,))
        self._columns = xp.concat([classes, context.integers((rows, 1), blank)], axis=1)
        self._frame_step, self._frames, self._steps = frame_step, frames, steps
        # Where the classes of each row lie in memory at frame 0.
        row_start = context.arange(0, rows)[:, None] * row_step
        labels, blanks = classes + row_start, row_start + blank
        self._start = xp.concat(
            [
                xp.concat([labels, blanks], axis=1),
                xp.concat([xp.flip(labels), xp.flip(blanks)], axis=1),
            ],
            axis=0,
        )
        self._lengths = xp.concat([logit_lengths, xp.flip(logit_lengths)])[:, None]
        self._is_forward = context.arange(0, 2 * rows)[:, None] < rows
        self._resting = resting
        self._context = context
        self._all: Array | None = None
        if look_up is not None:
            self._all = self._looked_up_at_once(look_up, array, rows)

    def _looked_up_at_once(self, look_up: LookUp, array: Array, rows: int) -> Array:
        """All steps: those of the forward direction, and the same turned round."""
        context, xp = self._context, self._context.xp
        if self._frames == 0:
            return xp.broadcast_to(self._resting, (self._steps, *self._start.shape))
        inside = context.arange(0, self._steps)[:, None, None] < self._lengths[None, :rows, :]
        beyond = self._steps - self._frames
        found = []
        for columns in (slice(None, -1), slice(-1, None)):  # XLA copies less if these stay apart
            part = xp.permute_dims(look_up(array, self._columns[:, columns]), (1, 0, 2))
            resting = self._resting[None, :rows, columns]
            if is_undecided(beyond) or beyond > 0:
                rest = xp.broadcast_to(resting, (beyond, *resting.shape[1:]))
                part = xp.concat([context.cast(part), rest])
            part = xp.where(inside, context.cast(part), resting)
            found.append(xp.concat([part, xp.flip(part)], axis=1))
        return xp.concat(found, axis=2)

    def __call__(self, first: int, count: int, *, all_full: bool = False) -> Array:
        """Entries of the labels and, last, the blank at some steps: (count, 2N, S+1).

        ``all_full`` says that every sequence is known to use all frames, which saves a pass.
        """
        if self._all is not None:
            return self._all[first : first + count, :, :]
        context, xp = self._context, self._context.xp
        step = context.arange(first, first + count)[:, None, None]
        frame = xp.where(self._is_forward[None, :, :], step, self._steps - 1 - step)
        if self._frames == 0:
            return xp.broadcast_to(self._resting, (count, *self._start.shape))
        # A frame past the end is outside of every sequence; it only must not be out of range.
        place = xp.minimum(frame, self._frames - 1) * self._frame_step + self._start[None, :, :]
        found = xp.reshape(xp.take(self._flat, xp.reshape(place, (-1,)), axis=0), place.shape)
        found = context.cast(found)
        beyond = self._steps - self._frames
        if all_full and first >= beyond and first + count <= self._frames:
            return found
        return xp.where(frame < self._lengths[None, :, :], found, self._resting[None, :, :])


class EmissionSource:
    """Emissions by step, for both directions of the recursion at once; see :class:`ClassLookup`."""

    def __init__(
        self,
        logits: Array,  # (N, T, C)
        classes: Array,
        blank: int,
        logit_lengths: Array,
        reference: Array,  # (N, T), the largest logit of each frame in grains; 0 past a length
        *,
        steps: int,
        look_up: LookUp | None,
        context: Context,
    ) -> None:
        xp = context.xp
        rows, frames = reference.shape
        by_step = xp.permute_dims(reference, (1, 0))
        if is_undecided(steps) or steps > frames:
            by_step = xp.concat([by_step, context.full((steps - frames, rows), 0.0)])
        self.reference = xp.concat([by_step, xp.flip(by_step)], axis=1)[:, :, None]
        """(steps, 2N, 1), as both directions meet them."""
        self.shift: Array | float = 0.0
        """(N,), the sum of the shifts of each sequence's frames."""
        self._shifts: Array | None = None
        if is_undecided(steps) or steps > _FEW:
            frame, last = context.arange(0, steps)[:, None], logit_lengths - 1
            many = logit_lengths > _FEW
            shifted = many[None, :] & (frame < logit_lengths[None, :])
            shifts = xp.where(shifted, _shifts(frame, context), 0.0)
            self._shifts = xp.concat([shifts, xp.flip(shifts)], axis=1)[:, :, None]
            self.shift = xp.where(many & (last % 2 == 0), _shifts(last, context), 0.0)
        no_label = context.full((2 * rows, classes.shape[1]), -float("inf"))
        resting = xp.concat([no_label, context.full((2 * rows, 1), 0.0)], axis=1)
        self._context = context
        self._lowest = float(xp.finfo(context.dtype).min)
        self.logits = ClassLookup(
            logits,
            classes,
            blank,
            logit_lengths,
            resting,
            steps=steps,
            look_up=look_up,
            context=context,
        )

    def __call__(self, first: int, count: int, *, all_full: bool = False) -> Emissions:
        """Emissions of some steps; the arguments are those of :class:`ClassLookup`."""
        return self.split(self.read(first, count, all_full=all_full))

    def read(self, first: int, count: int, *, all_full: bool = False) -> LabelLogits:
        """Look up what emissions are made of; the arguments are those of :class:`ClassLookup`."""
        part = slice(first, first + count)
        shifts = None if self._shifts is None else self._shifts[part, ...]
        logits = self.logits(first, count, all_full=all_full)
        return LabelLogits(logits, self.reference[part, ...], shifts)

    def split(self, read: LabelLogits, grain: float = GRAIN) -> Emissions:
        """Split into mantissas and exponents.

        Exponents are multiples of ``grain``, but for the reference, which all states have in
        common.
        """
        xp = self._context.xp
        # -inf minus a finite number is -inf, whose exp is the mantissa of a masked class: 0.
        rounded = xp.maximum(in_grains(read.logits, xp, grain), self._lowest)
        rest = read.logits - rounded
        if read.shifts is not None:
            rest = rest - read.shifts
        mantissa = xp.exp(rest)
        exponent = xp.maximum(rounded - read.reference, DEAD)
        return Emissions(exponent, mantissa, exponent[..., -1:], mantissa[..., -1:])
