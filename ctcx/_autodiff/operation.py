"""The unit that a library sees: from arrays in the kernels' form to losses and derivatives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ctcx._errors import BackendError
from ctcx._inputs.prepare import rebind
from ctcx._plugins.backend import Decline

if TYPE_CHECKING:
    from ctcx._inputs.prepare import KernelInputs
    from ctcx._typing import Array, ArrayModule

__all__ = ["CallOperation", "Compute", "hessian_times"]


class Compute(Protocol):
    """Checks values, selects a backend and calls its kernel."""

    def __call__(self, operation: str, prepared: KernelInputs) -> Any:
        """Return what the kernel returns."""
        ...


class CallOperation(NamedTuple):
    """A call without its arrays: logits, labels, logit lengths and label lengths.

    It holds no array because those of one transformation are not those of another: a library passes
    tracers, what they stand for, or a batch of batches.
    """

    facts_only: KernelInputs
    compute: Compute

    @classmethod
    def of(cls, prepared: KernelInputs, compute: Compute) -> CallOperation:
        """Of a call that was prepared."""
        return cls(
            prepared._replace(logits=None, labels=None, logit_lengths=None, label_lengths=None),
            compute,
        )

    @property
    def blank(self) -> int:
        """Class of the blank."""
        return self.facts_only.blank

    @property
    def xp(self) -> ArrayModule:
        """Namespace of the arrays."""
        return self.facts_only.facts.xp

    def __call__(self, operation: str, *arrays: Array) -> Any:
        """Loss (N,), or loss and gradient (N, T, C), from the backend that is selected."""
        return self.compute(operation, rebind(self.facts_only, *arrays))

    def as_called(
        self,
        operation: str,
        logits: Array,
        labels: Array,
        logit_lengths: Array,
        label_lengths: Array,
    ) -> Any:
        """Do the same for the very arrays of the call, or what differs in what is recorded only."""
        whole = self.facts_only._replace(
            logits=logits,
            labels=labels,
            logit_lengths=logit_lengths,
            label_lengths=label_lengths,
        )
        return self.compute(operation, whole)


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

    Raises
    ------
    BackendError
        The core can't take logits of this size.
    """
    from ctcx._core.hessian import hessian_vector_product

    try:
        return hessian_vector_product(
            logits, labels, logit_lengths, label_lengths, grad, vector, blank=blank
        )
    except Decline as decline:
        msg = f"the core can't compute second derivatives of this call: {decline}"
        raise BackendError(msg) from decline
