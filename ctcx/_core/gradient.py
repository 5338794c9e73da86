r"""The gradient with respect to the logits, softmax minus occupancy, and the softmax's denominator.

.. math::
    \frac{\partial\,\mathrm{loss}}{\partial x_{t,c}}
    = \mathrm{softmax}(x_t)_c - \sum_{s: y_s = c} \gamma_t(s)

with gamma the occupancy of state s at frame t (Graves et al. 2006, eq. 16). The logits are read in
blocks small enough to stay in a processor's cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctcx._arrays.facts import is_undecided

if TYPE_CHECKING:
    from ctcx._core.context import Context
    from ctcx._typing import Array

__all__ = ["ClassSums", "block_shape", "denominator", "gradient_rows"]

_BLOCK_ELEMENTS = 2**18
_COUNT_ELEMENTS = 2**20
_MOST_COMPARED = 512


def block_shape(rows: int, frames: int, width: int) -> tuple[int, int]:
    """Sequences and frames of a block, at least 1 of each, about 1 MB in rows of ``width``.

    Several whole sequences if they fit, else part of one.
    """
    if is_undecided(rows, frames, width):  # in JAX, whose loop takes no blocks
        return 1, 1
    sequence = max(1, frames) * width
    if sequence <= _BLOCK_ELEMENTS:
        return max(1, min(rows, _BLOCK_ELEMENTS // sequence)), max(1, frames)
    return 1, max(1, _BLOCK_ELEMENTS // width)


def denominator(
    logits: Array, peak: Array, inside: Array, context: Context, *, all_inside: bool
) -> tuple[Array, Array, Array]:
    """Exponentials (n, t, C) of a block of logits, relative to each frame's largest; their sum
    (n, t, 1), the softmax's denominator; and its logarithm (n, t).

    ``peak`` (n, t) is the largest, any number where there is none or for frames to leave out.
    ``inside`` (n, t) is False for those, which may hold anything. ``all_inside`` says that there
    are none.
    """
    xp = context.xp
    logits = context.cast(logits)
    peak = peak[:, :, None]
    powers = xp.exp(logits - peak)
    if not all_inside:  # afterwards: XLA's CPU compiler doesn't vectorise exp of what is masked
        powers = xp.where(inside[:, :, None], powers, 1.0)
    # Of a nearly certain frame the sum is hardly above 1, and float32 would lose the rest of it.
    # 1 stands in for the sum of a frame of only -inf logits, whose labels are impossible.
    if context.has_float64:
        total = xp.sum(powers, axis=2, keepdims=True, dtype=xp.float64)
        total = xp.maximum(total, 1.0)
        return powers, context.cast(total), context.cast(xp.log(total[:, :, 0]))
    total = xp.maximum(xp.sum(powers, axis=2, keepdims=True), 1.0)
    others = xp.sum(xp.where(powers < 1.0, powers, 0.0), axis=2, keepdims=True)
    rest = xp.where(total < 1.5, others, total - 1.0)  # below 1.5 there is one largest
    return powers, total, xp.log1p(rest)[:, :, 0]


class ClassSums:
    """Adds up occupancies by class, with gathers and running sums only (there is no scatter in the
    standard): sorted by class, equal labels stand together, and the sum of a class is the
    difference of the running sum at the two ends of its group. ``classes`` (N, S+1) are those of
    the columns of the occupancies, the blank's last; several may be equal.
    """

    def __init__(self, classes: Array, num_classes: int, context: Context) -> None:
        xp, dtype = context.xp, context.index_dtype
        self._context = context
        width = classes.shape[1]
        position = context.arange(0, width)
        # Where each column goes when sorted by class; equal ones stay in order.
        key = classes * width + position[None, :]
        self._ends = self._count_below(classes, num_classes + 1)
        if is_undecided(width) or width > _MOST_COMPARED:
            self._order = xp.astype(xp.argsort(key, axis=1), dtype, copy=False)
            return
        # For few, comparing all is faster than sorting, and takes fewer kernels on a GPU.
        before = key[:, None, :] < key[:, :, None]
        # Counts are small; narrow integers make these (N, S+1, S+1) arrays cheaper.
        rank = xp.sum(xp.astype(before, xp.int32), axis=2, dtype=xp.int32)
        narrow = xp.astype(position, xp.int32)[None, None, :]
        placed = xp.astype(rank[:, None, :] == xp.permute_dims(narrow, (0, 2, 1)), xp.int32)
        self._order = xp.astype(xp.sum(placed * narrow, axis=2, dtype=xp.int32), dtype)

    def _count_below(self, classes: Array, stop: int) -> Array:
        """How many columns are of a class below c, for c = 0 to ``stop - 1``: (N, stop)."""
        context, xp, dtype = self._context, self._context.xp, self._context.index_dtype
        every = context.arange(0, stop)[None, None, :]
        below = context.integers((classes.shape[0], stop), 0)
        rows, width = classes.shape
        if is_undecided(rows, width, stop):  # in JAX, where XLA makes no such array at all
            parts = [classes]
        else:
            chunk = max(1, _COUNT_ELEMENTS // max(1, rows * stop))
            starts = range(0, width, chunk)
            parts = [classes[:, start : min(start + chunk, width)] for start in starts]
        for part in parts:
            smaller = xp.astype(part[:, :, None] < every, dtype)
            below = below + xp.sum(smaller, axis=1, dtype=dtype)
        return below

    def __call__(self, occupancy: Array, rows: slice) -> Array:
        """Add up (t, n, S+1) of the sequences ``rows`` to (n, t, C)."""
        xp = self._context.xp
        by_class = self._pick(occupancy, self._order[rows, :])
        running = xp.cumulative_sum(by_class, axis=2, include_initial=True)
        at_ends = self._pick(running, self._ends[rows, :])
        return xp.permute_dims(at_ends[:, :, 1:] - at_ends[:, :, :-1], (1, 0, 2))

    def _pick(self, table: Array, columns: Array) -> Array:
        """``table[t, n, columns[n, k]]`` for (t, n, W) and (n, K), as one gather of flat rows."""
        context, xp = self._context, self._context.xp
        frames, count, width = table.shape
        if is_undecided(count) or count > 1:
            columns = columns + context.arange(0, count)[:, None] * width
        flat = xp.reshape(table, (frames, count * width))
        picked = xp.take(flat, xp.reshape(columns, (-1,)), axis=1)
        return xp.reshape(picked, (frames, count, columns.shape[1]))


def gradient_rows(powers: Array, total: Array, factor: Array, sums: Array) -> Array:
    """Softmax minus occupancy (n, t, C), times ``factor`` (n, t)."""
    factor = factor[:, :, None]
    return powers * (factor / total) - sums * factor
