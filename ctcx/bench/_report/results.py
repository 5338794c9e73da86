"""A finished run as read from pytest-benchmark's JSON: all that the reports know."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ctcx.bench._implementations.registered import Implementation
from ctcx.bench._measure.machine import machine_name
from ctcx.bench._measure.session import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["BenchmarkRun", "Key", "Measured", "Missing", "ReportError", "WorkloadFacts", "load_run"]

Key = tuple[str, str, str]
"""Layout, workload, implementation."""


class ReportError(ValueError):
    """A file is no result of ``ctcx bench``, or of a later version; the message says which."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Times of one implementation with one workload, in seconds a call."""

    layout: str
    workload: str
    implementation: str
    """Which."""
    median: float
    q1: float
    q3: float
    """Quartiles over all rounds."""
    rounds: int
    """How many there were."""
    facts: dict[str, Any]
    """First call, errors, peak memory, device."""

    @property
    def key(self) -> Key:
        """Which."""
        return self.layout, self.workload, self.implementation

    @property
    def iqr(self) -> float:
        """Interquartile range."""
        return self.q3 - self.q1


@dataclass(frozen=True, kw_only=True, slots=True)
class Missing:
    """A cell without a time: ``skipped``, ``failed`` or ``wrong``, and why."""

    layout: str
    workload: str
    implementation: str
    verdict: str
    reason: str
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """Which."""
        return self.layout, self.workload, self.implementation


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkloadFacts:
    """A workload: where it comes from, N, T, C and S, lattice cells, unavoidable bytes."""

    name: str
    origin: str
    sweep: str | None
    size: int
    shape: tuple[int, ...] = ()
    cells: int = 0
    traffic: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkRun:
    """All that one run found out.

    Attributes
    ----------
    command, date, seconds
        What remakes it, when it was (ISO 8601, UTC), how long it took.
    baseline
        The implementation that others are compared with.
    machine, environment
        What decides speed; versions and what plugins tell.
    copy_rate
        Bytes a second that a copy reads and writes here; None if not known.
    implementations, workloads
        By name, in order.
    measured, missing
        Measurements, by layout, workload and implementation.
    excluded
        Implementations that were not tried: name, where, reason.
    """

    command: str
    date: str
    seconds: float | None
    baseline: str
    machine: dict[str, Any]
    environment: dict[str, str]
    copy_rate: float | None
    implementations: dict[str, Implementation]
    workloads: dict[str, WorkloadFacts]
    measured: dict[Key, Measured]
    missing: dict[Key, Missing]
    excluded: tuple[tuple[str, str, str], ...] = ()

    def busy(self, one: Measured) -> bool:
        """Return whether more threads wanted to run than there were cores while it was timed."""
        return float(one.facts.get("load", 0.0)) > int(self.machine["usable_cores"])

    @property
    def busiest(self) -> float | None:
        """The highest load of what was timed on a busy machine; None if it never was busy."""
        loads = [float(one.facts["load"]) for one in self.measured.values() if self.busy(one)]
        return max(loads, default=None)

    @property
    def machine_name(self) -> str:
        """What two comparable runs have in common."""
        return machine_name(self.machine, self.environment)

    def layouts(self) -> tuple[str, ...]:
        """Return the layouts that have times."""
        return tuple(dict.fromkeys(key[0] for key in self.measured))

    def of(self, layout: str, workload: str) -> Iterator[Measured]:
        """Yield the times of one table, in the order of the implementations."""
        for name in self.implementations:
            if found := self.measured.get((layout, workload, name)):
                yield found

    def ratio(self, one: Measured) -> float | None:
        """Return how many times as fast as the baseline; None if that wasn't measured."""
        base = self.measured.get((one.layout, one.workload, self.baseline))
        return None if base is None else base.median / one.median

    def bound_multiple(self, one: Measured) -> tuple[float, str] | None:
        """Return the time as a multiple of its lower bound's, and the name of that.

        A lower bound on the same library goes before one on another. None if there is none,
        or that wasn't measured.
        """
        who = self.implementations[one.implementation]
        lower_bounds = [
            (each.library != who.library, self.measured[key].median, each.name)
            for each in self.implementations.values()
            if each.kind == "lower_bound"
            and who.backend in each.bound_of
            and (key := (one.layout, one.workload, each.name)) in self.measured
        ]
        if not lower_bounds or who.kind != "backend":
            return None
        _, seconds, name = min(lower_bounds)
        return one.median / seconds, name

    def rate(self, one: Measured) -> float | None:
        """Return the bytes a second, counting each logit read and each entry written once."""
        traffic = self.workloads[one.workload].traffic
        return traffic / one.median if traffic else None

    def per_cell(self, one: Measured) -> float | None:
        """Return seconds a cell of the lattice."""
        cells = self.workloads[one.workload].cells
        return one.median / cells if cells else None


