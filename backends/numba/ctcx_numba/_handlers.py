"""The functions that XLA calls, and those that it passes on to its threads.

None of them takes Python's lock, so that a program that waits for XLA while it holds the lock can't
hang.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ctcx_numba._addresses import ask_for_huge_pages, function_named, numbers_at
from ctcx_numba._entries import Batch
from ctcx_numba._jit import callback, part
from ctcx_numba._shared import compute, taking, visit
from ctcx_numba._xla import (
    answer,
    argument,
    attribute,
    data_of,
    integers,
    number_of_results,
    result,
    shape_of,
)

__all__ = ["handler"]

_visit = function_named("ctcx_numba_visit")
_take_float32 = function_named("ctcx_numba_take_float32")
_take_float64 = function_named("ctcx_numba_take_float64")


@part
def _handle(frame, take, real, whole):
    logits = argument(frame, 0)
    count, frames, classes = shape_of(logits, 2)
    with_gradient = number_of_results(frame) > 1
    batch = Batch(
        data_of(logits),
        frames * classes,
        classes,
        data_of(result(frame, 1)) if with_gradient else 0,
        frames * classes,
        classes,
        with_gradient,
        integers(argument(frame, 1), (count, shape_of(argument(frame, 1), 1)[2])),
        integers(argument(frame, 2), (1, count))[0],
        integers(argument(frame, 3), (1, count))[0],
        frames,
        classes,
        attribute(frame, 0),
    )
    losses = numbers_at(data_of(result(frame, 0)), (count,), real)
    if with_gradient:
        ask_for_huge_pages(batch.g, count * frames * classes * losses.itemsize)
    compute(batch, losses, attribute(frame, 1), frame, (take, _visit()), real, whole)


def handler(dtype: str) -> Any:
    """Compile what computes logits of ``"float32"`` or ``"float64"``; a function of ctypes.

    Its arguments are logits, labels, logit lengths and label lengths; all axes before the frames,
    or before what goes with them, count as sequences. Its attributes are the blank and the number
    of threads; its results the losses, and the gradient if there is a second one.
    """

    @callback("void(intp)", symbol="ctcx_numba_visit")
    def visit_any(address):
        visit(address)

    if dtype == "float32":
        callback("intp(intp)", symbol="ctcx_numba_take_float32")(taking(np.float32, np.int32))

        @callback("intp(intp)")
        def handle_float32(frame):
            if not answer(frame):
                _handle(frame, _take_float32(), np.float32, np.int32)
            return 0

        return handle_float32.ctypes

    callback("intp(intp)", symbol="ctcx_numba_take_float64")(taking(np.float64, np.int64))

    @callback("intp(intp)")
    def handle_float64(frame):
        if not answer(frame):
            _handle(frame, _take_float64(), np.float64, np.int64)
        return 0

    return handle_float64.ctypes
