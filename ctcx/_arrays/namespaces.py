"""Make, read back and wait for the arrays of each library that ctcx knows.

For tests, benchmarks and the command line, which start from NumPy. The computation never converts.
Each library is imported inside the functions, so that naming one here costs nothing.

All ``*_from_numpy(array, dtype=None, device=None)`` take the name of a dtype and of a device as
``*_devices()`` gives it, and always copy. Without a dtype the array keeps its own, or gets the
device's default one of that kind where the device lacks it. An integer dtype that a device lacks
becomes its default one too; to ask by name for a floating dtype that it lacks is a `ValueError`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ctcx._errors import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = [
    "cupy_devices",
    "cupy_from_numpy",
    "cupy_runtime_info",
    "cupy_synchronize",
    "cupy_to_numpy",
    "jax_devices",
    "jax_from_numpy",
    "jax_jit",
    "jax_synchronize",
    "jax_to_numpy",
    "numpy_devices",
    "numpy_from_numpy",
    "numpy_to_numpy",
    "probe_cupy",
    "probe_import",
    "strict_devices",
    "strict_from_numpy",
    "strict_to_numpy",
    "torch_devices",
    "torch_from_numpy",
    "torch_synchronize",
    "torch_to_numpy",
]


def probe_import(module: str, install: str) -> str | None:
    """Why a library can't be imported, with what to install; None if it can be."""
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module.partition(".")[0]:
            return f"{error.name} is not installed (pip install {install})"
        return f"{module} can't be imported: {one_line(error)}"
    except Exception as error:  # noqa: BLE001 - a damaged installation may raise anything
        return f"{module} can't be imported: {one_line(error)}"
    return None


# numpy


def numpy_from_numpy(
    array: NDArray[Any], dtype: str | None = None, device: str | None = None
) -> NDArray[Any]:
    """Copy, in another dtype if one is given."""
    import numpy as np

    if device not in {None, "cpu"}:
        msg = f"numpy has the device 'cpu' only, got {device!r}"
        raise ValueError(msg)
    if dtype == "bfloat16":
        msg = "numpy has no dtype bfloat16"
        raise ValueError(msg)
    return np.array(array, dtype=dtype)


def numpy_to_numpy(array: Any) -> NDArray[Any]:
    """Copy."""
    import numpy as np

    return np.array(array)


def numpy_devices() -> tuple[str, ...]:
    """Only the CPU."""
    return ("cpu",)


# torch


def torch_from_numpy(
    array: NDArray[Any], dtype: str | None = None, device: str | None = None
) -> Any:
    """Tensor with a copy of the data, on ``"cpu"``, ``"cuda:0"``, ``"mps"``, ..."""
    import torch

    if dtype is None and array.dtype.name == "bfloat16":
        dtype = "bfloat16"
    plain = array if array.dtype.name != "bfloat16" else array.astype("float32")
    kind = None if dtype is None else getattr(torch, dtype)
    # MPS has no float64 and says so with a TypeError of its own.
    if device is not None and device.startswith("mps") and (dtype or plain.dtype.name) == "float64":
        msg = f"device {device!r} has no float64"
        raise ValueError(msg)
    return torch.tensor(plain, dtype=kind, device=device)


def torch_to_numpy(array: Any) -> NDArray[Any]:
    """Copy on the host; bfloat16, which NumPy doesn't have, becomes float32."""
    import torch

    host = array.detach().cpu()
    widened = host.float() if host.dtype == torch.bfloat16 else host
    return numpy_to_numpy(widened.numpy())


def torch_devices() -> tuple[str, ...]:
    """The CPU and each accelerator that is there."""
    import torch

    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps:0")
    return tuple(devices)


def torch_synchronize(array: Any) -> None:
    """Wait until the tensor's device has nothing left to do."""
    import torch

    if array.device.type == "cuda":
        torch.cuda.synchronize(array.device)
    elif array.device.type == "mps":
        torch.mps.synchronize()


# jax.numpy


def jax_from_numpy(array: NDArray[Any], dtype: str | None = None, device: str | None = None) -> Any:
    """Committed JAX array; float64 only if JAX's 64-bit mode is on."""
    import jax
    import jax.numpy as jnp

    # What 64-bit types become in 32-bit mode, without the warning that asking for them gives.
    kind = jax.dtypes.canonicalize_dtype(jnp.dtype(dtype or array.dtype.name))
    if dtype == "float64" and kind != dtype:
        msg = "JAX has no float64 unless its 64-bit mode is on (JAX_ENABLE_X64=1)"
        raise ValueError(msg)
    where = None if device is None else _jax_device(device)
    return jax.device_put(array.astype(kind), where)


