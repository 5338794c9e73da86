r"""Small problems in a few calls: a frame is one product with the matrix of transitions.

With so little to compute, what takes time is the number of calls. Here a frame takes two: all
states of a sequence, S labels and then S+1 blanks, times a matrix that says which follows which
(Graves et al. 2006, eq. 6 to 12), times their emission probabilities, in float64. The work grows
with the square of the labels, so this is for short ones.

Nothing is scaled in so few frames. Probabilities are relative to each frame's largest, at most 1,
so a state of either direction is at most 3**32. All that is lost is what underflows: each product
is rounded by at most 2**-1075, which grows by at most 3**32, so less than 1e-306 in all of a state.
It meets at most 3**32 in each of the 2 S + 1 states of the other direction, so the likelihood and
each part of it are wrong by less than ``(2 S + 1) * 1e-290``. Where the directions meet in at least
``_LEAST`` at every frame, that is nothing, and the likelihood is above 0: some path emits the
labels. Where they don't (masked labels among others), the caller computes again with
:mod:`ctcx._core.lattice`. A sequence with too few frames has no path, and none is made up.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctcx._core.context import Context
    from ctcx._typing import Array

__all__ = ["Solution", "is_small", "solve"]

_MOST_FRAMES = 32
_MOST_ELEMENTS = 2**15
_LEAST = 1e-250


class Solution(NamedTuple):
    """All that kernels return of a small problem, but for dtypes.

    The gradient is ``softmax`` (N, T, C) minus ``classes`` (N, T, C), the occupancies; ``states``
    (N, T, 2S+1) are those of the S labels and then of the S+1 blanks. All are 0 past a sequence's
    length and where there are too few frames.
    """

    loss: Array
    softmax: Array
    classes: Array
    states: Array


def is_small(rows: int, frames: int, classes: int, labels: int) -> bool:
    """Whether calls cost more than what they compute."""
    elements = max(frames * classes, (2 * labels + 1) * max(classes, 2 * labels + 1))
    return 0 < frames <= _MOST_FRAMES and 0 < rows * elements <= _MOST_ELEMENTS


def solve(
    logits: Array,  # (N, T, C)
    classes: Array,  # (N, S), with the blank past each length
    blank: int,
    inside: Array,  # (N, T): which frames are within the lengths
    label_lengths: Array,  # (N,)
    possible: Array,  # (N, 1): whether there are enough frames for the labels
    context: Context,
) -> Solution | None:
    """Loss and occupancies; None where digits that matter may have been lost."""
    rows, labels = classes.shape
    seen = inside[:, :, None]
    x = np.where(seen, logits.astype(np.float64), 0.0)
    top = x.max(axis=2, keepdims=True)
    if not (top < np.inf).all():  # NaN or +inf
        return None
    powers = np.exp(x - np.where(top > -np.inf, top, 0.0))
    total = np.maximum(powers.sum(axis=2, keepdims=True), 1.0)

    columns = np.full((rows, 2 * labels + 1), blank, dtype=classes.dtype)
    columns[:, :labels] = classes
    emission = np.take_along_axis(powers, columns[:, None, :], axis=2)
    # Past its length a sequence emits blanks for certain, as in ctcx._core.emissions.
    always, skips, resting, state = _transitions(labels)
    emission = np.where(seen, emission, resting)

    may_skip = np.zeros((rows, 2 * labels + 1))
    may_skip[:, 1:labels] = classes[:, 1:] != classes[:, :-1]
    follows = always + skips * may_skip[:, None, :]

    alpha = np.zeros((rows, 1, 2 * labels + 1))
    alpha[:, 0, labels] = 1.0
    beta = (state == (label_lengths + labels)[:, None]).astype(np.float64)[:, :, None]
    frames = emission.shape[1]
    alphas, betas = [], []
    for frame in range(frames):
        alpha = (alpha @ follows) * emission[:, frame : frame + 1, :]
        alphas.append(alpha)
    for frame in range(frames - 1, -1, -1):
        ahead = follows @ beta
        beta = ahead * emission[:, frame, :, None]
        betas.append(ahead)
    betas.reverse()
    met = np.concatenate(alphas, axis=1) * np.concatenate(betas, axis=2).transpose(0, 2, 1)
    whole = met.sum(axis=2, keepdims=True)
    proved = whole >= _LEAST
    if not (proved | ~possible[:, :, None]).all():
        return None

    one_hot = (columns[:, :, None] == np.arange(logits.shape[2])).astype(np.float64)
    counts = seen & possible[:, :, None]
    occupancy = np.where(counts, met / np.where(proved, whole, 1.0), 0.0)
    softmax = np.where(counts, powers / total, 0.0)
    likelihood = np.log(np.where(proved, whole, 1.0)[:, 0, 0])
    loss = np.where(inside, np.log(total[:, :, 0]), 0.0).sum(axis=1) - likelihood
    loss = np.where(possible[:, 0], np.maximum(loss, 0.0), np.inf)
    return Solution(loss.astype(context.dtype), softmax, occupancy @ one_hot, occupancy)


@lru_cache(maxsize=64)
def _transitions(labels: int) -> tuple[NDArray[Any], ...]:
    """Constants: matrices (from, to) of what always follows what, and of what may where labels
    differ; what a frame past the end emits; and the states.
    """
    state = np.arange(2 * labels + 1)
    always = np.eye(2 * labels + 1)
    skips = np.zeros_like(always)
    label = np.arange(labels)
    always[labels + label, label] = 1  # a blank, then its label
    always[label, labels + 1 + label] = 1  # a label, then the blank after it
    skips[label[:-1], label[1:]] = 1
    return always, skips, (state >= labels).astype(np.float64), state
