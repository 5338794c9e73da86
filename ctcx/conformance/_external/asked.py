"""One sequence that a program is asked about, and what answers have in common."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ctcx._errors import CTCInputError
from ctcx._reference.decoding import log_softmax
from ctcx.fixtures._read import numbers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctcx.fixtures import Fixture

__all__ = ["Asked", "close", "label_rows", "number_rows", "score_tolerance"]


@dataclass(frozen=True, eq=False)
class Asked:
    """Sequence ``n`` of a problem."""

    fixture: Fixture
    n: int

    def truth(self, name: str) -> Any:
        """Return what the fixture has for this sequence."""
        return self.fixture.arrays[name][self.n]

    @property
    def blank(self) -> int:
        """The blank class."""
        return self.fixture.blank

    @property
    def frames(self) -> int:
        """How many frames count."""
        return int(self.truth("logit_lengths"))

    @cached_property
    def labels(self) -> list[int]:
        """The labels without padding."""
        labels: list[int] = self.truth("labels")[: self.truth("label_lengths")].tolist()
        return labels

    @cached_property
    def padded(self) -> NDArray[np.float64]:
        """The logits with the frames past the length."""
        return np.asarray(self.truth("logits"), dtype=np.float64)

    @property
    def logits(self) -> NDArray[np.float64]:
        """The logits of the frames that count, (T, C)."""
        return self.padded[: self.frames]

    @cached_property
    def log_probs(self) -> NDArray[np.float64]:
        """Logarithms of their softmax."""
        return log_softmax(self.logits)

    @property
    def other_blanks(self) -> tuple[int, int, int]:
        """What may be thought to be the blank: the first class, the last, counted from the end."""
        last = self.logits.shape[1] - 1
        return 0, last, last - self.blank


def score_tolerance(expected: float, dtype: str) -> float:
    """Return the error to allow in the logarithm of a probability."""
    size = max(1.0, abs(expected)) if np.isfinite(expected) else 1.0
    return (1e-9 if dtype == "float64" else 1e-5) * size


def close(got: float, expected: float, dtype: str) -> bool:
    """Return whether the logarithm of a probability is right."""
    return got == expected or bool(abs(got - expected) <= score_tolerance(expected, dtype))


def number_rows(document: dict[str, Any], name: str, count: int) -> NDArray[np.float64] | None:
    """Return an array of numbers whose first axis is that of sequences; None if there is none.

    Raises CTCInputError: it is something else.
    """
    if document.get(name) is None:
        return None
    values = numbers(f"answer.{name}", document[name])
    if len(values) != count:
        _wrong(f"answer.{name}", f"has the length {len(values)}", f"{count}, one for a sequence")
    return values


def label_rows(place: str, value: Any, depth: int, count: int | None = None) -> Any:
    """Return nested lists of integers, of any lengths; at depth 1, without -1 at the end.

    Raises CTCInputError: something else stands there, or the outermost has another length than
    ``count``.
    """
    if not isinstance(value, list):
        _wrong(place, f"is {str(value)[:40]!r}", "a list")
    if count is not None and len(value) != count:
        _wrong(place, f"has the length {len(value)}", f"{count}, one for a sequence")
    if depth > 1:
        return [label_rows(f"{place}[{i}]", each, depth - 1) for i, each in enumerate(value)]
    for i, each in enumerate(value):
        if isinstance(each, bool) or not isinstance(each, int):
            _wrong(f"{place}[{i}]", f"is {str(each)[:40]!r}", "an integer")
    end = len(value)
    while end and value[end - 1] == -1:
        end -= 1
    return value[:end]


def _wrong(place: str, found: str, expected: str) -> None:
    msg = f"{place} {found}: expected {expected}"
    raise CTCInputError(msg, argument=place)
