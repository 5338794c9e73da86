"""The operator of PyTorch for an alignment, for all that sees operators only.

As for the loss (:mod:`ctcx._api.torch_operators`), backends are selected when it runs. It is the
whole call but for layouts, and has no derivative.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ctcx._api.align import align_eagerly
from ctcx._api.call import Options, check_choice
from ctcx._api.torch_operators import TracedArguments
from ctcx._autodiff.torch_function import merge
from ctcx._inputs.wildcards import Wildcards

if TYPE_CHECKING:
    from ctcx._inputs.prepare import KernelInputs
    from ctcx._typing import Array

__all__ = ["dispatched", "traced"]

_SCHEMA = (
    "(Tensor logits, Tensor labels, Tensor logit_lengths, Tensor label_lengths, int blank, "
    "str infeasible, str? backend, bool validate, str layout, int[] numbers, str[] kinds, "
    "int[] set_sizes, int[] set_classes, float[] prices, float[] free_ends) -> ("
    + ", ".join(["Tensor"] * 8)
    + ")"
)


@torch.library.custom_op("ctcx::align", mutates_args=(), schema=_SCHEMA)  # type: ignore[untyped-decorator]
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
    arrays = [logits, labels, logit_lengths, label_lengths]
    single = layout == "TC" and logits.shape[0] == 1  # under vmap there are more
    if single:
        arrays = [array[0] for array in arrays]
    elif layout == "TNC":
        arrays[0] = logits.permute(1, 0, 2)
    found = align_eagerly(
        *arrays,
        blank=blank,
        **_unpacked(*meaning),
        options=Options(layout == "TNC", "none", infeasible, backend, validate),
    )
    # An operator's results must not share memory.
    return tuple((array[None] if single else array).clone() for array in found)


@_align.register_fake  # type: ignore[untyped-decorator]
def _fake(logits: Array, labels: Array, *_: Any) -> tuple[Array, ...]:
    rows, frames, _ = logits.shape
    width = labels.shape[1]
    real = torch.float64 if logits.dtype == torch.float64 else torch.float32
    per_frame, per_label = (rows, frames), (rows, width)
    shapes = (
        *((per_frame, torch.int32),) * 2,
        *((per_label, torch.int32),) * 2,
        (per_frame, real),
        (per_label, real),
        ((rows,), real),
        ((rows,), torch.bool),
    )
    return tuple(logits.new_empty(shape, dtype=dtype) for shape, dtype in shapes)


@_align.register_vmap  # type: ignore[untyped-decorator]
def _vmap(
    info: Any, in_dims: tuple[int | None, ...], *arguments: Any
) -> tuple[tuple[Array, ...], tuple[int, ...]]:
    arrays = merge(arguments[:4], in_dims[:4], info.batch_size)
    found = _align(*arrays, *arguments[4:])
    return tuple(array.unflatten(0, (info.batch_size, -1)) for array in found), (0,) * 8


def _packed(meaning: Wildcards) -> tuple[list[Any], ...]:
    """Arguments as lists: operators take no mappings."""
    return (
        [one.number for one in meaning.all],
        [one.kind for one in meaning.all],
        [len(one.classes) for one in meaning.all],
        [number for one in meaning.all for number in one.classes],
        [one.price for one in meaning.all],
        [] if meaning.ends is None else list(meaning.ends),
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
        "free_ends": tuple(ends) if ends else None,
    }


def dispatched(prepared: KernelInputs, meaning: Wildcards, options: Options) -> tuple[Array, ...]:
    """Call the operator for tensors that have to go through PyTorch's dispatcher."""
    layout = "TC" if prepared.single else "TNC" if options.time_major else "NTC"
    found = _align(
        *prepared[:4],
        prepared.blank,
        options.infeasible,
        options.backend,
        options.validate,
        layout,
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
