"""Choose the backend of a call, and call it.

Who asks for a backend by name is strict: if none of those named can take the call, that is an
error. Only the automatic selection goes on to the next candidate.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

from ctcx._bounded import remember
from ctcx._dispatch.decision import Candidate, Decision
from ctcx._dispatch.plan import Plan
from ctcx._dispatch.requested import (
    VARIABLE,
    asked_for,
    check_known,
    check_type,
    use_backend,
)
from ctcx._dispatch.results import check_form, fault
from ctcx._dispatch.selection import choose
from ctcx._dispatch.tracing import Run, record, trace
from ctcx._environment import env_text
from ctcx._errors import (
    BackendError,
    BackendRejectedError,
    KernelError,
    is_ordinary,
    one_line,
    printable,
    shown,
)
from ctcx._isolation import attempt_at_once, forget_interrupt, is_the_users
from ctcx._nesting import preferred
from ctcx._plugins.backend import Decline
from ctcx._plugins.registry import registry
from ctcx._plugins.targets import load_target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ctcx._dispatch.decision import Status
    from ctcx._dispatch.selection import Overrides
    from ctcx._plugins.backend import Problem
    from ctcx._plugins.records import RegisteredBackend

__all__ = [
    "Candidate",
    "Decision",
    "Run",
    "add_blame",
    "blame_unreadable",
    "call",
    "circumstances",
    "explain_problem",
    "select",
    "trace",
    "use_backend",
]

CACHE_SIZE = 1024

logger = logging.getLogger("ctcx.select")

_cache: dict[tuple[object, ...], Decision] = {}


def select(problem: Problem, backend: str | None = None) -> Decision:
    """Choose the backend for a problem; a second time for the same problem it is a look-up.

    Parameters
    ----------
    problem
        What is to be computed.
    backend
        Name of the only one that may be chosen; None to let the context, the environment or the
        automatic order decide.

    Returns
    -------
    Decision
        With a backend selected.

    Raises
    ------
    UnknownBackendError
        A name that no plugin registered.
    BackendRejectedError
        What was named can't take the problem.
    BackendError
        Nothing can.
    """
    key = problem, *circumstances(backend)
    decision = _cache.get(key)
    if decision is None:
        decision = _select(problem, backend, {})
        remember(_cache, key, decision, most=CACHE_SIZE)
    return decision


def circumstances(backend: str | None) -> tuple[object, ...]:
    """Return all that a choice depends on beside the problem.

    Raises CTCInputError: ``backend`` can't be the name of one.
    """
    if backend is not None:
        check_type(backend)
    return backend, preferred.get(), env_text(VARIABLE), registry().generation


def explain_problem(problem: Problem, backend: str | None = None) -> Decision:
    """Tell what `select` would choose, and about every candidate whether it could, or why not.

    Imports no kernel; may run probes that a plain call would not need.

    Raises
    ------
    UnknownBackendError
        A name that no plugin registered. A rejection is no error here.
    """
    check_type(backend)
    plugins = registry()
    names, source = asked_for(backend)
    check_known(plugins, names, source, problem)
    return choose(problem, plugins, names=names, source=source, thorough=True)


def call(
    plan: Plan,
    backend: str | None,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    weights: Any = None,
) -> tuple[Any, Plan]:
    """Import a kernel if need be, run it, and record that in :func:`trace`.

    Parameters
    ----------
    plan
        Whose kernel it is.
    backend
        As for `select`: another one is selected where the kernel can't be imported or declines.
    args, kwargs
        Of the kernel, as its contract in :class:`ctcx.plugin.Backend` says.
    weights
        For a kernel that takes them.

    Returns
    -------
    result
        Of the kernel.
    plan : Plan
        Whose kernel it was in the end.

    Raises
    ------
    BackendError
        As for `select`; or the kernel that was asked for by name can't be imported, or declined.
    KernelError
        The kernel returned something wrong, tried to end the process, or raised what can't be
        printed.
    Exception
        Whatever else the kernel raises, with a note that says whose kernel it is.
    """
    overrides: dict[str, tuple[Status, str]] = {}
    while True:
        decision = plan.decision
        entry = _require(decision)
        if (kernel := _kernel(entry, decision)) is not None:
            try:
                if weights is not None and plan.takes_weights:
                    result = kernel(*args, **kwargs, weights=weights)
                else:
                    result = kernel(*args, **kwargs)
            except Decline as decline:
                verdict: tuple[Status, str] = ("declined", _words(decline))
                if decision.source != "auto":
                    raise BackendRejectedError(_refusal(decision, entry, verdict)) from decline
                overrides[entry.backend.name] = verdict
            except BaseException as error:
                add_blame(error, decision)
                raise
            else:
                _check_form(result, args, plan, kwargs)
                record(decision)
                return result, plan
        plan = Plan(_select(decision.problem, backend, overrides))


def _check_form(result: Any, args: Sequence[Any], plan: Plan, kwargs: Mapping[str, Any]) -> None:
    """Look at a result, whatever its attributes do."""
    try:
        if not plan.fits(result, args[0]):
            check_form(result, args, plan.decision, kwargs)
    except KernelError:
        raise
    except BaseException as error:
        blame_unreadable(error, plan.decision)
        raise


def blame_unreadable(error: BaseException, decision: Decision) -> None:
    """Raise KernelError in place of what a look at a kernel's result has raised.

    Nothing for a signal of the application, which is to be raised again.
    """
    if is_the_users(error):
        return
    forget_interrupt()
    what = f"returned a result that can't be looked at: {one_line(error)}"
    raise fault(decision, what) from error


def _words(decline: Decline) -> str:
    """Reason that a kernel gave for declining."""
    words, failed = attempt_at_once(str, decline)
    return (
        "it gave a reason that can't be printed"
        if failed
        else printable(words) or "it gave no reason"
    )


def add_blame(error: BaseException, decision: Decision) -> None:
    """Say in an exception's traceback whose kernel raised it.

    Raises KernelError in its place: it would end the process, or can't be printed.
    """
    entry, operation = _require(decision), decision.problem.operation
    note = f"in backend {entry.backend.name!r} from {entry.provenance}, operation {operation}"

    def add() -> None:
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)

    attempt_at_once(add)  # an exception class may refuse notes
    if not is_ordinary(error) and not is_the_users(error):
        forget_interrupt()
        raise fault(decision, f"raised {one_line(error)}") from error


def _select(problem: Problem, backend: str | None, overrides: Overrides) -> Decision:
    plugins = registry()
    names, source = asked_for(backend)
    check_known(plugins, names, source, problem)
    decision = choose(problem, plugins, names=names, source=source, overrides=overrides)
    if decision.selected is None:  # the table of the error should say all that can be known
        decision = choose(
            problem, plugins, names=names, source=source, overrides=overrides, thorough=True
        )
    logger.debug("%s", decision)
    _require(decision)
    return decision


def _require(decision: Decision) -> RegisteredBackend:
    """Return the selected backend; raise an error with the whole table if there is none."""
    if decision.selected is not None:
        return decision.selected
    if decision.source == "auto":
        msg = f"no backend can take this call. {decision}"
        raise BackendError(msg)
    verdicts = {c.name: f"backend {c.name!r} {c.status}: {c.reason}" for c in decision.candidates}
    why = "; ".join(verdicts[name] for name in decision.asked)
    msg = f"{why} (asked for by {decision.source}).\n{decision}"
    raise BackendRejectedError(msg)


def _kernel(entry: RegisteredBackend, decision: Decision) -> Callable[..., Any] | None:
    """Import the kernel; None if that fails in automatic selection, which then goes on."""
    operation = decision.problem.operation
    target = entry.backend.kernels[operation]
    try:
        kernel = load_target(target)
        if callable(kernel):
            return cast("Callable[..., Any]", kernel)
        error: Exception = TypeError(f"{shown(kernel)} can't be called")
    except Exception as raised:  # noqa: BLE001 - a plugin may raise anything
        error = raised
    reason = f"its kernel {target!r} can't be imported: {one_line(error)}"
    if decision.source != "auto":
        refusal = _refusal(decision, entry, ("unusable", reason))
        raise BackendError(refusal) from error
    plugins = registry()
    if plugins.mark_broken(entry.backend.name, operation, reason):
        _cache.clear()
        plugins.report_backend(entry, operation, reason, error)
    return None


def _refusal(decision: Decision, entry: RegisteredBackend, verdict: tuple[Status, str]) -> str:
    """Message for a backend that was asked for by name, selected, and then could not do it."""
    name = entry.backend.name
    status, reason = verdict
    after = choose(
        decision.problem,
        registry(),
        names=(name,),
        source=decision.source,
        overrides={name: verdict},
        thorough=True,
    )
    return f"backend {name!r} of {entry.provenance} {status}: {reason}.\n{after}"
