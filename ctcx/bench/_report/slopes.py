"""The exponent of a growth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Slope", "fit"]

_FEWEST = 3


@dataclass(frozen=True, slots=True)
class Slope:
    """``time = factor * size ** exponent``, and the exponent's standard error."""

    exponent: float
    error: float
    factor: float

    def __str__(self) -> str:
        return f"{self.exponent:.2f} ± {self.error:.2f}"


def fit(sizes: Sequence[float], times: Sequence[float]) -> Slope | None:
    """Fit a straight line to the logarithms by least squares; None for fewer than three points."""
    if len(sizes) < _FEWEST:
        return None
    x, y = np.log(np.asarray(sizes, dtype=float)), np.log(np.asarray(times, dtype=float))
    spread = float(((x - x.mean()) ** 2).sum())
    exponent = float(((x - x.mean()) * (y - y.mean())).sum()) / spread
    offset = float(y.mean() - exponent * x.mean())
    residual = float(((y - offset - exponent * x) ** 2).sum())
    error = (residual / (len(x) - 2) / spread) ** 0.5
    return Slope(exponent, error, float(np.exp(offset)))
