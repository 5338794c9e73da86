"""The ``torch.nn.Module``; importing this imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from ctcx.compat.torch import ctc_loss

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CTCLoss"]


class CTCLoss(nn.Module):  # type: ignore[misc] # torch is skipped by mypy
    """``torch.nn.CTCLoss``, computed by :func:`ctcx.compat.torch.ctc_loss`.

    Parameters
    ----------
    blank : int
        Class of the blank.
    reduction : {"mean", "sum", "none"}
        As for :func:`ctcx.compat.torch.ctc_loss`.
    zero_infinity : bool
        Whether sequences whose labels no path emits count as 0 instead of +inf.
    """

    def __init__(
        self,
        blank: int = 0,
        reduction: Literal["none", "mean", "sum"] = "mean",
        zero_infinity: bool = False,  # noqa: FBT001, FBT002 - torch's signature
    ) -> None:
        super().__init__()
        self.blank = blank
        self.reduction = reduction
        self.zero_infinity = zero_infinity

    def forward(
        self,
        log_probs: Any,
        targets: Any,
        input_lengths: Any | Sequence[int],
        target_lengths: Any | Sequence[int],
    ) -> Any:
        """Compute the loss; arguments as for :func:`ctcx.compat.torch.ctc_loss`."""
        return ctc_loss(
            log_probs,
            targets,
            input_lengths,
            target_lengths,
            self.blank,
            self.reduction,
            self.zero_infinity,
        )

    def extra_repr(self) -> str:
        """Options, for ``repr``."""
        return (
            f"blank={self.blank}, reduction={self.reduction!r}, zero_infinity={self.zero_infinity}"
        )
