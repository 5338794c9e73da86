"""What an array is, without importing its library: whose, where, of what dtype, readable or not."""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import array_api_compat
import numpy as np

if TYPE_CHECKING:
    from ctcx._typing import Array, ArrayModule

__all__ = [
    "Facts",
    "any_traced",
    "describe",
    "device_name",
    "index_dtype",
    "is_array",
    "is_contiguous",
    "is_numpy",
    "library_name",
]

_DEVICE_WRAPPER = re.compile(r".*\('(.*)'\)\Z")


class Facts(NamedTuple):
    """Static facts about an array; the fields are as in :class:`ctcx.plugin.Problem`."""

    xp: ArrayModule
    namespace: str
    device: str
    dtype: str
    traced: bool
    contiguous: bool


def is_array(value: object) -> bool:
    """Whether ``value`` belongs to an array library that ctcx can compute on."""
    # The first question is the common case, and ten times as fast as the second.
    return is_numpy(value) or bool(array_api_compat.is_array_api_obj(value))


def is_numpy(value: object) -> bool:
    """Whether ``value`` is a NumPy array: data that lies in the host's memory."""
    return isinstance(value, np.ndarray)


def describe(array: Array) -> Facts:
    """Read off the facts."""
    xp = array_api_compat.array_namespace(array)
    return Facts(
        xp,
        _namespace_name(xp),
        device_name(array),
        _dtype_name(array.dtype),
        any_traced(array),
        is_contiguous(array),
    )


def library_name(array: Array) -> str:
    """Name of the array's namespace, as in :attr:`ctcx.plugin.Problem.namespace`."""
    return _namespace_name(array_api_compat.array_namespace(array))


@lru_cache(maxsize=64)
def _namespace_name(xp: ArrayModule) -> str:
    return str(xp.__name__).removeprefix("array_api_compat.")


def device_name(array: Array) -> str:
    """Name of the device as the library says it; ``"unknown"`` while JAX traces."""
    device = array_api_compat.device(array)
    if device is None:
        return "unknown"
    if _is_cupy_device(device):
        return f"cuda:{device.id}"
    return device if isinstance(device, str) else _device_label(device)


def _is_cupy_device(device: object) -> bool:
    """Whether it is one of CuPy's devices, which can't be hashed and so not be cached by."""
    return type(device).__module__.startswith("cupy")


@lru_cache(maxsize=256)
def _device_label(device: Any) -> str:
    return _device_text(str(device))


def _device_text(text: str) -> str:
    wrapped = _DEVICE_WRAPPER.match(text)
    return wrapped.group(1) if wrapped else text


def _dtype_name(dtype: Any) -> str:
    return str(dtype).rpartition(".")[2]


def any_traced(*arrays: Array) -> bool:
    """Whether values can't be read: under a JAX transformation, or on torch's meta device."""
    jax = sys.modules.get("jax")
    if jax is not None and any(isinstance(array, jax.core.Tracer) for array in arrays):
        return True
    torch = sys.modules.get("torch")
    return torch is not None and any(
        isinstance(array, torch.Tensor) and array.is_meta for array in arrays
    )


def is_contiguous(array: Array) -> bool:
    """Whether its elements lie in row-major order; True where a library has no such notion."""
    flags = getattr(array, "flags", None)
    if flags is not None and hasattr(flags, "c_contiguous"):  # NumPy and CuPy
        return bool(flags.c_contiguous)
    is_contiguous = getattr(array, "is_contiguous", None)
    return bool(is_contiguous()) if callable(is_contiguous) else True  # torch


def index_dtype(xp: ArrayModule, device: Any) -> Any:
    """Integer dtype that the library indexes with by default on this device."""
    # JAX's depends on a switch that may be thrown; CuPy's devices can't be hashed.
    if _namespace_name(xp) in {"jax.numpy", "cupy"}:
        return _default_index_dtype(xp, device)
    return _index_dtype(xp, device)


def _default_index_dtype(xp: ArrayModule, device: Any) -> Any:
    return xp.__array_namespace_info__().default_dtypes(device=device)["indexing"]


_index_dtype = lru_cache(maxsize=256)(_default_index_dtype)
