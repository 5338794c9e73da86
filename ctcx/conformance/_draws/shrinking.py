"""Make a problem with a wrong result smaller and simpler, as long as the result stays wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ctcx.conformance._draws.problem import DrawnProblem, Form
from ctcx.conformance.cases import pick

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from ctcx.data.batch import Batch

__all__ = ["shrink"]


def shrink(
    problem: DrawnProblem, fails: Callable[[DrawnProblem], bool], tries: int
) -> DrawnProblem:
    """Return the smallest problem found that still fails; the same one every time.

    It has fewer sequences, frames, labels and classes; then simpler values and a plainer form. At
    most so many others are tried.
    """
    left = tries

    def better(candidate: DrawnProblem) -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and fails(candidate)

    while left > 0:
        before = problem
        for name in ("N", "C", "T", "L"):
            problem = _smaller(problem, name, better)
        for candidate in _simpler():
            # Each is made from the last one that failed.
            made = candidate(problem)
            if made is not None and better(made):
                problem = made
        if problem is before:
            break
    return problem


def _smaller(
    problem: DrawnProblem, name: str, better: Callable[[DrawnProblem], bool]
) -> DrawnProblem:
    """Halve a size, then take away smaller and smaller parts of it."""
    size = _size(problem.batch, name)
    step = size
    while step:
        cuts = _CUTS[name](problem.batch, max(size - step, 0))
        found = next(
            (candidate for batch in cuts if better(candidate := replace(problem, batch=batch))),
            None,
        )
        if found is None:
            step //= 2
        else:
            problem, size = found, _size(found.batch, name)
            step = min(step, size)
    return problem


def _size(batch: Batch, name: str) -> int:
    return batch.shape["NTCL".index(name)]


def _cut_sequences(batch: Batch, size: int) -> Iterator[Batch]:
    if not size:
        return
    total = batch.shape[0]
    for rows in (np.arange(size), np.arange(total - size, total)):
        yield pick(batch, rows)


def _cut_frames(batch: Batch, size: int) -> Iterator[Batch]:
    taken = batch.shape[1] - size
    shorter = np.minimum(batch.logit_lengths, size)
    yield _kept(replace(batch, logits=batch.logits[:, :size], logit_lengths=shorter))
    # The same from the front, for what comes late.
    shorter = np.maximum(batch.logit_lengths - taken, 0)
    yield _kept(replace(batch, logits=batch.logits[:, taken:], logit_lengths=shorter))


def _kept(batch: Batch) -> Batch:
    """Return the batch with no more labels than its frames emit."""
    counts = [
        _emitted(labels[:count], int(frames))
        for labels, count, frames in zip(
            batch.labels, batch.label_lengths, batch.logit_lengths, strict=True
        )
    ]
    return replace(batch, label_lengths=np.array(counts, dtype=np.int64))


def _emitted(labels: NDArray[np.int64], frames: int) -> int:
    if not len(labels):
        return 0
    needs = np.cumsum([1, *(1 + (labels[1:] == labels[:-1])).tolist()])
    return int((needs <= frames).sum())


def _cut_labels(batch: Batch, size: int) -> Iterator[Batch]:
    fewer = np.minimum(batch.label_lengths, size)
    yield replace(batch, labels=batch.labels[:, :size], label_lengths=fewer)


def _cut_classes(batch: Batch, size: int) -> Iterator[Batch]:
    inside = ~batch.padded_labels()
    used = np.unique(batch.labels[inside])
    # The blank becomes class 0, and the labels that there are come next.
    others = np.setdiff1d(np.arange(batch.shape[2]), [batch.blank])
    order = np.concatenate([[batch.blank], used, np.setdiff1d(others, used)]).astype(np.int64)
    if size < 1 or (len(used) and size < 2):
        return
    place = np.searchsorted(used, np.where(inside, batch.labels, used[0] if len(used) else 0))
    labels = np.where(inside, 1 + place % max(1, size - 1), batch.labels)
    cut = replace(batch, logits=batch.logits[:, :, order[:size]], labels=labels, blank=0)
    yield cut if size > len(used) else _kept(cut)


_CUTS: dict[str, Callable[[Batch, int], Iterator[Batch]]] = {
    "N": _cut_sequences,
    "T": _cut_frames,
    "C": _cut_classes,
    "L": _cut_labels,
}


def _simpler() -> list[Callable[[DrawnProblem], DrawnProblem | None]]:
    """Return the ways to make a problem plainer, from the most to the least that they change."""
    return [
        lambda p: _with_form(p, Form()),
        *(lambda p, name=name: _with_form(p, _plain(p.form, name)) for name in Form._fields),
        _with_padding,
        lambda p: _with_logits(p, np.zeros_like),
        lambda p: _with_logits(p, lambda x: np.where(np.isfinite(x), np.clip(x, -8, 8), x)),
        lambda p: _with_logits(p, np.rint),
        lambda p: _with_logits(p, lambda x: np.where(np.isneginf(x), 0.0, x)),
        _without_offsets,
        _full,
        _labels_alike,
    ]


def _plain(form: Form, name: str) -> Form:
    return form._replace(**{name: getattr(Form(), name)})


def _with_form(problem: DrawnProblem, form: Form) -> DrawnProblem | None:
    return None if form == problem.form else replace(problem, form=form)


def _with_logits(
    problem: DrawnProblem, change: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> DrawnProblem | None:
    batch = problem.batch
    past = batch.padded_frames()[:, :, None]
    logits = np.where(past, batch.logits, change(np.where(past, 0.0, batch.logits)))
    if np.array_equal(logits, batch.logits, equal_nan=True):
        return None
    return replace(problem, batch=replace(batch, logits=logits))


def _without_offsets(problem: DrawnProblem) -> DrawnProblem | None:
    def change(logits: NDArray[np.float64]) -> NDArray[np.float64]:
        top = logits.max(axis=2, keepdims=True, initial=-np.inf)
        return logits - np.where(np.isfinite(top), top, 0.0)

    return _with_logits(problem, change)


def _with_padding(problem: DrawnProblem) -> DrawnProblem | None:
    batch = problem.batch
    logits = np.where(batch.padded_frames()[:, :, None], 0.0, batch.logits)
    labels = np.where(batch.padded_labels(), 0, batch.labels)
    same = np.array_equal(logits, batch.logits) and np.array_equal(labels, batch.labels)
    return None if same else replace(problem, batch=replace(batch, logits=logits, labels=labels))


def _full(problem: DrawnProblem) -> DrawnProblem | None:
    """Let every sequence have all frames."""
    batch = problem.batch
    past = batch.padded_frames()
    if not past.any():
        return None
    logits = np.where(past[:, :, None], 0.0, batch.logits)
    lengths = np.full_like(batch.logit_lengths, batch.shape[1])
    return replace(problem, batch=replace(batch, logits=logits, logit_lengths=lengths))


def _labels_alike(problem: DrawnProblem) -> DrawnProblem | None:
    """Let labels take turns between the two first classes that are not the blank."""
    batch = problem.batch
    two = [k for k in range(min(3, batch.shape[2])) if k != batch.blank][:2]
    if len(two) < 2:
        return None
    turns = np.array(two)[np.arange(batch.shape[3]) % 2]
    labels = np.where(batch.padded_labels(), batch.labels, turns)
    if np.array_equal(labels, batch.labels):
        return None
    return replace(problem, batch=replace(batch, labels=labels))
