"""The loss of each sequence and its gradient with respect to the logits."""

from __future__ import annotations

from ctcx._operations.descriptor import Operation, ResultArray
from ctcx._operations.loss import LOSS

__all__ = ["LOSS_AND_GRAD"]

LOSS_AND_GRAD = Operation(
    name="loss_and_grad",
    results=(
        ResultArray(name="loss", axes="N", dtype="loss"),
        ResultArray(name="grad", axes="NTC", dtype="logits"),
    ),
    reduced=False,
    differentiable=False,
    feature="GRAD",
    reference=LOSS.reference,
    checks=LOSS.checks,  # most of them look at both
)
