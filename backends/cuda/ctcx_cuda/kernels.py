"""Loss and gradient: what ctcx calls.

Three launches for loss and gradient, two for the loss alone; no synchronisation and no copy to the
host. Where a batch is too large for the scratch limit even with checkpoints, it goes in slices of
sequences, each with its own launches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import array_api_compat
import numpy as np

from ctcx_cuda._device_arrays import (
    dtype_name,
    empty,
    empty_like_layout,
    keeping,
    on_stream_of,
    require_memory,
    view,
)
from ctcx_cuda.launch import capturing, describe, launch, point
from ctcx_cuda.plan import grid, make_plan, scratch_limit
from ctcx_cuda.variants import ANY_LENGTH

if TYPE_CHECKING:
    from ctcx_cuda.plan import Plan

__all__ = ["THREADS", "loss", "loss_and_grad"]

THREADS = {"ctc_rows": 128, "ctc_gradient": 128, "ctc_checkpoints": 512, "ctc_segments": 256}
"""Threads of a block. The first two take a frame a warp, and are written for four warps."""


def loss(logits: Any, labels: Any, logit_lengths: Any, label_lengths: Any, *, blank: int) -> Any:
    """Negative log likelihood of each sequence, shape (N,)."""
    losses, _ = _run(logits, labels, logit_lengths, label_lengths, blank, grad=False)
    return losses


def loss_and_grad(
    logits: Any, labels: Any, logit_lengths: Any, label_lengths: Any, *, blank: int
) -> tuple[Any, Any]:
    """Negative log likelihoods, shape (N,), and their gradient, shape (N, T, C)."""
    return _run(logits, labels, logit_lengths, label_lengths, blank, grad=True)


def _run(
    logits: Any, labels: Any, frames: Any, counts: Any, blank: int, *, grad: bool
) -> tuple[Any, Any]:
    require_memory(logits, labels, frames, counts)
    N, T, C = logits.shape
    S = labels.shape[1]
    dtype = dtype_name(logits)
    real = "float64" if dtype == "float64" else "float32"
    with on_stream_of(logits):
        losses = empty(logits, (N,), real)
        gradient = empty_like_layout(logits) if grad else None
        if N == 0:
            return losses, gradient
        size = np.dtype(real).itemsize
        plan = make_plan(N, T, C, S, real=size, grad=grad, limit=scratch_limit())
        scratch = empty(logits, (plan.scratch,), "uint8")
        problem = describe(
            plan,
            scratch,
            T=T,
            C=C,
            S=S,
            blank=blank,
            shift=plan.shift,
            segments=plan.segments,
            shared_states=plan.shared_states,
        )
        for start in range(0, N, plan.sequences):
            stop = min(N, start + plan.sequences)
            part = slice(start, stop)
            problem["N"] = stop - start
            point(problem, "logits", logits[part, ...], "ntc")
            point(problem, "labels", labels[part, ...], "ns")
            point(problem, "frames", frames[part], "n")
            point(problem, "counts", counts[part], "n")
            problem["loss"] = view(losses[part]).address
            if gradient is not None:
                point(problem, "grad", gradient[part, ...], "ntc")
            _launch_all(plan, dtype, problem, size=size, grad=grad)
        if not array_api_compat.is_torch_array(logits) and capturing():
            # The graph keeps addresses only; PyTorch's allocator sees to it itself.
            everything = (losses, gradient, scratch)
            losses = keeping(losses, *everything)
            gradient = None if gradient is None else keeping(gradient, *everything)
    return losses, gradient


def _launch_all(plan: Plan, dtype: str, problem: Any, *, size: int, grad: bool) -> None:
    variant = plan.variant
    N, T, S = (int(problem[name][0]) for name in ("N", "T", "S"))

    def go(kernel: str, *more: int, blocks: tuple[int, ...], shared: int = 0) -> None:
        threads = THREADS.get(kernel, 32 * variant.warps)
        # A grid without blocks can't be launched: there is nothing to do.
        if 0 not in blocks:
            launch(
                kernel, variant, dtype, problem, *more, grid=blocks, block=threads, shared=shared
            )

    go("ctc_rows", int(grad), blocks=grid(T, N, lists=grad))
    if variant == ANY_LENGTH:
        shared = 2 * (S + 1) * 4 * size if plan.shared_states else 0
        go("ctc_checkpoints", blocks=((1 + grad) * N,), shared=shared)
        if grad:
            go("ctc_segments", blocks=(plan.workers if T else 0,))
        return
    go("ctc_paths", blocks=((1 + grad) * N,))
    if grad:
        go("ctc_gradient", blocks=grid(T, N), shared=4 * S * size)
