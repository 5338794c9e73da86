"""What JAX has to know to differentiate a call: tangents in closed form.

``jax.custom_jvp`` serves both modes: a tangent is linear in that of the logits, and JAX turns a
linear map round by itself. The rules run kernels on the primal values. Where those are concrete,
as under ``jax.grad`` without ``jax.jit``, any backend that takes JAX arrays computes them.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from ctcx._arrays.facts import any_traced
from ctcx._arrays.jax import without_types
from ctcx._autodiff.operation import hessian_times
from ctcx._reduction import PLAIN

if TYPE_CHECKING:
    from ctcx._autodiff.operation import CallOperation
    from ctcx._reduction import Reduction
    from ctcx._typing import Array

__all__ = ["loss", "loss_and_grad", "reduced", "second"]


def loss(unit: CallOperation, reduction: Reduction, *arrays: Array) -> Array:
    """See :class:`ctcx._autodiff.adapters.Adapter`."""
    return _loss(unit, reduction, *arrays)


def loss_and_grad(unit: CallOperation, *arrays: Array) -> tuple[Array, Array]:
    """See :class:`ctcx._autodiff.adapters.Adapter`."""
    loss, grad = _loss_and_grad(unit, *arrays)
    return loss, grad


def second(blank: int, vector: Array, grad: Array, logits: Array, *rest: Array) -> Array:
    """See :class:`ctcx._autodiff.adapters.Adapter`."""

    def times(logits: Array, vector: Array, grad: Array, *rest: Array) -> Array:
        return hessian_times(blank, vector, grad, logits, *rest)

    arrays = (_differentiated_twice(logits), vector, grad, *rest)
    return without_types(times, arrays, logits)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _loss(unit: CallOperation, reduction: Reduction, *arrays: Array) -> Array:
    def call(*arrays: Array) -> Array:
        return reduced(reduction, unit("loss", *arrays), arrays[3])

    rank = 0 if reduction.single or reduction.kind != "none" else 1
    return without_types(call, _as_arrays(arrays), rank)


def _loss_jvp(
    unit: CallOperation, reduction: Reduction, primals: tuple[Array, ...], tangents: tuple[Any, ...]
) -> tuple[Array, Array]:
    lengths = primals[3]
    if any_traced(*primals):
        loss, grad = _loss_and_grad(unit, *primals)
        result = reduced(reduction, loss, lengths)
    else:
        # Who can read the values differentiates once: there is nothing to tell JAX about the
        # gradient. While it is listening, each compiled call would take it 0.3 ms.
        with jax.core.eval_context():
            loss, grad = _call(unit, *primals)
            result = reduced(reduction, loss, lengths)
    return result, _along(reduction, loss, grad, lengths, _dense(tangents[0], primals[0]))


def _call(unit: CallOperation, *arrays: Array) -> tuple[Array, Array]:
    def call(*arrays: Array) -> Any:
        return unit("loss_and_grad", *arrays)

    arrays = _as_arrays(arrays)
    loss, grad = without_types(call, arrays, (1, arrays[0]))
    return loss, grad


def _as_arrays(arrays: tuple[Any, ...]) -> tuple[Array, ...]:
    """Arrays of JAX's: what a tracer stands for may be one of NumPy's."""
    return tuple(x if isinstance(x, jax.Array) else jnp.asarray(x) for x in arrays)


_loss_and_grad = partial(jax.custom_jvp, nondiff_argnums=(0,))(_call)


def _loss_and_grad_jvp(
    unit: CallOperation, primals: tuple[Array, ...], tangents: tuple[Any, ...]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    loss, grad = _loss_and_grad(unit, *primals)
    tangent = _dense(tangents[0], primals[0])
    along = _along(PLAIN, loss, grad, primals[3], tangent)
    return (loss, grad), (along, second(unit.blank, tangent, grad, *primals))


# Else JAX would make arrays of zeros, one by one, for the tangents of labels and lengths.
_loss.defjvp(_loss_jvp, symbolic_zeros=True)
_loss_and_grad.defjvp(_loss_and_grad_jvp, symbolic_zeros=True)


def _dense(tangent: Any, logits: Array) -> Array:
    return jnp.zeros_like(logits) if isinstance(tangent, SymbolicZero) else tangent


@partial(jax.jit, static_argnums=0)
def _along(
    reduction: Reduction, loss: Array, grad: Array, label_lengths: Array, tangent: Array
) -> Array:
    """Directional derivative of the result; that of an infinite loss is 0.

    Outside of ``jax.jit``, one compiled call costs less than these operations one by one.
    """
    slope = jnp.sum(grad.astype(loss.dtype) * tangent.astype(loss.dtype), axis=(1, 2))
    # The gradient of an infinite loss is 0 already, but what is multiplied with it may be infinite.
    # Not so where it is one number for all: then XLA leaves a product by 1 out, and with it a pass
    # over an array of that size.
    if reduction.kind == "none":
        slope = jnp.where(loss == jnp.inf, jnp.zeros_like(slope), slope)
    return reduction.combined(jnp, slope, reduction.divisor(jnp, label_lengths, loss.dtype))


@jax.custom_jvp  # type: ignore[untyped-decorator]
def _differentiated_twice(logits: Array) -> Array:
    """Refuse to go on: the recursion's tape gives NaN where probabilities are 0."""
    return logits


@_differentiated_twice.defjvp  # type: ignore[untyped-decorator]
def _refuse(*_: object) -> None:
    msg = "ctcx has no third derivatives of the CTC loss"
    raise NotImplementedError(msg)


@partial(jax.jit, static_argnums=0)
def reduced(reduction: Reduction, loss: Array, label_lengths: Array) -> Array:
    """:meth:`ctcx._reduction.Reduction.value`."""
    return reduction.value(jnp, loss, reduction.divisor(jnp, label_lengths, loss.dtype))
