"""Whether a library has to know of a call, and which module tells it."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from ctcx._arrays import any_traced

if TYPE_CHECKING:
    from ctcx._autodiff.unit import Unit
    from ctcx._reduction import Reduction
    from ctcx._typing import Array

__all__ = ["Adapter", "adapter_for", "is_torch_compiling", "is_torch_func"]


class Adapter(Protocol):
    """Lets a library see a computation as one operation, which it can differentiate."""

    def loss(self, unit: Unit, reduction: Reduction, *arrays: Array) -> Array:
        """Return what ``reduction`` makes of ``unit("loss", *arrays)``, known to the library."""
        ...

    def loss_and_grad(self, unit: Unit, *arrays: Array) -> tuple[Array, Array]:
        """Return what ``unit("loss_and_grad", *arrays)`` does, known to the library."""
        ...

    def second(self, blank: int, vector: Array, grad: Array, *arrays: Array) -> Array:
        """Return what :func:`ctcx._autodiff.unit.hessian_times` does, known to the library."""
        ...


def adapter_for(namespace: str, *arrays: Array, differentiate: bool) -> Adapter | None:
    """Give the adapter of the library, or None where it need not know.

    ``arrays`` are all of the call. ``differentiate`` says that the caller may expect the result to
    be differentiable with respect to the first.
    """
    if namespace == "torch" and _torch_asks(*arrays, differentiate=differentiate):
        return _adapter("torch_function")
    if namespace == "jax.numpy" and any_traced(*arrays):
        return _adapter("jax_rules")
    return None


def is_torch_compiling() -> bool:
    """Whether ``torch.compile`` or ``torch.export`` is tracing this code."""
    torch: Any = sys.modules.get("torch")
    return torch is not None and torch.compiler.is_compiling()


def _adapter(module: str) -> Adapter:
    return cast("Adapter", import_module(f"ctcx._autodiff.{module}"))


def _torch_asks(first: Array, *others: Array, differentiate: bool) -> bool:
    """Whether autograd would record this call, or a torch.func transformation sees it."""
    torch: Any = sys.modules["torch"]
    if differentiate and first.requires_grad and torch.is_grad_enabled():
        return True
    if differentiate and torch.autograd.forward_ad.unpack_dual(first).tangent is not None:
        return True
    return is_torch_func(first, *others)


def is_torch_func(*arrays: Array) -> bool:
    """Whether a torch.func transformation, as vmap, sees one of these tensors."""
    torch: Any = sys.modules["torch"]
    return any(map(torch._C._functorch.is_functorch_wrapped_tensor, arrays))  # noqa: SLF001
