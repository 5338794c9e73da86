r"""Small problems in a few calls: a frame is one product with the matrix of transitions.

With so little to compute, what takes time is the number of calls. Here a frame takes two: all
states of a sequence, S labels and then S+1 blanks, times a matrix that says which follows which
(Graves et al. 2006, eq. 6 to 12), times their emission probabilities, in float64. The work grows
with the square of the labels, so this is for short ones.

Nothing is scaled in so few frames. Probabilities are relative to each frame's largest, at most 1,
so a direction stays below 3**32, and what underflows is less than 1e-307. So if the directions
meet in at least ``_LEAST`` at every frame, what was lost is less than 1e-19 of the result. If they
don't, the caller computes again with :mod:`ctcx._arrayapi.lattice`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctcx._arrayapi.context import Context
    from ctcx._typing import Array

__all__ = ["is_small", "loss_and_grad"]

_MOST_FRAMES = 32
_MOST_ELEMENTS = 2**15
_LEAST = 1e-250


def is_small(rows: int, frames: int, classes: int, labels: int) -> bool:
    """Whether calls cost more than what they compute."""
    elements = max(frames * classes, (2 * labels + 1) * max(classes, 2 * labels + 1))
    return 0 < frames <= _MOST_FRAMES and 0 < rows * elements <= _MOST_ELEMENTS


def loss_and_grad(
    logits: Array,
    classes: Array,
    blank: int,
    inside: Array,
    label_lengths: Array,
    possible: Array,
    context: Context,
) -> tuple[Array, Array] | None:
    """Loss (N,) and gradient (N, T, C), if they can be trusted.

    Parameters
    ----------
    logits
        (N, T, C).
    classes
        (N, S), with the blank past each sequence's length.
    blank
        Class of the blank.
    inside
        (N, T): which frames are within the sequences' lengths.
    label_lengths
        (N,).
    possible
        (N, 1): whether a sequence has enough frames for its labels.

    Returns
    -------
    tuple or None
        None where something that matters may have been lost.
    """
    xp, dtype = context.xp, context.xp.float64
    rows, labels = classes.shape
    seen = inside[:, :, None]
    x = xp.where(seen, xp.astype(logits, dtype), 0.0)
    powers = xp.exp(x - xp.maximum(xp.max(x, axis=2, keepdims=True), -1e300))
    total = xp.maximum(xp.sum(powers, axis=2, keepdims=True), 1.0)

    columns = xp.concat([classes, context.integers((rows, labels + 1), blank)], axis=1)
    emission = xp.take_along_axis(powers, columns[:, None, :], axis=2)
    # Past its length a sequence emits blanks for certain, as in ctcx._arrayapi.emissions.
    state = context.arange(0, 2 * labels + 1)[None, :]
    resting = xp.astype(state >= labels, dtype)
    emission = xp.where(seen, emission, resting[:, None, :])

    always, skips = (
        xp.asarray(matrix, dtype=dtype, device=context.device) for matrix in _transitions(labels)
    )
    differs = xp.concat([classes[:, :1] < 0, classes[:, 1:] != classes[:, :-1]], axis=1)
    none = xp.zeros((rows, labels + 1), dtype=differs.dtype, device=context.device)
    may_skip = xp.astype(xp.concat([differs, none], axis=1), dtype)
    follows = always + skips * may_skip[:, None, :]

    alpha = xp.astype(state == labels, dtype)[:, None, :] + 0.0 * emission[:, :1, :]
    beta = xp.astype(state == (label_lengths + labels)[:, None], dtype)[:, :, None]
    alphas, betas = [], []
    frames = emission.shape[1]
    for frame in range(frames):
        alpha = (alpha @ follows) * emission[:, frame : frame + 1, :]
        alphas.append(alpha)
    for frame in range(frames - 1, -1, -1):
        ahead = follows @ beta
        beta = ahead * emission[:, frame, :, None]
        betas.append(ahead)
    betas.reverse()
    met = xp.concat(alphas, axis=1) * xp.permute_dims(xp.concat(betas, axis=2), (0, 2, 1))
    whole = xp.sum(met, axis=2, keepdims=True)
    if not bool(xp.min(xp.where(possible[:, :, None], whole, 1.0)) >= _LEAST):
        return None

    one_hot = xp.astype(
        columns[:, :, None] == context.arange(0, logits.shape[2])[None, None, :], dtype
    )
    occupancy = (met / xp.maximum(whole, _LEAST)) @ one_hot
    counted = seen & possible[:, :, None]
    grad = xp.where(counted, powers / total - occupancy, 0.0)
    likelihood = xp.log(xp.maximum(whole[:, 0, 0], _LEAST))
    loss = xp.sum(xp.where(inside, xp.log(total[:, :, 0]), 0.0), axis=1) - likelihood
    loss = xp.where(possible[:, 0], xp.maximum(loss, 0.0), float("inf"))
    return context.cast(loss), xp.astype(grad, logits.dtype)


@lru_cache(maxsize=64)
def _transitions(labels: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Matrices (from, to) of what always follows what, and of what may where labels differ.

    Constants, kept on the host.
    """
    always = np.eye(2 * labels + 1)
    skips = np.zeros_like(always)
    label = np.arange(labels)
    always[labels + label, label] = 1  # a blank, then its label
    always[label, labels + 1 + label] = 1  # a label, then the blank after it
    skips[label[:-1], label[1:]] = 1
    return always, skips
