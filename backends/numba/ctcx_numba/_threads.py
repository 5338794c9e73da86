"""Threads of this plugin's own: how many, and how work is handed to them.

Numba's parallel loops abort the process when two Python threads enter them at once, and hang in a
forked child. Here the kernels release the GIL and are called from ordinary threads.

A task is handed over only if a thread is idle: the caller works on everything itself, and takes
back what nobody has begun. So calls from many threads at the same time share the pool without
waiting for each other.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ctcx.plugin import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["VARIABLE", "number_of_threads", "run_all"]

VARIABLE = "CTCX_NUM_THREADS"
_MOST_THREADS = 2**15
"""More than this are as good as this many: no call has so much to share."""

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
        return min(asked, _MOST_THREADS)
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return usable_cores()
    if not text.isdecimal() or int(text) < 1:
        msg = f"the environment variable {VARIABLE} must be a positive whole number, got {text!r}"
        raise ValueError(msg)
    return min(int(text), _MOST_THREADS)


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

    helpers = _Helpers(drain)
    try:
        helpers.ask(min(threads, len(tasks)) - 1)
        drain()
    except BaseException:
        waiting.clear()
        raise
    finally:
        helpers.close()
    if helpers.errors:
        raise helpers.errors[0]


class _Helpers:
    """Threads of the pool that take part in some work, each if and when it comes to that.

    They are counted as they begin and end, not by what the pool returns when it is asked: it may
    raise an error because it can't start a thread, and hand the work to another one all the same.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self.errors: list[BaseException] = []
        self._work = work
        self._change = threading.Condition()
        self._at_work = 0
        self._closed = False

    def ask(self, count: int) -> None:
        if count < 1:
            return
        pool = _pool_of(count)
        try:
            for _ in range(count):
                pool.submit(self._help)
        except RuntimeError:
            # The system starts no more threads, or the interpreter is shutting down. Those that
            # were asked may come; the caller does the rest.
            _give_up(pool)

    def close(self) -> None:
        """Turn away those that haven't begun, and wait for the others.

        They work on the caller's arrays.
        """
        with self._change:
            self._closed = True
            self._change.wait_for(lambda: self._at_work == 0)

    def _help(self) -> None:
        with self._change:
            if self._closed:
                return
            self._at_work += 1
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - raised again by the caller's thread
            self.errors.append(error)
        finally:
            with self._change:
                self._at_work -= 1
                self._change.notify_all()


def _give_up(pool: ThreadPoolExecutor) -> None:
    """Let the next call begin with a new pool; this one holds work that it has no thread for.

    Other calls that have asked it are not helped any more by threads that haven't begun. They do
    their work themselves.
    """
    global _pool, _workers
    if _pool is pool:
        _pool, _workers = None, 0
    pool.shutdown(wait=False, cancel_futures=True)


def _pool_of(workers: int) -> ThreadPoolExecutor:
    """The pool, with at least so many threads."""
    global _pool, _workers  # noqa: PLW0603 - one pool a process
    if _pool is None or workers > _workers:
        # An older, smaller pool ends when what it was given is done.
        _pool = ThreadPoolExecutor(workers, thread_name_prefix="ctcx-numba")
        _workers = workers
    return _pool


def _after_fork() -> None:
    """A forked child has none of the threads."""
    global _pool, _workers
    _pool, _workers = None, 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
