"""Beam search is right: its labels, their probabilities, what it keeps, ties and edge cases."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

import ctcx
from ctcx._reference.decoding import enumerate_labels, prefix_beams
from ctcx._reference.oracle import round_to_dtype
from ctcx.conformance._checks.decoding import (
    BEAM_FORMS,
    Decoder,
    is_without_results,
    random_batch,
)
from ctcx.conformance._checks.judging import in_group, pick, raise_if
from ctcx.conformance._checks.registry import check

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ctcx.conformance._subject import Subject
    from ctcx.data.batch import Batch

__all__: list[str] = []

_SIZES: dict[str, Any] = {"width": 6, "top": 4}
_DECODER = Decoder(
    name="beam_search",
    function=ctcx.ctc_beam_search,
    forms=BEAM_FORMS,
    options=lambda *_: {**_SIZES, "exact_scores": False},
    kernel_options=lambda *_: {**_SIZES, "max_classes": None},
    is_marked=is_without_results,
)


def _results(found: ctcx.Beams[Any], n: int) -> list[tuple[tuple[int, ...], float]]:
    """Return the results of one sequence: labels and logarithm of their probability."""
    return [
        (
            tuple(found.labels[n, k, : found.lengths[n, k]].tolist()),
            float(found.beam_log_probs[n, k]),
        )
        for k in range(int(found.count[n]))
    ]


def _wrong_form(found: ctcx.Beams[Any], n: int, blank: int) -> str | None:
    """Return what can't be so, whatever the logits."""
    results = _results(found, n)
    labels = [one for one, _ in results]
    log_probs = [log_prob for _, log_prob in results]
    if len(set(labels)) < len(labels):
        return f"has labels twice among {labels}"
    if any(blank in one or -1 in one for one in labels):
        return f"has the blank or padding among the labels {labels}"
    if log_probs != sorted(log_probs, reverse=True):
        return f"has results in the wrong order: {log_probs}"
    if math.fsum(map(math.exp, log_probs)) > 1 + 1e-5:
        return f"has probabilities of more than 1 together: {log_probs}"
    rest = slice(len(results), None)
    if (found.labels[n, rest] != -1).any() or (found.lengths[n, rest] != -1).any():
        return "has labels or lengths other than -1 past its results"
    if (found.beam_log_probs[n, rest] != -np.inf).any():
        return "has log_probs other than -inf past its results"
    return None


def _tolerance(dtype: str) -> float:
    return 1e-9 if dtype == "float64" else 2e-5


def _judge(
    subject: Subject,
    batches: Iterable[Batch],
    *,
    width: int = 6,
    top: int = 4,
    max_classes: int | None = None,
    exact: bool = False,
) -> None:
    """Fail with all that differs from the reference; ``exact``: ties included."""
    faults = []
    for batch in batches:
        logits = round_to_dtype(batch.logits, subject.dtype)
        # One more, to see whether the last result is the only right one.
        arrays = (logits, batch.logit_lengths, batch.blank)
        truth = prefix_beams(*arrays, width=width, top=top + 1, max_classes=max_classes)
        found = _DECODER(subject, batch, width=width, top=top, max_classes=max_classes)
        for n in range(len(logits)):
            where = f"case {batch.name!r}: {batch.label(n)} "
            expected = [
                (tuple(one[one >= 0].tolist()), float(log_prob))
                for one, log_prob in zip(truth.labels[n], truth.log_probs[n], strict=True)
                if log_prob > -np.inf
            ]
            if (fault := _wrong_form(found, n, batch.blank)) or (
                fault := _differs(
                    _results(found, n), expected, top, _tolerance(subject.dtype), exact=exact
                )
            ):
                faults.append(where + fault)
    raise_if(faults)


