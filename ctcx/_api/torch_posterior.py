"""The operators of PyTorch for occupancies and sampled paths, for all that sees operators only.

As for the loss (:mod:`ctcx._api.torch_operators`), backends are selected when they run. They have
no derivative. The entropy needs none of its own: it is made of ``ctcx::loss_and_grad``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import array_api_compat.torch as xp
import torch

from ctcx._api.call import Options
from ctcx._api.posterior import check_uniforms, occupancies_of, sampled_paths_of
from ctcx._api.torch_operators import TracedArguments, differentiable_loss_and_grad
from ctcx._autodiff.torch_function import merge
from ctcx._core.entropy import entropy_from
from ctcx._errors import CTCInputError
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


@torch.library.custom_op(  # type: ignore[untyped-decorator]
    "ctcx::occupancies",
    mutates_args=(),
    schema=f"({_ARRAYS}, bool states, {_SETTINGS}) -> (Tensor, Tensor, Tensor)",
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


@_occupancies.register_fake  # type: ignore[untyped-decorator]
def _fake_occupancies(
    logits: Array,
    labels: Array,
    _logit_lengths: Array,
    _label_lengths: Array,
    states: bool,  # noqa: FBT001 - as the operator passes it
    *_: Any,
) -> tuple[Array, ...]:
    real = torch.float64 if logits.dtype == torch.float64 else torch.float32
    width = 2 * labels.shape[1] + 1 if states else 0
    shapes = (logits.shape[:1], logits.shape, (*logits.shape[:2], width))
    return tuple(logits.new_empty(shape, dtype=real) for shape in shapes)


@_occupancies.register_vmap  # type: ignore[untyped-decorator]
def _vmap_occupancies(
    info: Any, in_dims: tuple[int | None, ...], *arguments: Any
) -> tuple[tuple[Array, ...], tuple[int, ...]]:
    arrays = merge(arguments[:4], in_dims[:4], info.batch_size)
    found = _occupancies(*arrays, *arguments[4:])
    return tuple(array.unflatten(0, (info.batch_size, -1)) for array in found), (0, 0, 0)


@torch.library.custom_op(  # type: ignore[untyped-decorator]
    "ctcx::sample_paths",
    mutates_args=(),
    schema=f"({_ARRAYS}, Tensor uniforms, {_SETTINGS}) -> Tensor",
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


@_paths.register_fake  # type: ignore[untyped-decorator]
def _fake_paths(
    _logits: Array,
    _labels: Array,
    _logit_lengths: Array,
    _label_lengths: Array,
    uniforms: Array,
    *_: Any,
) -> Array:
    return uniforms.new_empty(uniforms.shape, dtype=torch.int32)


@_paths.register_vmap  # type: ignore[untyped-decorator]
def _vmap_paths(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Array, int]:
    arrays = merge(arguments[:5], in_dims[:5], info.batch_size)
    return _paths(*arrays, *arguments[5:]).unflatten(0, (info.batch_size, -1)), 0


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
    layout = "TC" if prepared.single else "TNC" if options.time_major else "NTC"
    return prepared.blank, options.backend, options.validate, layout


def dispatched_occupancies(
    prepared: KernelInputs, options: Options, *, states: bool
) -> tuple[Array, ...]:
    """Call the operator for tensors that have to go through PyTorch's dispatcher."""
    found = _occupancies(*prepared[:4], states, *_settings(prepared, options))
    return tuple(found if states else found[:2])


def dispatched_paths(prepared: KernelInputs, uniforms: Array, options: Options) -> Array:
    """Call the operator for tensors that have to go through PyTorch's dispatcher."""
    return _paths(*prepared[:4], uniforms, *_settings(prepared, options))


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
