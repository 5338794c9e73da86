"""Run a Python program with its kernels under ThreadSanitizer or AddressSanitizer."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SanitizedRun", "run_sanitized", "sanitized_command"]

Sanitizer = Literal["thread", "address"]

_REPORT = re.compile(
    r"^(?:WARNING: ThreadSanitizer: (?P<thread>.*?) \(pid=\d+\)"
    r"|==\d+==ERROR: AddressSanitizer: (?P<address>[\w-]+).*"
    r"|(?P<bounds>.*: runtime error: .*))$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class SanitizedRun:
    """How a program ended.

    Attributes
    ----------
    reports : tuple of str
        The headline of each report, such as ``"data race"`` or ``"heap-buffer-overflow"``.
    returncode : int
        Not 0 if there was a report.
    stdout, stderr : str
        All that the program and the sanitizer wrote.
    """

    reports: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str


def sanitized_command(
    sanitizer: Sanitizer, arguments: Sequence[str]
) -> tuple[list[str], dict[str, str]]:
    """Command line and environment to run ``python ARGUMENTS`` under a sanitizer.

    Parameters
    ----------
    sanitizer : {"thread", "address"}
        ``thread`` finds races: missing or wrong barriers, and blocks that write what others use.
        ``address`` finds overruns of device memory, of dynamic shared memory and of arrays with a
        size.
    arguments : sequence of str
        What comes after ``python``.
    """
    short = {"thread": "tsan", "address": "asan"}[sanitizer]
    compiler = os.environ.get("CXX", "g++")
    find = [compiler, f"-print-file-name=lib{short}.so"]
    library = subprocess.run(find, capture_output=True, text=True, check=True).stdout.strip()
    environment = os.environ | {
        "CUDA_ON_CPU_SANITIZE": sanitizer,
        "LD_PRELOAD": library,
        # Python itself is not looked at: its leaks, its own stacks, its races.
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0:exitcode=66",
        "TSAN_OPTIONS": "exitcode=66:report_signal_unsafe=0:ignore_noninstrumented_modules=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    # Set by the environment of this process; each sanitizer has a cache of its own.
    environment.pop("CUPY_CACHE_DIR", None)
    # ThreadSanitizer of GCC 12 can't place its memory where addresses are drawn from many bits.
    return ["setarch", "-R", sys.executable, *arguments], environment


def run_sanitized(
    sanitizer: Sanitizer, arguments: Sequence[str], *, timeout: float = 300
) -> SanitizedRun:
    """Run ``python ARGUMENTS`` under a sanitizer and collect its reports.

    Raises
    ------
    subprocess.TimeoutExpired
        It took longer than ``timeout`` seconds.
    """
    command, environment = sanitized_command(sanitizer, arguments)
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    found = _REPORT.finditer(result.stderr)
    reports = tuple(match["thread"] or match["address"] or match["bounds"] for match in found)
    return SanitizedRun(reports, result.returncode, result.stdout, result.stderr)
