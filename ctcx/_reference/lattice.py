"""The whole CTC computation of one sequence, with every number on the way, in float64.

The recursion of Graves et al. 2006 (equations 6 to 11) on ``S = 2 L + 1`` states: blank, first
label, blank, ..., last label, blank. Every probability is ``m * 2**k`` with a ``k`` of its own, so
none is lost at any length, and there is no exponential or logarithm in the recursion.

It shares no code with the core and with the oracle of the conformance kit, which check it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ctcx._reference.portable_math import NOTHING, add_up, log, scaled, split_exp

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["Lattice", "LatticeInputs", "fewest_frames", "solve", "solve_all"]

_FURTHEST = 1e9
"""A class that is so many nats below the most probable one counts as impossible."""

_CHUNK = 2_000_000
"""How many cells of lattices are worked on together."""


class LatticeInputs(NamedTuple):
    """One sequence: logits (T, C), labels, and the blank class."""

    logits: NDArray[np.float64]
    labels: tuple[int, ...]
    blank: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Lattice:
    """All that a CTC computation has in it, for T frames, C classes and S = 2 L + 1 states."""

    states: NDArray[np.int64]
    """(S,): the class of each state: the labels with blanks around them."""
    skips: NDArray[np.bool_]
    """(S,): whether a state can be entered from the one before the last: a label that differs from
    the label before."""
    softmax: NDArray[np.float64]
    log_softmax: NDArray[np.float64]
    """(T, C): probabilities of the classes, and their logarithms."""
    alpha: NDArray[np.float64]
    """(T, S): logarithm of the probability of all beginnings of paths that are in a state at a
    frame, the frame included."""
    beta: NDArray[np.float64]
    """(T, S): logarithm of the probability of all ends of paths after a frame, given the state
    there. So the log-likelihood is the logarithm of the sum of ``exp(alpha + beta)`` at any
    frame."""
    occupancy: NDArray[np.float64]
    """(T, S): probability of a state at a frame, given the labels; rows add up to 1, or are 0 where
    the labels can't be emitted."""
    gradient: NDArray[np.float64]
    """(T, C): of the loss with respect to the logits."""
    loss: float
    """In nats; inf where the labels can't be emitted."""

    @property
    def feasible(self) -> bool:
        """Whether some path emits the labels."""
        return bool(self.loss < np.inf)


def fewest_frames(labels: Sequence[int]) -> int:
    """Return how many frames the labels need: their number, and one for each repeat."""
    return len(labels) + sum(a == b for a, b in pairwise(labels))


def solve(problem: LatticeInputs) -> Lattice:
    """Return the lattice of one sequence."""
    (lattice,) = solve_all([problem])
    return lattice


def solve_all(problems: Sequence[LatticeInputs]) -> Iterator[Lattice]:
    """Yield the lattice of each sequence; many are worked on together, with the same result."""
    start = 0
    while start < len(problems):
        stop, frames, width = start, 0, 0
        while stop < len(problems):
            frames = max(frames, len(problems[stop].logits))
            width = max(width, 2 * len(problems[stop].labels) + 1, problems[stop].logits.shape[1])
            if stop > start and (stop + 1 - start) * frames * width > _CHUNK:
                break
            stop += 1
        yield from _solve_together(problems[start:stop])
        start = stop


class _Scaled(NamedTuple):
    """Numbers ``m * 2**k``."""

    m: NDArray[np.float64]
    k: NDArray[np.int64]

    def __mul__(self, other: _Scaled) -> _Scaled:  # type: ignore[override]
        return _Scaled(self.m * other.m, np.where(self.m * other.m > 0, self.k + other.k, NOTHING))

    def added(self) -> _Scaled:
        """Return the sums over the last axis."""
        top = self.k.max(axis=-1, keepdims=True)
        return _Scaled(add_up(scaled(self.m, self.k - top)), top[..., 0])


def _solve_together(problems: Sequence[LatticeInputs]) -> Iterator[Lattice]:
    frames = np.array([len(problem.logits) for problem in problems])
    counts = np.array([len(problem.labels) for problem in problems])
    classes = max(problem.logits.shape[1] for problem in problems)
    shape = (len(problems), max(1, int(frames.max())))
    logits = np.full((*shape, classes), -np.inf)
    blanks = np.array([problem.blank for problem in problems])
    states = np.broadcast_to(blanks[:, None], (len(problems), 2 * int(counts.max()) + 1)).copy()
    for n, problem in enumerate(problems):
        logits[n, : frames[n], : problem.logits.shape[1]] = problem.logits
        states[n, 1 : 2 * counts[n] : 2] = problem.labels
    softmax, log_softmax = _softmax(logits)
    skips = np.zeros(states.shape, dtype=np.bool_)
    skips[:, 3::2] = states[:, 3::2] != states[:, 1:-2:2]
    alpha, beta = _both_ways(log_softmax, states, skips, frames, counts)
    log_alpha, log_beta = log(*alpha), log(*beta)
    joint = alpha * beta
    for n, (problem, length) in enumerate(zip(problems, frames, strict=True)):
        width, num_classes = 2 * counts[n] + 1, problem.logits.shape[1]
        here = _Scaled(joint.m[n, :length, :width], joint.k[n, :length, :width])
        loss = _loss(_Scaled(alpha.m[n, :length, :width], alpha.k[n, :length, :width]), width)
        probs = softmax[n, :length, :num_classes].copy()
        occupancy, gradient = np.zeros(here.m.shape), np.zeros(probs.shape)
        if loss < np.inf:
            total = here.added()
            occupancy = scaled(here.m, here.k - total.k[:, None]) / total.m[:, None]
            gradient = probs.copy()
            for s, state in enumerate(states[n, :width]):
                gradient[:, state] -= occupancy[:, s]
        yield Lattice(
            states=states[n, :width].copy(),
            skips=skips[n, :width].copy(),
            softmax=probs,
            log_softmax=log_softmax[n, :length, :num_classes].copy(),
            alpha=log_alpha[n, :length, :width].copy(),
            beta=log_beta[n, :length, :width].copy(),
            occupancy=occupancy,
            gradient=gradient,
            loss=loss,
        )


