"""Whether a library has to know of a call, and which module tells it."""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from ctcx._arrays.facts import any_traced
from ctcx._arrays.jax_types import has_jax_types
from ctcx._arrays.tensor_forms import FUNCTIONAL, TRANSFORMED

if TYPE_CHECKING:
    from ctcx._arrays.tensor_forms import Form
    from ctcx._autodiff.operation import CallOperation
    from ctcx._reduction import Reduction
    from ctcx._typing import Array

__all__ = ["Adapter", "adapter_for"]


class Adapter(Protocol):
    """Lets a library see a computation as one operation, which it can differentiate."""

    def loss(self, unit: CallOperation, reduction: Reduction, *arrays: Array) -> Array:
        """Return what ``reduction`` makes of ``unit("loss", *arrays)``, known to the library."""
        ...

    def loss_and_grad(self, unit: CallOperation, *arrays: Array) -> tuple[Array, Array]:
        """Return what ``unit("loss_and_grad", *arrays)`` does, known to the library."""
        ...

    def second(self, blank: int, vector: Array, grad: Array, *arrays: Array) -> Array:
        """Return what :func:`ctcx._autodiff.operation.hessian_times` does, known to the library."""
        ...


def adapter_for(
    namespace: str, form: Form, arrays: tuple[Array, ...], *, differentiate: bool
) -> Adapter | None:
    """Give the adapter of the library, or None where it need not know.

    ``arrays`` are all of the call, ``form`` what :mod:`ctcx._arrays.tensor_forms` says of them.
    ``differentiate`` says that the caller may expect the result to be differentiable with respect
    to the first.
    """
    if namespace == "numpy":
        return None
    if namespace == "torch" and _torch_asks(form, arrays[0], differentiate=differentiate):
        return _adapter("torch_function")
    if namespace == "jax.numpy" and (any_traced(*arrays) or has_jax_types(*arrays)):
        return _adapter("jax_rules")
    if namespace == "mlx.core" and (differentiate or _is_recorded_by_mlx(arrays[0])):
        return _adapter("mlx_rules")
    return None


def _is_recorded_by_mlx(logits: Array) -> bool:
    from ctcx._arrays.mlx import is_recorded

    return is_recorded(logits)


@lru_cache(maxsize=8)
def _adapter(module: str) -> Adapter:
    return cast("Adapter", import_module(f"ctcx._autodiff.{module}"))


def _torch_asks(form: Form, logits: Array, *, differentiate: bool) -> bool:
    """Whether autograd would record this call, or a torch.func transformation sees it."""
    if form & FUNCTIONAL:  # the operators tell PyTorch; it can't functionalize a Function
        return False
    if form & TRANSFORMED:
        return True
    torch: Any = sys.modules["torch"]
    if not differentiate:
        return False
    if logits.requires_grad and torch.is_grad_enabled():
        return True
    return torch.autograd.forward_ad.unpack_dual(logits).tangent is not None
