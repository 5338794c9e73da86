"""What PyTorch has to know to differentiate a call: one ``torch.autograd.Function`` a derivative.

The first returns losses and gradient, and both are differentiable. It keeps the gradient, and the
logits by reference, for a second derivative.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from array_api_compat import torch as torch_compat

from ctcx._arrays.facts import can_be_written
from ctcx._arrays.tensor_forms import (
    BATCHED,
    TRANSFORMED,
    check_held,
    form_of_modes,
    forms_of,
    never_recorded,
)
from ctcx._autodiff.operation import hessian_times
from ctcx._dispatch.results import few_or_array
from ctcx._reduction import PLAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ctcx._autodiff.operation import CallOperation
    from ctcx._reduction import Reduction
    from ctcx._typing import Array

__all__ = ["from_above", "loss", "loss_and_grad", "loss_of_found", "merge", "second"]


def loss(unit: CallOperation, reduction: Reduction, logits: Array, *rest: Array) -> Array:
    """See :class:`ctcx._autodiff.adapters.Adapter`."""
    if unit.facts_only.facts.form & TRANSFORMED or _has_tangent(logits):
        if _forward_levels() > 1:
            losses = _Loss.apply(unit, logits, *rest)
        else:
            losses, _ = _LossWithGrad.apply(unit, logits, *rest)
        divisor = reduction.divisor(unit.xp, rest[2], losses.dtype)
        return reduction.value(unit.xp, losses, divisor)
    weights = _weights_of(reduction, logits, rest[2])
    found = unit.as_called("loss_and_grad", logits.detach(), *rest, weights=weights)
    return _Direct.apply(lambda *_: unit, reduction, found, logits, *rest)


def loss_of_found(
    call: Callable[..., CallOperation],
    reduction: Reduction,
    found: tuple[Array, Array],
    arrays: tuple[Array, Array, Array, Array],
) -> Array:
    """Return the reduced loss of plain tensors, of which losses and weighted gradient were found.

    ``call``, given the arrays, says what has been computed.
    """
    # What Function.apply ends in where no transformation of torch.func goes on.
    apply: Any = super(torch.autograd.Function, _Direct).apply
    loss: Array = apply(call, reduction, found, *arrays)
    return loss


def loss_and_grad(unit: CallOperation, logits: Array, *rest: Array) -> tuple[Array, Array]:
    """See :class:`ctcx._autodiff.adapters.Adapter`."""
    losses, grad = _LossWithGrad.apply(unit, logits, *rest)
    return losses, grad


@never_recorded  # compiled autograd would look into it
def second(blank: int, vector: Array, grad: Array, *arrays: Array) -> Array:
    """See :class:`ctcx._autodiff.adapters.Adapter`."""
    if forms_of(vector) & BATCHED:
        return _second_of_batch(blank, vector, grad, *arrays)
    return _HessianTimes.apply(blank, vector, grad, *arrays)


def _second_of_batch(blank: int, vector: Array, *arrays: Array) -> Array:
    """Do the same for vectors of the vmap of ``torch.autograd.functional``, as one batch.

    It is older than torch.func and doesn't know :class:`torch.autograd.Function`.
    """
    level = torch._C._vmapmode_increment_nesting() - 1  # noqa: SLF001 - there is no other way
    torch._C._vmapmode_decrement_nesting()  # noqa: SLF001
    vectors = torch._remove_batch_dim(vector, level, 1, 0)  # noqa: SLF001
    size, *_ = vectors.shape
    dims = (0, *[None] * len(arrays))
    product = second(blank, *merge((vectors, *arrays), dims, size))
    return torch._add_batch_dim(product.unflatten(0, (size, -1)), 0, level)  # noqa: SLF001


def from_above(
    saved: tuple[Array, ...], blank: int, weights: Array | None, from_grad: Array | None
) -> Array | None:
    """Turn what comes from above into the derivative with respect to the logits (N, T, C).

    ``saved`` are the gradient, logits and the rest; ``weights`` (N,) the derivatives with respect
    to the losses, or () if it is the same for all.
    """
    grad, *arrays = saved
    total = None
    if weights is not None:
        total = grad * (weights[:, None, None] if weights.ndim else weights)
        if total.dtype != grad.dtype:
            total = total.to(grad.dtype)
    if from_grad is not None:
        curvature = second(blank, from_grad, grad, *arrays)
        total = curvature if total is None else total + curvature
    return total


class _LossWithGrad(torch.autograd.Function):  # type: ignore[misc, unused-ignore]
    """Losses (N,) and their gradient (N, T, C)."""

    @staticmethod
    def forward(unit: CallOperation, logits: Array, *rest: Array) -> tuple[Array, Array]:
        """Call the kernel, with nothing on the tape."""
        losses, grad = unit("loss_and_grad", logits.detach(), *rest)
        return losses, grad

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Array, Array]) -> None:
        """Keep what derivatives need."""
        _keep(ctx, inputs[0], (*output, *inputs[1:]))

    @staticmethod
    def backward(
        ctx: Any, from_value: Array | None, from_grad: Array | None
    ) -> tuple[Array | None, ...]:
        """Multiply by the gradient, and by second derivatives where they are asked for."""
        losses, *saved = _saved(ctx)
        weights = None
        if from_value is not None:
            weights = PLAIN.spread(ctx.unit.xp, from_value, losses.detach(), 1)
        total = from_above(tuple(saved), ctx.unit.blank, weights, from_grad)
        return None, total, None, None, None

    @staticmethod
    def jvp(ctx: Any, _unit: None, tangent: Array, *_integers: None) -> tuple[Array, Array]:
        """Directional derivatives of losses and gradient."""
        with _outer_levels(ctx.saved_tensors) as (losses, grad, *arrays):
            return _slopes(losses, grad, tangent), second(ctx.unit.blank, tangent, grad, *arrays)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], unit: CallOperation, *arrays: Array
    ) -> tuple[tuple[Array, Array], tuple[int, int]]:
        """Compute the sequences of all members of a batch of batches as one batch."""
        losses, grad = _LossWithGrad.apply(unit, *merge(arrays, in_dims[1:], info.batch_size))
        sizes = (info.batch_size, -1)
        return (losses.unflatten(0, sizes), grad.unflatten(0, sizes)), (0, 0)


class _Loss(torch.autograd.Function):  # type: ignore[misc, unused-ignore]
    """Losses (N,) alone, for forward mode inside of forward mode.

    There each derivative of all that a Function returns is computed, needed or not. That of the
    gradient would be a third derivative of the losses.
    """

    @staticmethod
    def forward(unit: CallOperation, logits: Array, *rest: Array) -> Array:
        """Call the kernel, with nothing on the tape."""
        return unit("loss", logits.detach(), *rest)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Array) -> None:
        """Keep what derivatives need."""
        _keep(ctx, inputs[0], (output, *inputs[1:]))

    @staticmethod
    def backward(ctx: Any, from_value: Array | None) -> tuple[Array | None, ...]:
        """Multiply by the gradient, which is computed now."""
        losses, *arrays = _saved(ctx)
        _, grad = _LossWithGrad.apply(ctx.unit, *arrays)
        weights = PLAIN.spread(ctx.unit.xp, from_value, losses.detach(), 1)
        total = from_above((grad, *arrays), ctx.unit.blank, weights, None)
        return None, total, None, None, None

    @staticmethod
    def jvp(ctx: Any, _unit: None, tangent: Array, *_integers: None) -> Array:
        """Multiply by the gradient, which is computed now."""
        with _outer_levels(ctx.saved_tensors) as (losses, *arrays):
            _, grad = _LossWithGrad.apply(ctx.unit, *arrays)
            return _slopes(losses, grad, tangent)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], unit: CallOperation, *arrays: Array
    ) -> tuple[Array, int]:
        """As for :class:`_LossWithGrad`."""
        losses = _Loss.apply(unit, *merge(arrays, in_dims[1:], info.batch_size))
        return losses.unflatten(0, (info.batch_size, -1)), 0


@contextmanager
def _outer_levels(saved: tuple[Array, ...]) -> Iterator[tuple[Array, ...]]:
    """Let outer transformations in forward mode see what the rule of an inner one computes.

    PyTorch switches forward mode off while it runs a rule, so that outer ones would get zeros. Give
    what was saved, without tangents of the inner level.
    """
    if _forward_levels() < 2:
        yield saved
        return
    forward_ad = torch.autograd.forward_ad
    with forward_ad._set_fwd_grad_enabled(True):  # noqa: SLF001 - there is no public way
        yield tuple(forward_ad.unpack_dual(array).primal for array in saved)


def _has_tangent(array: Array) -> bool:
    """Whether forward mode goes on, by ``torch.autograd.forward_ad``."""
    return torch.autograd.forward_ad.unpack_dual(array).tangent is not None


def _forward_levels() -> int:
    """How many transformations in forward mode are going on, one in the other."""
    functorch = torch._C._functorch  # noqa: SLF001 - there is no public way
    going_on = functorch.get_interpreter_stack() or ()
    return sum(each.key() == functorch.TransformType.Jvp for each in going_on)


class _Direct(torch.autograd.Function):  # type: ignore[misc, unused-ignore]
    """Reduced loss, in the form that torch.func and forward mode can't take: the common case.

    It costs less, and so does one operation for PyTorch to know instead of one for each step of the
    reduction. The first backward gives the gradient's own memory away, scaled in place if need be,
    which PyTorch then keeps as ``.grad``: nothing of that size is made or copied. Whoever comes
    later computes the gradient again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        call: Callable[..., CallOperation],
        reduction: Reduction,
        found: tuple[Array, Array],
        *arrays: Array,
    ) -> Array:
        """Reduce losses that were found, and keep what derivatives need."""
        losses, ctx.grad = found
        divisor = reduction.divisor(torch_compat, arrays[3], losses.dtype)
        ctx.call, ctx.reduction = call, reduction
        ctx.save_for_backward(losses, *arrays)
        return reduction.value(torch, losses, divisor)  # compat's sum takes twice as long

    @staticmethod
    def backward(ctx: Any, above: Array) -> tuple[Array | None, ...]:
        """Multiply the gradient by what comes from above."""
        grad = vars(ctx).pop("grad", None)  # at once: threads may go back through one graph
        if grad is not None and not torch.is_grad_enabled() and _is_number_one(above):
            return None, None, None, grad, None, None, None  # as small batches need no more
        if torch.is_grad_enabled() or forms_of(above):
            losses, *arrays = _saved(ctx)
            unit = ctx.call(*arrays)
            # What is known has been weighted, if the reduction has weights.
            known = grad if ctx.reduction.kind in ("none", "sum") else None
            grad = _Known.apply(unit, known, *arrays)
            divisor = ctx.reduction.divisor(torch_compat, arrays[3], losses.dtype)
            weights = _weights(ctx.reduction, above, losses, divisor)
            total = from_above((grad, *arrays), unit.blank, weights, None)
        else:
            total, is_one = grad, _is_one(above)
            if total is None or not is_one:
                losses, *arrays = _saved(ctx)
            if total is None:
                total = _computed(ctx.call(*arrays), *arrays, reduction=ctx.reduction)
            del grad  # PyTorch keeps an array without a copy if nothing else refers to it
            if not is_one:
                weights = _weights(ctx.reduction, above, losses, 1)
                weights = weights[:, None, None] if weights.ndim else weights
                total = total.mul_(weights) if can_be_written(total) else total * weights
        return None, None, None, total, None, None, None


