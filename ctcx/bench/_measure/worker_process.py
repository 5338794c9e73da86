"""A handle on a worker process that may crash, hang or be interrupted without harm to the run."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import ctcx

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctcx.bench._implementations.registered import Implementation

__all__ = ["WorkerError", "WorkerProcess"]

_START = 120.0
"""Seconds that a process may take to start, before it is asked anything."""

_LAST_WORDS = 300
_SAID_ENOUGH = ("Fatal Python error", "Error:", "error:", "Killed", "Aborted", "what():")


class WorkerError(Exception):
    """The process ended, or did not answer in time; the message says how."""


class WorkerProcess:
    """A worker process with its implementations."""

    def __init__(self, implementations: Sequence[Implementation]) -> None:
        # A file, not a pipe, which would stop the process while it is full.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by end()
        who = json.dumps([one.as_dict() for one in implementations])
        paths = [str(Path(ctcx.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(  # noqa: S603 - this Python and a module of ctcx
            [sys.executable, "-m", "ctcx.bench._measure.worker", who],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
            # Ctrl-C at the terminal is for the one who gives the orders.
            start_new_session=True,
        )
        self._orders = cast("IO[str]", self._process.stdin)
        self._lines = cast("IO[str]", self._process.stdout)
        self._answers: queue.Queue[str] = queue.Queue()
        self._ready = False
        threading.Thread(target=self._read, daemon=True).start()

    def ask(self, do: str, *, timeout: float, **order: Any) -> dict[str, Any]:
        """Give an order and wait for the answer.

        Raises WorkerError: the process ended, or did not answer in ``timeout`` seconds; it is ended
        then.
        """
        if not self._ready:  # the time to start Python is not held against it
            self._hear(_START)
            self._ready = True
        try:
            self._orders.write(json.dumps({"do": do, **order}) + "\n")
            self._orders.flush()
        except (OSError, ValueError):  # it has ended
            raise WorkerError(self._obituary()) from None
        return self._hear(timeout)

    def _hear(self, timeout: float) -> dict[str, Any]:
        """Wait for one line."""
        try:
            line = self._answers.get(timeout=timeout)
        except queue.Empty:
            self.end()
            msg = f"gave no answer for {timeout:.0f} s and was ended"
            raise WorkerError(msg) from None
        if not line:
            raise WorkerError(self._obituary())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        """End the process, whatever it does."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._orders, self._errors):
            try:
                stream.close()
            except OSError:
                continue  # what was left to write can't be written any more

    def _read(self) -> None:
        with self._lines as lines:
            for line in lines:
                self._answers.put(line)
        self._answers.put("")

    def _obituary(self) -> str:
        code = self._process.wait()
        how = f"exit code {code}"
        if code < 0:
            try:
                how = signal.Signals(-code).name
            except ValueError:
                how = f"signal {-code}"
        lines: list[str] = []
        if not self._errors.closed:
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
        telling = [line for line in lines if any(word in line for word in _SAID_ENOUGH)]
        words = (telling or lines or ["nothing"])[-1].strip()[:_LAST_WORDS]
        self.end()
        return f"its process ended with {how}; last words: {words}"
