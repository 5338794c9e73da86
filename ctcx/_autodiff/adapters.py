"""Whether a library has to know of a call, and which module tells it."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ctcx._descriptors import Operation
    from ctcx._prepare import Prepared
    from ctcx._typing import Array

__all__ = ["Adapter", "Compute", "adapter_for"]


class Compute(Protocol):
    """Checks values, selects a backend and calls its kernel."""

    def __call__(self, operation: Operation, prepared: Prepared) -> Any:
        """Return what the kernel returns."""
        ...


class Adapter(Protocol):
    """Lets a library see a computation as one operation."""

    def __call__(self, operation: Operation, prepared: Prepared, compute: Compute) -> Any:
        """Return what ``compute(operation, prepared)`` returns, known to the library."""
        ...


def adapter_for(prepared: Prepared, *, differentiate: bool) -> Adapter | None:
    """Give the adapter of the library, or None where it need not know.

    ``differentiate`` says that the caller may expect the result to be differentiable.
    """
    arrays = (
        prepared.logits,
        prepared.labels,
        prepared.logit_lengths,
        prepared.label_lengths,
    )
    namespace = prepared.facts.namespace
    if namespace == "torch" and _torch_asks(*arrays, differentiate=differentiate):
        return _adapter("torch_function")
    if namespace == "jax.numpy" and prepared.facts.traced:
        return _adapter("jax_rules")
    return None


def _adapter(module: str) -> Adapter:
    adapter: Adapter = import_module(f"ctcx._autodiff.{module}").run
    return adapter


def _torch_asks(logits: Array, *others: Array, differentiate: bool) -> bool:
    """Whether autograd would record this call, or a torch.func transformation sees it."""
    torch: Any = sys.modules["torch"]
    if differentiate and logits.requires_grad and torch.is_grad_enabled():
        return True
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor  # noqa: SLF001 - no public way
    return any(map(wrapped, (logits, *others)))
