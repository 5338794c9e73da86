"""A backend does what it declares, and turns down the rest."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import ctcx
from ctcx._arrays.facts import describe, namespace_of
from ctcx._errors import BackendError, BackendRejectedError, CTCInputError
from ctcx._plugins.backend import Decline, Feature
from ctcx._plugins.registry import registry
from ctcx._plugins.targets import load_target
from ctcx.conformance._checks.judging import in_group, raise_if, same
from ctcx.conformance._checks.registry import check
from ctcx.conformance._failures import CheckFailure, NotApplicable
from ctcx.conformance._mismatches import grad_faults
from ctcx.conformance.cases import case

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ctcx.conformance._subject import Subject
    from ctcx.data.batch import Batch

__all__ = [
    "check_checks_values",
    "check_rejects_what_it_does_not_declare",
    "check_takes_what_it_declares",
    "check_weights",
    "wrong_values",
]


@check()
def check_takes_what_it_declares(subject: Subject) -> None:
    """Ordinary problems of what is declared are not turned down, not even the first time.

    The first calls give what later ones give: they may have to compile something or make tables.
    """
    for batch in (case("notebook"), case("ragged")):
        for grad in subject.with_and_without_grad:
            what = "loss_and_grad" if grad else "loss"
            try:
                first, again = (subject.run(batch, grad=grad) for _ in range(2))
            except (Decline, BackendError, NotApplicable) as error:
                msg = (
                    f"the backend declares {subject} and {what}, but it turns down the ordinary "
                    f"case {batch.name!r}: {error}"
                )
                raise CheckFailure(msg) from error
            raise_if(same(subject, batch, first, again, "the second time"))


@check()
def check_rejects_what_it_does_not_declare(subject: Subject) -> None:
    """What the backend doesn't declare is rejected with a reason, and gives no numbers."""
    batch = case("notebook")
    faults = []
    tried = 0
    for what, attempt in _undeclared(subject, batch):
        tried += 1
        try:
            attempt()
        except BackendRejectedError as error:
            if not str(error).strip():
                faults.append(f"{what} is rejected without a reason")
        except Exception as error:  # noqa: BLE001 - whatever it is, it should have been a rejection
            faults.append(f"{what} is not rejected but raises {type(error).__name__}: {error}")
        else:
            faults.append(f"{what} is not declared, but gave numbers instead of a rejection")
    raise_if(faults)
    if not tried:
        msg = "it declares all that could be tried here"
        raise NotApplicable(msg)


@check(requires={Feature.CHECKS_VALUES})
def check_checks_values(subject: Subject) -> None:
    """A wrong length, label or logit gives its sequence a loss of NaN, and the others theirs."""
    batch = case("ragged")
    right = {grad: subject.run(batch, grad=grad).loss for grad in subject.with_and_without_grad}
    faults = []
    for what, n, wrong in wrong_values(batch):
        for grad in subject.with_and_without_grad:
            inputs = subject.inputs(wrong)
            result = subject.call(inputs, grad=grad, blank=wrong.blank, validate=False)
            expected = right[grad].copy()
            expected[n] = np.nan
            loss = subject.numpy(result[0]).astype(np.float64)
            if not np.array_equal(loss, expected, equal_nan=True):
                faults.append(f"{what} in sequence {n}: losses {loss}, expected {expected}")
            try:
                subject.call(inputs, grad=grad, blank=wrong.blank)
            except CTCInputError as error:
                if error.sequence != n:
                    faults.append(f"{what} in sequence {n}: the error names {error.sequence}")
            else:
                faults.append(f"{what} in sequence {n} is not reported")
    raise_if(faults)


