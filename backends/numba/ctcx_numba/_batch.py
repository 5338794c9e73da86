"""One call: its arrays as the compiled functions take them, and how its work is shared."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ctcx_numba import _entries
from ctcx_numba._arrays import integers, readable
from ctcx_numba._compiled import announce
from ctcx_numba._halves import share_halves
from ctcx_numba._memory import empty_like
from ctcx_numba._scratch import give_back, name_of, sizes_of, take
from ctcx_numba._threads import number_of_threads, run_all
from ctcx_numba._work import WORTH_A_THREAD, by_halves, cost_of, work_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["Job"]


class Job:
    """The arrays of a call, and its results.

    Parameters
    ----------
    logits, labels, logit_lengths, label_lengths, blank, num_threads
        As for :func:`ctcx_numba.kernels.loss`.
    gradient : bool
        Whether there is to be an array like the logits.

    Attributes
    ----------
    losses : ndarray (N,)
        Filled by the methods.
    grad : ndarray (N, T, C) or None
        Likewise; in memory it is laid out as the logits are.
    """

    def __init__(
        self,
        logits: Any,
        labels: Any,
        logit_lengths: Any,
        label_lengths: Any,
        blank: int,
        num_threads: int | None,
        *,
        gradient: bool,
    ) -> None:
        self._threads = number_of_threads(num_threads)
        self._logits = readable(logits)
        self._labels = integers(labels)
        self._frames = integers(logit_lengths)
        self._counts = integers(label_lengths)
        self.losses = np.empty(self._logits.shape[0], dtype=self._logits.dtype)
        self.grad = empty_like(self._logits) if gradient else None
        self._batch = self._describe(blank)
        announce(name_of(self.losses))

    def _describe(self, blank: int) -> _entries.Batch:
        logits, grad, size = self._logits, self.grad, self._logits.itemsize
        x_sequence, x_row, _ = logits.strides
        g, g_sequence, g_row = 0, 0, 0
        if grad is not None:
            g = _address(grad)
            g_sequence, g_row, _ = grad.strides
        return _entries.Batch(
            _address(logits),
            x_sequence // size,
            x_row // size,
            g,
            g_sequence // size,
            g_row // size,
            grad is not None,
            self._labels,
            self._frames,
            self._counts,
            *logits.shape[1:],
            blank,
        )

    def compute(self) -> None:
        """Write :attr:`losses`, and the gradient to :attr:`grad` if there is one."""
        count = self._logits.shape[0]
        if by_halves.py_func(self._work(), count, self._threads):
            share_halves(self._batch, self.losses, self._threads)
        else:
            self._share_sequences(_entries.sequences)

    def compute_softmax(self) -> None:
        """Write the softmax to :attr:`grad`."""
        self._share_sequences(_entries.softmaxes)

    def _work(self) -> float:
        """Estimate of the nanoseconds that the batch takes one thread."""
        count, frames, classes = self._logits.shape
        estimate: float = work_of.py_func(count, frames, classes, self._labels.shape[1])
        return estimate

    def _share_sequences(self, entry: Callable[..., None]) -> None:
        """Let each thread take one sequence after the other, the longest first."""
        count = self._logits.shape[0]
        order = _counting(count)
        sizes = sizes_of(self._batch, self.losses)
        work = partial(self._take_part, entry, sizes, np.zeros(1, dtype=np.int64))
        if self._threads < 2 or count < 2 or self._work() < WORTH_A_THREAD:
            work(order)
            return
        cost = cost_of.py_func(self._frames, self._logits.shape[2], self._counts)
        if (cost != cost[0]).any():
            order = np.argsort(-cost, kind="stable")
        run_all([partial(work, order)] * min(self._threads, count), self._threads)

    def _take_part(
        self,
        entry: Callable[..., None],
        sizes: tuple[int, ...],
        begun: NDArray[np.int64],
        order: NDArray[np.int64],
    ) -> None:
        dtype = name_of(self.losses)
        rooms = take(dtype, sizes), take(dtype, sizes)
        entry(self._batch, order, begun, self.losses, *rooms)
        for room in rooms:
            give_back(room)


def _address(array: NDArray[Any]) -> int:
    """Where it begins; ``ctypes.data`` takes twice as long."""
    address: int = array.__array_interface__["data"][0]
    return address


@lru_cache(maxsize=64)
def _counting(count: int) -> NDArray[np.int64]:
    """The numbers from 0 on; the entries only read them."""
    return np.arange(count)
