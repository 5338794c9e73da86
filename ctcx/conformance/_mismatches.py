"""Compare a kernel's numbers with the truth, and say where they part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctcx.data.batch import Batch

__all__ = ["describe_grad", "describe_loss", "grad_faults", "loss_faults"]

_SHOWN = 3


def loss_faults(
    batch: Batch,
    got: NDArray[np.float64],
    expected: NDArray[np.float64],
    allowed: NDArray[np.float64],
    *,
    against: str = "expected",
    nan_expected: bool = False,
) -> list[str]:
    """Return a message for the losses (N,) that are wrong; an empty list if none is.

    With ``nan_expected``, NaN is right where NaN is expected.
    """
    same = _same(got, expected, nan_expected=nan_expected)
    with np.errstate(invalid="ignore"):
        wrong = ~((np.abs(got - expected) <= allowed) | same)
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
    nan_expected: bool = False,
) -> list[str]:
    """Return a message for the gradient's entries (N, T, C) that are wrong, the worst first.

    With ``nan_expected``, NaN is right where NaN is expected.
    """
    same = _same(got, expected, nan_expected=nan_expected)
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(got - expected))
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


def _same(
    got: NDArray[np.float64], expected: NDArray[np.float64], *, nan_expected: bool
) -> NDArray[np.bool_]:
    same: NDArray[np.bool_] = got == expected
    return same | (np.isnan(got) & np.isnan(expected)) if nan_expected else same


def _versus(got: float, expected: float, allowed: float, against: str) -> str:
    numbers = f"got {got!r}, {against} {expected!r}"
    if not (np.isfinite(got) and np.isfinite(expected)):
        return numbers
    return f"{numbers}, off by {abs(got - expected):.3g}, allowed {allowed:.3g}"


def _message(batch: Batch, what: str, lines: list[str]) -> str:
    return "\n".join([f"case {batch.name!r}: {what}", *lines, f"  what it is about: {batch.why}"])
