r"""The recursion in plain float64 probabilities: fast, and proved afterwards to be right.

A frame takes seven operations instead of thirty, and no exponentials. Emissions are relative to
the largest of each frame, so at most 1. A row (one direction of a sequence) is scaled to a largest
state of 1 at the start of each block of ``B`` frames, in which a state grows to ``3**B`` at most.

**What could be lost.** A state far below the best can be the only way through later. So nothing is
ever dropped: every state of a row gets ``floor`` added at the start of a block, reachable or not.
What underflows within a block is less than ``_LOST`` in the units of that block (each of its
products is rounded by at most 2**-1075, which grows by at most 3**B), and ``floor`` is chosen so
that it is more than that, whatever the new units are. So at the start of a block every state is at
least what it is in truth, in both directions.

**What was added.** At a frame let A be the states of one direction after the emission and B the
inflow of the other one, in the units of their blocks, so that ``sum(A * B)`` is the likelihood L in
the product of these units. The floor at the start of A's block adds less than ``3 * floor`` to a
state at the first frame of the block, so less than ``3 * floor * sum(B)`` to L. Likewise the floor
of B's block adds less than ``3 * floor * sum(A)`` at the last frame, which is B's first. What one
direction adds is weighed with all that the other one holds, its own additions among it, so no path
goes uncounted. Where both are less than ``_PART * L`` in every block, all that was added is less
than ``_PART`` times the number of blocks, 128 at most: 1e-16 of the likelihood, of the loss, and
of each occupancy. What underflows within a block changes its L by less than
``(2 S + 1) * 6 * 3**B * _LOST``, for which it is enough that L is at least ``_LEAST``.

So where the conditions hold, L is right to the last digit. It is then above 0, which proves that
some path emits the labels. Where they don't hold (very long sequences, extreme logits, masked
labels, NaN), nothing is wrong yet: the caller computes again with :mod:`ctcx._core.lattice`,
which needs no conditions.

The answer to that question has to be read, so this is only for libraries whose values lie in the
host's memory (:attr:`ctcx._core.loops.base.Loop.reads_values`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ctcx._core.occupancy import LogLikelihood

if TYPE_CHECKING:
    from ctcx._core.context import Context
    from ctcx._core.emissions import EmissionSource
    from ctcx._typing import Array, ArrayModule

__all__ = ["LONGEST", "run"]

LONGEST = 2048
"""More frames than this are hardly ever trusted, so they aren't tried."""

_FRAMES_A_BLOCK = 32
_FLOOR = 1e-200
"""At least this is added to states. Far above subnormal numbers, which are slow."""
_LOST = 1e-306
_PART = 1e-18
_LEAST = 1e-260
_TINY = 1e-300


class _ScaledStates(NamedTuple):
    """Probabilities of the labels (M, S+1), the last column spare, and of the blanks (M, S+1)."""

    label: Array
    blank: Array


class _ScaledEmissions(NamedTuple):
    """Of some frames, at most 1: (frames, M, S+1), (frames, M, 1)."""

    label: Array
    blank: Array


class _Past(NamedTuple):
    """What the first half leaves for the second one, by block; ``flows`` by block and frame."""

    flows: list[list[_ScaledStates]]
    tops: list[Array]
    floors: list[Array]


def run(
    source: EmissionSource,
    may_skip: Array,  # (2N, S+1), as in ctcx._core.lattice.Topology
    start: Array,  # (2N, S+1): 1 for the blank that each row starts in, else 0
    possible: Array,  # (2N, 1): whether a row has enough frames for its labels
    *,
    all_full: bool,  # every sequence uses all frames
    half: int,  # frames to the middle
    context: Context,
    each_blank: bool,  # 2S+1 columns of occupancies, S of labels and S+1 of blanks
) -> tuple[Array, LogLikelihood] | None:
    """Occupancies (2 * half, N, S+1) and log likelihoods of the forward rows, if proved.

    None where a number that was added, or that underflowed, may change the result.
    """
    recursion = _Probabilities(source, may_skip, start, possible, all_full, half, context)
    return recursion.run(each_blank=each_blank)


