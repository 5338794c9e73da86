"""Tells ctcx about the kernels in this package, without importing Numba."""

from __future__ import annotations

from importlib import util

from ctcx.plugin import Backend, Feature, LowerBound, hookimpl

__all__ = ["ctcx_backends", "ctcx_benchmark_lower_bounds", "ctcx_runtime_info"]

_LIBRARIES = frozenset({"numpy", "torch", "jax.numpy"})


def _probe() -> str | None:
    if util.find_spec("numba") is None:
        return "Numba is not installed (pip install numba)"
    return None


@hookimpl
def ctcx_backends() -> list[Backend]:
    """Offer one backend, for arrays in the host's memory."""
    return [
        Backend(
            name="numba",
            kernels={
                "loss": "ctcx_numba.kernels:loss",
                "loss_and_grad": "ctcx_numba.kernels:loss_and_grad",
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
            priority=100,
            opt_in=False,
            probe=_probe,
            summary="compiled for the CPU, on all cores",
        )
    ]


@hookimpl
def ctcx_benchmark_lower_bounds() -> list[LowerBound]:
    """Offer the same kernel writing the softmax and nothing else, as what can't be gone below."""
    return [
        LowerBound(
            name="numba-softmax",
            function="ctcx_numba.kernels:softmax_only",
            backends=frozenset({"numba"}),
            namespaces=_LIBRARIES,
            probe=_probe,
            summary="the numba kernel, writing the softmax and nothing else",
        )
    ]


@hookimpl
def ctcx_runtime_info() -> dict[str, str]:
    """Say how many threads, whether the kernels are compiled, and whether there are huge pages."""
    if reason := _probe():
        return {"ctcx-numba": reason}
    from ctcx_numba._machine import runtime_info

    return runtime_info()
