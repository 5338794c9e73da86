"""A few long sequences on several threads: both ends of each at once.

The same functions in the same order as for whole sequences, so that the result is the same to the
last bit. The ends wait for each other in the middle.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ctcx_numba import _entries
from ctcx_numba._scratch import give_back, name_of, sizes_of, take
from ctcx_numba._threads import run_all

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["share_halves"]

_WIDE = 256
"""Classes from which on the softmax is worth tasks of its own."""

_ELEMENTS_A_TASK = 2**17
"""Logits of such a task."""


def share_halves(
    batch: _entries.Batch,
    losses: NDArray[np.floating],
    threads: int,
) -> None:
    """Compute a batch of few sequences on up to so many threads.

    Parameters
    ----------
    batch, losses
        As for :func:`ctcx_numba._entries.sequences`.
    threads
        At least 2.
    """
    sizes = sizes_of(batch, losses)
    possible = [
        _Ends(batch, n, losses, sizes)
        for n in range(len(losses))
        if _entries.begin(batch, n, losses) == _entries.POSSIBLE
    ]
    softmax_first = batch.with_gradient and threads > 2 * len(possible) and batch.classes >= _WIDE
    if softmax_first:
        step = max(_ELEMENTS_A_TASK // batch.classes, 1)
        tasks = [
            partial(ends.softmax, which, first, first + step)
            for ends in possible
            for which in (0, 1)
            for first in range(0, -(-int(batch.frames[ends.n]) // 2), step)
        ]
        run_all(tasks, threads)
    _for_each_end(possible, "forth", threads, not softmax_first)
    _for_each_end([ends for ends in possible if ends.meet()], "back", threads)
    for ends in possible:
        ends.release()


def _for_each_end(sequences: list[_Ends], step: str, threads: int, *args: bool) -> None:
    tasks = [partial(getattr(ends, step), which, *args) for ends in sequences for which in (0, 1)]
    if tasks:
        run_all(tasks, threads)


class _Ends:
    """Both halves of one sequence, each with scratch of its own."""

    def __init__(
        self,
        batch: _entries.Batch,
        n: int,
        losses: NDArray[np.floating],
        sizes: tuple[int, ...],
    ) -> None:
        self.n = n
        self._where = (batch, n)
        self._losses = losses
        self._rooms = (take(name_of(losses), sizes), take(name_of(losses), sizes))
        # Of parts of both halves: they add up to the same in whatever order, see softmax_rows.
        self._excesses: list[float] = []

    def softmax(self, which: int, first: int, last: int) -> None:
        excess = _entries.softmax_part(*self._where, which, first, last, self._rooms[which])
        self._excesses.append(excess)

    def forth(self, which: int, softmax: bool) -> None:  # noqa: FBT001 - positional in partial()
        self._excesses.append(_entries.forth(*self._where, which, softmax, self._rooms[which]))

    def meet(self) -> bool:
        excess = float(sum(self._excesses))
        return bool(_entries.middle(*self._where, self._losses, excess, *self._rooms))

    def back(self, which: int) -> None:
        _entries.back(*self._where, which, self._rooms[which])

    def release(self) -> None:
        for room in self._rooms:
            give_back(room)
