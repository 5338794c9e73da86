"""What is there: all backends with their state, and a text for bug reports."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from ctcx._dispatch.decision import Candidate, table
from ctcx._dispatch.requested import VARIABLE
from ctcx._dispatch.selection import in_order, without_backend
from ctcx._operations import OPERATIONS
from ctcx._plugins.registry import DISABLE, registry
from ctcx._plugins.reporting import STRICT

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from ctcx._plugins.backend import Feature

__all__ = ["BackendInfo", "backends", "show_versions", "versions"]

Availability: TypeAlias = Literal["available", "opt-in", "unusable"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendInfo:
    """A backend as its plugin describes it, and whether it can be used on this machine.

    Attributes
    ----------
    name : str
        What ``backend=`` takes; of the plugin's entry point where no backend is known.
    provenance : str
        Distribution and version, such as ``"ctcx-numba 0.2"``.
    status : str
        ``"available"``; ``"opt-in"``: available if named; ``"unusable"``.
    reason : str
        Why it is unusable; else empty.
    namespaces, devices, dtypes : frozenset of str
        What it takes; ``"*"`` stands for anything.
    operations : tuple of str
        What it has kernels for, by the names that :func:`ctcx.explain` takes.
    features : frozenset of Feature
        What it can do beyond the minimum.
    priority : int
        In automatic selection, the highest goes first.
    opt_in : bool
        Whether automatic selection leaves it alone.
    summary, url : str
        For people.
    """

    name: str
    provenance: str
    status: Availability
    reason: str = ""
    namespaces: AbstractSet[str] = frozenset()
    devices: AbstractSet[str] = frozenset()
    dtypes: AbstractSet[str] = frozenset()
    operations: tuple[str, ...] = ()
    features: AbstractSet[Feature] = frozenset()
    priority: int = 0
    opt_in: bool = True
    summary: str = ""
    url: str = ""


def backends() -> tuple[BackendInfo, ...]:
    """All backends in the order of automatic selection, then what could not be used, with reasons.

    Runs the probes, and imports no kernel.

    Returns
    -------
    tuple of BackendInfo
        What each takes, and whether it can be used on this machine.

    Examples
    --------
    >>> import ctcx
    >>> [backend.name for backend in ctcx.backends() if backend.status == "available"][-1]
    'array-api'
    """
    plugins = registry()
    known = []
    for entry in in_order(plugins):
        backend = entry.backend
        reason = plugins.unusable(backend.name)
        status: Availability = "unusable" if reason else "opt-in" if backend.opt_in else "available"
        known.append(
            BackendInfo(
                name=backend.name,
                provenance=entry.provenance,
                status=status,
                reason=reason or "",
                namespaces=backend.namespaces,
                devices=backend.devices,
                dtypes=backend.dtypes,
                operations=tuple(name for name in OPERATIONS if name in backend.kernels),
                features=backend.features,
                priority=backend.priority,
                opt_in=backend.opt_in,
                summary=backend.summary,
                url=backend.url,
            )
        )
    unusable = (
        BackendInfo(name=c.name, provenance=c.provenance, status="unusable", reason=c.reason)
        for c in without_backend(plugins)
    )
    return (*known, *unusable)


def versions() -> str:
    """Text for a bug report: versions, backends and the environment variables of ctcx."""
    lines = registry().runtime_info()
    lines |= {name: repr(os.environ[name]) for name in _VARIABLES if name in os.environ}
    width = max(map(len, lines))
    facts = "\n".join(f"  {key.ljust(width)}  {value}" for key, value in lines.items())
    rows = [
        Candidate(name=b.name, provenance=b.provenance, status=b.status, reason=b.reason)
        for b in backends()
    ]
    unreadable = "".join(
        f"\nThe metadata of {distribution} can't be read: {reason}"
        for distribution, reason in registry().unreadable.items()
    )
    return f"{facts}\n\n{table(rows)}{unreadable}"


def show_versions() -> None:
    """Print what a bug report should say: versions, backends, environment variables."""
    print(versions())  # noqa: T201 - printing is what it is for


_VARIABLES = (VARIABLE, DISABLE, STRICT)
