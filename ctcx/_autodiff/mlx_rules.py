"""What MLX has to know to differentiate a call, and to map it: each is an ``mx.custom_function``.

MLX doesn't say whether it differentiates. But it keeps how arrays were made, which can be seen
(:func:`ctcx._arrays.mlx.is_recorded`), and then the kernel makes losses and gradient in one go.
Integers are arguments of these functions, too, since MLX takes all else for constants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx

from ctcx._arrays.mlx import is_recorded
from ctcx._autodiff.operation import hessian_times
from ctcx._reduction import PLAIN

if TYPE_CHECKING:
    from ctcx._autodiff.head_operation import HeadOperation
    from ctcx._autodiff.operation import CallOperation
    from ctcx._reduction import Reduction
    from ctcx._typing import Array

__all__ = ["entropy", "linear_loss", "loss", "loss_and_grad", "second"]


def loss(unit: CallOperation, reduction: Reduction, *arrays: Array) -> Array:
    """See :class:`ctcx._autodiff.adapters.Adapter`."""
    if is_recorded(arrays[0]):
        losses, grad = unit.as_called("loss_and_grad", *arrays)
    else:  # and should MLX differentiate all the same, the gradient is computed then
        losses, grad = unit.as_called("loss", *arrays), None
    losses = _losses(unit, losses, grad, *arrays)
    return reduction.value(unit.xp, losses, reduction.divisor(unit.xp, arrays[3], losses.dtype))


def loss_and_grad(unit: CallOperation, *arrays: Array) -> tuple[Array, Array]:
    """See :class:`ctcx._autodiff.adapters.Adapter`."""
    losses, grad = unit.as_called("loss_and_grad", *arrays)
    return _losses(unit, losses, grad, *arrays), _gradient(unit, grad, *arrays)


def entropy(known: Array, blank: int, loss: Array, grad: Array, *arrays: Array) -> Array:
    """Give the entropies (N,), which are known, as a function of the arrays.

    Their derivative is that of the formula in :mod:`ctcx._core.entropy`.
    """

    @mx.custom_function  # type: ignore[untyped-decorator, unused-ignore]
    def call(*_: Array) -> Array:
        return known

    @call.vjp  # type: ignore[untyped-decorator, unused-ignore]
    def back(arrays: tuple[Array, ...], above: Array, _: Array) -> tuple[Array, ...]:
        logits, _labels, lengths, _counts = arrays
        frame = mx.arange(logits.shape[1])[None, :]
        counts = ((frame < lengths[:, None]) & (loss < mx.inf)[:, None])[:, :, None]
        log_probs = logits - mx.logsumexp(logits, axis=2, keepdims=True)
        log_probs = mx.where(counts & (logits > -mx.inf), log_probs, 0.0)
        probs = mx.where(counts & (logits > -mx.inf), mx.exp(log_probs), 0.0)
        mean = mx.sum(probs * log_probs, axis=2, keepdims=True)
        weights = mx.where(loss < mx.inf, above, 0.0)[:, None, None]
        curved = second(blank, weights * log_probs, grad, *arrays)
        product = curved - weights * probs * (log_probs - mean)
        return product, *map(mx.zeros_like, arrays[1:])

    return call(*arrays)


def linear_loss(operation: HeadOperation, *arrays: Array | None) -> tuple[Array, ...]:
    """Call :meth:`HeadOperation.forward`; MLX can differentiate the losses once, in reverse.

    The third of the arrays, the bias, may be None.
    """
    known, *kept = operation.forward(*arrays)

    @mx.custom_function  # type: ignore[untyped-decorator, unused-ignore]
    def call(*_: Array) -> Array:
        return known

    @call.vjp  # type: ignore[untyped-decorator, unused-ignore]
    def back(given: tuple[Array, ...], above: Array, losses: Array) -> tuple[Array, ...]:
        rest = iter(given)
        whole = tuple(None if array is None else next(rest) for array in arrays)
        weights = mx.where(losses == mx.inf, 0.0, above)
        found = operation.backward(weights, whole, tuple(kept))
        parts = [part for part in found if part is not None]
        return *parts, *map(mx.zeros_like, given[len(parts) :])

    return call(*(array for array in arrays if array is not None)), *kept


def _losses(unit: CallOperation, known: Array, known_grad: Array | None, *arrays: Array) -> Array:
    """Give the losses (N,), which are known, as a function of the arrays."""

    @mx.custom_function  # type: ignore[untyped-decorator, unused-ignore]
    def call(*_: Array) -> Array:
        return known

    @call.vjp  # type: ignore[untyped-decorator, unused-ignore]
    def back(arrays: tuple[Array, ...], above: Array, losses: Array) -> tuple[Array, ...]:
        grad = _gradient(unit, known_grad, *arrays)
        weights = PLAIN.spread(unit.xp, above, losses, 1)[:, None, None]
        return (grad * weights).astype(grad.dtype), *map(mx.zeros_like, arrays[1:])

    @call.jvp  # type: ignore[untyped-decorator, unused-ignore]
    def forward(arrays: tuple[Array, ...], tangents: tuple[Any, ...]) -> Array:
        grad = _gradient(unit, known_grad, *arrays).astype(known.dtype)
        slopes = mx.sum(grad * tangents[0].astype(known.dtype), axis=(1, 2))
        return mx.where(known == mx.inf, 0.0, slopes)

    @call.vmap  # type: ignore[untyped-decorator, unused-ignore]
    def mapped(arrays: tuple[Array, ...], axes: tuple[Any, ...]) -> tuple[Array, int]:
        size, merged = _merged(arrays, axes)
        losses = _losses(unit, unit("loss", *merged), None, *merged)
        return mx.reshape(losses, (size, *known.shape)), 0

    return call(*arrays)


def _gradient(unit: CallOperation, known: Array | None, *arrays: Array) -> Array:
    """Give the gradient (N, T, C), if it is known already, as a function of the arrays."""
    if known is None:
        _, known = unit("loss_and_grad", *arrays)
    shape = known.shape

    @mx.custom_function  # type: ignore[untyped-decorator, unused-ignore]
    def call(*_: Array) -> Array:
        return known

    @call.vjp  # type: ignore[untyped-decorator, unused-ignore]
    def back(arrays: tuple[Array, ...], above: Array, grad: Array) -> tuple[Array, ...]:
        return second(unit.blank, above, grad, *arrays), *map(mx.zeros_like, arrays[1:])

    @call.jvp  # type: ignore[untyped-decorator, unused-ignore]
    def forward(arrays: tuple[Array, ...], tangents: tuple[Any, ...]) -> Array:
        return second(unit.blank, tangents[0], known, *arrays)

    @call.vmap  # type: ignore[untyped-decorator, unused-ignore]
    def mapped(arrays: tuple[Array, ...], axes: tuple[Any, ...]) -> tuple[Array, int]:
        size, merged = _merged(arrays, axes)
        return mx.reshape(_gradient(unit, None, *merged), (size, *shape)), 0

    return call(*arrays)


def second(blank: int, vector: Array, *arrays: Array) -> Array:
    """See :class:`ctcx._autodiff.adapters.Adapter`."""
    known = hessian_times(blank, vector, *arrays)

    @mx.custom_function  # type: ignore[untyped-decorator, unused-ignore]
    def call(*_: Array) -> Array:
        return known

    @call.vjp  # type: ignore[untyped-decorator, unused-ignore]
    def back(arrays: tuple[Array, ...], above: Array, _: Array) -> tuple[Array, ...]:
        # The same: a linear map whose matrix is symmetric.
        return second(blank, above, *arrays[1:]), *map(mx.zeros_like, arrays[1:])

    @call.jvp  # type: ignore[untyped-decorator, unused-ignore]
    def forward(arrays: tuple[Array, ...], tangents: tuple[Any, ...]) -> Array:
        return second(blank, tangents[0], *arrays[1:])

    @call.vmap  # type: ignore[untyped-decorator, unused-ignore]
    def mapped(arrays: tuple[Array, ...], axes: tuple[Any, ...]) -> tuple[Array, int]:
        size, merged = _merged(arrays, axes)
        return mx.reshape(second(blank, *merged), (size, *known.shape)), 0

    grad, logits, *rest = arrays
    return call(vector, _differentiated_twice(grad), _differentiated_twice(logits), *rest)


@mx.custom_function  # type: ignore[untyped-decorator, unused-ignore]
def _differentiated_twice(array: Array) -> Array:
    """Refuse to go on."""
    return array


@_differentiated_twice.vjp  # type: ignore[untyped-decorator, unused-ignore]
def _refuse(*_: object) -> None:
    msg = "ctcx has no third derivatives of the CTC loss"
    raise NotImplementedError(msg)


_differentiated_twice.jvp(_refuse)


def _merged(arrays: tuple[Array, ...], axes: tuple[Any, ...]) -> tuple[int, list[Array]]:
    """Sequences of all members of a batch of batches, one after the other, and how many members."""
    pairs = list(zip(arrays, axes, strict=True))
    size = next(array.shape[axis] for array, axis in pairs if axis is not None)
    whole = (
        mx.broadcast_to(array[None, ...], (size, *array.shape))
        if axis is None
        else mx.moveaxis(array, axis, 0)
        for array, axis in pairs
    )
    return size, [mx.flatten(array, 0, 1) for array in whole]
