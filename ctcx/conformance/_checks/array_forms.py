"""Arrays as callers have them: read-only, not contiguous, time-major, half precision, traced."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

import ctcx
from ctcx._arrays.facts import namespace_of
from ctcx._errors import BackendRejectedError
from ctcx._plugins.backend import Feature
from ctcx._plugins.targets import load_target
from ctcx.conformance._checks.judging import judge_all, raise_if, right, same
from ctcx.conformance._checks.registry import check
from ctcx.conformance._draws import spread
from ctcx.conformance._failures import NotApplicable
from ctcx.conformance._subject import CallArrays, Outcome, Subject
from ctcx.conformance.cases import case, truth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from ctcx.data.batch import Batch

__all__ = [
    "check_half_precision",
    "check_integer_inputs",
    "check_noncontiguous_inputs",
    "check_read_only_inputs",
    "check_time_major",
    "check_traced",
]


@check()
def check_read_only_inputs(subject: Subject) -> None:
    """Read-only inputs are fine, and no input is ever written to.

    Every other check compares the inputs before and after too; here NumPy arrays refuse writes.
    """
    for batch in (case("ragged"), case("masked with -inf"), case("edge lengths")):
        inputs = subject.inputs(batch)
        for array in inputs:
            if isinstance(array, np.ndarray):
                array.flags.writeable = False
        for grad in subject.with_and_without_grad:
            outcome = subject.run(batch, grad=grad, inputs=inputs)
            raise_if(right(subject)(batch, outcome))


@check(requires={Feature.NONCONTIGUOUS})
def check_noncontiguous_inputs(subject: Subject) -> None:
    """Transposed, sliced and strided logits, labels and lengths give the same as plain ones."""
    batch = case("ragged")
    for name, inputs in _scattered(subject, batch):
        scattered = replace(batch, name=f"ragged, {name}")
        for grad in subject.with_and_without_grad:
            outcome = subject.run(scattered, grad=grad, inputs=inputs)
            wanted = Outcome(*_truth_parts(batch, subject, grad=grad))
            raise_if(same(subject, scattered, outcome, wanted, "expected"))


@check()
def check_integer_inputs(subject: Subject) -> None:
    """Labels and lengths may be int32 or int64, each on its own, and in any strides."""
    batch = case("ragged")
    logits = subject.logits(batch.logits)
    for kinds in product(("int32", "int64"), repeat=3):
        for step, which in ((1, "every element"), (3, "every third element")):
            whole = [
                spread(subject, values.astype(kind), step)
                for values, kind in zip(
                    (batch.labels, batch.logit_lengths, batch.label_lengths), kinds, strict=True
                )
            ]
            named = replace(batch, name=f"ragged, {', '.join(kinds)}, {which}")
            for grad in subject.with_and_without_grad:
                outcome = subject.run(named, grad=grad, inputs=CallArrays(logits, *whole))
                wanted = Outcome(*_truth_parts(batch, subject, grad=grad))
                raise_if(same(subject, named, outcome, wanted, "expected"))


def _truth_parts(
    batch: Batch, subject: Subject, *, grad: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    expected = truth(batch, subject.dtype)
    return expected.loss, expected.grad if grad else None


def _scattered(subject: Subject, batch: Batch) -> Iterator[tuple[str, CallArrays]]:
    """Yield the same batch in arrays that are views of others, with the name of the layout."""
    plain = subject.inputs(batch)
    xp = namespace_of(plain.logits)
    turned = subject.logits(batch.logits.transpose(1, 0, 2))
    yield "transposed logits", plain._replace(logits=xp.permute_dims(turned, (1, 0, 2)))
    doubled = subject.logits(np.repeat(batch.logits, 2, axis=2))
    yield "every other class of a wider array", plain._replace(logits=doubled[:, :, ::2])
    num_sequences, num_frames, num_classes, _ = batch.shape
    larger = np.full((num_sequences + 2, num_frames + 3, num_classes), np.nan)
    larger[1:-1, 2:-1] = batch.logits
    yield (
        "the inside of a larger array",
        plain._replace(logits=subject.logits(larger)[1:-1, 2:-1, :]),
    )
    labels = np.repeat(np.repeat(batch.labels, 2, axis=0), 2, axis=1)
    yield (
        "strided labels and lengths",
        plain._replace(
            labels=subject.array(labels)[::2, ::2],
            logit_lengths=subject.array(np.repeat(batch.logit_lengths, 3))[::3],
            label_lengths=subject.array(np.repeat(batch.label_lengths, 3))[::3],
        ),
    )


@check()
def check_time_major(subject: Subject) -> None:
    """time_major=True takes logits, and gives the gradient, as (T, N, C)."""
    batch = case("ragged")
    num_sequences, num_frames, num_classes, _ = batch.shape
    inputs = subject.inputs(batch)._replace(logits=subject.logits(batch.logits.transpose(1, 0, 2)))
    for grad in subject.with_and_without_grad:
        try:
            outcome = subject.run(
                batch,
                grad=grad,
                inputs=inputs,
                grad_shape=(num_frames, num_sequences, num_classes),
                time_major=True,
            )
        except BackendRejectedError as error:
            if subject.has(Feature.NONCONTIGUOUS):
                raise
            msg = f"doesn't declare NONCONTIGUOUS, and is rejected for it: {error}"
            raise NotApplicable(msg.splitlines()[0]) from error
        if outcome.grad is not None:
            outcome = Outcome(outcome.loss, outcome.grad.transpose(1, 0, 2))
        raise_if(right(subject)(batch, outcome))


@check(requires={Feature.HALF}, dtypes={"float16", "bfloat16"})
def check_half_precision(subject: Subject) -> None:
    """Half-precision logits are computed in float32: the loss has the digits of a float32 one."""
    batches = [case("confident for long"), case("long label"), case("many classes")]
    judge_all(subject, batches, right(subject), grad=subject.can_grad)
    if "float32" not in subject.descriptor.dtypes:
        return
    for batch in batches:
        rounded = subject.numpy(subject.logits(batch.logits)).astype(np.float64)
        single = subject.inputs(batch)._replace(logits=subject.logits(rounded, "float32"))
        wanted = subject.run(batch, grad=False, inputs=single)
        got = subject.run(batch, grad=False)
        raise_if(same(subject, batch, got, wanted, "the same logits as float32 give"))


@check(requires={Feature.TRACEABLE}, jit=True)
def check_traced(subject: Subject) -> None:
    """Compiled by the library (jit), a call gives what it gives without."""
    jit = load_target(subject.library.jit or "")
    for batch in (case("edge lengths"), case("long label")):
        inputs = subject.inputs(batch)
        for grad in subject.with_and_without_grad:
            function = ctcx.ctc_loss_and_grad if grad else ctcx.ctc_loss
            call = partial(function, blank=batch.blank, backend=subject.backend)

            def as_tuple(*arrays: Any, call: Callable[..., Any] = call) -> tuple[Any, ...]:
                result = call(*arrays)
                return tuple(result) if isinstance(result, tuple) else (result,)

            eager = subject.run(batch, grad=grad)
            with ctcx.trace() as runs:
                result = jit(as_tuple)(*inputs)
            subject.check_who_ran(runs, "loss_and_grad" if grad else "loss")
            subject.check_form(batch, inputs, result)
            got = Outcome(
                subject.numpy(result[0]).astype(np.float64),
                subject.numpy(result[1]).astype(np.float64) if grad else None,
            )
            raise_if(right(subject)(batch, got))
            raise_if(same(subject, batch, got, eager, "without jit"))
