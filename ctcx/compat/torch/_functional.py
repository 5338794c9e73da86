"""``ctc_loss`` with the signature of PyTorch's; imports no torch."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np

from ctcx._api.loss import ctc_loss as _ctc_loss
from ctcx._arrays.facts import is_array
from ctcx._arrays.tensor_forms import (
    OPAQUE,
    form_of,
    form_of_modes,
    hidden_from_dynamo,
    is_torch_recording,
)
from ctcx._errors import short_repr
from ctcx._inputs.concatenated import padded
from ctcx._inputs.host_data import plain
from ctcx.compat._shared.argument_names import in_terms, refuse, shape_of
from ctcx.compat.torch._errors import CTCInputRuntimeError, CTCInputTypeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctcx._arrays.tensor_forms import Form
    from ctcx._inputs.options import ReductionName
    from ctcx._typing import Array

__all__ = ["REDUCTIONS", "ctc_loss"]

_TERMS = {
    "logits": "log_probs",
    "labels": "targets",
    "logit_lengths": "input_lengths",
    "label_lengths": "target_lengths",
}
REDUCTIONS: dict[str, ReductionName] = {"none": "none", "sum": "sum", "mean": "mean_per_label"}


@hidden_from_dynamo
def ctc_loss(
    log_probs: Array,
    targets: Array,
    input_lengths: Array | Sequence[int],
    target_lengths: Array | Sequence[int],
    blank: int = 0,
    reduction: Literal["none", "mean", "sum"] = "mean",
    zero_infinity: bool = False,  # noqa: FBT001, FBT002 - torch's signature
) -> Array:
    """CTC loss with the signature of ``torch.nn.functional.ctc_loss``.

    Parameters
    ----------
    log_probs : array (T, N, C) or (T, C)
        Logarithms of probabilities, as from ``log_softmax``. Of any array library.
    targets : array of int (N, S), (sum of target_lengths,) or (S,)
        Padded, or concatenated; (S,) for one sequence without a batch axis.
    input_lengths : array of int (N,), or tuple of int
        Frames of each sequence; an int or () for one sequence.
    target_lengths : array of int (N,), or tuple of int
        Labels of each sequence; an int or () for one sequence.
    blank : int
        Class of the blank; unlike in torch, negative ones count from the end.
    reduction : {"mean", "sum", "none"}
        ``"mean"`` divides each loss by its number of labels (at least 1), then takes the mean.
    zero_infinity : bool
        Whether sequences whose labels no path emits count as 0 instead of +inf. Their gradient is
        0 either way.

    Returns
    -------
    array () or (N,)
        In the library and on the device of ``log_probs``; float64 for float64, else float32.
        Differentiable where ``log_probs`` are, with torch's convention: the gradient is the one
        with respect to what went into ``log_softmax``.

    Raises
    ------
    CTCInputError
        Wrong ranks, shapes, dtypes, libraries or devices; a target out of range or equal to the
        blank; lengths out of range, or, for concatenated targets, of the wrong sum.

    Examples
    --------
    >>> import numpy as np
    >>> from ctcx.compat.torch import ctc_loss
    >>> log_probs = np.log(np.full((4, 2, 3), 1 / 3))
    >>> ctc_loss(log_probs, np.asarray([1, 2, 1]), (4, 3), (2, 1), reduction="none").round(4)
    array([1.6864, 1.5041])
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        given = (log_probs, targets, input_lengths, target_lengths)
        if torch.overrides.has_torch_function(given):  # a subclass, a mode, or a Proxy of torch.fx
            words = {"blank": blank, "reduction": reduction, "zero_infinity": zero_infinity}
            return torch.overrides.handle_torch_function(ctc_loss, given, *given, **words)
    if not hasattr(blank, "__index__"):
        _refuse_type("blank", "be an int", blank)
    if reduction not in REDUCTIONS:
        refuse("reduction", 'be "none", "mean" or "sum"', repr(reduction))
    if not isinstance(zero_infinity, (bool, np.bool_)):
        _refuse_type("zero_infinity", "be True or False", zero_infinity)
    options = (blank, reduction, zero_infinity)
    if torch is not None and is_torch_recording(log_probs):
        from ctcx.compat.torch import _operators

        return _operators.recorded(*given, *options)
    if not is_array(log_probs):
        _refuse_type("log_probs", "have shape (T, N, C), or (T, C) for one sequence", log_probs)
    if not is_array(targets):
        _refuse_type("targets", "be an array of ints", targets)
    with in_terms(_TERMS, CTCInputRuntimeError):
        return _computed(log_probs, targets, input_lengths, target_lengths, *options)


