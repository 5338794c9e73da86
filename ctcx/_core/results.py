"""What is made of the results of a beam search."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctcx._arrays.facts import index_dtype
from ctcx._core.context import Context
from ctcx._core.loops.base import by_comparison

if TYPE_CHECKING:
    from ctcx._typing import Array

__all__ = ["beams_in_order", "label_lengths"]


def label_lengths(labels: Array, log_probs: Array, _: tuple[()]) -> Array:
    """How many labels each result (N, top, T) has, int32; -1 where there is no result."""
    xp = Context.of(log_probs, labels).xp
    counts = xp.sum(xp.astype(labels >= 0, xp.int32), axis=2, dtype=xp.int32)
    return xp.where(log_probs > -float("inf"), counts, -1)


def beams_in_order(
    labels: Array, lengths: Array, exact: Array, found: Array, bonus: Array, _: tuple[()]
) -> tuple[Array, ...]:
    """Sort results by exact probability and bonus; those that aren't there stay last.

    Returns labels (N, top, K), lengths, exact and found logarithms and bonus (N, top).
    """
    context = Context.of(exact, labels)
    context = context._replace(index_dtype=index_dtype(context.xp, context.device))
    xp = context.xp
    exact = xp.where(found > -float("inf"), xp.minimum(exact, 0.0), found)
    order = by_comparison(exact + bonus, exact.shape[1], context)
    every_label = xp.broadcast_to(order[:, :, None], labels.shape)
    others = (xp.take_along_axis(array, order, axis=1) for array in (lengths, exact, found, bonus))
    return xp.take_along_axis(labels, every_label, axis=1), *others