def _jax_device(name: str) -> Any:
    import jax

    known = {str(device): device for device in jax.devices()}
    if name not in known:
        msg = f"JAX has no device {name!r}; it has {', '.join(known)}"
        raise ValueError(msg)
    return known[name]


def jax_to_numpy(array: Any) -> NDArray[Any]:
    """Copy on the host; bfloat16, which NumPy doesn't have, becomes float32."""
    host = numpy_to_numpy(array)
    return host.astype("float32") if host.dtype.name == "bfloat16" else host


def jax_devices() -> tuple[str, ...]:
    """Devices of the default platform, such as ``"cpu:0"``."""
    import jax

    return tuple(map(str, jax.devices()))


def jax_synchronize(array: Any) -> None:
    """Wait until the array is computed."""
    array.block_until_ready()


def jax_jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with :func:`jax.jit`."""
    import jax

    compiled: Callable[..., Any] = jax.jit(function)
    return compiled


# array_api_strict


def strict_from_numpy(
    array: NDArray[Any], dtype: str | None = None, device: str | None = None
) -> Any:
    """Array on one of the pretended devices of array_api_strict, some without 64-bit types."""
    import array_api_strict as xp

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


def strict_to_numpy(array: Any) -> NDArray[Any]:
    """Copy."""
    import array_api_strict as xp
    import numpy as np

    # NumPy may read its CPU device only.
    return np.array(array.to_device(xp.Device("CPU_DEVICE")))


def strict_devices() -> tuple[str, ...]:
    """Names of the pretended devices."""
    return ("CPU_DEVICE", "device1", "device2", "no_float64", "no_x64")


# cupy


def probe_cupy() -> str | None:
    """Why CuPy can't be used: not installed, damaged, or no GPU that it can reach."""
    if reason := probe_import("cupy", "cupy-cuda13x, or cupy-cuda12x for CUDA 12"):
        return reason
    try:
        count = _cupy().cuda.runtime.getDeviceCount()
    except Exception as error:  # noqa: BLE001 - CUDA's own errors, whatever class they have
        return f"CuPy finds no usable GPU: {one_line(error)}"
    return None if count else "CuPy finds no GPU"


def _cupy() -> Any:
    return import_module("cupy")


def cupy_from_numpy(
    array: NDArray[Any], dtype: str | None = None, device: str | None = None
) -> Any:
    """Array on ``"cuda:0"``, ``"cuda:1"``, ..."""
    if dtype == "bfloat16":
        msg = "CuPy has no dtype bfloat16"
        raise ValueError(msg)
    kind, _, index = (device or "cuda:0").partition(":")
    if kind != "cuda" or not index.isdecimal():
        msg = f"a device of CuPy is named like 'cuda:0', got {device!r}"
        raise ValueError(msg)
    cupy = _cupy()
    with cupy.cuda.Device(int(index)):
        return cupy.array(array, dtype=dtype)


def cupy_to_numpy(array: Any) -> NDArray[Any]:
    """Copy on the host."""
    host: NDArray[Any] = _cupy().asnumpy(array)
    return host


def cupy_devices() -> tuple[str, ...]:
    """Each GPU that CUDA shows."""
    return tuple(f"cuda:{index}" for index in range(_cupy().cuda.runtime.getDeviceCount()))


def cupy_synchronize(array: Any) -> None:
    """Wait until the array's device has nothing left to do."""
    array.device.synchronize()


def cupy_runtime_info() -> dict[str, str]:
    """CUDA's versions and the first GPU's name, if CuPy has been imported and can tell."""
    if "cupy" not in sys.modules:
        return {}
    if reason := probe_cupy():
        return {"cupy": reason}
    runtime = _cupy().cuda.runtime
    return {
        "CUDA runtime": str(runtime.runtimeGetVersion()),
        "CUDA driver": str(runtime.driverGetVersion()),
        "GPU": runtime.getDeviceProperties(0)["name"].decode(),
        "CuPy support": (
            "checked on the CUDA-on-CPU harness; not yet run on a GPU. Please run "
            "ctcx conformance array-api --library cupy; the page 'CuPy and GPUs' of the "
            "documentation says where to send the result"
        ),
    }
