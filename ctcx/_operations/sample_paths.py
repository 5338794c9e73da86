"""Paths of the labels, drawn by their probabilities."""

from __future__ import annotations

from ctcx._operations.descriptor import Operation, ResultArray

__all__ = ["SAMPLE_PATHS"]

SAMPLE_PATHS = Operation(
    name="sample_paths",
    results=(ResultArray(name="states", axes="NKT", dtype="int32"),),
    options=("uniforms",),
    reduced=False,
    differentiable=False,
    feature=None,
    reference="ctcx._reference.posterior:sample_paths",
    checks=("ctcx.conformance._checks.sample_paths",),
    marks_wrong_values=False,  # they get no paths, and so do labels that no path emits
)
