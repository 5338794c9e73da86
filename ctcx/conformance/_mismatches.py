"""Compare a kernel's numbers with the truth, and say where they part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctcx.conformance.cases import Batch

__all__ = [
    "TOLERANCES",
    "Tolerance",
    "describe_grad",
    "describe_loss",
    "grad_faults",
    "loss_faults",
]

_SHOWN = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """How far from the truth a kernel may be in one dtype.

    Attributes
    ----------
    loss_rel : float
        Relative error of a loss.
    loss_abs : float
        Absolute error of a loss, on top, for each frame; 16 frames are always granted.
    grad : float
        Absolute error of an entry of the gradient, which lies in [-1, 1].
    grad_very_long : float
        The same for tens of thousands of frames.
    row_sum : float
        How far the sum of a row of the gradient may be from 0.
    """

    loss_rel: float
    loss_abs: float
    grad: float
    grad_very_long: float
    row_sum: float

    def loss(self, expected: NDArray[np.float64], frames: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the error allowed in each loss, shape (N,)."""
        size = np.where(np.isfinite(expected), np.abs(expected), 0.0)
        return self.loss_rel * size + self.loss_abs * np.maximum(frames, 16)


# Half precision is computed in float32 and its gradient rounded once: half a unit in the last
# place of a number in [0.5, 1].
TOLERANCES: dict[str, Tolerance] = {
    "float64": Tolerance(
        loss_rel=1e-10, loss_abs=1e-12, grad=1e-10, grad_very_long=1e-9, row_sum=1e-10
    ),
    "float32": Tolerance(
        loss_rel=2e-6, loss_abs=1.25e-7, grad=5e-6, grad_very_long=5e-6, row_sum=5e-6
    ),
    "float16": Tolerance(
        loss_rel=2e-6, loss_abs=1.25e-7, grad=5.1e-4, grad_very_long=5.1e-4, row_sum=2e-3
    ),
    "bfloat16": Tolerance(
        loss_rel=2e-6, loss_abs=1.25e-7, grad=4e-3, grad_very_long=4e-3, row_sum=1.6e-2
    ),
}
"""The one table of tolerances, by the dtype of the logits."""


def loss_faults(
    batch: Batch,
    got: NDArray[np.float64],
    expected: NDArray[np.float64],
    allowed: NDArray[np.float64],
    *,
    against: str = "expected",
) -> list[str]:
    """Return a message for the losses (N,) that are wrong; an empty list if none is."""
    with np.errstate(invalid="ignore"):
        wrong = ~((np.abs(got - expected) <= allowed) | (got == expected))
    if not wrong.any():
        return []
    lines = [
        f"  {describe_loss(batch, int(n))}: "
        + _versus(float(got[n]), float(expected[n]), float(allowed[n]), against)
        for n in np.flatnonzero(wrong)[:_SHOWN]
    ]
    return [_message(batch, f"{wrong.sum()} of {wrong.size} losses are wrong", lines)]


def grad_faults(
    batch: Batch,
    got: NDArray[np.float64],
    expected: NDArray[np.float64],
    allowed: float,
    *,
    against: str = "expected",
) -> list[str]:
    """Return a message for the gradient's entries (N, T, C) that are wrong, the worst first."""
    with np.errstate(invalid="ignore"):
        error = np.where(got == expected, 0.0, np.abs(got - expected))
    error[np.isnan(error)] = np.inf
    wrong = error > allowed
    if not wrong.any():
        return []
    worst = np.argsort(error, axis=None)[::-1][: min(_SHOWN, int(wrong.sum()))]
    places = [tuple(int(i) for i in np.unravel_index(flat, error.shape)) for flat in worst]
    lines = [
        f"  {describe_grad(batch, *place)}: "
        + _versus(float(got[place]), float(expected[place]), allowed, against)
        for place in places
    ]
    what = f"{wrong.sum()} of {wrong.size} entries of the gradient are wrong"
    return [_message(batch, what, lines)]


def describe_loss(batch: Batch, n: int) -> str:
    """Return where a loss is, in words."""
    return (
        f"loss of {batch.label(n)}, {batch.logit_lengths[n]} frames, "
        f"{batch.label_lengths[n]} labels"
    )


def describe_grad(batch: Batch, n: int, t: int, k: int) -> str:
    """Return where an entry of the gradient is, in words."""
    notes = []
    if k == batch.blank:
        notes.append("the blank")
    elif k in batch.labels[n, : batch.label_lengths[n]]:
        notes.append("a label")
    if t >= batch.logit_lengths[n]:
        notes.append(f"past the length {batch.logit_lengths[n]}")
    note = f" ({', '.join(notes)})" if notes else ""
    return f"gradient of {batch.label(n)} at frame {t}, class {k}{note}"


def _versus(got: float, expected: float, allowed: float, against: str) -> str:
    numbers = f"got {got!r}, {against} {expected!r}"
    if not (np.isfinite(got) and np.isfinite(expected)):
        return numbers
    return f"{numbers}, off by {abs(got - expected):.3g}, allowed {allowed:.3g}"


def _message(batch: Batch, what: str, lines: list[str]) -> str:
    return "\n".join([f"case {batch.name!r}: {what}", *lines, f"  what it is about: {batch.why}"])
