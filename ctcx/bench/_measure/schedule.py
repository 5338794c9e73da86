"""Measure all implementations on one workload, taking turns, and survive whatever they do."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ctcx._cores import load
from ctcx.bench._measure.duration_estimate import DurationEstimate, WorkloadSize
from ctcx.bench._measure.worker_process import WorkerError, WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ctcx.bench._implementations.registered import Implementation

__all__ = [
    "Layout",
    "Measurement",
    "Measurements",
    "TimingBudget",
    "Verdict",
    "WorkerPool",
    "WorkloadFiles",
]

Layout: TypeAlias = Literal["alone", "together"]
"""alone: each implementation has a process of its own. together: one process holds all."""

Verdict: TypeAlias = Literal["ok", "skipped", "failed", "wrong"]
"""ok: measured. skipped: could not be measured here, or there was no time. failed: raised, crashed
or hung. wrong: computed something else, so it gets no time."""

_MOST_CRASHES = 2
"""An implementation that has ended its process so often is left out of what follows."""

_TO_COMPILE = 3.0
"""An implementation's first call may take so many times as long as any other."""

_MOST_ROUNDS = 30
_FEWEST_TURNS = ((1, 1.0), (3, 0.0))
"""How many turns there are at least, beside the first round, where a call takes so many seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TimingBudget:
    """How long to measure."""

    seconds: float
    """To spend on calls of one implementation with one workload, as far as calls are short
    enough."""
    turns: int
    """In how many turns."""
    patience: float
    """Seconds after which an implementation that doesn't answer is ended; its first answer, which
    may have to wait for a compiler, may take three times as long."""
    longest: float = float("inf")
    """Seconds that a call may take: an implementation that would need more, by its pace with
    earlier workloads, is not measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkloadFiles:
    """A workload as the processes get it: a file with the batch, a directory with the truth."""

    inputs: Path
    truth: Path
    size: WorkloadSize


@dataclass(kw_only=True, slots=True)
class Measurement:
    """One implementation with one workload."""

    implementation: Implementation
    """Who."""
    verdict: Verdict = "ok"
    reason: str = ""
    """``ok``, or what is in the way."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the worker found when it prepared: first call, errors, peak memory; and the highest load
    of the machine while it was timed."""
    durations: list[float] = field(default_factory=list)
    """Seconds of each round."""
    iterations: int = 1
    """Calls in a round."""

    def out(self, verdict: Verdict, reason: str) -> None:
        """Take the implementation out; what was measured of it doesn't count."""
        self.verdict, self.reason, self.durations = verdict, reason, []


Measurements: TypeAlias = dict[str, Measurement]
"""By the implementations' names."""

Tell: TypeAlias = "Callable[[str, str], None]"
"""Called with an implementation's name and what is done with it."""


