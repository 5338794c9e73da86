"""What PyTorch has to know to differentiate a linear layer with its loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from ctcx._arrays.tensor_forms import never_recorded

if TYPE_CHECKING:
    from ctcx._autodiff.head_operation import HeadOperation
    from ctcx._typing import Array

__all__ = ["backward", "forward"]


def forward(operation: HeadOperation, *arrays: Array) -> tuple[Array, ...]:
    """Call :meth:`HeadOperation.forward`; PyTorch can differentiate the losses once."""
    results: tuple[Array, ...] = _Forward.apply(operation, *arrays)
    return results


@never_recorded
def backward(
    operation: HeadOperation, above: Array, arrays: tuple[Any, ...], kept: tuple[Array, ...]
) -> tuple[Array, ...]:
    """Call :meth:`HeadOperation.backward` in the arrays' own precision, also under autocast."""
    with torch.autocast(above.device.type, enabled=False):
        return operation.backward(above, arrays, kept)


class _Forward(torch.autograd.Function):  # type: ignore[misc, unused-ignore]
    @staticmethod
    def forward(operation: HeadOperation, *arrays: Any) -> tuple[Array, ...]:
        """Compute, with nothing on the tape."""
        constants = (None if array is None else array.detach() for array in arrays)
        with torch.autocast(arrays[0].device.type, enabled=False):
            return operation.forward(*constants)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Array, ...]) -> None:
        """Keep the inputs and what is small."""
        operation, *arrays = inputs
        ctx.operation, ctx.count = operation, len(arrays)
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*arrays, *output)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, above: Array, *_: Array) -> tuple[Array | None, ...]:
        """Go over the blocks of classes for the second time."""
        arrays, (losses, *kept) = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        above = torch.where(losses == torch.inf, 0.0, above)
        found = backward(ctx.operation, above, arrays, tuple(kept))
        return None, *found, None, None, None