def _differs(
    results: list[tuple[tuple[int, ...], float]],
    expected: list[tuple[tuple[int, ...], float]],
    top: int,
    relative: float,
    *,
    exact: bool,
) -> str | None:
    if len(results) != min(top, len(expected)):
        return f"has {len(results)} results, expected {min(top, len(expected))}"
    for k, (labels, log_prob) in enumerate(results):
        right_labels, right = expected[k]
        allowed = relative * max(1.0, abs(right))
        if not abs(log_prob - right) <= allowed:
            return f"has a result {k} of {log_prob} nats, expected {right}"
        others = [other for i, (_, other) in enumerate(expected) if i != k]
        is_tie = any(abs(other - right) <= 2 * allowed for other in others)
        if labels != right_labels and (exact or not is_tie):
            return f"has the result {k} {labels}, expected {right_labels} of {right} nats"
    return None


@check(operation="beam_search")
def check_beam_search_by_enumeration(subject: Subject) -> None:
    """With room for all prefixes the results are all labels, with their true probabilities."""
    rng = np.random.default_rng(1)
    base = random_batch(0, scale=2.0)
    lengths = np.array([5, 4, 5, 1, 0, 5])
    logits = rng.normal(size=(6, 5, 3), scale=2.0)
    logits[5, 2:, 0] = -np.inf
    batch = replace(base, name="enumerable", logits=logits, logit_lengths=lengths, blank=1)
    found = _DECODER(subject, batch, width=80, top=70)
    faults = []
    rounded = round_to_dtype(logits, subject.dtype)
    for n, length in enumerate(lengths.tolist()):
        truth = enumerate_labels(rounded[n, :length], batch.blank)
        results = dict(_results(found, n))
        if fault := _wrong_form(found, n, batch.blank):
            faults.append(f"sequence {n} {fault}")
        elif results.keys() != truth.keys():
            odd = min(results.keys() ^ truth.keys())
            faults.append(f"sequence {n}: the labels {odd} are missing, or can't be")
        else:
            faults += [
                f"sequence {n}: the labels {labels} have {results[labels]} nats, expected "
                f"{math.log(probability)}"
                for labels, probability in truth.items()
                if not math.isclose(
                    results[labels],
                    math.log(probability),
                    rel_tol=_tolerance(subject.dtype),
                    abs_tol=_tolerance(subject.dtype),
                )
            ]
    raise_if(faults)


@check(operation="beam_search")
def check_beam_search(subject: Subject) -> None:
    """Labels and probabilities are those of a textbook search of the same width."""
    drawn = [random_batch(seed, scale=scale) for seed, scale in enumerate((0.5, 1.0, 3.0))]
    _judge(subject, drawn)


@check(operation="beam_search")
def check_beam_search_many_classes(subject: Subject) -> None:
    """No class is left out or counted twice, of hundreds, nor where all but a few are masked."""
    rng = np.random.default_rng(3)
    base = random_batch(0, scale=1.0)
    logits = rng.normal(size=(6, 12, 500), scale=0.3)
    logits[3:, :, 3:] = -np.inf
    logits[3:, :, [17, 499]] = 1.0
    lengths = np.array([12, 3, 7, 12, 5, 8])
    batch = replace(base, name="many classes", logits=logits, blank=17, logit_lengths=lengths)
    _judge(subject, [batch], width=12, top=12)


@check(operation="beam_search")
def check_beam_search_real(subject: Subject) -> None:
    """Lines of a text recogniser, of thousands of classes, are read as by a textbook search."""
    some = [pick(batch, np.array([0, 4])) for batch in in_group("real")]
    _judge(subject, some, width=3, top=2)


@check(operation="beam_search")
def check_beam_search_ties(subject: Subject) -> None:
    """Of equally probable labels the lower class comes first, then the earlier prefix."""
    rng = np.random.default_rng(5)
    base = random_batch(0, scale=1.0)
    # Equal columns make ties that no rounding breaks.
    distinct = rng.normal(size=(6, 12, 2))
    logits = distinct[:, :, [0, 1, 0, 0, 0]]
    lengths = np.array([12, 3, 2, 1, 5, 12])
    batch = replace(base, name="equal classes", logits=logits, logit_lengths=lengths)
    found = _DECODER(subject, batch)
    again = _DECODER(subject, batch)
    faults = []
    for n in range(len(lengths)):
        results = _results(found, n)
        if results != _results(again, n):
            faults.append(f"sequence {n} has other results the second time")
        for (labels, log_prob), (other, next_log_prob) in pairwise(results):
            if len(labels) == len(other) == 1 and log_prob == next_log_prob and labels > other:
                faults.append(f"sequence {n}: {labels} comes before {other}, equally probable")
    first = np.full((6, 1, 5), 0.0)
    only = replace(base, name="one frame", logits=first, logit_lengths=np.ones(6, dtype=int))
    _judge_first_frame(subject, only, faults)
    raise_if(faults)


