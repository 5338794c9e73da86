"""From the losses of sequences to what a caller asked for, and the derivative of that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ctcx._arrays.facts import at_least_one, can_be_written, is_undecided

if TYPE_CHECKING:
    from ctcx._typing import Array, ArrayModule

__all__ = ["PLAIN", "Reduction", "weighted"]


class Reduction(NamedTuple):
    """How losses (N,) become the result of a call. Hashable; holds no array."""

    kind: str
    """``"none"``, ``"sum"``, ``"mean"`` or ``"mean_per_label"``."""
    zero: bool
    """Whether an infinite loss counts as 0."""
    single: bool
    """Whether the caller passed one sequence, without a batch axis."""

    def value(self, xp: ArrayModule, loss: Array, divisor: Array | int) -> Array:
        """Return the result of the call, given the result of :meth:`divisor`."""
        if self.zero:
            loss = xp.where(loss == float("inf"), xp.zeros_like(loss), loss)
        return self.combined(xp, loss, divisor)

    def combined(self, xp: ArrayModule, numbers: Array, divisor: Array | int) -> Array:
        """Reduce numbers (N,), one for each sequence: the losses, or their derivatives."""
        if self.kind == "none":
            return numbers[0, ...] if self.single else numbers
        if self.kind == "mean_per_label":
            return xp.sum(numbers / divisor)
        total = xp.sum(numbers)
        return total if self.kind == "sum" or _is_one(divisor) else total / divisor

    def spread(self, xp: ArrayModule, above: Array, loss: Array, divisor: Array | int) -> Array:
        """Return the derivative with respect to each loss (N,); ``above`` is that of the result.

        0 for an infinite loss, whatever is multiplied with it: its logits have no influence.
        """
        above = self.spread_evenly(above, divisor)
        return xp.where(loss == float("inf"), xp.zeros_like(loss), above)

    def spread_evenly(self, above: Array, divisor: Array | int) -> Array:
        """Do the same where no loss is infinite; () if it is the same for all."""
        return above / divisor if self.kind in ("mean", "mean_per_label") else above

    def weights(self, xp: ArrayModule, label_lengths: Array, dtype: Any) -> Array | None:
        """Return the derivatives of the result with respect to the losses (N,); None if they are 1.

        That it is 0 with respect to an infinite loss is left out: its gradient is 0 anyway.
        """
        if self.kind in ("none", "sum"):
            return None
        return xp.ones_like(label_lengths, dtype=dtype) / self.divisor(xp, label_lengths, dtype)

    def divisor(self, xp: ArrayModule, label_lengths: Array, dtype: Any) -> Array | int:
        """Return the divisor of each sequence's loss in the sum of all: a number, or (N,)."""
        if self.kind in ("none", "sum"):
            return 1
        count: Any = at_least_one(label_lengths.shape[0])
        if is_undecided(count):
            count = xp.asarray(count, dtype=dtype)
        if self.kind == "mean":
            return count
        labels = xp.astype(xp.maximum(label_lengths, xp.ones_like(label_lengths)), dtype)
        return labels if _is_one(count) else labels * count


def weighted(xp: ArrayModule, array: Array, weights: Array, *, reuse: bool = True) -> Array:
    """Multiply (N, T, C), one block a sequence, by weights (N,), in their dtype.

    ``reuse``: the array isn't needed any more.
    """
    factors = weights[:, None, None]
    if array.dtype != weights.dtype:  # half precision lacks numbers as small as weights may be
        return xp.astype(xp.astype(array, weights.dtype) * factors, array.dtype)
    if not reuse or not can_be_written(array):
        return array * factors
    array *= factors
    return array


def _is_one(divisor: Array | int) -> bool:
    return isinstance(divisor, int) and divisor == 1


PLAIN = Reduction("none", zero=False, single=False)
"""Leaves losses as they are."""
