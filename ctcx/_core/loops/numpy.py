"""The loop for NumPy: blocks of the gradient on all cores.

NumPy computes on one core and lets go of Python's lock while it does, so blocks that touch
different parts of the output can run side by side. The bits are the same for any number of threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ctcx._core.loops.base import PythonLoop
from ctcx._cores import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["THREADED_LOOP", "ThreadedLoop"]

_FEWEST_ELEMENTS = 2**20
"""Below this much work, starting threads costs more than they save."""


class ThreadedLoop(PythonLoop):
    """A :class:`PythonLoop` that makes blocks on several threads if there is enough to do.

    The threads live as long as the call: none are left behind for a fork to lose.
    """

    reads_values = True

    def each(self, task: Callable[[Any], None], parts: Iterator[Any], elements: int) -> None:
        """Run ``task`` for each part, in any order."""
        threads = usable_cores()
        if threads == 1 or elements < _FEWEST_ELEMENTS:
            super().each(task, parts, elements)
            return
        from concurrent.futures import ThreadPoolExecutor

        def quiet(part: Any) -> None:  # a thread begins with NumPy's own settings
            with np.errstate(all="ignore"):
                task(part)

        with ThreadPoolExecutor(threads, thread_name_prefix="ctcx") as pool:
            tuple(pool.map(quiet, parts))  # takes the results, so that exceptions arrive


THREADED_LOOP = ThreadedLoop()
