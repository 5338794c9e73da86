"""The linear layer with its loss for PyTorch: a module, and calls under ``torch.compile``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from ctcx._api.linear import linear_loss
from ctcx._arrays.tensor_forms import never_recorded
from ctcx._inputs.labels import resolve_blank
from ctcx._inputs.linear import check_chunk
from ctcx._inputs.options import Infeasible, Options, ReductionName, check_options

if TYPE_CHECKING:
    from ctcx._typing import Array

__all__ = ["LinearCTCLoss"]


class LinearCTCLoss(nn.Linear):  # type: ignore[misc] # torch is skipped by mypy
    """A last linear layer and the CTC loss of its output, in one module.

    It has the parameters and the state of ``torch.nn.Linear(in_features, num_classes)``, so that
    one can be loaded into the other. Calling it gives the loss, in the memory of
    :func:`ctcx.linear_ctc_loss_and_grad`; the gradients are computed in the backward pass.
    :meth:`logits` is the layer itself, for decoding.

    Parameters
    ----------
    in_features : int
        D, the size of a hidden state.
    num_classes : int
        C, the blank among them.
    bias : bool
        Whether the layer has a bias.
    blank, time_major, reduction, infeasible, backend, validate, chunk
        As for :func:`ctcx.linear_ctc_loss_and_grad`, but for the reduction's default.
    device, dtype
        Of the parameters, as for ``torch.nn.Linear``.

    Raises
    ------
    CTCInputError
        An option is none of its choices.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        bias: bool = True,  # noqa: FBT001, FBT002 - as torch.nn.Linear has it
        *,
        blank: int = 0,
        time_major: bool = False,
        reduction: ReductionName = "mean",
        infeasible: Infeasible = "inf",
        backend: str | None = None,
        validate: bool = True,
        chunk: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        options = Options(time_major, reduction, infeasible, backend, validate)
        check_options(options)
        check_chunk(chunk)
        resolve_blank(blank, num_classes)
        super().__init__(in_features, num_classes, bias, device=device, dtype=dtype)
        self.blank, self.options, self.chunk = blank, options, chunk

    def forward(
        self,
        hidden: Array,
        labels: Any,
        logit_lengths: Any = None,
        label_lengths: Any = None,
    ) -> Array:
        """Compute the loss; arguments as for :func:`ctcx.linear_ctc_loss_and_grad`."""
        return _loss(
            (hidden, self.weight, self.bias, labels, logit_lengths, label_lengths),
            self.blank,
            self.options,
            self.chunk,
        )

    def logits(self, hidden: Array) -> Array:
        """Output of the layer, (..., C)."""
        return super().forward(hidden)

    def extra_repr(self) -> str:
        """Options, for ``repr``."""
        options = {"blank": self.blank, **self.options._asdict(), "chunk": self.chunk}
        return ", ".join(
            (super().extra_repr(), *(f"{name}={value!r}" for name, value in options.items()))
        )


# A compiler would unroll the blocks of classes and the recursion over frames.
_loss = never_recorded(linear_loss)
