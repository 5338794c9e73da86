"""Calls after and beside one another: the same bits, and no shared scratch memory."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ctcx._descriptors import Feature
from ctcx.conformance._checks._judging import raise_if, same
from ctcx.conformance._failures import CheckFailure
from ctcx.conformance._registered import check
from ctcx.conformance.cases import Batch, case

if TYPE_CHECKING:
    from ctcx.conformance._subject import Outcome, Subject

__all__ = ["check_deterministic", "check_threads"]


@check(requires={Feature.DETERMINISTIC})
def check_deterministic(subject: Subject) -> None:
    """The same input gives the same bits, run after run and with other calls in between."""
    for batch in (case("ragged"), case("many classes"), case("confident for long")):
        for grad in (False, True) if subject.can_grad else (False,):
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
def check_threads(subject: Subject) -> None:
    """Four Python threads that call it at once each get their own right answer."""
    grad = subject.can_grad
    base = case("confident for long")
    batches = [
        replace(
            base,
            name=f"confident for long, thread {thread}",
            logits=np.roll(base.logits, thread, axis=1) * (1 + thread / 8),
        )
        for thread in range(4)
    ]
    expected = [subject.run(batch, grad=grad) for batch in batches]
    barrier = threading.Barrier(len(batches))
    faults: list[str] = []
    errors: list[BaseException] = []

    def work(batch: Batch, wanted: Outcome) -> None:
        try:
            barrier.wait()
            for _ in range(3):
                got = subject.run(batch, grad=grad)
                faults.extend(same(subject, batch, got, wanted, "without other threads"))
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            errors.append(error)

    threads = [
        threading.Thread(target=work, args=pair) for pair in zip(batches, expected, strict=True)
    ]
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
    raise_if(faults[:2])
