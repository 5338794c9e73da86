"""One run of the suite: what is to be measured, what has been, and what is missing and why."""

from __future__ import annotations

import fnmatch
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctcx._errors import one_line
from ctcx._peers import PEERS
from ctcx._plugins.registry import registry
from ctcx.bench._implementations.registered import (
    TEST_ONLY_LIBRARY,
    Implementation,
    backend_implementations,
    lower_bounds,
    peers,
)
from ctcx.bench._measure.accuracy import cache_directory, known_truth
from ctcx.bench._measure.duration_estimate import WorkloadSize
from ctcx.bench._measure.machine import machine_facts, published
from ctcx.bench._measure.schedule import (
    Layout,
    Measurement,
    TimingBudget,
    WorkerPool,
    WorkloadFiles,
)
from ctcx.bench._measure.worker_process import WorkerError, WorkerProcess
from ctcx.bench.workloads import workloads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ctcx.bench.workloads import Workload

__all__ = ["SCHEMA", "PlannedMeasurement", "Session", "SessionOptions", "UnknownNameError"]

SCHEMA = "ctcx-bench/2"

_QUICK_PEERS = ("torch", "optax")
_COPY_SECONDS = 60.0
_AGAIN = "another one calls the same kernel, or the same compiled"


class UnknownNameError(ValueError):
    """An option names something that isn't there; the message lists what is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionOptions:
    """What was asked for."""

    quick: bool = False
    """A few workloads and peers, briefly, each implementation in a process of its own only."""
    backends: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    workloads: tuple[str, ...] = ()
    """Only these; empty for all. Workloads may be patterns, as for files; ``none`` is no peer."""
    baseline: str = "torch"
    """The implementation by whose time the others are divided."""
    max_seconds: float | None = None
    """After so many seconds nothing new is begun; None for no limit."""
    patience: float = 120.0
    """Seconds after which an implementation that doesn't answer is ended. Its first call, which may
    have to compile, has three times as long."""

    def command(self) -> str:
        """Return the command that asks for the same."""
        words = ["ctcx", "bench"] + ["--quick"] * self.quick
        for option, names in (
            ("--backend", self.backends),
            ("--library", self.libraries),
            ("--peer", self.peers),
            ("--workload", self.workloads),
        ):
            words += [f"{option} {_quoted(name)}" for name in names]
        if self.baseline != "torch":
            words.append(f"--baseline {_quoted(self.baseline)}")
        if self.max_seconds is not None:
            words.append(f"--max-seconds {self.max_seconds:g}")
        if self.patience != SessionOptions.__dataclass_fields__["patience"].default:
            words.append(f"--patience {self.patience:g}")
        return " ".join(words)


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class PlannedMeasurement:
    """One cell that is to be measured."""

    layout: Layout
    workload: Workload
    implementation: Implementation

    @property
    def id(self) -> str:
        """What pytest shows."""
        name = self.implementation.name.replace(", ", "-").replace(" ", "-")
        return f"{self.layout}-{self.workload.name}-{name}"

    def __repr__(self) -> str:
        # What pytest-benchmark writes for a parameter.
        return self.id


@dataclass(slots=True)
class _Done:
    """A workload in one layout, measured."""

    cells: dict[str, Measurement]
    shape: dict[str, Any] = field(default_factory=dict)


class Session:
    """Measures each workload when its first cell is asked for.

    Without ``time_it``, each implementation only computes once, and is checked. ``tell`` is called
    with a line about each step.

    Raises UnknownNameError: a name in the options is not known.
    """

    def __init__(
        self,
        options: SessionOptions,
        *,
        time_it: bool = True,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.options = options
        self.tell = tell
        self._time_it = time_it
        self._begin: float | None = None
        self._implementations = _implementations(options)
        self._workloads = _workloads(options)
        self.planned = tuple(self._plan())
        self._fields: dict[Layout, WorkerPool] = {}
        self._done: dict[tuple[Layout, str], _Done] = {}
        self._copy_rate: float | None = None
        self._lines: dict[str, str] = {}
        self._directory = tempfile.TemporaryDirectory(prefix="ctcx-bench-")

    @property
    def scratch(self) -> Path:
        """A directory for files that are not needed later."""
        return Path(self._directory.name)

    def measured(self, planned: PlannedMeasurement) -> Measurement:
        """Return a cell, after all implementations have been measured with its workload."""
        key = planned.layout, planned.workload.name
        if key not in self._done:
            self._done[key] = self._measure(planned.layout, planned.workload)
        return self._done[key].cells[planned.implementation.name]

    def close(self) -> None:
        """End all processes and delete the files."""
        for one in self._fields.values():
            one.close()
        self._fields.clear()
        self._directory.cleanup()

    def as_dict(self) -> dict[str, Any]:
        """Return, for the JSON, all that pytest-benchmark doesn't know."""
        shapes = {name: done.shape for (_, name), done in self._done.items() if done.shape}
        return {
            "schema": SCHEMA,
            "command": self.options.command(),
            "baseline": self.options.baseline,
            "quick": self.options.quick,
            "seconds": None if self._begin is None else time.monotonic() - self._begin,
            "machine": machine_facts(),
            "environment": published(self._lines),
            "copy_rate": self._copy_rate,
            "implementations": [one.as_dict() for one in self._implementations],
            "workloads": [
                {
                    "name": one.name,
                    "origin": one.origin,
                    "sweep": one.sweep,
                    "size": one.size,
                    **shapes.get(one.name, {}),
                }
                for one in self._workloads
            ],
            "missing": list(self._missing()),
            "excluded": list(self._excluded()),
        }

    def _excluded(self) -> Iterator[dict[str, str]]:
        """Yield who is not even tried, where, and why."""
        plugins, backends = registry(), self.options.backends or None
        if not self.options.libraries and TEST_ONLY_LIBRARY in plugins.namespaces:
            reason = f"a library for tests; --library {TEST_ONLY_LIBRARY} measures it"
            for one in backend_implementations(
                plugins, backends=backends, libraries=[TEST_ONLY_LIBRARY]
            ):
                yield {"implementation": one.name, "where": "all", "reason": reason}
        for name, reason in _not_quick(self.options, self._implementations):
            yield {"implementation": name, "where": "all", "reason": reason}
        for one in self._implementations:
            if any(each.sweep and one not in self._taking_part(each) for each in self._workloads):
                yield {"implementation": one.name, "where": "sweeps", "reason": _AGAIN}

    def _missing(self) -> Iterator[dict[str, Any]]:
        """Yield the cells that have no time, with the reason."""
        for each in self.planned:
            done = self._done.get((each.layout, each.workload.name))
            cell = done.cells[each.implementation.name] if done else None
            if cell is None:
                verdict, reason = "skipped", "not measured: the run was ended before"
            elif cell.verdict != "ok":
                verdict, reason = cell.verdict, cell.reason
            else:
                continue
            yield {
                "layout": each.layout,
                "workload": each.workload.name,
                "implementation": each.implementation.name,
                "verdict": verdict,
                "reason": reason,
                "facts": cell.facts if cell else {},
            }

    def _plan(self) -> Iterator[PlannedMeasurement]:
        """Yield the cells in the order in which they are measured."""
        single = [one for one in self._workloads if one.sweep is None]
        sweeps = [one for one in self._workloads if one.sweep is not None]
        # What is alone comes first: a run that has too little time lacks the other table.
        rounds: list[tuple[Layout, list[Workload]]] = [("alone", single + sweeps)]
        if not self.options.quick:
            rounds.append(("together", single))
        for layout, some in rounds:
            for workload in some:
                for one in self._taking_part(workload):
                    yield PlannedMeasurement(layout=layout, workload=workload, implementation=one)

    def _taking_part(self, workload: Workload) -> tuple[Implementation, ...]:
        """Return all implementations; in a sweep, those that would draw a second line but once.

        What a library can compile, it would be used compiled where it is to scale; Keras calls
        the function of its backend; and a kernel that takes several libraries is the same on each.
        """
        if workload.sweep is None:
            return self._implementations
        lines = _without_eager(_first_with_a_kernel(self._implementations))
        return tuple(
            one
            for one in self._implementations
            if one.name == self.options.baseline or (one in lines and one.name != "keras")
        )

    def _measure(self, layout: Layout, workload: Workload) -> _Done:
        if self._begin is None:
            self._lines = registry().runtime_info()
            self._measure_copy()
            self._begin = time.monotonic()
        taking_part = self._taking_part(workload)
        where = f"{workload.name}, {'one process' if layout == 'together' else 'own processes'}"
        try:
            self.tell(f"{where}: inputs and truth")
            batch = workload.make()
            inputs = self.scratch / "inputs.npz"
            batch.save(inputs)
            known_truth(batch, cache_directory()).save(self.scratch)
        except Exception as error:  # noqa: BLE001 - a plugin's case may be anything
            cells = {one.name: Measurement(implementation=one) for one in taking_part}
            for cell in cells.values():
                cell.out("failed", f"the workload can't be made: {one_line(error)}")
            return _Done(cells)
        shape = {
            "shape": [*batch.logits.shape, batch.labels.shape[1]],
            "cells": batch.cells,
            "traffic": batch.traffic,
        }
        given = WorkloadFiles(
            inputs=inputs, truth=self.scratch, size=WorkloadSize.of(workload.name, batch)
        )
        del batch
        field_ = self._field(layout)
        measured = field_.measure(
            given,
            self._effort(layout, workload),
            taking_part,
            lambda who, what: self.tell(f"{where}: {who} {what}"),
        )
        self._lines |= field_.facts(self._effort(layout, workload))
        return _Done(measured, shape)

    def _field(self, layout: Layout) -> WorkerPool:
        """Return the processes of a layout; those of the other one are ended first."""
        if layout not in self._fields:
            for other in self._fields.values():
                other.close()
            self._fields.clear()
            deadline = float("inf")
            if self.options.max_seconds is not None and self._begin is not None:
                deadline = self._begin + self.options.max_seconds
            self._fields[layout] = WorkerPool(
                layout, self._implementations, baseline=self.options.baseline, deadline=deadline
            )
        return self._fields[layout]

    def _effort(self, layout: Layout, workload: Workload) -> TimingBudget:
        if not self._time_it:
            return TimingBudget(seconds=0.0, turns=0, patience=self.options.patience)
        brief = workload.sweep is not None or layout == "together" or self.options.quick
        return TimingBudget(
            seconds=0.15 if brief else 0.4,
            turns=3 if brief else 4,
            patience=self.options.patience,
            longest=1.0 if brief else 2.5,
        )

    def _measure_copy(self) -> None:
        self.tell("speed of a copy")
        child = WorkerProcess(())
        try:
            self._copy_rate = child.ask("copy", timeout=_COPY_SECONDS)["rate"]
        except (WorkerError, KeyError):
            self._copy_rate = None  # the reports say that it is not known
        finally:
            child.end()


