"""A few frames of the recursion for the best path, in sums that lose nothing.

Its equations are in :mod:`ctcx._core.best_path`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ctcx._core.context import DEAD, START, in_grains

if TYPE_CHECKING:
    from ctcx._core.context import Context
    from ctcx._typing import Array

__all__ = ["Float64Sums", "PathState", "Sums", "Viterbi"]

_INFINITY = float("inf")

Sums: TypeAlias = "tuple[Array, ...]"
"""Sums of logits, in one array or two: see the classes below."""


class Float64Sums:
    """Sums in float64; impossible states are at -inf."""

    impossible = (-_INFINITY,)
    zero = (0.0,)

    def __init__(self, context: Context) -> None:
        self._xp = context.xp
        self.dtype = context.xp.float64

    def emissions(self, logits: Array, largest: Array) -> Sums:
        xp, dtype = self._xp, self.dtype
        return (xp.astype(logits, dtype, copy=False) - xp.astype(largest, dtype, copy=False),)

    @staticmethod
    def plus(sums: Sums, emissions: Sums) -> Sums:
        return (sums[0] + emissions[0],)

    @staticmethod
    def is_better(sums: Sums, others: Sums) -> Array:
        return sums[0] > others[0]

    def best(self, sums: Sums, others: Sums) -> Sums:
        return (self._xp.maximum(sums[0], others[0]),)

    @staticmethod
    def is_possible(sums: Sums) -> Array:
        return sums[0] > -_INFINITY


class _TwoFloat32Sums:
    """Sums as a multiple of 8 and a rest; impossible states are at ``DEAD``."""

    impossible = (DEAD, 0.0)
    zero = (START, 0.0)

    def __init__(self, context: Context) -> None:
        self._xp = context.xp
        self.dtype = context.xp.float32

    def emissions(self, logits: Array, largest: Array) -> Sums:
        """Relative to the largest, rounded to a multiple of 8."""
        xp = self._xp
        reference = in_grains(largest, xp)
        possible = logits > -_INFINITY
        rounded = in_grains(xp.where(possible, logits, 0.0), xp)
        whole = xp.where(possible, xp.maximum(rounded - reference, DEAD), DEAD)
        return whole, xp.where(possible, logits - rounded, 0.0)

    def plus(self, sums: Sums, emissions: Sums) -> Sums:
        rest = sums[1] + emissions[1]
        shift = in_grains(rest, self._xp)
        return sums[0] + emissions[0] + shift, rest - shift

    def is_better(self, sums: Sums, others: Sums) -> Array:
        """Whether it is, and is possible at all."""
        return ((sums[0] - others[0]) + (sums[1] - others[1]) > 0.0) & self.is_possible(sums)

    def best(self, sums: Sums, others: Sums) -> Sums:
        better = self.is_better(sums, others)
        return tuple(
            self._xp.where(better, mine, other) for mine, other in zip(sums, others, strict=True)
        )

    @staticmethod
    def is_possible(sums: Sums) -> Array:
        return sums[0] > 0.1 * DEAD


class PathState(NamedTuple):
    """Best sums after a frame, (N, W+1) each: of the blanks, and of the label before each blank."""

    blank: Sums
    label: Sums


class _Ways(NamedTuple):
    """What can come into labels, (N, W) each: by staying, from one state back, the better of the
    two, and from two back.
    """

    stay: Sums
    one_back: Sums
    near: Sums
    two_back: Sums


class Viterbi:
    """Goes through frames, in new arrays for each."""

    states_at_once = 0
    """Frames of so many states, of all sequences, go into a call, or as many as the loop likes."""

    def __init__(self, context: Context) -> None:
        self._xp = context.xp
        self.sums = Float64Sums(context) if context.has_float64 else _TwoFloat32Sums(context)

    def __call__(
        self,
        state: PathState,  # before the frames; it isn't changed
        blanks: Sums,  # emissions (t, N, 1 or W+1)
        labels: Sums,  # (t, N, W)
        may_not_skip: Array | None,  # (N, W): impossible at a repeat, else 0; None: none
        *,
        choices: bool,
    ) -> tuple[PathState, Array | None]:
        """Go through t frames; with ``choices``, how many states back each state comes from.

        These are (t, N, 2W+2) of int8, of blank and label by turns; no label stands after the last
        blank.
        """
        moves = []
        for i in range(labels[0].shape[0]):
            before = state
            blank, label = (tuple(part[i, ...] for part in parts) for parts in (blanks, labels))
            state, ways = self._advance(before, blank, label, may_not_skip)
            if choices:
                moves.append(self._moves(before, ways))
        if not choices:
            return state, None
        from_blank, from_label, skips = map(self._xp.stack, zip(*moves, strict=True))
        return state, self.choices(from_blank, from_label, skips)

    def _advance(
        self, state: PathState, blanks: Sums, labels: Sums, may_not_skip: Array | None
    ) -> tuple[PathState, _Ways]:
        """Go on by one frame."""
        xp, sums = self._xp, self.sums
        one_back = tuple(part[:, :-1] for part in state.blank)
        stay = tuple(part[:, 1:] for part in state.label)
        two_back = tuple(part[:, :-1] for part in state.label)
        if may_not_skip is not None:
            two_back = (two_back[0] + may_not_skip, *two_back[1:])
        near = sums.best(one_back, stay)
        label = sums.plus(sums.best(two_back, near), labels)
        blank = sums.plus(sums.best(state.label, state.blank), blanks)
        # No label stands before the first blank; what stands before a window's can't matter.
        nothing = (part[:, :1] for part in state.label)
        label = tuple(xp.concat(parts, axis=1) for parts in zip(nothing, label, strict=True))
        return PathState(blank, label), _Ways(stay, one_back, near, two_back)

    def _moves(self, before: PathState, ways: _Ways) -> tuple[Array, Array, Array]:
        is_better = self.sums.is_better
        return (
            is_better(before.label, before.blank),
            is_better(ways.one_back, ways.stay),
            is_better(ways.two_back, ways.near),
        )

    def choices(self, from_blank: Array, from_label: Array, skips: Array) -> Array:
        """Join what is true: blanks are left for the label before (t, N, W+1), labels for the blank
        before (t, N, W), or for the label before that.
        """
        xp = self._xp
        blank = xp.astype(from_blank, xp.int8)
        label = xp.maximum(xp.astype(from_label, xp.int8), 2 * xp.astype(skips, xp.int8))
        label = xp.concat([label, xp.zeros_like(label[:, :, :1])], axis=2)
        both = xp.stack([blank, label], axis=3)
        return xp.reshape(both, (*both.shape[:2], 2 * both.shape[2]))
