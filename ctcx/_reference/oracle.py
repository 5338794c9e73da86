"""The truth that kernels are measured against; it shares no code with the rest of ctcx.

Two independent ways to the same numbers:

* :func:`enumerate_paths` adds up the probability of every one of the ``C**T`` paths, straight from
  the definition of CTC (Graves et al. 2006, equations 2 and 3). For tiny problems only.
* :func:`reference` runs the forward-backward recursion (the same paper, section 4.1) in a log
  domain that is normalised in every frame, for problems of any length.

Both differentiate with respect to unnormalised logits: a row of the gradient is
``softmax(logits[t])`` minus the probability that a path spelling the labels is in each class at
frame ``t``; it is 0 past a sequence's length, and for a sequence that can't emit its labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "LARGEST_LOSS",
    "ReferenceAnswer",
    "enumerate_paths",
    "reference",
    "round_to_dtype",
    "within_limit",
]

LARGEST_LOSS = 1.8e8
"""In nats; a larger loss counts as infinite, on every backend (docs/mathematics.md)."""

MAX_PATHS = 100_000
"""More paths than this in one sequence are refused by :func:`enumerate_paths`."""

_HUGE = 2.0**40
_CELLS = 1 << 21
"""Frames times states of the sequences that are computed together."""


@dataclass(frozen=True, eq=False, slots=True)
class ReferenceAnswer:
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
) -> ReferenceAnswer:
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
    ReferenceAnswer

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
) -> ReferenceAnswer:
    """Return loss and gradient by the forward-backward recursion.

    Parameters
    ----------
    logits, labels, logit_lengths, label_lengths, blank
        As in :func:`enumerate_paths`.
    real
        The type computed in; ``numpy.longdouble`` serves to check ``numpy.float64``.

    Returns
    -------
    ReferenceAnswer
        In float64, whatever ``real`` is.

    Notes
    -----
    Both recursions are shifted in every frame so that the largest entry is 0, and the occupancies
    of a frame are divided by their own sum. An error that all states of a frame share, which is
    what accumulates over thousands of frames, therefore never reaches the gradient.
    """
    batch = np.asarray(logits, dtype=np.float64)
    spellings = np.asarray(labels, dtype=np.int64)
    frames = np.asarray(logit_lengths, dtype=np.int64)
    counts = np.asarray(label_lengths, dtype=np.int64)
    loss, grad = np.zeros(len(batch)), np.zeros(batch.shape)
    for rows in _together(frames, counts):
        longest, most = frames[rows].max(), counts[rows].max()
        some = batch[rows, :longest].astype(real)
        loss[rows], grad[rows, :longest] = _recurse(
            some, spellings[rows, :most], frames[rows], counts[rows], blank
        )
    return ReferenceAnswer(loss=loss, grad=grad, feasible=np.isfinite(loss))


def _together(frames: NDArray[np.int64], counts: NDArray[np.int64]) -> Iterator[NDArray[np.intp]]:
    """Yield the sequences in groups of about the same length, each small enough for the memory."""
    waiting: list[int] = []
    width = 1
    for n in np.argsort(frames, kind="stable").tolist():
        width = max(width, 2 * int(counts[n]) + 1)
        if waiting and (len(waiting) + 1) * int(frames[n]) * width > _CELLS:
            yield np.array(waiting)
            waiting, width = [], 2 * int(counts[n]) + 1
        waiting.append(n)
    if waiting:
        yield np.array(waiting)


def within_limit(answer: ReferenceAnswer) -> ReferenceAnswer:
    """Return the answer that a backend gives: losses above the limit are +inf, without gradient.

    Parameters
    ----------
    answer : ReferenceAnswer
        Of an oracle.

    Returns
    -------
    ReferenceAnswer
        The same if no finite loss is above :data:`LARGEST_LOSS`.
    """
    over = np.isfinite(answer.loss) & (answer.loss > LARGEST_LOSS)
    if not over.any():
        return answer
    return ReferenceAnswer(
        loss=np.where(over, np.inf, answer.loss),
        grad=np.where(over[:, None, None], 0.0, answer.grad),
        feasible=answer.feasible & ~over,
    )


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
) -> ReferenceAnswer:
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
    return ReferenceAnswer(loss=loss, grad=grad, feasible=np.isfinite(loss))


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


class _Spelling(NamedTuple):
    """What n label sequences look like as states: blank, first label, blank, ..., last, blank."""

    states: NDArray[np.int64]
    """The class of each state, shape (n, S)."""
    skips: NDArray[np.bool_]
    """Whether a state can be entered from the one before the last, shape (n, S)."""
    widths: NDArray[np.int64]
    """How many states each sequence has, shape (n,)."""


def _spell(labels: NDArray[np.int64], counts: NDArray[np.int64], blank: int) -> _Spelling:
    inside = np.arange(labels.shape[1]) < counts[:, None]
    states = np.full((len(labels), 2 * labels.shape[1] + 1), blank)
    states[:, 1::2] = np.where(inside, labels, blank)
    skips = np.zeros(states.shape, dtype=np.bool_)
    skips[:, 3::2] = states[:, 3::2] != states[:, 1:-2:2]
    return _Spelling(states, skips, 2 * counts + 1)


def _recurse(
    logits: NDArray[Any],
    labels: NDArray[np.int64],
    frames: NDArray[np.int64],
    counts: NDArray[np.int64],
    blank: int,
) -> tuple[list[float], NDArray[Any]]:
    """Return losses (n,) and gradients (n, T, C) of sequences, by forward-backward."""
    grad = np.zeros_like(logits)
    past = np.arange(logits.shape[1]) >= frames[:, None]
    spelling = _spell(labels, counts, blank)
    # finfo.min as a mask may overflow to -inf, which is as right as the mask.
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        log_probs = _log_softmax(np.where(past[:, :, None], 0.0, logits).astype(logits.dtype))
        alpha, beta, offsets = _both_ways(log_probs, spelling, frames)
        losses = []
        for n, (length, width) in enumerate(zip(frames, spelling.widths, strict=True)):
            if not length:
                losses.append(0.0 if width == 1 else math.inf)
                continue
            last = np.logaddexp.reduce(alpha[length - 1, n, max(0, width - 2) : width])
            terms = [*offsets[:length, n], last]
            losses.append(math.inf if min(terms) == -np.inf else max(0.0, -_exact_sum(terms)))
            if losses[-1] < math.inf:
                # Both directions run from their own start; beta is read from its end.
                joint = alpha[:length, n, :width] + beta[:length, n, :width][::-1, ::-1]
                weights = np.exp(joint - joint.max(axis=1, keepdims=True))
                weights /= weights.sum(axis=1, keepdims=True)
                grad[n, :length] = np.exp(log_probs[n, :length])
                grad[n, :length, blank] -= weights[:, ::2].sum(axis=1)
                for s in range(1, width, 2):
                    grad[n, :length, spelling.states[n, s]] -= weights[:, s]
    return losses, grad


def _both_ways(
    log_probs: NDArray[Any], spelling: _Spelling, frames: NDArray[np.int64]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return alpha with the frame's emission, beta without, each (T, n, S), and alpha's shifts.

    Beta is computed as the alpha of everything read backwards, in the same steps: frame `t` of it
    is the `t`-th from a sequence's end, and so are the states.
    """
    states, skips, widths = spelling
    inside = np.arange(states.shape[1]) < widths[:, None]
    emitted = np.take_along_axis(log_probs, states[:, None, :], axis=2)
    emitted = np.where(inside[:, None, :], emitted, -np.inf).astype(log_probs.dtype)
    rows = np.arange(len(states))[:, None]
    t = np.maximum(frames[:, None] - 1 - np.arange(emitted.shape[1]), 0)
    s = np.maximum(widths[:, None] - 1 - np.arange(states.shape[1]), 0)
    backwards = emitted[rows[:, :, None], t[:, :, None], s[:, None, :]]
    backwards[np.broadcast_to(~inside[:, None, :], backwards.shape)] = -np.inf
    # A skip into state `s` leaves state `s - 2`; read from the end, it enters that one.
    left = np.zeros_like(skips)
    left[:, :-2] = skips[:, 2:]
    every = np.concatenate([emitted, backwards]).swapaxes(0, 1)
    # Three ways lead into a state: by a skip, from the one before, and from itself.
    allowed = np.zeros((3, *every.shape[1:]), dtype=log_probs.dtype)
    allowed[0][~np.concatenate([skips, left[rows, s] & inside])] = -np.inf
    alpha, beta = (np.empty_like(every[:, : len(states)]) for _ in range(2))
    offsets = np.empty((len(every), len(states)), dtype=log_probs.dtype)
    # Two columns stand before the first state. What rounding takes off in a frame, it takes off in
    # every frame that is equal to it: kept.
    width = states.shape[1]
    now = np.full((every.shape[1], 2 + width), -np.inf, dtype=log_probs.dtype)
    lost = np.zeros_like(now)
    came, lost_then = (  # views, which show what is written to the two arrays
        np.lib.stride_tricks.sliding_window_view(each, width, axis=1).swapaxes(0, 1)
        for each in (now, lost)
    )
    now[:, 2:4] = 0.0
    before, lost_before = now[:, 2:].copy(), lost[:, 2:]
    for step in range(len(every)):
        if step:
            before, lost_before = _step(came, lost_then, allowed)
        total, rest = _add(before, every[step], lost_before)
        shift = total.max(axis=1, keepdims=True)
        offsets[step] = shift[: len(states), 0]
        shift[shift == -np.inf] = 0.0
        now[:, 2:], lost[:, 2:] = _add(total, -shift, rest)
        alpha[step], beta[step] = now[: len(states), 2:], before[len(states) :]
    return alpha, beta, offsets


