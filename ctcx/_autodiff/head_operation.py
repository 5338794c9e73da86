"""A linear layer with its loss as one operation, which PyTorch and JAX can differentiate once."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ctcx._core.kernels import run
from ctcx._core.linear_head import Constants, gradients, reduced_problem
from ctcx._inputs.linear import HeadInputs, check_head_values, check_logits
from ctcx._inputs.prepare import rebind

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctcx._typing import Array

__all__ = ["HeadOperation"]


class HeadOperation(NamedTuple):
    """A call without its arrays: hidden, weight, bias, labels, logit lengths and label lengths."""

    facts_only: HeadInputs
    """The inputs without arrays."""
    constants: Constants
    """Of the kernels."""
    loss_and_grad: Callable[[Array, Array, Array, Array], tuple[Array, Array]]
    """Computes losses (N,) and gradient (N, T, K) of the problem with few classes; its class 0 is
    the blank."""
    validate: bool
    """Whether to check values, where they can be read."""

    def forward(self, *arrays: Array) -> tuple[Array, ...]:
        """Losses (N,), and what :meth:`backward` needs: three arrays without an axis of classes."""
        hidden, weight, bias, *rest = arrays
        call = rebind(self.facts_only.call, hidden, *rest)
        head = self.facts_only._replace(call=call, weight=weight, bias=bias)
        check = self.validate and not head.traced
        if check:
            check_head_values(head)
        logits, labels, peak, total = run(reduced_problem, arrays, self.constants)
        if check:
            check_logits(call, logits, total, str(logits.dtype).rpartition(".")[2])
        loss, slopes = self.loss_and_grad(logits, labels, *rest[1:])
        return loss, slopes, peak, total

    def backward(
        self, above: Array, arrays: tuple[Array, ...], kept: tuple[Array, ...]
    ) -> tuple[Array, ...]:
        """Gradients by hidden states, weight and bias.

        ``above`` (N,) are derivatives with respect to the losses, which for an infinite loss must
        be 0. ``kept`` is what :meth:`forward` returned beside them.
        """
        slopes, peak, total = kept
        slopes = slopes * above[:, None, None]
        found: tuple[Array, ...] = run(gradients, (*arrays, peak, total, slopes), self.constants)
        return found
