"""Why a backend can't take a problem: the checks that every candidate passes, in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctcx._plugins.backend import Feature

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ctcx._plugins.backend import Backend, Problem
    from ctcx._plugins.records import RegisteredBackend
    from ctcx._plugins.registry import Registry

__all__ = ["declared", "rejection"]


def rejection(entry: RegisteredBackend, problem: Problem, registry: Registry) -> str | None:
    """Why this backend can't take the problem on this machine; None if it can.

    What is declared is looked at first: a probe may import a heavy library, which nobody should
    pay for whose arrays that library's kernels don't take anyway.
    """
    return (
        declared(entry.backend, problem)
        or registry.unusable(entry.backend.name)
        or registry.ask(entry, "accepts", problem)
    )


def declared(backend: Backend, problem: Problem) -> str | None:
    """Why the descriptor alone excludes this problem; None if it doesn't. Runs no plugin code."""
    if problem.operation not in backend.kernels:
        return f"has no kernel for {problem.operation}, only for {_names(backend.kernels)}"
    if not _covers(backend.namespaces, problem.namespace):
        return f"takes arrays of {_names(backend.namespaces)}, got {problem.namespace}"
    if not _covers(backend.devices, problem.device.partition(":")[0]):
        return f"needs device {_names(backend.devices)}, got {problem.device}"
    # A half dtype among them implies Feature.HALF, which the descriptor itself has checked.
    if problem.dtype not in backend.dtypes:
        return f"takes {_names(backend.dtypes)}, got {problem.dtype}"
    if problem.traced and Feature.TRACEABLE not in backend.features:
        return f"can't be called while {problem.namespace} traces (lacks Feature.TRACEABLE)"
    if None in (problem.N, problem.T, problem.C, problem.S) and backend.name != "array-api":
        return "needs to know all sizes, and jax.export with symbolic shapes leaves some undecided"
    if not problem.contiguous and Feature.NONCONTIGUOUS not in backend.features:
        return "needs contiguous logits (lacks Feature.NONCONTIGUOUS); pass a contiguous copy"
    return None


def _covers(names: frozenset[str], name: str) -> bool:
    return name in names or "*" in names


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