class _Probabilities:
    """The recursion over all frames; the arguments are those of :func:`run`."""

    def __init__(
        self,
        source: EmissionSource,
        may_skip: Array,
        start: Array,
        possible: Array,
        all_full: bool,  # noqa: FBT001 - private
        half: int,
        context: Context,
    ) -> None:
        self.context, self.xp = context, context.xp
        dtype = self.xp.float64
        self.source, self.all_full, self.half = source, all_full, half
        self.possible = possible
        self.may_skip = self.xp.astype(may_skip, dtype)
        self.start = self.xp.astype(start, dtype)
        self.zero = self.start[:, :1] * 0.0

    def run(self, *, each_blank: bool) -> tuple[Array, LogLikelihood] | None:
        xp = self.xp
        states, scale, past = self.first_half()
        early: list[Array] = []
        late: list[Array] = []
        first, logarithm = self.half, scale
        while past.tops:
            top = xp.flip(past.tops.pop())  # these frames, as the other direction saw them
            states, factor, floor = _rescaled(states, xp)
            emissions = self.emissions(self.logits(first, top.shape[0]), top)
            flows = past.flows.pop()
            added = floor * xp.flip(_sum(flows[-1], xp))
            states, label, blanks = self.meet(states, emissions, flows)
            blank = xp.sum(blanks, axis=2, keepdims=True)
            added = added + xp.flip(past.floors.pop()) * _sum(states, xp)
            # In one block's units the likelihood is the same at every frame.
            whole = xp.sum(label[0, :, :], axis=1, keepdims=True) + blank[0, :, :]
            proved = (whole >= _LEAST) & (_PART * whole >= 3.0 * added)
            if not bool(xp.all(proved | ~self.possible)):
                return None
            whole = xp.where(proved, whole, 1.0)
            if first == self.half:
                logarithm = xp.log(whole) + factor + scale + xp.flip(scale)
            first += top.shape[0]
            part = xp.where(proved, 1.0 / whole, 0.0)
            self.store(label, blanks if each_blank else blank, part, early, late)
        early.reverse()
        return xp.concat(early + late), self.log_likelihood(logarithm)

    def first_half(self) -> tuple[_ScaledStates, Array, _Past]:
        """Go to the middle: the states there, the logarithm of their unit, and the past."""
        xp, zero = self.xp, self.zero
        states = _ScaledStates(self.start * 0.0, self.start)
        scale, floor = zero, zero  # the start is exact
        past = _Past([], [], [])
        for first in range(0, self.half, _FRAMES_A_BLOCK):
            if first:
                states, factor, floor = _rescaled(states, xp)
                scale = scale + factor
            count = min(_FRAMES_A_BLOCK, self.half - first)
            logits = self.logits(first, count)
            top = _largest(logits, xp)
            emissions = self.emissions(logits, top)
            reference = self.source.reference[first : first + count, ...]
            scale = scale + xp.sum(top - xp.astype(reference, top.dtype), axis=0)
            past.tops.append(top)
            past.floors.append(floor)
            flows = []
            for frame in range(count):
                flow = _inflow(states, self.may_skip, zero, xp)
                states = _emit(flow, emissions, frame)
                flows.append(flow)
            past.flows.append(flows)
        return states, scale, past

    def meet(
        self, states: _ScaledStates, emissions: _ScaledEmissions, flows: list[_ScaledStates]
    ) -> tuple[_ScaledStates, Array, Array]:
        """Go through a block of the second half, and meet what the other direction left.

        The states behind it, and the products of both directions in the labels (frames, 2N, S) and
        in the blanks (frames, 2N, S+1).
        """
        xp = self.xp
        labels, blanks = [], []
        for frame in range(emissions.label.shape[0]):
            states = _emit(_inflow(states, self.may_skip, self.zero, xp), emissions, frame)
            other = flows.pop()
            labels.append(states.label[:, :-1] * xp.flip(other.label[:, :-1]))
            blanks.append(states.blank * xp.flip(other.blank))
        return states, xp.stack(labels), xp.stack(blanks)

    def store(
        self, label: Array, blank: Array, part: Array, early: list[Array], late: list[Array]
    ) -> None:
        """Add occupancies to those of the first frames and those of the last ones."""
        xp, rows = self.xp, self.zero.shape[0] // 2
        label, blank = self.context.cast(label * part), self.context.cast(blank * part)
        late.append(xp.concat([label[:, :rows, :], blank[:, :rows, :]], axis=2))
        # The backward direction goes from the middle to the first frame.
        turned = [xp.flip(label[:, rows:, :]), xp.flip(blank[:, rows:, :])]
        early.append(xp.concat(turned, axis=2))

    def logits(self, first: int, count: int) -> Array:
        return self.source.logits(first, count, all_full=self.all_full)

    def emissions(self, logits: Array, top: Array) -> _ScaledEmissions:
        label = self.xp.exp(self.xp.astype(logits, self.xp.float64) - top)
        return _ScaledEmissions(label, label[..., -1:])

    def log_likelihood(self, logarithm: Array) -> LogLikelihood:
        """Of the forward rows, from (2N, 1) in float64."""
        xp, cast, rows = self.xp, self.context.cast, self.zero.shape[0] // 2
        whole = xp.round(logarithm[:rows, 0])
        rest = logarithm[:rows, 0] - whole
        return LogLikelihood(cast(whole), cast(rest), self.possible[:rows, 0])


def _inflow(states: _ScaledStates, may_skip: Array, zero: Array, xp: ArrayModule) -> _ScaledStates:
    """Sum what flows into each state (Graves et al. 2006, eq. 6 and 7, before the emission)."""
    previous = xp.concat([zero, states.label[:, :-1]], axis=1)
    to_label = states.label + (states.blank + previous * may_skip)
    return _ScaledStates(to_label, states.blank + previous)


def _emit(flow: _ScaledStates, emissions: _ScaledEmissions, frame: int) -> _ScaledStates:
    return _ScaledStates(
        flow.label * emissions.label[frame, ...], flow.blank * emissions.blank[frame, ...]
    )


def _sum(states: _ScaledStates, xp: ArrayModule) -> Array:
    """Sum over all states of each row, (M, 1)."""
    label = xp.sum(states.label[:, :-1], axis=1, keepdims=True)
    return label + xp.sum(states.blank, axis=1, keepdims=True)


def _rescaled(states: _ScaledStates, xp: ArrayModule) -> tuple[_ScaledStates, Array, Array]:
    """Divide each row by its largest state; the logarithm of that; and what is added to each."""
    top = xp.maximum(
        xp.max(states.label[:, :-1], axis=1, keepdims=True),
        xp.max(states.blank, axis=1, keepdims=True),
    )
    top = xp.maximum(top, _TINY)
    floor = xp.maximum(_LOST / top, _FLOOR)
    return _ScaledStates(states.label / top + floor, states.blank / top + floor), xp.log(top), floor


def _largest(logits: Array, xp: ArrayModule) -> Array:
    """Largest logit of each frame's states, (frames, M, 1): what probabilities are relative to."""
    top = xp.max(logits, axis=2, keepdims=True)
    # A frame with every state masked has no largest; its rows die out.
    return xp.astype(xp.where(top > -float("inf"), top, 0.0), xp.float64)
