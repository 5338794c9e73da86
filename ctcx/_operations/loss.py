"""The loss of each sequence."""

from __future__ import annotations

from ctcx._operations.descriptor import Operation, ResultArray

__all__ = ["LOSS"]

_CHECKS = "ctcx.conformance._checks"

LOSS = Operation(
    name="loss",
    results=(ResultArray(name="loss", axes="N", dtype="loss"),),
    reduced=True,
    differentiable=True,
    feature=None,
    reference="ctcx._reference.oracle:reference",
    checks=(
        f"{_CHECKS}.declared",
        f"{_CHECKS}.delegation",
        f"{_CHECKS}.accuracy",
        f"{_CHECKS}.edge_cases",
        f"{_CHECKS}.batching",
        f"{_CHECKS}.array_forms",
        f"{_CHECKS}.shortcuts",
        f"{_CHECKS}.calls",
        f"{_CHECKS}.lazy_calls",
        f"{_CHECKS}.scale",
        f"{_CHECKS}.drawn_problems",
    ),
)