def _step(
    came: NDArray[Any], lost: NDArray[Any], allowed: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the log of what flows into each state, and what rounding took off it.

    All arguments have the shape (3, n, S), for the three ways into a state: values, what rounding
    took off them, and 0 where there is such a way, else -inf.
    """
    flows = np.add(came, allowed, order="C")
    top = np.maximum(np.maximum(flows[2], flows[1]), flows[0])
    top[top == -np.inf] = 0.0
    flows -= top
    flows += lost
    np.exp(flows, out=flows)
    total = flows[2] + flows[1]
    total += flows[0]
    return _add(top, np.log(total, out=total), 0.0)


def _add(
    a: NDArray[Any], b: NDArray[Any], lost: NDArray[Any] | float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return a + b, and ``lost`` plus what rounding took off that (Knuth's TwoSum)."""
    total = a + b
    back = total - a
    error = total - back
    np.subtract(a, error, out=error)
    np.subtract(b, back, out=back)
    error += back
    error += lost
    # Beyond some size digits are too coarse for what is lost to be a correction.
    error[~(np.abs(total, out=back) < _HUGE)] = 0.0
    return total, error


def _exact_sum(terms: list[np.floating[Any]]) -> float:
    """Return the sum, rounded once. ``fsum`` takes doubles, so a longer type goes in two parts."""
    heads = [float(term) for term in terms]
    tails = [float(term - type(term)(head)) for term, head in zip(terms, heads, strict=True)]
    return math.fsum(heads + tails)
