"""What must not matter: padding, the place in the batch, which class is the blank."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ctcx._plugins.backend import Feature
from ctcx.conformance._checks.judging import in_group, judge_all, pick, raise_if, same, with_padding
from ctcx.conformance._checks.registry import check
from ctcx.conformance._failures import CheckFailure
from ctcx.conformance._mismatches import grad_faults
from ctcx.conformance._subject import Outcome, Subject
from ctcx.conformance.cases import case

if TYPE_CHECKING:
    from ctcx.data.batch import Batch

__all__ = [
    "check_batch_order",
    "check_blank_position",
    "check_gradient_past_length",
    "check_padding_amount",
    "check_padding_content",
]


@check(requires={Feature.GRAD})
def check_gradient_past_length(subject: Subject) -> None:
    """Frames past a sequence's length have a gradient of exactly 0."""

    def judge(batch: Batch, outcome: Outcome) -> list[str]:
        past = np.where(batch.padded_frames()[:, :, None], outcome.gradient, 0.0)
        return grad_faults(batch, past, np.zeros_like(past), 0.0)

    batches = [with_padding(batch, 50.0, 1) for batch in in_group("oracle")]
    judge_all(subject, batches, judge, grad=True)


@check()
def check_padding_content(subject: Subject) -> None:
    """What stands past a length (NaN, inf, huge, negative or blank labels) doesn't matter at all.

    Not even in the last bit, for a kernel that declares DETERMINISTIC.
    """
    grad = subject.can_grad
    exact = subject.has(Feature.DETERMINISTIC)
    for batch in (case("ragged"), case("edge lengths")):
        plain = subject.run(with_padding(batch, 0.0, batch.blank), grad=grad)
        for logit, label in (
            (np.nan, 2**31 - 1),
            (np.inf, -(2**31)),
            (-np.inf, -1),
            (1e38, batch.logits.shape[2]),
            (-1e38, 0),
        ):
            padded = with_padding(batch, logit, label)
            outcome = subject.run(padded, grad=grad)
            against = f"with the padding logits {logit} and labels {label}; with zeros and blanks"
            raise_if(same(subject, padded, outcome, plain, against))
            if exact and not outcome.same_bits(plain):
                msg = (
                    f"case {batch.name!r}: padding of {logit} in logits and {label} in labels "
                    f"changes the last bits"
                )
                raise CheckFailure(msg)


@check()
def check_padding_amount(subject: Subject) -> None:
    """More padding of frames and labels gives the same losses and gradients."""
    grad = subject.can_grad
    batch = case("ragged")
    num_sequences, num_frames, num_classes, width = batch.shape
    expected = subject.run(batch, grad=grad)
    logits = np.full((num_sequences, num_frames + 5, num_classes), 3.0)
    logits[:, :num_frames] = batch.logits
    labels = np.zeros((num_sequences, width + 3), dtype=np.int64)
    labels[:, :width] = batch.labels
    wider = replace(batch, name="ragged, padded more", logits=logits, labels=labels)
    outcome = subject.run(wider, grad=grad)
    cut = Outcome(outcome.loss, outcome.grad[:, :num_frames] if outcome.grad is not None else None)
    raise_if(same(subject, batch, cut, expected, "with less padding"))


@check()
def check_batch_order(subject: Subject) -> None:
    """A sequence's result doesn't depend on its place in the batch, nor on its neighbours."""
    for batch in (case("ragged"), case("edge lengths")):
        expected = subject.run(batch, grad=subject.can_grad)
        order = np.roll(np.arange(len(batch.logits))[::-1], 2)
        turned = replace(pick(batch, order), name=f"{batch.name}, in another order")
        wanted = Outcome(
            expected.loss[order], expected.grad[order] if expected.grad is not None else None
        )
        got = subject.run(turned, grad=subject.can_grad)
        raise_if(same(subject, turned, got, wanted, "in the first order"))


@check()
def check_blank_position(subject: Subject) -> None:
    """The blank may be any class: renaming the classes renames the gradient and no more."""
    batch = case("ragged")
    num_classes = batch.logits.shape[2]
    expected = subject.run(batch, grad=subject.can_grad)
    shift = 4
    # Class k becomes class (k + shift) % C.
    moved = replace(
        batch,
        name=f"ragged, blank {(batch.blank + shift) % num_classes} instead of {batch.blank}",
        logits=np.roll(batch.logits, shift, axis=2),
        labels=(batch.labels + shift) % num_classes,
        blank=(batch.blank + shift) % num_classes,
    )
    got = subject.run(moved, grad=subject.can_grad)
    wanted = Outcome(
        expected.loss,
        np.roll(expected.grad, shift, axis=2) if expected.grad is not None else None,
    )
    raise_if(same(subject, moved, got, wanted, "with the blank where it was"))
