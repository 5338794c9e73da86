"""Arrays of MLX: its namespace as the standard has it, how to make and read them, and their state.

As in :mod:`ctcx._arrays.numpy`, and besides: whether an array can be read, whether MLX records what
is done to it, and what has no array: the device. An array of MLX's lies in memory that the CPU and
the GPU share; the default device computes. Imports MLX, so it is imported only where there are
arrays of MLX's.
"""

from __future__ import annotations

from io import StringIO
from types import ModuleType
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctcx._typing import Array

__all__ = [
    "NAMESPACE",
    "as_constant",
    "current_device",
    "devices",
    "evaluate",
    "from_host",
    "from_numpy",
    "is_recorded",
    "is_traced",
    "on_host",
    "synchronize",
    "to_numpy",
]

_TRACED = "function transformations"
"""What MLX says, of all its errors only where a value doesn't exist: while it compiles or maps."""


class _StandardNamespace(ModuleType):
    """``mlx.core`` with those parameters of the standard that its functions don't have.

    A device is not one of them: what is made is made for the default device, as by MLX itself.
    """

    def __getattr__(self, name: str) -> Any:
        found = getattr(mx, "bool_" if name == "bool" else name)
        setattr(self, name, found)
        return found

    @staticmethod
    def asarray(
        values: Any, *, dtype: Any = None, device: Any = None, copy: bool | None = None
    ) -> Array:
        """Copy, always: MLX may share the memory of others, and write to what it shares."""
        del device, copy
        if isinstance(values, np.ndarray) and any(stride < 0 for stride in values.strides):
            values = values.copy()  # MLX takes no negative strides, though it makes them
        return mx.asarray(values, dtype=dtype, copy=True)

    @staticmethod
    def arange(*limits: float, dtype: Any = None, device: Any = None) -> Array:
        """As in the standard."""
        del device
        return mx.arange(*limits, dtype=dtype)

    @staticmethod
    def full(shape: Any, value: Any, *, dtype: Any = None, device: Any = None) -> Array:
        """As in the standard."""
        del device
        return mx.full(shape, value, dtype=dtype)

    @staticmethod
    def zeros(shape: Any, *, dtype: Any = mx.float32, device: Any = None) -> Array:
        """As in the standard."""
        del device
        return mx.zeros(shape, dtype=dtype)

    empty = zeros

    @staticmethod
    def ones(shape: Any, *, dtype: Any = mx.float32, device: Any = None) -> Array:
        """As in the standard."""
        del device
        return mx.ones(shape, dtype=dtype)

    @staticmethod
    def full_like(array: Array, value: Any, *, dtype: Any = None, device: Any = None) -> Array:
        """As in the standard."""
        del device
        return mx.full(array.shape, value, dtype=dtype or array.dtype)

    @staticmethod
    def astype(array: Array, dtype: Any, *, copy: bool = True, device: Any = None) -> Array:
        """As in the standard; arrays don't change, so a copy is none."""
        del copy, device
        return array.astype(dtype)

    @staticmethod
    def sum(array: Array, *, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Array:
        """As in the standard, in float64 on the CPU, where MLX adds one number after the other."""
        if dtype is not None:
            array = array.astype(dtype)
        if array.dtype == mx.float32 and mx.default_device() == mx.cpu:
            wide = mx.sum(array.astype(mx.float64), axis=axis, keepdims=keepdims)
            return wide.astype(mx.float32)
        return mx.sum(array, axis=axis, keepdims=keepdims)

    @staticmethod
    def cumulative_sum(
        array: Array, *, axis: int = -1, dtype: Any = None, include_initial: bool = False
    ) -> Array:
        """As in the standard."""
        sums = mx.cumsum(array, axis=axis, dtype=dtype)
        if not include_initial:
            return sums
        shape = [*array.shape]
        shape[axis] = 1
        return mx.concatenate([mx.zeros(shape, dtype=sums.dtype), sums], axis=axis)

    @staticmethod
    def argsort(
        array: Array, *, axis: int = -1, descending: bool = False, stable: bool = True
    ) -> Array:
        """As in the standard, ascending; MLX sorts by merging, which is stable."""
        if descending:
            msg = "MLX sorts in ascending order only"
            raise NotImplementedError(msg)
        del stable
        return mx.argsort(array, axis=axis)

    @staticmethod
    def exp(array: Array) -> Array:
        """As in the standard, by ``expm1``, of one number in 2**22 or, in float64, 2**51.

        On a CPU ``mx.exp`` is of one in 2**19, in float64 too, always too large or always too small
        for the same number: over the frames of a sequence that adds up.
        """
        large = mx.expm1(mx.abs(array)) + 1.0
        return mx.where(array < 0, 1.0 / large, large)

    @staticmethod
    def logaddexp(one: Array, other: Array) -> Array:
        """As in the standard; ``mx.logaddexp`` is as inexact as ``mx.exp``."""
        top, low = mx.maximum(one, other), mx.minimum(one, other)
        return top + mx.log1p(_StandardNamespace.exp(mx.where(top == low, 0.0, low - top)))

    @staticmethod
    def roll(array: Array, shift: Any, *, axis: Any = None) -> Array:
        """As in the standard."""
        return mx.roll(array, shift, axis)


NAMESPACE = _StandardNamespace("mlx.core")


def current_device() -> Any:
    """Return the device that computes now: MLX's default, or that of ``with mx.stream(...)``."""
    return mx.default_device()


def evaluate(*arrays: Any) -> bool:
    """Compute arrays, or whatever holds them, now; False where MLX traces and there are no values.

    MLX only notes what is to be done until somebody asks for a value.
    """
    try:
        mx.eval(*arrays)
    except ValueError as error:
        if _TRACED in str(error):
            return False
        raise
    return True


def is_traced(*arrays: Array) -> bool:
    """Whether an array has no value: in functions under ``mx.compile`` or ``mx.vmap``.

    What has one is computed.
    """
    return not evaluate([array for array in arrays if isinstance(array, mx.array)])


def is_recorded(array: Array) -> bool:
    """Whether MLX keeps how an array was made after it was computed: under ``mx.grad``, ...

    There is no other way to see that a function is being differentiated.
    """
    made = mx.stop_gradient(array)
    if not evaluate(made):
        return True
    drawing = StringIO()
    mx.export_to_dot(drawing, made)
    return "->" in drawing.getvalue()


def as_constant(array: Array) -> Array:
    """Return a copy that MLX knows nothing of: it won't keep what is made from it.

    ``mx.stop_gradient`` only stops derivatives.
    """
    return array if is_traced(array) else from_host(on_host(array), array.dtype)


def on_host(array: Array) -> NDArray[Any]:
    """Return the memory of an array, which must not be written to; uint16 for bfloat16."""
    return np.asarray(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)


def from_host(array: NDArray[Any], dtype: Any) -> Array:
    """Copy what :func:`on_host` gives, or something like it; ``dtype`` is that of the result."""
    if dtype == mx.bfloat16:
        return NAMESPACE.asarray(array, dtype=mx.uint16).view(mx.bfloat16)
    return NAMESPACE.asarray(array, dtype=dtype)


def from_numpy(array: NDArray[Any], dtype: str | None = None, device: str | None = None) -> Any:
    """Make an array; MLX's arrays are on no device, so one can only be asked for that computes."""
    if device not in {None, *devices()}:
        msg = f"MLX has no device {device!r}; it has {', '.join(devices())}"
        raise ValueError(msg)
    if (dtype or array.dtype.name) == "float64" and mx.default_device() == mx.gpu:
        msg = "MLX has float64 on the CPU only: with mx.stream(mx.cpu)"
        raise ValueError(msg)
    name = dtype or array.dtype.name
    plain = array.astype("float32") if array.dtype.name == "bfloat16" else array
    return NAMESPACE.asarray(plain, dtype=getattr(NAMESPACE, name))


def to_numpy(array: Any) -> NDArray[Any]:
    """Copy; bfloat16, which NumPy doesn't have, becomes float32."""
    return np.array(array.astype(mx.float32) if array.dtype == mx.bfloat16 else array)


def devices() -> tuple[str, ...]:
    """Name the one that computes: ``"cpu"`` or ``"gpu"``."""
    return (str(mx.default_device().type).rpartition(".")[2],)


def synchronize(array: Any) -> None:
    """Compute the array, and wait until that is done."""
    mx.eval(array)
