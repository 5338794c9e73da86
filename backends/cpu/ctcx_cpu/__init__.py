"""Tells ctcx about the kernels in this package, and C programs where to find the library.

- ``kernels``: the kernels, on arrays of NumPy, PyTorch, JAX and MLX
- ``shortcuts``: losses and gradients of plain calls, checked in native code
- ``guided``: the kernel for searches with phrases, with an n-gram model, and in chunks
- ``_host``: the host memory of their arrays
- ``_results``: memory for results
- ``_jax``: the kernels in programs of JAX
- ``_native``: the C interface
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ctcx.plugin import Backend, Feature, LowerBound, Problem, hookimpl

__all__ = [
    "check_instructions",
    "ctcx_backends",
    "ctcx_benchmark_lower_bounds",
    "ctcx_runtime_info",
    "include_dir",
    "library_path",
    "register_with_jax",
]

_SETS = ("baseline", "avx2", "avx512", "neon")
_LIBRARIES = frozenset({"numpy", "torch", "jax.numpy", "mlx.core"})


def include_dir() -> Path:
    """Return the folder of the header ``ctcx_cpu.h``."""
    return Path(__file__).parent / "include"


def library_path() -> Path:
    """Return the shared library that other programs link with."""
    name = {"win32": "ctcx_cpu.dll", "darwin": "libctcx_cpu.dylib"}.get(
        sys.platform, "libctcx_cpu.so"
    )
    return Path(__file__).parent / name


def register_with_jax() -> str:
    """Let programs that ``jax.export`` has written call the kernels, in a process that loads them.

    Calls of ctcx do so by themselves.

    Returns
    -------
    str
        The name of the custom call, for ``jax.export.DisabledSafetyCheck.custom_call``.

    Raises
    ------
    ctcx.plugin.Decline
        JAX is too old.
    """
    from ctcx_cpu import _jax

    return _jax.register()


def check_instructions() -> None:
    """Refuse an instruction set that the library would ignore, since C has no exceptions.

    Raises
    ------
    ctcx.CTCInputError
        ``CTCX_CPU_INSTRUCTIONS`` names one that doesn't exist, or that this processor hasn't.
    """
    from ctcx import CTCInputError
    from ctcx_cpu import _native

    asked, used = os.environ.get("CTCX_CPU_INSTRUCTIONS", ""), _native.instructions()
    if asked in {"", "baseline", used}:
        return
    message = f"the environment variable CTCX_CPU_INSTRUCTIONS is {asked!r}, "
    if asked in _SETS:
        message += f"but this processor has no {asked}; {used} is the best that it has"
    else:
        message += f"expected one of {', '.join(_SETS)}"
    raise CTCInputError(message, argument="CTCX_CPU_INSTRUCTIONS", value=asked)


def _not_traced_by_mlx(problem: Problem) -> str | None:
    if problem.namespace == "mlx.core" and problem.traced:
        return "MLX has no way to call it in functions under mx.compile or mx.vmap"
    return None


@hookimpl
def ctcx_backends() -> list[Backend]:
    """Offer one backend, for arrays in the host's memory."""
    return [
        Backend(
            api=(2, 7),
            name="cpu",
            kernels={
                "align": "ctcx_cpu.kernels:align",
                "beam_search": "ctcx_cpu.kernels:beam_search",
                "greedy": "ctcx_cpu.kernels:greedy",
                "guided_search": "ctcx_cpu.guided:guided_search",
                "loss": "ctcx_cpu.kernels:loss",
                "loss_and_grad": "ctcx_cpu.kernels:loss_and_grad",
                "occupancies": "ctcx_cpu.kernels:occupancies",
                "sample_paths": "ctcx_cpu.kernels:sample_paths",
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
                    Feature.WEIGHTS,
                }
            ),
            priority=200,
            opt_in=False,
            shortcuts={
                "loss": "ctcx_cpu.shortcuts:loss",
                "loss_and_grad": "ctcx_cpu.shortcuts:loss_and_grad",
            },
            probe=check_instructions,
            accepts=_not_traced_by_mlx,
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

    from ctcx import CTCInputError
    from ctcx_cpu import _native

    told = {"ctcx-cpu version": f"{version('ctcx-cpu')}, C interface {_native.version()}"}
    try:
        check_instructions()
        told["ctcx-cpu instructions"] = _native.instructions()
        from ctcx_cpu.kernels import number_of_threads

        told["ctcx-cpu threads"] = str(number_of_threads())
    except CTCInputError as error:
        told["ctcx-cpu can't be used"] = str(error)
    return told
