"""The public functions: prepare, check, select, compute, reduce."""

from __future__ import annotations

from dataclasses import fields
from functools import lru_cache, partial
from reprlib import repr as short_repr
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from ctcx._api.cuda_graphs import in_graph, is_captured
from ctcx._arrays.facts import is_numpy, is_undecided
from ctcx._arrays.tensor_forms import FUNCTIONAL, OPAQUE, SUBCLASS, is_torch_recording
from ctcx._autodiff.adapters import adapter_for
from ctcx._autodiff.operation import Unit
from ctcx._dispatch.dispatcher import CACHE_SIZE, Decision, call, explain_problem, select
from ctcx._dispatch.results import are_losses, losses_fault
from ctcx._errors import CTCInputError, InfeasibleError
from ctcx._inputs.prepare import Prepared, prepare
from ctcx._inputs.validate import check_values, locate
from ctcx._plugins.backend import Feature, Operation, Problem
from ctcx._reduction import PLAIN, Reduction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctcx._arrays.facts import Facts
    from ctcx._typing import Array

__all__ = [
    "LossAndGrad",
    "Options",
    "check_options",
    "ctc_loss",
    "ctc_loss_and_grad",
    "explain",
    "run",
    "scaled",
]

ReductionName = Literal["none", "sum", "mean", "mean_per_label"]
Infeasible = Literal["inf", "zero", "raise"]

_REDUCTIONS = ("none", "sum", "mean", "mean_per_label")
_POLICIES = ("inf", "zero", "raise")


class LossAndGrad(NamedTuple):
    """What :func:`ctcx.ctc_loss_and_grad` returns.

    Attributes
    ----------
    loss
        (N,), or () where reduced or for one sequence; nats.
    grad
        In the layout and dtype of the logits.
    feasible
        (N,) boolean, () for one sequence: whether any path emits the labels.
    """

    loss: Array
    grad: Array
    feasible: Array


def ctc_loss(
    logits: Array,
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
) -> Array:
    r"""CTC loss: the negative log probability that the frames emit the labels.

    .. math:: \mathrm{loss} = -\ln \sum_{\pi \in B^{-1}(y)} \prod_t \mathrm{softmax}(x_t)_{\pi_t}

    over all paths that become the labels when equal neighbours are merged and blanks removed
    (Graves et al. 2006, eq. 3 and 12).

    Parameters
    ----------
    logits : array (N, T, C)
        Unnormalised; the softmax is inside. (T, N, C) with ``time_major=True``; (T, C) for one
        sequence. float16, bfloat16, float32 or float64, of NumPy, CuPy, PyTorch, JAX or another
        library of the array API standard, which decides where it is computed. -inf masks a class.
    labels : array of int (N, S) or list of lists
        Classes, without blanks. What stands past a sequence's length never matters. (S,) for one
        sequence. Lists (also tuples and ranges; the rows may be arrays) and NumPy arrays go along
        with logits of any library.
    logit_lengths : array of int (N,), optional
        Frames of each sequence; default T. What stands in later frames never matters. A list, or
        an int for one sequence.
    label_lengths : array of int (N,), optional
        Labels of each sequence; default S, or the lengths of the lists.
    blank : int
        Class of the blank; negative ones count from the end.
    time_major : bool
        Whether frames come first in ``logits``.
    reduction : {"none", "sum", "mean", "mean_per_label"}
        ``"mean"`` is over the batch; ``"mean_per_label"`` first divides each loss by its number of
        labels (at least 1), which is what PyTorch calls mean. The mean of no sequences is 0.
    infeasible : {"inf", "zero", "raise"}
        What to do where no path emits the labels (fewer frames than :func:`ctcx.min_frames`, or
        masked classes): loss +inf, loss 0, or :class:`ctcx.InfeasibleError`. The gradient is 0.
    backend : str, optional
        That backend or an error; default: see :func:`ctcx.use_backend` and :func:`ctcx.explain`.
    validate : bool
        False skips the checks of values, of the input and of the losses, which cost one pass and
        wait for the device. They are skipped anyway where values can't be read, as under
        ``jax.jit``.

    Returns
    -------
    array (N,) or ()
        In nats, never negative, never NaN; float32, or float64 for float64 logits. In the library
        and on the device of the logits.

    Raises
    ------
    CTCInputError
        Wrong shapes, dtypes, libraries or devices; a label out of range or equal to the blank, a
        length out of range, NaN or +inf inside a sequence; masked arrays, and sets, dicts and
        generators for labels. Names argument, sequence, position and value.
    InfeasibleError
        Under ``infeasible="raise"``.
    BackendError
        No backend can take this call, or the one that was named can't; with the reason of each.

    References
    ----------
    Graves, Fernandez, Gomez, Schmidhuber: Connectionist Temporal Classification: labelling
    unsegmented sequence data with recurrent neural networks. ICML 2006.

    Examples
    --------
    >>> import numpy as np, ctcx
    >>> logits = np.zeros((1, 3, 4), dtype=np.float32)
    >>> ctcx.ctc_loss(logits, [[1, 2]])
    array([2.5...], dtype=float32)
    """
    options = Options(time_major, reduction, infeasible, backend, validate)
    if is_torch_recording():
        from ctcx._api import torch_operators

        return torch_operators.traced_loss(
            logits, labels, logit_lengths, label_lengths, blank, options
        )
    if is_captured(logits):
        arrays = {"logits": logits, "labels": labels}
        arrays |= {"logit_lengths": logit_lengths, "label_lengths": label_lengths}
        return in_graph(ctc_loss, arrays, blank=blank, **options._asdict())
    return run("loss", logits, labels, logit_lengths, label_lengths, blank, options)[1]


