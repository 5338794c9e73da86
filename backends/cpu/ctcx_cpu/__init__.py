"""Tells ctcx about the kernels in this package, and C programs where to find the library.

- ``kernels``: the kernels, on arrays of NumPy, PyTorch and JAX
- ``_host``: the host memory of their arrays
- ``_results``: memory for results
- ``_jax``: the kernels in programs of JAX
- ``_native``: the C interface
"""

from __future__ import annotations

import sys
from pathlib import Path

from ctcx.plugin import Backend, Feature, LowerBound, Problem, hookimpl

__all__ = [
    "ctcx_backends",
    "ctcx_benchmark_lower_bounds",
    "ctcx_runtime_info",
    "include_dir",
    "library_path",
]

_LIBRARIES = frozenset({"numpy", "torch", "jax.numpy"})


def include_dir() -> Path:
    """Return the folder of the header ``ctcx_cpu.h``."""
    return Path(__file__).parent / "include"


def library_path() -> Path:
    """Return the shared library that other programs link with."""
    name = {"win32": "ctcx_cpu.dll", "darwin": "libctcx_cpu.dylib"}.get(
        sys.platform, "libctcx_cpu.so"
    )
    return Path(__file__).parent / name


def accepts(problem: Problem) -> str | None:
    """Return why a call with JAX arrays is not taken: XLA knows of loss and gradient only."""
    if problem.operation not in {"loss", "loss_and_grad"} and problem.namespace == "jax.numpy":
        return f"it offers no {problem.operation} for JAX arrays"
    return None


@hookimpl
def ctcx_backends() -> list[Backend]:
    """Offer one backend, for arrays in the host's memory."""
    return [
        Backend(
            api=(2, 2),
            name="cpu",
            kernels={
                "align": "ctcx_cpu.kernels:align",
                "beam_search": "ctcx_cpu.kernels:beam_search",
                "greedy": "ctcx_cpu.kernels:greedy",
                "loss": "ctcx_cpu.kernels:loss",
                "loss_and_grad": "ctcx_cpu.kernels:loss_and_grad",
            },
            namespaces=_LIBRARIES,
            devices=frozenset({"cpu"}),
            dtypes=frozenset({"float16", "bfloat16", "float32", "float64"}),
            features=frozenset(
                {
                    Feature.GRAD,
                    Feature.TRACEABLE,
                    Feature.DETERMINISTIC,
                    Feature.HALF,
                    Feature.NONCONTIGUOUS,
                    Feature.CHECKS_VALUES,
                }
            ),
            priority=200,
            opt_in=False,
            accepts=accepts,
            summary="native code for the CPU, on all cores",
        )
    ]


@hookimpl
def ctcx_benchmark_lower_bounds() -> list[LowerBound]:
    """Offer the same kernel writing the softmax and nothing else, as what can't be gone below."""
    return [
        LowerBound(
            name="cpu-softmax",
            function="ctcx_cpu.kernels:softmax_only",
            backends=frozenset({"cpu"}),
            namespaces=_LIBRARIES,
            summary="the cpu kernel, writing the softmax and nothing else",
        )
    ]


@hookimpl
def ctcx_runtime_info() -> dict[str, str]:
    """Return the version, the instruction set, and how many threads a call uses."""
    from importlib.metadata import version

    from ctcx_cpu import _native
    from ctcx_cpu.kernels import number_of_threads

    try:
        threads = str(number_of_threads())
    except ValueError as error:
        threads = str(error)
    return {
        "ctcx-cpu version": f"{version('ctcx-cpu')}, C interface {_native.version()}",
        "ctcx-cpu instructions": _native.instructions(),
        "ctcx-cpu threads": threads,
    }
