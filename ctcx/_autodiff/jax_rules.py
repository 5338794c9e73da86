"""What JAX has to know to differentiate a call: the tangent of the losses, in closed form.

A ``jax.custom_jvp`` serves both modes: the tangent is linear in that of the logits, and JAX turns
a linear map round by itself. The rules run kernels on the primal values. Where those are concrete,
as under ``jax.grad`` without ``jax.jit``, any backend that takes JAX arrays computes them.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from ctcx._prepare import rebind

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctcx._autodiff.adapters import Compute
    from ctcx._descriptors import Operation
    from ctcx._prepare import Prepared
    from ctcx._typing import Array

__all__ = ["run"]


def run(operation: Operation, prepared: Prepared, compute: Compute) -> Any:
    """Compute as one operation of JAX; see `ctcx._autodiff.adapters.Adapter`."""
    arrays = (
        prepared.logits,
        prepared.labels,
        prepared.logit_lengths,
        prepared.label_lengths,
    )
    # What a rule closes over must hold no tracer: those of one level are not those of another.
    facts_only = prepared._replace(logits=None, labels=None, logit_lengths=None, label_lengths=None)

    def on(operation: Operation, *arrays: Array) -> Any:
        return compute(operation, rebind(facts_only, *arrays))

    return (_loss if operation == "loss" else _loss_and_grad)(on, *arrays)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _loss(on: Callable[..., Any], *arrays: Array) -> Array:
    return on("loss", *arrays)


@_loss.defjvp  # type: ignore[untyped-decorator]
def _loss_jvp(
    on: Callable[..., Any], primals: tuple[Array, ...], tangents: tuple[Array, ...]
) -> tuple[Array, Array]:
    loss, grad = _loss_and_grad(on, *primals)
    return loss, _along(loss, grad, tangents[0])


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _loss_and_grad(on: Callable[..., Any], *arrays: Array) -> tuple[Array, Array]:
    loss, grad = on("loss_and_grad", *arrays)
    return loss, grad


def _along(loss: Array, grad: Array, tangent: Array) -> Array:
    """Directional derivative of each loss; 0 where it is +inf, also for an infinite cotangent."""
    slope = jnp.sum(grad.astype(loss.dtype) * tangent.astype(loss.dtype), axis=(1, 2))
    return jnp.where(loss == jnp.inf, jnp.zeros_like(slope), slope)


@_loss_and_grad.defjvp  # type: ignore[untyped-decorator]
def _loss_and_grad_jvp(*_: object) -> None:
    msg = "second derivatives are not there yet"
    raise NotImplementedError(msg)
