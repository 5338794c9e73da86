"""CTC in the log domain and in float64, one sequence at a time: short, slow and right."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MOST_NATS = 1.8e8
"""A loss above it is +inf, on every backend."""

# Masks may be huge negative numbers instead of -inf; the sum of two of them is -inf all the same.
# A logit of NaN or +inf, in a call without checks of values, makes the whole frame NaN.
quietly = np.errstate(over="ignore", invalid="ignore")


@quietly
def loss(
    logits: Array, labels: Array, logit_lengths: Array, label_lengths: Array, *, blank: int
) -> Array:
    """Negative log likelihood of each sequence, shape (N,)."""
    losses = np.empty(logits.shape[0], dtype=logits.dtype)
    for n, (frames, count) in enumerate(zip(logit_lengths, label_lengths, strict=True)):
        states = with_blanks(labels[n, :count], blank)
        log_probs = log_softmax(logits[n, :frames])
        _, losses[n] = walk(log_probs[:, states], may_skip(states, blank))
    return losses


@quietly
def loss_and_grad(
    logits: Array, labels: Array, logit_lengths: Array, label_lengths: Array, *, blank: int
) -> tuple[Array, Array]:
    """Negative log likelihoods, shape (N,), and their gradient, shape (N, T, C)."""
    losses = np.empty(logits.shape[0], dtype=logits.dtype)
    grad = np.zeros(logits.shape, dtype=logits.dtype)  # stays 0 past a sequence's length
    for n, (frames, count) in enumerate(zip(logit_lengths, label_lengths, strict=True)):
        states = with_blanks(labels[n, :count], blank)
        log_probs = log_softmax(logits[n, :frames])
        emissions = log_probs[:, states]
        before, losses[n] = walk(emissions, may_skip(states, blank))
        if not losses[n] < np.inf:
            grad[n, :frames] = 0 if losses[n] == np.inf else np.nan
            continue
        after, _ = walk(emissions[::-1, ::-1], may_skip(states[::-1], blank))
        occupancy = before + emissions + after[::-1, ::-1]
        occupancy -= np.logaddexp.reduce(occupancy, axis=1, keepdims=True)
        row = np.exp(log_probs)
        for s, c in enumerate(states):
            row[:, c] -= np.exp(occupancy[:, s])
        grad[n, :frames] = row
    return losses, grad


def log_softmax(logits: Array) -> Array:
    """Log probabilities of the classes in each frame, in float64; masked classes stay at -inf."""
    shifted = logits.astype(np.float64)
    shifted -= np.maximum(shifted.max(axis=1, keepdims=True), np.finfo(np.float64).min)
    total = np.exp(shifted).sum(axis=1, keepdims=True)
    # A frame with every class masked has no path through it; log(1) leaves it at -inf.
    return shifted - np.log(np.where(total == 0, 1, total))


def with_blanks(labels: Array, blank: int) -> Array:
    """States that a path goes through: the labels, with a blank around each."""
    states = np.full(2 * labels.size + 1, blank)
    states[1::2] = labels
    return states


def may_skip(states: Array, blank: int) -> NDArray[np.bool_]:
    """Whether a state can be entered from two before it: from one label to another, unlike one."""
    skip = np.zeros(states.size, dtype=np.bool_)
    skip[2:] = (states[2:] != blank) & (states[2:] != states[:-2])
    return skip


def walk(emissions: Array, skip: NDArray[np.bool_]) -> tuple[Array, float]:
    """Go through the frames once (the forward recursion of Graves et al. 2006, section 4.1).

    Returns log probabilities of arriving in each state at each frame, before that frame's emission
    and up to a factor common to the frame, shape (T, states); and the loss.
    """
    arriving = np.full(emissions.shape, -np.inf)
    state = np.full(skip.size, -np.inf)
    state[0] = 0.0  # a blank before the first frame: both possible beginnings follow from it
    likelihood = 0.0
    if np.isnan(emissions).any():
        return arriving, np.nan
    for t, emission in enumerate(emissions):
        arriving[t] = state
        arriving[t, 1:] = np.logaddexp(arriving[t, 1:], state[:-1])
        arriving[t, 2:] = np.logaddexp(arriving[t, 2:], np.where(skip[2:], state[:-2], -np.inf))
        state = arriving[t] + emission
        scale = np.logaddexp.reduce(state)
        if scale == -np.inf:
            return arriving, np.inf
        # Kept near 0, where floating-point numbers are dense: exact at any number of frames.
        state -= scale
        likelihood += scale
    likelihood += np.logaddexp.reduce(state[-2:])
    if -likelihood > MOST_NATS:
        return arriving, np.inf
    return arriving, max(0.0, -likelihood)  # rounding must not make a probability exceed 1
