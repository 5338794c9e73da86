"""Greedy decoding is right: the class of each frame, its probability, ties and edge cases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import ctcx
from ctcx._reference.decoding import best_classes, merged
from ctcx._reference.oracle import round_to_dtype
from ctcx.conformance._checks.decoding import Decoder, quantised, random_batch
from ctcx.conformance._checks.judging import in_group, raise_if
from ctcx.conformance._checks.registry import check

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ctcx.conformance._subject import Subject
    from ctcx.data.batch import Batch

__all__: list[str] = []

_DECODER = Decoder(
    name="greedy",
    function=ctcx.ctc_greedy,
    forms=(
        ("NK", "int32"),
        ("N", "int32"),
        ("NK", "int32"),
        ("NK", "int32"),
        ("NK", "loss"),
        ("N", "loss"),
    ),
    is_marked=lambda found, n: bool(np.isnan(found.score[n])) and found.lengths[n] == 0,
)


def _judge(subject: Subject, batches: Iterable[Batch]) -> None:
    """Fail with all that differs from the reference, with and without merging."""
    faults = []
    for batch in batches:
        logits = round_to_dtype(batch.logits, subject.dtype)
        truth = best_classes(logits, batch.logit_lengths, batch.blank)
        for merge in (True, False):
            found = _DECODER(subject, batch, merge_repeated=merge)
            for n, length in enumerate(batch.logit_lengths.tolist()):
                said = truth.classes[n, :length].tolist()
                expected = merged(said, batch.blank, merge_repeated=merge)
                where = f"case {batch.name!r}: {batch.label(n)}, merge_repeated={merge}: "
                own = truth.log_probs[n, :length]
                faults += [
                    where + fault for fault in _faults(found, n, expected, own, subject.dtype)
                ]
    raise_if(faults)


def _faults(
    found: ctcx.Decoded[Any], n: int, expected: list[tuple[int, int, int]], own: Any, dtype: str
) -> list[str]:
    relative = 1e-10 if dtype == "float64" else 1e-5
    count = len(expected)
    padding = [-1] * (found.labels.shape[1] - count)
    faults = []
    for i, name in enumerate(("labels", "starts", "ends")):
        right = [one[i] for one in expected] + padding
        if (got := getattr(found, name)[n].tolist()) != right:
            faults.append(f"{name} is {got}, expected {right}")
    if found.lengths[n] != count:
        faults.append(f"lengths is {found.lengths[n]}, expected {count}")
    best = [own[start:end].max() for _, start, end in expected] + [0.0] * len(padding)
    if not np.allclose(found.log_probs[n], best, rtol=relative, atol=relative):
        faults.append(f"log_probs is {found.log_probs[n].tolist()}, expected {best}")
    if not np.allclose(found.score[n], own.sum(), rtol=relative, atol=relative):
        faults.append(f"score is {found.score[n]}, expected {own.sum()}")
    return faults


@check(operation="greedy")
def check_greedy(subject: Subject) -> None:
    """Labels, frames and probabilities are those of the most probable class of each frame."""
    drawn = [random_batch(seed, scale=scale) for seed, scale in enumerate((0.1, 3.0, 40.0))]
    _judge(subject, [*in_group("real"), *drawn])


@check(operation="greedy")
def check_greedy_ties(subject: Subject) -> None:
    """Of equally probable classes a frame says the lowest."""
    _judge(subject, [quantised(seed) for seed in range(3)])


@check(operation="greedy")
def check_greedy_edge_cases(subject: Subject) -> None:
    """No frames, masked classes, frames without any class, and confident ones."""
    batches = in_group("masked", "confident", "degenerate")
    _judge(subject, [*batches, random_batch(4, scale=3.0, masked=0.7)])


_DECODER.register()
