r"""A linear layer before the loss, in blocks of classes, without its logits of all of them.

The recursion needs few of them. The loss of a sequence depends on the logits of its own classes,
which are the blank and its labels, and on the sum of the powers of all others:

.. math:: r_t = \log \sum_{c \notin \mathrm{own}} \exp(h_t \cdot w_c + b_c)

So there is a problem with few classes that has the same loss: the logits of the sequence's own
classes, and one further class of logit r that no label names. Any backend computes it. The sum
leaves the own classes out instead of taking them off afterwards, where most of it could cancel.

The derivative by the logit of another class is that by r, times its share in the sum:

.. math:: \frac{\partial\,\mathrm{loss}}{\partial x_{t,c}}
          = \frac{\partial\,\mathrm{loss}}{\partial r_t} \exp(x_{t,c} - r_t)

A second pass over the blocks computes these logits again, and multiplies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ctcx._arrays.facts import library_name
from ctcx._core.context import Context
from ctcx._core.kernels import loop_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctcx._typing import Array

__all__ = ["Constants", "compute_dtype", "gradients", "reduced_problem"]


class Constants(NamedTuple):
    """What is the same for all sequences of a call."""

    blank: int
    """In ``range(C)``."""
    chunk: int
    """How many classes a block has at most."""
    ragged: bool
    """Whether there may be frames past a sequence's length, in which anything may stand."""


def compute_dtype(xp: Any, *arrays: Array | None) -> Any:
    """float64 if any array is of it, else float32."""
    wide = any(array is not None and array.dtype == xp.float64 for array in arrays)
    return xp.float64 if wide else xp.float32


def reduced_problem(
    hidden: Array,  # (N, T, D), finite
    weight: Array,  # (C, D)
    bias: Array | None,  # (C,)
    labels: Array,  # (N, S)
    logit_lengths: Array,  # (N,)
    label_lengths: Array,  # (N,)
    constants: Constants,
) -> tuple[Array, ...]:
    """Make the problem with few classes: logits, labels, peak and total.

    Of the logits (N, T, K), class 0 is the blank, and K - 1 all classes that are not the sequence's
    own; the labels (N, max(S, 1)) are in these classes. Peak and total (N, T) are the largest logit
    of those other classes, and the sum of the powers below it.
    """
    head = _Head(hidden, weight, bias, labels, logit_lengths, label_lengths, constants)
    xp = head.context.xp
    count, frames, _ = hidden.shape

    def step(carry: tuple[Array, Array], block: tuple[Array, ...]) -> tuple[Any, tuple[()]]:
        peak, total = carry
        logits = head.other_logits(block)
        highest = xp.maximum(peak, xp.max(logits, axis=2))
        logits -= highest[:, :, None]
        total = total * xp.exp(peak - highest) + xp.sum(xp.exp(logits), axis=2)
        return (highest, total), ()

    # Not -inf, of which a difference would be NaN.
    lowest = -float(xp.finfo(head.context.dtype).max)
    start = (head.context.full((count, frames), lowest), head.context.full((count, frames), 0.0))
    (peak, total), _ = head.over_blocks(step, start)
    others = xp.where(total > 0, peak + xp.log(total), -float("inf"))
    logits = xp.concat([head.own_logits(), others[:, :, None]], axis=2)
    return logits, head.own.labels, peak, total


