"""Calls on arrays that hold no values yet, such as those of dask.array: a backend takes them whole.

A kernel for such arrays (:attr:`ctcx.plugin.Feature.LAZY`) gets the arguments of the public
function instead of checked arrays. What can be told without values is checked before, on arrays of
NumPy that have the same shapes and dtypes, and no memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ctcx._arrays.facts import describe, device_name, is_array, is_numpy, library_name
from ctcx._dispatch.dispatcher import select
from ctcx._dispatch.requested import asked_for
from ctcx._dispatch.tracing import record
from ctcx._errors import CTCInputError
from ctcx._inputs.host_data import is_list, plain
from ctcx._inputs.options import check_flags
from ctcx._inputs.prepare import check_library, prepare, prepare_logits
from ctcx._operations import OPERATIONS
from ctcx._plugins.backend import Feature, Problem
from ctcx._plugins.registry import load_kernel, registry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ctcx._inputs.prepare import KernelInputs

__all__ = ["call_whole", "is_lazy", "whole_problem"]

_known: dict[tuple[type, int], bool] = {}


def is_lazy(logits: Any) -> bool:
    """Whether a backend takes whole calls on arrays of this library."""
    kind = type(logits)
    if kind is np.ndarray:
        return False
    key = kind, registry().generation
    found = _known.get(key)
    if found is None:
        found = is_array(logits) and library_name(logits) in registry().lazy_namespaces
        _known[key] = found
    return found


def call_whole(
    operation: str,
    arrays: Mapping[str, Any],
    *,
    blank: int,
    time_major: bool,
    backend: str | None,
    **options: Any,
) -> Any:
    """Let the backend of a lazy library take a call; ``arrays`` are its array arguments by name.

    Returns what the kernel returns; None if the selected backend computes step by step, as any
    array library's calls are.

    Raises CTCInputError: a wrong type, dtype or shape. BackendError: no backend can take the call.
    """
    prepared = _checked(operation, arrays, blank, time_major=time_major)
    decision = select(_problem(operation, arrays["logits"], prepared), backend)
    entry = decision.selected
    if entry is None or Feature.LAZY not in entry.backend.features:
        return None
    names, _ = asked_for(backend)
    others = tuple(name for name in names if name != entry.backend.name) if names else None
    result = load_kernel(entry.backend.name, operation)(
        **_given(arrays, prepared),
        blank=prepared.blank,
        time_major=time_major,
        backends=others,
        **options,
    )
    record(decision)
    return result


def whole_problem(
    operation: str, arrays: Mapping[str, Any], *, blank: int, time_major: bool
) -> Problem:
    """Describe a call on lazy arrays.

    Raises CTCInputError: a wrong type, dtype or shape.
    """
    prepared = _checked(operation, arrays, blank, time_major=time_major)
    return _problem(operation, arrays["logits"], prepared)


def _checked(
    operation: str, arrays: Mapping[str, Any], blank: Any, *, time_major: bool
) -> KernelInputs:
    """Check all that can be told without values, on arrays that have none."""
    check_flags(time_major=time_major)
    logits, *others = arrays.values()
    axis = 1 if time_major else 0
    counts = [] if logits.ndim == 2 else [logits.shape[axis : axis + 1], *map(_rows, others)]
    count = next((rows[0] for rows in counts if rows and _is_known(rows[0])), 0)
    stand_ins: list[Any] = [_stand_in("logits", logits, None if logits.ndim == 2 else axis, count)]
    names = [name for name in arrays if name != "logits"]
    for name, array in zip(names, others, strict=True):
        given = plain(name, array)
        if is_array(given) and not is_numpy(given):
            check_library(name, given, describe(logits))
        lazy = is_lazy(given) or (name == "labels" and is_numpy(given))
        stand_ins.append(_stand_in(name, given, 0, count) if lazy else given)
    if OPERATIONS[operation].labels:
        logits, labels, logit_lengths, label_lengths = stand_ins
        given = (logits, labels, logit_lengths, label_lengths)
        return prepare(*given, blank, time_major=time_major)
    logits, logit_lengths = stand_ins
    return prepare_logits(logits, logit_lengths, blank, time_major=time_major)


def _rows(array: Any) -> tuple[Any, ...]:
    """Size of the first axis, or nothing if it has none."""
    if is_array(array):
        return tuple(array.shape[:1])
    return (len(array),) if is_list(array) else ()


def _is_known(size: Any) -> bool:
    return bool(size == size)  # noqa: PLR0124 - an unknown size is NaN


def _stand_in(argument: str, array: Any, axis: int | None, count: int) -> Any:
    """Make an array of the same shape and dtype; of ``count`` sequences if that isn't known."""
    shape = list(array.shape)
    if axis is not None and shape[axis : axis + 1] and not _is_known(shape[axis]):
        shape[axis] = count
    if not all(map(_is_known, shape)):
        msg = (
            f"{argument} must have known sizes, the number of sequences excepted; got "
            f"{tuple(array.shape)}: call {argument}.compute_chunk_sizes() first"
        )
        raise CTCInputError(msg, argument=argument)
    dtype = array.dtype
    if dtype.kind in "iu" and argument != "logits":
        dtype = np.dtype(np.int64)  # else a copy would be made of it
    return np.broadcast_to(np.zeros((), dtype), tuple(shape))


def _problem(operation: str, logits: Any, prepared: KernelInputs) -> Problem:
    count, frames, classes = prepared.logits.shape
    return Problem(
        operation=operation,
        namespace=library_name(logits),
        device=device_name(logits),
        dtype=prepared.facts.dtype,
        N=count,
        T=frames,
        C=classes,
        S=prepared.labels.shape[1],
        blank=prepared.blank,
        lazy=True,
    )


def _given(arrays: Mapping[str, Any], prepared: KernelInputs) -> dict[str, Any]:
    """Return the arrays of a call, lists as arrays of NumPy."""
    given = dict(arrays)
    if "labels" in given and is_list(given["labels"]):
        given["labels"] = prepared.labels[0] if prepared.single else prepared.labels
    for name, host in (
        ("logit_lengths", prepared.host_logit_lengths),
        ("label_lengths", prepared.host_label_lengths),
    ):
        if name in given and not is_array(given[name]):
            given[name] = host
    return given
