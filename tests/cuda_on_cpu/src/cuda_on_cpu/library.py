"""The library that plays driver, runtime and NVRTC, for ctypes."""

from __future__ import annotations

import ctypes
from functools import cache

from cuda_on_cpu.compiler import HOME

__all__ = ["library"]


@cache
def library() -> ctypes.CDLL:
    """The one copy in this process: CuPy's modules are linked to the same file."""
    loaded = ctypes.CDLL(str(HOME / "libcuda.so.1"))
    loaded.coc_last_failure.restype = ctypes.c_char_p
    loaded.coc_allocated.restype = ctypes.c_size_t
    loaded.coc_set_memory_limit.argtypes = [ctypes.c_size_t]
    loaded.coc_set_order.argtypes = [ctypes.c_int, ctypes.c_uint]
    loaded.coc_fail_kernel.argtypes = [ctypes.c_char_p]
    loaded.cuModuleLoad.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_char_p]
    loaded.cuModuleGetFunction.argtypes = [
        ctypes.POINTER(ctypes.c_void_p),
        ctypes.c_void_p,
        ctypes.c_char_p,
    ]
    loaded.cuFuncSetAttribute.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
    loaded.coc_launch_on_host.argtypes = [
        ctypes.c_void_p,
        ctypes.POINTER(ctypes.c_uint),
        ctypes.c_size_t,
        ctypes.POINTER(ctypes.c_void_p),
    ]
    return loaded
