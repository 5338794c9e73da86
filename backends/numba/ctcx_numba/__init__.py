"""Tells ctcx about the kernels in this package, without importing Numba."""

from __future__ import annotations

from importlib import util

from ctcx.plugin import Backend, Feature, hookimpl

__all__ = ["ctcx_backends"]


def _probe() -> str | None:
    return None if util.find_spec("numba") else "Numba is not installed (pip install numba)"


@hookimpl
def ctcx_backends() -> list[Backend]:
    """Offer one backend, for arrays in the host's memory; ctcx-cpu goes before it."""
    return [
        Backend(
            name="numba",
            kernels={
                "loss": "ctcx_numba.kernels:loss",
                "loss_and_grad": "ctcx_numba.kernels:loss_and_grad",
            },
            namespaces=frozenset({"numpy", "torch"}),
            devices=frozenset({"cpu"}),
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
            probe=_probe,
            summary="compiled by Numba for the CPU, where there is no C++ compiler",
        )
    ]
