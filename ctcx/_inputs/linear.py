"""The arrays of a linear layer before the loss: hidden states, weight and bias."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from ctcx._arrays.facts import any_traced, device_of, first_true, looked_into
from ctcx._errors import CTCInputError, short_repr
from ctcx._inputs.beside import check_beside
from ctcx._inputs.host_data import plain, whole_number
from ctcx._inputs.labels import resolve_blank
from ctcx._inputs.prepare import KernelInputs, check_frames, prepare
from ctcx._inputs.validate import check_integers
from ctcx._typing import DTYPES

if TYPE_CHECKING:
    from ctcx._typing import Array, ArrayModule

__all__ = ["HeadInputs", "check_chunk", "check_head_values", "check_logits", "prepare_head"]


class HeadInputs(NamedTuple):
    """The arrays of a call with a linear layer."""

    call: KernelInputs
    """As for a call without one, with the hidden states (N, T, D) in the place of the logits;
    ``call.blank`` is the class in ``range(C)``."""
    weight: Array
    bias: Array | None
    """(C, D), and (C,) or None."""
    time_major: bool
    """Whether the caller's hidden states are (T, N, D)."""

    @property
    def traced(self) -> bool:
        """Whether values can't be read."""
        given = (self.weight,) if self.bias is None else (self.weight, self.bias)
        return self.call.facts.traced or any_traced(*given)


def prepare_head(
    hidden: Any,
    weight: Any,
    bias: Any,
    labels: Any,
    logit_lengths: Any,
    label_lengths: Any,
    *,
    blank: int,
    time_major: bool,
) -> HeadInputs:
    """Check all that can be checked without values.

    Raises CTCInputError: a wrong type, dtype or shape; another library or device than that of the
    hidden states.
    """
    hidden, weight = plain("hidden", hidden), plain("weight", weight)
    check_frames("hidden", hidden, "D")
    if hidden.shape[-1] == 0:
        msg = f"hidden must have a last axis D of at least 1; got shape {tuple(hidden.shape)}"
        raise CTCInputError(msg, argument="hidden")
    _check_layer("weight", weight, hidden)
    if weight.ndim != 2 or weight.shape[1] != hidden.shape[-1] or weight.shape[0] == 0:
        turned = weight.ndim == 2 and weight.shape[0] == hidden.shape[-1]
        msg = (
            f"weight must have shape (C, {hidden.shape[-1]}), a row for each class, to go with "
            f"hidden of shape {tuple(hidden.shape)}; got {tuple(weight.shape)}"
            f"{': pass its transpose' if turned else ''}"
        )
        raise CTCInputError(msg, argument="weight")
    if bias is not None:
        bias = plain("bias", bias)
        _check_layer("bias", bias, hidden)
        if tuple(bias.shape) != (weight.shape[0],):
            msg = (
                f"bias must have shape ({weight.shape[0]},), a number for each row of weight, or "
                f"be None; got {tuple(bias.shape)}"
            )
            raise CTCInputError(msg, argument="bias")
    blank = resolve_blank(blank, weight.shape[0])
    try:
        call = prepare(hidden, labels, logit_lengths, label_lengths, 0, time_major=time_major)
    except CTCInputError as error:
        raise _about_hidden(error) from None
    return HeadInputs(call._replace(blank=blank), weight, bias, time_major and not call.single)


def _check_layer(argument: str, array: Any, hidden: Array) -> None:
    try:
        check_beside(argument, array, hidden, DTYPES)
    except CTCInputError as error:
        raise _about_hidden(error) from None


def _about_hidden(error: CTCInputError) -> CTCInputError:
    """Say the same of hidden states, which stand in the place of the logits."""
    text = re.sub(r"\b[Tt]he logits are\b", "hidden is", str(error))
    text = re.sub(r"(\([NT, ]*)C\)", r"\1D)", re.sub(r"\blogits\b", "hidden", text))
    argument = "hidden" if error.argument == "logits" else error.argument
    return CTCInputError(
        text,
        argument=argument,
        sequence=error.sequence,
        position=error.position,
        value=error.value,
    )


