"""What ctcx itself registers, through the same hooks as any plugin."""

from __future__ import annotations

import contextlib
import platform
from functools import partial
from importlib import metadata

from ctcx import __version__
from ctcx._arrays.probing import cupy_runtime_info, probe_cupy, probe_import
from ctcx._cores import usable_cores
from ctcx._typing import DTYPES
from ctcx.plugin import Backend, Feature, Namespace, Problem, hookimpl

__all__ = ["ctcx_backends", "ctcx_namespaces", "ctcx_runtime_info"]

_WORTH_KNOWING = (
    "numpy",
    "array-api-compat",
    "pluggy",
    "array-api-strict",
    "torch",
    "jax",
    "jaxlib",
    "mlx",
    "numba",
)


def _lacks_of_library(problem: Problem) -> str | None:
    """Refuse dask.array where the core needs more than it has."""
    if problem.namespace == "dask.array" and problem.operation not in _WITHOUT_TAKING:
        return (
            "dask.array has no take_along_axis: ctcx-dask has align, greedy and beam_search; "
            "for others compute the arrays first"
        )
    return None


_WITHOUT_TAKING = frozenset({"loss", "loss_and_grad", "occupancies"})


@hookimpl
def ctcx_backends() -> list[Backend]:
    """Offer the core: slower than a compiled kernel, right on every library and device."""
    return [
        Backend(
            name="array-api",
            kernels={
                "loss": "ctcx._core.kernels:loss",
                "loss_and_grad": "ctcx._core.kernels:loss_and_grad",
                "align": "ctcx._core.align:align",
                "greedy": "ctcx._core.greedy:greedy",
                "beam_search": "ctcx._core.beam_search:beam_search",
                "guided_search": "ctcx._core.guided_search:guided_search",
                "occupancies": "ctcx._core.kernels:occupancies",
                "sample_paths": "ctcx._core.sampling:sample_paths",
            },
            namespaces=frozenset({"*"}),
            devices=frozenset({"*"}),
            dtypes=frozenset(DTYPES),
            features=frozenset(Feature) - {Feature.CHECKS_VALUES, Feature.DELEGATES, Feature.LAZY},
            accepts=_lacks_of_library,
            priority=-1000,
            opt_in=False,
            summary="the core, for any library that implements the array API standard",
        )
    ]


@hookimpl
def ctcx_namespaces() -> list[Namespace]:
    """Describe the array libraries that ctcx is tested with."""
    here = "ctcx._arrays"
    full = frozenset({"float32", "float64"})
    half = full | {"float16"}
    return [
        Namespace(
            name="numpy",
            distribution="numpy",
            from_numpy=f"{here}.numpy:from_numpy",
            to_numpy=f"{here}.numpy:to_numpy",
            devices=f"{here}.numpy:devices",
            loop="ctcx._core.loops.numpy:THREADED_LOOP",
            dtypes=half,
        ),
        Namespace(
            name="torch",
            distribution="torch",
            from_numpy=f"{here}.torch:from_numpy",
            to_numpy=f"{here}.torch:to_numpy",
            devices=f"{here}.torch:devices",
            probe=partial(probe_import, "torch", "torch"),
            synchronize=f"{here}.torch:synchronize",
            dtypes=frozenset(DTYPES),
        ),
        Namespace(
            name="jax.numpy",
            distribution="jax",
            from_numpy=f"{here}.jax:from_numpy",
            to_numpy=f"{here}.jax:to_numpy",
            devices=f"{here}.jax:devices",
            probe=partial(probe_import, "jax.numpy", "jax"),
            synchronize=f"{here}.jax:synchronize",
            jit=f"{here}.jax:jit",
            loop="ctcx._core.loops.jax:JAX_LOOP",
            dtypes=frozenset(DTYPES),
        ),
        Namespace(
            name="array_api_strict",
            distribution="array-api-strict",
            from_numpy=f"{here}.array_api_strict:from_numpy",
            to_numpy=f"{here}.array_api_strict:to_numpy",
            devices=f"{here}.array_api_strict:devices",
            probe=partial(probe_import, "array_api_strict", "array-api-strict"),
            dtypes=full,
        ),
        Namespace(
            name="cupy",
            distribution="cupy",
            from_numpy=f"{here}.cupy:from_numpy",
            to_numpy=f"{here}.cupy:to_numpy",
            devices=f"{here}.cupy:devices",
            probe=probe_cupy,
            synchronize=f"{here}.cupy:synchronize",
            loop="ctcx._core.loops.cupy:CUPY_LOOP",
            dtypes=half,
        ),
        Namespace(
            name="mlx.core",
            distribution="mlx",
            from_numpy=f"{here}.mlx:from_numpy",
            to_numpy=f"{here}.mlx:to_numpy",
            devices=f"{here}.mlx:devices",
            probe=partial(probe_import, "mlx.core", "mlx, or mlx[cpu] on Linux"),
            synchronize=f"{here}.mlx:synchronize",
            loop="ctcx._core.loops.mlx:MLX_LOOP",
            dtypes=frozenset(DTYPES),
        ),
    ]


@hookimpl
def ctcx_runtime_info() -> dict[str, str]:
    """Versions of what ctcx runs on; libraries are looked up, not imported."""
    lines = {
        "ctcx": __version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": platform.platform(),
        "usable cores": str(usable_cores()),
    }
    for distribution in _WORTH_KNOWING:
        # Metadata may be missing, damaged, or of a package that is half uninstalled.
        with contextlib.suppress(Exception):
            lines[distribution] = str(metadata.version(distribution))
    return lines | cupy_runtime_info()
