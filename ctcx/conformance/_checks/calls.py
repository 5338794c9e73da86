"""Calls after and beside one another: the same bits, and no shared scratch memory."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ctcx._plugins.backend import Feature
from ctcx.conformance._checks.judging import raise_if, right, same
from ctcx.conformance._checks.registry import check
from ctcx.conformance._failures import CheckFailure, NotApplicable
from ctcx.conformance._subject import Outcome
from ctcx.conformance.cases import case
from ctcx.data.batch import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ctcx._typing import Array
    from ctcx.conformance._subject import CallArrays, Subject

__all__ = ["check_deterministic", "check_repeats", "check_results_are_new", "check_threads"]

_THREADS = 4

_PATIENCE = 10.0
"""Seconds for the repeats of a problem, which take 1 or 2 on most devices."""


@check(requires={Feature.DETERMINISTIC})
def check_deterministic(subject: Subject) -> None:
    """The same input gives the same bits, run after run and with other calls in between."""
    for batch in (case("ragged"), case("many classes"), case("confident for long")):
        for grad in subject.with_and_without_grad:
            first = subject.run(batch, grad=grad)
            for between in (None, None, case("long label"), case("edge lengths")):
                if between is not None:
                    subject.run(between, grad=grad)
                again = subject.run(batch, grad=grad)
                if not again.same_bits(first):
                    faults = same(subject, batch, again, first, "the first time")
                    faults = faults or [f"case {batch.name!r}: the last bits differ between runs"]
                    raise CheckFailure("\n".join(faults))


@check()
def check_results_are_new(subject: Subject) -> None:
    """Results keep their numbers while others are computed, and may be written to.

    ctcx itself scales a gradient in the memory that the kernel returned.
    """
    for batch in (case("ragged"), _long_batch()):
        try:
            subject.run(batch, grad=False)
        except NotApplicable as reason:
            subject.notes.append(str(reason))
            continue
        other = replace(batch, logits=2 * batch.logits[:, ::-1])
        for grad in subject.with_and_without_grad:
            inputs = subject.inputs(batch)
            results = subject.call(inputs, grad=grad, blank=batch.blank)
            first = _outcome(subject, results)
            subject.call(subject.inputs(other), grad=grad, blank=batch.blank)
            kept = _outcome(subject, results)
            raise_if(same(subject, batch, kept, first, "before the next call"))
            for array in results[:2]:
                array *= 3  # noqa: PLW2901 - in place, where the library has that
            again = _call(subject, inputs, batch, grad=grad)
            raise_if(same(subject, batch, again, first, "before the caller wrote into results"))


@check(dtypes={"float32"})
def check_repeats(subject: Subject) -> None:
    """1,000 calls from four threads at once are all right, and the same to the bit if declared so.

    A small problem, and one that is large enough for a kernel to share out among threads of its
    own. Code that is written once for all libraries makes fewer calls where these take long, and
    none makes more than fit into 10 seconds: a simulated device may be a thousand times slower.
    """
    slow = "*" in subject.descriptor.namespaces and subject.namespace not in {"numpy", "cupy"}
    slow = slow or subject.has(Feature.LAZY)
    for batch, count in ((case("ragged"), 1000), (_wide_batch(), 200)):
        for grad in subject.with_and_without_grad:
            _repeat(subject, batch, count // 20 if slow else count, grad=grad)


def _wide_batch() -> Batch:
    return _random_batch("wide batch", (24, 120, 32, 20), "Enough work to share out among threads.")


def _long_batch() -> Batch:
    return _random_batch("long batch", (2, 300, 6, 9), "Long enough for memory that is kept apart.")


def _random_batch(name: str, sizes: tuple[int, int, int, int], why: str) -> Batch:
    N, T, C, S = sizes
    rng = np.random.default_rng(17)
    return Batch(
        name=name,
        why=why,
        logits=rng.normal(size=(N, T, C)).astype(np.float32).astype(np.float64),
        labels=rng.integers(1, C, size=(N, S)),
        logit_lengths=rng.integers(T // 2, T + 1, size=N),
        label_lengths=rng.integers(S // 4, S + 1, size=N),
        blank=0,
    )


def _repeat(subject: Subject, batch: Batch, count: int, *, grad: bool) -> None:
    """Fail if one of ``count`` calls of the same problem differs."""
    raise_if(right(subject)(batch, subject.run(batch, grad=grad)))
    inputs = subject.inputs(batch)
    first = _call(subject, inputs, batch, grad=grad)
    others: list[Outcome] = []
    end = time.monotonic() + _PATIENCE

    def work() -> None:
        for _ in range(count // _THREADS):
            if time.monotonic() > end:
                break
            again = _call(subject, inputs, batch, grad=grad)
            if not again.same_bits(first):
                others.append(again)

    _at_once([work] * _THREADS)
    faults: list[str] = []
    for other in others:
        faults += same(subject, batch, other, first, "the first time")
    if others and not faults and subject.has(Feature.DETERMINISTIC):
        faults.append(f"case {batch.name!r}: the last bits differ")
    if faults:
        what = "ctc_loss_and_grad" if grad else "ctc_loss"
        msg = f"{what} gave another result in {len(others)} of up to {count} calls at once"
        raise CheckFailure("\n".join([msg, *faults[:2]]))


def _call(subject: Subject, inputs: CallArrays, batch: Batch, *, grad: bool) -> Outcome:
    """Return the numbers of a call, without the checks of everything else."""
    return _outcome(subject, subject.call(inputs, grad=grad, blank=batch.blank))


def _outcome(subject: Subject, results: Sequence[Array]) -> Outcome:
    """Copy the numbers of a result."""
    loss, *others = (subject.numpy(array) for array in results)
    return Outcome(loss.astype(np.float64), others[0].astype(np.float64) if others else None)


@check()
def check_threads(subject: Subject) -> None:
    """Four Python threads that call it at once each get their own right answer.

    First with problems of the same sizes, then of different ones.
    """
    base = case("confident for long")
    alike = [
        replace(
            base,
            name=f"confident for long, thread {thread}",
            logits=np.roll(base.logits, thread, axis=1) * (1 + thread / 8),
        )
        for thread in range(_THREADS)
    ]
    different = [case("ragged"), case("many classes"), case("long label"), base]
    for batches in (alike, different):
        _compare_in_threads(subject, batches)


def _compare_in_threads(subject: Subject, batches: list[Batch]) -> None:
    grad = subject.can_grad
    expected = [subject.run(batch, grad=grad) for batch in batches]
    faults: list[str] = []

    def work(batch: Batch, wanted: Outcome) -> None:
        for _ in range(3):
            got = subject.run(batch, grad=grad)
            faults.extend(same(subject, batch, got, wanted, "without other threads"))

    _at_once([partial(work, *pair) for pair in zip(batches, expected, strict=True)])
    raise_if(faults[:2])


def _at_once(tasks: Sequence[Callable[[], None]]) -> None:
    """Run tasks in threads that start together, and raise what one of them raises."""
    barrier = threading.Barrier(len(tasks))
    errors: list[BaseException] = []

    def work(task: Callable[[], None]) -> None:
        try:
            barrier.wait()
            task()
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(task,)) for task in tasks]
    interval = sys.getswitchinterval()
    # Python normally lets a thread run for 5 ms, in which a small kernel is done.
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    if errors:
        raise errors[0]
