"""What an array is, without importing its library: whose, where, of what dtype, readable or not."""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import array_api_compat
import numpy as np

from ctcx._arrays.tensor_forms import META, form_of, form_of_modes, forms_of, is_plain

if TYPE_CHECKING:
    from ctcx._arrays.tensor_forms import Form
    from ctcx._typing import Array, ArrayModule

__all__ = [
    "ArrayFacts",
    "any_traced",
    "at_least_one",
    "can_be_written",
    "describe",
    "device_name",
    "device_of",
    "first_true",
    "has_float64",
    "has_host_memory",
    "index_dtype",
    "is_array",
    "is_contiguous",
    "is_elsewhere",
    "is_known_of",
    "is_numpy",
    "is_undecided",
    "kernel_integers",
    "library_name",
    "looked_into",
    "namespace_of",
]

_DEVICE_WRAPPER = re.compile(r".*\('(.*)'\)\Z")


class ArrayFacts(NamedTuple):
    """Static facts about an array; the fields are as in :class:`ctcx.plugin.Problem`.

    ``form`` is about tensors of PyTorch (:mod:`ctcx._arrays.tensor_forms`), and 0 for other arrays.
    """

    xp: ArrayModule
    namespace: str
    device: str
    dtype: str
    traced: bool
    contiguous: bool
    form: Form = 0


def is_array(value: object) -> bool:
    """Whether ``value`` belongs to an array library that ctcx can compute on."""
    # The first two questions are the common cases, and ten times as fast as the third.
    return (
        is_numpy(value)
        or type(value) in _namespaces
        or bool(array_api_compat.is_array_api_obj(value))
    )


def is_numpy(value: object) -> bool:
    """Whether ``value`` is a NumPy array: data that lies in the host's memory."""
    return isinstance(value, np.ndarray)


def can_be_written(array: Array) -> bool:
    """Whether each element has memory of its own, which isn't read-only, as others' may be.

    A kernel may return one number for many entries.
    """
    if is_numpy(array):
        return bool(array.flags.writeable)
    strides = getattr(array, "stride", None)  # of PyTorch
    return strides is None or 0 not in strides()


def describe(array: Array, argument: str | None = None) -> ArrayFacts:
    """Read off the facts.

    Raises CTCInputError: it is the ``argument`` of a call, and a tensor of PyTorch that
    :func:`form_of` refuses.
    """
    xp = namespace_of(array)
    dtype = _dtype_name(array.dtype)
    if type(array) is np.ndarray:
        return ArrayFacts(xp, "numpy", "cpu", dtype, False, array.flags.c_contiguous)
    namespace = _namespace_name(xp)
    if namespace == "torch":  # whose answers are at hand, without the detours of other libraries
        form = (form_of(argument, array) if argument else forms_of(array)) | form_of_modes()
        device = _device_label(array.device)
        traced, contiguous = bool(form & META), bool(array.is_contiguous())
        return ArrayFacts(xp, namespace, device, dtype, traced, contiguous, form)
    return ArrayFacts(
        xp, namespace, device_name(array), dtype, any_traced(array), is_contiguous(array)
    )


def namespace_of(array: Array) -> ArrayModule:
    """:func:`array_api_compat.array_namespace`, a tenth as long the second time for a type."""
    found = _namespaces.get(type(array))
    if found is None:
        found = array_api_compat.array_namespace(array)
        if found.__name__ == "mlx.core":  # which compat doesn't complete
            found = _in_mlx().NAMESPACE
        _namespaces[type(array)] = found
    return found


def is_known_of(array: object, xp: ArrayModule) -> bool:
    """Whether an array of this type has been seen before, and is of that library."""
    return _namespaces.get(type(array)) is xp


# NumPy 2.1 and later conform by themselves. Their counterpart in compat copies all that NumPy has,
# which imports NumPy's tests and f2py: half of the time of a process before its first result.
_CONFORMING = np.__array_api_version__ >= "2023.12"
_namespaces: dict[type, ArrayModule] = {np.ndarray: np} if _CONFORMING else {}


def library_name(array: Array) -> str:
    """Name of the array's namespace, as in :attr:`ctcx.plugin.Problem.namespace`."""
    return _namespace_name(namespace_of(array))


@lru_cache(maxsize=64)
def _namespace_name(xp: ArrayModule) -> str:
    return str(xp.__name__).removeprefix("array_api_compat.")


def device_of(array: Array, *, traced: bool = False) -> Any:
    """Return the device as the library itself represents it.

    None where there isn't one: while JAX traces, also for arrays with values if the call is
    ``traced``, and for its arrays that are spread over several.
    """
    # compat takes microseconds to see whose array it is, and JAX to make up its own answer.
    library = library_name(array)
    if library == "torch":
        return array.device
    if library == "mlx.core":
        return _in_mlx().current_device()
    if library != "jax.numpy":
        return array_api_compat.device(array)
    if isinstance(array, sys.modules["jax"].core.Tracer):
        device = array_api_compat.device(array)
        return device if hasattr(device, "platform") else None
    return None if traced else _only_device(array.sharding)


