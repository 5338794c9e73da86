"""Fixtures for tests of kernels.

In a conftest: ``pytest_plugins = ["cuda_on_cpu.pytest_plugin"]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cuda_on_cpu.device import counting, thread_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from cuda_on_cpu.device import Counters

__all__ = ["any_thread_order", "fresh_memory", "gpu_counters"]


@pytest.fixture(autouse=True)
def fresh_memory() -> Iterator[None]:
    """Take every array from the device, not from CuPy's pool.

    New memory holds NaN, so that what a kernel leaves unwritten shows; its end is watched.
    """
    import cupy

    pool = cupy.cuda.get_allocator()
    cupy.cuda.set_allocator(None)
    yield
    cupy.cuda.set_allocator(pool)


@pytest.fixture
def gpu_counters() -> Callable[[], AbstractContextManager[Counters]]:
    """``with gpu_counters() as counted: ...``, then ``counted.launches`` and the like."""
    return counting


@pytest.fixture(params=["forward", "reverse", "random-1"])
def any_thread_order(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once in each order of threads and blocks."""
    order, _, seed = request.param.partition("-")
    with thread_order(order, int(seed or 0)):
        yield request.param
