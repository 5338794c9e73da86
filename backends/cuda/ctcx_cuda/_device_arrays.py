"""CuPy arrays and PyTorch tensors as the kernels see them: addresses, strides and streams.

Nothing is copied and nothing waits. Results and scratch memory come from the caller's own library,
whose allocator knows on which stream they are used.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import array_api_compat

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["View", "dtype_name", "empty", "empty_like_layout", "on_stream_of", "view"]


class View(NamedTuple):
    """Address of an array's first element, and its strides in elements."""

    address: int
    strides: tuple[int, ...]


def view(array: Any) -> View:
    """Return where an array lies."""
    if array_api_compat.is_torch_array(array):
        return View(array.data_ptr(), tuple(array.stride()))
    size = array.dtype.itemsize
    return View(array.data.ptr, tuple(stride // size for stride in array.strides))


def dtype_name(array: Any) -> str:
    """Return ``"float32"`` and the like, for either library."""
    return str(array.dtype).removeprefix("torch.")


def empty(like: Any, shape: tuple[int, ...], dtype: str) -> Any:
    """Return uninitialised memory in the library and on the device of ``like``."""
    if array_api_compat.is_torch_array(like):
        torch = sys.modules["torch"]
        return torch.empty(shape, dtype=getattr(torch, dtype), device=like.device)
    return array_api_compat.array_namespace(like).empty(shape, dtype=dtype)


def empty_like_layout(logits: Any) -> Any:
    """Return uninitialised memory for a gradient, frames outermost where logits have them so."""
    N, T, C = logits.shape
    frames_first = len(logits) > 1 and view(logits).strides[1] > view(logits).strides[0]
    shape = (T, N, C) if frames_first else (N, T, C)
    if array_api_compat.is_torch_array(logits):
        grad = sys.modules["torch"].empty(shape, dtype=logits.dtype, device=logits.device)
    else:
        grad = array_api_compat.array_namespace(logits).empty(shape, dtype=logits.dtype)
    xp = array_api_compat.array_namespace(grad)
    return xp.permute_dims(grad, (1, 0, 2)) if frames_first else grad


@contextmanager
def on_stream_of(logits: Any) -> Iterator[None]:
    """Make the logits' device, and the caller's stream on it, CuPy's current ones."""
    import cupy

    if not array_api_compat.is_torch_array(logits):
        with logits.device:
            yield
        return
    index = logits.device.index
    current = sys.modules["torch"].cuda.current_stream(index).cuda_stream
    with cupy.cuda.Device(index), _as_cupy_stream(current):
        yield


def _as_cupy_stream(address: int) -> Any:
    import cupy

    if hasattr(cupy.cuda.Stream, "from_external"):
        return cupy.cuda.Stream.from_external(_Stream(address))
    return cupy.cuda.ExternalStream(address)  # CuPy 13


class _Stream:
    """A stream in the form of the CUDA stream protocol, which only recent PyTorch has itself."""

    def __init__(self, address: int) -> None:
        self._address = address

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._address
