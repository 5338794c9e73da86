"""From prepared arrays to a kernel's result: check values, select, call, check the result."""

from __future__ import annotations

from dataclasses import fields
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ctcx._arrays.facts import is_array, is_undecided, looked_into
from ctcx._arrays.jax_types import has_jax_types, without_jax_types
from ctcx._dispatch.dispatcher import CACHE_SIZE, call, circumstances, select
from ctcx._dispatch.plan import Plan
from ctcx._dispatch.results import fault, wrong_losses
from ctcx._errors import CTCInputError, InfeasibleError
from ctcx._inputs.host_data import to_lists
from ctcx._inputs.validate import check_values, locate
from ctcx._nesting import among, numbered
from ctcx._operations import OPERATIONS
from ctcx._plugins.backend import Problem
from ctcx._reduction import weighted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ctcx._arrays.facts import ArrayFacts
    from ctcx._inputs.options import Options
    from ctcx._inputs.prepare import KernelInputs
    from ctcx._typing import Array

__all__ = ["compute", "compute_losses", "problem_of", "raise_if_infeasible"]


def compute_losses(
    operation: str, prepared: KernelInputs, options: Options, weights: Array | None = None
) -> Any:
    """Compute losses (N,), or losses and gradient (N, T, C), and apply ``infeasible="raise"``.

    The gradient of each sequence is multiplied by its weight (N,), if there are any.

    Raises
    ------
    InfeasibleError
        No path emits the labels of a sequence.
    CTCInputError, BackendError, KernelError
        As :func:`compute`.
    """
    result = compute(
        operation, prepared, options, {"blank": prepared.blank}, wrong_losses, weights=weights
    )
    if options.infeasible == "raise":
        if prepared.facts.traced:
            msg = (
                'infeasible="raise" needs to read values, which can\'t be done while tracing: '
                'pass infeasible="inf" or "zero" there'
            )
            raise CTCInputError(msg, argument="infeasible", value="raise")
        loss = result[0] if isinstance(result, tuple) else result
        raise_if_infeasible(loss != float("inf"), prepared, 'infeasible="inf" or "zero"')
    return result


def compute(
    operation: str,
    prepared: KernelInputs,
    options: Options,
    arguments: Mapping[str, Any],
    wrong: Callable[[Any, ArrayFacts], str | None],
    *,
    labels: Array | None = None,
    wildcards: tuple[int, ...] = (),
    weights: Array | None = None,
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
    weights
        (N,), of the gradient of each sequence: applied by the kernel, if it can, else here.

    Raises
    ------
    CTCInputError
        A value is wrong.
    BackendError
        No backend can take the call.
    KernelError
        The kernel returned something wrong.
    """
    what = OPERATIONS[operation]
    key = operation, *circumstances(options.backend)
    # Options of a kernel are no part of the form of a call.
    plans = None if what.options else prepared.plans
    plan = None if plans is None else plans.get(key)
    is_new = plan is None
    if plan is None:
        plan = Plan(select(problem_of(operation, prepared), options.backend))
    validate = options.validate and not prepared.facts.traced
    left_to_kernel = (
        validate
        and plan.checks_values
        and what.marks_wrong_values
        and 0 not in prepared.logits.shape  # nor can what is empty be marked
    )
    if validate and not left_to_kernel:
        check_values(prepared, time_major=options.time_major, wildcards=wildcards)
    arrays: tuple[Array, ...] = (prepared.logits, prepared.logit_lengths)
    if what.labels:
        given = prepared.labels if labels is None else labels
        arrays = (prepared.logits, given, prepared.logit_lengths, prepared.label_lengths)
    result, ran = _call(plan, options.backend, arrays, arguments, weights)
    if is_new and plans is not None and ran is plan:
        plan.remember(result)
        plans[key] = plan
    if left_to_kernel and not ran.checks_values:
        # The kernel that checks values declined, and another one has computed.
        check_values(prepared, time_major=options.time_major, wildcards=wildcards)
    if validate and (fault_found := wrong(result, prepared.facts)):
        if left_to_kernel:
            locate(prepared, time_major=options.time_major, wildcards=wildcards)
        raise fault(ran.decision, fault_found)
    if weights is not None and not ran.takes_weights:
        loss, grad = result
        result = loss, weighted(prepared.facts.xp, grad, weights)
    return result


def _call(
    plan: Plan,
    backend: str | None,
    arrays: tuple[Array, ...],
    arguments: Mapping[str, Any],
    weights: Array | None,
) -> tuple[Any, Plan]:
    """Do what :func:`ctcx._dispatch.dispatcher.call` does, however JAX's arrays are sharded."""
    if not has_jax_types(*arrays):
        return call(plan, backend, arrays, arguments, weights)
    named = {name: value for name, value in arguments.items() if is_array(value)}
    ran = plan

    def kernel(*given: Array) -> Any:
        nonlocal ran
        others = dict(zip(named, given[len(arrays) :], strict=True))
        positional = given[: len(arrays)]
        result, ran = call(plan, backend, positional, {**arguments, **others}, weights)
        return result

    expected = OPERATIONS[plan.decision.problem.operation].expected(arguments)
    forms = tuple(arrays[0] if each.axes == "NTC" else len(each.axes) for each in expected)
    form = forms if len(forms) > 1 else forms[0]
    return without_jax_types(kernel, (*arrays, *named.values()), form), ran


def problem_of(operation: str, prepared: KernelInputs) -> Problem:
    """Describe a call without its values."""
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
        False,
    )


@lru_cache(maxsize=CACHE_SIZE)
def _cached_problem(*values: Any) -> Problem:
    """Make a problem of its fields; looking one up takes a fifth of the time of making it."""
    return Problem(**dict(zip(_PROBLEM_FIELDS, values, strict=True)))


_PROBLEM_FIELDS = tuple(field.name for field in fields(Problem))


def raise_if_infeasible(
    feasible: Array, prepared: KernelInputs, goes_on: str, *, masks: str = "logits"
) -> None:
    """Raise an error that names the sequences for which ``feasible`` (N,) is False.

    ``goes_on`` is what the caller can pass to get results all the same, ``masks`` what can be -inf.
    """
    if bool(prepared.facts.xp.all(feasible)):
        return
    bad = tuple(i for i, is_one in enumerate(to_lists(feasible)) if not is_one)
    first, bad = bad[0], tuple(map(numbered, bad))
    shown = ", ".join(map(str, bad[:10])) + (", ..." if len(bad) > 10 else "")
    frames, count = (
        int(looked_into(lengths)[first])
        for lengths in (prepared.logit_lengths, prepared.label_lengths)
    )
    labels = to_lists(looked_into(prepared.labels)[first, :count])
    need = count + sum(one == other for one, other in pairwise(labels))
    why = f"they need at least {need} frames"
    if need <= frames:
        why = f"{masks} of -inf, or of so little that no path is left, forbid them"
    msg = (
        f"no path emits the labels of {len(bad)} of {among(feasible.shape[0])}: {shown}. "
        f"Sequence {bad[0]} has {frames} frames and {count} labels: {why} (see ctcx.min_frames). "
        f"{goes_on} goes on."
    )
    raise InfeasibleError(msg, sequences=bad)
