"""The probability of each class, and of each state, at each frame, given the labels."""

from __future__ import annotations

from ctcx._operations.descriptor import Operation, ResultArray

__all__ = ["OCCUPANCIES"]

OCCUPANCIES = Operation(
    name="occupancies",
    results=(
        ResultArray(name="loss", axes="N", dtype="loss"),
        ResultArray(name="classes", axes="NTC", dtype="loss"),
        ResultArray(name="states", axes="NTP", dtype="loss", asked_by="states"),
    ),
    options=("states",),
    reduced=False,
    differentiable=False,
    feature=None,
    reference="ctcx._reference.posterior:occupancies",
    checks=("ctcx.conformance._checks.occupancies",),
)
