"""The public functions: prepare, check, select, compute, reduce."""

from __future__ import annotations

from dataclasses import fields
from functools import lru_cache, partial
from itertools import pairwise
from reprlib import repr as short_repr
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from ctcx._arrays.facts import is_numpy, is_undecided
from ctcx._arrays.tensor_forms import FUNCTIONAL, OPAQUE, SUBCLASS
from ctcx._autodiff.adapters import adapter_for
from ctcx._autodiff.operation import CallOperation
from ctcx._dispatch.dispatcher import CACHE_SIZE, Decision, call, select
from ctcx._dispatch.results import fault, wrong_losses
from ctcx._errors import CTCInputError, InfeasibleError
from ctcx._inputs.host_data import to_lists
from ctcx._inputs.prepare import KernelInputs, prepare
from ctcx._inputs.validate import check_values, locate
from ctcx._operations import OPERATIONS
from ctcx._plugins.backend import Feature, Problem
from ctcx._reduction import PLAIN, Reduction

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ctcx._arrays.facts import ArrayFacts
    from ctcx._typing import Array

__all__ = [
    "Options",
    "as_asked",
    "as_constants",
    "check_choice",
    "check_flag",
    "check_flags",
    "check_options",
    "kernel_result",
    "of_class",
    "problem_of",
    "raise_if_infeasible",
    "reduce_losses",
    "reduction_of",
    "run",
    "scaled",
]

ReductionName = Literal["none", "sum", "mean", "mean_per_label"]
Infeasible = Literal["inf", "zero", "raise"]

_REDUCTIONS = ("none", "sum", "mean", "mean_per_label")
_POLICIES = ("inf", "zero", "raise")


class Options(NamedTuple):
    """Options of a call, as the public functions take them."""

    time_major: bool
    reduction: str
    infeasible: str
    backend: str | None
    validate: bool


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
) -> tuple[KernelInputs, Any]:
    """Prepare, check and compute: the reduced loss; or losses and gradient, which are not.

    ``differentiable``: the caller goes on to differentiate these, too, by means of its library.
    """
    check_options(options)
    prepared = prepare(
        logits, labels, logit_lengths, label_lengths, blank, time_major=options.time_major
    )
    result = _computed(operation, prepared, options, differentiable=differentiable)
    if prepared.facts.form & SUBCLASS:  # as PyTorch's own operations return it
        result = of_class(type(logits), result)
    return prepared, result


def _computed(
    operation: str, prepared: KernelInputs, options: Options, *, differentiable: bool
) -> Any:
    """Compute as the library has to see it: the reduced loss; or losses and gradient."""
    what = OPERATIONS[operation]
    reduction = reduction_of(prepared, options)
    compute = partial(_compute, options)
    facts = prepared.facts
    differentiable = differentiable or what.differentiable
    if facts.namespace == "torch" and not differentiable:
        # Its tensors may require a gradient nonetheless.
        prepared = prepared._replace(logits=prepared.logits.detach())
    arrays = prepared[:4]
    adapter = adapter_for(facts.namespace, facts.form, *arrays, differentiate=differentiable)
    if adapter is not None:
        unit = CallOperation.of(prepared, compute)
        known: Callable[..., Any] = getattr(adapter, operation)
        return known(unit, reduction, *arrays) if what.reduced else known(unit, *arrays)
    if facts.namespace == "torch" and not facts.form & FUNCTIONAL:
        prepared = prepared._replace(logits=prepared.logits.detach())
    result = compute(operation, prepared)
    return reduce_losses(prepared, reduction, result) if what.reduced else result


def of_class(kind: type, result: Any) -> Any:
    if isinstance(result, tuple):
        return tuple(part.as_subclass(kind) for part in result)
    return result.as_subclass(kind)


def reduction_of(prepared: KernelInputs, options: Options) -> Reduction:
    return Reduction(options.reduction, options.infeasible == "zero", prepared.single)


def reduce_losses(prepared: KernelInputs, reduction: Reduction, loss: Array) -> Array:
    if reduction == PLAIN:
        return loss
    if prepared.facts.namespace == "jax.numpy":  # one compiled call for several operations
        from ctcx._autodiff.jax_rules import reduced

        return reduced(reduction, loss, prepared.label_lengths)
    xp = prepared.facts.xp
    return reduction.value(xp, loss, reduction.divisor(xp, prepared.label_lengths, loss.dtype))


def _compute(options: Options, operation: str, prepared: KernelInputs) -> Any:
    """Check values and call a kernel; the adapters call this, with what tracers stand for."""
    if prepared.facts.form & OPAQUE:
        from ctcx._api import torch_operators

        return torch_operators.dispatched(operation, options, prepared)
    result = kernel_result(operation, prepared, options, {"blank": prepared.blank}, wrong_losses)
    if options.infeasible == "raise":
        if prepared.facts.traced:
            msg = 'infeasible="raise" needs to read values, which can\'t be done while tracing'
            raise CTCInputError(msg, argument="infeasible", value="raise")
        loss = result[0] if isinstance(result, tuple) else result
        raise_if_infeasible(loss != float("inf"), prepared, 'infeasible="inf" or "zero"')
    return result


