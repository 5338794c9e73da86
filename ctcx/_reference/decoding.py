"""The right answers of decoders, in float64, by code of its own.

* :func:`enumerate_labels` looks at every path, straight from the definition of CTC. For tiny
  problems only.
* :func:`best_classes` and :func:`merged` are greedy decoding.
* :func:`prefix_beams` is the textbook prefix beam search, with dictionaries.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ctcx._reference.oracle import MAX_PATHS

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "BestClasses",
    "PrefixBeams",
    "best_classes",
    "enumerate_labels",
    "log_softmax",
    "merged",
    "prefix_beams",
]


@dataclass(frozen=True, eq=False, slots=True)
class BestClasses:
    """The most probable class of each frame.

    Attributes
    ----------
    classes : ndarray of int64, shape (N, T)
        The lowest of equal ones; -1 in padding and where all logits are -inf.
    log_probs : ndarray of float64, shape (N, T)
        Logarithms of their probabilities; 0 in padding.
    """

    classes: NDArray[np.int64]
    log_probs: NDArray[np.float64]


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logarithms of the probabilities of classes.

    Parameters
    ----------
    logits : ndarray of float64, shape (T, C)
        Unnormalised.

    Returns
    -------
    ndarray of float64, shape (T, C)
        A frame of only -inf logits stays so.
    """
    top = logits.max(axis=1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        norm = np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    return logits - top - np.where(np.isfinite(norm), norm, 0.0)


def best_classes(
    logits: ArrayLike,
    logit_lengths: ArrayLike,
    blank: int,  # noqa: ARG001 - of the signature of all references
) -> BestClasses:
    """Return the most probable class of each frame.

    Parameters
    ----------
    logits : array_like of float, shape (N, T, C)
        Unnormalised; padded frames are ignored.
    logit_lengths : array_like of int, shape (N,)
        How many frames count.
    blank : int
        Without effect: the blank is a class like the others.

    Returns
    -------
    BestClasses
    """
    batch = np.asarray(logits, dtype=np.float64)
    classes, log_probs = np.full(batch.shape[:2], -1), np.zeros(batch.shape[:2])
    for n, length in enumerate(np.asarray(logit_lengths).tolist()):
        for t, row in enumerate(log_softmax(batch[n, :length])):
            best = int(row.argmax())
            log_probs[n, t] = row[best]
            classes[n, t] = best if row[best] > -np.inf else -1
    return BestClasses(classes, log_probs)


def merged(
    classes: list[int], blank: int, *, merge_repeated: bool = True
) -> list[tuple[int, int, int]]:
    """Return the labels that the classes of frames say.

    Parameters
    ----------
    classes : list of int
        One a frame; -1 is no class.
    blank : int
        The blank class.
    merge_repeated : bool
        Whether equal classes in a row are one label.

    Returns
    -------
    list of (int, int, int)
        Each label, its first frame, and the frame after its last one.
    """
    found = []
    frame = 0
    for symbol, run in itertools.groupby(classes):
        count = len(list(run))
        if symbol not in (blank, -1):
            whole = [(symbol, frame, frame + count)]
            each = [(symbol, t, t + 1) for t in range(frame, frame + count)]
            found += whole if merge_repeated else each
        frame += count
    return found


def enumerate_labels(logits: ArrayLike, blank: int) -> dict[tuple[int, ...], float]:
    """Return the probability of all labels that some path says, by trying all paths.

    Parameters
    ----------
    logits : array_like of float, shape (T, C)
        Of one sequence, unnormalised.
    blank : int
        The blank class.

    Returns
    -------
    dict of tuple of int to float
        By labels; those with a probability of 0 are left out.

    Raises
    ------
    ValueError
        There are more than ``MAX_PATHS`` paths.
    """
    probabilities = np.exp(log_softmax(np.asarray(logits, dtype=np.float64)))
    frames, classes = probabilities.shape
    if classes**frames > MAX_PATHS:
        msg = f"{classes} ** {frames} paths are more than {MAX_PATHS}"
        raise ValueError(msg)
    parts: dict[tuple[int, ...], list[float]] = {}
    for path in itertools.product(range(classes), repeat=frames):
        labels = tuple(symbol for symbol, _, _ in merged(list(path), blank))
        parts.setdefault(labels, []).append(
            math.prod(float(probabilities[t, c]) for t, c in enumerate(path))
        )
    sums = {labels: math.fsum(some) for labels, some in parts.items()}
    return {labels: total for labels, total in sums.items() if total > 0}


@dataclass(frozen=True, eq=False, slots=True)
class PrefixBeams:
    """The best entries of a beam after the last frame.

    Attributes
    ----------
    labels : ndarray of int64, shape (N, top, T)
        Padded with -1.
    log_probs : ndarray of float64, shape (N, top)
        Logarithms of what the beam has gathered; -inf where there are fewer entries.
    """

    labels: NDArray[np.int64]
    log_probs: NDArray[np.float64]


def prefix_beams(
    logits: ArrayLike,
    logit_lengths: ArrayLike,
    blank: int,
    *,
    width: int,
    top: int,
    max_classes: int | None = None,
) -> PrefixBeams:
    """Return the results of the textbook prefix beam search.

    Parameters
    ----------
    logits : array_like of float, shape (N, T, C)
        Unnormalised; padded frames are ignored.
    logit_lengths : array_like of int, shape (N,)
        How many frames count.
    blank : int
        The blank class.
    width : int
        How many prefixes are kept after each frame.
    top : int
        How many of them are returned.
    max_classes : int, optional
        Of each frame, only so many of the most probable classes are looked at.

    Returns
    -------
    PrefixBeams
    """
    batch = np.asarray(logits, dtype=np.float64)
    labels = np.full((len(batch), top, batch.shape[1]), -1)
    log_probs = np.full((len(batch), top), -np.inf)
    for n, length in enumerate(np.asarray(logit_lengths).tolist()):
        beam: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -math.inf)}
        for row in log_softmax(batch[n, :length]):
            beam = _next_beam(beam, row.tolist(), blank, width, max_classes)
        for k, (prefix, parts) in enumerate(list(beam.items())[:top]):
            labels[n, k, : len(prefix)] = prefix
            log_probs[n, k] = _sum(*parts)
    return PrefixBeams(labels, log_probs)


