"""The most probable labels, as far as a beam of prefixes finds them."""

from __future__ import annotations

from ctcx._operations.descriptor import Operation, ResultArray

__all__ = ["BEAM_SEARCH"]

BEAM_SEARCH = Operation(
    name="beam_search",
    results=(
        ResultArray(name="labels", axes="NKT", dtype="int32"),
        ResultArray(name="log_probs", axes="NK", dtype="loss"),
    ),
    labels=False,
    options=("width", "top", "max_classes"),
    reduced=False,
    differentiable=False,
    feature=None,
    reference="ctcx._reference.decoding:prefix_beams",
    checks=("ctcx.conformance._checks.beam_search",),
)
