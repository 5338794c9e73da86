"""The operator of PyTorch for an alignment, for all that sees operators only.

It is the whole call but for layouts, and has no derivative.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ctcx._api.align import align_eagerly
from ctcx._api.torch_operators import TracedArguments
from ctcx._autodiff.torch_custom_ops import (
    as_passed,
    call_operator,
    define_operator,
    layout_of,
    own_memory,
)
from ctcx._inputs.options import Options, check_choice
from ctcx._inputs.wildcards import Wildcards

if TYPE_CHECKING:
    from ctcx._inputs.prepare import KernelInputs
    from ctcx._typing import Array

__all__ = ["dispatched", "traced"]

_ARGUMENTS = (
    "Tensor logits, Tensor labels, Tensor logit_lengths, Tensor label_lengths, int blank, "
    "str infeasible, str? backend, bool validate, str layout, int[] numbers, str[] kinds, "
    "int[] set_sizes, int[] set_classes, float[] prices, float[] free_ends"
)


@define_operator(
    "align",
    _ARGUMENTS,
    arrays=4,
    results=(
        *[("NT", "int32")] * 2,
        *[("NS", "int32")] * 2,
        ("NT", "probability"),
        ("NS", "probability"),
        ("N", "probability"),
        ("N", "bool"),
    ),
    sizes=lambda _, labels, *__: {"S": labels.shape[1]},
)
def _align(
    logits: Array,
    labels: Array,
    logit_lengths: Array,
    label_lengths: Array,
    blank: int,
    infeasible: str,
    backend: str | None,
    validate: bool,  # noqa: FBT001 - as the operator passes it
    layout: str,
    *meaning: Any,
) -> tuple[Array, ...]:
    single, arrays = as_passed(layout, logits, labels, logit_lengths, label_lengths)
    options = Options(layout == "TNC", "none", infeasible, backend, validate)
    found = align_eagerly(*arrays, blank=blank, **_unpacked(*meaning), options=options)
    return own_memory(found, single=single)


def _packed(meaning: Wildcards) -> tuple[list[Any], ...]:
    """Arguments as lists: operators take no mappings."""
    return (
        [one.number for one in meaning.all],
        [one.kind for one in meaning.all],
        [len(one.classes) for one in meaning.all],
        [number for one in meaning.all for number in one.classes],
        [one.price for one in meaning.all],
        [math.nan if price is None else price for price in meaning.ends or ()],
    )


def _unpacked(
    numbers: list[int],
    kinds: list[str],
    sizes: list[int],
    classes: list[int],
    prices: list[float],
    ends: list[float],
) -> dict[str, Any]:
    rest = iter(classes)
    sets = [[next(rest) for _ in range(size)] for size in sizes]
    return {
        "wildcards": {
            number: (some if kind == "set" else kind, price)
            for number, kind, some, price in zip(numbers, kinds, sets, prices, strict=True)
        },
        "free_ends": tuple(None if math.isnan(price) else price for price in ends) or None,
    }


def dispatched(prepared: KernelInputs, meaning: Wildcards, options: Options) -> tuple[Array, ...]:
    """Call the operator for tensors that have to go through PyTorch's dispatcher."""
    found = call_operator(
        _align,
        prepared,
        *prepared[:4],
        prepared.blank,
        options.infeasible,
        options.backend,
        options.validate,
        layout_of(prepared, options),
        *_packed(meaning),
    )
    return tuple(array[0] for array in found) if prepared.single else tuple(found)


def traced(
    logits: Array,
    labels: Any,
    logit_lengths: Any,
    label_lengths: Any,
    *,
    blank: int,
    wildcards: Any,
    free_ends: Any,
    options: Options,
) -> tuple[Array, ...]:
    """Do what :func:`ctcx.ctc_align` does, in operations that a compiler or tracer can record."""
    check_choice("infeasible", options.infeasible, ("raise", "empty"))
    meaning = Wildcards.of(wildcards, free_ends, logits.shape[-1])
    call = TracedArguments(logits.detach(), labels, logit_lengths, label_lengths, blank, options)
    found = _align(*call.arrays, *call.settings, *_packed(meaning))
    return tuple(array[0] for array in found) if call.single else tuple(found)
