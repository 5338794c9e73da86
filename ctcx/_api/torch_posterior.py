"""The operators of PyTorch for occupancies and sampled paths, for all that sees operators only.

They have no derivative. The entropy needs none of its own: it is made of ``ctcx::loss_and_grad``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import array_api_compat.torch as xp
import torch

from ctcx._api.posterior import check_uniforms, occupancies_of, sampled_paths_of
from ctcx._api.torch_operators import TracedArguments, differentiable_loss_and_grad
from ctcx._autodiff.torch_custom_ops import call_operator, define_operator, layout_of
from ctcx._core.entropy import entropy_from
from ctcx._errors import CTCInputError
from ctcx._inputs.options import Options
from ctcx._inputs.prepare import prepare

if TYPE_CHECKING:
    from ctcx._inputs.prepare import KernelInputs
    from ctcx._typing import Array

__all__ = [
    "dispatched_occupancies",
    "dispatched_paths",
    "traced_entropy",
    "traced_occupancies",
    "traced_paths",
]

_ARRAYS = "Tensor logits, Tensor labels, Tensor logit_lengths, Tensor label_lengths"
_SETTINGS = "int blank, str? backend, bool validate, str layout"


def _states_asked_for(_: Array, labels: Array, *arguments: Any) -> dict[str, Any]:
    return {"P": 2 * labels.shape[1] + 1 if arguments[2] else 0}


@define_operator(
    "occupancies",
    f"{_ARRAYS}, bool states, {_SETTINGS}",
    arrays=4,
    results=(("N", "probability"), ("NTC", "probability"), ("NTP", "probability")),
    sizes=_states_asked_for,
)
def _occupancies(
    logits: Array,
    labels: Array,
    logit_lengths: Array,
    label_lengths: Array,
    states: bool,  # noqa: FBT001 - as the operator passes it
    *settings: Any,
) -> tuple[Array, ...]:
    prepared, options = _prepared(logits, labels, logit_lengths, label_lengths, *settings)
    loss, classes, *each = occupancies_of(prepared, options, states=states)
    return loss, classes, each[0] if each else loss.new_empty((*logits.shape[:2], 0))


@define_operator(
    "sample_paths",
    f"{_ARRAYS}, Tensor uniforms, {_SETTINGS}",
    arrays=5,
    results=(("NKT", "int32"),),
    sizes=lambda *arguments: {"K": arguments[4].shape[1]},
)
def _paths(
    logits: Array,
    labels: Array,
    logit_lengths: Array,
    label_lengths: Array,
    uniforms: Array,
    *settings: Any,
) -> Array:
    prepared, options = _prepared(logits, labels, logit_lengths, label_lengths, *settings)
    single = prepared.single
    check_uniforms(uniforms[0] if single else uniforms, prepared.logits, single=single)
    return sampled_paths_of(prepared, uniforms, options)


def _prepared(
    logits: Array,
    labels: Array,
    logit_lengths: Array,
    label_lengths: Array,
    blank: int,
    backend: str | None,
    validate: bool,  # noqa: FBT001 - as the operator passes it
    layout: str,
) -> tuple[KernelInputs, Options]:
    """Prepare arrays (N, T, C), ...; ``layout`` is that of the caller, for error messages."""
    prepared = prepare(logits, labels, logit_lengths, label_lengths, blank, time_major=False)
    single = layout == "TC" and logits.shape[0] == 1  # under vmap there are more
    options = Options(layout == "TNC", "none", "inf", backend, validate)
    return prepared._replace(single=single), options


def _settings(prepared: KernelInputs, options: Options) -> tuple[Any, ...]:
    return prepared.blank, options.backend, options.validate, layout_of(prepared, options)


def dispatched_occupancies(
    prepared: KernelInputs, options: Options, *, states: bool
) -> tuple[Array, ...]:
    """Call the operator for tensors that have to go through PyTorch's dispatcher."""
    settings = _settings(prepared, options)
    found = call_operator(_occupancies, prepared, *prepared[:4], states, *settings)
    return tuple(found if states else found[:2])


def dispatched_paths(prepared: KernelInputs, uniforms: Array, options: Options) -> Array:
    """Call the operator for tensors that have to go through PyTorch's dispatcher."""
    settings = _settings(prepared, options)
    states: Array = call_operator(_paths, prepared, *prepared[:4], uniforms, *settings)
    return states


def traced_occupancies(
    logits: Array,
    labels: Any,
    logit_lengths: Any,
    label_lengths: Any,
    *,
    blank: int,
    states: bool,
    options: Options,
) -> tuple[Any, ...]:
    """Do what :func:`ctcx.ctc_occupancies` does, in operations that can be recorded."""
    call = TracedArguments(logits.detach(), labels, logit_lengths, label_lengths, blank, options)
    blank, _, *settings = call.settings
    loss, classes, each = _occupancies(*call.arrays, states, blank, *settings)
    feasible = loss != torch.inf
    if call.single:
        return classes[0], each[0] if states else None, loss[0], feasible[0]
    classes = classes.permute(1, 0, 2) if options.time_major else classes
    return classes, each if states else None, loss, feasible


def traced_entropy(
    logits: Array,
    labels: Any,
    logit_lengths: Any,
    label_lengths: Any,
    *,
    blank: int,
    options: Options,
) -> Array:
    """Do what :func:`ctcx.ctc_entropy` does, in operations that can be recorded."""
    if logits.dtype in {torch.float16, torch.bfloat16}:
        logits = logits.float()
    call = TracedArguments(logits, labels, logit_lengths, label_lengths, blank, options)
    logits, _, lengths, _ = call.arrays
    loss, grad = differentiable_loss_and_grad(call)
    inside = torch.arange(logits.shape[1], device=logits.device)[None, :] < lengths[:, None]
    entropy = entropy_from(xp, loss, grad, logits, inside)
    return entropy[0] if call.single else entropy


def traced_paths(
    logits: Array,
    labels: Any,
    uniforms: Array,
    logit_lengths: Any,
    label_lengths: Any,
    *,
    blank: int,
    options: Options,
) -> Array:
    """Do what :func:`ctcx.ctc_sample_paths` does, in operations that can be recorded."""
    call = TracedArguments(logits.detach(), labels, logit_lengths, label_lengths, blank, options)
    if not isinstance(uniforms, torch.Tensor):  # else the operator looks at it
        msg = (
            f"uniforms must be an array of torch, as the logits are; got {type(uniforms).__name__}"
        )
        raise CTCInputError(msg, argument="uniforms")
    blank, _, *settings = call.settings
    uniforms = uniforms.detach()
    states = _paths(*call.arrays, uniforms[None] if call.single else uniforms, blank, *settings)
    return states[0] if call.single else states
