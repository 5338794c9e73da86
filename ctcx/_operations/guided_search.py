"""The beam of a search that prefers phrases, asks a language model, or goes on where it stopped."""

from __future__ import annotations

from ctcx._operations.descriptor import Operation, ResultArray

__all__ = ["GUIDED_SEARCH"]

GUIDED_SEARCH = Operation(
    name="guided_search",
    results=(
        ResultArray(name="labels", axes="NWL", dtype="int32"),
        ResultArray(name="ends_blank", axes="NW", dtype="float64"),
        ResultArray(name="ends_label", axes="NW", dtype="float64"),
        ResultArray(name="bonus", axes="NW", dtype="float64"),
        ResultArray(name="final_bonus", axes="NW", dtype="float64"),
    ),
    labels=False,
    options=("width", "max_classes", "entries", "phrases", "model", "model_weight", "label_bonus"),
    reduced=False,
    differentiable=False,
    feature=None,
    reference="ctcx._reference.guided_search:guided_search",
    checks=("ctcx.conformance._checks.guided_search",),
    on_host=True,
)
