r"""The recursion in plain float64 probabilities: fast, and checked afterwards.

A frame takes seven operations instead of thirty, and no exponentials. Each row is scaled to a
largest state of 1 at the start of a block of frames, and states below ``_LOST`` are dropped there.
A state far below the best can be the only way through later, so what is dropped may matter. Whether
it did is told at the end, for certain:

Emissions are at most 1, so in a block of B frames a state grows by less than 3**B. What is dropped
in one direction is less than ``_LOST * 3**B`` in the units of its block, and it meets states of the
other direction that are less than 3**B in the units of theirs. If all that meets at that frame,
the likelihood in the same units, is at least ``_LEAST``, then what was dropped is less than
``_LOST * 9**B / _LEAST`` < 1e-24 of it. If that holds at every frame, the result is right to the
last digit. If it doesn't (very long sequences, extreme logits), nothing is wrong yet: the caller
computes again with :mod:`ctcx._arrayapi.lattice`, which needs no such condition.

The answer to that question has to be read, so this is only for libraries whose values lie in the
host's memory (:attr:`ctcx._arrayapi.loops.Loop.reads_values`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ctcx._arrayapi.occupancy import Likelihood

if TYPE_CHECKING:
    from ctcx._arrayapi.context import Context
    from ctcx._arrayapi.emissions import EmissionSource
    from ctcx._typing import Array, ArrayModule

__all__ = ["LONGEST", "occupancies"]

LONGEST = 2048
"""More frames than this are hardly ever trusted, so they aren't tried."""

_FRAMES_A_BLOCK = 32
_LOST = 1e-250
_LEAST = 1e-195
_TINY = 1e-300


class _States(NamedTuple):
    """Probabilities of the labels (M, S+1), the last column spare, and of the blanks (M, S+1)."""

    label: Array
    blank: Array


class _Emissions(NamedTuple):
    """Of some frames, at most 1: (frames, M, S+1), (frames, M, 1)."""

    label: Array
    blank: Array


def occupancies(
    source: EmissionSource,
    may_skip: Array,
    start: Array,
    possible: Array,
    offset: Array,
    *,
    steps: int,
    all_full: bool,
    context: Context,
) -> tuple[Array, Likelihood] | None:
    """Occupancies (steps, N, S+1) and likelihoods of the forward rows, if they can be trusted.

    Parameters
    ----------
    source
        Of the emissions.
    may_skip
        (2N, S+1), as in :class:`ctcx._arrayapi.lattice.Topology`.
    start
        (2N, S+1): 1 for the blank that each row starts in, else 0.
    possible
        (2N, 1): whether a row has enough frames for its labels; the others are all 0.
    offset
        (N,), taken off the logits that the likelihoods are relative to.
    steps
        Frames that each direction runs through, an even number.
    all_full
        Whether every sequence uses all frames.

    Returns
    -------
    tuple or None
        None where something that matters may have been lost.
    """
    xp = context.xp
    dtype = xp.float64
    half = steps // 2
    may_skip = xp.astype(may_skip, dtype)
    blank = xp.astype(start, dtype)
    states = _States(blank * 0.0, blank)
    zero = blank[:, :1] * 0.0
    scale, flows, tops = zero, [], []
    for first in range(0, half, _FRAMES_A_BLOCK):
        states, factor = _rescaled(states, xp)
        logits = source.logits(first, min(_FRAMES_A_BLOCK, half - first), all_full=all_full)
        top = _largest(logits, xp)
        tops.append(top)
        emissions = _emissions(logits, top, xp)
        scale = scale + factor + xp.sum(top, axis=0)
        for frame in range(emissions.label.shape[0]):
            flow = _inflow(states, may_skip, zero, xp)
            states = _emit(flow, emissions, frame)
            flows.append(flow)
    ahead = _inflow(states, may_skip, zero, xp)
    taken_off = xp.astype(offset, dtype)[:, None] * steps
    total = _likelihood(states, ahead, scale, taken_off, context)

    rows = zero.shape[0] // 2
    early: list[Array] = []
    late: list[Array] = []
    least = zero[0, 0] + 1.0
    first = half
    while tops:
        top = xp.flip(tops.pop())  # these frames, as the other direction saw them
        states, _ = _rescaled(states, xp)
        logits = source.logits(first, top.shape[0], all_full=all_full)
        emissions = _emissions(logits, top, xp)
        first += top.shape[0]
        labels, blanks = [], []
        for frame in range(emissions.label.shape[0]):
            states = _emit(_inflow(states, may_skip, zero, xp), emissions, frame)
            other = flows.pop()
            labels.append(states.label[:, :-1] * xp.flip(other.label[:, :-1]))
            blanks.append(states.blank * xp.flip(other.blank))
        label = xp.stack(labels)
        blank = xp.sum(xp.stack(blanks), axis=2, keepdims=True)
        # In one block's units the likelihood is the same at every frame.
        whole = xp.sum(label[0, :, :], axis=1, keepdims=True) + blank[0, :, :]
        least = xp.minimum(least, xp.min(xp.where(possible, whole, 1.0)))
        part = 1.0 / xp.maximum(whole, _TINY)
        label, blank = context.cast(label * part), context.cast(blank * part)
        late.append(xp.concat([label[:, :rows, :], blank[:, :rows, :]], axis=2))
        # The backward direction goes from the middle to the first frame.
        turned = [xp.flip(label[:, rows:, :]), xp.flip(blank[:, rows:, :])]
        early.append(xp.concat(turned, axis=2))
    if not bool(least >= _LEAST):
        return None
    return xp.concat([*reversed(early), *late]), total


