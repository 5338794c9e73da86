"""Alignments are right: the best path, its ties, its probabilities, wildcards and edge cases."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

import ctcx
from ctcx._reference.best_path import BestPaths, best_paths, enumerate_best_paths
from ctcx._reference.oracle import round_to_dtype
from ctcx.conformance._checks.judging import in_group, raise_if
from ctcx.conformance._checks.optional_operations import LabelOperation, drawn_batch
from ctcx.conformance._checks.registry import check
from ctcx.data.batch import Batch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctcx.conformance._subject import Subject

__all__: list[str] = []

_WITHIN_NATS = 1e-3
"""How much worse than the best path one may be where sums aren't exact."""

_EXACT = "exact sums"
"""Group of batches whose sums every dtype holds, so that a path is right alone, ties or not."""


@lru_cache(maxsize=256)
def _truth(batch: Batch, dtype: str) -> BestPaths:
    solve = enumerate_best_paths if "enumerable" in batch.groups else best_paths
    return solve(*batch.rounded(dtype))


def _judge(subject: Subject, batch: Batch, found: ctcx.Alignment[Any]) -> list[str]:
    truth = _truth(batch, subject.dtype)
    faults = []
    for n in range(len(batch.logits)):
        frames = int(batch.logit_lengths[n])
        where = f"case {batch.name!r}: {batch.label(n)}"
        if found.feasible[n] != truth.feasible[n]:
            faults.append(f"{where}: feasible is {found.feasible[n]}, not {truth.feasible[n]}")
            continue
        if fault := _wrong_form(batch, found, n):
            faults.append(f"{where}: {fault}")
            continue
        states = found.states[n, :frames]
        if _EXACT in batch.groups and states.tolist() != truth.states[n, :frames].tolist():
            t = int(np.flatnonzero(states != truth.states[n, :frames])[-1])
            faults.append(
                f"{where}: the last state that differs is {states[t]} at frame {t}, expected "
                f"{truth.states[n, t]}; of equal paths staying comes before one state back, that "
                f"before two, and the last label before the last blank"
            )
            continue
        if truth.feasible[n]:
            faults += [f"{where}: {fault}" for fault in _wrong_numbers(subject, batch, found, n)]
    return faults


def _wrong_numbers(
    subject: Subject, batch: Batch, found: ctcx.Alignment[Any], n: int
) -> Iterator[str]:
    """Yield what is wrong with the probabilities along the states of one sequence."""
    frames, count = int(batch.logit_lengths[n]), int(batch.label_lengths[n])
    is_double = subject.dtype == "float64"
    best = _truth(batch, subject.dtype).score[n]
    states = found.states[n, :frames]
    symbols = np.full(2 * count + 1, batch.blank)
    symbols[1::2] = batch.labels[n, :count]
    logits = round_to_dtype(batch.logits[n, :frames], subject.dtype)
    top = logits.max(axis=1, keepdims=True) if frames else logits[:, :1]
    own = logits[np.arange(frames), symbols[states]] - top[:, 0]
    own = own - np.log(np.exp(logits - top).sum(axis=1))
    if not own.sum() >= best - (1e-9 * max(1.0, abs(best)) if is_double else _WITHIN_NATS):
        yield f"the path has {own.sum()} nats, the best one {best}"
    off = np.abs(found.log_probs[n, :frames] - own)
    bad = np.flatnonzero(~(off <= (1e-10 if is_double else 2e-6) * (1 + np.abs(own))))
    if len(bad):
        t = int(bad[0])
        yield f"log_probs at frame {t} is {found.log_probs[n, t]}, expected {own[t]}"
    relative = 1e-10 if is_double else 1e-5
    if not abs(found.score[n] - own.sum()) <= relative * max(1.0, abs(own.sum())):
        yield f"score is {found.score[n]}, expected {own.sum()}"
    for j in range(count):
        mean = own[states == 2 * j + 1].mean()
        if not abs(found.label_log_probs[n, j] - mean) <= relative * max(1.0, abs(mean)):
            got = found.label_log_probs[n, j]
            yield f"label_log_probs of label {j} is {got}, expected {mean}"
            return


