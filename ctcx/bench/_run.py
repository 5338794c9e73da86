"""Run the suite from another program than pytest."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ctcx.bench import plugin
from ctcx.bench._measure.session import Session, SessionOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["run_suite"]


def run_suite(
    options: SessionOptions, json: Path, tell: Callable[[str, int, int], None]
) -> tuple[Session, bool]:
    """Measure, and let pytest-benchmark write its JSON; it isn't written if nothing was measured.

    ``tell`` is called with a line about each step, and with how many cells of how many are done.
    The session that is returned is closed, and knows what is missing; the second value says whether
    it was interrupted.

    Raises UnknownNameError: a name in the options is not known.
    """
    watcher = _Watcher(options, tell)
    with _without_variables("PYTEST_ADDOPTS", "PYTEST_PLUGINS"), _set_autoload_off():
        code = pytest.main(
            [
                str(Path(__file__).with_name("suite.py")),
                # Nothing of the directory that the user happens to be in takes part.
                f"-c{os.devnull}",
                f"--rootdir={Path(__file__).parent}",
                "--import-mode=importlib",
                "-pno:cacheprovider",
                "-pno:terminal",
                "-s",
                "-Wignore",
                "-ppytest_benchmark.plugin",
                f"--benchmark-json={json}",
                f"--benchmark-storage=file://{watcher.session.scratch}",
                "--benchmark-quiet",
            ],
            plugins=[plugin, watcher],
        )
    return watcher.session, code == pytest.ExitCode.INTERRUPTED


class _Watcher:
    """Hands the session over, and tells of each test."""

    def __init__(self, options: SessionOptions, tell: Callable[[str, int, int], None]) -> None:
        self._tell = tell
        self._done = 0
        self.session = Session(options, tell=self._line)

    def pytest_configure(self, config: Any) -> None:
        """Before the plugin makes a session from options of its own."""
        config.stash[plugin.SESSION] = self.session

    def pytest_runtest_logfinish(self) -> None:
        """Count."""
        self._done += 1

    def _line(self, line: str) -> None:
        self._tell(line, self._done, len(self.session.planned))


@contextmanager
def _without_variables(*names: str) -> Iterator[None]:
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


@contextmanager
def _set_autoload_off() -> Iterator[None]:
    """Other plugins of pytest that are installed might time, shuffle or distribute the tests."""
    name = "PYTEST_DISABLE_PLUGIN_AUTOLOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