def load_run(path: Path, *, baseline: str | None = None) -> BenchmarkRun:
    """Read a run.

    Parameters
    ----------
    path
        A JSON file that ``ctcx bench`` made.
    baseline
        In place of the one of the run. If that has no time, the others are compared with another
        library's CTC that has one, else with the core, else with the first that was measured.

    Raises
    ------
    ReportError
        The file can't be read, is no run, or has no such implementation.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"can't read {path}: {error.strerror}"
        raise ReportError(msg) from None
    except (ValueError, RecursionError) as error:
        msg = f"{path} is no JSON: {error}"
        raise ReportError(msg) from None
    about = data.get("ctcx") if isinstance(data, dict) else None
    if not isinstance(about, dict) or "benchmarks" not in data:
        msg = f"{path} is no result of ctcx bench: it has no section 'ctcx'"
        raise ReportError(msg)
    if about.get("schema") != SCHEMA:
        msg = f"{path} has the form {about.get('schema')!r}, and this ctcx reads {SCHEMA!r}"
        raise ReportError(msg)
    try:
        run = _run(data, about, baseline)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        msg = f"{path} is damaged: {type(error).__name__}: {error}"
        raise ReportError(msg) from None
    if run.baseline not in run.implementations:
        msg = (
            f"{path} has no implementation {run.baseline!r} for --baseline; it has "
            f"{', '.join(run.implementations)}"
        )
        raise ReportError(msg)
    return run


def _run(data: dict[str, Any], about: dict[str, Any], baseline: str | None) -> BenchmarkRun:
    implementations = [Implementation.from_dict(one) for one in about["implementations"]]
    measured = [_measured(one) for one in data["benchmarks"] if _has_times(one)]
    missing = [Missing(**one) for one in about["missing"]]
    return BenchmarkRun(
        command=about["command"],
        date=data["datetime"],
        seconds=about["seconds"],
        baseline=baseline or _baseline(about["baseline"], implementations, measured),
        machine=about["machine"],
        environment=about["environment"],
        copy_rate=about["copy_rate"],
        implementations={one.name: one for one in implementations},
        workloads={
            one["name"]: WorkloadFacts(**(one | {"shape": tuple(one.get("shape", ()))}))
            for one in about["workloads"]
        },
        measured={one.key: one for one in measured},
        missing={one.key: one for one in missing},
        excluded=tuple(
            (one["implementation"], one["where"], one["reason"])
            for one in about.get("excluded", ())
        ),
    )


def _baseline(wanted: str, implementations: list[Implementation], measured: list[Measured]) -> str:
    """Return the implementation to compare with: the one wanted, if it was measured."""
    times = Counter(one.implementation for one in measured)
    if times[wanted] or not times:
        return wanted
    order = {"peer": 0, "backend": 1, "lower_bound": 2}

    def rank(one: Implementation) -> tuple[bool, int, bool, int]:
        core = one.backend == "array-api"
        return not times[one.name], order[one.kind], not core, -times[one.name]

    return min(implementations, key=rank).name


def _has_times(bench: dict[str, Any]) -> bool:
    return "implementation" in bench["extra_info"] and math.isfinite(bench["stats"]["median"])


def _measured(bench: dict[str, Any]) -> Measured:
    info, stats = bench["extra_info"], bench["stats"]
    return Measured(
        layout=info["layout"],
        workload=info["workload"],
        implementation=info["implementation"],
        median=stats["median"],
        q1=stats["q1"],
        q3=stats["q3"],
        rounds=stats["rounds"],
        facts=info["facts"],
    )
