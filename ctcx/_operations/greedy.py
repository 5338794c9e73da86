"""The most probable class of each frame."""

from __future__ import annotations

from ctcx._operations.descriptor import Operation, ResultArray

__all__ = ["GREEDY"]

GREEDY = Operation(
    name="greedy",
    results=(
        ResultArray(name="classes", axes="NT", dtype="int32"),
        ResultArray(name="log_probs", axes="NT", dtype="loss"),
    ),
    labels=False,
    reduced=False,
    differentiable=False,
    feature=None,
    reference="ctcx._reference.decoding:best_classes",
    checks=("ctcx.conformance._checks.greedy",),
)
