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

from ctcx._arrays import any_traced
from ctcx._autodiff.unit import hessian_times

if TYPE_CHECKING:
    from ctcx._autodiff.unit import Unit
    from ctcx._descriptors import Operation
    from ctcx._typing import Array

__all__ = ["first", "second"]


def first(operation: Operation, unit: Unit, *arrays: Array) -> Any:
    """See :class:`ctcx._autodiff.adapters.Adapter`."""
    return (_loss if operation == "loss" else _loss_and_grad)(unit, *arrays)


def second(blank: int, vector: Array, grad: Array, logits: Array, *rest: Array) -> Array:
    """See :class:`ctcx._autodiff.adapters.Adapter`."""
    return hessian_times(blank, vector, grad, _differentiated_twice(logits), *rest)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _loss(unit: Unit, *arrays: Array) -> Array:
    return unit("loss", *map(jnp.asarray, arrays))


def _loss_jvp(
    unit: Unit, primals: tuple[Array, ...], tangents: tuple[Any, ...]
) -> tuple[Array, Array]:
    # Who can read the values differentiates once: there is nothing to tell JAX about the gradient.
    call = _loss_and_grad if any_traced(*primals) else _call
    loss, grad = call(unit, *primals)
    return loss, _along(loss, grad, _dense(tangents[0]))


def _call(unit: Unit, *arrays: Array) -> tuple[Array, Array]:
    # What a tracer stands for may be a NumPy array.
    loss, grad = unit("loss_and_grad", *map(jnp.asarray, arrays))
    return loss, grad


_loss_and_grad = partial(jax.custom_jvp, nondiff_argnums=(0,))(_call)


def _loss_and_grad_jvp(
    unit: Unit, primals: tuple[Array, ...], tangents: tuple[Any, ...]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    loss, grad = _loss_and_grad(unit, *primals)
    tangent = _dense(tangents[0])
    return (loss, grad), (_along(loss, grad, tangent), second(unit.blank, tangent, grad, *primals))


# Else JAX would make arrays of zeros, one by one, for the tangents of labels and lengths.
_loss.defjvp(_loss_jvp, symbolic_zeros=True)
_loss_and_grad.defjvp(_loss_and_grad_jvp, symbolic_zeros=True)


def _dense(tangent: Any) -> Array:
    if isinstance(tangent, SymbolicZero):
        return jnp.zeros(tangent.shape, tangent.dtype)
    return tangent


@jax.jit  # type: ignore[untyped-decorator]
def _along(loss: Array, grad: Array, tangent: Array) -> Array:
    """Directional derivative of each loss; 0 where it is +inf, also for an infinite cotangent.

    Outside of ``jax.jit``, one compiled call costs less than these operations one by one.
    """
    slope = jnp.sum(grad.astype(loss.dtype) * tangent.astype(loss.dtype), axis=(1, 2))
    return jnp.where(loss == jnp.inf, jnp.zeros_like(slope), slope)


@jax.custom_jvp  # type: ignore[untyped-decorator]
def _differentiated_twice(logits: Array) -> Array:
    """Refuse to go on: the recursion's tape gives NaN where probabilities are 0."""
    return logits


@_differentiated_twice.defjvp  # type: ignore[untyped-decorator]
def _refuse(*_: object) -> None:
    msg = "ctcx has no third derivatives of the CTC loss"
    raise NotImplementedError(msg)