def _next_beam(
    beam: dict[tuple[int, ...], tuple[float, float]],
    row: list[float],
    blank: int,
    width: int,
    max_classes: int | None,
) -> dict[tuple[int, ...], tuple[float, float]]:
    """Return the beam after a frame of logarithms of probabilities; entries in order."""
    order = sorted((c for c in range(len(row)) if c != blank), key=lambda c: (-row[c], c))
    totals = {prefix: _sum(*parts) for prefix, parts in beam.items()}
    found: dict[tuple[int, ...], tuple[float, float]] = {}
    for prefix, parts in beam.items():
        label = parts[1] + row[prefix[-1]] if prefix else -math.inf
        parent = prefix[:-1]
        if prefix and parent in beam:
            came = beam[parent][0] if parent[-1:] == prefix[-1:] else totals[parent]
            label = _sum(label, came + row[prefix[-1]])
        found[prefix] = (totals[prefix] + row[blank], label)
    for c in order[:max_classes]:
        for prefix, parts in beam.items():
            if (*prefix, c) not in beam:
                came = parts[0] if prefix[-1:] == (c,) else totals[prefix]
                found[*prefix, c] = (-math.inf, came + row[c])
    scores = {prefix: _sum(*parts) for prefix, parts in found.items()}
    best = sorted(found, key=lambda prefix: -scores[prefix])[:width]  # stable
    return {prefix: found[prefix] for prefix in best if scores[prefix] > -math.inf}


def _sum(one: float, other: float) -> float:
    """Logarithm of the sum of two numbers, of their logarithms."""
    low, high = sorted((one, other))
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
