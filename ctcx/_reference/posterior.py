"""The right occupancies, entropy and sampled paths, in float64, by code of its own.

* :func:`enumerate_posterior` looks at every path, straight from the definition of CTC. For tiny
  problems only.
* :func:`occupancies` runs the textbook recursions of forward and backward variables, shifted in
  every frame; :func:`sample_paths` goes back along the forward variables, path by path.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ctcx._reference.oracle import LARGEST_LOSS, MAX_PATHS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

__all__ = ["Posterior", "SampledPaths", "enumerate_posterior", "occupancies", "sample_paths"]


@dataclass(frozen=True, eq=False, slots=True)
class Posterior:
    """The right answer to a batch.

    Attributes
    ----------
    loss : ndarray of float64, shape (N,)
        Negative log likelihood in nats, +inf where the labels can't be emitted.
    classes : ndarray of float64, shape (N, T, C)
        Probability of each class at each frame, given the labels; 0 in padding.
    states : ndarray of float64, shape (N, T, 2S + 1)
        The same of each state: 2j the blank before label j, 2j + 1 label j.
    entropy : ndarray of float64, shape (N,)
        Of the paths given the labels, in nats; 0 where there are none.
    paths : list of dict
        Probability of each path, a tuple of states, given the labels; empty but from enumeration.
    """

    loss: NDArray[np.float64]
    classes: NDArray[np.float64]
    states: NDArray[np.float64]
    entropy: NDArray[np.float64]
    paths: list[dict[tuple[int, ...], float]]


@dataclass(frozen=True, eq=False, slots=True)
class SampledPaths:
    """The right paths of given random numbers.

    Attributes
    ----------
    states : ndarray of int64, shape (N, K, T)
        -1 in padding, and all along for a sequence that can't emit its labels.
    margin : ndarray of float64, shape (N, K)
        How near any number of a path came to one at which it would have gone another way.
    """

    states: NDArray[np.int64]
    margin: NDArray[np.float64]


class _StateChain(NamedTuple):
    """One sequence: classes of the states, who may be skipped into, log probabilities (T, P)."""

    symbols: NDArray[np.int64]
    skips: NDArray[np.bool_]
    emitted: NDArray[np.float64]
    log_probs: NDArray[np.float64]


def occupancies(
    logits: ArrayLike,
    labels: ArrayLike,
    logit_lengths: ArrayLike,
    label_lengths: ArrayLike,
    blank: int,
    *,
    states: bool = True,  # noqa: ARG001 - the option of a kernel; here they are always made
) -> Posterior:
    """Return occupancies by the forward-backward recursion.

    Parameters
    ----------
    logits : array_like of float, shape (N, T, C)
        Unnormalised; what stands past a length is not looked at.
    labels : array_like of int, shape (N, S)
        Label sequences, padded on the right.
    logit_lengths, label_lengths : array_like of int, shape (N,)
        How many frames and labels count.
    blank : int
        The blank class, in ``range(C)``.
    states
        As a kernel gets it; without effect.

    Returns
    -------
    Posterior
    """
    return _posterior(_forward_backward, logits, labels, logit_lengths, label_lengths, blank)


def enumerate_posterior(
    logits: ArrayLike,
    labels: ArrayLike,
    logit_lengths: ArrayLike,
    label_lengths: ArrayLike,
    blank: int,
) -> Posterior:
    """Return occupancies by trying all paths.

    Parameters
    ----------
    logits, labels, logit_lengths, label_lengths, blank
        As in :func:`occupancies`.

    Returns
    -------
    Posterior

    Raises
    ------
    ValueError
        If a sequence has more than ``MAX_PATHS`` paths, or beginnings of paths.
    """
    return _posterior(_enumerate, logits, labels, logit_lengths, label_lengths, blank)


def sample_paths(
    logits: ArrayLike,
    labels: ArrayLike,
    logit_lengths: ArrayLike,
    label_lengths: ArrayLike,
    blank: int,
    *,
    uniforms: ArrayLike,
) -> SampledPaths:
    """Return the paths that given random numbers pick.

    Parameters
    ----------
    logits, labels, logit_lengths, label_lengths, blank
        As in :func:`occupancies`.
    uniforms : array_like of float, shape (N, K, T)
        Uniform in [0, 1): K paths of each sequence, one number a frame.

    Returns
    -------
    SampledPaths
    """
    numbers = np.asarray(uniforms, dtype=np.float64)
    paths = np.full(numbers.shape, -1)
    margin = np.ones(numbers.shape[:2])
    frames, counts = np.asarray(logit_lengths), np.asarray(label_lengths)
    for n in range(len(numbers)):
        length, count = int(frames[n]), int(counts[n])
        lattice = _lattice(np.asarray(logits)[n, :length], np.asarray(labels)[n, :count], blank)
        forward, loss = _forward(lattice)
        if length and loss <= LARGEST_LOSS:
            for k, own in enumerate(numbers[n, :, :length]):
                paths[n, k, :length], margin[n, k] = _backwards(lattice, forward, own)
    return SampledPaths(paths, margin)


def _backwards(
    lattice: _StateChain, forward: NDArray[np.float64], numbers: NDArray[np.float64]
) -> tuple[list[int], float]:
    """Return one path, and how near a number came to a boundary."""
    last = len(lattice.symbols) - 1
    candidates = [last - 1, last] if last else [last]
    path: list[int] = []
    margin = 1.0
    for t in reversed(range(len(forward))):
        if path:
            state = path[-1]
            candidates = [state, state - 1, state - 2][: 3 if lattice.skips[state] else 2]
            candidates = [s for s in candidates if s >= 0]
        weights = forward[t, candidates]
        bounds = np.cumsum(np.exp(weights - weights.max()))
        bounds /= bounds[-1]
        # A state of probability 0 is never picked, so its bound is none.
        alive = np.flatnonzero(weights > -np.inf)
        margin = min([margin, *np.abs(bounds[alive[:-1]] - numbers[t]).tolist()])
        chosen = next((i for i in alive.tolist() if numbers[t] < bounds[i]), int(alive[-1]))
        path.append(candidates[chosen])
    return path[::-1], margin


def _posterior(
    solve: Callable[[_StateChain], tuple[float, NDArray[np.float64], dict[Any, float]]],
    logits: ArrayLike,
    labels: ArrayLike,
    logit_lengths: ArrayLike,
    label_lengths: ArrayLike,
    blank: int,
) -> Posterior:
    batch, spellings = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    rows, frames, _ = batch.shape
    loss, entropy = np.full(rows, np.inf), np.zeros(rows)
    classes, states = np.zeros(batch.shape), np.zeros((rows, frames, 2 * spellings.shape[1] + 1))
    paths: list[dict[tuple[int, ...], float]] = []
    lengths = np.stack([np.asarray(logit_lengths), np.asarray(label_lengths)]).T.tolist()
    for n, (length, count) in enumerate(lengths):
        lattice = _lattice(batch[n, :length], spellings[n, :count], blank)
        found, occupancy, probabilities = solve(lattice)
        paths.append(probabilities)
        if not found <= LARGEST_LOSS:
            continue
        loss[n] = max(0.0, found)
        states[n, :length, : 2 * count + 1] = occupancy
        for state, symbol in enumerate(lattice.symbols):
            classes[n, :length, symbol] += occupancy[:, state]
        possible = lattice.log_probs > -np.inf
        mean = classes[n, :length][possible] * lattice.log_probs[possible]
        entropy[n] = max(0.0, -found - math.fsum(mean))
        if probabilities:
            entropy[n] = math.fsum(p * -math.log(p) for p in probabilities.values() if p)
    return Posterior(loss, classes, states, entropy, paths)


def _lattice(logits: NDArray[Any], labels: NDArray[np.int64], blank: int) -> _StateChain:
    symbols = np.full(2 * len(labels) + 1, blank)
    symbols[1::2] = labels
    skips = np.zeros(len(symbols), dtype=bool)
    skips[3::2] = symbols[3::2] != symbols[1:-2:2]
    logits = np.asarray(logits, dtype=np.float64)
    with np.errstate(all="ignore"):
        shifted = logits - logits.max(axis=1, keepdims=True) if len(logits) else logits
        log_probs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    log_probs = np.where(np.isnan(log_probs), -np.inf, log_probs)  # only -inf: impossible
    return _StateChain(symbols, skips, log_probs[:, symbols], log_probs)


def _forward(lattice: _StateChain) -> tuple[NDArray[np.float64], float]:
    """Return forward variables (T, P), each frame but for a term of its own, and the loss."""
    emitted = lattice.emitted
    forward = np.full(emitted.shape, -np.inf)
    if not len(emitted):
        return forward, 0.0 if len(lattice.symbols) == 1 else math.inf
    forward[0, :2] = emitted[0, :2]
    shifts = []
    with np.errstate(all="ignore"):
        for t in range(len(emitted)):
            if t:
                old = forward[t - 1]
                inflow = old.copy()
                inflow[1:] = np.logaddexp(inflow[1:], old[:-1])
                skipped = np.logaddexp(inflow[2:], old[:-2])
                inflow[2:] = np.where(lattice.skips[2:], skipped, inflow[2:])
                forward[t] = inflow + emitted[t]
            shifts.append(forward[t].max())
            if shifts[-1] == -np.inf:
                return forward, math.inf
            forward[t] -= shifts[-1]
        end = float(np.logaddexp.reduce(forward[-1, -2:]))
    return forward, math.inf if end == -math.inf else -math.fsum([*shifts, end])


def _forward_backward(lattice: _StateChain) -> tuple[float, NDArray[np.float64], dict[Any, float]]:
    forward, loss = _forward(lattice)
    if loss == math.inf or not len(forward):
        return loss, np.zeros(forward.shape), {}
    skips = np.zeros_like(lattice.skips)
    skips[2:] = lattice.skips[:1:-1]  # the step into a state, seen from behind
    turned = _StateChain(
        lattice.symbols[::-1], skips, lattice.emitted[::-1, ::-1], lattice.log_probs[::-1]
    )
    backward, _ = _forward(turned)
    emitted = np.where(lattice.emitted > -np.inf, lattice.emitted, 0.0)
    with np.errstate(over="ignore"):  # of finfo.min as a mask, which -inf is as well
        joint = forward + backward[::-1, ::-1] - emitted
        weights = np.exp(joint - joint.max(axis=1, keepdims=True))
    return loss, weights / weights.sum(axis=1, keepdims=True), {}


def _enumerate(lattice: _StateChain) -> tuple[float, NDArray[np.float64], dict[Any, float]]:
    frames, states = lattice.emitted.shape
    paths: list[tuple[int, ...]] = [(state,) for state in range(min(2, states))]
    for _ in range(frames - 1):
        paths = [
            (*path, state)
            for path in paths
            for state in range(path[-1], min(path[-1] + 3, states))
            if state < path[-1] + 2 or lattice.skips[state]
        ]
        if len(paths) > MAX_PATHS:
            msg = f"{states} states and {frames} frames have too many paths: more than {MAX_PATHS}"
            raise ValueError(msg)
    scores = {}
    for path in paths if frames else []:
        score = math.fsum(lattice.emitted[t, s] for t, s in enumerate(path))
        if path[-1] >= states - 2 and score > -math.inf:
            scores[path] = score
    if not frames:
        return 0.0 if states == 1 else math.inf, np.zeros((0, states)), {}
    if not scores:
        return math.inf, np.zeros((frames, states)), {}
    best = max(scores.values())
    total = math.fsum(math.exp(score - best) for score in scores.values())
    probabilities = {path: math.exp(score - best) / total for path, score in scores.items()}
    occupancy = np.zeros((frames, states))
    for path, probability in probabilities.items():
        occupancy[np.arange(frames), path] += probability
    return -(best + math.log(total)), occupancy, probabilities
