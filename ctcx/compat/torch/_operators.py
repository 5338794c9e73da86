"""``ctcx.compat.torch.ctc_loss`` for what records operators; importing this imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ctcx._api.torch_operators import assembled_loss, constants, define_whole
from ctcx._inputs.options import Options
from ctcx.compat.torch._functional import REDUCTIONS, ctc_loss

if TYPE_CHECKING:
    from ctcx._typing import Array

__all__ = ["assembled", "recorded"]

_call = define_whole(
    "torch_ctc_loss",
    "(Tensor log_probs, Tensor targets, Tensor input_lengths, Tensor target_lengths, int blank, "
    "str reduction, bool zero_infinity) -> Tensor",
    ctc_loss,
)


def recorded(
    log_probs: Array,
    targets: Array,
    input_lengths: Any,
    target_lengths: Any,
    blank: int,
    reduction: str,
    zero_infinity: bool,  # noqa: FBT001 - torch's signature
) -> Array:
    """Do the same in operations that ``torch.compile`` or ``torch.jit.trace`` can record."""
    arrays = (log_probs, targets, input_lengths, target_lengths)
    if torch.compiler.is_compiling():
        return assembled(*arrays, blank, reduction, zero_infinity)
    return _call(log_probs, *constants(*arrays), blank, reduction, zero_infinity)


def assembled(
    log_probs: Array,
    targets: Array,
    input_lengths: Any,
    target_lengths: Any,
    blank: int,
    reduction: str,
    zero_infinity: bool,  # noqa: FBT001 - torch's signature
) -> Array:
    """Do the same without a look at a value, in plain PyTorch around the operator of a kernel."""
    single = log_probs.ndim == 2
    infeasible = "zero" if zero_infinity else "inf"
    options = Options(not single, REDUCTIONS[reduction], infeasible, None, True)
    concatenated = not single and targets.ndim == 1
    # PyTorch looks at the number of elements alone.
    frames, counts = (
        x.reshape(-1) if hasattr(x, "reshape") else x for x in (input_lengths, target_lengths)
    )
    arrays = (log_probs, targets, frames, counts)
    return assembled_loss(*arrays, blank, options, concatenated=concatenated)
