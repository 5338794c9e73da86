"""What takes JAX one compiled call here and several calls, each as long, by its array API.

Imports JAX, so it is imported only where there are arrays of JAX's.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctcx._reduction import Reduction
    from ctcx._typing import Array

__all__ = ["reduced", "uploaded"]


@jax.jit  # type: ignore[untyped-decorator]
def _same(array: Any) -> Any:
    return array


def uploaded(array: NDArray[Any], device: Any) -> Array:
    """Copy of a NumPy array on a device, of a dtype that JAX has; not while JAX traces."""
    copy = _same(array)  # on the default device
    return copy if copy.device == device else jax.device_put(array, device)


@partial(jax.jit, static_argnums=0)
def reduced(reduction: Reduction, loss: Array, label_lengths: Array) -> Array:
    """:meth:`ctcx._reduction.Reduction.value`."""
    return reduction.value(jnp, loss, reduction.divisor(jnp, label_lengths, loss.dtype))