def _judge_first_frame(subject: Subject, batch: Batch, faults: list[str]) -> None:
    """Add a fault if the results of one frame of equal classes aren't in order."""
    found = _DECODER(subject, batch, width=4, top=4)
    expected = [(), (0,), (2,), (3,)]
    for n in range(len(batch.logits)):
        got = [labels for labels, _ in _results(found, n)]
        wrong = f"sequence {n} of equal classes has {got}, expected {expected}"
        faults += [wrong] * (got != expected)


@check(operation="beam_search")
def check_beam_search_max_classes(subject: Subject) -> None:
    """Only ``max_classes`` labels of a frame make new prefixes, of equal ones the lower."""
    drawn = [random_batch(seed, scale=0.5) for seed in range(7, 9)]
    for count in (1, 2):
        _judge(subject, drawn, max_classes=count)


@check(operation="beam_search")
def check_beam_search_far_apart(subject: Subject) -> None:
    """Prefixes that are hundreds or millions of nats below the best stay where there is room."""
    base = random_batch(0, scale=1.0)
    logits = np.zeros((6, 40, 5))
    logits[:, :, 2:] = -np.inf
    logits[:, :, 0] = -150.0
    lengths = np.array([4, 3, 2, 1, 0, 2])
    batches = [
        replace(base, name=name, logits=logits * scale, logit_lengths=lengths)
        for name, scale in (("far apart", 1.0), ("farther apart", 1e3), ("farthest apart", 1e5))
    ]
    _judge(subject, batches, width=16, top=3)


@check(operation="beam_search")
def check_beam_search_edge_cases(subject: Subject) -> None:
    """No frames, masked classes, frames without any class, widths of 1 and above what there is."""
    masked = [random_batch(seed, scale=3.0, masked=share) for seed, share in ((11, 0.3), (12, 0.8))]
    _judge(subject, [*masked, *in_group("degenerate")])
    for width in (1, 2, 40):
        _judge(subject, [random_batch(13, scale=2.0)], width=width, top=1)


@check(operation="beam_search")
def check_beam_search_long(subject: Subject) -> None:
    """Hundreds of frames lose no digits."""
    rng = np.random.default_rng(14)
    base = random_batch(0, scale=1.0)
    logits = rng.normal(size=(2, 600, 6), scale=2.0)
    two = pick(base, np.array([0, 1]))
    batch = replace(two, name="long", logits=logits, logit_lengths=np.array([600, 577]))
    _judge(subject, [batch], width=5, top=2)


@check(operation="beam_search")
def check_beam_search_exact_scores(subject: Subject) -> None:
    """With exact scores the probabilities are those of the loss, and never below the beam's."""
    batch = random_batch(2, scale=1.0)
    found = _DECODER(subject, batch, exact_scores=True)
    inputs = subject.inputs(batch)
    faults = []
    for k in range(_SIZES["top"]):
        there = found.lengths[:, k] >= 0
        counts = np.where(there, found.lengths[:, k], 0)
        labels, lengths = map(subject.array, (found.labels[:, k], counts))
        given = (inputs.logits, labels, inputs.logit_lengths, lengths)
        loss = subject.numpy(ctcx.ctc_loss(*given, blank=batch.blank)).astype(float)
        off = np.abs(loss + found.log_probs[:, k])[there]
        if not (off <= 1e-4 * np.maximum(1.0, loss[there])).all():
            faults.append(f"log_probs of result {k} are not those of ctc_loss")
        below = found.log_probs[:, k] - found.beam_log_probs[:, k]
        if (below[there] < -1e-4).any():
            faults.append(f"beam_log_probs of result {k} are above log_probs")
    raise_if(faults)


_DECODER.register()
