"""Put the candidates in order, send them through the gates, and take the first that passes."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from ctcx._dispatch.decision import Candidate, Decision
from ctcx._plugins.backend import Feature

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from collections.abc import Set as AbstractSet

    from ctcx._dispatch.decision import Source, Status
    from ctcx._plugins.backend import Backend, Problem
    from ctcx._plugins.records import RegisteredBackend
    from ctcx._plugins.registry import Registry

__all__ = [
    "Overrides",
    "choose",
    "declared",
    "excluded",
    "in_order",
    "may_take",
    "rejection",
    "without_backend",
]

Overrides: TypeAlias = "Mapping[str, tuple[Status, str]]"
"""``{backend: (status, reason)}`` of those that were found out only when they were called."""

LAST = "array-api"


def choose(
    problem: Problem,
    registry: Registry,
    *,
    names: tuple[str, ...] = (),
    source: Source = "auto",
    overrides: Overrides | None = None,
    thorough: bool = False,
) -> Decision:
    """Judge all candidates; the decision has none selected if none can take the problem.

    Parameters
    ----------
    problem
        What is to be computed.
    registry
        The candidates.
    names
        Only these may be selected, in this order; empty for automatic selection.
    source
        Where ``names`` come from.
    overrides
        Verdicts that replace the gates.
    thorough
        Also ask those candidates that can't be selected any more whether they would do, which may
        run their probes. For people; a call needs only the first that passes.
    """
    selected: RegisteredBackend | None = None
    candidates: list[Candidate] = []
    for entry in in_order(registry, names):
        name = entry.backend.name
        left_out = excluded(entry, names)
        if overrides and name in overrides:
            status, reason = overrides[name]
        elif broken := registry.broken(name, problem.operation):
            status, reason = "unusable", broken
        elif no := (
            rejection(entry, problem, registry)
            if thorough or (selected is None and left_out is None)
            else declared(entry.backend, problem)
        ):
            status, reason = "rejected", no
        elif left_out is not None:
            status, reason = left_out
        elif selected is None:
            status, reason = "selected", ""
            selected = entry
        else:
            status, reason = "available", f"comes after {selected.backend.name!r}"
        candidates.append(
            Candidate(name=name, provenance=entry.provenance, status=status, reason=reason)
        )
    candidates.extend(without_backend(registry))
    return Decision(
        problem=problem,
        selected=selected,
        candidates=tuple(candidates),
        source=source,
        asked=names,
    )


def in_order(registry: Registry, names: tuple[str, ...] = ()) -> list[RegisteredBackend]:
    """All backends: those named, as named, then by priority and name, the core last."""
    names = tuple(dict.fromkeys(names))
    rest = [entry for name, entry in registry.backends.items() if name not in names]
    rest.sort(key=lambda e: (e.backend.name == LAST, -e.backend.priority, e.backend.name))
    return [registry.backends[name] for name in names] + rest


def without_backend(registry: Registry) -> Iterator[Candidate]:
    """Candidates that cannot be chosen: backends left out, and plugins that offer none."""
    explained = set()
    for part in registry.left_out:
        if part.kind == "backend":
            explained.add((part.plugin, part.distribution))
            yield Candidate(
                name=part.name, provenance=part.provenance, status="unusable", reason=part.reason
            )
    for record in registry.plugins:
        if record.status != "active" and (record.name, record.distribution) not in explained:
            reason = record.reason
            if record.status != "blocked":
                reason = f"plugin {record.status}: {reason}"
            yield Candidate(
                name=record.name, provenance=record.provenance, status="unusable", reason=reason
            )


def excluded(entry: RegisteredBackend, names: tuple[str, ...]) -> tuple[Status, str] | None:
    """Verdict on a backend that would do, and still may not be selected; None if it may."""
    name = entry.backend.name
    if names:
        return None if name in names else ("available", "was not asked for")
    return ("opt-in", f"only if named: backend={name!r}") if entry.backend.opt_in else None


def rejection(entry: RegisteredBackend, problem: Problem, registry: Registry) -> str | None:
    """Why this backend can't take the problem on this machine; None if it can.

    What is declared is looked at first: a probe may import a heavy library, which no call should
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
    if Feature.LAZY in backend.features and not problem.lazy:
        return "takes whole calls on arrays without values only (has Feature.LAZY)"
    if problem.traced and Feature.TRACEABLE not in backend.features:
        return f"can't be called while {problem.namespace} traces (lacks Feature.TRACEABLE)"
    if None in (problem.N, problem.T, problem.C, problem.S) and backend.name != "array-api":
        return "needs to know all sizes, and jax.export with symbolic shapes leaves some undecided"
    if not problem.contiguous and Feature.NONCONTIGUOUS not in backend.features:
        return "needs contiguous logits (lacks Feature.NONCONTIGUOUS); pass a contiguous copy"
    return None


def may_take(backend: Backend, operation: str, namespace: str, device: str) -> bool:
    """Whether the descriptor lets it take some call on such arrays, which hold values."""
    return (
        operation in backend.kernels
        and _covers(backend.namespaces, namespace)
        and _covers(backend.devices, device)
        and Feature.LAZY not in backend.features
    )


def _covers(names: AbstractSet[str], name: str) -> bool:
    return name in names or "*" in names


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
