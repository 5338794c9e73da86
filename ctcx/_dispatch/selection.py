"""Put the candidates in order, send them through the gates, and take the first that passes."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from ctcx._dispatch.decision import Candidate, Decision
from ctcx._dispatch.gates import declared, rejection

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ctcx._dispatch.decision import Source, Status
    from ctcx._plugins.backend import Problem
    from ctcx._plugins.records import RegisteredBackend
    from ctcx._plugins.registry import Registry

__all__ = ["Overrides", "choose", "in_order", "without_backend"]

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
    """Judge all candidates; the decision has none selected if nobody can take the problem.

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
        excluded = _excluded(entry, names)
        if overrides and name in overrides:
            status, reason = overrides[name]
        elif broken := registry.broken(name, problem.operation):
            status, reason = "unusable", broken
        elif no := (
            rejection(entry, problem, registry)
            if thorough or (selected is None and excluded is None)
            else declared(entry.backend, problem)
        ):
            status, reason = "rejected", no
        elif excluded is not None:
            status, reason = excluded
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
    """Candidates that nobody can choose: backends left out, and plugins that offer none."""
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


def _excluded(entry: RegisteredBackend, names: tuple[str, ...]) -> tuple[Status, str] | None:
    """Verdict on a backend that would do, and still may not be selected; None if it may."""
    name = entry.backend.name
    if names:
        return None if name in names else ("available", "was not asked for")
    return ("opt-in", f"only if named: backend={name!r}") if entry.backend.opt_in else None
