"""What breaks kernels: infeasible labels, masks, certainty, empty axes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ctcx._errors import InfeasibleError
from ctcx.conformance._checks.judging import (
    QUICK,
    in_group,
    judge_all,
    raise_if,
    right,
    right_grad,
    with_padding,
)
from ctcx.conformance._checks.registry import check
from ctcx.conformance._failures import CheckFailure
from ctcx.conformance._mismatches import describe_grad, describe_loss, grad_faults, loss_faults
from ctcx.conformance.cases import case, truth

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctcx.conformance._checks.judging import Judge
    from ctcx.conformance._subject import Outcome, Subject
    from ctcx.data.batch import Batch

__all__ = [
    "check_certain_paths",
    "check_confident_logits",
    "check_degenerate_shapes",
    "check_infeasible",
    "check_infeasible_policies",
    "check_largest_losses",
    "check_masked_logits",
    "check_never_nan",
    "check_never_negative",
    "check_unchecked_logits",
]


@check()
def check_infeasible(subject: Subject) -> None:
    """Labels that can't be emitted: loss exactly +inf, gradient exactly 0, feasible False."""
    judge_all(subject, in_group("infeasible"), _infeasible_exactly(subject), grad=subject.can_grad)


@check()
def check_largest_losses(subject: Subject) -> None:
    """Losses up to 1.8e8 nats are right; above: +inf, gradient 0, feasible False, as infeasible."""
    judges = right(subject), _infeasible_exactly(subject)

    def judge(batch: Batch, outcome: Outcome) -> list[str]:
        return [fault for each in judges for fault in each(batch, outcome)]

    for grad in subject.with_and_without_grad:
        judge_all(subject, in_group("limit"), judge, grad=grad)


@check()
def check_unchecked_logits(subject: Subject) -> None:
    """Without validation NaN or +inf among a sequence's logits gives it NaN, and no other one.

    Loss and gradient are NaN inside its length, also where its labels can't be emitted, whatever
    ``infeasible`` says.
    """
    batch = case("too few frames")
    spoiled = {0: (np.nan, 0), 1: (np.inf, 1), 3: (np.nan, -1), 7: (np.inf, -1)}
    logits = batch.logits.copy()
    for n, (value, frame) in spoiled.items():
        logits[n, frame % batch.logit_lengths[n], n % batch.shape[2]] = value
    # Values past a length are ignored.
    wrong = with_padding(replace(batch, logits=logits), np.nan, 0)
    rows = list(spoiled)
    expected = truth(batch, subject.dtype)
    faults: list[str] = []
    for policy in ("inf", "zero"):
        loss = expected.loss if policy == "inf" else np.where(expected.feasible, expected.loss, 0.0)
        loss, grad = loss.copy(), expected.grad.copy()
        loss[rows] = np.nan
        grad[rows] = np.where(batch.padded_frames()[rows][:, :, None], 0.0, np.nan)
        for with_grad in subject.with_and_without_grad:
            got = subject.run(wrong, grad=with_grad, validate=False, infeasible=policy)
            allowed = subject.tolerance.loss(np.nan_to_num(loss), batch.logit_lengths)
            shown = replace(batch, name=f"{batch.name}, with NaN and inf, infeasible={policy!r}")
            faults += loss_faults(shown, got.loss, loss, allowed, nan_expected=True)
            if got.grad is not None:
                allowed_grad = subject.tolerance.grad
                faults += grad_faults(shown, got.grad, grad, allowed_grad, nan_expected=True)
    # A problem so small that a kernel may have another way for it, with too few frames.
    for value, place in itertools.product((np.nan, np.inf), ((0, 0, 0), (0, 2, 1), (0, 1, 3))):
        logits = np.zeros((1, 3, 4))
        logits[place] = value
        small = replace(
            batch,
            name=f"three frames, one with {value}",
            logits=logits,
            labels=np.array([[1, 1, 1]]),
            logit_lengths=np.array([3]),
            label_lengths=np.array([3]),
            sequences=(),
        )
        for policy in ("inf", "zero"):
            got = subject.run(small, grad=subject.can_grad, validate=False, infeasible=policy)
            shown = replace(small, name=f"{small.name}, infeasible={policy!r}")
            nan = np.full(got.loss.shape, np.nan)
            faults += loss_faults(shown, got.loss, nan, nan, nan_expected=True)
            if got.grad is not None:
                nan = np.full(got.grad.shape, np.nan)
                faults += grad_faults(shown, got.grad, nan, 0.0, nan_expected=True)
    raise_if(faults)


