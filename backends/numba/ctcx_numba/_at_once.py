"""A whole call on one thread, in one compiled function, from addresses and sizes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ctcx_numba._addresses import free, integers_at, numbers_at
from ctcx_numba._entries import Batch, room_of, sequences, spoil
from ctcx_numba._jit import entry
from ctcx_numba._shared import allocated, bytes_of, room_at
from ctcx_numba._simd import lanes, pointer

__all__ = ["defined"]


def defined(real: Any, whole: Any) -> Any:
    """Define the function for mantissas and exponents of these dtypes.

    Logits, gradient (0 for none), losses, and labels and lengths: their addresses. Of logits and
    gradient, how many elements it is to the next sequence and the next frame. Of labels and
    lengths, the bytes of an integer, 4 or 8, and how many elements it is to the next along each
    axis.
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
        labels_size,
        labels_sequence,
        labels_step,
        frames,
        frames_size,
        frames_step,
        counts,
        counts_size,
        counts_step,
        count,
        most_frames,
        classes,
        most_labels,
        blank,
    ):
        steps = (labels_sequence, labels_step)
        batch = Batch(
            x,
            x_sequence,
            x_row,
            g,
            g_sequence,
            g_row,
            g != 0,
            integers_at(labels, labels_size, (count, most_labels), steps),
            integers_at(frames, frames_size, (1, count), (0, frames_step))[0],
            integers_at(counts, counts_size, (1, count), (0, counts_step))[0],
            most_frames,
            classes,
            blank,
        )
        written = numbers_at(losses, (count,), real)
        sizes = room_of(batch, lanes(pointer(written)))
        each = bytes_of(sizes, real)
        begin, first = allocated(2 * each)
        if begin == 0:
            spoil(batch, written)
            return
        rooms = room_at(first, sizes, real, whole), room_at(first + each, sizes, real, whole)
        sequences(batch, np.arange(count), np.zeros(1, np.int64), written, *rooms)
        free(begin)

    at_once.__qualname__ = f"at_once_{real.__name__}"
    return entry(at_once)
