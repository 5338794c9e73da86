"""The operators of PyTorch for decoders, for all that sees operators only.

They are whole calls but for layouts, as wide as there are frames, and have no derivative.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ctcx._api.beam_search import beam_search_eagerly, check_sizes
from ctcx._api.greedy import greedy_eagerly
from ctcx._api.torch_operators import TracedArguments
from ctcx._autodiff.torch_custom_ops import (
    as_passed,
    call_operator,
    define_operator,
    layout_of,
    own_memory,
)
from ctcx._inputs.options import Options, check_flag

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctcx._inputs.prepare import KernelInputs
    from ctcx._typing import Array

__all__ = [
    "beam_search_dispatched",
    "beam_search_traced",
    "greedy_dispatched",
    "greedy_traced",
    "outside_of_graphs",
]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def outside_of_graphs(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call a function that reads values, where a compiler interrupts its graph."""
    return function(*arguments, **options)


@define_operator(
    "greedy",
    "Tensor logits, Tensor logit_lengths, int blank, bool merge_repeated, str? backend, "
    "bool validate, str layout",
    arrays=2,
    results=(
        ("NT", "int32"),
        ("N", "int32"),
        ("NT", "int32"),
        ("NT", "int32"),
        ("NT", "probability"),
        ("N", "probability"),
    ),
)
def _greedy(
    logits: Array,
    logit_lengths: Array,
    blank: int,
    merge_repeated: bool,  # noqa: FBT001 - as the operator passes it
    backend: str | None,
    validate: bool,  # noqa: FBT001
    layout: str,
) -> tuple[Array, ...]:
    single, (logits,) = as_passed(layout, logits)
    options = (blank, layout == "TNC", merge_repeated, backend, validate)
    found = greedy_eagerly(logits, logit_lengths, *options, full_width=True)
    return own_memory(found, single=single)


def greedy_dispatched(
    prepared: KernelInputs,
    merge_repeated: bool,  # noqa: FBT001
    options: Options,
) -> tuple[Array, ...]:
    """Call the operator for tensors that have to go through PyTorch's dispatcher."""
    found = call_operator(
        _greedy,
        prepared,
        prepared.logits,
        prepared.logit_lengths,
        prepared.blank,
        merge_repeated,
        options.backend,
        options.validate,
        layout_of(prepared, options),
    )
    return tuple(part[0] for part in found) if prepared.single else tuple(found)


def greedy_traced(
    logits: Array,
    logit_lengths: Any,
    blank: int,
    time_major: bool,  # noqa: FBT001 - as the caller passes them on
    merge_repeated: bool,  # noqa: FBT001
    backend: str | None,
    validate: bool,  # noqa: FBT001
) -> tuple[Array, ...]:
    """Do what :func:`ctcx.ctc_greedy` does, in operations that a compiler or tracer can record."""
    check_flag("merge_repeated", merge_repeated)
    call = traced_logits(logits, logit_lengths, blank, time_major, backend, validate)
    logits, _, lengths, _ = call.arrays
    blank, _, backend, validate, layout = call.settings
    found = _greedy(logits, lengths, blank, merge_repeated, backend, validate, layout)
    return tuple(part[0] for part in found) if call.single else tuple(found)


def traced_logits(
    logits: Array,
    logit_lengths: Any,
    blank: int,
    time_major: bool,  # noqa: FBT001
    backend: str | None,
    validate: bool,  # noqa: FBT001
) -> TracedArguments:
    """Bring logits and lengths into the form of the operators; each sequence has no labels."""
    logits = logits.detach()
    shape = (0,) if logits.ndim == 2 else (logits.shape[1 if time_major else 0], 0)
    labels = logits.new_zeros(shape, dtype=torch.int64)
    options = Options(time_major, "none", "inf", backend, validate)
    return TracedArguments(logits, labels, logit_lengths, None, blank, options)


@define_operator(
    "beam_search",
    "Tensor logits, Tensor logit_lengths, int blank, int width, int top, bool exact_scores, "
    "int? max_classes, str? backend, bool validate, str layout",
    arrays=2,
    results=(
        ("NKT", "int32"),
        ("NK", "int32"),
        ("NK", "probability"),
        ("NK", "probability"),
        ("NKT", "int32"),
        ("N", "int32"),
    ),
    sizes=lambda *arguments: {"K": arguments[4]},  # top
)
def _beam_search(
    logits: Array,
    logit_lengths: Array,
    blank: int,
    width: int,
    top: int,
    exact_scores: bool,  # noqa: FBT001 - as the operator passes it
    max_classes: int | None,
    backend: str | None,
    validate: bool,  # noqa: FBT001
    layout: str,
) -> tuple[Array, ...]:
    single, (logits,) = as_passed(layout, logits)
    sizes = (width, top, exact_scores, max_classes)
    found = beam_search_eagerly(
        logits, logit_lengths, blank, layout == "TNC", *sizes, backend, validate, full_width=True
    )
    return own_memory(found, single=single)


def beam_search_dispatched(
    prepared: KernelInputs,
    sizes: dict[str, int | None],
    exact_scores: bool,  # noqa: FBT001
    options: Options,
) -> tuple[Array, ...]:
    """Call the operator for tensors that have to go through PyTorch's dispatcher."""
    found = call_operator(
        _beam_search,
        prepared,
        prepared.logits,
        prepared.logit_lengths,
        prepared.blank,
        sizes["width"],
        sizes["top"],
        exact_scores,
        sizes["max_classes"],
        options.backend,
        options.validate,
        layout_of(prepared, options),
    )
    return tuple(part[0] for part in found) if prepared.single else tuple(found)


def beam_search_traced(
    logits: Array,
    logit_lengths: Any,
    blank: int,
    time_major: bool,  # noqa: FBT001 - as the caller passes them on
    width: int,
    top: int,
    exact_scores: bool,  # noqa: FBT001
    max_classes: int | None,
    backend: str | None,
    validate: bool,  # noqa: FBT001
) -> tuple[Array, ...]:
    """Do what :func:`ctcx.ctc_beam_search` does, in operations that a compiler can record."""
    check_flag("exact_scores", exact_scores)
    sizes = check_sizes(width, top, max_classes)
    call = traced_logits(logits, logit_lengths, blank, time_major, backend, validate)
    logits, _, lengths, _ = call.arrays
    blank, _, backend, validate, layout = call.settings
    found = _beam_search(
        logits,
        lengths,
        blank,
        sizes["width"],
        sizes["top"],
        exact_scores,
        sizes["max_classes"],
        backend,
        validate,
        layout,
    )
    return tuple(part[0] for part in found) if call.single else tuple(found)
