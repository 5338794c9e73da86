"""How many cores this process may use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["busy", "load", "usable_cores"]

_CGROUP = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")

_cores = 0


def usable_cores() -> int:
    """Cores that this process may use: by affinity, and by the CPU quota of its control group.

    Returns
    -------
    int
        At least 1. Told once a process, and again in a forked child.
    """
    global _cores  # noqa: PLW0603 - asked once a process: it reads files
    if not _cores:
        affinity = getattr(os, "sched_getaffinity", None)
        cores = len(affinity(0)) if affinity else os.cpu_count() or 1
        _cores = max(1, min([cores, *_quotas(_CGROUP, _OWN_GROUP)]))
    return _cores


def load() -> float | None:
    """Return how many threads ran or waited for a core, on average over the last minute.

    None where the system does not tell.
    """
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def busy() -> str:
    """Say that more threads want to run than there are cores, so that times are too long.

    Empty where that is not so.
    """
    now = load()
    if now is None or now <= usable_cores():
        return ""
    return (
        f"the machine is busy: the load is {now:.1f}, and {usable_cores()} cores may be used; "
        f"times are too long and differ from run to run"
    )


def _quotas(root: Path, group: Path) -> Iterable[int]:
    """CPU quotas of Linux control groups, in whole cores, rounded up; version 2 and version 1."""
    for folder in _groups(root, group):
        try:
            if (folder / "cpu.max").is_file():
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota = (folder / "cpu.cfs_quota_us").read_text()
                period = (folder / "cpu.cfs_period_us").read_text()
            if quota != "max" and int(quota) > 0:
                yield -(-int(quota) // int(period))
        except (OSError, ValueError, ZeroDivisionError):
            continue  # no such file, or not of this form: no quota that could be known


def _groups(root: Path, group: Path) -> Iterable[Path]:
    """Folders of this process's control groups and of all above them."""
    yield from (root, root / "cpu")
    try:
        lines = group.read_text().splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        _, controllers, name = (*line.split(":", 2), "", "")[:3]
        if not name or (controllers and "cpu" not in controllers.split(",")):
            continue
        base = root / "cpu" if controllers else root
        inner = base / name.lstrip("/")
        yield from (folder for folder in (inner, *inner.parents) if base in folder.parents)


def _after_fork() -> None:
    """Forget the count: a forked child may run on other cores."""
    global _cores  # noqa: PLW0603
    _cores = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
