"""Data of the host that callers pass: NumPy arrays of all kinds, and lists of integers."""

from __future__ import annotations

import operator
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from ctcx._arrays.facts import is_array, is_numpy, namespace_of
from ctcx._errors import CTCInputError, short_repr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ctcx._typing import Array

__all__ = [
    "as_integer",
    "check_integer_dtype",
    "check_sizes",
    "host_lengths",
    "integers",
    "is_list",
    "plain",
    "to_lists",
    "type_name",
    "what_to_pass",
    "whole_number",
]


def plain(argument: str, value: Any) -> Any:
    """Make a NumPy array or scalar a plain ``ndarray`` in aligned memory; pass on all else.

    Kernels take the address of an array and know nothing of subclasses, so each array that comes
    from a caller goes through here, before anything else is asked about it.

    Raises CTCInputError: a masked array: ctcx has no masks, and to ignore one would give a wrong
    number; an array of JAX's that has no values any more.
    """
    if type(value) is np.ndarray:
        return value if value.flags.aligned else value.copy()
    # NumPy imports these on first use: until then there is none.
    if isinstance(value, getattr(sys.modules.get("numpy.ma"), "MaskedArray", ())):
        lengths = {"logits": "logit_lengths", "labels": "label_lengths"}.get(argument)
        advice = (
            f"pass {argument}.filled(...)"
            if lengths is None
            else (
                f"pass {argument}.filled(0), and say in {lengths} how many of each sequence count"
            )
        )
        msg = f"{argument} must not be a masked array, as ctcx has no masks: {advice}"
        raise CTCInputError(msg, argument=argument)
    if isinstance(value, (np.ndarray, np.generic)):  # matrix, recarray, memmap; a scalar
        return plain(argument, np.asarray(value))
    jax = sys.modules.get("jax")
    if jax is not None and isinstance(value, jax.Array):
        _refuse_deleted(argument, value)
    return value


def _refuse_deleted(argument: str, array: Any) -> None:
    """Refuse an array of JAX's whose memory was given away: a kernel would be blamed for it."""
    if isinstance(array, sys.modules["jax"].core.Tracer) or not array.is_deleted():
        return
    msg = (
        f"{argument} is an array of JAX of shape {tuple(array.shape)} that was deleted, or donated "
        f"to a compiled function (donate_argnums): its values are gone. Call ctcx before that, or "
        f"pass what the function returned"
    )
    raise CTCInputError(msg, argument=argument)


def is_list(value: object) -> bool:
    """Whether it is one of the kinds of lists that ctcx takes for labels and lengths.

    Not sets, dicts and generators, whose order or length isn't known; not strings.
    """
    return isinstance(value, (list, tuple, range))


def integers(
    argument: str, values: Sequence[Any], sequence: int | None = None
) -> NDArray[np.int64]:
    """Integers of a list, one by one if need be.

    They are the labels of a ``sequence``; without one they are lengths, one for each sequence.

    Raises CTCInputError: one that is no integer, or needs more than 64 bits; names sequence,
    position and value.
    """
    if set(map(type, values)) <= {int}:
        try:
            return np.fromiter(values, dtype=np.int64, count=len(values))
        except OverflowError:
            pass
    found = np.empty(len(values), dtype=np.int64)
    for place, value in enumerate(values):
        index = as_integer(value)
        if index is None:
            where = f"[{place}]" if sequence is None else f"[{sequence}][{place}]"
            msg = (
                f"{argument}{where} is {short_repr(value)} of type {type_name(value)}: expected "
                f"{_expected(value)}"
            )
            raise CTCInputError(
                msg,
                argument=argument,
                sequence=place if sequence is None else sequence,
                position=None if sequence is None else place,
                value=value,
            )
        found[place] = index
    return found


def _expected(value: object) -> str:
    """Return what an integer should have been, for one that :func:`as_integer` refuses."""
    if isinstance(value, (bool, np.bool_)):
        return "an integer, which booleans don't count as"
    return f"an integer{' of at most 64 bits' if isinstance(value, int) else ''}"


def as_integer(value: object) -> int | None:
    """Return a value as an integer of 64 bits; None for anything else, booleans too."""
    index = whole_number(value)
    return index if index is not None and -(2**63) <= index < 2**63 else None


def whole_number(value: object) -> int | None:
    """Return a value as an integer of any size; None for anything else, booleans too."""
    if isinstance(value, (bool, np.bool_)) or str(getattr(value, "dtype", "")).endswith("bool"):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type] # which is the question
    except Exception:  # noqa: BLE001 - arrays of several elements, and those that are traced
        return None


def host_lengths(argument: str, given: Any) -> NDArray[Any]:
    """Lengths that are no array, as an array: an int as a 0-d one, a list as a 1-d one.

    Raises CTCInputError for anything else, and for what is no integer.
    """
    if is_list(given):
        return integers(argument, given)
    length = as_integer(given)
    if length is None:
        msg = (
            f"{argument} must be an array or list of integers, or an int for one sequence; got "
            f"{type_name(given)}{what_to_pass(given)}"
        )
        raise CTCInputError(msg, argument=argument, value=given)
    return np.asarray(length)


def check_sizes(argument: str, array: Any) -> None:
    """Refuse sizes that aren't known: None in the array API standard, NaN in dask."""
    for size in array.shape:  # no size of JAX's or PyTorch's may be compared here
        if size is None or isinstance(size, float):
            advice = (
                "give each axis a number, as results are computed for these sizes"
                if size is None
                else f"call {argument}.compute_chunk_sizes() first"
            )
            msg = f"{argument} must have known sizes; got {tuple(array.shape)}: {advice}"
            raise CTCInputError(msg, argument=argument)


def check_integer_dtype(argument: str, array: Any) -> None:
    """Refuse arrays of floats, booleans and objects.

    Raises CTCInputError, which names the dtype.
    """
    if is_numpy(array):
        integral = array.dtype.kind in "iu"
    else:
        try:
            integral = namespace_of(array).isdtype(array.dtype, "integral")
        except TypeError:  # a dtype that the standard doesn't know, such as that of JAX's keys
            integral = False
    if not integral:
        msg = f"{argument} must have an integer dtype, got {array.dtype}"
        if argument == "labels" and array.ndim == 3:
            msg += "; for one-hot labels call ctcx.labels_from_one_hot first"
        raise CTCInputError(msg, argument=argument)


def to_lists(array: Array) -> Any:
    """Values of a small array; one by one where a library has no call for it."""
    if hasattr(array, "tolist"):
        return array.tolist()
    if array.ndim == 0:
        is_float = namespace_of(array).isdtype(array.dtype, "real floating")
        return float(array) if is_float else int(array)
    return [to_lists(array[i, ...]) for i in range(array.shape[0])]


def type_name(value: object) -> str:
    """Name of a type, as its users write it."""
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def what_to_pass(value: Any, *, or_list: bool = True) -> str:
    """End of a message: how to make an array, or a list, of something that is none."""
    if is_array(value) or is_list(value) or isinstance(value, (str, bytes)):
        return ""
    if hasattr(value, "to_numpy"):  # data frames and series
        return "; pass its values, x.to_numpy()"
    if hasattr(value, "__array__") or isinstance(value, memoryview):
        return "; pass numpy.asarray(x)"
    if or_list and hasattr(value, "__iter__"):
        return "; pass a list, in the order that counts"
    return ""
