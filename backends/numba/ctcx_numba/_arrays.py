"""The host memory of arrays of NumPy, PyTorch and JAX, as NumPy arrays and back, without a copy."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from ctcx.plugin import Decline, has_host_memory

__all__ = ["integers", "is_plain", "like_given", "readable"]


def _on_host(array: Any) -> Any:
    """NumPy array of the same memory; of bfloat16, which NumPy doesn't have, a float32 copy."""
    if isinstance(array, np.ndarray):
        return array
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        if not has_host_memory(array):
            msg = f"a {type(array).__name__} whose elements are not in memory of its own on the CPU"
            raise Decline(msg)
        array = array.detach() if array.requires_grad else array
        return (array.float() if array.dtype is torch.bfloat16 else array).numpy()
    return np.asarray(array)  # JAX lends its memory, to be read only


def is_plain(torch: Any, tensor: Any) -> bool:
    """Whether a tensor is one of PyTorch's own on the CPU.

    A quick look, for small calls: ctcx calls kernels with tensors only that have memory there.
    """
    kind = type(tensor)
    plain = kind is torch.Tensor or kind is torch.nn.Parameter
    return plain and tensor.is_cpu and not tensor.is_neg()


def readable(logits: Any) -> Any:
    """Logits whose rows a kernel can read: float32 or float64, aligned, classes side by side.

    Half precision becomes float32. A copy is made only of that, and of arrays that are sliced
    within rows or transposed so that classes aren't the innermost axis.
    """
    host = _on_host(logits)
    kind = np.float64 if host.dtype.itemsize == 8 else np.float32
    host = host.astype(kind, copy=False)  # native byte order too
    size = host.itemsize
    side_by_side = host.shape[2] == 1 or host.strides[2] == size
    in_elements = all(stride % size == 0 for stride in host.strides[:2])
    if side_by_side and in_elements and host.flags.aligned:
        return host
    return np.ascontiguousarray(host)


def integers(array: Any) -> Any:
    """Copy of labels or lengths as the compiled functions take them: int64, contiguous.

    Always a copy: another thread may change them during the call.
    """
    return np.array(_on_host(array), dtype=np.int64, order="C")


def _cast(result: Any, dtype: Any) -> Any:
    """Copy of another dtype, or the result itself.

    The gradient of a sequence that failed validation holds whatever its memory held: casting
    that to half precision must not warn of an overflow.
    """
    with np.errstate(all="ignore"):
        return result.astype(dtype, copy=False)


def like_given(result: Any, given: Any, *, dtype: Any = None) -> Any:
    """Result of a kernel as an array of the library that ``given`` is of.

    ``dtype`` is that of the library; by default the result's own.
    """
    if isinstance(given, np.ndarray):
        return result if dtype is None else _cast(result, dtype)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(given, torch.Tensor):
        tensor = torch.from_numpy(result)
        return tensor if dtype is None else tensor.to(dtype)
    import jax

    return jax.device_put(result if dtype is None else _cast(result, dtype), given.device)