def ctc_loss_and_grad(
    logits: Array,
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
) -> LossAndGrad:
    r"""CTC loss and its gradient with respect to the logits.

    .. math::
        \frac{\partial\,\mathrm{loss}}{\partial x_{t,c}}
        = \mathrm{softmax}(x_t)_c - \sum_{s: y_s = c} \gamma_t(s)

    where gamma is the probability of being in state s at frame t, given the labels (Graves et al.
    2006, eq. 16). It is 0 past a sequence's length and for infeasible sequences, and each frame's
    adds up to 0.

    Parameters
    ----------
    logits, labels, logit_lengths, label_lengths
        As for :func:`ctcx.ctc_loss`.
    blank, time_major, reduction, infeasible, backend, validate
        As for :func:`ctcx.ctc_loss`.

    Returns
    -------
    LossAndGrad
        ``loss`` as from :func:`ctcx.ctc_loss`; ``grad``, of the shape, library, device and dtype of
        the logits: the gradient of the reduced loss, of the sum for ``reduction="none"``;
        ``feasible`` (N,): whether any path emits the labels.

    Raises
    ------
    CTCInputError, InfeasibleError, BackendError
        As for :func:`ctcx.ctc_loss`.

    Examples
    --------
    >>> import numpy as np, ctcx
    >>> logits = np.zeros((1, 2, 3), dtype=np.float32)
    >>> result = ctcx.ctc_loss_and_grad(logits, [[1]])
    >>> np.round(result.grad, 4)
    array([[[ 0.    , -0.3333,  0.3333],
            [ 0.    , -0.3333,  0.3333]]], dtype=float32)
    >>> result.feasible
    array([ True])
    """
    options = Options(time_major, reduction, infeasible, backend, validate)
    if is_torch_recording():
        from ctcx._api import torch_operators

        return LossAndGrad(
            *torch_operators.traced_loss_and_grad(
                logits, labels, logit_lengths, label_lengths, blank, options
            )
        )
    if is_captured(logits):
        arrays = {"logits": logits, "labels": labels}
        arrays |= {"logit_lengths": logit_lengths, "label_lengths": label_lengths}
        return LossAndGrad(*in_graph(ctc_loss_and_grad, arrays, blank=blank, **options._asdict()))
    prepared, (loss, grad) = run(
        "loss_and_grad", logits, labels, logit_lengths, label_lengths, blank, options
    )
    how = _reduction(prepared, options)
    feasible = loss != float("inf")
    if reduction in ("mean", "mean_per_label"):
        grad = scaled(prepared, how, grad, reuse=True)
    loss = _finished(prepared, how, loss)
    if prepared.single:
        return LossAndGrad(loss, grad[0, ...], feasible[0, ...])
    if time_major:
        grad = prepared.facts.xp.permute_dims(grad, (1, 0, 2))
    return LossAndGrad(loss, grad, feasible)


