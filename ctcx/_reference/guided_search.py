"""The right answers of guided search, in float64, by code of its own: bonuses by definition."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ctcx._reference.decoding import log_softmax

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    _Labels = tuple[int, ...]
    _Phrases = Sequence[tuple[_Labels, float]]
    _Bonus = Callable[..., float]

__all__ = [
    "GuidedBeams",
    "LabelModel",
    "bonus_of",
    "guided_search",
    "model_bonus",
    "phrase_bonus",
]


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelModel:
    """An n-gram model in which each label is a word, as :func:`model_bonus` reads it."""

    grams: Mapping[tuple[str, ...], tuple[float, float]]
    """Natural logarithms of the probability and of the back-off of each n-gram."""
    order: int
    """The most words of an n-gram."""
    tokens: tuple[str, ...]
    """The words of classes."""
    separator: None = None


def phrase_bonus(labels: _Labels, phrases: _Phrases, *, ended: bool) -> float:
    """Add up the largest weight of each label in phrases; before the end, in begun ones too."""
    weights: list[list[float]] = [[] for _ in labels]
    for phrase, weight in phrases:
        for first in range(len(labels)):
            part = labels[first : first + len(phrase)]
            if part == phrase[: len(part)] and (len(part) == len(phrase) or not ended):
                for place in range(first, first + len(part)):
                    weights[place].append(weight)
    return math.fsum(max(each) for each in weights if each)


def model_bonus(labels: _Labels, model: Any, *, ended: bool) -> float:
    """Add up the logarithms of n-grams, straight from their definition."""
    words, spelled = ["<s>"], ""
    for token in (model.tokens[label] for label in labels):
        if model.separator is None:
            words.append(token)
        elif token != model.separator:
            spelled += token
        elif spelled:
            words.append(spelled)
            spelled = ""
    if ended:
        words += [spelled] if spelled else []
        words.append("</s>")
    known = [word if (word,) in model.grams else "<unk>" for word in words]

    def log_prob(context: tuple[str, ...], word: str) -> float:
        if (*context, word) in model.grams:
            return float(model.grams[*context, word][0])
        back_off = float(model.grams[context][1]) if context in model.grams else 0.0
        return back_off + log_prob(context[1:], word)

    return math.fsum(
        log_prob(tuple(known[max(0, k - model.order + 1) : k]), known[k])
        for k in range(1, len(known))
    )


def bonus_of(phrases: _Phrases, model: Any, model_weight: float, label_bonus: float) -> _Bonus:
    """Return the function that says what labels get besides their probability."""
    by_first: dict[int, list[tuple[_Labels, float]]] = {}
    for phrase, weight in phrases:
        by_first.setdefault(phrase[0], []).append((phrase, weight))

    @cache
    def bonus(labels: _Labels, *, ended: bool) -> float:
        possible = [one for label in set(labels) for one in by_first.get(label, ())]
        of_model = 0.0 if model is None else model_weight * model_bonus(labels, model, ended=ended)
        return phrase_bonus(labels, possible, ended=ended) + of_model + label_bonus * len(labels)

    return bonus


@dataclass(frozen=True, eq=False, slots=True)
class GuidedBeams:
    """Beams after the last frame, as :class:`ctcx.plugin.Backend` describes them."""

    labels: NDArray[np.int64]
    ends_blank: NDArray[np.float64]
    ends_label: NDArray[np.float64]
    bonus: NDArray[np.float64]
    final_bonus: NDArray[np.float64]


def guided_search(
    logits: ArrayLike,
    logit_lengths: ArrayLike,
    blank: int,
    *,
    width: int,
    max_classes: int | None,
    entries: tuple[Any, ...],
    phrases: _Phrases,
    model: Any,
    model_weight: float,
    label_bonus: float,
) -> GuidedBeams:
    """Add the frames of a batch (N, T, C) to beams."""
    batch = np.asarray(logits, dtype=np.float64)
    bonus = bonus_of(phrases, model, model_weight, label_bonus)
    shape = len(batch), width
    labels = np.full((*shape, entries[0].shape[2] + batch.shape[1]), -1)
    ends_blank, ends_label = np.full(shape, -np.inf), np.full(shape, -np.inf)
    bonuses, final = np.zeros(shape), np.zeros(shape)
    for n, length in enumerate(np.asarray(logit_lengths).tolist()):
        beam = {
            tuple(one[one >= 0].tolist()): (float(by_blank), float(by_label))
            for one, by_blank, by_label in zip(*(each[n] for each in entries[:3]), strict=True)
            if max(by_blank, by_label) > -np.inf
        }
        for row in log_softmax(batch[n, :length]):
            beam = _next_beam(beam, row.tolist(), blank, width, max_classes, bonus)
        for k, (prefix, parts) in enumerate(beam.items()):
            labels[n, k, : len(prefix)] = prefix
            ends_blank[n, k], ends_label[n, k] = parts
            bonuses[n, k], final[n, k] = bonus(prefix, ended=False), bonus(prefix, ended=True)
    return GuidedBeams(labels, ends_blank, ends_label, bonuses, final)


def _next_beam(
    beam: dict[_Labels, tuple[float, float]],
    row: list[float],
    blank: int,
    width: int,
    max_classes: int | None,
    bonus: _Bonus,
) -> dict[_Labels, tuple[float, float]]:
    """Return the beam after a frame of logarithms of probabilities; entries in order."""
    order = sorted((c for c in range(len(row)) if c != blank), key=lambda c: (-row[c], c))
    totals = {prefix: float(np.logaddexp(*parts)) for prefix, parts in beam.items()}
    found: dict[_Labels, tuple[float, float]] = {}
    for prefix, parts in beam.items():
        label, parent = -math.inf, prefix[:-1]
        if prefix:
            label = parts[1] + row[prefix[-1]]
        if prefix and parent in beam:
            came = beam[parent][0] if parent[-1:] == prefix[-1:] else totals[parent]
            label = float(np.logaddexp(label, came + row[prefix[-1]]))
        found[prefix] = (totals[prefix] + row[blank], label)
    for c in order[:max_classes]:
        for prefix, parts in beam.items():
            if (*prefix, c) not in beam:
                came = parts[0] if prefix[-1:] == (c,) else totals[prefix]
                found[*prefix, c] = (-math.inf, came + row[c])
    scores = {
        prefix: float(np.logaddexp(*parts)) + bonus(prefix, ended=False)
        for prefix, parts in found.items()
    }
    best = sorted(found, key=lambda prefix: -scores[prefix])[:width]  # stable
    return {prefix: found[prefix] for prefix in best if scores[prefix] > -math.inf}