@lru_cache(maxsize=256)
def _only_device(sharding: Any) -> Any:
    """Where an array of JAX's is, if that is one device."""
    devices = sharding.device_set
    return next(iter(devices)) if len(devices) == 1 else None


def device_name(array: Array) -> str:
    """Name of the device as the library says it.

    Where there isn't one, it is ``"cpu"`` if JAX has no other kind, else ``"unknown"``.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        return _device_label(array.device)
    device = device_of(array)
    if device is None:
        known = library_name(array) == "jax.numpy" and _has_only_cpus()
        return "cpu" if known else "unknown"
    if library_name(array) == "mlx.core":
        (name,) = _in_mlx().devices()
        return str(name)
    if _is_cupy_device(device):
        return f"cuda:{device.id}"
    return device if isinstance(device, str) else _device_label(device)


@lru_cache(maxsize=1)
def _has_only_cpus() -> bool:
    """Whether JAX, which is imported, can compute on nothing but the host."""
    # Where JAX has it: importing the public name takes 40 ms in JAX 0.10.
    try:
        from jax._src.xla_bridge import backends
    except ImportError:
        from jax.extend.backend import backends

    return set(backends()) == {"cpu"}


def is_elsewhere(device: str, other: str) -> bool:
    """Whether two names of devices, of one library, are of different ones, as far as is known."""
    if "unknown" in (device, other):
        return False
    if ":" in device and ":" in other:
        return device != other
    return device.partition(":")[0] != other.partition(":")[0]


def _is_cupy_device(device: object) -> bool:
    """Whether it is one of CuPy's devices, which can't be hashed and so not be cached by."""
    return type(device).__module__.startswith("cupy")


@lru_cache(maxsize=256)
def _device_label(device: Any) -> str:
    return _device_text(str(device))


def _device_text(text: str) -> str:
    if " object at 0x" in text:  # ndonnx's device, which has no name
        return "unknown"
    wrapped = _DEVICE_WRAPPER.match(text)
    return wrapped.group(1) if wrapped else text.replace("TFRT_CPU_", "cpu:")  # so JAX 0.5 says


def _dtype_name(dtype: Any) -> str:
    return _numpy_dtype_name(dtype) if isinstance(dtype, np.dtype) else _last_word(dtype)


def _last_word(dtype: Any) -> str:
    return str(dtype).rpartition(".")[2]


_numpy_dtype_name = lru_cache(maxsize=256)(_last_word)  # which NumPy takes microseconds to write


def has_host_memory(array: Array) -> bool:
    """Whether an array's elements lie in the host's memory, where its address and strides say.

    For kernels that take addresses. Those that ctcx calls through a backend need not ask of
    tensors of PyTorch, since ctcx calls kernels with no others.

    Parameters
    ----------
    array
        Of any library.

    Returns
    -------
    bool
        True for NumPy's arrays; for tensors of PyTorch on the CPU that are dense, own their memory
        and lie inside of it; for concrete arrays of JAX on one CPU device; and for those of MLX
        where the CPU computes. False for all else: other devices, tracers, fake, functional and
        sparse tensors, subclasses that wrap tensors, tensors with a lazy negative bit, tensors of
        zeros without memory, and other libraries.
    """
    if is_numpy(array):
        return True
    jax, torch = sys.modules.get("jax"), sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        return bool(array.is_cpu) and is_plain(array)
    if jax is not None and isinstance(array, jax.Array) and not any_traced(array):
        device = _only_device(array.sharding)
        return device is not None and device.platform == "cpu" and not array.is_deleted()
    mlx = sys.modules.get("mlx.core")
    if mlx is not None and isinstance(array, mlx.array):
        return device_name(array) == "cpu" and not any_traced(array)
    return False


def any_traced(*arrays: Array) -> bool:
    """Whether a kernel must be traced: it gets no values, or what it does is recorded, not done.

    So it is for torch tensors on the meta device, for JAX tracers, and for any array of JAX's,
    also one with values, where JAX stages operations (:func:`ctcx._arrays.jax.is_staging`): in a
    function under ``jax.jit``, ``jax.lax.scan``, ``jax.checkpoint``, ``jax.shard_map``, ... And for
    arrays of MLX's under ``mx.compile`` and ``mx.vmap``; others of MLX's are computed. An array of
    ndonnx's that has no value is a place in a graph of ONNX.
    """
    # Loops, not any(): this is asked several times a call.
    jax, torch = sys.modules.get("jax"), sys.modules.get("torch")
    if jax is not None:
        tracer, others = jax.core.Tracer, False
        for array in arrays:
            if isinstance(array, tracer):
                return True
            others = others or not isinstance(array, np.ndarray)
        if others and _is_staging_jax(*arrays):
            return True
    if torch is not None:
        tensor = torch.Tensor
        for array in arrays:
            if isinstance(array, tensor) and array.is_meta:
                return True
    mlx = sys.modules.get("mlx.core")
    if mlx is not None and any(isinstance(array, mlx.array) for array in arrays):
        return bool(_in_mlx().is_traced(*arrays))
    ndonnx = sys.modules.get("ndonnx")
    return ndonnx is not None and any(
        isinstance(array, ndonnx.Array) and not _has_value(array) for array in arrays
    )


def _has_value(array: Any) -> bool:
    """Whether an array of ndonnx's is more than a place in a graph."""
    try:
        array.unwrap_numpy()
    except ValueError:
        return False
    return True