def _computed(
    unit: CallOperation, logits: Array, *rest: Array, reduction: Reduction = PLAIN
) -> Array:
    """Compute the gradient (N, T, C) of the reduced loss, with nothing on the tape."""
    weights = _weights_of(reduction, logits, rest[2])
    grad: Array = unit("loss_and_grad", logits.detach(), *rest, weights=weights)[1]
    return grad


def _weights_of(reduction: Reduction, logits: Array, label_lengths: Array) -> Array | None:
    """Return the derivatives of the reduced loss with respect to the losses, if they aren't 1."""
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return reduction.weights(torch_compat, label_lengths, wide)


def _is_number_one(above: Array) -> bool:
    """Whether it is certainly the number 1, as after ``loss.backward()``."""
    if type(above) is not torch.Tensor or above.ndim or not above.is_cpu or form_of_modes():
        return False
    try:
        return bool(above.item() == 1)
    except RuntimeError:  # it is one of a batch of vmap's, for example
        return False


def _is_one(above: Array) -> bool:
    """Whether all of it is certainly 1; a device is not waited for."""
    return above.is_cpu and (above.item() == 1 if above.ndim == 0 else bool((above == 1).all()))


class _Known(torch.autograd.Function):  # type: ignore[misc, unused-ignore]
    """The gradient (N, T, C), if it is known already, as a function of the logits."""

    @staticmethod
    def forward(ctx: Any, unit: CallOperation, grad: Array | None, *arrays: Array) -> Array:
        """Return what is known, or call the kernel."""
        if grad is None:
            grad = _computed(unit, *arrays)
        ctx.blank = unit.blank
        ctx.save_for_backward(grad, *arrays)
        return grad

    @staticmethod
    def backward(ctx: Any, above: Array) -> tuple[Array | None, ...]:
        """Multiply by second derivatives."""
        product = second(ctx.blank, above, *_saved(ctx))
        return None, None, product, None, None, None


