"""The kernel ``greedy`` of the ``array-api`` backend; see :class:`ctcx.plugin.Backend`."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ctcx._arrays.facts import library_name
from ctcx._core.context import Context
from ctcx._core.gradient import block_shape, denominator
from ctcx._core.kernels import loop_for, run

if TYPE_CHECKING:
    from ctcx._typing import Array

__all__ = ["frames_inside", "greedy"]


def greedy(logits: Array, logit_lengths: Array, *, blank: int) -> tuple[Array, Array]:
    """Most probable class of each frame (N, T), and the logarithm of its probability (N, T)."""
    return cast("tuple[Array, Array]", run(_greedy, (logits, logit_lengths), blank))


def _greedy(
    logits: Array,
    logit_lengths: Array,
    blank: int,  # noqa: ARG001 - the class of a frame is the same, whichever is the blank
) -> tuple[Array, Array]:
    context = Context.of(logits, logit_lengths)
    xp = context.xp
    inside, in_range = frames_inside(logit_lengths, logits.shape[1], context)

    def block(rows: slice, frames: slice) -> tuple[Array, ...]:
        part = context.cast(logits[rows, frames, :])
        peak = xp.max(part, axis=2)
        # Of a frame of only -inf the denominator takes any peak.
        finite = xp.where(xp.isfinite(peak), peak, 0.0)
        _, _, spread = denominator(part, finite, inside[rows, frames], context, all_inside=False)
        return lowest_largest(part, peak, context), peak, spread

    classes, peak, spread = loop_for(library_name(logits)).assemble(
        block,
        logits.shape[:2],
        [((), xp.int32), ((), context.dtype), ((), context.dtype)],
        block_shape(*logits.shape),
        context,
    )
    wrong = xp.any(inside & ~(peak < float("inf")), axis=1) | ~in_range
    possible = inside & (peak > -float("inf")) & ~wrong[:, None]
    log_probs = xp.where(inside, xp.where(possible, 0.0 - spread, -float("inf")), 0.0)
    log_probs = xp.where(wrong[:, None], float("nan"), log_probs)
    return xp.where(possible, classes, -1), context.cast(log_probs)


def lowest_largest(logits: Array, peak: Array, context: Context) -> Array:
    """Which class of each frame of logits (n, t, C) has the largest, the lowest of equal ones."""
    xp = context.xp
    if context.has_float64:
        return xp.astype(xp.argmax(logits, axis=2), xp.int32)
    # Where a device has no 64-bit types, argmax need not give integers that it has.
    number = xp.arange(logits.shape[2], dtype=xp.int32, device=context.device)
    number = xp.where(logits == peak[:, :, None], number[None, None, :], logits.shape[2])
    return xp.astype(xp.min(number, axis=2), xp.int32)


def frames_inside(logit_lengths: Array, frames: int, context: Context) -> tuple[Array, Array]:
    """Which frames are of their sequences (N, T), and which lengths can be (N,)."""
    frame = context.arange(0, frames)[None, :]
    in_range = (logit_lengths >= 0) & (logit_lengths <= frames)
    return (frame < logit_lengths[:, None]) & in_range[:, None], in_range