def _softmax(logits: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return softmax and log-softmax over the last axis; a row of -inf gives 0 and -inf."""
    top = logits.max(axis=-1, keepdims=True)
    shifted = logits - np.where(top > -np.inf, top, 0.0)
    # As good as impossible, and further than the exponential goes.
    shifted[shifted < -_FURTHEST] = -np.inf
    weights = scaled(*split_exp(shifted))
    total = add_up(weights)[..., None]
    total = np.where(total > 0.0, total, 1.0)
    return weights / total, shifted - log(total)


def _loss(alpha: _Scaled, width: int) -> float:
    """Return minus the logarithm of what is in the last two states after the last frame."""
    if not len(alpha.m):
        return 0.0 if width == 1 else np.inf
    end = _Scaled(alpha.m[-1, -2:], alpha.k[-1, -2:]).added()
    # Rounding may give a certain path a probability slightly above 1.
    return max(0.0, -float(log(end.m, end.k)))


def _both_ways(
    log_probs: NDArray[np.float64],
    states: NDArray[np.int64],
    skips: NDArray[np.bool_],
    frames: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> tuple[_Scaled, _Scaled]:
    """Return alpha and beta, shape (N, T, S).

    Beta is alpha of the sequence read backwards, less a frame's own emission (eq. 9 to 11).
    """
    num_frames, width = log_probs.shape[1], states.shape[1]
    reach = np.arange(width) <= 2 * counts[:, None]
    emission = np.take_along_axis(log_probs, states[:, None, :], axis=2)
    emission = np.where(reach[:, None, :], emission, -np.inf)
    t = np.maximum(frames[:, None] - 1 - np.arange(num_frames), 0)[:, :, None]
    s = np.maximum(2 * counts[:, None] - np.arange(width), 0)[:, None, :]
    rows = np.arange(len(states))[:, None, None]
    backwards = np.where(reach[:, None, :], emission[rows, t, s], -np.inf)
    # A skip into state s leaves state s - 2, which is the one entered backwards.
    left = np.zeros_like(skips)
    left[:, :-2] = skips[:, 2:]
    left = left[rows[:, 0], s[:, 0]] & reach
    before, after = _forward(
        _Scaled(*split_exp(np.concatenate([emission, backwards]))), np.concatenate([skips, left])
    )
    half = len(states)
    beta = _Scaled(before.m[half:][rows, t, s], before.k[half:][rows, t, s])
    outside = ~reach[:, None, :]
    beta = _Scaled(np.where(outside, 0.0, beta.m), np.where(outside, NOTHING, beta.k))
    return _Scaled(after.m[:half], after.k[:half]), beta


def _forward(probs: _Scaled, skips: NDArray[np.bool_]) -> tuple[_Scaled, _Scaled]:
    """Return what reaches each state before and after each frame's emission (eq. 6 and 7)."""
    before = _Scaled(np.zeros(probs.m.shape), np.full(probs.m.shape, NOTHING))
    after = _Scaled(np.zeros(probs.m.shape), np.full(probs.m.shape, NOTHING))
    before.m[:, 0, :2], before.k[:, 0, :2] = 1.0, 0
    for t in range(probs.m.shape[1]):
        if t:
            before.m[:, t], before.k[:, t] = _step(
                _Scaled(after.m[:, t - 1], after.k[:, t - 1]), skips
            )
        after.m[:, t], after.k[:, t] = _Scaled(before.m[:, t], before.k[:, t]) * _Scaled(
            probs.m[:, t], probs.k[:, t]
        )
    return before, after


def _step(now: _Scaled, skips: NDArray[np.bool_]) -> _Scaled:
    """Return what flows into each state: from itself, the one before, and by a skip."""
    one, two = (_shifted(now, by) for by in (1, 2))
    two = _Scaled(np.where(skips, two.m, 0.0), np.where(skips, two.k, NOTHING))
    top = np.maximum(np.maximum(now.k, one.k), two.k)
    total = scaled(now.m, now.k - top) + scaled(one.m, one.k - top) + scaled(two.m, two.k - top)
    m, more = np.frexp(total)
    return _Scaled(m, np.where(m > 0.0, top + more, NOTHING))


def _shifted(now: _Scaled, by: int) -> _Scaled:
    """Return the numbers of the states that stand ``by`` places before."""
    m, k = np.zeros_like(now.m), np.full_like(now.k, NOTHING)
    m[:, by:], k[:, by:] = now.m[:, :-by], now.k[:, :-by]
    return _Scaled(m, k)
