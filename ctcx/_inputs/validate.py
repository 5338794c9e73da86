"""Checks of values: labels, lengths and logits. The only place that reads values of the input.

Host data (lists, NumPy labels beside any logits) is checked on the host, and so are arrays of JAX
that lie there. All else is folded into one boolean on the device, read once. Only when that says no
are values looked up, to say where.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ctcx._arrays.facts import device_of, first_true, is_numpy, looked_into, namespace_of
from ctcx._arrays.lending import lent
from ctcx._errors import CTCInputError
from ctcx._inputs.host_data import to_lists
from ctcx._nesting import numbered

if TYPE_CHECKING:
    from ctcx._inputs.prepare import KernelInputs
    from ctcx._typing import Array, ArrayModule

__all__ = ["check_integers", "check_values", "locate"]


def check_values(
    call: KernelInputs, *, time_major: bool = False, wildcards: tuple[int, ...] = ()
) -> None:
    """Raise what is wrong with the values, if anything is.

    ``wildcards`` are numbers that may stand among the labels though they are no classes.

    Raises CTCInputError: a length outside its range, a label out of range or equal to the blank, a
    NaN or +inf logit inside a sequence; with sequence, position and value.
    """
    call = _read_on_host(call)
    labels, ok_small = _integers_ok(call, call.logits.shape[2], wildcards)
    logits = call.logits
    if is_numpy(labels) and not is_numpy(logits):
        if not ok_small:
            _raise(call, time_major=time_major, wildcards=wildcards)
        ok = _logits_ok(call)
    else:
        ok = ok_small & _logits_ok(call)
    if not bool(ok):
        _raise(call, time_major=time_major, wildcards=wildcards)


def check_integers(call: KernelInputs, num_classes: int) -> None:
    """Raise what is wrong with labels and lengths where ``call.logits`` isn't of these classes.

    Raises CTCInputError, as :func:`check_values` does.
    """
    call = _read_on_host(call)
    _, ok = _integers_ok(call, num_classes, ())
    if not bool(ok):
        _locate_integers(call, num_classes)


def _read_on_host(call: KernelInputs) -> KernelInputs:
    """Let NumPy read arrays of JAX: see :mod:`ctcx._arrays.lending`."""
    if call.facts.namespace != "jax.numpy" or (integers := lent(*call[1:4])) is None:
        return call
    labels, logit_lengths, label_lengths = (  # as the caller wrote them, where that is known
        ours if host is None else host for ours, host in zip(integers, call[9:12], strict=True)
    )
    call = call._replace(
        host_labels=labels, host_logit_lengths=logit_lengths, host_label_lengths=label_lengths
    )
    if (logits := lent(call.logits)) is None:
        return call
    # Beside NumPy's logits, lengths of JAX would make programs of JAX's after all.
    return call._replace(
        logits=logits[0], logit_lengths=integers[1], facts=call.facts._replace(xp=np)
    )


def _integers_ok(
    call: KernelInputs, num_classes: int, wildcards: tuple[int, ...]
) -> tuple[Array, Array]:
    """Labels where they can best be read, and whether they and the lengths are right."""
    labels, logit_lengths, label_lengths = _best_copies(call)
    xp = namespace_of(labels)
    shape = (*call.logits.shape[:2], num_classes)
    ok = _small_ok(labels, logit_lengths, label_lengths, shape, call.blank, xp, wildcards)
    return labels, ok


def _best_copies(call: KernelInputs) -> tuple[Any, Any, Any]:
    """Labels and lengths on the host if every one is known there, else on the device."""
    count, frames, _ = call.logits.shape
    logit_lengths, label_lengths = call.host_logit_lengths, call.host_label_lengths
    if call.host_labels is None:
        return call.labels, call.logit_lengths, call.label_lengths
    width = call.host_labels.shape[1]
    if logit_lengths is None and call.full_frames:
        logit_lengths = np.full((count,), frames)
    if label_lengths is None and call.full_labels:
        label_lengths = np.full((count,), width)
    if logit_lengths is None or label_lengths is None:
        return call.labels, call.logit_lengths, call.label_lengths
    return call.host_labels, logit_lengths, label_lengths


def _small_ok(
    labels: Array,
    logit_lengths: Array,
    label_lengths: Array,
    shape: tuple[int, int, int],
    blank: int,
    xp: ArrayModule,
    wildcards: tuple[int, ...],
) -> Array:
    """Whether labels and lengths are right, as a 0-d boolean array."""
    _, frames, classes = shape
    width = labels.shape[1]
    # Comparisons and & keep all of it on the device.
    lengths_ok = (logit_lengths >= 0) & (logit_lengths <= frames)
    lengths_ok = lengths_ok & (label_lengths >= 0) & (label_lengths <= width)
    if width == 0:
        return xp.all(lengths_ok)
    position = xp.arange(0, width, dtype=label_lengths.dtype, device=device_of(labels))
    unused = position[None, :] >= label_lengths[:, None]
    fine = (labels >= 0) & (labels < classes) & (labels != blank)
    for wildcard in wildcards:
        fine = fine | (labels == wildcard)
    return xp.all((fine | unused) & lengths_ok[:, None])


def _logits_ok(call: KernelInputs) -> Array:
    """Whether no logit inside a sequence is NaN or +inf, as a 0-d boolean array.

    A maximum finds both, as NaN wins every maximum.
    """
    xp, logits = call.facts.xp, call.logits
    if 0 in logits.shape:
        return xp.ones((), dtype=xp.bool, device=device_of(logits))
    limit = float("inf")
    host_lengths = call.host_logit_lengths
    if call.full_frames or (host_lengths is not None and (host_lengths == logits.shape[1]).all()):
        return xp.max(logits) < limit
    frames = xp.arange(
        0,
        logits.shape[1],
        dtype=call.logit_lengths.dtype,
        device=device_of(logits),
    )
    outside = frames[None, :] >= call.logit_lengths[:, None]
    return xp.all((xp.max(logits, axis=2) < limit) | outside)


def _raise(call: KernelInputs, *, time_major: bool, wildcards: tuple[int, ...]) -> None:
    locate(call, time_major=time_major, wildcards=wildcards)
    msg = "the values of logits, labels or lengths are wrong in a way that could not be located"
    raise CTCInputError(msg, argument="logits")


def locate(call: KernelInputs, *, time_major: bool, wildcards: tuple[int, ...] = ()) -> None:
    """Find the first value that is wrong and raise it; return if there is none.

    Raises CTCInputError, as :func:`check_values` does.
    """
    logit_lengths = _locate_integers(call, call.logits.shape[2], wildcards)
    _report_logits(call, logit_lengths, time_major=time_major)


def _locate_integers(
    call: KernelInputs, classes: int, wildcards: tuple[int, ...] = ()
) -> list[int]:
    """Do the same for labels and lengths; returns the logit lengths."""
    labels, logit_lengths, label_lengths = (
        to_lists(array if host is None else host)  # as the caller wrote them, before any narrowing
        for array, host in (
            (call.labels, call.host_labels),
            (call.logit_lengths, call.host_logit_lengths),
            (call.label_lengths, call.host_label_lengths),
        )
    )
    frames, width = call.logits.shape[1], call.labels.shape[1]
    for argument, lengths, limit, axis in (
        ("logit_lengths", logit_lengths, frames, "frames"),
        ("label_lengths", label_lengths, width, "label positions"),
    ):
        for sequence, length in enumerate(lengths):
            if not 0 <= length <= limit:
                number = numbered(sequence)
                msg = (
                    f"{argument}[{number}] is {length}: expected 0 to {limit}, the number of {axis}"
                )
                raise CTCInputError(msg, argument=argument, sequence=number, value=length)
    for sequence, length in enumerate(label_lengths):
        for position, label in enumerate(labels[sequence][:length]):
            if label not in wildcards:
                _check_label(label, sequence, position, classes, call.blank, wildcards)
    found: list[int] = logit_lengths
    return found


def _check_label(
    label: int,
    sequence: int,
    position: int,
    classes: int,
    blank: int,
    wildcards: tuple[int, ...],
) -> None:
    if not 0 <= label < classes:
        problem = f"expected 0 to {classes - 1}, a class of the {classes} in the logits"
        if wildcards:
            problem += f", or a wildcard ({', '.join(map(str, wildcards))})"
        if label < 0:
            problem += "; padding belongs past the sequence's label_lengths (-1 is that of lists)"
    elif label == blank:
        problem = (
            f"that is the blank (blank={blank}), which no label may be; padding belongs past the "
            f"sequence's label_lengths"
        )
    else:
        return
    sequence = numbered(sequence)
    msg = f"labels[{sequence}, {position}] is {label} (sequence {sequence}, position {position}): "
    raise CTCInputError(
        msg + problem, argument="labels", sequence=sequence, position=position, value=label
    )


def _report_logits(call: KernelInputs, logit_lengths: list[int], *, time_major: bool) -> None:
    xp = call.facts.xp
    bad = looked_into(xp.isnan(call.logits) | (call.logits == float("inf")))
    xp = namespace_of(bad)
    for sequence, length in enumerate(logit_lengths):
        inside = bad[sequence, :length, :]
        if length and bool(xp.any(inside)):
            first = first_true(inside, xp)
            frame, label_class = divmod(first, call.logits.shape[2])
            value = float(looked_into(call.logits)[sequence, frame, label_class])
            number = numbered(sequence)
            index = (frame, number) if time_major else (number, frame)
            place = ", ".join(str(i) for i in ((frame,) if call.single else index))
            msg = (
                f"logits[{place}, {label_class}] is {value} (sequence {number}, frame {frame}, "
                f"class {label_class}): expected finite numbers, or -inf for a masked class, in "
                f"the {length} frames of the sequence"
            )
            raise CTCInputError(
                msg,
                argument="logits",
                sequence=number,
                position=(frame, label_class),
                value=value,
            )
