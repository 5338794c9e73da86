"""Call the shortcut of the backend that would be selected: one function for a whole plain call.

Selection and the usual checks look at one array after the other, in Python, which takes longer than
a small batch takes to compute. A shortcut (:attr:`ctcx.plugin.Backend.shortcuts`) looks at them by
itself, and bows out where anything is unusual. Then the call takes the usual way, which has the
words for what is wrong.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ctcx._arrays.facts import namespace_of
from ctcx._bounded import remember
from ctcx._dispatch.compute import problem_of
from ctcx._dispatch.decision import Decision
from ctcx._dispatch.dispatcher import (
    CACHE_SIZE,
    add_blame,
    blame_unreadable,
    circumstances,
    logger,
    select,
)
from ctcx._dispatch.requested import asked_for
from ctcx._dispatch.results import check_form, fault, few_or_array, wrong_losses
from ctcx._dispatch.selection import excluded, in_order, may_take
from ctcx._dispatch.tracing import listening, record
from ctcx._errors import CTCError, CTCInputError, one_line
from ctcx._inputs.prepare import prepare
from ctcx._isolation import is_the_users
from ctcx._plugins.backend import Decline, Feature
from ctcx._plugins.registry import registry
from ctcx._plugins.targets import load_target
from ctcx._reduction import weighted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ctcx._inputs.options import Options
    from ctcx._plugins.records import RegisteredBackend
    from ctcx._typing import Array

__all__ = ["by_shortcut", "has_shortcut", "without_shortcuts"]


class _Shortcut(NamedTuple):
    """A function, and whose it is."""

    function: Callable[..., Any]
    entry: RegisteredBackend
    takes_weights: bool


_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)

_found: dict[tuple[object, ...], _Shortcut | None] = {}


_allowed: ContextVar[bool] = ContextVar("ctcx_shortcuts", default=True)


@contextmanager
def without_shortcuts() -> Iterator[None]:
    """Let all calls inside the ``with`` block go the usual way, to compare both."""
    token = _allowed.set(False)
    try:
        yield
    finally:
        _allowed.reset(token)


def has_shortcut(operation: str, namespace: str, backend: str) -> bool:
    """Whether plain calls on such arrays go by a shortcut of the backend, if named."""
    return namespace in ("numpy", "torch") and _search(operation, namespace, backend) is not None


def by_shortcut(
    operation: str,
    arrays: tuple[Any, Any, Any, Any],
    blank: Any,
    options: Options,
    weights: Array | None = None,
) -> Any:
    """Compute losses (N,), or losses and gradient (N, T, C), if a shortcut takes the call.

    Parameters
    ----------
    operation
        ``"loss"`` or ``"loss_and_grad"``.
    arrays
        Logits (N, T, C), labels (N, S) and lengths or None: of NumPy, or plain tensors in the
        host's memory.
    blank, options
        As the caller passed them.
    weights
        (N,), of the gradient of each sequence.

    Returns
    -------
    array, (array, array) or None
        None if there is no shortcut, or it doesn't take the call, or the call ends in an error.

    Raises
    ------
    KernelError
        The shortcut returned something wrong, tried to end the process, or raised what can't be
        printed.
    Exception
        Whatever else it raises, with a note that says whose it is.
    """
    shortcut = _shortcut(operation, arrays[0], options.backend)
    if shortcut is None or not _allowed.get():
        return None
    try:
        if weights is not None and shortcut.takes_weights:
            result = shortcut.function(*arrays, blank, weights=weights)
        else:
            result = shortcut.function(*arrays, blank)
    except Decline:  # the kernel has its say
        return None
    except BaseException as error:
        _add_blame(error, operation, arrays, blank, shortcut.entry)
        raise
    if result is None:
        return None
    _check(result, operation, arrays, blank, shortcut.entry)
    if options.infeasible == "raise" and _has_infinite(operation, result):
        return None
    if listening.get():
        _record(_decision(operation, arrays, blank, shortcut.entry), options.backend)
    if weights is not None and not shortcut.takes_weights:
        loss, grad = result
        return loss, weighted(namespace_of(grad), grad, weights)
    return result


def _shortcut(operation: str, logits: Array, backend: str | None) -> _Shortcut | None:
    """Find the shortcut for a call; a second time in the same circumstances it is a look-up."""
    namespace = "numpy" if type(logits) is np.ndarray else "torch"
    try:
        key = operation, namespace, *circumstances(backend)
    except CTCInputError:  # no name: the usual way says so, unless the arrays are wrong, too
        return None
    try:
        return _found[key]
    except KeyError:
        shortcut = _search(operation, namespace, backend)
    remember(_found, key, shortcut, most=CACHE_SIZE)
    return shortcut


def _search(operation: str, namespace: str, backend: str | None) -> _Shortcut | None:
    """Find the shortcut of the first backend that may take calls on such arrays of any dtype."""
    plugins = registry()
    names, _ = asked_for(backend)
    if not plugins.backends.keys() >= set(names):
        return None
    for entry in in_order(plugins, names):
        its = entry.backend
        if excluded(entry, names) or not may_take(its, operation, namespace, "cpu"):
            continue
        target = its.shortcuts.get(operation)
        if target is None or plugins.broken(its.name, operation) or plugins.unusable(its.name):
            return None
        try:
            function = load_target(target)
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
            reason = f"its shortcut {target!r} can't be imported: {one_line(error)}"
            plugins.report_backend(entry, f"shortcut for {operation}", reason, error)
            return None
        logger.debug("plain calls of %s on %s: shortcut of %r", operation, namespace, its.name)
        return _Shortcut(function, entry, Feature.WEIGHTS in its.features)
    return None


def _is_right(result: Any, logits: Array, *, with_gradient: bool) -> bool:
    """Whether a result is certainly what it should be; False is no verdict."""
    if not with_gradient:
        losses, grad = result, None
    elif type(result) is tuple and len(result) == 2:
        losses, grad = result
    else:
        return False
    are_right = _are_right_arrays if type(logits) is np.ndarray else _are_right_tensors
    if not are_right(losses, grad, logits, with_gradient):
        return False
    host = few_or_array(losses)
    if not isinstance(host, list):
        return bool(np.minimum.reduce(host) >= 0)  # NaN wins every minimum
    right = True
    for each in host:  # all() takes twice as long
        right = right and each >= 0
    return right


def _are_right_arrays(losses: Any, grad: Any, logits: Any, with_gradient: bool) -> bool:  # noqa: FBT001
    dtype, shape = logits.dtype, logits.shape
    if with_gradient:
        if type(grad) is not np.ndarray or grad.dtype != dtype or grad.shape != shape:
            return False
        # The second question takes five times as long.
        has_own = grad.flags.owndata and logits.flags.owndata and grad is not logits
        if not has_own and np.may_share_memory(grad, logits):
            return False
    wide = _FLOAT64 if dtype.itemsize == 8 else _FLOAT32
    return type(losses) is np.ndarray and losses.dtype == wide and losses.shape == shape[:1]


def _are_right_tensors(losses: Any, grad: Any, logits: Any, with_gradient: bool) -> bool:  # noqa: FBT001
    torch, dtype = sys.modules["torch"], logits.dtype
    if with_gradient and not (
        type(grad) is torch.Tensor
        and grad.dtype is dtype
        and grad.shape == logits.shape
        and grad.is_cpu
        and not grad.requires_grad
        and not grad.is_neg()
        and grad.data_ptr() != logits.data_ptr()
    ):
        return False
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    return (
        type(losses) is torch.Tensor
        and losses.dtype is wide
        and losses.ndim == 1
        and losses.numel() == logits.shape[0]
        and losses.is_cpu
        and not losses.requires_grad
        and not losses.is_neg()
    )


def _record(taken: Decision, backend: str | None) -> None:
    """Tell all open trace blocks; raise KernelError if the usual way leads to another backend."""
    usual = select(taken.problem, backend)
    if usual.selected is not taken.selected:
        raise fault(taken, f"has a shortcut for a call that isn't its own.\n{usual}\n")
    record(usual)


def _has_infinite(operation: str, result: Any) -> bool:
    losses = result[0] if operation == "loss_and_grad" else result
    return np.inf in few_or_array(losses)


def _add_blame(
    error: BaseException,
    operation: str,
    arrays: tuple[Any, Any, Any, Any],
    blank: Any,
    entry: RegisteredBackend,
) -> None:
    """Do as :func:`add_blame`, or raise what is wrong with the call, if anything is."""
    try:
        decision = _decision(operation, arrays, blank, entry)
    except CTCInputError:
        if is_the_users(error):
            return
        raise
    add_blame(error, decision)


def _check(
    result: Any,
    operation: str,
    arrays: tuple[Any, Any, Any, Any],
    blank: Any,
    entry: RegisteredBackend,
) -> None:
    """Look at a result, whatever its attributes do."""
    try:
        if not _is_right(result, arrays[0], with_gradient=operation == "loss_and_grad"):
            _refuse(result, arrays, blank, _decision(operation, arrays, blank, entry))
    except CTCError:
        raise
    except BaseException as error:
        blame_unreadable(error, _decision(operation, arrays, blank, entry))
        raise


def _refuse(result: Any, arrays: tuple[Any, Any, Any, Any], blank: Any, decision: Decision) -> None:
    """Say what is wrong with a result, if anything is."""
    prepared = prepare(*arrays, blank, time_major=False)
    logits, *rest = prepared[:4]
    if prepared.facts.namespace == "torch":
        logits = logits.detach()  # as a kernel gets them
    check_form(result, (logits, *rest), decision)
    if wrong := wrong_losses(result, prepared.facts):
        raise fault(decision, wrong)


def _decision(
    operation: str, arrays: tuple[Any, Any, Any, Any], blank: Any, entry: RegisteredBackend
) -> Decision:
    """Describe the call and whose shortcut took it."""
    problem = problem_of(operation, prepare(*arrays, blank, time_major=False))
    return Decision(problem=problem, selected=entry, candidates=(), source="auto")
