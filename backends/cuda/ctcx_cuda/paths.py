"""Best paths, of given labels or of all: what ctcx calls for alignments and greedy decoding.

Two launches for all sequences; no synchronisation and no copy to the host.
"""

from __future__ import annotations

from typing import Any

import array_api_compat
import numpy as np

from ctcx_cuda._device_arrays import (
    dtype_name,
    empty,
    keeping,
    on_stream_of,
    require_memory,
    view,
)
from ctcx_cuda.launch import capturing, describe, launch, point
from ctcx_cuda.plan import grid, make_path_plan, scratch_limit
from ctcx_cuda.variants import BEST_CLASSES, BEST_PATH

__all__ = ["MOST_THREADS", "align", "greedy"]

MOST_THREADS = 512
"""Threads of a block of ``ctc_best_path``: as many as there are positions, up to this many."""


def align(
    logits: Any,
    labels: Any,
    logit_lengths: Any,
    label_lengths: Any,
    *,
    blank: int,
    extra: Any,
    ends: tuple[int, int],
) -> tuple[Any, Any]:
    """States (N, T) of the best path of each sequence, and its logarithms of probabilities."""
    given = (logits, labels, logit_lengths, label_lengths)
    require_memory(*given, *(() if extra is None else (extra,)))
    N, T, C = logits.shape
    dtype = dtype_name(logits)
    real = "float64" if dtype == "float64" else "float32"
    with on_stream_of(logits):
        states, log_probs = empty(logits, (N, T), "int32"), empty(logits, (N, T), real)
        if 0 in (N, T):
            return states, log_probs
        plan = make_path_plan(
            N,
            T,
            labels.shape[1],
            real=np.dtype(real).itemsize,
            limit=scratch_limit(),
            threads=MOST_THREADS,
        )
        scratch = empty(logits, (plan.scratch,), "uint8")
        problem = describe(
            plan,
            scratch,
            T=T,
            C=C,
            S=labels.shape[1],
            blank=blank,
            columns=C + (0 if extra is None else extra.shape[2]),
            first_blank=ends[0],
            last_blank=ends[1],
            span=plan.span,
            spans=plan.spans,
            width=plan.width,
            units=plan.units,
        )
        for start in range(0, N, plan.sequences):
            part = slice(start, start + plan.sequences)
            problem["N"] = count = len(logits[part])
            point(problem, "logits", logits[part, ...], "ntc")
            point(problem, "labels", labels[part, ...], "ns")
            point(problem, "frames", logit_lengths[part], "n")
            point(problem, "counts", label_lengths[part], "n")
            if extra is not None:
                point(problem, "extra", extra[part, ...], "ntc")
            for name, result in (("states", states), ("log_probs", log_probs)):
                problem[name] = view(result[part, ...]).address
            arguments = (BEST_PATH, dtype, problem)
            launch("ctc_spreads", *arguments, grid=grid(T, count), block=128)
            shared = 2 * 8 * (plan.threads + 1)
            launch("ctc_best_path", *arguments, grid=(count,), block=plan.threads, shared=shared)
        return _kept(states, log_probs, scratch)


def greedy(logits: Any, logit_lengths: Any, *, blank: int) -> tuple[Any, Any]:
    """Most probable class of each frame (N, T), and the logarithm of its probability (N, T)."""
    require_memory(logits, logit_lengths)
    N, T, C = logits.shape
    dtype = dtype_name(logits)
    with on_stream_of(logits):
        classes = empty(logits, (N, T), "int32")
        log_probs = empty(logits, (N, T), "float64" if dtype == "float64" else "float32")
        if 0 in (N, T):
            return classes, log_probs
        problem = describe(N=N, T=T, C=C, blank=blank)
        point(problem, "logits", logits, "ntc")
        point(problem, "frames", logit_lengths, "n")
        problem["states"] = view(classes).address
        problem["log_probs"] = view(log_probs).address
        arguments = (BEST_CLASSES, dtype, problem)
        launch("ctc_best_classes", *arguments, grid=grid(T, N), block=128)
        launch("ctc_spoil", *arguments, grid=(N,), block=min(256, -(-T // 32) * 32))
        return _kept(classes, log_probs)


def _kept(integers: Any, log_probs: Any, *scratch: Any) -> tuple[Any, Any]:
    """Return results that keep all memory which a graph that is being captured will write to.

    It keeps addresses only. PyTorch's allocator sees to that itself.
    """
    everything = (integers, log_probs, *scratch)
    if array_api_compat.is_torch_array(log_probs) or not capturing():
        return integers, log_probs
    return keeping(integers, *everything), keeping(log_probs, *everything)