def _computed(
    log_probs: Array,
    targets: Array,
    input_lengths: Any,
    target_lengths: Any,
    blank: int,
    reduction: str,
    zero_infinity: bool,  # noqa: FBT001 - torch's signature
) -> Array:
    if getattr(log_probs, "is_nested", False):  # and has no shape
        form_of("log_probs", log_probs)
    if log_probs.ndim not in {2, 3}:
        _refuse("log_probs", "have shape (T, N, C), or (T, C) for one sequence", log_probs)
    single = log_probs.ndim == 2
    count = 1 if single else log_probs.shape[1]
    input_lengths = _lengths("input_lengths", input_lengths, log_probs, count)
    target_lengths = _lengths("target_lengths", target_lengths, log_probs, count)
    targets = _beside("targets", targets, log_probs)
    ranks = {1} if single else {1, 2}
    if targets.ndim not in ranks or (targets.ndim == 2 and targets.shape[0] != count):
        shapes = "(S,)" if single else f"({count}, S), or one axis with all targets in a row,"
        _refuse(
            "targets",
            f"have shape {shapes} to go with log_probs {tuple(log_probs.shape)}",
            targets,
        )
    if targets.ndim == 1 and not single:
        arrays = (log_probs, targets, input_lengths, target_lengths)
        if _form(*arrays) & OPAQUE:  # no length can be read
            from ctcx.compat.torch import _operators

            return _operators.assembled(*arrays, blank, reduction, zero_infinity)
        targets = padded(targets, target_lengths)
    return _ctc_loss(
        log_probs,
        targets,
        input_lengths,
        target_lengths,
        blank=blank,
        time_major=not single,
        reduction=REDUCTIONS[reduction],
        infeasible="zero" if zero_infinity else "inf",
    )


def _form(*arrays: Any) -> Form:
    """Forms of the tensors of PyTorch among the arguments, which must be dense."""
    torch = sys.modules.get("torch")
    if torch is None:
        return 0
    form = form_of_modes()
    for argument, array in zip(_TERMS.values(), arrays, strict=True):
        if isinstance(array, torch.Tensor):
            form |= form_of(argument, array)
    return form


def _lengths(argument: str, lengths: Any, log_probs: Array, count: int) -> Any:
    """Lengths as an array (N,) of the host or of the library of ``log_probs``."""
    if not is_array(lengths):
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(lengths, (list, tuple)):
            # A tracer with symbols for numbers notes that these are fixed.
            lengths = [int(n) if isinstance(n, torch.SymInt) else n for n in lengths]
        try:
            array = np.asarray(lengths, dtype=None if np.size(lengths) else np.int64)
        except (TypeError, ValueError):
            _refuse_type(argument, "be integers", lengths)
        if array.dtype.kind not in "iu":
            _refuse_type(argument, "have an integer dtype", lengths)
        lengths = array
    lengths = _beside(argument, lengths, log_probs)
    if lengths.shape == (count,):
        return lengths
    # PyTorch looks at the number of elements alone.
    if math.prod(lengths.shape) != count:
        _refuse(argument, f"have shape ({count},), one for each sequence", lengths)
    return lengths.reshape((count,))


def _beside(argument: str, array: Any, log_probs: Array) -> Any:
    """Return the array; a NumPy one for a torch tensor on the CPU beside another device's."""
    array = plain(argument, array)
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(log_probs, torch.Tensor):
        return array
    if not isinstance(array, torch.Tensor):
        return array
    on_host = array.device.type == "cpu" and log_probs.device.type != "cpu"
    # .numpy() of the tensor itself would take from it, for good, that it can be resized.
    return array.clone().numpy() if on_host else array


def _refuse(argument: str, expected: str, array: Array) -> NoReturn:
    refuse(argument, expected, shape_of(array), CTCInputRuntimeError)


def _refuse_type(argument: str, expected: str, value: object) -> NoReturn:
    got = f"{short_repr(value)} of type {type(value).__name__}"
    refuse(argument, expected, got, CTCInputTypeError)
