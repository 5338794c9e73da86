"""Make, read back and wait for arrays of CuPy; as in :mod:`ctcx._arrays.numpy`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cupy

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["devices", "from_numpy", "synchronize", "to_numpy"]


def from_numpy(array: NDArray[Any], dtype: str | None = None, device: str | None = None) -> Any:
    """Array on ``"cuda:0"``, ``"cuda:1"``, ..."""
    if dtype == "bfloat16":
        msg = "CuPy has no dtype bfloat16"
        raise ValueError(msg)
    kind, _, index = (device or "cuda:0").partition(":")
    if kind != "cuda" or not index.isdecimal():
        msg = f"a device of CuPy is named like 'cuda:0', got {device!r}"
        raise ValueError(msg)
    with cupy.cuda.Device(int(index)):
        return cupy.array(array, dtype=dtype)


def to_numpy(array: Any) -> NDArray[Any]:
    """Copy on the host."""
    host: NDArray[Any] = cupy.asnumpy(array)
    return host


def devices() -> tuple[str, ...]:
    """Each GPU that CUDA shows."""
    return tuple(f"cuda:{index}" for index in range(cupy.cuda.runtime.getDeviceCount()))


def synchronize(array: Any) -> None:
    """Wait until the array's device has nothing left to do."""
    array.device.synchronize()