def _keep(ctx: Any, unit: CallOperation, arrays: tuple[Array, ...]) -> None:
    """Keep losses, gradient and what the call was given."""
    ctx.unit = unit
    ctx.save_for_backward(*arrays)
    ctx.save_for_forward(*arrays)
    ctx.set_materialize_grads(False)


def _saved(ctx: Any) -> tuple[Array, ...]:
    """Return what was saved, whose memory may have been freed since.

    To be called once in a backward: a checkpoint computes what it unpacks for one look.
    """
    saved: tuple[Array, ...] = ctx.saved_tensors
    check_held(*saved)
    return saved


def _weights(reduction: Reduction, above: Array, losses: Array, divisor: Array | int) -> Array:
    """Return derivatives with respect to the losses, (N,), or () if it is the same for all."""
    losses = losses.detach()
    if losses.is_cpu and not forms_of(losses) and math.inf not in few_or_array(losses):
        return reduction.spread_evenly(above, divisor)
    return reduction.spread(torch_compat, above, losses, divisor)


def _slopes(losses: Array, grad: Array, tangent: Array) -> Array:
    """Directional derivatives of the losses (N,); 0 for infinite ones."""
    slopes = (grad.to(losses.dtype) * tangent).sum((1, 2))
    return torch.where(losses == torch.inf, 0.0, slopes)


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
        _refuse_thirds(depends=any(ctx.needs_input_grad[2:]) and _is_third_asked_for())
        product = None if above is None else second(ctx.blank, above, *_saved(ctx))
        return None, product, None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, _blank: None, tangent: Array, *others: Array | None) -> Array:
        """Multiply by the same matrix."""
        _refuse_thirds(depends=any(other is not None for other in others))
        with _outer_levels(ctx.saved_tensors) as saved:
            return second(ctx.blank, tangent, *saved)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], blank: int, *arrays: Array
    ) -> tuple[Array, int]:
        """As for the first derivative."""
        product = second(blank, *merge(arrays, in_dims[1:], info.batch_size))
        return product.unflatten(0, (info.batch_size, -1)), 0


def _is_third_asked_for() -> bool:
    """Whether backward goes on from :class:`_HessianTimes` to anything but the vector.

    ``torch.autograd.functional.hvp`` differentiates a product by its vector alone.
    """
    node: Any = torch._C._current_autograd_node()  # noqa: SLF001 - there is no public way
    _vector, *others = node.next_functions
    return any(other is not None and _will_be_executed(other) for other, _ in others)


def _will_be_executed(node: Any) -> bool:
    try:
        return bool(torch._C._will_engine_execute_node(node))  # noqa: SLF001 - see above
    except RuntimeError:  # PyTorch doesn't answer if the derivative by a leaf itself is wanted
        return True


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
