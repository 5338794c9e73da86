"""What people write who need an alignment: the textbook's recursion, compiled and in NumPy rows."""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["numpy_viterbi", "problem", "viterbi"]


def _states(labels, blank):
    """Classes of the 2L + 1 states, and which of them may be entered from two before."""
    classes = np.full(2 * len(labels) + 1, blank)
    classes[1::2] = labels
    skips = np.zeros(len(classes), dtype=bool)
    skips[3::2] = classes[3::2] != classes[1:-2:2]
    return classes, skips


@numba.njit(cache=False)
def _recursion(logits, classes, skips, states, log_probs):
    """Align a sequence: sums in float64, and a back pointer for each state and frame."""
    frames, count = logits.shape[0], len(classes)
    denominators = np.empty(frames, np.float32)
    for t in range(frames):
        top = logits[t].max()
        total = np.float32(0)
        for c in range(logits.shape[1]):
            total += np.exp(logits[t, c] - top)
        denominators[t] = top + np.log(total)
    sums, after = np.full(count, -np.inf), np.full(count, -np.inf)
    sums[0] = 0
    back = np.empty((frames, count), np.uint8)
    for t in range(frames):
        for s in range(count):
            best, from_where = sums[s], 0
            if s > 0 and sums[s - 1] > best:
                best, from_where = sums[s - 1], 1
            if skips[s] and sums[s - 2] > best:
                best, from_where = sums[s - 2], 2
            after[s] = best + (logits[t, classes[s]] - denominators[t])
            back[t, s] = from_where
        sums, after = after, sums
    state = count - 1
    if count > 1 and sums[count - 2] >= sums[count - 1]:
        state = count - 2
    for t in range(frames - 1, -1, -1):
        states[t] = state
        log_probs[t] = logits[t, classes[state]] - denominators[t]
        state -= back[t, state]


def viterbi(logits, labels, blank=0):
    """Align (N, T, C) to labels (N, L), all of them full: states and log-probabilities (N, T)."""
    states = np.empty(logits.shape[:2], np.int32)
    log_probs = np.empty(logits.shape[:2], np.float32)
    for n, own in enumerate(labels):
        _recursion(logits[n], *_states(own, blank), states[n], log_probs[n])
    return states, log_probs


def numpy_viterbi(logits, labels, blank=0):
    """Do the same with a Python loop over the frames, whose rows of states are NumPy's."""
    states = np.empty(logits.shape[:2], np.int32)
    log_probs = np.empty(logits.shape[:2], np.float32)
    for n, own in enumerate(labels):
        classes, skips = _states(own, blank)
        tops = logits[n].max(axis=1, keepdims=True)
        logs = logits[n] - tops
        logs = np.float64(logs - np.log(np.exp(logs).sum(axis=1, keepdims=True)))
        frames, count = len(logs), len(classes)
        back = np.empty((frames, count), np.int8)
        sums, closed = np.full(count, -np.inf), np.where(skips, 0, -np.inf)
        sums[0] = 0
        for t in range(frames):
            candidates = np.full((3, count), -np.inf)
            candidates[0] = sums
            candidates[1, 1:] = sums[:-1]
            candidates[2, 2:] = sums[:-2] + closed[2:]
            back[t] = candidates.argmax(axis=0)
            sums = candidates.max(axis=0) + logs[t, classes]
        state = count - 1
        if count > 1 and sums[count - 2] >= sums[count - 1]:
            state = count - 2
        for t in range(frames - 1, -1, -1):
            states[n, t], log_probs[n, t] = state, logs[t, classes[state]]
            state -= int(back[t, state])
    return states, log_probs


def problem(n, t, c, s):
    """Make logits (N, T, C), and labels (N, S) that all count."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, t, c), dtype=np.float32) * 3
    return x, rng.integers(1, c, (n, s))