@check(requires={Feature.GRAD, Feature.WEIGHTS})
def check_weights(subject: Subject) -> None:
    """The gradient of a mean per label is that of the sum, each sequence times its own weight."""
    faults: list[str] = []
    for batch in (case("notebook"), case("ragged"), *in_group("infeasible")):
        plain = subject.run(batch, grad=True)
        each = 1.0 / (len(batch.label_lengths) * np.maximum(batch.label_lengths, 1))
        inputs = subject.inputs(batch)
        loss, grad, *_ = subject.call(
            inputs, grad=True, blank=batch.blank, reduction="mean_per_label", infeasible="zero"
        )
        expected = float(np.sum(np.where(plain.loss < np.inf, plain.loss, 0.0) * each))
        got = float(subject.numpy(loss))
        if not abs(got - expected) <= 1e-5 * max(expected, 1.0):
            faults.append(f"{batch.name}: mean loss {got}, expected {expected}")
        unweighted = subject.numpy(grad).astype(np.float64) / each[:, None, None]
        allowed = 2 * subject.tolerance.grad
        assert plain.grad is not None  # noqa: S101 - it was asked for
        faults += grad_faults(batch, unweighted, plain.grad, allowed, against="without weights")
    raise_if(faults)


def wrong_values(batch: Batch) -> Iterator[tuple[str, int, Batch]]:
    """Yield batches with one thing wrong: what, in which sequence, and the batch."""
    _, frames, classes, width = batch.shape
    n = int(np.flatnonzero((batch.label_lengths > 0) & (batch.logit_lengths > 0))[-1])
    last_label, last_frame = int(batch.label_lengths[n]) - 1, int(batch.logit_lengths[n]) - 1
    for value in (classes, -1, 2**31 - 1, batch.blank):
        labels = batch.labels.copy()
        labels[n, last_label] = value
        yield f"the label {value}", n, replace(batch, labels=labels)
    for length in (width + 1, -1):
        lengths = batch.label_lengths.copy()
        lengths[n] = length
        yield f"the label length {length}", n, replace(batch, label_lengths=lengths)
    for length in (frames + 1, -1):
        lengths = batch.logit_lengths.copy()
        lengths[n] = length
        yield f"the logit length {length}", n, replace(batch, logit_lengths=lengths)
    for logit in (np.nan, np.inf):
        for frame, label_class in ((0, 0), (last_frame, classes - 1)):
            logits = batch.logits.copy()
            logits[n, frame, label_class] = logit
            yield f"the logit {logit} in frame {frame}", n, replace(batch, logits=logits)


def _undeclared(subject: Subject, batch: Batch) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield what the backend doesn't claim to do, each with a call that asks for it."""
    backend, library = subject.descriptor, subject.library
    options: dict[str, Any] = {"blank": batch.blank, "backend": subject.backend}
    plain = subject.inputs(batch)
    for dtype in sorted(library.dtypes - backend.dtypes):
        try:
            logits = subject.logits(batch.logits, dtype)
        except (TypeError, ValueError):
            continue  # this device doesn't have it
        yield f"dtype {dtype}", partial(ctcx.ctc_loss, *plain._replace(logits=logits), **options)
    if not subject.has(Feature.GRAD):
        yield "the gradient (GRAD)", partial(ctcx.ctc_loss_and_grad, *plain, **options)
    if not subject.has(Feature.NONCONTIGUOUS):
        xp = namespace_of(plain.logits)
        turned = subject.logits(batch.logits.transpose(0, 2, 1))
        logits = xp.permute_dims(turned, (0, 2, 1))
        if not describe(logits).contiguous:
            yield (
                "logits that are not contiguous (NONCONTIGUOUS)",
                partial(ctcx.ctc_loss, *plain._replace(logits=logits), **options),
            )
    if not subject.has(Feature.TRACEABLE) and library.jit is not None:
        compiled = load_target(library.jit)(partial(ctcx.ctc_loss, **options))
        yield "a call that is being compiled (TRACEABLE)", partial(compiled, *plain)
    if "*" in backend.namespaces:
        return
    for name, entry in registry().namespaces.items():
        # Nothing large is imported only to be turned down.
        known = name in {"numpy", "array_api_strict"} or name.partition(".")[0] in sys.modules
        if name in backend.namespaces or not known or entry.namespace.probe() is not None:
            continue
        device = load_target(entry.namespace.devices)()[0]
        other = replace(subject, namespace=name, device=device, dtype="float32")
        yield f"arrays of {name}", partial(ctcx.ctc_loss, *other.inputs(batch), **options)
