"""The operators ``ctcx::loss`` and ``ctcx::loss_and_grad``: a kernel's call, as PyTorch sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ctcx._arrays.tensor_forms import FUNCTIONAL
from ctcx._autodiff.torch_custom_ops import as_passed, call_operator, define_operator, layout_of
from ctcx._autodiff.torch_function import from_above
from ctcx._dispatch.compute import compute_losses
from ctcx._errors import CTCInputError
from ctcx._inputs.concatenated import padded
from ctcx._inputs.options import Options, check_options
from ctcx._inputs.prepare import prepare

if TYPE_CHECKING:
    from ctcx._inputs.prepare import KernelInputs
    from ctcx._typing import Array

__all__ = ["check_devices", "dispatched", "loss", "loss_and_grad"]

# ``labels`` are (N, S), or (sum of label_lengths,) one sequence after the other.
_ARGUMENTS = (
    "Tensor logits, Tensor labels, Tensor logit_lengths, Tensor label_lengths, int blank, "
    "str infeasible, str? backend, bool validate, str layout"
)


def _no_more_sizes(logits: Array, *arguments: Any) -> dict[str, Any]:
    check_devices(logits, *arguments[:3])
    return {}


@define_operator(
    "loss", _ARGUMENTS, arrays=4, results=(("N", "probability"),), sizes=_no_more_sizes
)
def loss(*arguments: Any) -> Array:
    """Losses (N,)."""
    found: Array = _run("loss", *arguments)
    return found


@define_operator(
    "loss_and_grad",
    _ARGUMENTS,
    arrays=4,
    results=(("N", "probability"), ("NTC", "logits")),
    sizes=_no_more_sizes,
)
def loss_and_grad(*arguments: Any) -> tuple[Array, Array]:
    """Losses (N,) and gradient (N, T, C)."""
    losses, grad = _run("loss_and_grad", *arguments)
    return losses, grad.contiguous()


def _run(
    operation: str,
    logits: Array,
    labels: Array,
    logit_lengths: Array,
    label_lengths: Array,
    blank: int,
    infeasible: str,
    backend: str | None,
    validate: bool,  # noqa: FBT001 - as the operator passes it
    layout: str,
) -> Any:
    _refuse_tangents(logits)
    if labels.ndim == 1:
        labels = padded(labels, label_lengths)
    arrays = logits.detach(), labels, logit_lengths, label_lengths
    _, (logits, labels, logit_lengths, label_lengths) = as_passed(layout, *arrays)
    options = Options(layout == "TNC", "none", infeasible, backend, validate)
    check_options(options)
    prepared = prepare(
        logits, labels, logit_lengths, label_lengths, blank, time_major=options.time_major
    )
    return compute_losses(operation, prepared, options)


def _refuse_tangents(logits: Array) -> None:
    """Refuse forward mode, of which PyTorch's operators know nothing: tangents would be lost."""
    forward_ad = torch.autograd.forward_ad
    if forward_ad._current_level < 0:  # noqa: SLF001 - at once, as each call pays
        return
    with torch.inference_mode(mode=False):  # in which no tensor can be unpacked
        if forward_ad.unpack_dual(logits).tangent is None:
            return
    msg = (
        "the operators that torch.compile and torch.export record have no derivative in forward "
        "mode: call ctcx outside of the compiled function"
    )
    raise NotImplementedError(msg)


def check_devices(logits: Array, *integers: Array) -> None:
    """Refuse labels and lengths that are elsewhere: PyTorch would take them for fake ones."""
    names = ("labels", "logit_lengths", "label_lengths")
    for name, tensor in zip(names, integers, strict=True):
        if tensor.device != logits.device:
            msg = (
                f"{name} is on device {tensor.device}, but the logits are on {logits.device}: "
                f"move it there, or pass a NumPy array or a list"
            )
            raise CTCInputError(msg, argument=name)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Array, Array]) -> None:
    ctx.blank = inputs[4]
    ctx.save_for_backward(*output, *inputs[:4])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, from_loss: Array | None, from_grad: Array | None) -> tuple[Any, ...]:
    losses, grad, logits, labels, logit_lengths, label_lengths = ctx.saved_tensors
    weights = None
    if from_loss is not None:
        weights = torch.where(losses.detach() == torch.inf, 0.0, from_loss)
    if from_grad is not None and labels.ndim == 1:
        labels = padded(labels, label_lengths)
    saved = (grad, logits, labels, logit_lengths, label_lengths)
    return from_above(saved, ctx.blank, weights, from_grad), *[None] * 8


loss_and_grad.register_autograd(_backward, setup_context=_keep)


def dispatched(operation: str, options: Options, prepared: KernelInputs) -> Any:
    """Call the operator for what a kernel would compute, as :func:`call_operator` does."""
    arguments = (
        *prepared[:4],
        prepared.blank,
        options.infeasible,
        options.backend,
        options.validate,
        layout_of(prepared, options),
    )
    differentiable = prepared.facts.form & FUNCTIONAL and torch.is_grad_enabled()
    if operation == "loss" and not differentiable:
        return call_operator(loss, prepared, *arguments)
    losses, grad = call_operator(loss_and_grad, prepared, *arguments)
    return losses if operation == "loss" else (losses, grad)
