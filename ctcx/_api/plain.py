"""Losses and gradients of plain calls by a backend's shortcut, in place of :mod:`ctcx._api.call`.

A call is plain if none of its arrays needs a conversion. Each function returns None for all other
calls, and where no shortcut takes a call: then it goes the usual way, with the same result.
"""

from __future__ import annotations

import sys
from functools import cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from ctcx._arrays.facts import device_of, kernel_integers, namespace_of
from ctcx._arrays.tensor_forms import are_plain, never_recorded
from ctcx._autodiff.operation import CallOperation
from ctcx._dispatch.shortcut import by_shortcut
from ctcx._inputs.options import check_options
from ctcx._inputs.prepare import prepare
from ctcx._reduction import Reduction

if TYPE_CHECKING:
    from types import ModuleType

    from ctcx._inputs.options import Options
    from ctcx._typing import Array

__all__ = ["plain_loss", "plain_loss_and_grad"]

_Arrays = tuple[Any, Any, Any, Any]

_REDUCTIONS = {
    (kind, zero): Reduction(kind, zero, single=False)
    for kind in ("none", "sum", "mean", "mean_per_label")
    for zero in (False, True)
}
_AS_IT_IS = _REDUCTIONS["none", False]
_UNWEIGHTED = ("none", "sum")


def plain_loss(arrays: _Arrays, blank: Any, options: Options) -> Array | None:
    """Return what :func:`ctcx.ctc_loss` does, or None."""
    recorded = _is_recorded(arrays[0])
    plain = _as_plain(arrays, options, with_lengths=recorded)
    if plain is None:
        return None
    how = _REDUCTIONS[options.reduction, options.infeasible == "zero"]
    if not recorded:
        losses = by_shortcut("loss", plain, blank, options)
        if losses is None:
            return None
        return losses if how is _AS_IT_IS else _reduced(how, losses, plain)
    weights = None if how.kind in _UNWEIGHTED else _weights(how, plain)
    found = by_shortcut("loss_and_grad", plain, blank, options, weights)
    if found is None:
        return None
    call = partial(_operation, blank, options)
    loss: Array = _torch_function().loss_of_found(call, how, found, plain)
    return loss


def plain_loss_and_grad(
    arrays: _Arrays, blank: Any, options: Options
) -> tuple[Array, Array, Array] | None:
    """Return what :func:`ctcx.ctc_loss_and_grad` does, or None: loss, gradient, feasible."""
    if _is_recorded(arrays[0]):  # then the gradient can be differentiated, too
        return None
    plain = _as_plain(arrays, options)
    if plain is None:
        return None
    how = _REDUCTIONS[options.reduction, options.infeasible == "zero"]
    weights = None if how.kind in _UNWEIGHTED else _weights(how, plain)
    found = by_shortcut("loss_and_grad", plain, blank, options, weights)
    if found is None:
        return None
    losses, grad = found
    if options.time_major:
        grad = grad.swapaxes(0, 1)
    # None is NaN. NumPy compares with a number in half as much time again.
    feasible = np.isfinite(losses) if type(losses) is np.ndarray else losses != np.inf
    return losses if how is _AS_IT_IS else _reduced(how, losses, plain), grad, feasible


@cache
def _torch_function() -> ModuleType:
    return import_module("ctcx._autodiff.torch_function")  # an import statement takes longer


def _is_recorded(logits: Any) -> bool:
    """Whether PyTorch records what becomes of logits."""
    if type(logits) is np.ndarray:
        return False
    torch: Any = sys.modules.get("torch")
    # Its own tensors only: objects of any class may have such an attribute.
    return (
        torch is not None
        and type(logits) is torch.Tensor
        and logits.requires_grad
        and torch.is_grad_enabled()
    )


def _as_plain(arrays: _Arrays, options: Options, *, with_lengths: bool = False) -> _Arrays | None:
    """Return the arrays of a plain call, batch first, with lengths if its reduction needs them."""
    logits, labels, *_ = arrays
    if type(logits) is np.ndarray:
        for array in arrays:  # all() takes twice as long
            if type(array) is not np.ndarray and array is not None:
                return None
    elif logits is None or not are_plain(arrays):
        return None
    if logits.ndim != 3 or labels is None or labels.ndim != 2 or options.validate is not True:
        return None
    check_options(options)
    if options.time_major:
        arrays = logits.swapaxes(0, 1), *arrays[1:]
    lacks = with_lengths and (arrays[2] is None or arrays[3] is None)
    if lacks or options.reduction not in _UNWEIGHTED:
        return _with_lengths(*arrays)
    return arrays


def _with_lengths(
    logits: Any, labels: Any, logit_lengths: Any, label_lengths: Any
) -> _Arrays | None:
    """Fill in lengths that were not given; None if those of the labels are unusual."""
    xp, (count, frames, _) = namespace_of(logits), logits.shape
    if logit_lengths is None:
        logit_lengths = xp.full((count,), frames, dtype=xp.int64, device=device_of(logits))
    if label_lengths is None:
        width = labels.shape[1]
        label_lengths = xp.full((count,), width, dtype=xp.int64, device=device_of(logits))
    elif label_lengths.shape != (count,) or label_lengths.dtype not in kernel_integers(xp):
        return None
    return logits, labels, logit_lengths, label_lengths


def _weights(how: Reduction, arrays: _Arrays) -> Array | None:
    """Give the derivatives of the result with respect to the losses (N,)."""
    logits, *_, label_lengths = arrays
    xp = namespace_of(logits)
    wide = xp.float64 if logits.dtype == xp.float64 else xp.float32
    return how.weights(xp, label_lengths, wide)


def _reduced(how: Reduction, losses: Array, arrays: _Arrays) -> Array:
    xp = namespace_of(losses)
    return how.value(xp, losses, how.divisor(xp, arrays[3], losses.dtype))


@never_recorded  # compiled autograd would look into it
def _operation(
    blank: int,
    options: Options,
    logits: Array,
    labels: Array,
    logit_lengths: Array,
    label_lengths: Array,
) -> CallOperation:
    """Prepare a call that a shortcut took, for derivatives that are rarely asked for."""
    options = options._replace(time_major=False)  # the arrays are batch first
    arrays = logits, labels, logit_lengths, label_lengths
    return CallOperation.of(prepare(*arrays, blank, time_major=False), options)
