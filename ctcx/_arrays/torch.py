"""Make, read back and wait for tensors of PyTorch; as in :mod:`ctcx._arrays.numpy`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["devices", "from_numpy", "synchronize", "to_numpy"]


def from_numpy(array: NDArray[Any], dtype: str | None = None, device: str | None = None) -> Any:
    """Tensor with a copy of the data, on ``"cpu"``, ``"cuda:0"``, ``"mps"``, ..."""
    if dtype is None and array.dtype.name == "bfloat16":
        dtype = "bfloat16"
    plain = array if array.dtype.name != "bfloat16" else array.astype("float32")
    kind = None if dtype is None else getattr(torch, dtype)
    # MPS has no float64 and says so with a TypeError of its own.
    if device is not None and device.startswith("mps") and (dtype or plain.dtype.name) == "float64":
        msg = f"device {device!r} has no float64"
        raise ValueError(msg)
    return torch.tensor(plain, dtype=kind, device=device)


def to_numpy(array: Any) -> NDArray[Any]:
    """Copy on the host; bfloat16, which NumPy doesn't have, becomes float32."""
    # A copy comes first: .numpy() takes from a storage, for good, that it can be resized.
    host = array.detach().to("cpu", copy=True)
    copied: NDArray[Any] = (host.float() if host.dtype == torch.bfloat16 else host).numpy()
    return copied


def devices() -> tuple[str, ...]:
    """List the CPU and each accelerator that is present."""
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps:0")
    return tuple(devices)


def synchronize(array: Any) -> None:
    """Wait until the tensor's device has nothing left to do."""
    if array.device.type == "cuda":
        torch.cuda.synchronize(array.device)
    elif array.device.type == "mps":
        torch.mps.synchronize()
