"""A linear layer, softmax and the loss in one, without the logits of all frames and classes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

from ctcx._api.call import reduce_losses, reduction_of
from ctcx._api.lazy import is_lazy
from ctcx._api.loss import ctc_loss_and_grad
from ctcx._arrays.facts import library_name
from ctcx._arrays.jax_types import has_jax_types
from ctcx._arrays.tensor_forms import UNREADABLE, form_of, never_recorded
from ctcx._autodiff.head_operation import HeadOperation
from ctcx._core.linear_head import Constants
from ctcx._errors import CTCInputError
from ctcx._inputs.linear import HeadInputs, check_chunk, prepare_head
from ctcx._inputs.options import Infeasible, Options, ReductionName, check_options
from ctcx._typing import ArrayT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctcx._typing import Array

__all__ = ["LinearLossAndGrad", "linear_ctc_loss_and_grad", "linear_loss"]

_ELEMENTS_ON_CPU = 2**21
_ELEMENTS = 2**24


class LinearLossAndGrad(NamedTuple, Generic[ArrayT]):
    """What :func:`ctcx.linear_ctc_loss_and_grad` returns.

    Attributes
    ----------
    loss
        (N,), or () where reduced or for one sequence; nats.
    hidden
        Gradient with respect to the hidden states, in their layout and dtype.
    weight
        Gradient with respect to the weight, (C, D), in its dtype.
    bias
        Gradient with respect to the bias, (C,), in its dtype; None without bias.
    feasible
        (N,) boolean, () for one sequence: whether any path emits the labels.
    """

    loss: ArrayT
    hidden: ArrayT
    weight: ArrayT
    bias: ArrayT | None
    feasible: Array


@never_recorded
def linear_ctc_loss_and_grad(
    hidden: ArrayT,
    weight: ArrayT,
    bias: ArrayT | None,
    labels: Array | Sequence[Sequence[int]],
    logit_lengths: Array | Sequence[int] | None = None,
    label_lengths: Array | Sequence[int] | None = None,
    *,
    blank: int = 0,
    time_major: bool = False,
    reduction: ReductionName = "none",
    infeasible: Infeasible = "inf",
    backend: str | None = None,
    validate: bool = True,
    chunk: int | None = None,
) -> LinearLossAndGrad[ArrayT]:
    r"""CTC loss of a linear layer's output, and its gradients, for any number of classes.

    The same as :func:`ctcx.ctc_loss_and_grad` of

    .. math:: x_t = W h_t + b

    and going back through the layer, in memory that doesn't grow with frames times classes: the
    logits (N, T, C) are computed in blocks of classes, twice, and none of them is kept. No
    approximation is made.

    PyTorch and JAX differentiate ``loss``, once and in reverse mode; the gradients are constants to
    them. :class:`ctcx.LinearCTCLoss` is the same as a module of PyTorch, which computes gradients
    in the backward pass alone.

    Parameters
    ----------
    hidden : array (N, T, D)
        Input of the layer. (T, N, D) with ``time_major=True``; (T, D) for one sequence. Finite in
        the frames of each sequence; later frames are ignored. Its library and
        device are those of the results.
    weight : array (C, D)
        A row for each class, as in ``torch.nn.Linear``. Finite.
    bias : array (C,) or None
        -inf masks a class. The dtypes of the three may differ: the computation is in float64 if any
        of them is, else in float32.
    labels, logit_lengths, label_lengths
        As for :func:`ctcx.ctc_loss`.
    blank, time_major, reduction, infeasible, validate
        As for :func:`ctcx.ctc_loss`.
    backend
        As for :func:`ctcx.ctc_loss`: it computes the recursion over frames, from logits of the
        blank, of the labels, and of all other classes together.
    chunk : int, optional
        Classes in a block, whose logits (N, T, chunk) stand in memory two or three times. By
        default a block has 2 million logits on a CPU, so that its caches hold a part of them, and
        16 million elsewhere, where each operation is a launch. Results differ in rounding only.

    Returns
    -------
    LinearLossAndGrad
        The gradients are those of the reduced loss, of the sum for ``reduction="none"``.

    Raises
    ------
    CTCInputError, InfeasibleError, BackendError
        As for :func:`ctcx.ctc_loss`.

    Examples
    --------
    >>> import numpy as np, ctcx
    >>> rng = np.random.default_rng(0)
    >>> hidden, weight, bias = (rng.standard_normal(s) for s in ((1, 50, 8), (5000, 8), (5000,)))
    >>> result = ctcx.linear_ctc_loss_and_grad(hidden, weight, bias, [[31, 4159, 26]])
    >>> result.hidden.shape, result.weight.shape, result.bias.shape
    ((1, 50, 8), (5000, 8), (5000,))
    >>> loss = ctcx.ctc_loss(hidden @ weight.T + bias, [[31, 4159, 26]])
    >>> bool(np.allclose(result.loss, loss))
    True
    """
    options = Options(time_major, reduction, infeasible, backend, validate)
    arrays = (hidden, weight, bias, labels, logit_lengths, label_lengths)
    head, operation = _prepared(arrays, blank, options, chunk)
    how = reduction_of(head.call, options)
    given = _arrays_of(head)
    losses, *kept = _forward(operation, given)
    xp = head.call.facts.xp
    constant, given = _constants(head.call.facts.namespace, losses, given)
    divisor = how.divisor(xp, head.call.label_lengths, losses.dtype)
    above = how.spread(xp, xp.ones_like(constant), constant, divisor)
    of_hidden, of_weight, of_bias = _backward(operation, above, given, tuple(kept))
    loss = reduce_losses(head.call, how, losses)
    feasible = constant != float("inf")
    if head.call.single:
        of_hidden, feasible = of_hidden[0, ...], feasible[0, ...]
    elif head.time_major:
        of_hidden = xp.permute_dims(of_hidden, (1, 0, 2))
    return LinearLossAndGrad(loss, of_hidden, of_weight, of_bias, feasible)


def linear_loss(arrays: tuple[Any, ...], blank: int, options: Options, chunk: int | None) -> Array:
    """Return the loss of :func:`linear_ctc_loss_and_grad` alone, without the second pass."""
    head, operation = _prepared(arrays, blank, options, chunk)
    losses, *_ = _forward(operation, _arrays_of(head))
    return reduce_losses(head.call, reduction_of(head.call, options), losses)


def _prepared(
    arrays: tuple[Any, ...], blank: int, options: Options, chunk: int | None
) -> tuple[HeadInputs, HeadOperation]:
    check_options(options)
    wanted = check_chunk(chunk)
    head = prepare_head(*arrays, blank=blank, time_major=options.time_major)
    facts, call = head.call.facts, head.call
    if facts.namespace == "torch":
        form = facts.form | form_of("weight", head.weight)
        if head.bias is not None:
            form |= form_of("bias", head.bias)
        if form & UNREADABLE:
            msg = (
                "hidden, weight and bias must be tensors with memory of their own: torch.func's "
                "transformations, fake tensors, and modes that see each operator, as counters of "
                "operations do, are not supported. Call ctcx.ctc_loss on logits"
            )
            raise CTCInputError(msg, argument="hidden")
    count, frames, _ = call.logits.shape
    classes = head.weight.shape[0]
    if wanted is None:
        elements = _ELEMENTS_ON_CPU if facts.device.startswith("cpu") else _ELEMENTS
        wanted = max(16, elements // max(1, count * frames))
    constants = Constants(call.blank, min(wanted, classes), not call.full_frames)
    empty = call._replace(logits=None, labels=None, logit_lengths=None, label_lengths=None)
    operation = HeadOperation(
        head._replace(call=empty, weight=None, bias=None),
        constants,
        partial(_loss_and_grad, options),
        bool(options.validate),
    )
    return head, operation


def _loss_and_grad(options: Options, *arrays: Array) -> tuple[Array, Array]:
    policy: Infeasible = "raise" if options.infeasible == "raise" else "inf"
    try:
        found = ctc_loss_and_grad(
            *arrays, infeasible=policy, backend=options.backend, validate=options.validate
        )
    except CTCInputError as error:
        if not is_lazy(arrays[0]):
            raise
        msg = (
            f"hidden is an array of {library_name(arrays[0])}, and linear heads have no kernel for "
            "its blocks: call ctcx.linear_ctc_loss_and_grad in map_blocks or on computed arrays, "
            "or with backend='array-api', which makes many tasks a frame"
        )
        raise CTCInputError(msg, argument="hidden") from error
    return found.loss, found.grad


def _arrays_of(head: HeadInputs) -> tuple[Any, ...]:
    call = head.call
    integers = (call.labels, call.logit_lengths, call.label_lengths)
    return (call.logits, head.weight, head.bias, *integers)


def _constants(
    namespace: str, losses: Array, arrays: tuple[Any, ...]
) -> tuple[Array, tuple[Any, ...]]:
    """Losses and arrays that no library differentiates by."""
    if namespace == "torch":
        return losses.detach(), tuple(None if x is None else x.detach() for x in arrays)
    if namespace == "jax.numpy":
        from ctcx._autodiff.jax_head import constant

        return constant(losses), tuple(None if x is None else constant(x) for x in arrays)
    return losses, arrays


def _forward(operation: HeadOperation, arrays: tuple[Any, ...]) -> tuple[Array, ...]:
    """Call it so that PyTorch, JAX or MLX can differentiate what it returns first."""
    namespace = operation.facts_only.call.facts.namespace
    if namespace == "torch":
        from ctcx._autodiff import torch_head

        return torch_head.forward(operation, *arrays)
    if namespace == "jax.numpy" and has_jax_types(*arrays):
        from ctcx._autodiff import jax_head

        return jax_head.forward(operation, *arrays)
    if namespace == "mlx.core":
        from ctcx._autodiff import mlx_rules

        return mlx_rules.linear_loss(operation, *arrays)
    return operation.forward(*arrays)


def _backward(
    operation: HeadOperation, above: Array, arrays: tuple[Any, ...], kept: tuple[Array, ...]
) -> tuple[Any, ...]:
    namespace = operation.facts_only.call.facts.namespace
    if namespace == "torch":
        from ctcx._autodiff import torch_head

        found: tuple[Any, ...] = torch_head.backward(operation, above, arrays, kept)
        return found
    if namespace == "jax.numpy" and has_jax_types(*arrays):
        from ctcx._autodiff import jax_head

        return jax_head.backward(operation, above, arrays, kept)
    return operation.backward(above, arrays, kept)