def gradients(
    hidden: Array,
    weight: Array,
    bias: Array | None,
    labels: Array,
    logit_lengths: Array,
    label_lengths: Array,
    peak: Array,
    total: Array,
    slopes: Array,  # (N, T, K): derivatives by the logits of the reduced problem
    constants: Constants,
) -> tuple[Array, Array, Array | None]:
    """Turn derivatives by the few logits into those by hidden states, weight and bias, if any.

    The arguments are those of :func:`reduced_problem`, and results of it.
    """
    head = _Head(hidden, weight, bias, labels, logit_lengths, label_lengths, constants)
    xp = head.context.xp
    count, frames, features = hidden.shape
    own = slopes[:, :, :-1]
    # Of each frame, by what the powers of the other classes are multiplied.
    factor = xp.where(total > 0, slopes[:, :, -1] / total, 0.0)
    factor = xp.reshape(factor, (count * frames, 1))
    scaled = factor * head.rows
    summed = head.own.sums(xp.matmul(_transposed(own), head.hidden))
    summed_bias = None if bias is None else head.own.sums(xp.sum(own, axis=1)[:, :, None])

    def step(carry: Array, block: tuple[Array, ...]) -> tuple[Array, tuple[Array, ...]]:
        matrix, _, numbers = block
        logits = head.other_logits(block)
        logits -= peak[:, :, None]
        powers = xp.reshape(xp.exp(logits), (count * frames, numbers.shape[0]))
        carry = carry + xp.matmul(powers, head.context.cast(matrix))
        powers = _transposed(powers)
        of_weight = xp.matmul(powers, scaled) + summed(numbers)
        made = [xp.astype(of_weight, weight.dtype, copy=False)]
        if bias is not None and summed_bias is not None:
            of_bias = xp.matmul(powers, factor) + summed_bias(numbers)
            made.append(xp.astype(of_bias[:, 0], bias.dtype, copy=False))
        return carry, tuple(made)

    carry, made = head.over_blocks(step, xp.zeros_like(head.rows))
    of_hidden = xp.reshape(carry * factor, (count, frames, features))
    of_hidden = of_hidden + xp.matmul(own, head.own_weight)
    return xp.astype(of_hidden, hidden.dtype, copy=False), made[0], made[1] if made[1:] else None


class _OwnClasses:
    """The classes of each sequence, as columns: the blank, and the labels in ascending order.

    ``classes`` (N, 1 + S) are those of the columns. ``used`` (N, 1 + S) is False where a label has
    a column already, and past a sequence's labels; ``labels`` (N, S) are columns of the labels.
    """

    def __init__(
        self, labels: Array, label_lengths: Array, num_classes: int, blank: int, context: Context
    ) -> None:
        xp = self._xp = context.xp
        self._context = context
        count, width = labels.shape
        if width == 0:
            labels, width = context.integers((count, 1), blank), 1
        place = context.arange(0, width)
        there = place[None, :] < context.as_indices(label_lengths)[:, None]
        labels = xp.where(there, context.as_indices(labels), blank)
        labels = xp.minimum(xp.maximum(labels, 0), num_classes - 1)  # wherever values aren't read
        ordered = xp.sort(labels, axis=1)
        first = xp.concat(
            [ordered[:, :1] == ordered[:, :1], ordered[:, 1:] != ordered[:, :-1]], axis=1
        )
        blanks = context.integers((count, 1), blank)
        self.classes = xp.concat([blanks, ordered], axis=1)
        self.used = xp.concat([blanks == blank, first & (ordered != blank)], axis=1)
        # One ascending row of all: places in it are found for any number of sequences at once. The
        # last one is beyond all classes.
        self._base = context.arange(0, count)[:, None] * num_classes
        self._keys = xp.concat(
            [
                xp.reshape(ordered + self._base, (count * width,)),
                context.integers((1,), count * num_classes),
            ]
        )
        start = context.arange(0, count)[:, None] * width
        self.labels = self._places(self._keys, labels + self._base) - start + 1
        self._blank, self._num_classes = blank, num_classes

    def _places(self, keys: Array, values: Array) -> Array:
        """Where values would stand in ascending keys: at the first of equal ones."""
        found = self._xp.searchsorted(keys, self._xp.reshape(values, (-1,)))
        return self._xp.reshape(self._context.as_indices(found), values.shape)

    def contain(self, numbers: Array) -> Array:
        """Whether classes (B,) are among those of each sequence, (N, B)."""
        xp = self._xp
        wanted = self._base + numbers[None, :]
        place = xp.reshape(self._places(self._keys, wanted), (-1,))
        found = xp.reshape(xp.take(self._keys, place), wanted.shape)
        return (found == wanted) | (numbers == self._blank)[None, :]

    def sums(self, rows: Array) -> Callable[[Array], Array]:
        """Add up rows (N, 1 + S, W) by class: gives the sums of classes (B,) as (B, W).

        Rows of equal classes are brought together, and each adds to itself the one that is 1, 2,
        4, ... places further on, if that is of the same class: no sums are subtracted, as it would
        be with running ones, and no library has to scatter.
        """
        xp, context = self._xp, self._context
        size, width = self.classes.shape[0] * self.classes.shape[1], rows.shape[2]
        classes = xp.reshape(self.classes, (size,))
        order = xp.argsort(classes, stable=True)
        beyond = context.integers((1,), self._num_classes)
        classes = xp.concat([xp.take(classes, order), beyond])
        rows = xp.take(xp.reshape(rows, (size, width)), order, axis=0)
        rows = xp.concat([rows, context.full((1, width), 0.0)], axis=0)
        distance, length = 1, classes.shape[0]
        while distance < length:
            same = (classes[distance:] == classes[:-distance])[:, None]
            added = rows[:-distance, :] + xp.where(same, rows[distance:, :], 0.0)
            rows = xp.concat([added, rows[-distance:, :]], axis=0)
            distance *= 2

        def of_classes(numbers: Array) -> Array:
            place = self._places(classes, numbers)
            there = xp.take(classes, place) == numbers
            return xp.where(there[:, None], xp.take(rows, place, axis=0), 0.0)

        return of_classes


