"""The kernel ``align`` of the ``array-api`` backend; see :class:`ctcx.plugin.Backend`."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ctcx._arrays.facts import index_dtype, is_undecided, library_name
from ctcx._core.best_path import BestPath
from ctcx._core.columns import Columns
from ctcx._core.kernels import loop_for, run
from ctcx._core.recursion import Recursion
from ctcx._core.spans import path_columns

if TYPE_CHECKING:
    from ctcx._typing import Array

__all__ = ["align"]


def align(
    logits: Array,
    labels: Array,
    logit_lengths: Array,
    label_lengths: Array,
    *,
    blank: int,
    extra: Array | None,
    ends: tuple[int, int],
) -> tuple[Array, Array]:
    """States (N, T) of the best path of each sequence, and its logarithms of probabilities."""
    arrays = (logits, labels, logit_lengths, label_lengths, extra)
    return cast("tuple[Array, Array]", run(_align, arrays, (blank, ends)))


def _align(
    logits: Array,
    labels: Array,
    logit_lengths: Array,
    label_lengths: Array,
    extra: Array | None,
    constants: tuple[int, tuple[int, int]],
) -> tuple[Array, Array]:
    blank, ends = constants
    loop = loop_for(library_name(logits))
    call = Recursion(
        loop,
        logits,
        labels,
        logit_lengths,
        label_lengths,
        blank,
        extra_classes=0 if extra is None else extra.shape[2],
    )
    xp, device = call.context.xp, call.context.device
    # Some libraries look things up with integers of one width only.
    call.context = context = call.context._replace(index_dtype=index_dtype(xp, device))
    rows, frames, _ = logits.shape
    if not is_undecided(rows, frames) and 0 in {rows, frames}:
        nothing = xp.zeros((rows, frames), dtype=xp.int32, device=device)
        return nothing, context.full((rows, frames), 0.0)
    call.read_logits()
    classes, counts, lengths = map(
        context.as_indices, (call.classes, call.label_lengths, call.logit_lengths)
    )
    columns = Columns(logits, extra, context)
    path = BestPath(
        columns,
        classes,
        lengths,
        counts,
        frames=frames,
        blank=blank,
        ends=ends,
        largest=call.peak,
        all_full=call.all_inside,
        all_differ=loop.reads_values and not bool(xp.any(call.repeats())),
        loop=loop,
        context=context,
    )
    states, possible = path()
    inside = call.inside & possible[:, None]
    states = xp.where(inside, states, -1)
    column = path_columns(states, classes, counts, constants, context)
    row, frame = context.arange(0, rows)[:, None], context.arange(0, frames)[None, :]

    log_probs = (columns(row, frame, xp.maximum(column, 0)) - call.peak) - call.spread()
    log_probs = xp.where(inside, log_probs, 0.0)
    if call.wrong is not None:
        log_probs = xp.where(call.wrong[:, None], float("nan"), log_probs)
    return xp.astype(states, xp.int32), log_probs
