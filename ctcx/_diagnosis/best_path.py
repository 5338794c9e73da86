"""The best path through a lattice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ctcx._reference.lattice import Lattice

__all__ = ["best_path"]


def best_path(lattice: Lattice) -> list[int]:
    """Return the state of each frame on the most probable path that emits the labels.

    Empty where no path emits them. It is the recursion of alpha with a maximum in place of the sum
    (Viterbi 1967).
    """
    if not lattice.feasible or not len(lattice.alpha):
        return []
    emission = lattice.log_softmax[:, lattice.states]
    score = np.full(emission.shape[1], -np.inf)
    score[:2] = emission[0, :2]
    came = np.zeros(emission.shape, dtype=np.int64)
    for t in range(1, len(emission)):
        ways = np.full((3, len(score)), -np.inf)
        ways[0] = score
        ways[1, 1:] = score[:-1]
        ways[2, 2:] = np.where(lattice.skips[2:], score[:-2], -np.inf)
        came[t] = ways.argmax(axis=0)
        score = ways.max(axis=0) + emission[t]
    ends = range(max(0, len(score) - 2), len(score))
    state = max(ends, key=lambda s: float(score[s]))
    path = [state]
    for t in range(len(emission) - 1, 0, -1):
        state -= int(came[t, state])
        path.append(state)
    return path[::-1]
