"""Labels that a program decodes: whether they are the most probable ones, and common mistakes."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ctcx._errors import CTCInputError
from ctcx._reference.best_path import best_paths
from ctcx._reference.decoding import log_softmax, merged, prefix_beams
from ctcx._reference.oracle import reference
from ctcx.conformance._external.asked import close, label_rows, number_rows
from ctcx.conformance._external.likely import known, new

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from ctcx.conformance._external.asked import Asked
    from ctcx.conformance._external.likely import Ways
    from ctcx.fixtures import Fixture

    Labels = tuple[int, ...]
    Entries = list[tuple[Labels, float]]

__all__ = [
    "BEAM_TOP",
    "BEAM_WIDTH",
    "MISTAKEN_BEAMS",
    "MISTAKEN_LABELS",
    "SaidBeam",
    "SaidLabels",
    "beam_fault",
    "labels_fault",
    "read_beams",
    "read_labels",
    "same_beam",
    "same_labels",
]

BEAM_WIDTH, BEAM_TOP = 256, 8
"""What a program is asked for: room for all prefixes of the problems."""


# Greedy decoding


class SaidLabels(NamedTuple):
    """Labels of one sequence, and the log-probability of the path of the best classes."""

    labels: list[int]
    score: float | None

    def trimmed(self, said: SaidLabels) -> SaidLabels:
        """Return it without what ``said`` doesn't say."""
        return self if said.score is not None else self._replace(score=None)


def read_labels(document: dict[str, Any], fixture: Fixture) -> list[SaidLabels]:
    """Return the labels of each sequence.

    Raises
    ------
    CTCInputError
        There are none, or something else.
    """
    if document.get("labels") is None:
        msg = "the answer has no 'labels'"
        raise CTCInputError(msg, argument="answer")
    count = fixture.shape[0]
    labels = label_rows("answer.labels", document["labels"], 2, count)
    scores = number_rows(document, "score", count)
    return [
        SaidLabels(labels[n], None if scores is None else float(scores[n])) for n in range(count)
    ]


def labels_fault(asked: Asked, said: SaidLabels, dtype: str) -> str | None:
    """Return what is wrong with labels; None if a path of them is as good as the best one."""
    best = float(asked.truth("greedy_score"))
    expected = [label for label in asked.truth("greedy_labels").tolist() if label >= 0]
    if said.labels != expected:
        own = _best_score(asked, said.labels)
        if not own >= best - (1e-9 * max(1.0, abs(best)) if dtype == "float64" else 1e-3):
            several = "" if asked.truth("greedy_unique") else ", or others that are equally good"
            return f"labels: got {said.labels}, expected {expected}{several}"
    if said.score is not None and not close(said.score, best, dtype):
        return f"score: got {said.score!r}, expected {best!r}, that of the best path"
    return None


def same_labels(asked: Asked, mistaken: SaidLabels, said: SaidLabels, dtype: str) -> bool:
    """Return whether what is said is what a mistake gives."""
    del asked
    if said.score is None or mistaken.score is None:
        return said.labels == mistaken.labels
    return said.labels == mistaken.labels and close(said.score, mistaken.score, dtype)


def _best_score(asked: Asked, labels: list[int]) -> float:
    """Return the log-probability of the best path of labels; -inf if they can't be."""
    if any(not 0 <= k < asked.logits.shape[1] or k == asked.blank for k in labels):
        return -math.inf
    rows = [labels] if labels else np.zeros((1, 0), dtype=np.int64)
    found = best_paths(asked.logits[None], rows, [asked.frames], [len(labels)], asked.blank)
    return float(found.score[0])


def _decoded(
    asked: Asked,
    *,
    which: int | None = None,
    rows: Callable[[Asked], NDArray[np.float64]] | None = None,
    then: Callable[[list[int], int], list[int]] | None = None,
) -> SaidLabels:
    """Return the labels of the best classes, with something changed."""
    blank = asked.blank if which is None else asked.other_blanks[which]
    log_probs = asked.log_probs if rows is None else rows(asked)
    classes = log_probs.argmax(axis=1).tolist()
    score = math.fsum(log_probs.max(axis=1)) if classes else 0.0
    labels = [label for label, _, _ in merged(classes, blank)]
    return SaidLabels(labels if then is None else then(classes, blank), score)


def _without_repeats(labels: list[int]) -> list[int]:
    return [label for label, _ in groupby(labels)]


def _double_letters_merged(classes: list[int], blank: int) -> list[int]:
    return _without_repeats([k for k in classes if k != blank])


def _repeats_kept(classes: list[int], blank: int) -> list[int]:
    return [k for k in classes if k != blank]


def _blanks_kept(classes: list[int], blank: int) -> list[int]:
    del blank
    return _without_repeats(classes)


def _whole(asked: Asked) -> NDArray[np.float64]:
    return log_softmax(asked.padded)