class _Head:
    """A linear layer, its input and the classes of the sequences."""

    def __init__(
        self,
        hidden: Array,
        weight: Array,
        bias: Array | None,
        labels: Array,
        logit_lengths: Array,
        label_lengths: Array,
        constants: Constants,
    ) -> None:
        context = Context.of(hidden, labels, logit_lengths, label_lengths)
        xp = context.xp
        context = context._replace(dtype=compute_dtype(xp, hidden, weight, bias))
        self.context, self.weight, self.bias = context, weight, bias
        count, frames, features = hidden.shape
        hidden = context.cast(hidden)
        if constants.ragged:
            place = context.arange(0, frames)[None, :]
            inside = place < context.as_indices(logit_lengths)[:, None]
            hidden = xp.where(inside[:, :, None], hidden, 0.0)
        self.hidden = hidden
        self.rows = xp.reshape(self.hidden, (count * frames, features))
        self.own = _OwnClasses(labels, label_lengths, weight.shape[0], constants.blank, context)
        flat = xp.reshape(self.own.classes, (-1,))
        own_weight = context.cast(xp.take(weight, flat, axis=0))
        self.own_weight = xp.reshape(own_weight, (*self.own.classes.shape, features))
        self._flat, self._chunk = flat, constants.chunk

    def own_logits(self) -> Array:
        """Logits of each sequence's own classes, (N, T, 1 + S); -inf in columns without a class."""
        xp = self.context.xp
        logits = xp.matmul(self.hidden, _transposed(self.own_weight))
        if self.bias is not None:
            bias = self.context.cast(xp.take(self.bias, self._flat))
            logits = logits + xp.reshape(bias, self.own.classes.shape)[:, None, :]
        return xp.where(self.own.used[:, None, :], logits, -float("inf"))

    def other_logits(self, block: tuple[Array, ...]) -> Array:
        """Logits of a block of classes, (N, T, B); -inf for the sequence's own."""
        xp, cast = self.context.xp, self.context.cast
        weight, bias, numbers = block
        count, frames, _ = self.hidden.shape
        logits = xp.matmul(self.rows, _transposed(cast(weight)))
        logits = xp.reshape(logits, (count, frames, numbers.shape[0]))
        rest = self.context.full((1, 1), 0.0) if self.bias is None else cast(bias)[None, :]
        logits += xp.where(self.own.contain(numbers), -float("inf"), rest)[:, None, :]
        return logits

    def over_blocks(
        self, step: Callable[[Any, tuple[Array, ...]], tuple[Any, Any]], carry: Any
    ) -> tuple[Any, tuple[Array, ...]]:
        """Run ``step(carry, (weight, bias, numbers))`` for each block of classes."""
        numbers = self.context.arange(0, self.weight.shape[0])
        # Without a bias something must stand in its place, which nothing reads.
        rows = (self.weight, numbers if self.bias is None else self.bias, numbers)
        loop = loop_for(library_name(self.hidden))
        return loop.over_blocks(step, carry, rows, self._chunk, self.context)


def _transposed(matrices: Array) -> Array:
    return matrices.mT if hasattr(matrices, "mT") else matrices.swapaxes(-1, -2)
