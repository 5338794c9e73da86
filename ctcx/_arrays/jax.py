"""Arrays of JAX: make, read back and wait for them, and what JAX knows about them.

As in :mod:`ctcx._arrays.numpy`, and besides: whether JAX is tracing, and how its types say that
arrays vary or are sharded. Imports JAX, so it is imported only where there are arrays of JAX's.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ctcx._arrays.numpy import to_numpy as copy_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ctcx._typing import Array

__all__ = [
    "as_constant",
    "devices",
    "from_numpy",
    "has_explicit_axes",
    "is_staging",
    "jit",
    "same_axes",
    "sharded_like_batch",
    "synchronize",
    "to_numpy",
    "uploaded",
    "varying_axes",
    "without_types",
]


def _find_trace_state() -> Any:
    """Return the function for JAX's trace state, or None, which costs only speed."""
    # Where JAX has it; its public name, which takes 40 ms to import in JAX 0.10; the one until 0.9.
    for module in ("jax._src.core", "jax.extend.core", "jax.core"):
        with suppress(ImportError, AttributeError):
            return import_module(module).get_opaque_trace_state
    return None


_trace_state = _find_trace_state()
with jax.core.eval_context():
    _ONE = jax.device_put(np.ones((), np.float32))  # jnp.ones would compile a program
    _NOT_TRACING = _trace_state and _trace_state(convention="ctcx")


def is_staging() -> bool:
    """Whether an operation on arrays that have values is recorded by JAX now, and not done.

    True in functions that JAX makes programs of (``jax.jit``, control flow, ``jax.checkpoint``,
    ``jax.eval_shape``) and under ``jax.shard_map``. False under ``jax.grad``, ``jax.jvp`` and
    ``jax.vmap`` alone, in ``jax.ensure_compile_time_eval`` and ``jax.disable_jit``.

    Outside of all transformations that is told by JAX's trace state, in less than a microsecond.
    Inside, no state tells them apart; the result of an operation does.
    """
    if _trace_state is not None and _trace_state(convention="ctcx") == _NOT_TRACING:
        return False
    return isinstance(jax.lax.neg(_ONE), jax.core.Tracer)


@jax.jit  # type: ignore[untyped-decorator]
def _same(array: Any) -> Any:
    return array


def as_constant(array: Any) -> Any:
    """Return an array that JAX doesn't differentiate through."""
    return jax.lax.stop_gradient(array)


def uploaded(array: NDArray[Any], device: Any) -> Array:
    """Copy of a NumPy array on a device, of a dtype that JAX has; not while JAX traces."""
    copy = _same(array)  # on the default device
    return copy if copy.device == device else jax.device_put(array, device)


def sharded_like_batch(array: Any, logits: Any) -> Any:
    """Let an array (N, ...) lie on the same devices as the batch of logits (N, T, C) does."""
    sharding = logits.sharding
    if not isinstance(sharding, NamedSharding):
        return array
    batch = PartitionSpec(*sharding.spec[:1])
    return jax.device_put(array, NamedSharding(sharding.mesh, batch))


def same_axes(arrays: Any, axes: frozenset[str] = frozenset()) -> Any:
    """Let all arrays of a tree vary over the same axes of ``jax.shard_map``: those of any of them.

    JAX's ``{V:i}``. Rules and carries must have the same before and after, and a program of
    another compiler's knows of none. ``axes`` are further ones.
    """
    every = axes | varying_axes(arrays)
    if not every:
        return arrays

    def cast(array: Any) -> Any:
        missing = tuple(sorted(every - _varying(array)))
        return _to_varying(array, missing) if missing else array

    return jax.tree.map(cast, arrays)


def varying_axes(arrays: Any) -> frozenset[str]:
    """Return the axes of ``jax.shard_map`` that any array of a tree varies over."""
    return frozenset().union(*map(_varying, jax.tree.leaves(arrays)))


def _varying(array: Any) -> frozenset[str]:
    kind = _type_of(array)
    if hasattr(kind, "manual_axis_type"):  # JAX 0.10
        return frozenset(kind.manual_axis_type.varying)
    return frozenset(getattr(kind, "vma", ()))  # JAX 0.6 to 0.9


def _to_varying(array: Any, axes: tuple[str, ...]) -> Any:
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(array, axes, to="varying")
    return jax.lax.pvary(array, axes)  # JAX 0.6 to 0.8


def _type_of(array: Any) -> Any:
    return jax.typeof(array) if hasattr(jax, "typeof") else jax.core.get_aval(array)


