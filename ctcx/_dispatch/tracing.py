"""Record which backends really ran: what a test of a backend, or a doubt about one, needs."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctcx._dispatch.decision import Decision
    from ctcx._plugins.backend import Problem

__all__ = ["Run", "listening", "record", "trace"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Run:
    """A kernel that ran to its end.

    Attributes
    ----------
    backend : str
        Its name.
    provenance : str
        Distribution and version, such as ``"ctcx-numba 0.2"``.
    problem : Problem
        What it computed.
    decision : Decision
        Why it was this one.
    """

    backend: str
    provenance: str
    problem: Problem
    decision: Decision = field(repr=False)

    @property
    def operation(self) -> str:
        """``"loss"``, ``"loss_and_grad"``, ``"align"``, ``"occupancies"`` or ``"sample_paths"``."""
        return self.problem.operation


listening: ContextVar[tuple[list[Run], ...]] = ContextVar("ctcx_trace", default=())
"""The lists of all :func:`trace` blocks that are open in this context."""


@contextmanager
def trace() -> Iterator[list[Run]]:
    """Collect what runs inside the ``with`` block, in the order in which it ends.

    A kernel that calls ctcx itself thus appears after what it called. Blocks may be nested: the
    outer one sees all. What other threads and tasks run is not seen, unless they run in a copy of
    this context. Under ``jax.jit`` a run is one call of the kernel by the tracer.

    Yields
    ------
    list of Run
        Grows while the block runs, and stays as it is afterwards.
    """
    runs: list[Run] = []
    token = listening.set((*listening.get(), runs))
    try:
        yield runs
    finally:
        listening.reset(token)


def record(decision: Decision) -> None:
    """Tell all open :func:`trace` blocks of this context that the selected backend has run."""
    entry = decision.selected
    listeners = listening.get()
    if not listeners or entry is None:
        return
    run = Run(
        backend=entry.backend.name,
        provenance=entry.provenance,
        problem=decision.problem,
        decision=decision,
    )
    for runs in listeners:
        runs.append(run)
