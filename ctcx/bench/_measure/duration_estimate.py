"""Foresee how long a call will take, so that a run doesn't spend its time on one implementation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ctcx.data.batch import Batch

__all__ = ["DurationEstimate", "WorkloadSize"]

_ALIKE = 64
"""A workload so many times as large is another matter: a small one's time is mostly overhead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkloadSize:
    """How large a workload is: cells of the lattice, and bytes of logits and gradient."""

    name: str
    cells: int
    traffic: int

    @classmethod
    def of(cls, name: str, inputs: Batch) -> WorkloadSize:
        """Measure a batch."""
        return cls(name=name, cells=max(1, inputs.cells), traffic=max(1, inputs.traffic))


@dataclass(slots=True)
class DurationEstimate:
    """What is known of one implementation's speed."""

    _seen: list[tuple[WorkloadSize, float]] = field(default_factory=list)

    def saw(self, size: WorkloadSize, seconds: float) -> None:
        """Remember how long a call took."""
        self._seen.append((size, seconds))

    def foresee(self, size: WorkloadSize) -> tuple[float, str] | None:
        """Return the seconds that a call will take at most, and the workload that tells so.

        Time grows at most in proportion to the larger of cells and bytes. Of all workloads seen,
        the one that promises least is the most like this one. None if none is alike.
        """
        promises = []
        for one, seconds in self._seen:
            times = max(size.cells / one.cells, size.traffic / one.traffic)
            if times <= _ALIKE:
                promises.append((seconds * times, one.name))
        return min(promises, default=None)
