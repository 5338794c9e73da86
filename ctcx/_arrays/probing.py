"""Whether a library can be used here; imports it to find out."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from ctcx._errors import one_line

__all__ = ["cupy_runtime_info", "probe_cupy", "probe_import"]


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
