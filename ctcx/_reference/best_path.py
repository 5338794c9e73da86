"""The right alignment, in float64, by code of its own.

* :func:`enumerate_best_paths` looks at every path, straight from the definition of CTC. For tiny
  problems only.
* :func:`best_paths` is the textbook recursion of Viterbi, with a back pointer for each state.

Both add logits relative to the largest of their frame, since the softmax doesn't depend on what all
logits of a frame have in common. Sums of few-bit numbers are exact, and so are ties.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ctcx._reference.oracle import LARGEST_LOSS, MAX_PATHS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    Solver: TypeAlias = Callable[[NDArray[np.float64], list[int], bool], "list[int] | None"]

__all__ = ["BestPaths", "best_paths", "enumerate_best_paths"]


@dataclass(frozen=True, eq=False, slots=True)
class BestPaths:
    """The right answer to a batch.

    Attributes
    ----------
    states : ndarray of int64, shape (N, T)
        2j in the blank before label j, 2j + 1 in label j; -1 in padding, and all along for a
        sequence that can't emit its labels.
    log_probs : ndarray of float64, shape (N, T)
        Logarithm of the probability of each frame's state; 0 in padding.
    score : ndarray of float64, shape (N,)
        Their sum; -inf where the labels can't be emitted.
    feasible : ndarray of bool, shape (N,)
        Whether some path emits the labels.
    """

    states: NDArray[np.int64]
    log_probs: NDArray[np.float64]
    score: NDArray[np.float64]
    feasible: NDArray[np.bool_]


def best_paths(
    logits: ArrayLike,
    labels: ArrayLike,
    logit_lengths: ArrayLike,
    label_lengths: ArrayLike,
    blank: int,
    *,
    extra: ArrayLike | None = None,
    ends: tuple[int, int] | None = None,
) -> BestPaths:
    """Return the best path of each sequence by dynamic programming.

    Parameters
    ----------
    logits : array_like of float, shape (N, T, C)
        Unnormalised; what stands past a length is not looked at.
    labels : array_like of int, shape (N, S)
        Columns of the labels, padded on the right.
    logit_lengths, label_lengths : array_like of int, shape (N,)
        How many frames and labels count.
    blank : int
        The blank class, in ``range(C)``.
    extra : array_like of float, shape (N, T, W), optional
        Columns C to C + W - 1, which are not part of the softmax.
    ends : (int, int), optional
        Columns of the blanks before the first and after the last label.

    Returns
    -------
    BestPaths
    """
    arrays = (logits, labels, logit_lengths, label_lengths)
    return _by_sequence(_viterbi, *arrays, blank, extra, ends)


def enumerate_best_paths(
    logits: ArrayLike,
    labels: ArrayLike,
    logit_lengths: ArrayLike,
    label_lengths: ArrayLike,
    blank: int,
    *,
    extra: ArrayLike | None = None,
    ends: tuple[int, int] | None = None,
) -> BestPaths:
    """Return the best path of each sequence by trying all paths.

    Parameters
    ----------
    logits, labels, logit_lengths, label_lengths, blank, extra, ends
        As in :func:`best_paths`.

    Returns
    -------
    BestPaths

    Raises
    ------
    ValueError
        If a sequence has more than ``MAX_PATHS`` paths.
    """
    arrays = (logits, labels, logit_lengths, label_lengths)
    return _by_sequence(_enumerate, *arrays, blank, extra, ends)


def _by_sequence(
    solve: Solver,
    logits: ArrayLike,
    labels: ArrayLike,
    logit_lengths: ArrayLike,
    label_lengths: ArrayLike,
    blank: int,
    extra: ArrayLike | None,
    ends: tuple[int, int] | None,
) -> BestPaths:
    batch = np.asarray(logits, dtype=np.float64)
    first, last = ends or (blank, blank)
    states = np.full(batch.shape[:2], -1)
    log_probs, score = np.zeros(batch.shape[:2]), np.full(len(batch), -np.inf)
    lengths = zip(np.asarray(logit_lengths), np.asarray(label_lengths), strict=True)
    for n, (frames, count) in enumerate(lengths):
        rows = batch[n, :frames]
        if extra is not None:
            rows = np.concatenate([rows, np.asarray(extra, dtype=np.float64)[n, :frames]], axis=1)
        symbols = np.full(2 * count + 1, blank)
        symbols[-1], symbols[0] = last, first
        symbols[1::2] = np.asarray(labels)[n, :count]
        with np.errstate(all="ignore"):
            some = batch[n, :frames]
            top = some.max(axis=1, keepdims=True) if frames else some[:, :1]
            top = np.where(top == -np.inf, 0.0, top)
            rows = rows - top
            path = solve(rows[:, symbols], symbols[1::2].tolist(), bool(frames))
            if path is None:
                continue
            chosen = rows[np.arange(frames), symbols[path]]
            chosen = chosen - np.log(np.exp(some - top).sum(axis=1))
        total = math.fsum(chosen) if np.isfinite(chosen).all() else -np.inf
        if total < -LARGEST_LOSS:
            continue
        states[n, :frames], log_probs[n, :frames], score[n] = path, chosen, total
    return BestPaths(states, log_probs, score, score > -np.inf)


def _viterbi(emitted: NDArray[np.float64], labels: list[int], any_frames: bool) -> Any:  # noqa: FBT001
    """Return the best path through ``emitted`` (T, 2L+1); None if there is none."""
    frames, width = emitted.shape
    if not any_frames:
        return None if labels else []
    may_skip = np.zeros(width, dtype=bool)
    may_skip[3::2] = [one != other for one, other in itertools.pairwise(labels)]
    best = np.full(width, -np.inf)
    best[:2] = emitted[0, :2]
    back = np.zeros((frames, width), dtype=np.int8)
    for t in range(1, frames):
        came = np.full((3, width), -np.inf)
        came[0], came[1, 1:], came[2, 2:] = best, best[:-1], best[:-2]
        came[2, ~may_skip] = -np.inf
        back[t] = came.argmax(axis=0)  # the first of equal ones
        best = came.max(axis=0) + emitted[t]
    state = width - 2 if width > 1 and best[-2] >= best[-1] else width - 1
    if best[state] == -np.inf:
        return None
    path = []
    for t in reversed(range(frames)):
        path.append(state)
        state -= int(back[t, state])
    return path[::-1]


def _enumerate(emitted: NDArray[np.float64], labels: list[int], any_frames: bool) -> Any:  # noqa: FBT001
    """Do the same by looking at all sequences of symbols that collapse to the labels."""
    frames = len(emitted)
    if not any_frames:
        return None if labels else []
    symbols = [None, *dict.fromkeys(labels)]  # None is the blank
    if len(symbols) ** frames > MAX_PATHS:
        msg = f"{len(symbols)} ** {frames} paths are more than {MAX_PATHS}"
        raise ValueError(msg)
    found: list[tuple[float, int, list[int]]] = []
    for said in itertools.product(symbols, repeat=frames):
        merged = [symbol for symbol, _ in itertools.groupby(said)]
        if [symbol for symbol in merged if symbol is not None] != labels:
            continue
        states, state, before = [], 0, None
        for symbol in said:
            if symbol is None:
                state += state % 2
            elif symbol != before:
                state += 1 if state % 2 == 0 else 2
            before = symbol
            states.append(state)
        total = sum(float(emitted[t, s]) for t, s in enumerate(states))
        # Of equal ones: the last label before the last blank; then, from the end, the state that
        # is further on, since one that stays comes from further on than one that moves.
        found.append((total, -states[-1], states[::-1]))
    best = max(found, default=(-np.inf, 0, []))
    return None if best[0] == -np.inf else best[2][::-1]
