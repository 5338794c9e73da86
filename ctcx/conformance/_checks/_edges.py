"""What breaks kernels: infeasible labels, masks, certainty, empty axes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ctcx._errors import InfeasibleError
from ctcx.conformance._checks._judging import (
    QUICK,
    in_group,
    judge_all,
    raise_if,
    right,
    right_grad,
    with_padding,
)
from ctcx.conformance._compare import describe_grad, describe_loss, grad_faults, loss_faults
from ctcx.conformance._failures import CheckFailure
from ctcx.conformance._registered import check
from ctcx.conformance.cases import Batch, case, truth

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctcx.conformance._subject import Outcome, Subject

__all__ = [
    "check_confident_logits",
    "check_degenerate_shapes",
    "check_infeasible",
    "check_infeasible_policies",
    "check_masked_logits",
    "check_never_nan",
    "check_never_negative",
]


@check()
def check_infeasible(subject: Subject) -> None:
    """Labels that can't be emitted: loss exactly +inf, gradient exactly 0, feasible False."""

    def judge(batch: Batch, outcome: Outcome) -> list[str]:
        expected = truth(batch, subject.dtype)
        no_slack = np.zeros(expected.loss.shape)
        inf_or_not = np.where(expected.feasible, 0.0, np.inf)
        got = np.where(np.isfinite(outcome.loss), 0.0, outcome.loss)
        got = np.where(expected.feasible, got, outcome.loss)
        faults = loss_faults(batch, got, inf_or_not, no_slack)
        if outcome.grad is not None:
            hopeless = ~expected.feasible[:, None, None]
            faults += grad_faults(
                batch, np.where(hopeless, outcome.grad, 0.0), np.zeros_like(outcome.grad), 0.0
            )
        if outcome.feasible is not None and (outcome.feasible != expected.feasible).any():
            faults.append(
                f"case {batch.name!r}: feasible is {outcome.feasible.tolist()}, "
                f"expected {expected.feasible.tolist()}"
            )
        return faults

    judge_all(subject, in_group("infeasible"), judge, grad=subject.can_grad)


@check()
def check_infeasible_policies(subject: Subject) -> None:
    """infeasible="zero" gives loss 0 and gradient 0, "raise" an error that names the sequences."""
    batch = case("too few frames")
    grad = subject.can_grad
    expected = truth(batch, subject.dtype)
    outcome = subject.run(batch, grad=grad, infeasible="zero")
    loss = np.where(expected.feasible, expected.loss, 0.0)
    allowed = np.where(
        expected.feasible, subject.tolerance.loss(expected.loss, batch.logit_lengths), 0.0
    )
    raise_if(loss_faults(batch, outcome.loss, loss, allowed))
    if outcome.grad is not None:
        raise_if(right_grad(subject)(batch, outcome))
    hopeless = tuple(np.flatnonzero(~expected.feasible).tolist())
    try:
        subject.run(batch, grad=grad, infeasible="raise")
    except InfeasibleError as error:
        if tuple(error.sequences) != hopeless:
            msg = (
                f"case {batch.name!r}: the error names sequences {error.sequences}, not {hopeless}"
            )
            raise CheckFailure(msg) from error
    else:
        msg = f"case {batch.name!r}: infeasible='raise' raised nothing for sequences {hopeless}"
        raise CheckFailure(msg)


@check()
def check_degenerate_shapes(subject: Subject) -> None:
    """Axes of size 0 and 1: no sequences, no frames, no label axis, one class."""
    batches = in_group("degenerate")
    judge_all(subject, batches, right(subject), grad=False)
    if subject.can_grad:
        judge_all(subject, batches, right(subject), grad=True)


@check()
def check_masked_logits(subject: Subject) -> None:
    """Masked classes (-inf, or the most negative number) have probability 0 and break nothing."""
    judge_all(subject, in_group("masked"), right(subject), grad=subject.can_grad)


@check()
def check_confident_logits(subject: Subject) -> None:
    """Nearly one-hot emissions, right or wrong, neither underflow nor overflow."""
    judge_all(subject, in_group("confident"), right(subject), grad=subject.can_grad)


@check()
def check_never_nan(subject: Subject) -> None:
    """No case gives NaN, not even with NaN and infinities in the padding."""

    def judge(batch: Batch, outcome: Outcome) -> list[str]:
        faults = [f"{describe_loss(batch, n)}: NaN" for n in _where(np.isnan(outcome.loss))]
        if outcome.grad is not None:
            places = np.argwhere(~np.isfinite(outcome.grad))[:1]
            faults += [f"{describe_grad(batch, *place)}: not finite" for place in places.tolist()]
        return [f"case {batch.name!r}: {fault}" for fault in faults]

    for padding in (np.nan, np.inf, -np.inf):
        batches = (with_padding(batch, padding, 0) for batch in in_group("infeasible", "masked"))
        judge_all(subject, batches, judge, grad=subject.can_grad)
    judge_all(subject, in_group(*QUICK), judge, grad=subject.can_grad)


@check()
def check_never_negative(subject: Subject) -> None:
    """A loss is never below 0, however confident the model is."""

    def judge(batch: Batch, outcome: Outcome) -> list[str]:
        return [
            f"case {batch.name!r}: {describe_loss(batch, n)}: got {float(outcome.loss[n])!r}"
            for n in _where(outcome.loss < 0)
        ]

    judge_all(subject, [_certain(), *in_group(*QUICK)], judge, grad=False)
    if subject.can_grad:
        judge_all(subject, [_certain(), *in_group("confident")], judge, grad=True)


def _where(wrong: NDArray[np.bool_]) -> list[int]:
    return [int(n) for n in np.flatnonzero(wrong)]


def _certain() -> Batch:
    """Return sequences whose loss is so near to 0 that rounding may carry it below."""
    rng = np.random.default_rng(5)
    path = np.array([0, 1, 0, 2, 2, 0, 3, 0])
    logits = rng.normal(size=(8, 8, 5))
    for n, scale in enumerate((8.0, 12.0, 15.0, 16.0, 17.0, 20.0, 25.0, 40.0)):
        logits[n, np.arange(8), path] += scale
    return replace(
        case("confident"),
        name="certain",
        logits=logits,
        labels=np.tile([1, 2, 3, 0, 0], (8, 1)),
        label_lengths=np.full(8, 3),
        sequences=(),
    )
