"""Tells ctcx about the kernels in this package, without importing Numba."""

from __future__ import annotations

from importlib import metadata, util

from ctcx.plugin import Backend, Feature, hookimpl

__all__ = ["ctcx_backends"]

__version__ = metadata.version("ctcx-numba")


@hookimpl
def ctcx_backends() -> list[Backend]:
    """Offer one backend for arrays in the host's memory."""
    return [
        Backend(
            name="numba",
            kernels={
                "loss": "ctcx_numba.kernels:loss",
                "loss_and_grad": "ctcx_numba.kernels:loss_and_grad",
            },
            namespaces=frozenset({"numpy", "torch", "jax.numpy"}),
            devices=frozenset({"cpu", "TFRT_CPU_0"}),
            dtypes=frozenset({"float16", "bfloat16", "float32", "float64"}),
            features=frozenset(
                {
                    Feature.GRAD,
                    Feature.DETERMINISTIC,
                    Feature.HALF,
                    Feature.NONCONTIGUOUS,
                    Feature.CHECKS_VALUES,
                }
            ),
            priority=100,
            opt_in=False,
            api=(1, 1),
            probe=_probe,
            summary="compiled for the CPU, on all cores",
        )
    ]


def _probe() -> str | None:
    if util.find_spec("numba") is None:
        return "Numba is not installed"
    return None
