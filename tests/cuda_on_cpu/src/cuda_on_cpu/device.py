"""What tests ask of the pretended device: counters, thread order, memory, failures."""

from __future__ import annotations

import ctypes
import dataclasses
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cuda_on_cpu.library import library

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "ORDERS",
    "Counters",
    "DeviceState",
    "counting",
    "failing_kernel",
    "flushing_subnormals",
    "last_failure",
    "memory_limit",
    "state",
    "thread_order",
]

ORDERS = ("forward", "reverse", "random")
_DEFAULT_LIMIT = 8 << 30


@dataclass(slots=True)
class Counters:
    """How often the device was asked for what.

    A copy that isn't asynchronous counts as a synchronisation too, unless both ends are on the
    device. Allocations and frees are those that reach the device, not those of CuPy's pool.
    """

    host_to_device: int = 0
    device_to_host: int = 0
    device_to_device: int = 0
    sets: int = 0
    launches: int = 0
    synchronisations: int = 0
    allocations: int = 0
    frees: int = 0


@dataclass(frozen=True, slots=True)
class DeviceState:
    """Counters since the process began, and bytes allocated now."""

    counters: Counters
    allocated: int


def _counters() -> list[int]:
    values = (ctypes.c_long * len(dataclasses.fields(Counters)))()
    library().coc_counters(values)
    return list(values)


def state() -> DeviceState:
    """The device as it is now."""
    return DeviceState(Counters(*_counters()), library().coc_allocated())


@contextmanager
def counting() -> Iterator[Counters]:
    """Count what happens in a block; the numbers are there once the block has ended."""
    counted = Counters()
    before = _counters()
    try:
        yield counted
    finally:
        for field, old, new in zip(dataclasses.fields(Counters), before, _counters(), strict=True):
            setattr(counted, field.name, new - old)


@contextmanager
def thread_order(
    order: Literal["forward", "reverse", "random"] = "forward", seed: int = 0
) -> Iterator[None]:
    """Run the threads of a block, and the blocks, in another order; not nested.

    ``random`` shuffles the threads anew after each round, and leaves the blocks in order.
    """
    library().coc_set_order(ORDERS.index(order), seed)
    try:
        yield
    finally:
        library().coc_set_order(0, 0)


@contextmanager
def memory_limit(size: int) -> Iterator[None]:
    """Let the device have no more than ``size`` bytes, those in use among them; not nested."""
    library().coc_set_memory_limit(size)
    try:
        yield
    finally:
        library().coc_set_memory_limit(_DEFAULT_LIMIT)


@contextmanager
def flushing_subnormals() -> Iterator[None]:
    """Read and write subnormal numbers as 0 in kernels, as CuPy's option ``-ftz=true`` does.

    A GPU flushes float32 only; here float64 is flushed too. Not nested.
    """
    library().coc_flush_subnormals(1)
    try:
        yield
    finally:
        library().coc_flush_subnormals(0)


@contextmanager
def failing_kernel(name: str) -> Iterator[None]:
    """Refuse launches of the kernel ``name``, as a device does that lacks registers for it."""
    library().coc_fail_kernel(name.encode())
    try:
        yield
    finally:
        library().coc_fail_kernel(b"")


def last_failure() -> str:
    """What the device said of the last call that it refused; empty if it has refused none.

    CuPy shows it too, as the text of ``CUDADriverError``.
    """
    return library().coc_last_failure().decode()
