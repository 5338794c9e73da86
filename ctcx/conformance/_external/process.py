"""A program that is asked one line at a time, and may do anything but answer."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from typing import IO, TYPE_CHECKING

from ctcx._errors import CTCInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["LONGEST", "ProgramError", "ProgramProcess"]

LONGEST = 32 * 2**20
"""Bytes of the longest line that is taken for an answer."""

_TOLD = 600
"""How much of what a program writes to its standard error is repeated."""

_BLOCK = 2**16


class ProgramError(Exception):
    """There is no answer; the message says why, and the program has been ended."""


class ProgramProcess:
    """A child process, started without a shell when it is first asked, and again after trouble."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: queue.Queue[bytes | Exception] = queue.Queue()
        self._stop = threading.Event()
        self._told = bytearray()
        self._ears: list[threading.Thread] = []

    def ask(self, line: str, seconds: float) -> bytes:
        """Send a line and return the one that comes back, both without their end.

        Raises ProgramError: no line came in time, or the program ended, or wrote a line without
        end. CTCInputError: it can't be started.
        """
        if self._process is None:
            self._start()
        process = self._process
        if process is None or process.stdin is None:  # pragma: no cover - for the type checker
            raise AssertionError
        # A program that doesn't read would block a write for ever.
        mouth = threading.Thread(target=_send, args=(process.stdin, line), daemon=True)
        mouth.start()
        end = time.monotonic() + seconds
        try:
            got = self._lines.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            msg = f"no answer within {seconds:g} s{self._tail()}; ended"
            self.end()
            raise ProgramError(msg) from None
        if isinstance(got, Exception):
            msg = self._ended() if isinstance(got, EOFError) else f"{got}{self._tail()}; ended"
            self.end()
            raise ProgramError(msg)
        return got

    def end(self) -> None:
        """End the program and all that it has started."""
        process, self._process = self._process, None
        if process is None:
            return
        self._stop.set()
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        process.wait()
        for ear in self._ears:
            ear.join(timeout=5)
        for pipe in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()

    def close(self) -> None:
        """Tell the program that nothing more will come, and give it two seconds."""
        process = self._process
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=2)
        self.end()

    def _start(self) -> None:
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the user's own command
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:  # a NUL is no OSError
            why = getattr(error, "strerror", None) or error
            msg = f"command {self._command[0]!r} can't be started: {why}"
            raise CTCInputError(msg, argument="command", value=self._command[0]) from None
        # Small: unread output stays in the pipe, and then in the program.
        self._lines, self._stop, self._told = queue.Queue(maxsize=4), threading.Event(), bytearray()
        self._ears = [
            threading.Thread(
                target=_listen, args=(self._process.stdout, self._lines, self._stop), daemon=True
            ),
            threading.Thread(
                target=_overhear, args=(self._process.stderr, self._told), daemon=True
            ),
        ]
        for ear in self._ears:
            ear.start()

    def _ended(self) -> str:
        process = self._process
        code = None
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(timeout=1)
        self._ears[1].join(timeout=1)  # its last words
        if code is None:
            how = "closed its standard output"
        elif code < 0:
            how = f"was ended by signal {-code} ({signal.strsignal(-code)})"
        else:
            how = f"ended with exit code {code}"
        return f"the program {how} instead of answering{self._tail()}"

    def _tail(self) -> str:
        text = bytes(self._told[-_TOLD:]).decode(errors="replace").strip()
        return f"; it wrote to its standard error: {text}" if text else ""


def _send(pipe: IO[bytes], line: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        rest = memoryview(line.encode() + b"\n")
        while rest:  # raw pipes write in part
            rest = rest[pipe.write(rest) :]


def _listen(pipe: IO[bytes], lines: queue.Queue[bytes | Exception], stop: threading.Event) -> None:
    """Put lines into the queue, and at the end why there are no more."""
    parts: list[bytes] = []
    size = 0

    def put(item: bytes | Exception) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                lines.put(item, timeout=0.05)
                return

    while not stop.is_set():
        try:
            block = pipe.read(_BLOCK)
        except (OSError, ValueError):
            block = b""
        if not block:
            if any(parts):
                put(b"".join(parts))
            put(EOFError())
            return
        *whole, rest = block.split(b"\n")
        for end in whole:
            put(b"".join([*parts, end]))
            parts, size = [], 0
        parts.append(rest)
        size += len(rest)
        if size > LONGEST:
            put(ValueError(f"wrote more than {LONGEST // 2**20} MiB without the end of a line"))
            return


def _overhear(pipe: IO[bytes], told: bytearray) -> None:
    """Keep the end of what is written."""
    while True:
        try:
            block = pipe.read(_BLOCK)
        except (OSError, ValueError):
            return
        if not block:
            return
        told += block
        del told[: -4 * _TOLD]
