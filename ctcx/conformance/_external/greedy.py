"""Labels that a program decodes greedily: whether their path is as good as the best one."""

from __future__ import annotations

import math
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ctcx._errors import CTCInputError
from ctcx._reference.best_path import best_paths
from ctcx._reference.decoding import log_softmax, merged
from ctcx._reference.oracle import reference
from ctcx.conformance._external.asked import close, label_rows, number_rows
from ctcx.conformance._external.likely import known, new

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from ctcx.conformance._external.asked import Asked
    from ctcx.conformance._external.likely import Ways
    from ctcx.fixtures import Fixture

__all__ = [
    "DOUBLE_LETTERS_MERGED",
    "MISTAKEN_LABELS",
    "NORMALISATION_MISSING",
    "REPEATS_NOT_MERGED",
    "SaidLabels",
    "labels_fault",
    "log_probs_with_padding",
    "logits_as_they_are",
    "read_labels",
    "same_labels",
    "without_repeats",
]


class SaidLabels(NamedTuple):
    """Labels of one sequence, and the log-probability of the path of the best classes."""

    labels: list[int]
    score: float | None

    def trimmed(self, said: SaidLabels) -> SaidLabels:
        """Return it without what ``said`` doesn't say."""
        return self if said.score is not None else self._replace(score=None)


def read_labels(document: dict[str, Any], fixture: Fixture) -> list[SaidLabels]:
    """Return the labels of each sequence.

    Raises CTCInputError: there are none, or something else.
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


def without_repeats(labels: list[int]) -> list[int]:
    return [label for label, _ in groupby(labels)]


def _double_letters_merged(classes: list[int], blank: int) -> list[int]:
    return without_repeats([k for k in classes if k != blank])


def _repeats_kept(classes: list[int], blank: int) -> list[int]:
    return [k for k in classes if k != blank]


def _blanks_kept(classes: list[int], blank: int) -> list[int]:
    del blank
    return without_repeats(classes)


def log_probs_with_padding(asked: Asked) -> NDArray[np.float64]:
    return log_softmax(asked.padded)


def logits_as_they_are(asked: Asked) -> NDArray[np.float64]:
    return asked.logits


def _score_of_labels(asked: Asked) -> SaidLabels:
    """Return the right labels with the logarithm of their own probability, by all paths."""
    right = _decoded(asked)
    if asked.frames == 0 or not math.isfinite(right.score or 0.0):
        return right
    rows = [right.labels] if right.labels else np.zeros((1, 0), dtype=np.int64)
    truth = reference(asked.logits[None], rows, [asked.frames], [len(right.labels)], asked.blank)
    return right._replace(score=0.0 - float(truth.loss[0]))


DOUBLE_LETTERS_MERGED = new(
    "double-letters-merged",
    "Equal labels are merged although a blank stands between them, as by `merge_repeated` of "
    "TensorFlow's first version: merge repeats along the path, before blanks are left out.",
)
REPEATS_NOT_MERGED = new(
    "repeats-not-merged",
    "A class that stays for several frames is taken for several labels: it is one label unless a "
    "blank comes between.",
)
NORMALISATION_MISSING = new(
    "normalisation-missing",
    "Logits are taken for log-probabilities: subtract log-sum-exp of each frame first.",
)


def _mistaken_labels() -> Iterator[Ways[SaidLabels]]:
    yield known("blank-at-wrong-end"), tuple(partial(_decoded, which=i) for i in range(3))
    yield DOUBLE_LETTERS_MERGED, (partial(_decoded, then=_double_letters_merged),)
    yield REPEATS_NOT_MERGED, (partial(_decoded, then=_repeats_kept),)
    yield (
        new("blanks-kept", "Blanks are among the labels: they are left out after merging."),
        (partial(_decoded, then=_blanks_kept),),
    )
    yield known("padding-not-masked"), (partial(_decoded, rows=log_probs_with_padding),)
    yield NORMALISATION_MISSING, (partial(_decoded, rows=logits_as_they_are),)
    yield (
        new(
            "score-of-all-paths",
            "The score is the log-probability of the labels, by all their paths: that of the one "
            "best path is asked for.",
        ),
        (_score_of_labels,),
    )


MISTAKEN_LABELS = tuple(_mistaken_labels())
"""Mistakes of greedy decoding, each with the ways to make it."""
