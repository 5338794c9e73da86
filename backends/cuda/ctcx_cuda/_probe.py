"""Whether the kernels can run on this machine."""

from __future__ import annotations

import sys

__all__ = ["probe", "runtime_info"]


def probe() -> str | None:
    """None if CuPy is there and finds a GPU, else what is missing and what to do."""
    try:
        import cupy
    except ModuleNotFoundError as error:
        if error.name != "cupy":
            return f"CuPy can't be imported: {error}"
        return "CuPy is not installed (pip install 'ctcx-cuda[cupy13]' or 'ctcx-cuda[cupy12]')"
    except Exception as error:  # noqa: BLE001 - a damaged installation may raise anything
        return f"CuPy can't be imported: {error}"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"CuPy finds no GPU: {error}"
    return None if count else "CuPy finds no GPU"


def runtime_info() -> dict[str, str]:
    """Where the scratch limit stands, if CuPy is in use already; nothing is imported for it."""
    if "cupy" not in sys.modules:
        return {}
    from ctcx_cuda.plan import scratch_limit

    return {"ctcx-cuda scratch limit": f"{scratch_limit() >> 20} MiB"}
