"""The most probable path of the labels."""

from __future__ import annotations

from ctcx._operations.descriptor import Operation, ResultArray

__all__ = ["ALIGN"]

ALIGN = Operation(
    name="align",
    results=(
        ResultArray(name="states", axes="NT", dtype="int32"),
        ResultArray(name="log_probs", axes="NT", dtype="loss"),
    ),
    options=("extra", "ends"),
    reduced=False,
    differentiable=False,
    feature=None,
    reference="ctcx._reference.best_path:best_paths",
    checks=("ctcx.conformance._checks.align",),
)