def _infeasible_exactly(subject: Subject) -> Judge:
    """Return a judge of what has to be exact for labels that can't be emitted."""

    def judge(batch: Batch, outcome: Outcome) -> list[str]:
        expected = truth(batch, subject.dtype)
        no_slack = np.zeros(expected.loss.shape)
        inf_or_not = np.where(expected.feasible, 0.0, np.inf)
        got = np.where(np.isfinite(outcome.loss), 0.0, outcome.loss)
        got = np.where(expected.feasible, got, outcome.loss)
        faults = loss_faults(batch, got, inf_or_not, no_slack)
        if outcome.grad is not None:
            infeasible = ~expected.feasible[:, None, None]
            faults += grad_faults(
                batch, np.where(infeasible, outcome.grad, 0.0), np.zeros_like(outcome.grad), 0.0
            )
        if outcome.feasible is not None and (outcome.feasible != expected.feasible).any():
            faults.append(
                f"case {batch.name!r}: feasible is {outcome.feasible.tolist()}, "
                f"expected {expected.feasible.tolist()}"
            )
        return faults

    return judge


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
    infeasible = tuple(np.flatnonzero(~expected.feasible).tolist())
    try:
        subject.run(batch, grad=grad, infeasible="raise")
    except InfeasibleError as error:
        named = tuple(error.sequences)
        if named != infeasible:
            msg = f"case {batch.name!r}: the error names sequences {named}, not {infeasible}"
            raise CheckFailure(msg) from error
    else:
        msg = f"case {batch.name!r}: infeasible='raise' raised nothing for sequences {infeasible}"
        raise CheckFailure(msg)


@check()
def check_degenerate_shapes(subject: Subject) -> None:
    """Axes of size 0 and 1: no sequences, no frames, no label axis, one class."""
    for grad in subject.with_and_without_grad:
        judge_all(subject, in_group("degenerate"), right(subject), grad=grad)


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


@check()
def check_certain_paths(subject: Subject) -> None:
    """Where only one path is possible, of at most 128 frames, the loss is 0, within 1e-14."""
    batch = _only_one_path()

    def judge(batch: Batch, outcome: Outcome) -> list[str]:
        zero = np.zeros(outcome.loss.shape)
        return loss_faults(batch, outcome.loss, zero, allowed=zero + 1e-14)

    for grad in subject.with_and_without_grad:
        judge_all(subject, [batch], judge, grad=grad)


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


def _only_one_path() -> Batch:
    """Return sequences in which each frame has one class that isn't masked."""
    paths: list[list[int]] = []
    for length in (1, 2, 7, 33, 63, 64, 65, 127, 128):
        paths += [[0] * length, [1] * length, ([1, 2, 0, 2] * length)[:length]]
    lengths = np.array([len(path) for path in paths])
    spoken = [
        [c for c, before in zip(p, [0, *p], strict=False) if c not in (0, before)] for p in paths
    ]
    counts = np.array([len(one) for one in spoken])
    # Among frames that no sequence has: how long the batch is changes nothing either.
    logits = np.full((len(paths), 192, 5), -np.inf)
    labels = np.ones((len(paths), counts.max()), dtype=np.int64)
    for n, (path, one) in enumerate(zip(paths, spoken, strict=True)):
        logits[n, np.arange(len(path)), path] = 0
        labels[n, : len(one)] = one
    return replace(
        case("confident"),
        name="only one path",
        logits=logits,
        labels=labels,
        logit_lengths=lengths,
        label_lengths=counts,
        sequences=(),
    )