def kernel_result(
    operation: str,
    prepared: KernelInputs,
    options: Options,
    arguments: Mapping[str, Any],
    wrong: Callable[[Any, ArrayFacts], str | None],
    *,
    labels: Array | None = None,
    wildcards: tuple[int, ...] = (),
) -> Any:
    """Check values, select a backend and call its kernel.

    Parameters
    ----------
    operation, prepared, options
        Of the call.
    arguments
        Of the kernel, by name.
    wrong
        Says what is wrong with a kernel's result, if anything is, where values are checked.
    labels
        What the kernel gets as labels, if not the caller's.
    wildcards
        Numbers below 0 that may stand among the caller's labels.
    """
    problem = problem_of(operation, prepared)
    validate = options.validate and not prepared.facts.traced
    decision = select(problem, options.backend)
    left_to_kernel = (
        validate
        and _checks_values(decision)
        and OPERATIONS[operation].marks_wrong_values
        and 0 not in prepared.logits.shape  # nor can what is empty be marked
    )
    if validate and not left_to_kernel:
        check_values(prepared, time_major=options.time_major, wildcards=wildcards)
    given = prepared.labels if labels is None else labels
    arrays: tuple[Array, ...] = (prepared.logits, prepared.logit_lengths)
    if OPERATIONS[operation].labels:
        arrays = (prepared.logits, given, prepared.logit_lengths, prepared.label_lengths)
    result, decision = call(problem, options.backend, arrays, arguments, decision)
    if left_to_kernel and not _checks_values(decision):
        # The kernel that checks values declined, and another one has computed.
        check_values(prepared, time_major=options.time_major, wildcards=wildcards)
    if validate and (what := wrong(result, prepared.facts)):
        if left_to_kernel:
            locate(prepared, time_major=options.time_major, wildcards=wildcards)
        raise fault(decision, what)
    return result


def _checks_values(decision: Decision) -> bool:
    """Whether the selected backend checks values itself, in the pass that it makes anyway."""
    entry = decision.selected
    return entry is not None and Feature.CHECKS_VALUES in entry.backend.features


def problem_of(operation: str, prepared: KernelInputs) -> Problem:
    facts: ArrayFacts = prepared.facts
    sizes: tuple[Any, ...] = (*prepared.logits.shape, prepared.labels.shape[1])
    if facts.traced and is_undecided(*sizes):
        sizes = tuple(None if is_undecided(size) else size for size in sizes)
    return _cached_problem(
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
def _cached_problem(*values: Any) -> Problem:
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
    check_choice("reduction", options.reduction, _REDUCTIONS)
    check_choice("infeasible", options.infeasible, _POLICIES)
    check_flags(time_major=options.time_major, validate=options.validate)


def check_choice(argument: str, value: object, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        msg = f"{argument} must be one of {', '.join(map(repr, choices))}; got {short_repr(value)}"
        raise CTCInputError(msg, argument=argument, value=value)


def check_flag(argument: str, value: object) -> None:
    if value is not True and value is not False and not isinstance(value, np.bool_):
        msg = f"{argument} must be True or False, got {short_repr(value)}"
        raise CTCInputError(msg, argument=argument, value=value)


def check_flags(**flags: object) -> None:
    for argument, value in flags.items():
        check_flag(argument, value)


def as_constants(prepared: KernelInputs) -> KernelInputs:
    """Let no library differentiate through the logits."""
    namespace = prepared.facts.namespace
    if namespace == "torch":
        return prepared._replace(logits=prepared.logits.detach())
    if namespace == "jax.numpy":
        from ctcx._arrays.jax import as_constant

        return prepared._replace(logits=as_constant(prepared.logits))
    return prepared


def as_asked(found: tuple[Array, ...], prepared: KernelInputs, logits: Any) -> tuple[Array, ...]:
    """Give results the class of the caller's logits, and drop N for one sequence."""
    if prepared.facts.form & SUBCLASS:
        found = of_class(type(logits), tuple(found))
    return tuple(array[0, ...] for array in found) if prepared.single else tuple(found)


def raise_if_infeasible(
    feasible: Array, prepared: KernelInputs, goes_on: str, *, masks: str = "logits"
) -> None:
    """Raise an error that names the sequences for which ``feasible`` (N,) is False.

    ``goes_on`` is what the caller can pass to get results all the same, ``masks`` what can be -inf.
    """
    if bool(prepared.facts.xp.all(feasible)):
        return
    bad = tuple(i for i in range(feasible.shape[0]) if not bool(feasible[i]))
    shown = ", ".join(map(str, bad[:10])) + (", ..." if len(bad) > 10 else "")
    first = bad[0]
    frames, count = int(prepared.logit_lengths[first]), int(prepared.label_lengths[first])
    labels = to_lists(prepared.labels[first, :count])
    need = count + sum(one == other for one, other in pairwise(labels))
    why = f"-inf {masks} forbid them" if need <= frames else f"they need at least {need} frames"
    msg = (
        f"no path emits the labels of {len(bad)} of {feasible.shape[0]} sequences: {shown}. "
        f"Sequence {first} has {frames} frames and {count} labels: {why} (see ctcx.min_frames). "
        f"{goes_on} goes on."
    )
    raise InfeasibleError(msg, sequences=bad)


def scaled(
    prepared: KernelInputs, reduction: Reduction, array: Array, *, reuse: bool = False
) -> Array:
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