def _logits(asked: Asked) -> NDArray[np.float64]:
    return asked.logits


def _score_of_labels(asked: Asked) -> SaidLabels:
    """Return the right labels with the logarithm of their own probability, by all paths."""
    right = _decoded(asked)
    if asked.frames == 0 or not math.isfinite(right.score or 0.0):
        return right
    rows = [right.labels] if right.labels else np.zeros((1, 0), dtype=np.int64)
    truth = reference(asked.logits[None], rows, [asked.frames], [len(right.labels)], asked.blank)
    return right._replace(score=0.0 - float(truth.loss[0]))


# Beam search


class SaidBeam(NamedTuple):
    """Labels with their log-probabilities, in order."""

    entries: Entries
    others: Entries | tuple[()] = ()
    """What comes after the results that are asked for, in a mistaken program."""

    def trimmed(self, said: SaidBeam) -> SaidBeam:
        """Return what a program would say."""
        del said
        return SaidBeam(self.entries[:BEAM_TOP], self.entries[BEAM_TOP:])


def read_beams(document: dict[str, Any], fixture: Fixture) -> list[SaidBeam]:
    """Return the results of each sequence.

    Raises
    ------
    CTCInputError
        There are none, or something else.
    """
    for name in ("labels", "log_probs"):
        if document.get(name) is None:
            msg = f"the answer has no {name!r}"
            raise CTCInputError(msg, argument="answer")
    count = fixture.shape[0]
    labels = label_rows("answer.labels", document["labels"], 3, count)
    given = document["log_probs"]
    if not isinstance(given, list) or len(given) != count:
        msg = f"answer.log_probs: expected a list of {count} lists, one for a sequence"
        raise CTCInputError(msg, argument="answer.log_probs")
    beams = []
    for n, (some, row) in enumerate(zip(labels, given, strict=True)):
        log_probs = number_rows({f"log_probs[{n}]": row}, f"log_probs[{n}]", len(some))
        if log_probs is None or log_probs.ndim != 1:
            msg = f"answer.log_probs[{n}]: expected a list of numbers, one for a result"
            raise CTCInputError(msg, argument="answer.log_probs")
        pairs = zip(map(tuple, some), log_probs.tolist(), strict=True)
        beams.append(
            SaidBeam([(said, log_prob) for said, log_prob in pairs if log_prob != -math.inf])
        )
    return beams


def beam_fault(asked: Asked, beam: SaidBeam, dtype: str) -> str | None:
    """Return what is wrong with results; None if they are the most probable labels, in order."""
    truth = _truth(asked)
    probability = dict(truth)
    said = [labels for labels, _ in beam.entries]
    for k, (labels, log_prob) in enumerate(beam.entries):
        if labels in said[:k]:
            return f"result {k}: got {list(labels)} again: labels are one result, of all paths"
        if k >= len(truth):
            return f"got {len(beam.entries)} results, expected {len(truth)}"
        own = probability.get(labels, -math.inf)
        if not close(log_prob, own, dtype):
            return f"result {k}, labels {list(labels)}: got {log_prob!r} nats, expected {own!r}"
        if not close(log_prob, truth[k][1], dtype):
            best, most = truth[k]
            return (
                f"result {k}: got {list(labels)} of {own!r} nats, expected {list(best)} of {most!r}"
            )
    if len(said) != min(BEAM_TOP, len(truth)):
        return f"got {len(said)} results, expected {min(BEAM_TOP, len(truth))}"
    return None


def same_beam(asked: Asked, mistaken: SaidBeam, said: SaidBeam, dtype: str) -> bool:
    """Return whether what is said is what a mistake gives; equal results may be exchanged."""
    del asked
    if len(said.entries) != len(mistaken.entries):
        return False
    whole = [*mistaken.entries, *mistaken.others]
    return all(
        close(log_prob, its, dtype)
        and any(labels == each and close(log_prob, likewise, dtype) for each, likewise in whole)
        for (labels, log_prob), (_, its) in zip(said.entries, mistaken.entries, strict=True)
    )


def _truth(asked: Asked) -> Entries:
    """Return all labels with their log-probabilities, in order."""
    key = ("truth", asked.fixture.name, asked.n)
    if key not in _CACHE:
        found = prefix_beams(
            asked.logits[None], [asked.frames], asked.blank, width=10**6, top=BEAM_WIDTH
        )
        _CACHE[key] = [
            (tuple(row[row >= 0].tolist()), float(log_prob))
            for row, log_prob in zip(found.labels[0], found.log_probs[0], strict=True)
            if log_prob > -math.inf
        ]
    return _CACHE[key]


