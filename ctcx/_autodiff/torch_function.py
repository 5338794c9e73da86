"""What PyTorch has to know to differentiate a call: a ``torch.autograd.Function``.

It returns losses and gradient. The backward pass multiplies the saved gradient with what comes from
above; the logits are kept too, by reference, for a second derivative.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ctcx._prepare import rebind

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctcx._autodiff.adapters import Compute
    from ctcx._descriptors import Operation
    from ctcx._prepare import Prepared
    from ctcx._typing import Array

__all__ = ["run"]


def run(operation: Operation, prepared: Prepared, compute: Compute) -> Any:
    """Compute as one operation of autograd; see `ctcx._autodiff.adapters.Adapter`."""
    logits = prepared.logits if operation == "loss" else prepared.logits.detach()
    arrays = (logits, prepared.labels, prepared.logit_lengths, prepared.label_lengths)
    result = _LossAndGrad.apply(partial(_compute, prepared, compute), *arrays)
    return result[0] if operation == "loss" else result


def _compute(prepared: Prepared, compute: Compute, *arrays: Array) -> tuple[Array, Array]:
    loss, grad = compute("loss_and_grad", rebind(prepared, *arrays))
    return loss, grad


class _LossAndGrad(torch.autograd.Function):  # type: ignore[misc, unused-ignore]
    """Losses (N,) and their gradient (N, T, C), both differentiable."""

    @staticmethod
    def forward(on: Callable[..., Any], logits: Array, *rest: Array) -> tuple[Array, Array]:
        """Call the kernel, with nothing on the tape."""
        loss, grad = on(logits.detach(), *rest)
        return loss, grad

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Array, Array]) -> None:
        """Keep what backward needs."""
        ctx.on = inputs[0]
        ctx.save_for_backward(*inputs[1:], *output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(
        ctx: Any, from_loss: Array | None, from_grad: Array | None
    ) -> tuple[Array | None, ...]:
        """Multiply each sequence's gradient with what comes from above."""
        *arrays, loss, grad = ctx.saved_tensors
        total = None
        if from_loss is not None:
            # An infeasible sequence has the gradient 0, whatever is multiplied with its infinity.
            scale = torch.where(loss.detach() == torch.inf, 0.0, from_loss)
            total = (grad * scale[:, None, None]).to(grad.dtype)
        if from_grad is not None:
            msg = "second derivatives are not there yet"
            raise NotImplementedError(msg)
        return None, total, *[None] * (len(arrays) - 1)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], on: Callable[..., Any], *arrays: Array
    ) -> tuple[tuple[Array, Array], tuple[int, int]]:
        """Compute the sequences of all members of a batch of batches as one batch."""
        size = info.batch_size
        merged = [_merge(a, dim, size) for a, dim in zip(arrays, in_dims[1:], strict=True)]
        loss, grad = _LossAndGrad.apply(on, *merged)
        return (loss.unflatten(0, (size, -1)), grad.unflatten(0, (size, -1))), (0, 0)


def _merge(array: Array, dim: int | None, size: int) -> Array:
    whole = array.expand(size, *array.shape) if dim is None else array.movedim(dim, 0)
    return whole.flatten(0, 1)