def _inflow(states: _States, may_skip: Array, zero: Array, xp: ArrayModule) -> _States:
    """Sum what flows into each state (Graves et al. 2006, eq. 6 and 7, before the emission)."""
    previous = xp.concat([zero, states.label[:, :-1]], axis=1)
    to_label = states.label + (states.blank + previous * may_skip)
    return _States(to_label, states.blank + previous)


def _emit(flow: _States, emissions: _Emissions, frame: int) -> _States:
    return _States(
        flow.label * emissions.label[frame, ...], flow.blank * emissions.blank[frame, ...]
    )


def _rescaled(states: _States, xp: ArrayModule) -> tuple[_States, Array]:
    """Divide each row by its largest state and drop what is lost; and the logarithm of that."""
    top = xp.maximum(
        xp.max(states.label[:, :-1], axis=1, keepdims=True),
        xp.max(states.blank, axis=1, keepdims=True),
    )
    top = xp.maximum(top, _TINY)

    def kept(array: Array) -> Array:
        array = array / top
        return array * xp.astype(array > _LOST, array.dtype)

    return _States(kept(states.label), kept(states.blank)), xp.log(top)


def _largest(logits: Array, xp: ArrayModule) -> Array:
    """Largest logit of each frame's states, (frames, M, 1): what probabilities are relative to."""
    top = xp.max(logits, axis=2, keepdims=True)
    # A frame with every state masked has no largest; its rows die out.
    return xp.astype(xp.where(top > -float("inf"), top, 0.0), xp.float64)


def _emissions(logits: Array, top: Array, xp: ArrayModule) -> _Emissions:
    label = xp.exp(xp.astype(logits, xp.float64) - top)
    return _Emissions(label, label[..., -1:])


def _likelihood(
    states: _States, ahead: _States, scale: Array, taken_off: Array, context: Context
) -> Likelihood:
    """Of the forward rows, where they meet the backward ones in the middle."""
    xp = context.xp
    rows = scale.shape[0] // 2
    label = states.label[:, :-1] * xp.flip(ahead.label[:, :-1])
    blank = states.blank * xp.flip(ahead.blank)
    met = xp.sum(label, axis=1, keepdims=True) + xp.sum(blank, axis=1, keepdims=True)
    logarithm = xp.log(xp.maximum(met, _TINY)) + scale + xp.flip(scale)
    logarithm = logarithm[:rows, :] - taken_off
    exponent = xp.round(logarithm)
    mantissa = xp.exp(logarithm - exponent)
    return Likelihood(context.cast(exponent), context.cast(mantissa), met[:rows, :] > 0.0)
