"""Run a problem in its form on a subject, and say what is wrong with the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ctcx._arrays.facts import namespace_of
from ctcx._plugins.backend import Feature
from ctcx.conformance._draws.problem import LAYOUTS, right_answer
from ctcx.conformance._failures import CheckFailure, NotApplicable
from ctcx.conformance._mismatches import grad_faults, loss_faults
from ctcx.conformance._subject import CallArrays, Outcome

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctcx._reference.oracle import ReferenceAnswer
    from ctcx._typing import Array
    from ctcx.conformance._draws.problem import DrawnProblem
    from ctcx.conformance._subject import Subject
    from ctcx.data.batch import Batch

__all__ = ["faults_of", "spread"]

_VERY_LONG = 2000


def faults_of(subject: Subject, problem: DrawnProblem) -> list[str]:
    """Return what is wrong with the loss alone, and with loss and gradient together.

    Raises NotApplicable: the backend's own ``accepts`` turns it down.
    """
    faults = []
    right = right_answer(problem.batch, subject.dtype)
    for grad in subject.with_and_without_grad:
        operation = "ctc_loss_and_grad" if grad else "ctc_loss"
        try:
            outcome = _run(subject, problem, grad=grad)
        except NotApplicable:
            raise
        except CheckFailure as failure:
            faults.append(f"{operation}: {failure}")
            continue
        except Exception as error:  # noqa: BLE001 - a kernel may raise anything; it is reported
            faults.append(f"{operation}: raised {type(error).__name__}: {error}")
            continue
        faults += [
            f"{operation}: {fault}" for fault in _wrong(subject, problem.batch, outcome, right)
        ]
    return faults


def _wrong(subject: Subject, batch: Batch, outcome: Outcome, right: ReferenceAnswer) -> list[str]:
    tolerance = subject.tolerance
    allowed = tolerance.loss(right.loss, batch.logit_lengths)
    faults = loss_faults(batch, outcome.loss, right.loss, allowed)
    if outcome.grad is not None:
        long = batch.shape[1] > _VERY_LONG
        allowed_grad = tolerance.grad_very_long if long else tolerance.grad
        faults += grad_faults(batch, outcome.grad, right.grad, allowed_grad)
        nothing = batch.padded_frames() | ~right.feasible[:, None]
        if outcome.grad[nothing].any():
            zero = np.where(nothing[:, :, None], outcome.grad, 0.0)
            faults += grad_faults(batch, zero, np.zeros_like(zero), 0.0)
    if outcome.feasible is not None and (outcome.feasible != right.feasible).any():
        n = int(np.flatnonzero(outcome.feasible != right.feasible)[0])
        faults.append(
            f"case {batch.name!r}: feasible is {bool(outcome.feasible[n])} for {batch.label(n)}, "
            f"expected {bool(right.feasible[n])}"
        )
    return faults


def _run(subject: Subject, problem: DrawnProblem, *, grad: bool) -> Outcome:
    batch, form = problem.batch, problem.form
    # A layout that the backend doesn't declare would only be turned down.
    layout = form.layout if subject.has(Feature.NONCONTIGUOUS) else LAYOUTS[0]
    logits, options = _laid_out(subject, batch.logits, layout)
    step = 2 if form.strided else 1
    inputs = CallArrays(
        logits,
        spread(subject, batch.labels.astype(form.labels), step),
        spread(subject, batch.logit_lengths.astype(form.lengths), step),
        spread(subject, batch.label_lengths.astype(form.lengths), step),
    )
    num_sequences, num_frames, num_classes, _ = batch.shape
    turned = layout == "time-major"
    blank = batch.blank - num_classes if form.negative_blank else batch.blank
    outcome = subject.run(
        batch,
        grad=grad,
        inputs=inputs,
        grad_shape=(num_frames, num_sequences, num_classes) if turned else None,
        blank=blank,
        **options,
    )
    if outcome.grad is not None and turned:
        return Outcome(outcome.loss, outcome.grad.transpose(1, 0, 2), outcome.feasible)
    return outcome


def _laid_out(
    subject: Subject, logits: NDArray[np.float64], layout: str
) -> tuple[Array, dict[str, Any]]:
    """Return logits as an array of the library that lies in memory as asked, and options."""
    if layout in {"time-major", "transposed"}:
        turned = subject.logits(logits.transpose(1, 0, 2))
        if layout == "time-major":
            return turned, {"time_major": True}
        xp = namespace_of(turned)
        return xp.permute_dims(turned, (1, 0, 2)), {}
    if layout == "every-other-class":
        return subject.logits(np.repeat(logits, 2, axis=2))[:, :, ::2], {}
    if layout == "inside-of-larger":
        num_sequences, num_frames, num_classes = logits.shape
        larger = np.full((num_sequences + 1, num_frames + 2, num_classes + 1), np.nan)
        larger[1:, 1:-1, 1:] = logits
        return subject.logits(larger)[1:, 1:-1, 1:], {}
    if layout == "reversed-frames" and subject.namespace == "numpy":
        # Most other libraries have no negative strides.
        return subject.logits(logits[:, ::-1])[:, ::-1], {}
    return subject.logits(logits), {}


def spread(subject: Subject, values: NDArray[Any], step: int) -> Array:
    """Return an array of the library that is every ``step``-th element of a larger one."""
    if step == 1:
        return subject.array(values)
    for axis in range(values.ndim):
        values = np.repeat(values, step, axis=axis)
    return subject.array(values)[(slice(None, None, step),) * values.ndim]
