"""The host memory of arrays, as NumPy arrays without a copy, and back."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from ctcx.plugin import Decline, has_host_memory

__all__ = ["integers", "like_given", "on_host", "rows"]

_TYPES = ("float16", "uint16", "float32", "float64")  # uint16 holds bfloat16: see on_host
TYPES = {np.dtype(name): number for number, name in enumerate(_TYPES)}
"""Numbers of the types in ``ctcx_cpu.h``."""


class _Lent:
    """Lends a plain tensor's memory as the tensor does, but without its microseconds of checks."""

    __slots__ = ("_tensor",)

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # the CPU

    def __dlpack__(self, **_asked: object) -> Any:
        return sys.modules["torch"].utils.dlpack.to_dlpack(self._tensor)


def on_host(array: Any) -> Any:
    """Return a NumPy array of the same memory; uint16 for bfloat16, which NumPy doesn't have.

    Raises
    ------
    Decline
        A tensor has no plain memory of its own.
    """
    if type(array) is np.ndarray and array.dtype.kind != "V":  # at once, as small calls pay
        return array
    if isinstance(array, np.ndarray):
        host = array
    elif (torch := sys.modules.get("torch")) is not None and isinstance(array, torch.Tensor):
        tensor = array.detach() if array.requires_grad else array
        # ctcx calls with plain tensors only; of these others PyTorch would lend memory, too.
        is_odd = type(tensor) is not torch.Tensor or tensor.is_neg() or tensor._is_zerotensor()  # noqa: SLF001
        try:
            if (is_odd or not tensor.data_ptr()) and not has_host_memory(tensor):
                msg = "the tensor can't be read as plain memory of the CPU"
                raise Decline(msg)
            # Not by .numpy(), after which the caller's tensor can never be resized again.
            if tensor.dtype is torch.bfloat16:
                return np.from_dlpack(_Lent(tensor.view(torch.int16))).view(np.uint16)
            return np.from_dlpack(_Lent(tensor))
        except (RuntimeError, TypeError, BufferError) as error:
            msg = f"the tensor can't be read as plain memory: {str(error).splitlines()[0]}"
            raise Decline(msg) from error
    elif _is_of_mlx(array) and array.dtype == (mlx := sys.modules["mlx.core"]).bfloat16:
        return np.asarray(array.view(mlx.uint16))
    else:
        host = np.asarray(array)  # JAX and MLX lend their memory, to be read only
    dtype = host.dtype  # its kind first: NumPy takes microseconds to make its name
    return host.view(np.uint16) if dtype.kind == "V" and dtype.name == "bfloat16" else host


def rows(host: Any) -> Any:
    """Return logits whose classes lie side by side: a copy only where they don't."""
    flags = host.flags
    if not flags.aligned:
        return np.array(host)
    if flags.c_contiguous or host.shape[2] < 2 or host.strides[2] == host.itemsize:
        return host
    return np.ascontiguousarray(host)


def integers(array: Any) -> Any:
    """Return labels or lengths as int32 or int64, in any strides."""
    host = array if type(array) is np.ndarray else on_host(array)
    if host.dtype.char in "ilq" and host.flags.aligned:
        return host
    return host.astype(np.int64)


def like_given(result: Any, given: Any) -> Any:
    """Return a result as an array of the library and, for a gradient, the dtype of the logits."""
    if isinstance(given, np.ndarray):
        return result.view(given.dtype) if result.dtype.char == "H" else result
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(given, torch.Tensor):
        tensor = torch.from_numpy(result)
        return tensor.view(torch.bfloat16) if result.dtype == np.uint16 else tensor
    if _is_of_mlx(given):
        mlx = sys.modules["mlx.core"]
        array = mlx.asarray(result, dtype=getattr(mlx, result.dtype.name))
        return array.view(mlx.bfloat16) if result.dtype == np.uint16 else array
    import jax

    if result.dtype == np.uint16:
        result = result.view(given.dtype)
    return jax.device_put(result, given.device)


def _is_of_mlx(array: Any) -> bool:
    mlx = sys.modules.get("mlx.core")
    return mlx is not None and isinstance(array, mlx.array)