def _wrong_form(batch: Batch, found: ctcx.Alignment[Any], n: int) -> str | None:
    """Return what contradicts the states of one sequence, or its labels, whatever the logits."""
    frames, count = int(batch.logit_lengths[n]), int(batch.label_lengths[n])
    if not found.feasible[n]:
        frames = count = 0
    labels = batch.labels[n, :count].tolist()
    states = found.states[n, :frames].tolist()
    said = [labels[s // 2] if s % 2 else batch.blank for s in states]
    merged = [symbol for symbol, _ in itertools.groupby(said)]
    expected = {
        "states": [*states, *[-1] * (len(found.states[n]) - frames)],
        "classes": [*said, *[-1] * (len(found.classes[n]) - frames)],
    }
    if [symbol for symbol in merged if symbol != batch.blank] != labels:
        return f"the states {states} say {merged}, expected the labels {labels}"
    padding = [-1] * (len(found.starts[n]) - count)
    last = len(states) - 1
    starts = [states.index(2 * j + 1) for j in range(count)]
    ends = [last - states[::-1].index(2 * j + 1) + 1 for j in range(count)]
    expected |= {"starts": [*starts, *padding], "ends": [*ends, *padding]}
    for name, right in expected.items():
        if (got := getattr(found, name)[n].tolist()) != right:
            return f"{name} is {got}, expected {right}"
    beyond = (found.log_probs[n, frames:], found.label_log_probs[n, count:])
    if any(values.any() for values in beyond):
        return "log_probs or label_log_probs is not 0 in padding"
    if not found.feasible[n] and found.score[n] != -np.inf:
        return f"score is {found.score[n]}, expected -inf"
    return None


def _quantised(seed: int) -> Batch:
    """Return logits of few different values, whose sums every dtype holds exactly: many ties."""
    rng = np.random.default_rng(seed)
    rows, frames, classes, width = 12, 23, 4, 6
    return Batch(
        name=f"quantised {seed}",
        why="Few different logits make many equally good paths.",
        logits=rng.integers(-2, 2, size=(rows, frames, classes)).astype(float),
        labels=rng.integers(1, classes, size=(rows, width)),
        logit_lengths=rng.integers(width, frames + 1, size=rows),
        label_lengths=rng.integers(0, width + 1, size=rows),
        blank=0,
        groups=frozenset({_EXACT}),
    )


def _is_marked(found: ctcx.Alignment[Any], n: int) -> bool:
    unmarked = found.feasible[n] or not np.isnan(found.score[n]) or (found.states[n] != -1).any()
    return not unmarked


_ALIGN = LabelOperation(
    name="align",
    function=ctcx.ctc_align,
    forms=(
        *[("NT", "int32")] * 2,
        *[("NS", "int32")] * 2,
        *[("NT", "loss"), ("NS", "loss"), ("N", "loss"), ("N", "bool")],
    ),
    options=lambda *_: {"infeasible": "empty"},
    kernel_options=lambda _, batch: {"extra": None, "ends": (batch.blank, batch.blank)},
    judge=_judge,
    batch=_quantised,
    mark="feasible False, a score of NaN and states of -1",
    is_marked=_is_marked,
)


@check(operation="align")
def check_align_by_enumeration(subject: Subject) -> None:
    """On tiny problems the path is the best of all that collapse to the labels."""
    _ALIGN.judge_all(subject, in_group("enumerable"))


@check(operation="align")
def check_align(subject: Subject) -> None:
    """Paths and scores of the everyday cases are those of a float64 oracle."""
    _ALIGN.judge_all(subject, in_group("oracle", "real"))


@check(operation="align")
def check_align_ties(subject: Subject) -> None:
    """Equally good paths: staying, one state back, two back; the last label before the blank."""
    _ALIGN.judge_all(subject, map(_quantised, range(3)))


@check(operation="align")
def check_align_edge_cases(subject: Subject) -> None:
    """No labels, no frames, too few frames, masked classes, losses above the limit."""
    groups = ("infeasible", "masked", "limit", "confident", "degenerate")
    _ALIGN.judge_all(subject, in_group(*groups))


@check(operation="align")
def check_align_shifted_frames(subject: Subject) -> None:
    """A constant added to all logits of a frame changes neither path nor probabilities."""
    batch = _quantised(11)
    rng = np.random.default_rng(2)
    shift = rng.integers(-30, 30, size=batch.logits.shape[:2])
    moved = replace(batch, logits=batch.logits + shift[:, :, None])
    # Frames that say nothing, at any number that there is.
    says_nothing = rng.random(shift.shape) < 0.3
    numbers = round_to_dtype(rng.choice([3e38, -3e38, 1e17, 1e4], size=shift.shape), subject.dtype)
    flat = replace(batch, logits=np.where(says_nothing[:, :, None], 0, batch.logits))
    far = np.where(says_nothing[:, :, None], numbers[:, :, None], batch.logits)
    faults = []
    for one, other in ((batch, moved), (flat, replace(batch, logits=far))):
        before, after = _ALIGN(subject, one), _ALIGN(subject, other)
        if (before.states != after.states).any():
            faults.append("the path changes")
        if not np.allclose(before.log_probs, after.log_probs, rtol=0, atol=1e-5):
            faults.append("log_probs change")
    raise_if(faults)


@check(operation="align")
def check_align_long(subject: Subject) -> None:
    """Thousands of frames, where a kernel keeps no back pointer for each state."""
    _ALIGN.judge_all(subject, [_long(2000, 300)])


@check(operation="align", slow=True)
def check_align_very_long(subject: Subject) -> None:
    """50,000 frames, where float32 sums that are not kept small lose the best path."""
    _ALIGN.judge_all(subject, [_long(50000, 5000)])


@lru_cache(maxsize=4)
def _long(frames: int, count: int) -> Batch:
    """Return a problem whose best state of a frame is often none of the best path."""
    rng = np.random.default_rng(frames)
    logits = rng.normal(size=(2, frames, 8), scale=3.0)
    logits[1] = np.round(2 * logits[1]) / 2
    return Batch(
        name=f"{frames} frames, {count} labels",
        why="Long sequences: memory, and sums of many logits.",
        logits=logits.astype(np.float32).astype(np.float64),
        labels=rng.integers(0, 7, size=(2, count)),
        logit_lengths=np.array([frames - 3, frames]),
        label_lengths=np.array([count, count // 3]),
        blank=7,
    )


@check(operation="align")
def check_align_drawn(subject: Subject) -> None:
    """Drawn problems: lengths, repeats, scales, masked logits."""
    drawn = partial(drawn_batch, salt=4, frames=400, width=90)
    _ALIGN.judge_all(subject, map(drawn, range(6)))


@check(operation="align")
def check_align_wildcards(subject: Subject) -> None:
    """Wildcards and free ends: the best of all paths, with the probabilities they stand for."""
    rng = np.random.default_rng(6)
    rows, frames, classes, blank = 8, 6, 4, 1
    logits = np.round(rng.normal(size=(rows, frames, classes), scale=2.0) * 4) / 4
    meaning: dict[int, tuple[Any, float]] = {
        -2: ("any", -0.25),
        -3: ("best", -0.5),
        -5: ("free", -3.0),
        -9: ({0, 3}, 0.5),
    }
    rest = [-2, -3, -5, -9]
    labels = np.array([[0, -2, 3], [-2, -2, 0], [-3, 2, -5], [-5, -9, 2]] * 2)
    counts = np.array([3, 3, 3, 3, 2, 1, 2, 0])
    batch = Batch(
        name="wildcards",
        why="Labels that stand for several classes.",
        logits=logits,
        labels=labels,
        logit_lengths=np.array([6, 6, 5, 6, 4, 6, 3, 2]),
        label_lengths=counts,
        blank=blank,
    )
    log_probs = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
    probs = np.exp(log_probs)
    others = [0, 2, 3]
    columns = [
        np.log(probs[:, :, others].sum(axis=2)) - 0.25,
        log_probs[:, :, others].max(axis=2) - 0.5,
        np.full((rows, frames), -3.0),
        np.log(probs[:, :, [0, 3]].sum(axis=2)) + 0.5,
    ]
    best = [
        np.array(others)[log_probs[:, :, others].argmax(axis=2)],
        np.array(others)[log_probs[:, :, others].argmax(axis=2)],
        np.full((rows, frames), -2),
        np.array([0, 3])[log_probs[:, :, [0, 3]].argmax(axis=2)],
    ]
    own = np.array([classes + rest.index(v) if v < 0 else v for v in labels.ravel().tolist()])
    own = own.reshape(labels.shape)
    faults = []
    for ends in (None, (-0.75, -6.0)):
        extra, where = list(columns), (blank, blank)
        if ends is not None:
            extra += [np.full((rows, frames), price) for price in ends]
            where = (classes + 4, classes + 5)
        arrays = (log_probs, own, batch.logit_lengths, counts)
        truth = enumerate_best_paths(*arrays, blank, extra=np.stack(extra, axis=2), ends=where)
        found = _ALIGN(subject, batch, wildcards=meaning, free_ends=ends)
        for n in range(rows):
            said = f"labels {labels[n, : counts[n]].tolist()} with free_ends={ends}"
            if not abs(found.score[n] - truth.score[n]) <= 1e-5 * max(1, abs(truth.score[n])):
                faults.append(f"{said}: score is {found.score[n]}, expected {truth.score[n]}")
                continue
            for t, s in enumerate(truth.states[n].tolist()):
                # Another path may be as good; then this says nothing.
                if s != found.states[n, t] or s < 0:
                    continue
                column = own[n, s // 2] if s % 2 else blank
                if ends is not None and s in {0, 2 * counts[n]}:
                    column = classes + 4
                right = int(column) if column < classes else -2
                if classes <= column < classes + 4:
                    right = int(best[column - classes][n, t])
                if found.classes[n, t] != right:
                    faults.append(
                        f"{said}: class of frame {t} is {found.classes[n, t]}, expected {right}"
                    )
                    break
    raise_if(faults)


_ALIGN.register()
