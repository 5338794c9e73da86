"""Compile a variant and launch its kernels."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ctcx_cuda._device_arrays import view
from ctcx_cuda.plan import offsets
from ctcx_cuda.variants import VARIANTS, options, source

if TYPE_CHECKING:
    from ctcx_cuda.plan import PathPlan, Plan
    from ctcx_cuda.variants import Variant

__all__ = [
    "PROBLEM",
    "LaunchError",
    "capturing",
    "describe",
    "function",
    "launch",
    "module",
    "point",
]

_FIELDS = (
    *("logits", "logits_n", "logits_t", "logits_c"),
    *("grad", "grad_n", "grad_t", "grad_c"),
    *("labels", "labels_n", "labels_s", "labels_wide"),
    *("frames", "frames_n", "frames_wide", "counts", "counts_n", "counts_wide"),
    *("loss", "rows", "next", "first", "emitted", "paths", "work", "sums"),
    *("N", "T", "C", "S", "blank", "shift", "segments", "shared_states"),
    *("extra", "extra_n", "extra_t", "extra_c", "columns", "first_blank", "last_blank"),
    *("states", "log_probs", "spreads", "kept", "strips", "choices"),
    *("span", "spans", "width", "units"),
)

PROBLEM = np.dtype([(name, np.int64) for name in _FIELDS])
"""``struct Problem`` of problem.cuh, field by field: every member has 8 bytes."""


_functions: dict[tuple[str, str, str, int], Any] = {}


class LaunchError(RuntimeError):
    """A kernel could not be launched. Nothing of the caller's was written to."""


def describe(
    plan: Plan | PathPlan | None = None, scratch: Any = None, **facts: int
) -> np.ndarray[Any, Any]:
    """Return a problem with these facts, and with the parts of the scratch memory, if any."""
    problem = np.zeros(1, dtype=PROBLEM)
    if plan is not None:
        base = view(scratch).address
        for name, offset in offsets(plan.sizes).items():
            problem[name] = base + offset
    for name, value in facts.items():
        problem[name] = value
    return problem


def point(problem: np.ndarray[Any, Any], name: str, array: Any, axes: str) -> None:
    """Write where an array lies into the problem, with its strides, and the width of integers."""
    address, strides = view(array)
    problem[name] = address
    for axis, stride in zip(axes, strides, strict=True):
        problem[f"{name}_{axis}"] = stride
    if f"{name}_wide" in _FIELDS:
        problem[f"{name}_wide"] = array.dtype.itemsize == 8


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

    Raises LaunchError: it is not loaded, and the current stream is being captured, when nothing can
    be.
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

    Raises LaunchError: CUDA refuses it; the message has the kernel, the variant and CUDA's reason.
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
