"""Best paths: what ctcx calls for alignments.

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
from ctcx_cuda._launch import capturing, describe, launch, point
from ctcx_cuda._plan import grid, make_path_plan, scratch_limit
from ctcx_cuda._variants import BEST_PATH

__all__ = ["MOST_THREADS", "align"]

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
        if not array_api_compat.is_torch_array(logits) and capturing():
            # The graph keeps addresses only; PyTorch's allocator sees to it itself.
            everything = (states, log_probs, scratch)
            states, log_probs = (keeping(each, *everything) for each in everything[:2])
    return states, log_probs