def _is_staging_jax(*arrays: Array) -> bool:
    return _in_jax().is_staging() and any(map(array_api_compat.is_jax_array, arrays))


@lru_cache(maxsize=1)
def _in_jax() -> Any:
    """Questions that JAX has to be imported for; an import statement takes a microsecond."""
    return import_module("ctcx._arrays.jax")


@lru_cache(maxsize=1)
def _in_mlx() -> Any:
    """Do the same for MLX."""
    return import_module("ctcx._arrays.mlx")


def is_undecided(*sizes: Any) -> bool:
    """Whether JAX hasn't decided one of these sizes: ``jax.export`` with symbolic shapes.

    Such a size can be calculated with, but not compared, unless the answer is the same for all.
    """
    export = sys.modules.get("jax.export")
    return export is not None and any(
        not isinstance(size, int) and export.is_symbolic_dim(size) for size in sizes
    )


def at_least_one(size: int) -> int:
    """``max(1, size)``, also of a size that is undecided."""
    undecided = is_undecided(size)
    least: int = sys.modules["jax"].core.max_dim(size, 1) if undecided else max(1, size)
    return least


def is_contiguous(array: Array) -> bool:
    """Whether its elements lie in row-major order; True where a library has no such notion."""
    flags = getattr(array, "flags", None)
    if flags is not None and hasattr(flags, "c_contiguous"):  # NumPy and CuPy
        return bool(flags.c_contiguous)
    is_contiguous = getattr(array, "is_contiguous", None)
    return bool(is_contiguous()) if callable(is_contiguous) else True  # torch


@lru_cache(maxsize=64)
def kernel_integers(xp: ArrayModule) -> tuple[Any, ...]:
    """Dtypes in which kernels take labels and lengths, as the library's arrays have them."""
    # ndonnx has int32, but indexes with int64 only.
    kinds = (xp.int64,) if xp.__name__ == "ndonnx" else (xp.int32, xp.int64)
    # NumPy, CuPy and JAX name a dtype by a class, and comparing with one takes longer.
    return tuple(np.dtype(kind) if isinstance(kind, type) else kind for kind in kinds)


def index_dtype(xp: ArrayModule, device: Any) -> Any:
    """Integer dtype that the library indexes with by default on this device."""
    return _dtypes(xp, device)[0]


def has_float64(xp: ArrayModule, device: Any) -> bool:
    """Whether the library has float64 on this device: JAX has it in one of its modes only."""
    return _dtypes(xp, device)[1]


def looked_into(array: Array) -> Array:
    """Return an array of which some elements are to be read one by one: of JAX's a copy for NumPy.

    JAX would make a program for each place, and can't tell where an element lies of an array that
    is sharded over axes of ``AxisType.Explicit``.
    """
    return np.asarray(array) if array_api_compat.is_jax_array(array) else array


def first_true(condition: Array, xp: ArrayModule) -> int:
    """Place of the first True in row-major order; there is one.

    Where a device has no 64-bit types, ``argmax`` need not give integers that it has.
    """
    if is_numpy(condition := looked_into(condition)):
        return int(np.argmax(condition))
    flat, device = xp.reshape(condition, (-1,)), device_of(condition)
    place = xp.arange(flat.shape[0], dtype=index_dtype(xp, device), device=device)
    return int(xp.min(xp.where(flat, place, flat.shape[0])))


def _dtypes(xp: ArrayModule, device: Any) -> tuple[Any, bool]:
    name = _namespace_name(xp)
    if name == "numpy":
        return np.dtype(np.intp), True
    if name == "cupy":  # whose devices can't be hashed
        return _ask_for_dtypes(xp, device)
    if name == "jax.numpy":  # one for all devices, by a switch that may be thrown
        return _known_dtypes(xp, None, sys.modules["jax"].config.jax_enable_x64)
    return _known_dtypes(xp, device)


def _ask_for_dtypes(xp: ArrayModule, device: Any, *_: object) -> tuple[Any, bool]:
    info = xp.__array_namespace_info__()
    floating = info.dtypes(device=device, kind="real floating")
    return info.default_dtypes(device=device)["indexing"], "float64" in floating


_known_dtypes = lru_cache(maxsize=256)(_ask_for_dtypes)
