"""Which backend was chosen for a call, and why none of the others was: data, and a table of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ctcx._plugins.backend import Problem
    from ctcx._plugins.records import RegisteredBackend

__all__ = ["Candidate", "Decision", "Source", "Status", "describe", "table"]

Source: TypeAlias = Literal["argument", "use_backend", "CTCX_BACKEND", "auto"]
"""Who chose: ``backend=``, :func:`ctcx.use_backend`, the environment, or the automatic order."""

Status: TypeAlias = Literal["selected", "rejected", "available", "opt-in", "unusable", "declined"]
"""selected: computes this call. rejected: can't take it. available: could take it too. opt-in:
could, and has to be named. unusable: its plugin, or its kernel's import, failed or is blocked.
declined: its kernel was called and refused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One line of a decision: a backend, or a plugin that could not offer any.

    Attributes
    ----------
    name : str
        Of the backend; of the entry point for a plugin without any.
    provenance : str
        Distribution and version, such as ``"ctcx-numba 0.2"``.
    status : str
        ``selected``, ``rejected``, ``available``, ``opt-in``, ``unusable`` or ``declined``.
    reason : str
        Why; empty for a backend that was selected.
    """

    name: str
    provenance: str
    status: Status
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Decision:
    """The outcome of a selection; ``str()`` of it is a table for people.

    Attributes
    ----------
    problem : Problem
        What was to be computed.
    selected : RegisteredBackend or None
        The backend chosen; None if no candidate can take the problem.
    candidates : tuple of Candidate
        All of them, in the order in which they were considered.
    source : str
        Who chose: ``"argument"``, ``"use_backend"``, ``"CTCX_BACKEND"`` or ``"auto"``.
    asked : tuple of str
        The names that the source gave, in order; empty for ``"auto"``.
    """

    problem: Problem
    selected: RegisteredBackend | None
    candidates: tuple[Candidate, ...]
    source: Source
    asked: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Problem, choice and one aligned line for each candidate."""
        if self.selected is None:
            choice = "no backend can take it"
        else:
            chosen_by = "automatically" if self.source == "auto" else f"by {self.source}"
            choice = f"{self.selected.backend.name!r} chosen {chosen_by}"
        return f"{describe(self.problem)}: {choice}\n{table(self.candidates)}"


def describe(problem: Problem) -> str:
    """One line that says what is to be computed."""
    traced = ", traced" if problem.traced else ""
    contiguous = "" if problem.contiguous else ", not contiguous"
    return (
        f"{problem.operation} of {problem.namespace} {problem.dtype} on {problem.device}, "
        f"N={problem.N} T={problem.T} C={problem.C} S={problem.S} blank={problem.blank}"
        f"{traced}{contiguous}"
    )


def table(candidates: Iterable[Candidate]) -> str:
    """Aligned plain-text table, one line for each candidate."""
    rows = [("backend", "from", "status", "reason")]
    rows += [(c.name, c.provenance, c.status, c.reason) for c in candidates]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(_line(row, widths) for row in rows)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
    return f"  {'  '.join(cells)}".rstrip()
