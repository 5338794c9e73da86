"""Make and read arrays of NumPy.

``from_numpy(array, dtype=None, device=None)`` takes the name of a dtype and of a device as
``devices()`` gives it, and always copies. Without a dtype the array keeps its own, or gets the
device's default one of that kind where the device lacks it. An integer dtype that a device lacks
becomes its default one too; to ask by name for a floating dtype that it lacks is a `ValueError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["devices", "from_numpy", "to_numpy"]


def from_numpy(
    array: NDArray[Any], dtype: str | None = None, device: str | None = None
) -> NDArray[Any]:
    """Copy, in another dtype if one is given."""
    if device not in {None, "cpu"}:
        msg = f"numpy has the device 'cpu' only, got {device!r}"
        raise ValueError(msg)
    if dtype == "bfloat16":
        msg = "numpy has no dtype bfloat16"
        raise ValueError(msg)
    return np.array(array, dtype=dtype)


def to_numpy(array: Any) -> NDArray[Any]:
    """Copy."""
    return np.array(array)


def devices() -> tuple[str, ...]:
    """Only the CPU."""
    return ("cpu",)
