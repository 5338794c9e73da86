"""Arrays of JAX in the host's memory: NumPy reads them, and what it makes of them is given back.

JAX compiles a program for each operation and shape, which takes longer than what little there is to
compute before and after a kernel. What traces isn't meant: there it all becomes part of a program.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from ctcx._arrays.facts import has_host_memory, library_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctcx._typing import Array

__all__ = ["given_back", "lent"]


def lent(*arrays: Array) -> tuple[NDArray[Any], ...] | None:
    """Return NumPy arrays of the same memory, to be read only.

    None if one of the arrays isn't JAX's, has no values in the host's memory, or is of a dtype that
    NumPy doesn't have. The memory is lent by DLPack, for as long as NumPy's array is there: then
    JAX can have it donated.
    """
    for array in arrays:
        if not (
            library_name(array) == "jax.numpy"
            and has_host_memory(array)
            and array.dtype.kind in "fiu"
        ):
            return None
    return tuple(map(np.from_dlpack, arrays))


def given_back(arrays: Any, like: Array) -> Any:
    """Return NumPy's arrays, which nobody writes to any more, as JAX's.

    Parameters
    ----------
    arrays
        An array or a tuple of some.
    like
        Of JAX: the results lie where it lies, and are bound to that device if it is.
    """
    jax: Any = sys.modules["jax"]
    if getattr(like, "committed", True):  # which JAX 0.5 doesn't tell
        return jax.device_put(arrays, like.device)
    with jax.default_device(like.device):
        return jax.device_put(arrays)
