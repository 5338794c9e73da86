"""CUDA and CuPy without a GPU, for tests. `tests/cuda_on_cpu/README.md` says what is modelled.

Importing this imports neither CuPy nor NumPy.
"""

from cuda_on_cpu.compiler import CompileError
from cuda_on_cpu.device import (
    Counters,
    DeviceState,
    counting,
    failing_kernel,
    flushing_subnormals,
    last_failure,
    memory_limit,
    state,
    thread_order,
)
from cuda_on_cpu.direct import Kernel, KernelError, Module
from cuda_on_cpu.sanitizers import SanitizedRun, run_sanitized, sanitized_command

__all__ = [
    "CompileError",
    "Counters",
    "DeviceState",
    "Kernel",
    "KernelError",
    "Module",
    "SanitizedRun",
    "counting",
    "failing_kernel",
    "flushing_subnormals",
    "last_failure",
    "memory_limit",
    "run_sanitized",
    "sanitized_command",
    "state",
    "thread_order",
]
