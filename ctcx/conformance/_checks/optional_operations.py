"""Call a public function of an optional operation, and check what is not about the numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ctcx
from ctcx._arrays.facts import describe
from ctcx._errors import BackendRejectedError, KernelError
from ctcx.conformance._failures import CheckFailure, NotApplicable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ctcx._typing import Array
    from ctcx.conformance._subject import CallArrays, Subject
    from ctcx.conformance.cases import Batch

__all__ = ["call_by_name", "check_forms"]


def call_by_name(
    subject: Subject,
    operation: str,
    batch: Batch,
    inputs: CallArrays,
    call: Callable[[], Any],
    *more: Array,
) -> Any:
    """Return what ``call`` does, in which the named backend alone computes and changes no input."""
    arrays = (*inputs, *more)
    before = [subject.numpy(array).tobytes() for array in arrays]
    try:
        with ctcx.trace() as runs:
            found = call()
        subject.check_who_ran(runs, operation)
    except BackendRejectedError as error:
        if reason := subject.declined_by_itself(batch, inputs.logits, operation):
            msg = f"its accepts() rejects case {batch.name!r}: {reason}"
            raise NotApplicable(msg) from error
        raise
    except (CheckFailure, KernelError) as failure:
        msg = f"case {batch.name!r}: {failure}"
        raise CheckFailure(msg) from failure
    if [subject.numpy(array).tobytes() for array in arrays] != before:
        msg = f"case {batch.name!r}: the kernel changed an input; inputs are read-only"
        raise CheckFailure(msg)
    return found


def check_forms(
    batch: Batch,
    inputs: CallArrays,
    found: Iterable[tuple[str, Array, str, tuple[int, ...]]],
) -> None:
    """Fail for an array of a wrong library, device, dtype or shape.

    ``found`` are names, arrays, dtypes (``"loss"`` for that of the loss) and shapes.
    """
    given = describe(inputs.logits)
    real = "float64" if given.dtype == "float64" else "float32"
    for name, array, kind, shape in found:
        now = describe(array)
        is_now = (now.namespace, now.device, now.dtype, tuple(array.shape))
        right = (given.namespace, given.device, real if kind == "loss" else kind, shape)
        if is_now != right:
            msg = f"case {batch.name!r}: {name} is {is_now}, expected {right}"
            raise CheckFailure(msg)
