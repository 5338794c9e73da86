"""From a public function to a kernel and back, for losses and gradients: read this page first.

Each function of :mod:`ctcx._api.loss` hands its arguments to :func:`run`. The other operations
(alignment, occupancies, decoding) take the same steps but for the derivative and the reduction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ctcx._arrays.tensor_forms import FUNCTIONAL, SUBCLASS
from ctcx._autodiff.adapters import adapter_for
from ctcx._autodiff.operation import CallOperation, kernel_losses
from ctcx._inputs.options import check_options
from ctcx._inputs.prepare import of_arrays, prepare
from ctcx._operations import OPERATIONS
from ctcx._reduction import PLAIN, Reduction, weighted

if TYPE_CHECKING:
    from ctcx._inputs.options import Options
    from ctcx._inputs.prepare import KernelInputs
    from ctcx._typing import Array

__all__ = [
    "as_asked",
    "as_constants",
    "is_feasible",
    "of_class",
    "reduce_losses",
    "reduction_of",
    "run",
    "weights_of",
]


def run(
    operation: str,
    logits: Any,
    labels: Any,
    logit_lengths: Any,
    label_lengths: Any,
    blank: int,
    options: Options,
    *,
    differentiable: bool = False,
    of_reduced: bool = False,
) -> tuple[KernelInputs, Any]:
    """Prepare, check and compute: the reduced loss; or losses and gradient, which are not.

    ``differentiable``: the caller goes on to differentiate these, too, by means of its library.
    ``of_reduced``: the gradient is that of the reduced loss nonetheless.
    """
    # 1. Static facts: options, shapes, dtypes, libraries, devices.
    check_options(options)
    prepared = prepare(
        logits, labels, logit_lengths, label_lengths, blank, time_major=options.time_major
    )
    # 2. Does PyTorch or JAX have to see this call as one operation?
    what = OPERATIONS[operation]
    differentiable = differentiable or what.differentiable
    facts = prepared.facts
    arrays = prepared[:4]
    adapter = adapter_for(facts.namespace, facts.form, arrays, differentiate=differentiable)
    # Under functionalize the operators tell PyTorch about the derivative.
    if not differentiable or (adapter is None and not facts.form & FUNCTIONAL):
        prepared = _detached(prepared)
        arrays = prepared[:4]
    # 3. Check values, select a backend, call its kernel (ctcx/_dispatch/compute.py), and reduce.
    if adapter is None:
        weights = weights_of(prepared, options) if of_reduced else None
        result = kernel_losses(operation, prepared, options, weights)
        if what.reduced:
            result = reduce_losses(prepared, reduction_of(prepared, options), result)
    elif what.reduced:
        unit = CallOperation.of(prepared, options)
        result = adapter.loss(unit, reduction_of(prepared, options), *arrays)
    else:
        loss, grad = adapter.loss_and_grad(CallOperation.of(prepared, options), *arrays)
        if of_reduced and (weights := weights_of(prepared, options)) is not None:
            grad = weighted(facts.xp, grad, weights)
        result = loss, grad
    if facts.form & SUBCLASS:  # as PyTorch's own operations return it
        result = of_class(type(logits), result)
    return prepared, result


def _detached(prepared: KernelInputs) -> KernelInputs:
    """Let PyTorch record nothing: its tensors may require a gradient nonetheless."""
    if prepared.facts.namespace != "torch":
        return prepared
    return of_arrays(prepared, prepared.logits.detach())


def of_class(kind: type, result: Any) -> Any:
    """Give results of plain tensors the class of the caller's."""
    if isinstance(result, tuple):
        return tuple(part.as_subclass(kind) for part in result)
    return result.as_subclass(kind)


def reduction_of(prepared: KernelInputs, options: Options) -> Reduction:
    """Return how losses (N,) become the result of this call."""
    return Reduction(options.reduction, options.infeasible == "zero", prepared.single)


def weights_of(prepared: KernelInputs, options: Options) -> Array | None:
    """Give the derivatives of the result with respect to the losses (N,); None if they are 1."""
    if options.reduction in ("none", "sum"):
        return None
    xp = prepared.facts.xp
    wide = xp.float64 if prepared.facts.dtype == "float64" else xp.float32
    return reduction_of(prepared, options).weights(xp, prepared.label_lengths, wide)


def reduce_losses(prepared: KernelInputs, reduction: Reduction, loss: Array) -> Array:
    """Reduce losses (N,)."""
    if reduction == PLAIN:
        return loss
    if prepared.facts.namespace == "jax.numpy":  # one compiled call for several operations
        from ctcx._autodiff.jax_rules import reduced

        return reduced(reduction, loss, prepared.label_lengths)
    xp = prepared.facts.xp
    return reduction.value(xp, loss, reduction.divisor(xp, prepared.label_lengths, loss.dtype))


_INFINITY = np.asarray(np.inf, dtype=np.float32)


def is_feasible(loss: Array) -> Array:
    """Tell of each loss (N,) whether any path emits the labels."""
    # NumPy takes twice as long to compare with a number of Python's.
    return loss != (_INFINITY if type(loss) is np.ndarray else float("inf"))


def as_constants(prepared: KernelInputs) -> KernelInputs:
    """Let no library differentiate through the logits."""
    namespace = prepared.facts.namespace
    if namespace == "torch":
        return prepared._replace(logits=prepared.logits.detach())
    if namespace == "jax.numpy":
        from ctcx._arrays.jax import as_constant

        return prepared._replace(logits=as_constant(prepared.logits))
    return prepared  # kernels for MLX compute from copies, which it knows nothing of


def as_asked(found: tuple[Array, ...], prepared: KernelInputs, logits: Any) -> tuple[Array, ...]:
    """Give results the class of the caller's logits, and drop N for one sequence."""
    if prepared.facts.form & SUBCLASS:
        found = of_class(type(logits), tuple(found))
    return tuple(array[0, ...] for array in found) if prepared.single else tuple(found)
