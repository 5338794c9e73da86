"""A whole call on one thread, in one compiled function, from addresses and sizes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ctcx_numba._addresses import numbers_at
from ctcx_numba._entries import Batch, sequences
from ctcx_numba._jit import entry
from ctcx_numba._shared import scratch_for

__all__ = ["defined"]


def defined(real: Any, whole: Any) -> Any:
    """Define the function for mantissas and exponents of these dtypes.

    Logits, gradient (0 for none), losses, and labels and lengths as int64: their addresses. Of the
    first two, how many elements it is to the next sequence and the next frame.
    """

    def at_once(
        x,
        x_sequence,
        x_row,
        g,
        g_sequence,
        g_row,
        losses,
        labels,
        frames,
        counts,
        count,
        most_frames,
        classes,
        most_labels,
        blank,
    ):
        batch = Batch(
            x,
            x_sequence,
            x_row,
            g,
            g_sequence,
            g_row,
            g != 0,
            numbers_at(labels, (count, most_labels), np.int64),
            numbers_at(frames, (count,), np.int64),
            numbers_at(counts, (count,), np.int64),
            most_frames,
            classes,
            blank,
        )
        scratch = scratch_for(batch, 2, real, whole)
        written = numbers_at(losses, (count,), real)
        sequences(batch, np.arange(count), np.zeros(1, np.int64), written, *scratch)

    at_once.__qualname__ = f"at_once_{real.__name__}"
    return entry(at_once)
