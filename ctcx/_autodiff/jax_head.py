"""What JAX has to know to differentiate a linear layer with its loss."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from ctcx._arrays.jax import without_types

if TYPE_CHECKING:
    from ctcx._autodiff.head_operation import HeadOperation
    from ctcx._typing import Array

__all__ = ["backward", "constant", "forward"]


def forward(operation: HeadOperation, *arrays: Array) -> tuple[Array, ...]:
    """Call :meth:`HeadOperation.forward`; JAX can differentiate the losses once, in reverse."""
    losses, *kept = without_types(partial(_forward, operation), arrays, (1, 3, 2, 2))
    return losses, *map(jax.lax.stop_gradient, kept)


def backward(
    operation: HeadOperation, above: Array, arrays: tuple[Any, ...], kept: tuple[Array, ...]
) -> tuple[Any, ...]:
    """Call :meth:`HeadOperation.backward`: gradients lie as the arrays do that they are of."""
    count = len(arrays)

    def gradients(*given: Any) -> tuple[Any, ...]:
        above, *rest = given
        return operation.backward(above, tuple(rest[:count]), tuple(rest[count:]))

    found: tuple[Any, ...] = without_types(gradients, (above, *arrays, *kept), arrays[:3])
    return found


def constant(array: Array) -> Array:
    """Return an array of JAX's that it doesn't differentiate by."""
    return jnp.asarray(jax.lax.stop_gradient(array))  # which may uncover one of NumPy's


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _forward(operation: HeadOperation, *arrays: Array) -> tuple[Array, ...]:
    return operation.forward(*arrays)


def _keep(operation: HeadOperation, *arrays: Array) -> tuple[Any, ...]:
    arrays = jax.tree.map(jnp.asarray, arrays)  # what a tracer stands for may be one of NumPy's
    results = operation.forward(*arrays)
    return results, (arrays, results)


def _backward(
    operation: HeadOperation, kept: tuple[Any, ...], above: tuple[Array, ...]
) -> tuple[Any, ...]:
    arrays, (losses, *others) = kept
    weights = jnp.where(losses == jnp.inf, 0.0, above[0])
    return *operation.backward(weights, arrays, tuple(others)), None, None, None


_forward.defvjp(_keep, _backward)