class WorkerPool:
    """The processes of all implementations, which take turns in their order, in one layout.

    The ``baseline`` is measured even where it is slow, since others are compared with it. Nothing
    new is begun after the ``deadline`` on the clock of :func:`time.monotonic`.
    """

    def __init__(
        self,
        layout: Layout,
        implementations: Sequence[Implementation],
        *,
        baseline: str = "",
        deadline: float = float("inf"),
    ) -> None:
        self.layout = layout
        self._implementations = tuple(implementations)
        self._baseline = baseline
        self._deadline = deadline
        self._children: dict[str, WorkerProcess] = {}
        self._out: dict[str, tuple[Verdict, str]] = {}
        self._crashes: Counter[str] = Counter()
        self._answered: set[str] = set()
        self._paces: defaultdict[str, DurationEstimate] = defaultdict(DurationEstimate)

    def measure(
        self,
        given: WorkloadFiles,
        effort: TimingBudget,
        implementations: Sequence[Implementation],
        tell: Tell = lambda _who, _what: None,
    ) -> Measurements:
        """Measure one workload with all implementations, or those that are given.

        All measurements that are returned with the verdict ``ok`` have times.
        """
        cells = {one.name: Measurement(implementation=one) for one in implementations}
        while not (
            self._prepare(cells, given, effort, tell) and self._take_turns(cells, effort, tell)
        ):
            # In one process, a crash takes the others' state along: they begin again.
            for cell in cells.values():
                if cell.verdict == "ok":
                    cell.facts, cell.durations = {}, []
        self._release(effort)
        for cell in cells.values():
            if cell.verdict == "ok" and "steady" in cell.facts:
                self._paces[cell.implementation.name].saw(given.size, cell.facts["steady"])
        return cells

    def close(self) -> None:
        """End all processes."""
        for child in set(self._children.values()):
            child.end()
        self._children.clear()

    def _prepare(
        self, cells: Measurements, given: WorkloadFiles, effort: TimingBudget, tell: Tell
    ) -> bool:
        """Let all compute once; False if all have to begin again."""
        for name, cell in cells.items():
            if cell.verdict != "ok" or cell.facts:
                continue
            if name in self._out:
                cell.out(*self._out[name])
                continue
            if self._late(cell) or self._slow(cell, given.size, effort):
                continue
            tell(name, "prepares")
            answer = self._ask(
                cell,
                effort,
                "prepare",
                inputs=str(given.inputs),
                truth=str(given.truth),
                memory=self.layout == "alone",
            )
            if answer is not None:
                cell.durations, cell.iterations = answer.pop("durations"), answer["iterations"]
                cell.facts = answer
            elif self._collapsed():
                return False
        return True

    def _take_turns(self, cells: Measurements, effort: TimingBudget, tell: Tell) -> bool:
        """Let all be timed; False if all have to begin again."""
        for turn in range(effort.turns):
            for name, cell in cells.items():
                if cell.verdict != "ok" or _enough(cell, effort, turn) or self._late(cell):
                    continue
                tell(name, f"turn {turn + 1} of {effort.turns}")
                answer = self._ask(
                    cell,
                    effort,
                    "turn",
                    rounds=_rounds(cell, effort),
                    iterations=cell.iterations,
                    rest=self.layout == "alone",
                )
                if answer is not None:
                    cell.durations += answer["durations"]
                    cell.facts["load"] = max(cell.facts.get("load", 0.0), load() or 0.0)
                elif self._collapsed():
                    return False
        return True

    def _collapsed(self) -> bool:
        """Whether an implementation has taken all others along."""
        return self.layout == "together" and not self._children

    def _late(self, cell: Measurement) -> bool:
        """Whether the time is up; a cell that has been measured a little keeps that."""
        if time.monotonic() < self._deadline:
            return False
        if not cell.durations:
            cell.out("skipped", "not measured: the time set by --max-seconds was over")
        return True

    def _slow(self, cell: Measurement, size: WorkloadSize, effort: TimingBudget) -> bool:
        """Whether a call would take too long; nothing is measured then."""
        name = cell.implementation.name
        foreseen = self._paces[name].foresee(size)
        if foreseen is None or foreseen[0] <= effort.longest or name == self._baseline:
            return False
        seconds, like = foreseen
        reason = (
            f"not measured: a call would take about {seconds:.2g} s by its pace on {like}, and "
            f"{effort.longest:g} s is the most here"
        )
        cell.out("skipped", reason)
        return True

    def _ask(
        self, cell: Measurement, effort: TimingBudget, do: str, **order: Any
    ) -> dict[str, Any] | None:
        """Give an order; None if the implementation is out, with the cell saying why."""
        name = cell.implementation.name
        try:
            child = self._child_of(cell.implementation)
            answer = child.ask(
                do, implementation=name, timeout=self._patience(effort, name), **order
            )
        except WorkerError as error:
            self._bury(name)
            if time.monotonic() >= self._deadline:
                cell.out("skipped", "cut off: the time set by --max-seconds was over")
                return None
            cell.out("failed", str(error))
            self._crashes[name] += 1
            if self._crashes[name] >= _MOST_CRASHES:
                self._out[name] = ("failed", f"left out after {_MOST_CRASHES} failures: {error}")
            return None
        self._answered.add(name)
        if "verdict" not in answer:
            return answer
        cell.out(answer["verdict"], answer["reason"])
        cell.facts = answer
        if answer.get("everywhere"):
            self._out[name] = (answer["verdict"], answer["reason"])
        return None

    def _patience(self, effort: TimingBudget, name: str = "") -> float:
        compiles = name and name not in self._answered
        patience = effort.patience * (_TO_COMPILE if compiles else 1.0)
        return max(1.0, min(patience, self._deadline - time.monotonic()))

    def _child_of(self, implementation: Implementation) -> WorkerProcess:
        """Return the process of an implementation, started if there is none."""
        if implementation.name not in self._children:
            mine = [implementation] if self.layout == "alone" else self._implementations
            child = WorkerProcess(mine)
            self._children |= {one.name: child for one in mine}
        return self._children[implementation.name]

    def _bury(self, name: str) -> None:
        """Forget a process that has ended."""
        if child := self._children.get(name):
            child.end()
            self._children = {n: c for n, c in self._children.items() if c is not child}

    def facts(self, effort: TimingBudget) -> dict[str, str]:
        """Return what the running processes tell of versions, drivers and threads."""
        lines: dict[str, str] = {}
        for child in self._living():
            try:
                lines |= child.ask("facts", timeout=self._patience(effort))["lines"]
            except WorkerError:
                continue  # it is missed, and reported, when it is asked to measure
        return lines

    def _release(self, effort: TimingBudget) -> None:
        for child in self._living():
            try:
                child.ask("release", timeout=self._patience(effort))
            except WorkerError:
                self._children = {n: c for n, c in self._children.items() if c is not child}

    def _living(self) -> list[WorkerProcess]:
        return list(dict.fromkeys(self._children.values()))


def _enough(cell: Measurement, effort: TimingBudget, turn: int) -> bool:
    """Whether an implementation has been timed enough: long calls get fewer turns."""
    fewest = next(turns for turns, calls in _FEWEST_TURNS if cell.facts["steady"] >= calls)
    return turn >= fewest and sum(cell.durations) >= effort.seconds


def _rounds(cell: Measurement, effort: TimingBudget) -> int:
    """Return how many rounds go into a turn."""
    one_round = max(1e-6, cell.facts["steady"] * cell.iterations)
    return max(1, min(_MOST_ROUNDS, int(effort.seconds / effort.turns / one_round)))
