"""A call without its arrays, as the libraries that differentiate it see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ctcx._arrays.tensor_forms import OPAQUE, never_recorded
from ctcx._dispatch.compute import compute_losses
from ctcx._errors import BackendError
from ctcx._inputs.prepare import of_arrays, rebind
from ctcx._plugins.backend import Decline
from ctcx._reduction import weighted

if TYPE_CHECKING:
    from ctcx._inputs.options import Options
    from ctcx._inputs.prepare import KernelInputs
    from ctcx._typing import Array, ArrayModule

__all__ = ["CallOperation", "hessian_times", "kernel_losses"]


def kernel_losses(
    operation: str, prepared: KernelInputs, options: Options, weights: Array | None = None
) -> Any:
    """Compute losses (N,), or losses and gradient (N, T, C), on the way that the arrays need.

    Tensors that kernels can't read go through an operator to PyTorch's dispatcher. The gradient of
    each sequence is multiplied by its weight (N,), if there are any.
    """
    if prepared.facts.form & OPAQUE:
        from ctcx._autodiff import torch_kernels

        result = torch_kernels.dispatched(operation, options, prepared)
        if weights is None:
            return result
        loss, grad = result
        return loss, weighted(prepared.facts.xp, grad, weights)
    return compute_losses(operation, prepared, options, weights)


class CallOperation(NamedTuple):
    """A call without its arrays: logits, labels, logit lengths and label lengths.

    It holds no array because those of one transformation are not those of another: a library passes
    tracers, what they stand for, or a batch of batches.
    """

    facts_only: KernelInputs
    options: Options

    @classmethod
    def of(cls, prepared: KernelInputs, options: Options) -> CallOperation:
        """Of a call that was prepared."""
        return cls(of_arrays(prepared, None, None, None, None), options)

    @property
    def blank(self) -> int:
        """Class of the blank."""
        return self.facts_only.blank

    @property
    def xp(self) -> ArrayModule:
        """Namespace of the arrays."""
        return self.facts_only.facts.xp

    @never_recorded
    def __call__(self, operation: str, *arrays: Array, weights: Array | None = None) -> Any:
        """Loss (N,), or loss and gradient (N, T, C), from the backend that is selected."""
        return kernel_losses(operation, rebind(self.facts_only, *arrays), self.options, weights)

    def as_called(self, operation: str, *arrays: Array, weights: Array | None = None) -> Any:
        """Do the same for the arrays of the call itself, about which all facts are known."""
        return kernel_losses(operation, of_arrays(self.facts_only, *arrays), self.options, weights)


@never_recorded
def hessian_times(
    blank: int,
    vector: Array,
    grad: Array,
    logits: Array,
    labels: Array,
    logit_lengths: Array,
    label_lengths: Array,
) -> Array:
    """Second derivatives times ``vector``, (N, T, C), from the core, whoever computed ``grad``.

    Raises BackendError: the core can't take logits of this size.
    """
    from ctcx._core.hessian import hessian_vector_product

    try:
        return hessian_vector_product(
            logits, labels, logit_lengths, label_lengths, grad, vector, blank=blank
        )
    except Decline as decline:
        msg = f"the core can't compute second derivatives of this call: {decline}"
        raise BackendError(msg) from decline
