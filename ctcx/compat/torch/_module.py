"""The ``torch.nn.Module``; importing this imports torch."""

from torch import Tensor, jit, nn, ops

from ctcx.compat.torch import _operators  # noqa: F401 - which defines the operator
from ctcx.compat.torch._functional import ctc_loss

__all__ = ["CTCLoss"]


class CTCLoss(nn.CTCLoss):  # type: ignore[misc] # torch is skipped by mypy
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

    def forward(
        self,
        log_probs: Tensor,
        targets: Tensor,
        input_lengths: Tensor,
        target_lengths: Tensor,
    ) -> Tensor:
        """Compute the loss; arguments as for :func:`ctcx.compat.torch.ctc_loss`."""
        if jit.is_scripting():  # TorchScript compiles this branch only, and knows operators alone
            return ops.ctcx.torch_ctc_loss(
                log_probs,
                targets,
                input_lengths,
                target_lengths,
                self.blank,
                self.reduction,
                self.zero_infinity,
            )
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
