"""Logits by sequence, frame and class, with columns that the caller made beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctcx._arrays.facts import is_contiguous, is_undecided

if TYPE_CHECKING:
    from ctcx._core.context import Context
    from ctcx._typing import Array, ArrayModule

__all__ = ["Columns", "picked"]


class Columns:
    """Looks up logits (N, T, C), and columns beside them, by sequence, frame and class.

    The columns ``extra`` (N, T, W) that the caller made are the classes C to C + W - 1.
    """

    def __init__(self, logits: Array, extra: Array | None, context: Context) -> None:
        xp = context.xp
        rows, frames, self._classes = logits.shape
        time_major = xp.permute_dims(logits, (1, 0, 2))
        if is_contiguous(time_major) and not is_contiguous(logits):
            logits, self._row, self._frame = time_major, 1, rows
        else:
            self._row, self._frame = frames, 1
        self._logits = xp.reshape(logits, (-1,))
        self._frames, self._width = frames, 0 if extra is None else extra.shape[2]
        self._extra = None if extra is None else xp.reshape(extra, (-1,))
        self._context = context

    def __call__(self, row: Array, frame: Array, column: Array) -> Array:
        """Take the logits at these places, which broadcast against each other."""
        xp = self._context.xp
        place = (row * self._row + frame * self._frame) * self._classes
        if self._extra is None:
            return self._context.cast(self._take(self._logits, place + column))
        own = column < self._classes
        found = self._take(self._logits, place + xp.where(own, column, 0))
        place = (row * self._frames + frame) * self._width
        others = self._take(self._extra, place + xp.where(own, 0, column - self._classes))
        return xp.where(own, self._context.cast(found), others)

    def is_wider_than(self, width: int) -> bool:
        """Whether a frame has more columns than so many, as far as is known."""
        return is_undecided(self._classes, width) or self._classes + self._width > width

    def of_frames(self, row: Array, frame: Array) -> Array:
        """Take all columns (t, N, C+W) of these frames, (1, N, 1) and (t, N, 1)."""
        xp = self._context.xp
        place = row * self._row + frame * self._frame
        found = self._context.cast(_rows(self._logits, place, self._classes, xp))
        if self._extra is None:
            return found
        place = row * self._frames + frame
        return xp.concat([found, _rows(self._extra, place, self._width, xp)], axis=2)

    def _take(self, flat: Array, place: Array) -> Array:
        xp = self._context.xp
        return xp.reshape(xp.take(flat, xp.reshape(place, (-1,)), axis=0), place.shape)


def _rows(flat: Array, place: Array, width: int, xp: ArrayModule) -> Array:
    """Rows of so many numbers at these places (t, N, 1): (t, N, width)."""
    found = xp.take(xp.reshape(flat, (-1, width)), xp.reshape(place, (-1,)), axis=0)
    return xp.reshape(found, (*place.shape[:2], width))


def picked(table: Array, columns: Array, context: Context) -> Array:
    """Pick columns (N, W) of each frame of a table (t, N, K): (t, N, W)."""
    xp, (frames, rows, width) = context.xp, table.shape
    places = context.arange(0, rows)[:, None] * width + columns
    flat = xp.reshape(table, (frames, rows * width))
    picked = xp.take(flat, xp.reshape(places, (-1,)), axis=1)
    return xp.reshape(picked, (frames, *columns.shape))
