"""Labels that stand for several classes, and prices of frames before and after the labels.

A wildcard and a free end are columns beside the logits: to a kernel they are more classes. Like the
logits they are not normalised, so that the same softmax serves for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ctcx._arrays.facts import device_of, index_dtype, namespace_of
from ctcx._arrays.jax_types import without_jax_types
from ctcx._errors import CTCInputError, short_repr
from ctcx._inputs.host_data import as_integer, is_list

if TYPE_CHECKING:
    from ctcx._typing import Array, ArrayModule

__all__ = ["ExtraColumns", "Wildcard", "Wildcards", "near_zero"]

_KINDS = ("any", "best", "free")
_LARGEST_PRICE = 1e30
_NO_CLASS = -2


class Wildcard(NamedTuple):
    """A label below -1, what it stands for and its price, as passed and checked.

    ``kind`` is "any", "best", "free" or "set"; ``classes`` are those of a set.
    """

    number: int
    kind: str
    classes: tuple[int, ...]
    price: float


class ExtraColumns(NamedTuple):
    """What a kernel gets for wildcards and free ends."""

    extra: Array | None
    """(N, T, W), or None."""
    ends: tuple[int, int]
    """ExtraColumns of the first and of the last blank."""
    best: tuple[Array | None, ...]
    """For each wildcard: the best class of each frame (N, T), or None for none."""


class Wildcards(NamedTuple):
    """The arguments ``wildcards`` and ``free_ends``, checked; hashable."""

    all: tuple[Wildcard, ...]
    ends: tuple[float | None, float | None] | None

    @classmethod
    def of(cls, wildcards: Any, free_ends: Any, classes: int) -> Wildcards:
        """Check the arguments.

        Raises CTCInputError, which names the argument, what was passed and what is expected.
        """
        if wildcards is None:
            wildcards = {}
        if not isinstance(wildcards, Mapping):
            msg = (
                f"wildcards must be a dict of labels below -1 to (kind, price); got "
                f"{short_repr(wildcards)}"
            )
            raise CTCInputError(msg, argument="wildcards", value=wildcards)
        found = (_checked(number, meaning, classes) for number, meaning in wildcards.items())
        return cls(tuple(found), _checked_ends(free_ends))

    @property
    def numbers(self) -> tuple[int, ...]:
        """The labels."""
        return tuple(one.number for one in self.all)

    @property
    def needs_columns(self) -> bool:
        """Whether there are columns beside those of the classes."""
        return bool(self.all) or self.ends is not None

    def columns_of(self, labels: Array, classes: int, xp: ArrayModule) -> Array:
        """Labels (N, S) as columns; -1 for what is neither a class nor a wildcard."""
        if not self.all:
            return labels
        columns = xp.where((labels < 0) | (labels >= classes), -1, labels)
        for k, number in enumerate(self.numbers):
            columns = xp.where(labels == number, classes + k, columns)
        return columns

    def columns(self, logits: Array, blank: int) -> ExtraColumns:
        """Make the columns beside logits (N, T, C); past a sequence's length stands anything."""
        if not self.needs_columns:
            return ExtraColumns(None, (blank, blank), ())
        xp = namespace_of(logits)
        if logits.dtype != xp.float64:
            logits = xp.astype(logits, xp.float32, copy=False)
        places = self._places_of_ends(blank, logits.shape[2])

        def made(logits: Array) -> tuple[Array, tuple[Array | None, ...]]:
            return self._columns(logits, blank, xp, list(places)[1:])

        with np.errstate(all="ignore"):  # frames past a length may hold anything
            extra, best = without_jax_types(made, (logits,))
        first, last = (places[end] for end in self.ends or (None, None))
        return ExtraColumns(extra, (first, last), best)

    def _places_of_ends(self, blank: int, classes: int) -> dict[float | None, int]:
        """Columns of the blanks at the ends by their prices: one for both if they are equal."""
        places: dict[float | None, int] = {None: blank}
        for end in self.ends or ():
            places.setdefault(end, classes + len(self.all) + len(places) - 1)
        return places

    def _columns(
        self, logits: Array, blank: int, xp: ArrayModule, prices: list[Any]
    ) -> tuple[Array, tuple[Array | None, ...]]:
        """Return the columns of the wildcards and of ends of these prices, and the best classes."""
        classes = logits.shape[2]
        others = tuple(k for k in range(classes) if k != blank)
        columns, best = [], []
        for _, kind, some, price in self.all:
            subset = _subset(logits, some if kind == "set" else others, xp)
            if kind == "free":
                column = _log_sum(logits, xp)
            elif subset is None:
                column = xp.full_like(logits[:, :, 0], -float("inf"))
            else:
                column = xp.max(subset, axis=2) if kind == "best" else _log_sum(subset, xp)
            columns.append(column + price)
            best.append(
                None
                if kind == "free" or subset is None
                else _best(subset, some if kind == "set" else others, xp)
            )
        if prices:
            total = _log_sum(logits, xp)
            columns += [total + price for price in prices]
        return xp.stack(columns, axis=2), tuple(best)

    def classes_of(
        self, columns: Array, found: ExtraColumns, blank: int, classes: int, xp: ArrayModule
    ) -> Array:
        """ExtraColumns of a path (N, T) as classes: the best one of a set, or -2 for none."""

        def named(columns: Array, *every_best: Array | None) -> Array:
            result = columns
            for k, best in enumerate(every_best):
                here = columns == classes + k
                result = xp.where(here, _NO_CLASS if best is None else best, result)
            if found.ends != (blank, blank):
                result = xp.where(columns >= classes + len(self.all), _NO_CLASS, result)
            return result

        result: Array = without_jax_types(named, (columns, *found.best), 2)
        return result


