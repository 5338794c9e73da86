"""CUDA graphs of CuPy: what a captured call reads and writes stays where the graph expects it.

While a stream is captured, CUDA records work instead of doing it, and each replay of the graph
reads and writes the same addresses. CuPy's memory pool doesn't know: it gives memory that a call
freed to other arrays.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ctcx._errors import CTCInputError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["in_graph", "is_captured", "is_capturing"]


class _Keeper:
    """Allocates CuPy memory that all lives as long as any part of it."""

    def __init__(self, allocate: Callable[[int], Any]) -> None:
        self._allocate = allocate
        self._kept: list[Any] = []

    def __call__(self, size: int) -> Any:
        cuda = sys.modules["cupy"].cuda
        pointer = self._allocate(size)
        self._kept.append(pointer)
        memory = cuda.UnownedMemory(pointer.ptr, size, self._kept, pointer.device_id)
        return cuda.MemoryPointer(memory, 0)


def is_captured(logits: Any) -> bool:
    """Whether CuPy's current stream is being captured, and :func:`in_graph` isn't at work yet."""
    cupy = sys.modules.get("cupy")
    return (
        cupy is not None
        and is_capturing(logits)
        and not isinstance(cupy.cuda.get_allocator(), _Keeper)
    )


def is_capturing(logits: Any) -> bool:
    """Whether CuPy's current stream is being captured, so that no value can be read."""
    cupy = sys.modules.get("cupy")
    return (
        cupy is not None
        and isinstance(logits, getattr(cupy, "ndarray", ()))
        and bool(cupy.cuda.get_current_stream().is_capturing())
    )


def in_graph(function: Callable[..., Any], arrays: dict[str, Any], **options: Any) -> Any:
    """Call one of the public functions while its work goes into a CUDA graph.

    ``arrays`` are its array arguments by name. All memory that it takes lives as long as one of its
    results. Values can't be read, so they are not checked.

    Raises CTCInputError: ``infeasible="raise"``, or labels or lengths on the host.
    """
    cupy = sys.modules["cupy"]
    if options.get("infeasible") == "raise":
        msg = 'infeasible="raise" needs to read values, which can\'t be done in a CUDA graph'
        raise CTCInputError(msg, argument="infeasible", value="raise")
    for argument, array in arrays.items():
        if array is not None and not isinstance(array, cupy.ndarray):
            msg = (
                f"{argument} must be a CuPy array while a CUDA graph is captured, when nothing can "
                f"be copied from the host; make it one before, with cupy.asarray"
            )
            raise CTCInputError(msg, argument=argument)
    with cupy.cuda.using_allocator(_Keeper(cupy.cuda.get_allocator())):
        return function(**arrays, **options | {"validate": False})
