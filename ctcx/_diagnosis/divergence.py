"""Where the numbers of another implementation first part from the right ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ctcx._diagnosis.answer import QUANTITIES
from ctcx._reference.tolerances import TOLERANCES
from ctcx.fixtures._fixture import ARRAYS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctcx._diagnosis.answer import Answer
    from ctcx.fixtures._fixture import Fixture

__all__ = ["Divergence", "divergences", "first_divergence", "wrong_cells"]

_AS_GOOD_AS_NOTHING = -650.0
"""A logarithm that may stand for that of 0: TensorFlow's is -706.89."""


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """A number that is wrong, while all that is computed before it is right."""

    quantity: str
    """What it is."""
    sequence: int
    """In which sequence of the batch."""
    frame: int | None
    column: int | None
    """Where; the column is a state or a class. None for a loss."""
    got: float
    expected: float
    """The two numbers."""
    count: int
    """How many numbers of this quantity are wrong in this sequence."""
    note: str = ""
    """What is remarkable."""

    def __str__(self) -> str:
        """Say where, what, and what was expected."""
        place = f"sequence {self.sequence}"
        if self.frame is not None:
            column = "state" if "S" in ARRAYS[self.quantity] else "class"
            place += f", frame {self.frame}, {column} {self.column}"
        more = f" ({self.count} such cells in the sequence)" if self.count > 1 else ""
        note = f"; {self.note}" if self.note else ""
        return (
            f"{self.quantity} at {place}: got {self.got!r}, expected {self.expected!r}{more}{note}"
        )


def first_divergence(fixture: Fixture, answer: Answer, n: int, dtype: str) -> Divergence | None:
    """Return where sequence ``n`` of an answer first goes wrong; None if it is right."""
    return next(iter(divergences(fixture, answer, n, dtype)), None)


def divergences(fixture: Fixture, answer: Answer, n: int, dtype: str) -> list[Divergence]:
    """Return the first wrong cell of each quantity that is wrong, in the order of computation."""
    found = []
    for name in QUANTITIES:
        if name not in answer:
            continue
        wrong = wrong_cells(fixture, answer, name, dtype)[n]
        if not wrong.any():
            continue
        note = ""
        if name == "beta" and _with_emission(fixture, answer, n, dtype):
            continue
        if wrong.ndim == 0:
            cell: tuple[int, ...] = ()
        else:
            cells = np.argwhere(wrong)
            # beta is computed from the last frame to the first
            cell = tuple(
                cells[np.lexsort((cells[:, 1], -cells[:, 0]))[0] if name == "beta" else 0].tolist()
            )
        at = (n, *cell)
        got, expected = float(answer[name][at]), float(fixture.arrays[name][at])
        if cell and cell[0] >= fixture.arrays["logit_lengths"][n]:
            note = f"past the length {fixture.arrays['logit_lengths'][n]}"
        found.append(
            Divergence(
                quantity=name,
                sequence=n,
                frame=cell[0] if cell else None,
                column=cell[1] if cell else None,
                got=got,
                expected=expected,
                count=int(wrong.sum()),
                note=note,
            )
        )
    return found


def wrong_cells(fixture: Fixture, answer: Answer, name: str, dtype: str) -> NDArray[np.bool_]:
    """Return which numbers of a quantity are wrong, by the tolerances of a dtype.

    Logarithms are given ten times the tolerance of a loss; one of 0 may be anything below -650.
    Only the gradient must be right past the lengths.
    """
    got = answer[name]
    expected = np.asarray(fixture.arrays[name], dtype=np.float64)
    tolerance = TOLERANCES[dtype]
    lengths = np.asarray(fixture.arrays["logit_lengths"], dtype=np.int64)
    if name == "loss":
        allowed: NDArray[np.float64] | float = tolerance.loss(expected, lengths)
    elif name in {"log_softmax", "alpha", "beta"}:
        frames = np.broadcast_to(lengths[:, None, None], expected.shape)
        allowed = 10 * tolerance.loss(expected, frames)
    else:
        allowed = tolerance.grad
    with np.errstate(invalid="ignore"):
        wrong = ~((np.abs(got - expected) <= allowed) | (got == expected))
    if name in {"log_softmax", "alpha", "beta"}:
        wrong &= ~((expected == -np.inf) & (got <= _AS_GOOD_AS_NOTHING))
    if name not in {"loss", "gradient"}:
        wrong &= (np.arange(expected.shape[1]) < lengths[:, None])[:, :, None]
    if "S" in ARRAYS[name]:
        width = 2 * np.asarray(fixture.arrays["label_lengths"], dtype=np.int64) + 1
        wrong &= (np.arange(expected.shape[2]) < width[:, None])[:, None, :]
    result: NDArray[np.bool_] = wrong
    return result


def _with_emission(fixture: Fixture, answer: Answer, n: int, dtype: str) -> bool:
    """Return whether beta is right once the frame's own emission is taken out of it."""
    states = np.asarray(fixture.arrays["extended"][n], dtype=np.int64)
    emission = fixture.arrays["log_softmax"][n][:, states]
    with np.errstate(invalid="ignore"):
        other = answer["beta"].copy()
        other[n] = np.where(np.isneginf(other[n]), -np.inf, other[n] - emission)
    return not wrong_cells(fixture, {"beta": other}, "beta", dtype)[n].any()
