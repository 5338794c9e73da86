"""What decides speed on this machine, for the header of a report and to tell machines apart."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctcx._cores import usable_cores

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["machine_facts", "machine_name", "published"]

_DECISIVE = {"XLA_FLAGS", "KERAS_BACKEND"}
"""Variables that decide how fast a library is, beside all that end in ``_NUM_THREADS``."""


def machine_facts() -> dict[str, Any]:
    """Return what a reader, and a comparison, wants to know of the machine. No host name."""
    return {
        "cpu": _cpu() or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "memory": _memory(),
        "system": platform.system(),
        "variables": {
            name: value
            for name, value in sorted(os.environ.items())
            if name in _DECISIVE or name.endswith("_NUM_THREADS")
        },
    }


def machine_name(machine: dict[str, Any], lines: dict[str, str]) -> str:
    """Return what two runs must have in common for their times to be comparable."""
    parts = [
        machine.get("cpu"),
        machine.get("architecture"),
        f"{machine.get('usable_cores')} usable cores",
        machine.get("system"),
        lines.get("GPU"),
    ]
    return ", ".join(str(part) for part in parts if part)


def published(lines: Mapping[str, str]) -> dict[str, str]:
    """Return lines of plugins without those that are a path of this machine."""
    return {key: line for key, line in lines.items() if not Path(line).is_absolute()}


def _cpu() -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"^(?:model name|Model)\s*:\s*(.*)$", text, re.MULTILINE)
    if found is None:
        return None
    ids = [
        match[1]
        for key in ("cpu family", "model")
        if (match := re.search(rf"^{key}\s*:\s*(\d+)$", text, re.MULTILINE))
    ]
    return found[1].strip() + (f" (family {ids[0]}, model {ids[1]})" if len(ids) == 2 else "")


def _memory() -> int | None:
    """Bytes of main memory, where the system tells."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
