"""The core's kernel for guided search: beams as arrays, to which frames are added."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ctcx._core.guided_beam import Entries, Guide, GuidedBeam, log_softmax
from ctcx._core.phrases import Phrases

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    WeightedPhrases = tuple[tuple[tuple[int, ...], float], ...]

__all__ = ["BeamArrays", "first_beams", "guided_search", "search_with_states"]

_BLOCK = 2**20
"""About how many numbers of a block of frames are in memory at once."""


class BeamArrays(NamedTuple):
    """Beams of N sequences, W entries each, the best first."""

    labels: NDArray[np.int32]
    """(N, W, L) int32, padded with -1."""
    ends_blank: NDArray[np.float64]
    ends_label: NDArray[np.float64]
    """(N, W): logarithms of the probabilities of the paths that end in the blank, and in the last
    label; both -inf where there is no entry."""
    bonus: NDArray[np.float64]
    """(N, W): what phrases, language model and number of labels add so far."""


def first_beams(rows: int, width: int) -> BeamArrays:
    """Return the beams before the first frame: the empty prefix, with probability 1."""
    nothing = np.full((rows, width), -np.inf)
    blank = nothing.copy()
    blank[:, 0] = 0.0
    labels = np.full((rows, width, 0), -1, dtype=np.int32)
    return BeamArrays(labels, blank, nothing, np.zeros((rows, width)))


def guided_search(
    logits: NDArray[Any],
    logit_lengths: NDArray[Any],
    *,
    entries: tuple[Any, ...],
    model: Any,
    **options: Any,
) -> tuple[NDArray[Any], ...]:
    """Add frames (N, T, C) to beams; see :class:`ctcx.plugin.Backend` for the contract."""
    beams, states, every = BeamArrays(*entries), None, None
    if model is not None:
        every = model.log_probs
        states = [[model.after_labels(one) for one in row] for row in _labels_of(beams)]
    arrays, _ = search_with_states(
        logits, logit_lengths, states, entries=beams, model=model, every_label=every, **options
    )
    return arrays


def search_with_states(
    logits: NDArray[Any],
    logit_lengths: NDArray[Any],
    states: list[list[Any]] | None,
    *,
    blank: int,
    width: int,
    max_classes: int | None,
    entries: BeamArrays,
    phrases: WeightedPhrases,
    model: Any,
    model_weight: float,
    label_bonus: float,
    every_label: Callable[[Any], NDArray[np.float64]] | None = None,
) -> tuple[tuple[NDArray[Any], ...], list[list[Any]]]:
    """Do the same for any language model, of which each entry has a state, and return those, too.

    ``states``: of the entries; None for those of empty prefixes. ``every_label`` as in
    :class:`ctcx._core.guided_beam.Guide`.
    """
    rows, frames, classes = logits.shape
    automaton = _automaton(phrases, classes) if phrases else None
    guide = Guide(automaton, model, model_weight, label_bonus, every_label)
    begun = _begun(entries, guide, states)
    beam = GuidedBeam(
        begun, rows, classes, blank=blank, width=width, max_classes=max_classes, guide=guide
    )
    lengths = np.asarray(logit_lengths)
    failed = (lengths < 0) | (lengths > frames)
    step = max(1, _BLOCK // max(1, rows * classes))
    for first in range(0, frames, step):
        block = logits[:, first : first + step, :]
        inside = np.arange(first, first + block.shape[1]) < lengths[:, None]
        block = np.where(inside[:, :, None], block, 0.0)  # in padding anything may stand
        failed |= ~(block.max(axis=2) < np.inf).all(axis=1)
        log_probs = log_softmax(np.where(failed[:, None, None], 0.0, block))
        for t in range(block.shape[1]):
            active = np.flatnonzero(inside[:, t] & ~failed)
            if len(active):
                with np.errstate(all="ignore"):  # what no float holds is -inf
                    beam.advance(log_probs[active, t], active)
    kept, final_bonus = beam.entries(), beam.final_bonus()
    labels = np.full((rows, width, entries.labels.shape[2] + frames), -1, dtype=np.int32)
    for n, row in enumerate(kept.labels):
        for j, one in enumerate(row):
            labels[n, j, : len(one)] = one
    labels[failed] = -1
    numbers = (kept.blank, kept.label, kept.bonus, final_bonus)
    for array in numbers:
        array[failed] = np.nan
    return (labels, *numbers), [[state for _, state in row] for row in kept.guides]


def _begun(entries: BeamArrays, guide: Guide, states: list[list[Any]] | None) -> Entries:
    labels = _labels_of(entries)
    phrases, model = guide.phrases, guide.model
    if states is None:
        states = [[model and model.start() for _ in row] for row in labels]
    guides: list[list[Any]] = [
        [
            (phrases and phrases.after_labels(one), state)
            for one, state in zip(row, of_row, strict=True)
        ]
        for row, of_row in zip(labels, states, strict=True)
    ]
    return Entries(labels, *entries[1:], guides)


def _labels_of(beams: BeamArrays) -> list[list[list[int]]]:
    """Return the labels of each entry that is there."""
    there = np.maximum(beams.ends_blank, beams.ends_label) > -np.inf
    counts = (beams.labels >= 0).sum(axis=2)
    return [
        [one[:size].tolist() for one, size, is_there in zip(*row, strict=True) if is_there]
        for row in zip(beams.labels, counts.tolist(), there.tolist(), strict=True)
    ]


@lru_cache(maxsize=8)
def _automaton(phrases: WeightedPhrases, classes: int) -> Phrases:
    return Phrases(dict(phrases), classes)