def check_chunk(chunk: Any) -> int | None:
    """Give how many classes the caller wants in a block, if any number is given.

    Raises CTCInputError for anything but a positive int.
    """
    number = None if chunk is None else whole_number(chunk)
    if chunk is not None and (number is None or number < 1):
        msg = f"chunk must be a positive int, or None for a good one; got {short_repr(chunk)}"
        raise CTCInputError(msg, argument="chunk", value=chunk)
    return number


def check_head_values(head: HeadInputs) -> None:
    """Refuse wrong labels and lengths, and hidden states, weights and biases that are not finite.

    A bias of -inf masks a class.

    Raises CTCInputError, which says what is wrong and where.
    """
    call, xp = head.call, head.call.facts.xp
    check_integers(call, head.weight.shape[0])
    inside = _inside(call)
    ok = xp.all(xp.isfinite(call.logits) | ~inside[:, :, None]) & xp.all(xp.isfinite(head.weight))
    if head.bias is not None:
        ok = ok & xp.all(head.bias < float("inf"))
    if bool(ok):
        return
    bad = inside[:, :, None] & ~xp.isfinite(call.logits)
    if bool(xp.any(bad)):
        _refuse_hidden(head, bad)
    if not bool(xp.all(xp.isfinite(head.weight))):
        row, column = divmod(first_true(~xp.isfinite(head.weight), xp), head.weight.shape[1])
        value = float(looked_into(head.weight)[row, column])
        msg = f"weight[{row}, {column}] is {value}: expected finite numbers"
        raise CTCInputError(msg, argument="weight", position=(row, column), value=value)
    place = first_true(~(head.bias < float("inf")), xp)  # type: ignore[operator]
    value = float(looked_into(head.bias)[place])
    msg = f"bias[{place}] is {value}: expected finite numbers, or -inf for a masked class"
    raise CTCInputError(msg, argument="bias", position=place, value=value)


def _refuse_hidden(head: HeadInputs, bad: Array) -> None:
    call = head.call
    _, frames, features = call.logits.shape
    sequence, rest = divmod(first_true(bad, call.facts.xp), frames * features)
    frame, feature = divmod(rest, features)
    value = float(looked_into(call.logits)[sequence, frame, feature])
    index = (frame,) if call.single else (sequence, frame)
    place = ", ".join(map(str, (*(reversed(index) if head.time_major else index), feature)))
    length = int(looked_into(call.logit_lengths)[sequence])
    msg = (
        f"hidden[{place}] is {value} (sequence {sequence}, frame {frame}, feature {feature}): "
        f"expected finite numbers in the {length} frames of the sequence"
    )
    raise CTCInputError(
        msg, argument="hidden", sequence=sequence, position=(frame, feature), value=value
    )


def check_logits(call: KernelInputs, logits: Array, total: Array, dtype: str) -> None:
    """Refuse finite hidden states and weights whose products are not.

    ``logits`` are those of the sequences' own classes, ``total`` the sums for the others.

    Raises CTCInputError, which names sequence and frame.
    """
    xp = call.facts.xp
    bad = xp.isnan(total) | xp.any(~(logits < float("inf")), axis=2)
    bad = bad & _inside(call)
    if not bool(xp.any(bad)):
        return
    sequence, frame = divmod(first_true(bad, xp), bad.shape[1])
    msg = (
        f"hidden and weight give logits beyond the range of {dtype} in sequence {sequence}, frame "
        f"{frame}: scale them down, or pass float64"
    )
    raise CTCInputError(msg, argument="hidden", sequence=sequence, position=frame)


def _inside(call: KernelInputs) -> Array:
    """Whether a frame is one of its sequence, (N, T)."""
    xp: ArrayModule = call.facts.xp
    lengths = call.logit_lengths
    frames = xp.arange(call.logits.shape[1], dtype=lengths.dtype, device=device_of(call.logits))
    inside: Array = frames[None, :] < lengths[:, None]
    return inside
