"""Calls on arrays that hold no values yet: what is said at once, and what is said later."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ctcx._errors import CTCInputError
from ctcx._plugins.backend import Feature
from ctcx.conformance._checks.judging import raise_if
from ctcx.conformance._checks.registry import check
from ctcx.conformance.cases import case

if TYPE_CHECKING:
    from ctcx.conformance._subject import CallArrays, Subject

__all__ = ["check_lazy_calls"]


@check(requires={Feature.LAZY})
def check_lazy_calls(subject: Subject) -> None:
    """A wrong shape is refused at once; a wrong value when computed, with the right sequence."""
    batch = case("ragged")
    n = int((batch.label_lengths > 0).nonzero()[0][-1])
    labels = batch.labels.copy()
    labels[n, 0] = batch.shape[2]
    wrong = subject.inputs(replace(batch, labels=labels))
    faults = []
    for grad in subject.with_and_without_grad:
        what = "ctc_loss_and_grad" if grad else "ctc_loss"
        short = wrong._replace(labels=subject.array(batch.labels[1:]))
        if _raised(subject, short, grad=grad, blank=batch.blank) is None:
            faults.append(f"{what} doesn't refuse labels of fewer sequences before it is computed")
        if error := _raised(subject, wrong, grad=grad, blank=batch.blank):
            faults.append(f"{what} looks at values before its result is computed: {error}")
            continue
        result = subject.call(wrong, grad=grad, blank=batch.blank)
        try:
            subject.numpy(result[0])
        except CTCInputError as error:
            if error.sequence != n:
                faults.append(f"{what}: sequence {n} is wrong, the error names {error.sequence}")
        else:
            faults.append(f"{what} doesn't report a wrong label of sequence {n}")
    raise_if(faults)


def _raised(
    subject: Subject, inputs: CallArrays, *, grad: bool, blank: int
) -> CTCInputError | None:
    """Return what the call raises before its result is computed."""
    try:
        subject.call(inputs, grad=grad, blank=blank)
    except CTCInputError as error:
        return error
    return None
