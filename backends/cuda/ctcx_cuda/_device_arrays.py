"""CuPy arrays and PyTorch tensors as the kernels see them: addresses, strides and streams.

Nothing is copied and nothing waits. Results and scratch memory come from the caller's own library,
whose allocator knows on which stream they are used. An address is taken only of an array whose
elements lie where it and the strides say.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import array_api_compat

from ctcx.plugin import Decline

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "View",
    "dtype_name",
    "empty",
    "empty_like_layout",
    "keeping",
    "on_stream_of",
    "require_memory",
    "view",
]


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


def require_memory(*arrays: Any) -> None:
    """Decline arrays whose elements do not lie where their address and strides say.

    Raises Decline: a tensor that is no plain one (fake, wrapped, of a subclass with memory of its
    own, lazily negated or zero, sparse, with freed storage), a dispatch mode that makes such
    tensors, or a CuPy array whose elements are not aligned.
    """
    if not array_api_compat.is_torch_array(arrays[0]):
        for array in arrays:
            size = array.dtype.itemsize
            if array.data.ptr % size or any(stride % size for stride in array.strides):
                msg = f"an array has strides of {array.strides} bytes, elements have {size}"
                raise Decline(msg)
        return
    if sys.modules["torch"]._C._len_torch_dispatch_stack():  # noqa: SLF001 - no public way
        msg = "a dispatch mode of PyTorch is on (FakeTensorMode or the like): the kernels bypass it"
        raise Decline(msg)
    for tensor in arrays:
        if trouble := _unlike_plain(tensor) or _outside_storage(tensor):
            msg = f"a tensor {trouble}: its elements can't be read by their address"
            raise Decline(msg)


_PLAIN = {"CUDA", "CPU", "ADInplaceOrView"}
_unlike: dict[int, str] = {}  # by the set of dispatch keys, of which a process sees a few


def _unlike_plain(tensor: Any) -> str:
    keys = sys.modules["torch"]._C._dispatch_keys(tensor)  # noqa: SLF001 - no public way
    found = _unlike.get(number := keys.raw_repr())
    if found is None:
        names = str(keys).partition("(")[2].rstrip(")").split(", ")
        others = {name.removeprefix("Autograd").removeprefix("Autocast") for name in names} - _PLAIN
        found = _unlike[number] = f"has the dispatch keys {sorted(others)}" if others else ""
    return found


def _outside_storage(tensor: Any) -> str:
    end = tensor.storage_offset() + tensor.numel()
    if not tensor.is_contiguous():
        strides = zip(tensor.shape, tensor.stride(), strict=True)
        end = tensor.storage_offset() + 1 + sum((size - 1) * stride for size, stride in strides)
    inside = end * tensor.itemsize <= tensor.untyped_storage().nbytes() or tensor.numel() == 0
    return "" if inside else "reaches past its storage, which was freed or made smaller"


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


def keeping(array: Any, *others: Any) -> Any:
    """Return a CuPy array whose memory, as long as it or a view of it lives, keeps others too."""
    import cupy

    memory = cupy.cuda.UnownedMemory(array.data.ptr, array.nbytes, others, array.device.id)
    pointer = cupy.cuda.MemoryPointer(memory, 0)
    return cupy.ndarray(array.shape, array.dtype, pointer, strides=array.strides)


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
