"""Real inputs, long ones, and those that plugins contribute."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctcx._plugins.registry import registry
from ctcx.conformance._checks.judging import as_published, in_group, judge_all, right, right_loss
from ctcx.conformance._checks.registry import check
from ctcx.conformance._failures import NotApplicable
from ctcx.conformance._mismatches import grad_faults
from ctcx.conformance.cases import truth
from ctcx.data.batch import Batch

if TYPE_CHECKING:
    from ctcx.conformance._subject import Outcome, Subject

__all__ = [
    "check_cases_of_plugins",
    "check_long_sequences",
    "check_real_inputs",
    "check_very_long_sequences",
]


@check()
def check_real_inputs(subject: Subject) -> None:
    """Emissions of a real text recogniser, with 6625 classes, have right results."""
    judge_all(subject, in_group("real"), right(subject), grad=subject.can_grad)


@check()
def check_long_sequences(subject: Subject) -> None:
    """Over 2000 frames neither loss nor gradient loses its digits."""
    judge_all(subject, in_group("long"), right(subject), grad=subject.can_grad)


@check(slow=True)
def check_very_long_sequences(subject: Subject) -> None:
    """Over 20,000 frames neither loss nor gradient loses its digits."""

    def judge(batch: Batch, outcome: Outcome) -> list[str]:
        faults = right_loss(subject)(batch, outcome)
        if outcome.grad is not None:
            expected = truth(batch, subject.dtype).grad
            allowed = subject.tolerance.grad_very_long
            faults += grad_faults(batch, outcome.grad, expected, allowed)
        return faults

    judge_all(subject, in_group("very-long"), judge, grad=subject.can_grad)


@check()
def check_cases_of_plugins(subject: Subject) -> None:
    """Worked examples that installed plugins contribute have right results."""
    batches = [Batch.of_case(given) for given in registry().cases]
    if not batches:
        msg = "no installed plugin contributes cases"
        raise NotApplicable(msg)
    judge_published, judge_all_else = as_published(subject), right(subject)

    def judge(batch: Batch, outcome: Outcome) -> list[str]:
        return judge_published(batch, outcome) + judge_all_else(batch, outcome)

    judge_all(subject, batches, judge, grad=subject.can_grad)
