"""Results of a program's guided beam search: whether they are the best labels, and mistakes."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ctcx._reference.guided_search import model_bonus, phrase_bonus
from ctcx.conformance._external.beam_search import (
    SaidBeam,
    ScoredLabels,
    beam_fault,
    every_result,
    mistaken_beam,
    mistaken_beams,
    read_beams,
)
from ctcx.conformance._external.likely import new
from ctcx.fixtures._guide import FixtureGuide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import TypeAlias

    from numpy.typing import NDArray

    from ctcx.conformance._external.asked import Asked
    from ctcx.conformance._external.likely import Ways
    from ctcx.fixtures import Fixture

    Labels: TypeAlias = tuple[int, ...]
    Phrases: TypeAlias = Sequence[tuple[Labels, float]]

__all__ = ["MISTAKEN_GUIDED_BEAMS", "guided_fault", "read_guided_beams"]


def read_guided_beams(document: dict[str, Any], fixture: Fixture) -> list[SaidBeam]:
    """Return the results of each sequence; see :func:`read_beams`."""
    return read_beams(document, fixture, ("log_probs", "scores"))


def guided_fault(asked: Asked, beam: SaidBeam, dtype: str) -> str | None:
    """Return what is wrong with results; None if they are those of largest score, in order."""
    return beam_fault(asked, beam, dtype, _scored)


# What labels get, by the right definition and by wrong ones


class _Definition(NamedTuple):
    """What labels get besides their probability."""

    of_phrases: Callable[[Labels, Phrases], float] = partial(phrase_bonus, ended=True)
    change: Callable[[FixtureGuide, int], FixtureGuide] | None = None
    """Of the guide, for a number of classes."""
    is_finished: bool = True
    """Whether the language model is told of the end."""
    per_frame: bool = False
    """Whether each frame gets the label bonus."""


_RIGHT = _Definition()


@lru_cache(maxsize=2**15)
def _bonus_of(fixture: Fixture, labels: Labels, frames: int, definition: _Definition) -> float:
    guide, classes = fixture.guide or FixtureGuide(), fixture.shape[2]
    if definition.change is not None:
        guide = definition.change(guide, classes)
    if guide.ngrams and fixture.blank in labels:
        return math.nan  # the language model doesn't know it
    model = guide.model(classes)
    of_model = 0.0 if model is None else model_bonus(labels, model, ended=definition.is_finished)
    times = frames if definition.per_frame else len(labels)
    return (
        definition.of_phrases(labels, tuple(guide.phrases.items()))
        + guide.lm_weight * of_model
        + guide.label_bonus * times
    )


def _bonus(asked: Asked, labels: Labels, definition: _Definition) -> float:
    return _bonus_of(asked.fixture, labels, asked.frames, definition)


def _scored(asked: Asked, definition: _Definition = _RIGHT) -> list[ScoredLabels]:
    """Return all labels, those of the largest scores first."""
    scored = [
        one._replace(score=one.log_prob + _bonus(asked, one.labels, definition))
        for one in every_result(asked)
    ]
    return sorted(scored, key=lambda one: -one.score)


def _mistaken(asked: Asked, definition: _Definition) -> SaidBeam:
    return SaidBeam(_scored(asked, definition))


def _whole(labels: Labels, phrases: Phrases) -> Iterator[tuple[Labels, float]]:
    """Yield phrases with their weights, as often as they are there."""
    for phrase, weight in phrases:
        for first in range(len(labels)):
            if labels[first : first + len(phrase)] == phrase:
                yield phrase, weight


def _added_up(labels: Labels, phrases: Phrases) -> float:
    return math.fsum(weight * len(phrase) for phrase, weight in _whole(labels, phrases))


def _once_each(labels: Labels, phrases: Phrases) -> float:
    return math.fsum(weight for _, weight in _whole(labels, phrases))


def _never_taken_back(labels: Labels, phrases: Phrases) -> float:
    """Give each label the largest weight of the phrases that it begins or goes on."""
    found = []
    for end in range(1, len(labels) + 1):
        parts = [labels[first:end] for first in range(end)]
        found += [[weight for y, weight in phrases for part in parts if y[: len(part)] == part]]
    return math.fsum(max(weights) for weights in found if weights)


def _never_taken_back_nor_restarted(labels: Labels, phrases: Phrases) -> float:
    """Do so along one phrase at a time; the label that breaks it off may begin another."""
    total = 0.0
    begun: Labels = ()
    for label in labels:
        for part in ((*begun, label), (label,), ()):
            weights = [weight for y, weight in phrases if y[: len(part)] == part]
            if weights or not part:
                break
        begun = part
        total += max(weights) if part else 0.0
    return total


def _in_base_10(guide: FixtureGuide, _classes: int) -> FixtureGuide:
    return replace(guide, lm_weight=guide.lm_weight / math.log(10))


def _from_base_10(guide: FixtureGuide, _classes: int) -> FixtureGuide:
    return replace(guide, lm_weight=guide.lm_weight * math.log(10))


def _without_back_offs(guide: FixtureGuide, _classes: int) -> FixtureGuide:
    return replace(guide, ngrams={gram: (p, 0.0) for gram, (p, _) in guide.ngrams.items()})


def _without_beginning(guide: FixtureGuide, classes: int) -> FixtureGuide:
    return replace(
        guide, ngrams={gram: each for gram, each in guide.ngrams.items() if gram[0] != classes}
    )


def _with_label_bonus_in_frames(asked: Asked) -> SaidBeam | None:
    """Return the results if each frame that isn't blank gets the label bonus, along each path."""
    guide = asked.fixture.guide or FixtureGuide()

    def rows(asked: Asked) -> NDArray[np.float64]:
        is_label = np.arange(asked.logits.shape[1]) != asked.blank
        return asked.log_probs + np.where(is_label, guide.label_bonus, 0.0)

    without = partial(_bonus, definition=_Definition(change=_without_label_bonus))
    found = mistaken_beam(asked, rows=rows, bonus=without)
    if found is None:
        return None
    log_probs = {one.labels: one.log_prob for one in every_result(asked)}
    return SaidBeam([one._replace(log_prob=log_probs[one.labels]) for one in found.results])


