"""The entropy of the paths that emit the labels, from the loss and its gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctcx._core.context import Context

if TYPE_CHECKING:
    from ctcx._typing import Array, ArrayModule

__all__ = ["entropy_from", "path_entropy"]

_FAR = 128.0
"""Nats: the exponential of minus this is below all that float32 holds."""


def path_entropy(
    loss: Array,
    grad: Array,
    logits: Array,
    logit_lengths: Array,
    constants: tuple[()],  # noqa: ARG001 - none
) -> Array:
    """Entropy (N,) of loss (N,), its gradient and logits (N, T, C), these in one dtype."""
    context = Context.of(logits, logit_lengths)
    frame = context.arange(0, logits.shape[1])[None, :]
    return entropy_from(context.xp, loss, grad, logits, frame < logit_lengths[:, None])


def entropy_from(xp: ArrayModule, loss: Array, grad: Array, logits: Array, inside: Array) -> Array:
    """Entropy in nats: minus the loss, minus the mean of a path's logarithm of probability.

    That mean is the sum of occupancy, softmax minus ``grad``, times the logarithm of the softmax. A
    library that differentiates through this and through ``grad`` gets the gradient: that of the
    loss cancels, and what is left is second derivatives times the logarithms. ``inside`` (N, T) are
    the frames within the lengths.
    """
    feasible = loss != float("inf")
    inside = inside & feasible[:, None]
    # What is left out here is left out of the derivative too, so nothing in it may be infinite.
    logits = xp.where(inside[:, :, None], logits, 0.0)
    shifted = logits - xp.max(logits, axis=2, keepdims=True)
    powers = xp.exp(shifted)
    total = xp.sum(powers, axis=2, keepdims=True)
    occupancy = powers / total - grad
    log_probs = shifted - xp.log(total)
    # Every path through a class is at most as probable as the class, so one that is far below the
    # labels themselves has no occupancy, but for rounding, which a huge logarithm would magnify.
    counts = inside[:, :, None] & (log_probs >= -(loss + _FAR)[:, None, None])
    log_probs = xp.where(counts, log_probs, 0.0)
    mean = xp.sum(xp.sum(occupancy * log_probs, axis=2), axis=1)
    entropy = (0.0 - xp.where(feasible, loss, 0.0)) - mean  # never -0.0, as -loss could be
    # Rounding may bring it below 0; NaN marks what was not checked.
    return xp.where(feasible & ~(entropy < 0.0), entropy, 0.0)
