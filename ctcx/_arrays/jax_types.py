"""Functions that know nothing of how JAX's types say arrays lie, called with any arrays.

A type says over which axes of ``jax.shard_map`` an array varies, and over which axes of
``AxisType.Explicit`` it is sharded. Operations of JAX reject arrays whose types don't fit, and so
functions of the Python array API would have to know of both. This module imports JAX only where
there are such arrays; :func:`ctcx._arrays.jax.without_types` does the work.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctcx._typing import Array

__all__ = ["has_jax_types", "without_jax_types"]


def has_jax_types(*arrays: Array | None) -> bool:
    """Whether types of JAX may say how these arrays of any one library lie.

    True for all tracers of JAX: a call while it traces is no matter of microseconds.
    """
    jax = sys.modules.get("jax")
    if jax is None or not isinstance(arrays[0], jax.Array):
        return False
    from ctcx._arrays.jax import has_explicit_axes

    tracer = jax.core.Tracer
    return any(isinstance(array, tracer) for array in arrays) or has_explicit_axes(*arrays)


def without_jax_types(
    function: Callable[..., Any], arrays: tuple[Array | None, ...], forms: Any = None
) -> Any:
    """Call a function of arrays of any one library; see :func:`ctcx._arrays.jax.without_types`."""
    if not has_jax_types(*arrays):
        return function(*arrays)
    from ctcx._arrays.jax import without_types

    return without_types(function, arrays, forms)
