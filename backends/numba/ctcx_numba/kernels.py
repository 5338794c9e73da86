"""The kernels: arrays in, arrays out, and threads between."""

from __future__ import annotations

import sys
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from ctcx.plugin import Decline, has_host_memory, usable_cores
from ctcx_numba.compiled import compiled_for, scratch_for

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["loss", "loss_and_grad"]

_WORTH_A_THREAD = 200_000  # nanoseconds of work that pay for another thread, about


def loss(logits: Any, labels: Any, logit_lengths: Any, label_lengths: Any, *, blank: int) -> Any:
    """CTC loss of each sequence, (N,); a kernel for :class:`ctcx.plugin.Backend`, which says more.

    Arrays are NumPy's, or tensors of PyTorch on the CPU. A sequence with a label, a length or a
    logit that is not allowed gets NaN.
    """
    losses, _ = _compute(logits, labels, logit_lengths, label_lengths, blank, gradient=False)
    return _like(losses, logits)


def loss_and_grad(
    logits: Any, labels: Any, logit_lengths: Any, label_lengths: Any, *, blank: int
) -> tuple[Any, Any]:
    """CTC loss as from :func:`loss`, and the gradient of the sum of losses, (N, T, C)."""
    losses, grad = _compute(logits, labels, logit_lengths, label_lengths, blank, gradient=True)
    return _like(losses, logits), _like(grad, logits, dtype=logits.dtype)


def _compute(
    logits: Any, labels: Any, logit_lengths: Any, label_lengths: Any, blank: int, *, gradient: bool
) -> tuple[Any, Any]:
    x = _on_host(logits)
    x = x.astype(np.float64 if x.dtype.itemsize == 8 else np.float32, copy=False)
    num_sequences, num_frames, num_classes = shape = x.shape
    # Rows as they lie in memory, sequences outside or frames; of other layouts, a copy.
    frames_outside = not x.flags.c_contiguous and x.transpose(1, 0, 2).flags.c_contiguous
    order = (1, 0, 2) if frames_outside else (0, 1, 2)
    steps = (1, num_sequences) if frames_outside else (num_frames, 1)
    x = np.require(x.transpose(order), requirements=["C", "A"]).reshape(-1, num_classes)
    grad = np.empty((x.shape[0], num_classes if gradient else 0), x.dtype)
    losses = np.empty(num_sequences)
    # Copies, so that another thread can't change them between the check and the use.
    others = labels, logit_lengths, label_lengths
    integers = [np.array(_on_host(each), np.int64, order="C") for each in others]
    width = integers[0].shape[1]
    frames, counts = np.clip(integers[1], 0, num_frames), np.clip(integers[2], 0, width)
    sizes = int(frames.max(initial=0)), int(counts.max(initial=0)), num_classes
    work = frames * (50.0 + num_classes + 8 * counts)
    longest_first = np.argsort(-work, kind="stable")
    kernel = compiled_for(x.dtype.name)

    def compute(shares: deque[Any]) -> None:
        scratch = scratch_for(*sizes)
        while True:
            try:
                mine = longest_first[shares.popleft()]
            except IndexError:  # no share is left
                return
            kernel(x, num_frames, *steps, *integers, blank, mine, scratch, losses, grad)

    threads = min(usable_cores(), numba.config.NUMBA_NUM_THREADS, num_sequences)
    threads = max(1, min(threads, int(work.sum() / _WORTH_A_THREAD)))
    pieces = 1 if threads == 1 else min(num_sequences, 4 * threads)
    _share(compute, deque(slice(k, None, pieces) for k in range(pieces)), threads)
    if gradient:
        grad = grad.reshape([shape[axis] for axis in order]).transpose(order)
    return losses.astype(x.dtype, copy=False), grad


def _share(work: Callable[[deque[Any]], None], shares: deque[Any], threads: int) -> None:
    """Do all shares on so many threads, this one included. They end with the call."""
    if threads == 1:
        work(shares)
        return
    with ThreadPoolExecutor(threads - 1) as pool:
        helpers: list[Future[None]] = []
        with suppress(RuntimeError):  # the system starts no more threads: this one does the rest
            helpers.extend(pool.submit(work, shares) for _ in range(threads - 1))
        try:
            work(shares)
        finally:
            shares.clear()
    for helper in helpers:
        helper.result()


def _on_host(array: Any) -> Any:
    """NumPy array of the same memory; of bfloat16, which NumPy doesn't have, a float32 copy."""
    if isinstance(array, np.ndarray):
        return array
    torch = sys.modules["torch"]
    if not has_host_memory(array):
        msg = "the tensor can't be read as plain memory of the CPU"
        raise Decline(msg)
    tensor = array.detach()
    # Not by .numpy(), after which the caller's tensor can never be resized again.
    return np.from_dlpack(tensor.float() if tensor.dtype is torch.bfloat16 else tensor)


def _like(result: Any, given: Any, *, dtype: Any = None) -> Any:
    """Return a result as an array of the library that ``given`` is of, without a copy."""
    if isinstance(given, np.ndarray):
        with np.errstate(under="ignore"):  # half precision lacks the smallest numbers
            return result if dtype is None else result.astype(dtype, copy=False)
    tensor = sys.modules["torch"].from_numpy(result)
    return tensor if dtype is None else tensor.to(dtype)