def explain(
    logits: Array,
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
    operation: Operation = "loss_and_grad",
) -> Decision:
    """Say which backend a call with these arguments would use, and why not the others.

    Computes nothing and imports no kernel.

    Parameters
    ----------
    logits, labels, logit_lengths, label_lengths
        As for :func:`ctcx.ctc_loss`.
    blank, time_major, reduction, infeasible, backend, validate
        As for :func:`ctcx.ctc_loss`.
    operation : {"loss_and_grad", "loss"}
        Which function the call would be to.

    Returns
    -------
    Decision
        ``str()`` of it is a table: every candidate, its package and version, status and reason.

    Raises
    ------
    CTCInputError
        As for :func:`ctcx.ctc_loss`, for static facts; an ``operation`` that there isn't.
    """
    check_options(Options(time_major, reduction, infeasible, backend, validate))
    _check_choice("operation", operation, get_args(Operation))
    prepared = prepare(logits, labels, logit_lengths, label_lengths, blank, time_major=time_major)
    return explain_problem(_problem(operation, prepared), backend)


class Options(NamedTuple):
    """Options of a call, as the public functions take them."""

    time_major: bool
    reduction: str
    infeasible: str
    backend: str | None
    validate: bool


def run(
    operation: Operation,
    logits: Any,
    labels: Any,
    logit_lengths: Any,
    label_lengths: Any,
    blank: int,
    options: Options,
) -> tuple[Prepared, Any]:
    """Prepare, check and compute: the reduced loss; or losses and gradient, which are not."""
    check_options(options)
    prepared = prepare(
        logits, labels, logit_lengths, label_lengths, blank, time_major=options.time_major
    )
    result = _computed(operation, prepared, options)
    if prepared.facts.form & SUBCLASS:  # as PyTorch's own operations return it
        result = _of_class(type(logits), result)
    return prepared, result


def _computed(operation: Operation, prepared: Prepared, options: Options) -> Any:
    """Compute as the library has to see it: the reduced loss; or losses and gradient."""
    reduction = _reduction(prepared, options)
    compute = partial(_compute, options)
    arrays = prepared[:4]
    facts = prepared.facts
    adapter = adapter_for(facts.namespace, facts.form, *arrays, differentiate=operation == "loss")
    if adapter is not None:
        unit = Unit.of(prepared, compute)
        if operation == "loss":
            return adapter.loss(unit, reduction, *arrays)
        return adapter.loss_and_grad(unit, *arrays)
    if facts.namespace == "torch" and not (operation == "loss" and facts.form & FUNCTIONAL):
        # Its tensors may require a gradient nonetheless.
        prepared = prepared._replace(logits=prepared.logits.detach())
    result = compute(operation, prepared)
    return _finished(prepared, reduction, result) if operation == "loss" else result


def _of_class(kind: type, result: Any) -> Any:
    if isinstance(result, tuple):
        return tuple(part.as_subclass(kind) for part in result)
    return result.as_subclass(kind)


def _reduction(prepared: Prepared, options: Options) -> Reduction:
    return Reduction(options.reduction, options.infeasible == "zero", prepared.single)


def _finished(prepared: Prepared, reduction: Reduction, loss: Array) -> Array:
    if reduction == PLAIN:
        return loss
    if prepared.facts.namespace == "jax.numpy":  # one compiled call for several operations
        from ctcx._autodiff.jax_rules import reduced

        return reduced(reduction, loss, prepared.label_lengths)
    xp = prepared.facts.xp
    return reduction.value(xp, loss, reduction.divisor(xp, prepared.label_lengths, loss.dtype))


def _compute(options: Options, operation: Operation, prepared: Prepared) -> Any:
    """Check values and call a kernel; the adapters call this, with what tracers stand for."""
    if prepared.facts.form & OPAQUE:
        from ctcx._api import torch_operators

        return torch_operators.dispatched(operation, options, prepared)
    problem = _problem(operation, prepared)
    validate = options.validate and not prepared.facts.traced
    decision = select(problem, options.backend)
    left_to_kernel = validate and _checks_values(decision)
    if validate and not left_to_kernel:
        check_values(prepared, time_major=options.time_major)
    result, decision = call(
        problem,
        options.backend,
        (prepared.logits, prepared.labels, prepared.logit_lengths, prepared.label_lengths),
        {"blank": prepared.blank},
        decision,
    )
    loss = result if operation == "loss" else result[0]
    if left_to_kernel and not _checks_values(decision):
        # The kernel that checks values declined, and another one has computed.
        check_values(prepared, time_major=options.time_major)
    if validate and not are_losses(loss, prepared.facts):
        if left_to_kernel:
            locate(prepared, time_major=options.time_major)
        raise losses_fault(loss, prepared.facts, decision)
    if options.infeasible == "raise":
        _raise_if_infeasible(loss, prepared)
    return result


