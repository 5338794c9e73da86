"""Where and in what precision a call computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ctcx._arrays.facts import device_of, has_float64, namespace_of

if TYPE_CHECKING:
    from ctcx._typing import Array, ArrayModule

__all__ = ["DEAD", "GRAIN", "START", "Context", "in_grains"]


class Context(NamedTuple):
    """The array library, the device and the dtypes of one call.

    Every array that the core makes is made here, so that none can land on another device.
    """

    xp: ArrayModule
    device: Any
    dtype: Any
    index_dtype: Any
    has_float64: bool

    @classmethod
    def of(cls, logits: Array, *integers: Array) -> Context:
        """float64 for float64 logits, else float32; indices as wide as the widest integers."""
        xp = namespace_of(logits)
        dtype = xp.float64 if logits.dtype == xp.float64 else xp.float32
        index_dtype = integers[0].dtype
        if any(array.dtype != index_dtype for array in integers):
            index_dtype = xp.int64
        device = device_of(logits)
        return cls(xp, device, dtype, index_dtype, has_float64(xp, device))

    def full(self, shape: tuple[int, ...], value: float) -> Array:
        """Floating-point array of one value."""
        return self.xp.full(shape, value, dtype=self.dtype, device=self.device)

    def integers(self, shape: tuple[int, ...], value: int) -> Array:
        """Integer array of one value."""
        return self.xp.full(shape, value, dtype=self.index_dtype, device=self.device)

    def arange(self, start: int, stop: int) -> Array:
        """Whole numbers from ``start`` to ``stop - 1``."""
        return self.xp.arange(start, stop, dtype=self.index_dtype, device=self.device)

    def as_indices(self, array: Array) -> Array:
        """To the dtype of indices; no copy if it has it."""
        return array if array.dtype == self.index_dtype else self.xp.astype(array, self.index_dtype)

    def cast(self, array: Array) -> Array:
        """To the dtype of the computation; no copy if it has it."""
        return array if array.dtype == self.dtype else self.xp.astype(array, self.dtype)


DEAD = -1e30
"""Exponent of a state of probability 0. Finite, so that differences of two are 0 and never NaN."""


GRAIN = 8.0
"""Exponents are multiples of this; a power of two, so that multiplying by it is exact."""


START = 6e7
"""Exponent of the state that each direction starts in."""


def in_grains(numbers: Array, xp: ArrayModule, grain: float = GRAIN) -> Array:
    """Round to multiples of ``grain``; what is taken off by that has an exact difference."""
    return xp.round(numbers * (1.0 / grain)) * grain
