"""Compile a variant and launch its kernels."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ctcx_cuda._variants import VARIANTS, options, source

if TYPE_CHECKING:
    from ctcx_cuda._variants import Variant

__all__ = ["PROBLEM", "LaunchError", "capturing", "function", "launch", "module"]

_FIELDS = (
    *("logits", "logits_n", "logits_t", "logits_c"),
    *("grad", "grad_n", "grad_t", "grad_c"),
    *("labels", "labels_n", "labels_s", "labels_wide"),
    *("frames", "frames_n", "frames_wide", "counts", "counts_n", "counts_wide"),
    *("loss", "rows", "next", "first", "emitted", "paths", "work", "sums"),
    *("N", "T", "C", "S", "blank", "shift", "segments", "shared_states"),
)

PROBLEM = np.dtype([(name, np.int64) for name in _FIELDS])
"""``struct Problem`` of problem.cuh, field by field: every member has 8 bytes."""


_functions: dict[tuple[str, str, str, int], Any] = {}


class LaunchError(RuntimeError):
    """A kernel could not be launched. Nothing of the caller's was written to."""


def capturing() -> bool:
    """Whether what the current stream is given goes into a CUDA graph."""
    import cupy

    return bool(cupy.cuda.get_current_stream().is_capturing())


@cache
def module(variant: Variant, dtype: str) -> Any:
    """Return CuPy's module of a variant. It is compiled on first use, into CuPy's own cache."""
    import cupy

    if variant not in VARIANTS:
        msg = f"unknown variant {variant!r}"
        raise ValueError(msg)
    return cupy.RawModule(code=source(variant), options=options(variant, dtype))


def function(kernel: str, variant: Variant, dtype: str) -> Any:
    """Return a kernel that is loaded on the current device; compile and load it the first time.

    Raises
    ------
    LaunchError
        It is not loaded, and the current stream is being captured, when nothing can be.
    """
    import cupy

    key = (kernel, variant.name, dtype, cupy.cuda.device.get_device_id())
    found = _functions.get(key)
    if found is None:
        if capturing():
            msg = (
                f"ctcx-cuda's variant {variant.name!r} for {dtype} is not loaded on this device, "
                "and no kernel can be loaded while a CUDA graph is captured: call it once before "
                "capturing (warm up), with arrays of the same shapes and dtypes"
            )
            raise LaunchError(msg)
        found = _functions[key] = module(variant, dtype).get_function(kernel)
    return found


def launch(
    kernel: str,
    variant: Variant,
    dtype: str,
    problem: np.ndarray[Any, Any],
    *more: int,
    grid: tuple[int, ...],
    block: int,
    shared: int = 0,
) -> None:
    """Launch one kernel on the current device and stream.

    Raises
    ------
    LaunchError
        CUDA refuses it; the message has the kernel, the variant and CUDA's reason.
    """
    import cupy

    loaded = function(kernel, variant, dtype)
    try:
        loaded(grid, (block,), (problem, *map(np.int32, more)), shared_mem=shared)
    except cupy.cuda.driver.CUDADriverError as error:
        msg = (
            f"{kernel} of ctcx-cuda's variant {variant.name!r} for {dtype} could not be launched "
            f"(grid {grid}, {block} threads, {shared} bytes of shared memory): {error}"
        )
        raise LaunchError(msg) from error
