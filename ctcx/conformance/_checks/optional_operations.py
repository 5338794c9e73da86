"""What the checks of optional operations share: calls, forms of results, problems and layouts."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

import ctcx
from ctcx._arrays.facts import describe, namespace_of
from ctcx._errors import BackendRejectedError, KernelError
from ctcx.conformance._checks.judging import raise_if, with_padding
from ctcx.conformance._failures import CheckFailure, NotApplicable
from ctcx.conformance.cases import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from ctcx._typing import Array
    from ctcx.conformance._checks.decoding import LogitArrays
    from ctcx.conformance._subject import CallArrays, Subject

    _Inputs = TypeVar("_Inputs", CallArrays, LogitArrays)

__all__ = [
    "call_by_name",
    "check_forms",
    "drawn_batch",
    "judge_each",
    "not_refused",
    "other_layouts",
    "raise_if_padding_counts",
    "wrong_values",
]


def call_by_name(
    subject: Subject,
    operation: str,
    batch: Batch,
    inputs: CallArrays | LogitArrays,
    call: Callable[[], Any],
    *more: Array,
    among_others: bool = False,
) -> Any:
    """Return what ``call`` does, in which the named backend alone computes and changes no input.

    ``among_others``: the function computes other operations too, by whichever backend.
    """
    arrays = (*inputs, *more)
    before = [subject.numpy(array).tobytes() for array in arrays]
    try:
        with ctcx.trace() as runs:
            found = call()
        ran = [run for run in runs if run.operation == operation] if among_others else runs
        subject.check_who_ran(ran, operation)
    except BackendRejectedError as error:
        if reason := subject.declined_by_itself(batch, inputs.logits, operation):
            msg = f"its accepts() rejects case {batch.name!r}: {reason}"
            raise NotApplicable(msg) from error
        raise
    except (CheckFailure, KernelError) as failure:
        msg = f"case {batch.name!r}: {failure}"
        raise CheckFailure(msg) from failure
    if [subject.numpy(array).tobytes() for array in arrays] != before:
        msg = f"case {batch.name!r}: the kernel changed an input; inputs are read-only"
        raise CheckFailure(msg)
    return found


def check_forms(
    batch: Batch,
    inputs: CallArrays,
    found: Iterable[tuple[str, Array, str, tuple[int, ...]]],
) -> None:
    """Fail for an array of a wrong library, device, dtype or shape.

    ``found`` are names, arrays, dtypes (``"loss"`` for that of the loss) and shapes.
    """
    given = describe(inputs.logits)
    real = "float64" if given.dtype == "float64" else "float32"
    for name, array, kind, shape in found:
        now = describe(array)
        is_now = (now.namespace, now.device, now.dtype, tuple(array.shape))
        right = (given.namespace, given.device, real if kind == "loss" else kind, shape)
        if is_now != right:
            msg = f"case {batch.name!r}: {name} is {is_now}, expected {right}"
            raise CheckFailure(msg)


def judge_each(batches: Iterable[Batch], judge: Callable[[Batch], list[str]]) -> None:
    """Fail with all that ``judge`` finds wrong with its results for these batches."""
    faults: list[str] = []
    for batch in batches:
        try:
            faults += judge(batch)
        except CheckFailure as failure:
            faults.append(str(failure))
    raise_if(faults)


def raise_if_padding_counts(
    batch: Batch, names: Collection[str], compute: Callable[[Batch], Any]
) -> None:
    """Fail if a result of ``compute`` changes with what stands past the lengths."""
    expected = compute(batch)
    faults = []
    for logit, label in ((np.nan, -7), (np.inf, 10**6), (-np.inf, batch.blank)):
        found = compute(with_padding(batch, logit, label))
        faults += [
            f"{name} changes when padding is {logit} and {label}"
            for name in names
            if getattr(found, name).tobytes() != getattr(expected, name).tobytes()
        ]
    raise_if(faults)


def other_layouts(
    subject: Subject, batch: Batch, inputs: _Inputs
) -> Iterator[tuple[_Inputs, dict[str, Any]]]:
    """Yield the arrays of a call with logits in two other layouts, and the options for each."""
    xp = namespace_of(inputs.logits)
    turned = subject.logits(batch.logits.transpose(1, 0, 2))
    yield inputs._replace(logits=turned), {"time_major": True}
    odd = subject.logits(batch.logits.transpose(0, 2, 1))
    yield inputs._replace(logits=xp.permute_dims(odd, (0, 2, 1))), {}


def wrong_values(batch: Batch) -> tuple[int, Collection[tuple[str, Batch]]]:
    """Return the number of a sequence, and batches in which a value of it is wrong, each named."""
    n = int(np.flatnonzero((batch.label_lengths > 0) & (batch.logit_lengths > 0))[-1])
    _, frames, classes, width = batch.shape
    batches = []
    for what, field, index, value in (
        ("the label -1", "labels", (n, 0), -1),
        ("a label out of range", "labels", (n, 0), classes),
        ("a label length of -1", "label_lengths", n, -1),
        ("a label length above S", "label_lengths", n, width + 1),
        ("a logit length above T", "logit_lengths", n, frames + 1),
        ("a logit of NaN", "logits", (n, 0, 0), np.nan),
        ("a logit of +inf", "logits", (n, 0, classes - 1), np.inf),
    ):
        wrong = np.array(getattr(batch, field))
        wrong[index] = value
        batches.append((what, replace(batch, **{field: wrong})))  # type: ignore[arg-type]
    return n, batches


def not_refused(what: str, n: int, call: Callable[[], Any]) -> list[str]:
    """Say so if a call with a wrong value of sequence ``n`` raises no error that names it."""
    try:
        call()
    except ctcx.CTCInputError as error:
        if error.sequence == n:
            return []
        return [f"{what}: the error names sequence {error.sequence}, expected {n}"]
    return [f"{what}: no error, expected CTCInputError"]


@lru_cache(maxsize=32)
def drawn_batch(seed: int, *, salt: int, frames: int, width: int) -> Batch:
    """Return a drawn problem; one shape and one blank, since some libraries compile for each."""
    rng = np.random.default_rng([seed, salt])
    rows, classes = 4, 5
    blank = 3
    labels = rng.integers(classes - 1, size=(rows, width))
    logits = rng.normal(size=(rows, frames, classes), scale=rng.choice([0.1, 3.0, 40.0]))
    if seed % 3 == 0:
        logits[rng.random(logits.shape) < 0.03] = -np.inf
    return Batch(
        name=f"drawn {seed}",
        why="Nobody chose it.",
        logits=logits,
        labels=labels + (labels >= blank),
        logit_lengths=rng.integers(frames // 2, frames + 1, size=rows),
        label_lengths=rng.integers(0, width + 1, size=rows),
        blank=blank,
    )