def near_zero(logits: Array, xp: ArrayModule) -> Array:
    """Shift frames of logits (N, T, C), so that float32 holds the columns made of them finely.

    A whole number is taken off, which rounds no logit that is near its frame's largest.
    """
    logits = xp.astype(logits, xp.float32, copy=False)
    peak = xp.max(logits, axis=2, keepdims=True)
    return logits - xp.where(xp.isfinite(peak), xp.round(peak), 0.0)


def _checked(number: Any, meaning: Any, classes: int) -> Wildcard:
    label = as_integer(number)
    if label is None or label >= -1 or label < -(2**31):
        msg = (
            f"wildcards has the label {short_repr(number)}: expected an int below -1, so that it "
            f"is no class and no padding, and not below -2147483648"
        )
        raise CTCInputError(msg, argument="wildcards", value=number)
    if not isinstance(meaning, tuple) or len(meaning) != 2:
        msg = (
            f"wildcards[{label}] must be (kind, price), such as ('any', 0.0); got "
            f"{short_repr(meaning)}"
        )
        raise CTCInputError(msg, argument="wildcards", value=meaning)
    kind, price = meaning
    where = f"wildcards[{label}]"
    some: tuple[int, ...] = ()
    if not isinstance(kind, str):
        some, kind = _checked_set(where, kind, classes), "set"
    elif kind not in _KINDS:
        msg = (
            f"{where} has the kind {short_repr(kind)}: expected one of "
            f"{', '.join(map(repr, _KINDS))}, or a set of classes"
        )
        raise CTCInputError(msg, argument="wildcards", value=kind)
    return Wildcard(label, kind, some, _checked_price("wildcards", f"the price of {where}", price))


def _checked_set(where: str, some: Any, classes: int) -> tuple[int, ...]:
    if not (isinstance(some, (set, frozenset)) or is_list(some)):
        msg = (
            f"{where} has the kind {short_repr(some)}: expected one of "
            f"{', '.join(map(repr, _KINDS))}, or a set of classes"
        )
        raise CTCInputError(msg, argument="wildcards", value=some)
    numbers = [(one, as_integer(one)) for one in some]
    for given, one in numbers:
        if one is None or not 0 <= one < classes:
            msg = f"{where} has the class {short_repr(given)}: expected 0 to {classes - 1}"
            raise CTCInputError(msg, argument="wildcards", value=given)
    if not numbers:
        msg = f"{where} has an empty set of classes"
        raise CTCInputError(msg, argument="wildcards", value=some)
    return tuple(sorted({one for _, one in numbers if one is not None}))


def _checked_price(argument: str, what: str, price: Any) -> float:
    is_number = isinstance(price, (int, float, np.integer, np.floating))
    if (
        is_number
        and not isinstance(price, bool)
        and (abs(price) <= _LARGEST_PRICE or price == -float("inf"))
    ):
        return float(price)
    msg = (
        f"{what} must be a number from {-_LARGEST_PRICE:g} to {_LARGEST_PRICE:g}, or -inf, in "
        f"nats; got {short_repr(price)}"
    )
    raise CTCInputError(msg, argument=argument, value=price)


def _checked_ends(given: Any) -> tuple[float | None, float | None] | None:
    if given is None:
        return None
    pair = tuple(given) if is_list(given) else (given, given)
    if len(pair) != 2:
        msg = (
            f"free_ends must be a number or a pair of numbers, where None leaves an end as it is; "
            f"got {short_repr(given)}"
        )
        raise CTCInputError(msg, argument="free_ends", value=given)
    if pair == (None, None):
        return None
    first, last = (
        None if price is None else _checked_price("free_ends", "free_ends", price) for price in pair
    )
    return first, last


def _subset(logits: Array, some: tuple[int, ...], xp: ArrayModule) -> Array | None:
    if not some:
        return None
    return xp.take(logits, _as_array(some, logits, xp), axis=2)


def _log_sum(logits: Array, xp: ArrayModule) -> Array:
    """Logarithm of the sum of exponentials of each frame, (N, T)."""
    peak = xp.max(logits, axis=2, keepdims=True)
    peak = xp.where(peak > -float("inf"), peak, 0.0)
    return xp.log(xp.sum(xp.exp(logits - peak), axis=2)) + peak[:, :, 0]


def _best(subset: Array, some: tuple[int, ...], xp: ArrayModule) -> Array:
    """Best class of each frame, (N, T); the first of equal ones."""
    index = _as_array(some, subset, xp)
    is_best = subset == xp.max(subset, axis=2, keepdims=True)
    return xp.min(xp.where(is_best, index, max(some)), axis=2)


def _as_array(some: tuple[int, ...], logits: Array, xp: ArrayModule) -> Array:
    device = device_of(logits)
    return xp.asarray(some, dtype=index_dtype(xp, device), device=device)