def _found(options: SessionOptions) -> tuple[Implementation, ...]:
    """Return all who were asked for."""
    plugins = registry()
    _known("backend", options.backends, plugins.backends)
    _known("array library", options.libraries, plugins.namespaces)
    _known("peer", options.peers, (*PEERS, "none"))
    chosen = options.peers or (_QUICK_PEERS if options.quick else tuple(PEERS))
    # The baseline takes part in any case.
    return (
        *backend_implementations(
            plugins, backends=options.backends or None, libraries=options.libraries or None
        ),
        *peers([*chosen, options.baseline]),
        *lower_bounds(
            plugins, backends=options.backends or None, libraries=options.libraries or None
        ),
    )


def _implementations(options: SessionOptions) -> tuple[Implementation, ...]:
    found = _found(options)
    if options.quick:
        found = _without_eager(found)
    names = [one.name for one in found]
    if options.baseline not in names:
        raise UnknownNameError(_unknown("implementation for --baseline", options.baseline, names))
    return found


def _not_quick(
    options: SessionOptions, taking_part: Sequence[Implementation]
) -> Iterator[tuple[str, str]]:
    """Yield who would take part without ``--quick``, and why not now."""
    names = {one.name for one in taking_part}
    for name in () if options.peers or not options.quick else PEERS:
        if name not in names:
            yield name, "--quick measures few of the other implementations"
    for one in _found(options):
        if one.name not in names:
            yield one.name, _AGAIN


