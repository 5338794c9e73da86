"""How far from the right answer a result may be, in each dtype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


__all__ = ["PRINTED", "TOLERANCES", "Tolerance"]


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

    def __str__(self) -> str:
        loss = f"loss within {self.loss_rel:g} relative"
        if self.loss_abs:
            loss += f" plus {self.loss_abs:g} nats a frame (16 frames at least)"
        return f"{loss}, gradient within {self.grad:g}"

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

PRINTED = Tolerance(loss_rel=1e-6, loss_abs=0.0, grad=1e-6, grad_very_long=1e-6, row_sum=1e-6)
"""Beside numbers that were printed with 7 or 8 digits, for a few frames in float32."""
