"""Tells ctcx about dask.array, without importing dask."""

from __future__ import annotations

from importlib import util

from ctcx.plugin import Backend, Feature, Namespace, hookimpl

__all__ = ["ctcx_backends", "ctcx_namespaces"]

_DTYPES = frozenset({"float16", "float32", "float64"})


def _probe() -> str | None:
    return None if util.find_spec("dask") else "dask is not installed (pip install 'dask[array]')"


@hookimpl
def ctcx_backends() -> list[Backend]:
    """Offer one backend, which lets others compute the blocks of an array."""
    operations = ("loss", "loss_and_grad", "align", "greedy", "beam_search")
    return [
        Backend(
            name="dask",
            kernels={name: f"ctcx_dask.kernels:{name}" for name in operations},
            namespaces=frozenset({"dask.array"}),
            devices=frozenset({"*"}),
            dtypes=_DTYPES | {"bfloat16"},
            features=frozenset(
                {
                    Feature.GRAD,
                    Feature.DETERMINISTIC,
                    Feature.HALF,
                    Feature.NONCONTIGUOUS,
                    Feature.DELEGATES,
                    Feature.LAZY,
                }
            ),
            opt_in=False,
            probe=_probe,
            api=(2, 4),
            summary="lazy results, each block by the best backend for its own kind of array",
        )
    ]


@hookimpl
def ctcx_namespaces() -> list[Namespace]:
    """Describe dask.array."""
    return [
        Namespace(
            name="dask.array",
            distribution="dask",
            from_numpy="ctcx_dask.arrays:from_numpy",
            to_numpy="ctcx_dask.arrays:to_numpy",
            devices="ctcx_dask.arrays:devices",
            probe=_probe,
            dtypes=_DTYPES,
        )
    ]
