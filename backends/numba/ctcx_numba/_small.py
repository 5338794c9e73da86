"""Calls that are too small to share: in one compiled function, which gets addresses.

For a few frames, what Python does around a kernel takes longer than the kernel. This takes the
arrays that callers usually have, as they are; all others go the way of :mod:`ctcx_numba._batch`.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from ctcx_numba._arrays import is_plain
from ctcx_numba._at_once import defined
from ctcx_numba._compiled import announce
from ctcx_numba._memory import KEPT_FROM
from ctcx_numba._work import WORTH_A_THREAD, work_of

__all__ = ["compute"]


_FUNCTIONS = {
    "float32": defined(np.float32, np.int32),
    "float64": defined(np.float64, np.int64),
}
_OF_NUMPY = {np.dtype(name): name for name in _FUNCTIONS}  # dtype.name takes microseconds
_INT32, _INT64 = np.dtype(np.int32), np.dtype(np.int64)


def compute(
    logits: Any, labels: Any, frames: Any, counts: Any, blank: int, *, gradient: bool
) -> tuple[Any, Any] | None:
    """Losses (N,) and gradient (N, T, C), or None for it, in the library of the logits.

    Returns None if this is not a small call on arrays as they have to be.
    """
    count, most_frames, classes = logits.shape
    most_labels = labels.shape[1]
    if logits.nbytes >= KEPT_FROM:
        return None
    if not work_of.py_func(count, most_frames, classes, most_labels) < WORTH_A_THREAD:
        return None
    torch = sys.modules.get("torch")
    if isinstance(logits, np.ndarray):
        made = _of_numpy(logits, (labels, frames, counts), gradient=gradient)
    elif torch is not None and isinstance(logits, torch.Tensor):
        made = _of_torch(torch, logits, (labels, frames, counts), gradient=gradient)
    else:
        return None
    if made is None:
        return None
    dtype, numbers, results = made
    announce(dtype)
    _FUNCTIONS[dtype](*numbers, count, most_frames, classes, most_labels, blank)
    return results


def _of_numpy(logits: Any, integers: tuple[Any, ...], *, gradient: bool) -> Any:
    """Give the dtype, addresses and steps, and the arrays for the results; None if it can't be."""
    dtype = _OF_NUMPY.get(logits.dtype)
    if dtype is None or not logits.flags.carray:
        return None
    places: list[int] = []
    for each in integers:
        kind, flags = each.dtype, each.flags
        if kind is _INT64 and flags.carray:  # the usual case, without a look at the strides
            places += (_address(each), 8, *((1,) if each.ndim == 1 else (each.shape[1], 1)))
            continue
        size = 8 if kind is _INT64 else 4 if kind is _INT32 else 0
        if not size or not flags.aligned:
            return None
        places += (_address(each), size, *(step // size for step in each.strides))
    losses = np.empty(logits.shape[0], dtype=logits.dtype)
    _, frames, classes = logits.shape
    steps = (frames * classes, classes)
    grad, g = None, (0, 0, 0)
    if gradient:
        grad = np.empty(logits.shape, dtype=logits.dtype)
        g = (_address(grad), *steps)
    numbers = (_address(logits), *steps, *g, _address(losses), *places)
    return dtype, numbers, (losses, grad)


def _address(array: Any) -> Any:
    return array.__array_interface__["data"][0]


def _of_torch(torch: Any, logits: Any, integers: tuple[Any, ...], *, gradient: bool) -> Any:
    """As :func:`_of_numpy`; sequences and frames may lie in any way."""
    kind = logits.dtype
    dtype = "float32" if kind is torch.float32 else "float64" if kind is torch.float64 else None
    x_sequence, x_row, x_class = logits.stride()
    if dtype is None or x_class != 1 or not is_plain(torch, logits):
        return None
    places: list[int] = []
    for each in integers:
        known = each.dtype is torch.int64 or each.dtype is torch.int32
        if not known or not is_plain(torch, each):
            return None
        places += (each.data_ptr(), each.itemsize, *each.stride())
    losses = torch.empty(logits.shape[0], dtype=kind, device="cpu")
    grad, g = None, (0, 0, 0)
    if gradient:
        grad = torch.empty_like(logits, device="cpu", requires_grad=False)
        g_sequence, g_row, g_class = grad.stride()
        if g_class != 1:
            return None
        g = (grad.data_ptr(), g_sequence, g_row)
    x, written = logits.data_ptr(), losses.data_ptr()
    labels, frames, counts = places[0] or not integers[0].numel(), places[4], places[7]
    if not (is_plain(torch, losses) and x and written and labels and frames and counts):
        return None  # there is no memory, or nothing to compute
    addresses = (x, x_sequence, x_row, *g, written, *places)
    return dtype, addresses, (losses, grad)