_CACHE: dict[tuple[str, str, int], Entries] = {}


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
) -> Entries:
    """Return all labels that are found with all prefixes kept, the most probable ones first.

    Parameters
    ----------
    log_probs : ndarray of float64, shape (T, C)
        Logarithms of probabilities, or what is taken for them.
    blank : int
        What is taken for the blank class.
    equal : str
        When a class that equals the last label is one more label: ``"after a blank"``, which is
        right; ``"also"``: then, and without a blank too; ``"always"``: it never goes on the last
        one; ``"never"``.
    apart : str
        What isn't added up: ``"nothing"``, which is right; ``"ends"``: a prefix that ends in a
        blank, and in a label; ``"arrivals"``: a prefix that is in the beam, and the same one made
        from a shorter one.
    best : bool
        Whether the largest is taken for the sum.
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
    results = [(labels, add(parts)) for (labels, _), parts in ends.items()]
    return sorted(results, key=lambda entry: -entry[1])


def _beam(
    asked: Asked,
    *,
    which: int | None = None,
    rows: Callable[[Asked], NDArray[np.float64]] | None = None,
    then: Callable[[Entries], Entries] | None = None,
    **rules: Any,
) -> SaidBeam | None:
    """Return the results of a search with something changed."""
    if not _is_small(asked):
        return None
    blank = asked.blank if which is None else asked.other_blanks[which]
    entries = _search(asked.log_probs if rows is None else rows(asked), blank, **rules)
    return SaidBeam(entries if then is None else then(entries))


def _merged_afterwards(entries: Entries) -> Entries:
    return [(tuple(_without_repeats(list(labels))), log_prob) for labels, log_prob in entries]


def _added_up(entries: Entries) -> Entries:
    found: defaultdict[Labels, list[float]] = defaultdict(list)
    for labels, log_prob in entries:
        found[labels].append(log_prob)
    sums = [(labels, _sum(parts)) for labels, parts in found.items()]
    return sorted(sums, key=lambda entry: -entry[1])


def _first_of_each(entries: Entries) -> Entries:
    found: dict[Labels, float] = {}
    for labels, log_prob in entries:
        found.setdefault(labels, log_prob)
    return list(found.items())


def _merged_and_first(entries: Entries) -> Entries:
    return _first_of_each(_merged_afterwards(entries))


def _merged_and_added(entries: Entries) -> Entries:
    return _added_up(_merged_afterwards(entries))


# Mistakes

_DOUBLE = new(
    "double-letters-merged",
    "Equal labels are merged although a blank stands between them, as by `merge_repeated` of "
    "TensorFlow's first version: merge repeats along the path, before blanks are left out.",
)
_NOT_MERGED = new(
    "repeats-not-merged",
    "A class that stays for several frames is taken for several labels: it is one label unless a "
    "blank comes between.",
)
_WITHOUT_SOFTMAX = new(
    "normalisation-missing",
    "Logits are taken for log-probabilities: subtract log-sum-exp of each frame first.",
)


def _mistaken_labels() -> Iterator[Ways[SaidLabels]]:
    yield known("blank-at-wrong-end"), tuple(partial(_decoded, which=i) for i in range(3))
    yield _DOUBLE, (partial(_decoded, then=_double_letters_merged),)
    yield _NOT_MERGED, (partial(_decoded, then=_repeats_kept),)
    yield (
        new("blanks-kept", "Blanks are among the labels: they are left out after merging."),
        (partial(_decoded, then=_blanks_kept),),
    )
    yield known("padding-not-masked"), (partial(_decoded, rows=_whole),)
    yield _WITHOUT_SOFTMAX, (partial(_decoded, rows=_logits),)
    yield (
        new(
            "score-of-all-paths",
            "The score is the log-probability of the labels, by all their paths: that of the one "
            "best path is asked for.",
        ),
        (_score_of_labels,),
    )


def _mistaken_beams() -> Iterator[Ways[SaidBeam]]:
    yield known("blank-at-wrong-end"), tuple(partial(_beam, which=i) for i in range(3))
    ways = (_merged_afterwards, _merged_and_first, _merged_and_added)
    yield _DOUBLE, tuple(partial(_beam, then=way) for way in ways)
    yield (
        new(
            "prefix-kept-twice",
            "The same labels are several entries of the beam, such as one that ends in a blank and "
            "one that ends in a label, so that each has too little probability: add them up in "
            "each frame.",
        ),
        tuple(
            partial(_beam, apart=apart, then=then)
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
        (partial(_beam, equal="never"),),
    )
    yield _NOT_MERGED, tuple(partial(_beam, equal=how) for how in ("also", "always"))
    yield known("best-path-only"), (partial(_beam, best=True),)
    yield known("padding-not-masked"), (partial(_beam, rows=_whole),)
    yield _WITHOUT_SOFTMAX, (partial(_beam, rows=_logits),)


MISTAKEN_LABELS = tuple(_mistaken_labels())
"""Mistakes of greedy decoding, each with the ways to make it."""

MISTAKEN_BEAMS = tuple(_mistaken_beams())
"""Mistakes of beam searches, each with the ways to make it."""