def _without_label_bonus(guide: FixtureGuide, _classes: int) -> FixtureGuide:
    return replace(guide, label_bonus=0.0)


def _mistaken_guided_beams() -> Iterator[Ways[SaidBeam]]:
    def ways(*definitions: _Definition) -> tuple[Callable[[Asked], SaidBeam], ...]:
        return tuple(partial(_mistaken, definition=definition) for definition in definitions)

    yield (
        new(
            "phrase-refund-missing",
            "Labels of a phrase that breaks off, or is unfinished at the end, keep its weight: "
            "take back what they got, unless a shorter whole phrase gives it.",
        ),
        ways(
            _Definition(partial(phrase_bonus, ended=False)),
            _Definition(_never_taken_back),
            _Definition(_never_taken_back_nor_restarted),
        ),
    )
    yield (
        new(
            "phrase-overlap-added-up",
            "A label in several phrases gets all their weights: it gets the largest one.",
        ),
        ways(_Definition(_added_up)),
    )
    yield (
        new(
            "phrase-weight-once",
            "A phrase adds its weight once: it is the weight of each of its labels.",
        ),
        ways(_Definition(_once_each)),
    )
    yield (
        new(
            "label-bonus-per-frame",
            "The label bonus is added in each frame: each label adds it once, however many frames "
            "it takes.",
        ),
        (*ways(_Definition(per_frame=True)), _with_label_bonus_in_frames),
    )
    yield (
        new(
            "language-model-end-missing",
            "The language model isn't told that nothing follows: add the logarithm of the "
            "probability of the end after the last labels.",
        ),
        ways(_Definition(is_finished=False)),
    )
    yield (
        new(
            "language-model-beginning-missing",
            "The language model doesn't know that nothing came before: the first label comes after "
            "the beginning.",
        ),
        ways(_Definition(change=_without_beginning)),
    )
    yield (
        new(
            "language-model-in-base-10",
            "Logarithms of the language model are to the base 10 where natural ones are due, or "
            "are converted twice.",
        ),
        ways(_Definition(change=_in_base_10), _Definition(change=_from_base_10)),
    )
    yield (
        new(
            "back-off-missing",
            "Where an n-gram is not there, the shorter one counts without the back-off of the "
            "labels before: add it.",
        ),
        ways(_Definition(change=_without_back_offs)),
    )
    yield from mistaken_beams(partial(_bonus, definition=_RIGHT))


MISTAKEN_GUIDED_BEAMS = tuple(_mistaken_guided_beams())
"""Mistakes of guided beam searches, each with the ways to make it."""
