"""Results of a program's beam search: whether they are the most probable labels, and mistakes."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ctcx._errors import CTCInputError
from ctcx._reference.decoding import prefix_beams
from ctcx.conformance._external.asked import close, label_rows, number_rows
from ctcx.conformance._external.greedy import (
    DOUBLE_LETTERS_MERGED,
    NORMALISATION_MISSING,
    REPEATS_NOT_MERGED,
    log_probs_with_padding,
    logits_as_they_are,
    without_repeats,
)
from ctcx.conformance._external.likely import known, new

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ctcx.conformance._external.asked import Asked
    from ctcx.conformance._external.likely import Ways
    from ctcx.fixtures import Fixture

    Labels: TypeAlias = tuple[int, ...]

__all__ = [
    "BEAM_TOP",
    "BEAM_WIDTH",
    "MISTAKEN_BEAMS",
    "SaidBeam",
    "ScoredLabels",
    "beam_fault",
    "every_result",
    "mistaken_beam",
    "mistaken_beams",
    "read_beams",
    "same_beam",
]

BEAM_WIDTH, BEAM_TOP = 256, 8
"""What a program is asked for: room for all prefixes of the problems."""


class ScoredLabels(NamedTuple):
    """Labels, the logarithm of their probability, and the score that sorts them.

    Without phrases and a language model, the score is the logarithm of the probability.
    """

    labels: Labels
    log_prob: float
    score: float


class SaidBeam(NamedTuple):
    """Results in order."""

    results: Sequence[ScoredLabels]
    others: Sequence[ScoredLabels] = ()
    """What comes after the results that are asked for, in a mistaken program."""

    def trimmed(self, said: SaidBeam) -> SaidBeam:
        """Return what a program would say."""
        del said
        return SaidBeam(self.results[:BEAM_TOP], self.results[BEAM_TOP:])


def read_beams(
    document: dict[str, Any], fixture: Fixture, numbers: Sequence[str] = ("log_probs",)
) -> list[SaidBeam]:
    """Return the results of each sequence.

    ``numbers`` are the members of the answer that have a number for each result: the logarithm of
    the probability first, the score last.

    Raises CTCInputError: there are none, or something else.
    """
    for name in ("labels", *numbers):
        if document.get(name) is None:
            msg = f"the answer has no {name!r}"
            raise CTCInputError(msg, argument="answer")
    labels = label_rows("answer.labels", document["labels"], 3, fixture.shape[0])
    columns = [_numbers_of_results(document, name, labels) for name in numbers]
    beams = []
    for n, some in enumerate(labels):
        log_probs, scores = columns[0][n], columns[-1][n]
        results = map(ScoredLabels, map(tuple, some), log_probs, scores)
        beams.append(SaidBeam([one for one in results if one.score != -math.inf]))
    return beams


def _numbers_of_results(
    document: dict[str, Any], name: str, labels: Sequence[Sequence[Any]]
) -> list[list[float]]:
    """Return a number for each result of each sequence."""
    given = document[name]
    if not isinstance(given, list) or len(given) != len(labels):
        msg = f"answer.{name}: expected a list of {len(labels)} lists, one for a sequence"
        raise CTCInputError(msg, argument=f"answer.{name}")
    rows = []
    for n, (some, row) in enumerate(zip(labels, given, strict=True)):
        values = number_rows({f"{name}[{n}]": row}, f"{name}[{n}]", len(some))
        if values is None or values.ndim != 1:
            msg = f"answer.{name}[{n}]: expected a list of numbers, one for a result"
            raise CTCInputError(msg, argument=f"answer.{name}")
        rows.append(values.tolist())
    return rows


def every_result(asked: Asked) -> list[ScoredLabels]:
    """Return all labels, the most probable ones first."""
    key = asked.fixture.name, asked.n
    if key not in _CACHE:
        found = prefix_beams(
            asked.logits[None], [asked.frames], asked.blank, width=10**6, top=BEAM_WIDTH
        )
        _CACHE[key] = [
            ScoredLabels(tuple(row[row >= 0].tolist()), float(log_prob), float(log_prob))
            for row, log_prob in zip(found.labels[0], found.log_probs[0], strict=True)
            if log_prob > -math.inf
        ]
    return _CACHE[key]


_CACHE: dict[tuple[str, int], list[ScoredLabels]] = {}


def beam_fault(
    asked: Asked,
    beam: SaidBeam,
    dtype: str,
    every: Callable[[Asked], list[ScoredLabels]] = every_result,
) -> str | None:
    """Return what is wrong with results; None if they are the best labels, in order."""
    truth = every(asked)
    by_labels = {one.labels: one for one in truth}
    said = [one.labels for one in beam.results]
    for k, (labels, log_prob, score) in enumerate(beam.results):
        if labels in said[:k]:
            return f"result {k}: got {list(labels)} again: labels are one result, of all paths"
        if k >= len(truth):
            return f"got {len(beam.results)} results, expected {len(truth)}"
        own = by_labels.get(labels, ScoredLabels(labels, -math.inf, -math.inf))
        where = f"result {k}, labels {list(labels)}"
        if not close(log_prob, own.log_prob, dtype):
            return f"{where}: got {log_prob!r} nats, expected {own.log_prob!r}"
        if not close(score, own.score, dtype):
            bonus = own.score - own.log_prob
            return (
                f"{where}: got the score {score!r}, expected {own.score!r}, which is the "
                f"log-probability and {bonus!r} for phrases, language model and label bonus"
            )
        best = truth[k]
        if not close(score, best.score, dtype):
            return (
                f"result {k}: got {list(labels)} of {own.score!r} nats, expected "
                f"{list(best.labels)} of {best.score!r}"
            )
    if len(said) != min(BEAM_TOP, len(truth)):
        return f"got {len(said)} results, expected {min(BEAM_TOP, len(truth))}"
    return None


def same_beam(asked: Asked, mistaken: SaidBeam, said: SaidBeam, dtype: str) -> bool:
    """Return whether what is said is what a mistake gives; equal results may be exchanged."""
    del asked
    if len(said.results) != len(mistaken.results):
        return False
    whole = [*mistaken.results, *mistaken.others]
    return all(
        close(one.score, its.score, dtype)
        and any(
            one.labels == each.labels
            and close(one.log_prob, each.log_prob, dtype)
            and close(one.score, each.score, dtype)
            for each in whole
        )
        for one, its in zip(said.results, mistaken.results, strict=True)
    )


def _is_small(asked: Asked) -> bool:
    return bool(asked.logits.shape[1] ** asked.frames <= 4**5)


def _sum(values: list[float]) -> float:
    top = max(values)
    return top if top == -math.inf else top + math.log(math.fsum(math.exp(v - top) for v in values))


def _search(
    log_probs: NDArray[np.float64],
    blank: int,
    *,
    equal: str = "after a blank",
    apart: str = "nothing",
    best: bool = False,
) -> list[tuple[Labels, float]]:
    """Return all labels that are found with all prefixes kept, and their numbers.

    ``equal`` says when a class that equals the last label is one more label: ``"after a blank"``,
    which is right; ``"also"``: then, and without a blank too; ``"always"``: it never goes on the
    last one; ``"never"``. ``apart`` says which numbers aren't added up: ``"nothing"``, which is
    right; ``"ends"``: of a prefix that ends in a blank, and in a label; ``"arrivals"``: of a prefix
    that is in the beam, and of the same one made from a shorter one. With ``best``, the largest is
    taken for the sum.
    """
    add = max if best else _sum
    # Key: labels, whether a blank came last, and what else tells entries apart.
    beam: dict[tuple[Labels, bool, int], float] = {((), True, 0): 0.0}
    for t, row in enumerate(log_probs.tolist()):
        found: defaultdict[tuple[Labels, bool, int], list[float]] = defaultdict(list)
        for (labels, after_blank, born), log_prob in beam.items():
            found[labels, True, born].append(log_prob + row[blank])
            for k, gain in enumerate(row):
                if k == blank:
                    continue
                if labels[-1:] == (k,):
                    if not after_blank and equal != "always":
                        found[labels, False, born].append(log_prob + gain)
                    if equal == "never" or (equal == "after a blank" and not after_blank):
                        continue
                made = t + 1 if apart == "arrivals" else 0
                found[(*labels, k), False, made].append(log_prob + gain)
        beam = {key: add(parts) for key, parts in found.items()}
        beam = {key: log_prob for key, log_prob in beam.items() if log_prob > -math.inf}
    ends: defaultdict[tuple[Labels, bool | int], list[float]] = defaultdict(list)
    for (labels, after_blank, born), log_prob in beam.items():
        ends[labels, after_blank if apart == "ends" else born].append(log_prob)
    return [(labels, add(parts)) for (labels, _), parts in ends.items()]


def no_bonus(asked: Asked, labels: Labels) -> float:
    """Return what labels get besides their probability, without anything that guides a search."""
    del asked, labels
    return 0.0


def mistaken_beam(
    asked: Asked,
    *,
    which: int | None = None,
    rows: Callable[[Asked], NDArray[np.float64]] | None = None,
    then: Callable[[list[ScoredLabels]], list[ScoredLabels]] | None = None,
    bonus: Callable[[Asked, Labels], float] = no_bonus,
    **rules: Any,
) -> SaidBeam | None:
    """Return the results of a search with something changed; None where programs may differ.

    ``which`` of the other blanks is taken for the blank; ``rows`` returns what is taken for
    logarithms of probabilities, and ``then`` changes the results afterwards. ``bonus`` returns what
    labels get besides their probability, NaN where programs may differ. ``rules`` are those of the
    search.
    """
    if not _is_small(asked):
        return None
    blank = asked.blank if which is None else asked.other_blanks[which]
    found = _search(asked.log_probs if rows is None else rows(asked), blank, **rules)
    results = [ScoredLabels(y, log_prob, log_prob + bonus(asked, y)) for y, log_prob in found]
    if any(math.isnan(one.score) for one in results):
        return None
    results = sorted(results, key=_rank)
    return SaidBeam(results if then is None else then(results))


def _rank(result: ScoredLabels) -> float:
    return -result.score


def _merged_afterwards(results: list[ScoredLabels]) -> list[ScoredLabels]:
    return [one._replace(labels=tuple(without_repeats(list(one.labels)))) for one in results]


def _added_up(results: list[ScoredLabels]) -> list[ScoredLabels]:
    found: defaultdict[Labels, list[ScoredLabels]] = defaultdict(list)
    for one in results:
        found[one.labels].append(one)
    sums = [
        ScoredLabels(
            labels, _sum([one.log_prob for one in parts]), _sum([one.score for one in parts])
        )
        for labels, parts in found.items()
    ]
    return sorted(sums, key=_rank)


def _first_of_each(results: list[ScoredLabels]) -> list[ScoredLabels]:
    found: dict[Labels, ScoredLabels] = {}
    for one in results:
        found.setdefault(one.labels, one)
    return list(found.values())


def _merged_and_first(results: list[ScoredLabels]) -> list[ScoredLabels]:
    return _first_of_each(_merged_afterwards(results))


def _merged_and_added(results: list[ScoredLabels]) -> list[ScoredLabels]:
    return _added_up(_merged_afterwards(results))


def mistaken_beams(
    bonus: Callable[[Asked, Labels], float] = no_bonus,
) -> Iterator[Ways[SaidBeam]]:
    """Yield mistakes of beam searches, with the ways to make it; ``bonus`` is the right one."""
    beam = partial(mistaken_beam, bonus=bonus)
    yield known("blank-at-wrong-end"), tuple(partial(beam, which=i) for i in range(3))
    ways = (_merged_afterwards, _merged_and_first, _merged_and_added)
    yield DOUBLE_LETTERS_MERGED, tuple(partial(beam, then=way) for way in ways)
    yield (
        new(
            "prefix-kept-twice",
            "The same labels are several entries of the beam, such as one that ends in a blank and "
            "one that ends in a label, so that each has too little probability: add them up in "
            "each frame.",
        ),
        tuple(
            partial(beam, apart=apart, then=then)
            for apart in ("ends", "arrivals")
            for then in (None, _first_of_each)
        ),
    )
    yield (
        new(
            "double-letters-lost",
            "A label that equals the last one of the prefix is never added: it is, from the "
            "paths of the prefix that end in a blank.",
        ),
        (partial(beam, equal="never"),),
    )
    yield REPEATS_NOT_MERGED, tuple(partial(beam, equal=how) for how in ("also", "always"))
    yield known("best-path-only"), (partial(beam, best=True),)
    yield known("padding-not-masked"), (partial(beam, rows=log_probs_with_padding),)
    yield NORMALISATION_MISSING, (partial(beam, rows=logits_as_they_are),)


MISTAKEN_BEAMS = tuple(mistaken_beams())
"""Mistakes of beam searches, each with the ways to make it."""
