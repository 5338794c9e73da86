"""Look at what a kernel returned before the caller gets it.

The form is looked at in every call: library, device, shape and dtype. Losses are looked at where
values are checked: none is NaN or negative.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ctcx._arrays.facts import (
    describe,
    device_name,
    first_true,
    is_array,
    is_elsewhere,
    library_name,
    looked_into,
    namespace_of,
)
from ctcx._arrays.tensor_forms import UNREADABLE
from ctcx._errors import KernelError, printable
from ctcx._nesting import numbered
from ctcx._operations import OPERATIONS
from ctcx._typing import HALF_DTYPES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ctcx._arrays.facts import ArrayFacts
    from ctcx._dispatch.decision import Decision
    from ctcx._operations import ResultArray
    from ctcx._plugins.backend import Problem
    from ctcx._typing import Array

__all__ = ["check_form", "fault", "few_or_array", "first_where", "on_host", "wrong_losses"]


_FEW = 16
"""Numbers that are looked at sooner one by one than by a call of NumPy's."""


def check_form(
    result: Any,
    arrays: Sequence[Array],
    decision: Decision,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Raise what is wrong with the form of a kernel's result, if anything is; reads no values.

    Parameters
    ----------
    result
        Of the kernel.
    arrays
        Logits (N, T, C), labels (N, S) if the operation has any, and lengths, as the kernel got
        them.
    decision
        Whose kernel it was, and for what.
    options
        Of the kernel, by name.

    Raises
    ------
    KernelError
        It is not what :class:`ctcx.plugin.Backend` says a kernel returns.
    """
    problem = decision.problem
    operation = OPERATIONS[problem.operation]
    expected = operation.expected(options)
    given = (arrays[0], arrays[1] if operation.labels else None, options)
    if len(expected) == 1:
        _check_result(expected[0], result, given, decision)
    else:
        if not isinstance(result, tuple) or len(result) != len(expected):
            names = ", ".join(each.name for each in expected)
            raise fault(decision, f"returned {_kind(result)}, expected a tuple ({names})")
        for each, array in zip(expected, result):  # noqa: B905 - of one length, and each call pays
            _check_result(each, array, given, decision)


def _check_result(
    expected: ResultArray,
    array: Any,
    given: tuple[Array, Array | None, Mapping[str, Any] | None],
    decision: Decision,
) -> None:
    problem, logits = decision.problem, given[0]
    axes = expected.axes
    own: str | None = None
    # At once what the loss returns, as each call pays.
    shape = logits.shape[:1] if axes == "N" else expected.shape(*given)
    if expected.dtype != "logits":
        if expected.dtype in ("int32", "float64"):
            own = expected.dtype
        elif problem.dtype in HALF_DTYPES:
            own = "float32"
    if own or not _is_like(array, logits, shape, logits.dtype, problem):
        _check_array(expected.name, array, shape, own or problem.dtype, decision)
    if odd := _oddity(array, logits, problem):
        raise fault(decision, f"returned {odd} as {expected.name}, expected a plain one")
    if expected.dtype == "logits" and _is_in(array, logits, problem):
        raise fault(
            decision, f"returned memory of the logits as {expected.name}, expected a new array"
        )


def _oddity(array: Array, logits: Array, problem: Problem) -> str | None:
    """Say what is more than its elements about an array of the right library, if anything is."""
    if problem.namespace == "numpy" and type(array) is not np.ndarray:
        return f"an array of the type {printable(type(array).__qualname__)}"
    if problem.namespace == "torch" and not problem.traced:
        if array.requires_grad and not logits.requires_grad:
            return "a tensor that requires a gradient"
        if array.is_neg():
            return "a tensor with a lazy negative bit"
    return None


def _is_in(array: Array, logits: Array, problem: Problem) -> bool:
    """Whether a result lies in the memory of the logits, which are the caller's."""
    if problem.namespace == "numpy":
        return bool(np.may_share_memory(array, logits))
    if problem.namespace == "torch" and not problem.traced and 0 not in array.shape:
        return bool(array.data_ptr() == logits.data_ptr())
    return False


def wrong_losses(result: Any, facts: ArrayFacts) -> str | None:
    """Say which loss (N,), the first result, is NaN or negative though the input has passed."""
    loss = result[0] if isinstance(result, tuple) else result
    host = on_host(loss, facts)
    if host is None:
        right = bool(facts.xp.all(loss >= 0))
    elif isinstance(host, list):
        right = True
        for each in host:  # all() takes twice as long
            right = right and each >= 0
    else:
        right = bool(np.minimum.reduce(host) >= 0)  # NaN wins every minimum
    if right:
        return None
    n = first_true(~(loss >= 0), facts.xp)
    value = float(looked_into(loss)[n])
    return (
        f"returned a loss of {value} for sequence {numbered(n)}, whose values "
        "passed all checks; "
        f"expected a number of at least 0, or +inf where no path emits the labels"
    )


def first_where(condition: Array) -> int | None:
    """Index of the first sequence of which ``condition`` (N,) holds, if it holds of any."""
    xp = namespace_of(condition)
    return first_true(condition, xp) if bool(xp.any(condition)) else None


def on_host(loss: Array, facts: ArrayFacts) -> list[float] | NDArray[Any] | None:
    """Losses that lie in the host's memory: a list of a few, else an array; None for others."""
    if type(loss) is np.ndarray or (
        facts.namespace in ("torch", "jax.numpy", "mlx.core")
        and facts.device.startswith("cpu")
        and not facts.form & UNREADABLE
    ):
        return few_or_array(loss)
    return None


def few_or_array(loss: Array) -> list[float] | NDArray[Any]:
    """Losses (N,) in the host's memory: a list of a few, else an array."""
    few: list[float] | None = loss.tolist() if loss.shape[0] <= _FEW else None
    return np.asarray(loss) if few is None else few


def fault(decision: Decision, what: str) -> KernelError:
    """Error that names the plugin; ``what`` goes on from "its kernel"."""
    entry = decision.selected
    assert entry is not None  # noqa: S101 - its kernel was called
    backend, operation = entry.backend, decision.problem.operation
    if backend.name == "array-api":
        advice = "This is a fault of ctcx: please report it"
    else:
        where = f" ({backend.url})" if backend.url else ""
        advice = (
            f"This is a fault of the plugin: please report it to its authors{where}; "
            f"backend='array-api' computes without it"
        )
    return KernelError(
        f"backend {backend.name!r} of {entry.provenance}, operation {operation}: its kernel "
        f"{what}. {advice}",
        backend=backend.name,
        provenance=entry.provenance,
        operation=operation,
    )


def _is_like(array: Any, logits: Array, shape: Any, dtype: Any, problem: Problem) -> bool:
    """Whether it certainly is of this form and where the logits are: the common case, at once."""
    return (
        type(array) is type(logits)
        and array.shape == shape
        and array.dtype == dtype
        and (
            problem.namespace == "numpy"
            or (problem.namespace == "torch" and array.device == logits.device)
        )
    )


def _check_array(name: str, array: Any, shape: Any, dtype: str, decision: Decision) -> None:
    problem = decision.problem
    if not is_array(array):
        got, expected = _kind(array), f"an array of {problem.namespace}"
    elif (library := library_name(array)) != problem.namespace:
        got, expected = f"an array of {library}", f"one of {problem.namespace}"
    elif tuple(array.shape) != tuple(shape):
        got, expected = f"an array of shape {tuple(array.shape)}", f"{tuple(shape)}"
    elif (found := describe(array).dtype) != dtype:
        got, expected = f"an array of {found}", dtype
    elif not problem.traced and is_elsewhere(device := device_name(array), problem.device):
        got, expected = f"an array on {device}", problem.device
    else:
        return
    raise fault(decision, f"returned {got} as {name}, expected {expected}")


def _kind(value: object) -> str:
    if value is None:
        return "None"
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return f"an object of type {printable(type(value).__qualname__)}"
