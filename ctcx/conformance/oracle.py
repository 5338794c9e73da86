"""The truth that kernels are measured against; it shares no code with the rest of ctcx.

Two independent ways to the same numbers:

* :func:`enumerate_paths` adds up the probability of every one of the ``C**T`` paths, straight from
  the definition of CTC (Graves et al. 2006, equations 2 and 3). For tiny problems only.
* :func:`reference` runs the forward-backward recursion (the same paper, section 4.1) one sequence
  at a time in a log domain that is normalised in every frame, for problems of any length.

Both differentiate with respect to unnormalised logits: a row of the gradient is
``softmax(logits[t])`` minus the probability that a path spelling the labels is in each class at
frame ``t``; it is 0 past a sequence's length, and for a sequence that can't emit its labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import ArrayLike, NDArray

__all__ = ["Truth", "enumerate_paths", "reference", "round_to_dtype"]

MAX_PATHS = 100_000
"""More paths than this in one sequence are refused by :func:`enumerate_paths`."""


@dataclass(frozen=True, eq=False, slots=True)
class Truth:
    """The right answer to a batch, in double precision.

    Attributes
    ----------
    loss : ndarray of float64, shape (N,)
        Negative log likelihood in nats, +inf where the labels can't be emitted.
    grad : ndarray of float64, shape (N, T, C)
        Gradient of each loss with respect to its unnormalised logits.
    feasible : ndarray of bool, shape (N,)
        Whether some path emits the labels.
    """

    loss: NDArray[np.float64]
    grad: NDArray[np.float64]
    feasible: NDArray[np.bool_]


def enumerate_paths(
    logits: ArrayLike,
    labels: ArrayLike,
    logit_lengths: ArrayLike,
    label_lengths: ArrayLike,
    blank: int,
) -> Truth:
    """Return loss and gradient by adding up all paths.

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

    Returns
    -------
    Truth

    Raises
    ------
    ValueError
        If a sequence has more than ``MAX_PATHS`` paths.
    """
    sequence = partial(_enumerate_sequence, blank=blank)
    return _by_sequence(sequence, logits, labels, logit_lengths, label_lengths)


def reference(
    logits: ArrayLike,
    labels: ArrayLike,
    logit_lengths: ArrayLike,
    label_lengths: ArrayLike,
    blank: int,
    *,
    real: type[np.floating[Any]] = np.float64,
) -> Truth:
    """Return loss and gradient by the forward-backward recursion.

    Parameters
    ----------
    logits, labels, logit_lengths, label_lengths, blank
        As in :func:`enumerate_paths`.
    real
        The type computed in; ``numpy.longdouble`` serves to check ``numpy.float64``.

    Returns
    -------
    Truth
        In float64, whatever ``real`` is.

    Notes
    -----
    Both recursions are shifted in every frame so that the largest entry is 0, and the occupancies
    of a frame are divided by their own sum. An error that all states of a frame share, which is
    what accumulates over thousands of frames, therefore never reaches the gradient.
    """

    def sequence(frames: NDArray[Any], spelled: NDArray[np.int64]) -> tuple[float, NDArray[Any]]:
        return _recurse(frames.astype(real), spelled, blank)

    return _by_sequence(sequence, logits, labels, logit_lengths, label_lengths)


def round_to_dtype(values: NDArray[np.float64], dtype: str) -> NDArray[np.float64]:
    """Return the nearest values that ``dtype`` can hold; finite ones stay finite.

    Parameters
    ----------
    values : ndarray of float64
        Any shape; NaN and infinities are kept.
    dtype : str
        ``"float64"``, ``"float32"``, ``"float16"`` or ``"bfloat16"``.

    Returns
    -------
    ndarray of float64
        The same shape.
    """
    if dtype == "float64":
        return values
    if dtype == "bfloat16":
        # NumPy has no bfloat16: it is the upper half of a float32, rounded to nearest even.
        largest = float(np.uint32(0x7F7F0000).view(np.float32))
        single = _clipped(values, largest).astype(np.float32)
        bits = single.view(np.uint32).astype(np.int64)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        half = bits.astype(np.uint32).view(np.float32).astype(np.float64)
        # The carry would turn some NaNs into infinities.
        return np.where(np.isnan(values), values, half)
    kind = np.dtype(dtype)
    return _clipped(values, float(np.finfo(kind).max)).astype(kind).astype(np.float64)


def _clipped(values: NDArray[np.float64], largest: float) -> NDArray[np.float64]:
    """Return ``values`` with the finite ones brought into [-largest, largest]."""
    return np.where(np.isfinite(values), np.clip(values, -largest, largest), values)


def _by_sequence(
    sequence: Callable[[NDArray[Any], NDArray[np.int64]], tuple[float, NDArray[Any]]],
    logits: ArrayLike,
    labels: ArrayLike,
    logit_lengths: ArrayLike,
    label_lengths: ArrayLike,
) -> Truth:
    """Apply ``sequence`` to each sequence of a batch, cut to its lengths."""
    batch = np.asarray(logits, dtype=np.float64)
    spellings = np.asarray(labels, dtype=np.int64)
    loss = np.zeros(batch.shape[0])
    grad = np.zeros(batch.shape)
    lengths = zip(
        np.asarray(logit_lengths, dtype=np.int64).tolist(),
        np.asarray(label_lengths, dtype=np.int64).tolist(),
        strict=True,
    )
    for n, (frames, count) in enumerate(lengths):
        loss[n], grad[n, :frames] = sequence(batch[n, :frames], spellings[n, :count])
    return Truth(loss=loss, grad=grad, feasible=np.isfinite(loss))


def _log_softmax(logits: NDArray[Any]) -> NDArray[Any]:
    """Log-probabilities (T, C); a logit of -inf gives -inf."""
    if not logits.size:
        return logits
    top = logits.max(axis=-1, keepdims=True)
    # Subtracting the largest first keeps the digits of large logits. A frame of only -inf logits
    # has no softmax: every class of it is impossible.
    shifted = logits - np.where(np.isneginf(top), 0.0, top)
    total = np.exp(shifted).sum(axis=-1, keepdims=True)
    result: NDArray[Any] = shifted - np.log(np.where(total > 0.0, total, 1.0))
    return result


def _enumerate_sequence(
    logits: NDArray[Any], labels: NDArray[np.int64], blank: int
) -> tuple[float, NDArray[Any]]:
    """Return loss and gradient (T, C) of one sequence, from all of its paths."""
    num_frames, num_classes = logits.shape
    num_paths = num_classes**num_frames
    if num_paths > MAX_PATHS:
        msg = f"{num_classes} classes and {num_frames} frames make {num_paths} paths: too many"
        raise ValueError(msg)
    paths = np.indices((num_classes,) * num_frames).reshape(num_frames, num_paths).T
    paths = paths[[_collapse(path, blank) == labels.tolist() for path in paths.tolist()]]
    log_probs = _log_softmax(logits)
    probs = np.exp(log_probs)
    scores = log_probs[np.arange(num_frames), paths].sum(axis=1)
    best = scores.max(initial=-np.inf)
    if best == -np.inf:
        return math.inf, np.zeros_like(logits)
    weights = np.exp(scores - best)
    total = math.fsum(weights)
    grad = probs.copy()
    for t in range(num_frames):
        for k in range(num_classes):
            grad[t, k] -= math.fsum(weights[paths[:, t] == k]) / total
    return max(0.0, -(float(best) + math.log(total))), grad


def _collapse(path: list[int], blank: int) -> list[int]:
    """Return the labels that a path spells: repeats merged, then blanks removed."""
    return [k for t, k in enumerate(path) if k != blank and (t == 0 or path[t - 1] != k)]


def _recurse(
    logits: NDArray[Any], labels: NDArray[np.int64], blank: int
) -> tuple[float, NDArray[Any]]:
    """Return loss and gradient (T, C) of one sequence, by forward-backward."""
    grad = np.zeros_like(logits)
    if not len(logits):
        return (math.inf if len(labels) else 0.0), grad
    states = np.full(2 * len(labels) + 1, blank)
    states[1::2] = labels
    skips = np.zeros(len(states), dtype=np.bool_)
    skips[3::2] = labels[1:] != labels[:-1]
    # finfo.min as a mask may overflow to -inf, which is as right as the mask.
    with np.errstate(over="ignore", divide="ignore"):
        log_probs = _log_softmax(logits)
        loss, occupancies = _forward_backward(log_probs, states, skips)
        if loss == math.inf:
            return loss, grad
        grad += np.exp(log_probs)
        for t, occupancy in occupancies:
            np.subtract.at(grad[t], states, occupancy)
    return loss, grad


def _forward_backward(
    log_probs: NDArray[Any], states: NDArray[np.int64], skips: NDArray[np.bool_]
) -> tuple[float, Iterator[tuple[int, NDArray[Any]]]]:
    """Return the loss, and the frames from last to first with the occupancy of each state."""
    # Only every `stride`-th row of alpha is kept; the others are computed again going back.
    stride = max(1, math.isqrt(len(log_probs)))
    alpha = np.full(len(states), -np.inf, dtype=log_probs.dtype)
    alpha[:2] = log_probs[0, states[:2]]
    kept = []
    offsets = []
    for t in range(len(log_probs)):
        if t:
            alpha = _step(alpha, skips) + log_probs[t, states]
        offset = alpha.max()
        if offset == -np.inf:
            return math.inf, iter(())
        offsets.append(offset)
        alpha = alpha - offset
        if t % stride == 0:
            kept.append(alpha)
    last = np.logaddexp.reduce(alpha[-2:])
    if last == -np.inf:
        return math.inf, iter(())
    loss = max(0.0, -_exact_sum([*offsets, last]))
    return loss, _occupancies(log_probs, states, skips, kept)


def _exact_sum(terms: list[np.floating[Any]]) -> float:
    """Return the sum, rounded once. ``fsum`` takes doubles, so a longer type goes in two parts."""
    heads = [float(term) for term in terms]
    tails = [float(term - type(term)(head)) for term, head in zip(terms, heads, strict=True)]
    return math.fsum(heads + tails)


def _occupancies(
    log_probs: NDArray[Any],
    states: NDArray[np.int64],
    skips: NDArray[np.bool_],
    kept: list[NDArray[Any]],
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield the frames from last to first, each with the occupancy of each state."""
    num_frames = len(log_probs)
    stride = max(1, math.isqrt(num_frames))
    back = _mirrored(skips)
    beta = np.full(len(states), -np.inf, dtype=log_probs.dtype)
    beta[-2:] = 0
    for start in range((num_frames - 1) // stride * stride, -1, -stride):
        rows = [kept[start // stride]]
        for t in range(start + 1, min(start + stride, num_frames)):
            row = _step(rows[-1], skips) + log_probs[t, states]
            rows.append(row - row.max())
        for t in range(start + len(rows) - 1, start - 1, -1):
            if t + 1 < num_frames:
                beta = _step((beta + log_probs[t + 1, states])[::-1], back)[::-1]
                beta = beta - beta.max()
            joint = rows[t - start] + beta
            weights = np.exp(joint - joint.max())
            yield t, weights / weights.sum()


def _step(values: NDArray[Any], skips: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the log of what flows into each state: from itself, the one before, and by a skip."""
    total = values.copy()
    total[1:] = np.logaddexp(values[1:], values[:-1])
    total[2:] = np.where(skips[2:], np.logaddexp(total[2:], values[:-2]), total[2:])
    return total


def _mirrored(skips: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the skips as the reversed chain of states sees them.

    A skip into state ``s`` leaves state ``s - 2``; read from the end, it enters that one.
    """
    mirrored = np.zeros_like(skips)
    mirrored[2:] = skips[2:][::-1]
    return mirrored
