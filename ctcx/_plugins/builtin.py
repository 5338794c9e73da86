"""What ctcx itself registers, through the same hooks as any plugin."""

from __future__ import annotations

import contextlib
import platform
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING

from ctcx import __version__
from ctcx._arrays.probing import cupy_runtime_info, probe_cupy, probe_import
from ctcx._cores import usable_cores
from ctcx._plugins.fields import always_usable
from ctcx._typing import DTYPES
from ctcx.plugin import Backend, Feature, Namespace, Problem, hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable

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
            features=frozenset(Feature)
            - {Feature.CHECKS_VALUES, Feature.WEIGHTS, Feature.DELEGATES, Feature.LAZY},
            accepts=_lacks_of_library,
            priority=-1000,
            opt_in=False,
            summary="the core, for any library that implements the array API standard",
        )
    ]


@hookimpl
def ctcx_namespaces() -> list[Namespace]:
    """Describe the array libraries that ctcx is tested with."""
    full = frozenset({"float32", "float64"})
    half = full | {"float16"}
    loops = "ctcx._core.loops"
    return [
        _namespace("numpy", dtypes=half, loop=f"{loops}.numpy:THREADED_LOOP", probe=always_usable),
        _namespace("torch", asynchronous=True),
        _namespace(
            "jax.numpy",
            distribution="jax",
            asynchronous=True,
            jit="ctcx._arrays.jax:jit",
            loop=f"{loops}.jax:JAX_LOOP",
        ),
        _namespace("array_api_strict", distribution="array-api-strict", dtypes=full),
        _namespace(
            "cupy", dtypes=half, asynchronous=True, loop=f"{loops}.cupy:CUPY_LOOP", probe=probe_cupy
        ),
        _namespace(
            "mlx.core",
            distribution="mlx",
            asynchronous=True,
            loop=f"{loops}.mlx:MLX_LOOP",
            probe=partial(probe_import, "mlx.core", "mlx, or mlx[cpu] on Linux"),
        ),
    ]


def _namespace(
    name: str,
    *,
    distribution: str = "",
    dtypes: frozenset[str] = frozenset(DTYPES),
    asynchronous: bool = False,
    probe: Callable[[], str | None] | None = None,
    jit: str | None = None,
    loop: str | None = None,
) -> Namespace:
    """Describe a library whose functions are in the module of ``ctcx._arrays`` of its name."""
    distribution = distribution or name
    module = f"ctcx._arrays.{name.partition('.')[0]}"
    return Namespace(
        name=name,
        distribution=distribution,
        from_numpy=f"{module}:from_numpy",
        to_numpy=f"{module}:to_numpy",
        devices=f"{module}:devices",
        synchronize=f"{module}:synchronize" if asynchronous else None,
        probe=probe or partial(probe_import, name, distribution),
        jit=jit,
        loop=loop,
        dtypes=dtypes,
    )


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
