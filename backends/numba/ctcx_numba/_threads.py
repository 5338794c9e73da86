"""Threads of this plugin's own: how many, and how work is handed to them.

Numba's parallel loops abort the process when two Python threads enter them at once, and hang in a
forked child. Here the kernels release the GIL and are called from ordinary threads.

A task is handed over only if a thread is idle: the caller works on everything itself, and takes
back what nobody has begun. So calls from many threads at the same time share the pool without
waiting for each other.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["VARIABLE", "available_cores", "number_of_threads", "run_all"]

VARIABLE = "CTCX_NUM_THREADS"
_CGROUP = Path("/sys/fs/cgroup")

_pool: ThreadPoolExecutor | None = None
_workers = 0


def number_of_threads(asked: int | None = None) -> int:
    """Threads that a call may use: as asked, else ``CTCX_NUM_THREADS``, else the usable cores.

    Parameters
    ----------
    asked
        An argument of the caller's.

    Raises
    ------
    ValueError
        The number or the variable is not a positive whole number.
    """
    if asked is not None:
        if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
            msg = f"num_threads must be a positive int or None, got {asked!r}"
            raise ValueError(msg)
        return asked
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return available_cores()
    if not text.isdecimal() or int(text) < 1:
        msg = f"the environment variable {VARIABLE} must be a positive whole number, got {text!r}"
        raise ValueError(msg)
    return int(text)


_cores = 0


def available_cores() -> int:
    """Cores that this process may use: by affinity, and by the quota of its control group."""
    global _cores  # noqa: PLW0603 - asked once a process: it reads files
    if not _cores:
        affinity = getattr(os, "sched_getaffinity", None)
        cores = len(affinity(0)) if affinity else os.cpu_count() or 1
        _cores = max(1, min([cores, *_quotas()]))
    return _cores


def _quotas(root: Path = _CGROUP, group: Path = Path("/proc/self/cgroup")) -> Iterable[int]:
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
        except (OSError, ValueError):
            continue  # no such file, or not of this form: no quota that could be known


def _groups(root: Path, group: Path) -> Iterable[Path]:
    """Folders of this process's control groups and of all above them."""
    yield from (root, root / "cpu")
    try:
        lines = group.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = (*line.split(":", 2), "", "")[:3]
        if not name or (controllers and "cpu" not in controllers.split(",")):
            continue
        base = root / "cpu" if controllers else root
        inner = base / name.lstrip("/")
        yield from (folder for folder in (inner, *inner.parents) if base in folder.parents)


def run_all(tasks: Sequence[Callable[[], object]], threads: int) -> None:
    """Run all tasks on up to so many threads, this one included; the first ones begin first.

    Raises
    ------
    Exception
        What a task raised; other tasks may then not have run. None is running any more.
    """
    waiting = deque(tasks)

    def drain() -> None:
        while True:
            try:
                task = waiting.popleft()
            except IndexError:
                return
            task()

    helpers = _helpers(drain, min(threads, len(tasks)) - 1)
    try:
        drain()
    except BaseException:
        waiting.clear()
        raise
    finally:
        # Who hasn't begun isn't needed any more. Who has is still at work on the caller's arrays.
        begun = [helper for helper in helpers if not helper.cancel()]
        wait(begun)
    for helper in begun:
        helper.result()


def _helpers(work: Callable[[], None], count: int) -> list[Future[None]]:
    if count < 1:
        return []
    pool = _pool_of(count)
    try:
        return [pool.submit(work) for _ in range(count)]
    except RuntimeError:  # the interpreter is shutting down: then the caller works alone
        return []


def _pool_of(workers: int) -> ThreadPoolExecutor:
    """The pool, with at least so many threads."""
    global _pool, _workers  # noqa: PLW0603 - one pool a process
    if _pool is None or workers > _workers:
        # An older, smaller pool ends when what it was given is done.
        _pool = ThreadPoolExecutor(workers, thread_name_prefix="ctcx-numba")
        _workers = workers
    return _pool


def _after_fork() -> None:
    """A forked child has none of the threads, and may run on other cores."""
    global _pool, _workers, _cores
    _pool, _workers, _cores = None, 0, 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