def has_explicit_axes(*arrays: Any) -> bool:
    """Whether the type of one of these arrays of JAX's, not tracers, says how it is sharded."""
    for array in arrays:  # not any(): this is asked at each call
        sharding = getattr(array, "sharding", None)  # it may be NumPy's, too, or None
        if type(sharding) is NamedSharding and _explicit_axes(sharding):
            return True
    return False


def _sharding(array: Any) -> Any:
    if isinstance(array, jax.core.Tracer):
        return getattr(_type_of(array), "sharding", None)  # JAX 0.5 has none in types
    return getattr(array, "sharding", None)  # a tracer may have stood for an array of NumPy's


@lru_cache(maxsize=256)
def _explicit_axes(sharding: Any) -> tuple[str, ...]:
    """Axes of the mesh that are of ``AxisType.Explicit``."""
    if not isinstance(sharding, NamedSharding) or not hasattr(jax.sharding, "auto_axes"):
        return ()
    mesh, explicit = sharding.mesh, jax.sharding.AxisType.Explicit
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return tuple(name for name, kind in kinds if kind == explicit)


def without_types(function: Callable[..., Any], arrays: tuple[Any, ...], forms: Any = None) -> Any:
    """Call a function that knows nothing of how JAX's types say arrays lie.

    Axes of ``jax.shard_map`` are taken care of as :func:`same_axes` does; axes of
    ``AxisType.Explicit`` are of ``AxisType.Auto`` inside, where XLA's partitioner decides.

    Parameters
    ----------
    function
        Any of its results may depend on any of the arrays.
    arrays
        Of JAX or None. The first dimension of the first one, such as the logits, is the batch's.
    forms
        Of the results, in their structure: a number of dimensions, the first of which is the
        batch's, if there are any; or the array that the result is like. By default a function is
        traced to find these out. The results lie as the arrays that they are like, or their
        batches as that of the first array.
    """
    arrays = same_axes(arrays)
    every = varying_axes(arrays)

    def call(*arrays: Any) -> Any:
        return same_axes(function(*arrays), every)

    for array in arrays:
        if axes := _explicit_axes(_sharding(array)):
            break
    else:
        return call(*arrays)
    if forms is None:
        forms = _forms_of_results(function, arrays)
    mesh = _type_of(array).sharding.mesh
    batch = (*_type_of(arrays[0]).sharding.spec, None)[0]

    def outside(form: Any) -> NamedSharding:
        if isinstance(form, int):
            return NamedSharding(mesh, PartitionSpec(*(batch, *[None] * form)[:form]))
        return NamedSharding(mesh, _type_of(form).sharding.spec)

    sharding = jax.tree.map(outside, forms)
    return jax.sharding.auto_axes(call, axes=axes, out_sharding=sharding)(*arrays)


def _forms_of_results(function: Callable[..., Any], arrays: tuple[Any, ...]) -> Any:
    """Find out what is like the first array, or of its batch, among the results."""
    plain = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), arrays)
    return jax.tree.map(
        lambda result: arrays[0] if result.shape == arrays[0].shape else result.ndim,
        jax.eval_shape(function, *plain),
    )


def from_numpy(array: NDArray[Any], dtype: str | None = None, device: str | None = None) -> Any:
    """Make a committed JAX array; float64 only if JAX's 64-bit mode is on."""
    # What 64-bit types become in 32-bit mode, without the warning that asking for them gives.
    kind = jax.dtypes.canonicalize_dtype(jnp.dtype(dtype or array.dtype.name))
    if dtype == "float64" and kind != dtype:
        msg = "JAX has no float64 unless its 64-bit mode is on (JAX_ENABLE_X64=1)"
        raise ValueError(msg)
    where = None if device is None else _device(device)
    return jax.device_put(array.astype(kind), where)


def _device(name: str) -> Any:
    known = dict(zip(devices(), jax.devices(), strict=True))
    if name not in known:
        msg = f"JAX has no device {name!r}; it has {', '.join(known)}"
        raise ValueError(msg)
    return known[name]


def to_numpy(array: Any) -> NDArray[Any]:
    """Copy on the host; bfloat16, which NumPy doesn't have, becomes float32."""
    host = copy_of(array)
    return host.astype("float32") if host.dtype.name == "bfloat16" else host


def devices() -> tuple[str, ...]:
    """Devices of the default platform, such as ``"cpu:0"``."""
    return tuple(str(device).replace("TFRT_CPU_", "cpu:") for device in jax.devices())  # JAX 0.5


def synchronize(array: Any) -> None:
    """Wait until the array is computed."""
    array.block_until_ready()


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with :func:`jax.jit`."""
    compiled: Callable[..., Any] = jax.jit(function)
    return compiled
