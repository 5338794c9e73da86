r"""The gradient with respect to the logits, softmax minus occupancy, and the softmax's denominator.

.. math::
    \frac{\partial\,\mathrm{loss}}{\partial x_{t,c}} = \mathrm{softmax}(x_t)_c - \sum_{s: y_s = c} \gamma_t(s)

with gamma the occupancy of state s at frame t (Graves et al. 2006, eq. 15). The logits are read once
here, in blocks small enough to stay in a processor's cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ctcx._arrayapi.emissions import reference
from ctcx._arrayapi.lattice import DEAD

if TYPE_CHECKING:
    from ctcx._arrayapi.context import Context
    from ctcx._typing import Array

__all__ = ["ClassIndex", "Denominator", "block_shape", "denominator", "gradient_rows"]

_BLOCK_ELEMENTS = 2**18
_LABEL_CHUNK_ELEMENTS = 2**20


def block_shape(rows: int, frames: int, width: int) -> tuple[int, int]:
    """Sequences and frames of a block of about 1 MB, rows of ``width`` elements: whole sequences if
    they fit, else part of one."""
    if frames * width <= _BLOCK_ELEMENTS:
        return min(rows, _BLOCK_ELEMENTS // max(1, frames * width)), max(1, frames)
    return 1, max(1, _BLOCK_ELEMENTS // width)


class Denominator(NamedTuple):
    """The softmax's denominator: ``log(sum(exp(x))) = reference + peak + spread``, (n, t) each."""

    peak: Array
    spread: Array


def denominator(
    logits: Array, inside: Array, blank: int, context: Context
) -> tuple[Array, Array, Denominator]:
    """Exponentials (n, t, C) of a block of logits, their sum (n, t, 1), and its logarithm.

    ``inside`` (n, t) is False for frames to leave out, which may hold anything; they count as 0.
    """
    xp = context.xp
    logits = xp.where(inside[:, :, None], context.cast(logits), context.full((), 0.0))
    top = xp.maximum(xp.max(logits, axis=2, keepdims=True), context.full((), DEAD))
    powers = xp.exp(logits - top)
    total = xp.sum(powers, axis=2, keepdims=True)
    origin = reference(logits[:, :, blank], context)
    # 1 stands in for the sum of a frame of only -inf logits, whose labels are impossible.
    total = xp.maximum(total, context.full((), 1.0))
    return powers, total, Denominator(top[:, :, 0] - origin, xp.log(total[:, :, 0]))


class ClassIndex:
    """Adds up occupancies of label positions by class, with gathers and running sums only.

    (The standard has no scatter.) Sorted by class, equal labels stand together, and the sum of a
    group is the difference of two running sums.

    Parameters
    ----------
    classes
        (N, S), S at least 1.
    blank, num_classes
        Of the logits.
    """

    def __init__(self, classes: Array, blank: int, num_classes: int, context: Context) -> None:
        xp = context.xp
        self._context = context
        width = classes.shape[1]
        position = context.arange(0, width)
        mine, other = classes[:, :, None], classes[:, None, :]
        equal = mine == other
        earlier = position[None, None, :] < position[None, :, None]
        first = self._count(other < mine)
        rank = first + self._count(equal & earlier)
        placed = rank[:, None, :] == position[None, :, None]
        self._first = first
        self._stop = first + self._count(equal)
        self._order = xp.astype(
            xp.argmax(xp.astype(placed, xp.int8), axis=2), context.index_dtype, copy=False
        )
        self._column = self._column_of_class(classes, blank, num_classes)

    def _count(self, condition: Array) -> Array:
        xp, context = self._context.xp, self._context
        dtype = context.index_dtype
        return xp.sum(xp.astype(condition, dtype), axis=2, dtype=dtype)

    def _column_of_class(self, classes: Array, blank: int, num_classes: int) -> Array:
        """Column of each class (N, C) in the table that :meth:`sums` gathers from.

        0 for a class that no label has, 1 + i for the class of label i, 1 + S for the blank.
        """
        context, xp = self._context, self._context.xp
        rows, width = classes.shape
        every = context.arange(0, num_classes)
        column = context.integers((rows, num_classes), 0)
        chunk = max(1, _LABEL_CHUNK_ELEMENTS // max(1, rows * num_classes))
        for start in range(0, width, chunk):
            part = classes[:, start : min(start + chunk, width)]
            place = context.arange(start + 1, start + 1 + part.shape[1])
            hit = xp.astype(part[:, :, None] == every[None, None, :], context.index_dtype)
            column = xp.maximum(column, xp.max(hit * place[None, :, None], axis=1))
        is_blank = every[None, :] == blank
        return xp.where(is_blank, context.integers((), 1 + width), column)

    def sums(self, occupancy: Array, rows: slice) -> Array:
        """Add up by class: (t, n, S+1) of the sequences ``rows`` to (n, t, C)."""
        context, xp = self._context, self._context.xp
        frames, count, states = occupancy.shape
        labels = self._pick(occupancy, self._order[rows, :])
        running = xp.cumulative_sum(labels, axis=2, include_initial=True)
        by_label = self._pick(running, self._stop[rows, :]) - self._pick(
            running, self._first[rows, :]
        )
        nothing = context.full((frames, count, 1), 0.0)
        table = xp.concat([nothing, by_label, occupancy[:, :, states - 1 :]], axis=2)
        return xp.permute_dims(self._pick(table, self._column[rows, :]), (1, 0, 2))

    def _pick(self, table: Array, columns: Array) -> Array:
        """``table[t, n, columns[n, k]]`` for (t, n, W) and (n, K), as one gather of flat rows."""
        context, xp = self._context, self._context.xp
        frames, count, width = table.shape
        offset = context.arange(0, count)[:, None] * width
        picked = xp.take(
            xp.reshape(table, (frames, count * width)),
            xp.reshape(columns + offset, (-1,)),
            axis=1,
        )
        return xp.reshape(picked, (frames, count, columns.shape[1]))


def gradient_rows(
    powers: Array, total: Array, inside: Array, sums: Array, context: Context
) -> Array:
    """Softmax minus occupancy (n, t, C); exactly 0 outside of ``inside`` (n, t)."""
    inside = context.cast(inside)[:, :, None]
    return powers * (inside / total) - sums * inside

