"""The pytest side of the benchmarks: options, parameters, and what the JSON gets beside times.

``ctcx bench`` loads it as a plugin; ``benchmarks/conftest.py`` takes its hooks for those who run
``python -m pytest benchmarks``. Needs pytest-benchmark, which times, sums up and writes the JSON.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest

from ctcx.bench._measure.session import (
    PlannedMeasurement,
    Session,
    SessionOptions,
    UnknownNameError,
)

if TYPE_CHECKING:
    from ctcx.bench._measure.schedule import Measurement

__all__ = [
    "SESSION",
    "measured",
    "pytest_addoption",
    "pytest_benchmark_update_json",
    "pytest_benchmark_update_machine_info",
    "pytest_generate_tests",
    "pytest_sessionfinish",
    "session_of",
]

SESSION = pytest.StashKey[Session]()
"""Where a front end may leave a session of its own."""

_SINGULAR = {
    "backends": "backend",
    "libraries": "library",
    "peers": "peer",
    "workloads": "workload",
}
"""What an option is called that may be repeated."""

_OPTIONS: dict[str, dict[str, Any]] = {
    "quick": {"action": "store_true", "help": "a few workloads, briefly"},
    "backends": {"action": "append", "help": "only this backend"},
    "libraries": {"action": "append", "help": "only this array library"},
    "peers": {"action": "append", "help": "only this other implementation; none for none"},
    "workloads": {"action": "append", "help": "only workloads like this"},
    "baseline": {"help": "whose time the others are divided by"},
    "max_seconds": {"type": float, "help": "begin nothing new after so many seconds"},
    "patience": {"type": float, "help": "end an implementation that is silent for so many seconds"},
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add an option ``--ctcx-...`` for each field of :class:`SessionOptions`."""
    group = parser.getgroup("ctcx")
    for one in fields(SessionOptions):
        flag = _SINGULAR.get(one.name, one.name).replace("_", "-")
        group.addoption(f"--ctcx-{flag}", dest=f"ctcx_{one.name}", **_OPTIONS[one.name])


def session_of(config: pytest.Config) -> Session:
    """Return the session of this run, made when it is first asked for."""
    if SESSION not in config.stash:
        given = {one.name: config.getoption(f"ctcx_{one.name}") for one in fields(SessionOptions)}
        asked: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in given.items()
            if value is not None
        }
        try:
            config.stash[SESSION] = Session(
                SessionOptions(**asked),
                time_it=not config.getoption("benchmark_disable"),
            )
        except UnknownNameError as error:
            raise pytest.UsageError(str(error)) from None
    return config.stash[SESSION]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give the suite its cells."""
    if "planned" in metafunc.fixturenames:
        planned = session_of(metafunc.config).planned
        metafunc.parametrize("planned", planned, ids=[one.id for one in planned])


@pytest.fixture
def measured(planned: PlannedMeasurement, pytestconfig: pytest.Config) -> Measurement:
    """Return the cell; the first of a workload has all of them measured."""
    return session_of(pytestconfig).measured(planned)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the processes, when the JSON is written."""
    if SESSION in session.config.stash:
        session.config.stash[SESSION].close()


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Drop the host's name: reports are shown to others."""
    machine_info.pop("node", None)


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Add what was asked for, the machine, the workloads, and what is missing and why."""
    output_json["ctcx"] = session_of(config).as_dict()
    # Its branch and project names say nothing about the installed package that was measured.
    output_json["commit_info"] = {}