def _first_with_a_kernel(implementations: Sequence[Implementation]) -> tuple[Implementation, ...]:
    """Leave out who calls the kernel of an earlier one, on another library.

    A backend for any library is written in the operations of each, and stays on all.
    """
    backends = registry().backends
    first: dict[tuple[str, str], Implementation] = {}
    for one in implementations:
        first.setdefault((one.kind, one.backend), one)
    return tuple(
        one
        for one in implementations
        if not one.training
        and (
            one.kind == "peer"
            or (one.kind == "backend" and "*" in backends[one.backend].backend.namespaces)
            or first[one.kind, one.backend] is one
        )
    )


def _without_eager(implementations: Sequence[Implementation]) -> tuple[Implementation, ...]:
    """Leave out who takes part under its library's jit as well."""
    compiled = {(one.backend, one.library) for one in implementations if one.jit}
    return tuple(
        one
        for one in implementations
        if one.jit or one.training or (one.backend, one.library) not in compiled
    )


def _workloads(options: SessionOptions) -> tuple[Workload, ...]:
    known = workloads()
    if options.workloads:
        for pattern in options.workloads:
            if not fnmatch.filter(known, pattern):
                raise UnknownNameError(_unknown("workload", pattern, known))
        return tuple(
            one
            for name, one in known.items()
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in options.workloads)
        )
    return tuple(one for one in known.values() if one.quick or not options.quick)


def _known(what: str, names: tuple[str, ...], known: Any) -> None:
    for name in names:
        if name not in known:
            raise UnknownNameError(_unknown(what, name, known))


def _unknown(what: str, name: str, known: Any) -> str:
    return f"there is no {what} {name!r}; there are {', '.join(known)}"


def _quoted(name: str) -> str:
    return f'"{name}"' if " " in name or "*" in name else name
