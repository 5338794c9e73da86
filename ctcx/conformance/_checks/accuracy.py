"""Loss and gradient are right: by publication, formula, enumeration, oracle and differences."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ctcx._plugins.backend import Feature
from ctcx.conformance._checks.judging import (
    QUICK,
    as_published,
    in_group,
    judge_all,
    raise_if,
    right_grad,
    right_loss,
)
from ctcx.conformance._checks.registry import check
from ctcx.conformance._mismatches import grad_faults, loss_faults
from ctcx.data.batch import Batch

if TYPE_CHECKING:
    from ctcx.conformance._subject import Outcome, Subject

__all__ = [
    "check_closed_forms",
    "check_finite_differences",
    "check_gradient",
    "check_gradient_by_enumeration",
    "check_gradient_rows_sum_to_zero",
    "check_loss",
    "check_loss_by_enumeration",
    "check_operations_agree",
    "check_published_numbers",
]


@check()
def check_published_numbers(subject: Subject) -> None:
    """Losses and gradients are those that others have published."""
    judge_all(subject, in_group("published"), as_published(subject), grad=subject.can_grad)


@check()
def check_closed_forms(subject: Subject) -> None:
    """Losses that a formula gives: a single path, equal logits, a single label."""
    judge_all(subject, in_group("closed-form"), as_published(subject), grad=False)


@check()
def check_loss_by_enumeration(subject: Subject) -> None:
    """On tiny problems the loss is minus the log of the sum over all paths."""
    judge_all(subject, in_group("enumerable"), right_loss(subject), grad=False)


@check(requires={Feature.GRAD})
def check_gradient_by_enumeration(subject: Subject) -> None:
    """On tiny problems the gradient is softmax minus the occupancies summed over all paths."""
    judge_all(subject, in_group("enumerable"), right_grad(subject), grad=True)


@check()
def check_loss(subject: Subject) -> None:
    """Losses of the everyday cases are those of a float64 oracle."""
    judge_all(subject, in_group("oracle"), right_loss(subject), grad=False)


@check(requires={Feature.GRAD})
def check_gradient(subject: Subject) -> None:
    """Gradients of the everyday cases are those of a float64 oracle."""
    judge_all(subject, in_group("oracle"), right_grad(subject), grad=True)


@check(requires={Feature.GRAD})
def check_gradient_rows_sum_to_zero(subject: Subject) -> None:
    """Adding a constant to all logits of a frame changes nothing, so gradient rows sum to 0."""

    def judge(batch: Batch, outcome: Outcome) -> list[str]:
        sums = outcome.gradient.sum(axis=2)
        wrong = np.argwhere(~(np.abs(sums) <= subject.tolerance.row_sum))
        return [
            f"case {batch.name!r}: the gradient of {batch.label(n)} at frame {t} sums to "
            f"{float(sums[n, t])!r}, allowed {subject.tolerance.row_sum}"
            for n, t in wrong[:1].tolist()
        ]

    judge_all(subject, in_group(*QUICK), judge, grad=True)


@check(requires={Feature.GRAD}, dtypes={"float64"})
def check_finite_differences(subject: Subject) -> None:
    """The gradient is the slope of the loss with respect to the unnormalised logits."""
    frames, classes, step = 6, 4, 1e-5
    base = np.random.default_rng(7).normal(size=(frames, classes))
    moves = step * np.eye(frames * classes).reshape(-1, frames, classes)
    count = 2 * len(moves) + 1
    batch = Batch(
        name="finite differences",
        why="Each logit moved a little up and down; the last sequence is where it started.",
        logits=np.concatenate([base + moves, base - moves, base[None]]),
        labels=np.tile([1, 1, 3], (count, 1)),
        logit_lengths=np.full(count, frames),
        label_lengths=np.full(count, 3),
        blank=2,
    )
    outcome = subject.run(batch, grad=True)
    up, down = outcome.loss[: len(moves)], outcome.loss[len(moves) : -1]
    slope = np.zeros_like(outcome.gradient)
    slope[-1] = ((up - down) / (2 * step)).reshape(frames, classes)
    analytic = np.zeros_like(slope)
    analytic[-1] = outcome.gradient[-1]
    raise_if(grad_faults(batch, analytic, slope, 1e-8, against="finite differences give"))


@check(requires={Feature.GRAD})
def check_operations_agree(subject: Subject) -> None:
    """ctc_loss and ctc_loss_and_grad give the same loss."""

    def judge(batch: Batch, outcome: Outcome) -> list[str]:
        alone = subject.run(batch, grad=False)
        allowed = subject.tolerance.loss(alone.loss, batch.logit_lengths)
        return loss_faults(batch, outcome.loss, alone.loss, allowed, against="ctc_loss gives")

    judge_all(subject, in_group("oracle"), judge, grad=True)
