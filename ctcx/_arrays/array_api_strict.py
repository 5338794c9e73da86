"""Make and read arrays of array_api_strict; as in :mod:`ctcx._arrays.numpy`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import array_api_strict as xp
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["devices", "from_numpy", "to_numpy"]


def from_numpy(array: NDArray[Any], dtype: str | None = None, device: str | None = None) -> Any:
    """Array on one of the pretended devices of array_api_strict, some without 64-bit types."""
    where = None if device is None else xp.Device(device)
    available: dict[str, Any] = dict(xp.__array_namespace_info__().dtypes(device=where))
    wanted = dtype or array.dtype.name
    if wanted in available:
        kind = available[wanted]
    elif array.dtype.kind in "iu" and (dtype is None or "int" in dtype):
        kind = xp.__array_namespace_info__().default_dtypes(device=where)["integral"]
    elif dtype is None and array.dtype.kind == "f":
        kind = xp.__array_namespace_info__().default_dtypes(device=where)["real floating"]
    else:
        msg = f"array_api_strict has no dtype {wanted} on device {device or 'CPU_DEVICE'}"
        raise ValueError(msg)
    return xp.asarray(array, dtype=kind, device=where, copy=True)


def to_numpy(array: Any) -> NDArray[Any]:
    """Copy."""
    # NumPy may read its CPU device only.
    return np.array(array.to_device(xp.Device("CPU_DEVICE")))


def devices() -> tuple[str, ...]:
    """Names of the pretended devices."""
    return ("CPU_DEVICE", "device1", "device2", "no_float64", "no_x64")
