"""The suite: one benchmark for each implementation and workload.

The rounds have been measured in other processes, in turns, before pytest-benchmark asks for them;
they are played back to it through a clock of its own, so that statistics, storage and JSON are
those of pytest-benchmark.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ctcx.bench._measure.schedule import Measurement
    from ctcx.bench._measure.session import PlannedMeasurement

__all__ = ["RecordedClock", "test_loss_and_grad"]


class RecordedClock:
    """A clock that stands still but while :meth:`call` runs, and a call that takes given times."""

    def __init__(self) -> None:
        self._now = 0.0
        self._steps: list[float] = []

    def __call__(self) -> float:
        """Return the time."""
        return self._now

    def load(self, durations: list[float], iterations: int) -> None:
        """Set what the next calls take: ``iterations`` calls share each duration."""
        self._steps = [each / iterations for each in reversed(durations) for _ in range(iterations)]

    def call(self) -> None:
        """Take the time of the next call."""
        # pytest-benchmark calls once more, for a result, when the rounds are over.
        if self._steps:
            self._now += self._steps.pop()


RECORDED_CLOCK = RecordedClock()


@pytest.mark.benchmark(timer=RECORDED_CLOCK)
def test_loss_and_grad(benchmark: Any, planned: PlannedMeasurement, measured: Measurement) -> None:
    """Loss and gradient, from arrays of the library to arrays of the library."""
    if measured.verdict == "skipped":
        pytest.skip(measured.reason)
    if measured.verdict != "ok":
        benchmark.has_error = True
        pytest.fail(f"{measured.verdict}: {measured.reason}", pytrace=False)
    benchmark.group = f"{planned.workload.name}, {planned.layout}"
    benchmark.extra_info.update(
        layout=planned.layout,
        workload=planned.workload.name,
        implementation=planned.implementation.name,
        facts=measured.facts,
    )
    RECORDED_CLOCK.load(measured.durations, measured.iterations)
    rounds = max(1, len(measured.durations))
    benchmark.pedantic(RECORDED_CLOCK.call, rounds=rounds, iterations=measured.iterations)
