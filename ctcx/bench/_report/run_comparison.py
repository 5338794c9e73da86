"""What changed between two runs, beyond noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctcx.bench._report.format import count, error, seconds, size, three
from ctcx.bench._report.tables import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctcx.bench._report.results import BenchmarkRun, Key, Measured

__all__ = ["Change", "Changes", "DifferentMachinesError", "compare_runs"]

_LEAST = 0.03
"""A change of less is never told: no two runs of one program are closer."""

_ERROR_GROWTH = 4.0
"""Errors are a few roundings: they count as changed from this factor on, and above 1e-7."""

_MEMORY = (0.2, 1e6)
"""Memory counts as changed from this share and so many bytes on."""


class DifferentMachinesError(ValueError):
    """Two runs are not of one machine; the message says what differs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What has become of one cell."""

    key: Key
    """Layout, workload, implementation."""
    kind: str
    """``slower``, ``faster``, ``error``, ``memory``, ``gone``, ``new``."""
    old: str
    new: str
    """For people."""
    note: str
    """How much, or why."""

    @property
    def bad(self) -> bool:
        """Whether it is for the worse."""
        return self.kind in {"slower", "gone"} or (self.kind == "error" and self.note[:1] != "/")


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """All changes, and what was taken for noise."""

    changes: tuple[Change, ...]
    """The largest first."""
    compared: int
    """How many cells both runs have."""
    drift: float
    """The share by which a time must change, since things that can't have changed did so."""
    control: int
    """How many such things there were."""
    versions: tuple[tuple[str, str, str], ...]
    """What differs in the environment."""

    def table(self) -> Table:
        """Return the changes as a table."""
        rows = [
            (one.kind, one.key[2], f"{one.key[1]} ({one.key[0]})", one.old, one.new, one.note)
            for one in self.changes
        ]
        return Table(
            title="Changed beyond noise",
            about=self.summary(),
            head=("what", "implementation", "where", "old", "new", "change"),
            rows=tuple(rows),
            words=3,
        )

    def summary(self) -> str:
        """Return what was compared, and how, in two sentences."""
        drifted = (
            f"{self.drift:.0%}, the drift of {count(self.control, 'time')} of programs that are "
            "the same in both"
            if self.control
            else f"{self.drift:.0%}"
        )
        return (
            f"{count(len(self.changes), 'change')} in {count(self.compared, 'cell')} that both "
            f"runs have. A time has changed if its quartiles don't overlap and its median moved "
            f"by more than {drifted}."
        )


def compare_runs(
    old: BenchmarkRun, new: BenchmarkRun, *, different_machines: bool = False
) -> Changes:
    """Compare two runs cell by cell.

    Parameters
    ----------
    old, new
        The runs.
    different_machines
        Whether to compare them in any case.

    Returns
    -------
    Changes

    Raises
    ------
    DifferentMachinesError
        They are of different machines.
    """
    if not different_machines and old.machine_name != new.machine_name:
        msg = (
            f"the runs are of different machines: {old.machine_name!r} and {new.machine_name!r}; "
            "--different-machines compares them all the same"
        )
        raise DifferentMachinesError(msg)
    shared = [key for key in old.measured if key in new.measured]
    control = _control(old, new, shared)
    drift = max([_LEAST, *_upper_tenth(control)])
    changes = [*_times(old, new, shared, drift), *_others(old, new, shared), *_coverage(old, new)]
    return Changes(
        changes=tuple(changes),
        compared=len(shared),
        drift=drift,
        control=len(control),
        versions=tuple(_versions(old, new)),
    )


def _control(old: BenchmarkRun, new: BenchmarkRun, shared: list[Key]) -> list[float]:
    """Return how far the times of other implementations moved, if their versions are the same."""
    packages = {
        "torch": ("torch",),
        "optax": ("optax", "jax", "jaxlib"),
        "tensorflow-v1": ("tensorflow",),
        "tensorflow-v2": ("tensorflow",),
        "keras": ("keras", "tensorflow", "jax", "torch"),
    }
    same = {
        who
        for who, names in packages.items()
        if all(old.environment.get(name) == new.environment.get(name) for name in names)
    }
    return [abs(_move(old.measured[key], new.measured[key])) for key in shared if key[2] in same]


def _upper_tenth(moves: list[float]) -> list[float]:
    """Return what nine of ten moves stay below, if there are enough to tell."""
    if len(moves) < 3:
        return []
    return [sorted(moves)[math.ceil(0.9 * len(moves)) - 1]]


def _move(old: Measured, new: Measured) -> float:
    return new.median / old.median - 1.0


def _times(
    old: BenchmarkRun, new: BenchmarkRun, shared: list[Key], drift: float
) -> Iterator[Change]:
    found = []
    for key in shared:
        before, after = old.measured[key], new.measured[key]
        apart = before.q3 < after.q1 or after.q3 < before.q1
        # On the logarithm, so that twice as fast and half as fast are the same distance.
        distance = abs(math.log(after.median / before.median))
        if apart and distance > math.log1p(drift):
            found.append((distance, key, before, after))
    for _, key, before, after in sorted(found, key=lambda item: -item[0]):
        slower = after.median > before.median
        factor = after.median / before.median if slower else before.median / after.median
        yield Change(
            key=key,
            kind="slower" if slower else "faster",
            old=seconds(before.median),
            new=seconds(after.median),
            note=f"{three(factor)} times as {'slow' if slower else 'fast'}",
        )


def _others(old: BenchmarkRun, new: BenchmarkRun, shared: list[Key]) -> Iterator[Change]:
    for key in shared:
        before, after = old.measured[key].facts, new.measured[key].facts
        for name, what in (("grad", "gradient"), ("loss_rel", "loss")):
            one, two = before.get(name), after.get(name)
            if one is not None and two is not None and max(one, two) > 1e-7:
                low, high = sorted((max(one, 1e-12), max(two, 1e-12)))
                if high / low >= _ERROR_GROWTH:
                    times = three(high / low)
                    note = f"{times} times, {what}" if two > one else f"/ {times}, {what}"
                    yield Change(key=key, kind="error", old=error(one), new=error(two), note=note)
        one, two = before.get("peak"), after.get("peak")
        share, least = _MEMORY
        if one is not None and two is not None and abs(two - one) > max(least, share * one):
            note = f"{'+' if two > one else '-'}{size(abs(two - one))}"
            yield Change(key=key, kind="memory", old=size(one), new=size(two), note=note)


def _coverage(old: BenchmarkRun, new: BenchmarkRun) -> Iterator[Change]:
    """Yield cells that one run has measured and the other one not."""
    for key, before in old.measured.items():
        if key not in new.measured and (why := new.missing.get(key)):
            yield Change(
                key=key, kind="gone", old=seconds(before.median), new=why.verdict, note=why.reason
            )
    for key, after in new.measured.items():
        if key not in old.measured and (why := old.missing.get(key)):
            yield Change(
                key=key, kind="new", old=why.verdict, new=seconds(after.median), note=why.reason
            )


def _versions(old: BenchmarkRun, new: BenchmarkRun) -> Iterator[tuple[str, str, str]]:
    for name in dict.fromkeys([*old.environment, *new.environment]):
        before, after = old.environment.get(name, "-"), new.environment.get(name, "-")
        if before != after:
            yield name, before, after
