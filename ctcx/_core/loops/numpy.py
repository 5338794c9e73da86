"""The loop for NumPy: blocks of the gradient on all cores, and best paths in few arrays.

NumPy computes on one core and lets go of Python's lock while it does, so blocks that touch
different parts of the output can run side by side. The bits are the same for any number of threads.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from ctcx._core.loops.base import Loop
from ctcx._core.viterbi import PathState, Viterbi
from ctcx._cores import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from ctcx._core.context import Context
    from ctcx._core.viterbi import Sums
    from ctcx._typing import Array

__all__ = ["THREADED_LOOP", "ThreadedLoop"]

_FEWEST_ELEMENTS = 2**20
"""Below this much work, starting threads costs more than they save."""


class ThreadedLoop(Loop):
    """A :class:`Loop` that makes blocks on several threads if there is enough to do.

    The threads live as long as the call: none are left behind for a fork to lose.
    """

    reads_values = True

    def viterbi(self, context: Context) -> Viterbi:
        """In few arrays."""
        return _ViterbiInPlace(context)

    def each(self, task: Callable[[Any], None], parts: Iterator[Any], elements: int) -> None:
        """Run ``task`` for each part, in any order."""
        threads = usable_cores()
        if threads == 1 or elements < _FEWEST_ELEMENTS:
            super().each(task, parts, elements)
            return
        work = _SharedWork(task, parts)
        helpers: list[threading.Thread] = []
        try:
            # The system may have no more threads, and Python none when it ends: others do the work.
            with suppress(RuntimeError, MemoryError):
                for _ in range(threads - 1):
                    helper = threading.Thread(target=work.take_part, name="ctcx")
                    helper.start()
                    helpers.append(helper)
            work.take_part()
        finally:
            work.is_over = True
            for helper in helpers:
                helper.join()
        if work.errors:
            raise work.errors[0]


class _SharedWork:
    """Parts of a task, which threads take one by one until there are no more or one has failed."""

    def __init__(self, task: Callable[[Any], None], parts: Iterator[Any]) -> None:
        self.is_over, self.errors = False, list[BaseException]()
        self._task, self._parts, self._taking = task, parts, threading.Lock()

    def take_part(self) -> None:
        """Work on parts that no other thread has taken."""
        with np.errstate(all="ignore"):  # a thread begins with NumPy's own settings
            while not self.is_over:
                try:
                    with self._taking:
                        part = next(self._parts, None)
                    if part is None:
                        return
                    self._task(part)
                except BaseException as error:  # noqa: BLE001 - it is raised by the caller's thread
                    self.errors.append(error)
                    self.is_over = True


class _ViterbiInPlace(Viterbi):
    """Does the same in two rows of states by turns.

    Making the arrays and views of a frame takes NumPy longer than the arithmetic.
    """

    states_at_once = 2**17

    def __call__(
        self,
        state: PathState,
        blanks: Sums,
        labels: Sums,
        may_not_skip: Array | None,
        *,
        choices: bool,
    ) -> tuple[PathState, Array | None]:
        add, maximum, greater = np.add, np.maximum, np.greater
        frames, rows, width = labels[0].shape
        before = _Rows(state.blank[0], state.label[0])
        after, spare = (_Rows.like(before) for _ in range(2))
        near, two_back = np.empty((2, rows, width))
        if choices:
            from_blank = np.empty((frames, rows, width + 1), bool)
            from_label, skips = np.empty((2, frames, rows, width), bool)
        for i, (blank, label) in enumerate(zip(blanks[0], labels[0], strict=True)):
            if may_not_skip is None:
                two_back = before.two_back
            else:
                add(before.two_back, may_not_skip, out=two_back)
            maximum(before.one_back, before.stay, out=near)
            if choices:
                greater(before.label, before.blank, out=from_blank[i])
                greater(before.one_back, before.stay, out=from_label[i])
                greater(two_back, near, out=skips[i])
            maximum(two_back, near, out=near)
            add(near, label, out=after.stay)
            maximum(before.label, before.blank, out=after.blank)
            add(after.blank, blank, out=after.blank)
            before, after, spare = after, spare, after
        state = PathState((before.blank,), (before.label,))
        return state, self.choices(from_blank, from_label, skips) if choices else None


class _Rows:
    """Sums after a frame, and views of those that lead into labels of the next one."""

    def __init__(self, blank: NDArray[np.float64], label: NDArray[np.float64]) -> None:
        self.blank, self.label = blank, label
        self.one_back, self.two_back, self.stay = blank[:, :-1], label[:, :-1], label[:, 1:]

    @classmethod
    def like(cls, other: _Rows) -> _Rows:
        """Not filled in yet, but for the label before the first blank."""
        label = np.empty_like(other.label)
        label[:, 0] = other.label[:, 0]
        return cls(np.empty_like(other.blank), label)


THREADED_LOOP = ThreadedLoop()
