"""Make and compute dask arrays, for tests and benchmarks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["devices", "from_numpy", "to_numpy"]


def from_numpy(array: NDArray[Any], dtype: str | None = None, device: str | None = None) -> Any:
    """Copy into a dask array of one chunk."""
    if device not in {None, "cpu"}:
        msg = f"arrays of NumPy in dask.array are on the device 'cpu', got {device!r}"
        raise ValueError(msg)
    if dtype == "bfloat16":
        msg = "dask.array has no dtype bfloat16"
        raise ValueError(msg)
    return da.from_array(np.array(array, dtype=dtype), chunks=-1)


def to_numpy(array: Any) -> NDArray[Any]:
    """Compute in the calling thread."""
    return np.array(array.compute(scheduler="synchronous"))


def devices() -> tuple[str, ...]:
    """Only the CPU: arrays of other devices in dask.array have no name for theirs."""
    return ("cpu",)
