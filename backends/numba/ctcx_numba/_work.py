"""How much work a call is, and whether its sequences or their halves are what threads share."""

from __future__ import annotations

from ctcx_numba._jit import part

__all__ = ["WORTH_A_THREAD", "by_halves", "cost_of", "work_of"]

WORTH_A_THREAD = 200_000
"""Nanoseconds of work from which on it pays to hand a part to another thread."""


@part
def work_of(count, frames, classes, labels):
    """Estimate of the nanoseconds that a batch takes one thread."""
    return count * frames * (20 + 0.4 * classes + 1.5 * (labels + 1))


@part
def by_halves(work, count, threads):
    """Whether the sequences are few and long enough to be cut in the middle."""
    worth = threads > 1 and work > WORTH_A_THREAD
    return worth and (count == 1 or (count < 2 * threads and work > 5 * WORTH_A_THREAD * count))


@part
def cost_of(frames, classes, count):
    """What a sequence costs beside others of the batch: the costliest go first."""
    return frames * (classes + 4 * count)