def _checks_values(decision: Decision) -> bool:
    """Whether the selected backend checks values itself, in the pass that it makes anyway."""
    entry = decision.selected
    return entry is not None and Feature.CHECKS_VALUES in entry.backend.features


def _problem(operation: Operation, prepared: Prepared) -> Problem:
    facts: Facts = prepared.facts
    sizes: tuple[Any, ...] = (*prepared.logits.shape, prepared.labels.shape[1])
    if facts.traced and is_undecided(*sizes):
        sizes = tuple(None if is_undecided(size) else size for size in sizes)
    return _problem_of(
        operation,
        facts.namespace,
        facts.device,
        facts.dtype,
        *sizes,
        prepared.blank,
        facts.traced,
        facts.contiguous,
    )


@lru_cache(maxsize=CACHE_SIZE)
def _problem_of(*values: Any) -> Problem:
    """Make a problem of its fields; looking one up takes a fifth of the time of making it."""
    return Problem(**dict(zip(_PROBLEM_FIELDS, values, strict=True)))


_PROBLEM_FIELDS = tuple(field.name for field in fields(Problem))


def check_options(options: Options) -> None:
    """Refuse options that are not among the choices."""
    if (  # at once, as in every call
        type(options.reduction) is type(options.infeasible) is str
        and options.reduction in _REDUCTIONS
        and options.infeasible in _POLICIES
        and type(options.time_major) is type(options.validate) is bool
    ):
        return
    _check_choice("reduction", options.reduction, _REDUCTIONS)
    _check_choice("infeasible", options.infeasible, _POLICIES)
    _check_flag("time_major", options.time_major)
    _check_flag("validate", options.validate)


def _check_choice(argument: str, value: object, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        msg = f"{argument} must be one of {', '.join(map(repr, choices))}; got {short_repr(value)}"
        raise CTCInputError(msg, argument=argument, value=value)


def _check_flag(argument: str, value: object) -> None:
    if value is not True and value is not False and not isinstance(value, np.bool_):
        msg = f"{argument} must be True or False, got {short_repr(value)}"
        raise CTCInputError(msg, argument=argument, value=value)


def _raise_if_infeasible(loss: Array, prepared: Prepared) -> None:
    if prepared.facts.traced:
        msg = 'infeasible="raise" needs to read values, which can\'t be done while tracing'
        raise CTCInputError(msg, argument="infeasible", value="raise")
    feasible = loss != float("inf")
    if not bool(prepared.facts.xp.all(feasible)):
        _raise_infeasible(feasible, prepared)


def _raise_infeasible(feasible: Array, prepared: Prepared) -> None:
    bad = tuple(i for i in range(feasible.shape[0]) if not bool(feasible[i]))
    shown = ", ".join(map(str, bad[:10])) + (", ..." if len(bad) > 10 else "")
    first = bad[0]
    msg = (
        f"no path emits the labels of {len(bad)} of {feasible.shape[0]} sequences: {shown}. "
        f"Sequence {first} has {int(prepared.logit_lengths[first])} frames and "
        f"{int(prepared.label_lengths[first])} labels (ctcx.min_frames counts the frames that "
        f'labels need; -inf logits can forbid them too). infeasible="inf" or "zero" goes on.'
    )
    raise InfeasibleError(msg, sequences=bad)


def scaled(prepared: Prepared, reduction: Reduction, array: Array, *, reuse: bool = False) -> Array:
    """Divide (N, T, C), one block a sequence, by what the reduction divides losses by.

    ``reuse``: the array isn't needed any more. Half precision isn't used for it, which has no
    numbers as small as it takes for many sequences of many labels.
    """
    xp = prepared.facts.xp
    wide = xp.float64 if array.dtype == xp.float64 else xp.float32
    divisor: Array = reduction.divisor(xp, prepared.label_lengths, wide)
    one_for_all = isinstance(divisor, int)
    scale = 1.0 / (divisor if one_for_all else xp.reshape(divisor, (-1, 1, 1)))
    if array.dtype != wide and not one_for_all:
        return xp.astype(xp.astype(array, wide) * scale, array.dtype)
    if reuse and not (is_numpy(array) and not array.flags.writeable):  # as others' memory may be
        array *= scale
        return array
    return array * scale
