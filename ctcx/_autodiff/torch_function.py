"""What PyTorch has to know to differentiate a call: one ``torch.autograd.Function`` a derivative.

The first returns losses and gradient, and both are differentiable. It keeps the gradient, and the
logits by reference, for a second derivative.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ctcx._autodiff.adapters import is_torch_func
from ctcx._autodiff.unit import hessian_times

if TYPE_CHECKING:
    from ctcx._autodiff.unit import Unit
    from ctcx._descriptors import Operation
    from ctcx._typing import Array

__all__ = ["first", "from_above", "merge", "second"]


def first(operation: Operation, unit: Unit, logits: Array, *rest: Array) -> Any:
    """See :class:`ctcx._autodiff.adapters.Adapter`."""
    function = _LossAndGrad if is_torch_func(logits, *rest) else _Direct
    if operation == "loss":
        return function.apply(unit, logits, *rest)[0]
    return function.apply(unit, logits.detach(), *rest)


def second(blank: int, vector: Array, grad: Array, *arrays: Array) -> Array:
    """See :class:`ctcx._autodiff.adapters.Adapter`."""
    return _HessianTimes.apply(blank, vector, grad, *arrays)


def from_above(
    ctx: Any, blank: int, from_loss: Array | None, from_grad: Array | None
) -> Array | None:
    """Turn what comes from above into the derivative with respect to the logits (N, T, C).

    ``ctx`` has saved losses, gradient, logits and the rest.
    """
    loss, grad, *arrays = ctx.saved_tensors
    total = None
    if from_loss is not None:
        # An infeasible sequence has the gradient 0, whatever is multiplied with its infinite loss.
        weights = torch.where(loss.detach() == torch.inf, 0.0, from_loss)
        total = (grad * weights[:, None, None]).to(grad.dtype)
    if from_grad is not None:
        curvature = second(blank, from_grad, grad, *arrays)
        total = curvature if total is None else total + curvature
    return total


class _LossAndGrad(torch.autograd.Function):  # type: ignore[misc, unused-ignore]
    """Losses (N,) and their gradient (N, T, C)."""

    @staticmethod
    def forward(unit: Unit, logits: Array, *rest: Array) -> tuple[Array, Array]:
        """Call the kernel, with nothing on the tape."""
        loss, grad = unit("loss_and_grad", logits.detach(), *rest)
        return loss, grad

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Array, Array]) -> None:
        """Keep what derivatives need."""
        ctx.unit = inputs[0]
        ctx.save_for_backward(*output, *inputs[1:])
        ctx.save_for_forward(*output, *inputs[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(
        ctx: Any, from_loss: Array | None, from_grad: Array | None
    ) -> tuple[Array | None, ...]:
        """Multiply by the gradient, and by second derivatives where they are asked for."""
        return None, from_above(ctx, ctx.unit.blank, from_loss, from_grad), None, None, None

    @staticmethod
    def jvp(ctx: Any, _unit: None, tangent: Array, *_integers: None) -> tuple[Array, Array]:
        """Directional derivatives of losses and gradient."""
        loss, grad, *arrays = ctx.saved_tensors
        slope = (grad.to(loss.dtype) * tangent).sum((1, 2))
        slope = torch.where(loss == torch.inf, 0.0, slope)
        return slope, second(ctx.unit.blank, tangent, grad, *arrays)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], unit: Unit, *arrays: Array
    ) -> tuple[tuple[Array, Array], tuple[int, int]]:
        """Compute the sequences of all members of a batch of batches as one batch."""
        loss, grad = _LossAndGrad.apply(unit, *merge(arrays, in_dims[1:], info.batch_size))
        sizes = (info.batch_size, -1)
        return (loss.unflatten(0, sizes), grad.unflatten(0, sizes)), (0, 0)


class _Direct(_LossAndGrad):
    """The same in the form that torch.func can't take, and that costs 20 microseconds less."""

    setup_context = staticmethod(torch.autograd.Function.setup_context)

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, unit: Unit, *arrays: Array
    ) -> tuple[Array, Array]:
        """Call the kernel, and keep what derivatives need."""
        output = _LossAndGrad.forward(unit, *arrays)
        _LossAndGrad.setup_context(ctx, (unit, *arrays), output)
        return output


class _HessianTimes(torch.autograd.Function):  # type: ignore[misc, unused-ignore]
    """Second derivatives of the losses times a vector, (N, T, C): linear in the vector."""

    @staticmethod
    def forward(blank: int, *arrays: Array) -> Array:
        """Call the core, with nothing on the tape."""
        return hessian_times(blank, *(array.detach() for array in arrays))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Array) -> None:  # noqa: ARG004
        """Keep what the same product with another vector needs."""
        ctx.blank = inputs[0]
        ctx.save_for_backward(*inputs[2:])
        ctx.save_for_forward(*inputs[2:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, above: Array | None) -> tuple[Array | None, ...]:
        """Multiply by the same matrix: it is symmetric."""
        _refuse_thirds(depends=any(ctx.needs_input_grad[2:]))
        product = None if above is None else second(ctx.blank, above, *ctx.saved_tensors)
        return None, product, None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, _blank: None, tangent: Array, *others: Array | None) -> Array:
        """Multiply by the same matrix."""
        _refuse_thirds(depends=any(other is not None for other in others))
        return second(ctx.blank, tangent, *ctx.saved_tensors)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], blank: int, *arrays: Array
    ) -> tuple[Array, int]:
        """As for the first derivative."""
        product = second(blank, *merge(arrays, in_dims[1:], info.batch_size))
        return product.unflatten(0, (info.batch_size, -1)), 0


def _refuse_thirds(*, depends: bool) -> None:
    if depends:
        msg = "ctcx has no third derivatives of the CTC loss"
        raise NotImplementedError(msg)


def merge(arrays: tuple[Array, ...], dims: tuple[int | None, ...], size: int) -> list[Array]:
    """Sequences of all members of a batch of batches, one after the other."""
    whole = (
        array.expand(size, *array.shape) if dim is None else array.movedim(dim, 0)
        for array, dim in zip(arrays, dims, strict=True)
    )
    return [array.flatten(0, 1) for array in whole]
