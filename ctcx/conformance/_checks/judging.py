"""What the checks share: run cases, compare with what is known, gather what is wrong."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ctcx.conformance._failures import CheckFailure, NotApplicable
from ctcx.conformance._mismatches import grad_faults, loss_faults
from ctcx.conformance.cases import cases, pick, truth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ctcx.conformance._subject import Outcome, Subject
    from ctcx.data.batch import Batch

    Judge: TypeAlias = Callable[[Batch, Outcome], list[str]]

__all__ = [
    "QUICK",
    "as_published",
    "in_group",
    "judge_all",
    "pick",
    "raise_if",
    "right",
    "right_grad",
    "right_loss",
    "same",
    "with_padding",
]

QUICK = frozenset({"oracle", "degenerate"})
"""Groups of cases that cost next to nothing."""


def in_group(*groups: str) -> list[Batch]:
    """Return the built-in cases of any of these groups."""
    return [batch for batch in cases() if not batch.groups.isdisjoint(groups)]


def judge_all(subject: Subject, batches: Iterable[Batch], judge: Judge, *, grad: bool) -> None:
    """Run all batches and fail with everything that the judge found."""
    faults: list[str] = []
    refused: list[str] = []
    crashes: list[Exception] = []
    done = 0
    for batch in batches:
        try:
            outcome = subject.run(batch, grad=grad)
        except NotApplicable as reason:
            refused.append(str(reason))
            continue
        except CheckFailure as failure:
            faults.append(str(failure))
            continue
        except Exception as error:  # noqa: BLE001 - the other cases are worth knowing too
            crashes.append(error)
            faults.append(f"case {batch.name!r}: raised {type(error).__name__}: {error}")
            continue
        done += 1
        faults += judge(batch, outcome)
    if len(crashes) == len(faults) > 0:
        raise crashes[0]
    raise_if(faults)
    if not done:
        raise NotApplicable("; ".join(refused) or "there is no such case")
    subject.notes.extend(refused)


def raise_if(faults: list[str]) -> None:
    """Fail with all that was found, if anything was."""
    if faults:
        raise CheckFailure("\n".join(_told_once(faults)))


def _told_once(faults: list[str]) -> list[str]:
    """Tell what is wrong in the same words with several cases once, with the cases' names.

    A kernel whose loss is of a wrong dtype has the same fault in every case.
    """
    cases_of: dict[str, list[str]] = {}
    for fault in faults:
        found = _OF_CASE.match(fault)
        name, what = found.groups() if found else ("", fault)
        cases_of.setdefault(what, []).append(name)
    told = []
    for what, names in cases_of.items():
        first, *others = dict.fromkeys(names)
        if not others:
            told.append(f"case {first}: {what}" if first else what)
            continue
        second, *more = others
        names_shown = f"{first}, {second} and {len(more)} more" if more else f"{first} and {second}"
        told.append(f"cases {names_shown}: {what}")
    return told


_OF_CASE = re.compile(r"case (\'[^\']*\'|\"[^\"]*\"): (.*)", re.DOTALL)


def right_loss(subject: Subject) -> Judge:
    """Return a judge that compares losses with the oracle."""

    def judge(batch: Batch, outcome: Outcome) -> list[str]:
        expected = truth(batch, subject.dtype).loss
        allowed = subject.tolerance.loss(expected, batch.logit_lengths)
        return loss_faults(batch, outcome.loss, expected, allowed)

    return judge


def right_grad(subject: Subject) -> Judge:
    """Return a judge that compares gradients with the oracle."""

    def judge(batch: Batch, outcome: Outcome) -> list[str]:
        expected = truth(batch, subject.dtype).grad
        return grad_faults(batch, outcome.gradient, expected, subject.tolerance.grad)

    return judge


def right(subject: Subject) -> Judge:
    """Return a judge of all that the outcome has."""
    judge_loss, judge_grad = right_loss(subject), right_grad(subject)

    def judge(batch: Batch, outcome: Outcome) -> list[str]:
        faults = judge_loss(batch, outcome)
        return faults + (judge_grad(batch, outcome) if outcome.grad is not None else [])

    return judge


def as_published(subject: Subject) -> Judge:
    """Return a judge that compares with the numbers that a case carries."""

    def judge(batch: Batch, outcome: Outcome) -> list[str]:
        faults = []
        against = "published is" if "published" in batch.groups else "known is"
        if batch.expected_loss is not None:
            allowed = subject.tolerance.loss(batch.expected_loss, batch.logit_lengths)
            allowed = allowed + batch.expected_digits * np.maximum(1.0, np.abs(outcome.loss))
            faults += loss_faults(
                batch, outcome.loss, batch.expected_loss, allowed, against=against
            )
        if batch.expected_grad is not None and outcome.grad is not None:
            allowed_grad = subject.tolerance.grad + batch.expected_digits
            faults += grad_faults(
                batch, outcome.grad, batch.expected_grad, allowed_grad, against=against
            )
        return faults

    return judge


def same(
    subject: Subject, batch: Batch, got: Outcome, expected: Outcome, against: str
) -> list[str]:
    """Return in what two outcomes differ by more than rounding."""
    allowed = subject.tolerance.loss(expected.loss, batch.logit_lengths)
    faults = loss_faults(batch, got.loss, expected.loss, allowed, against=against)
    if got.grad is not None and expected.grad is not None:
        faults += grad_faults(
            batch, got.grad, expected.grad, subject.tolerance.grad, against=against
        )
    return faults


def with_padding(batch: Batch, logit: float, label: int) -> Batch:
    """Return the same batch with other numbers where they must not matter."""
    return replace(
        batch,
        logits=np.where(batch.padded_frames()[:, :, None], logit, batch.logits),
        labels=np.where(batch.padded_labels(), label, batch.labels),
    )
