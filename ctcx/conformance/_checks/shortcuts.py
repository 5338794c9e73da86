"""Shortcuts take right calls only: everything else must end as it does without them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import ctcx
from ctcx._arrays.facts import namespace_of
from ctcx._dispatch.shortcut import has_shortcut, without_shortcuts
from ctcx._errors import CTCError
from ctcx.conformance._checks.declared import wrong_values
from ctcx.conformance._checks.judging import raise_if
from ctcx.conformance._checks.registry import check
from ctcx.conformance._failures import NotApplicable
from ctcx.conformance.cases import case

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ctcx.conformance._subject import CallArrays, Subject
    from ctcx.data.batch import Batch

__all__ = ["check_shortcuts"]


@check()
def check_shortcuts(subject: Subject) -> None:
    """A call that is wrong or unusual ends as without a shortcut: in the same error or result."""
    operations = {"loss": ctcx.ctc_loss, "loss_and_grad": ctcx.ctc_loss_and_grad}
    tried = [
        (name, function)
        for name, function in operations.items()
        if has_shortcut(name, subject.namespace, subject.backend)
    ]
    if not tried:
        msg = "it has no shortcuts for these arrays"
        raise NotApplicable(msg)
    faults = []
    for name, function in tried:
        for what, inputs, options in _calls(subject, case("ragged")):
            arrays = [array for array in inputs if type(array) is type(inputs[0])]  # no list
            before = [subject.state_of(array) for array in arrays]
            call = partial(function, *inputs, backend=subject.backend, **options)
            found = _ending(subject, call)
            with without_shortcuts():
                expected = _ending(subject, call)
            if found != expected:
                faults.append(f"{name} with {what}: {_shown(found)}, expected {_shown(expected)}")
            if before != [subject.state_of(array) for array in arrays]:
                faults.append(f"{name} with {what} changed an input")
    raise_if(faults)


def _ending(subject: Subject, call: Callable[[], Any]) -> tuple[str, ...]:
    """Say how a call ends: with which error, or which numbers."""
    try:
        result = call()
    except CTCError as error:
        return type(error).__name__, str(error)
    found = result if isinstance(result, tuple) else (result,)
    arrays = [subject.numpy(array) for array in found]
    return tuple(f"{array.dtype} {array.shape} {array.tolist()}" for array in arrays)


def _shown(ending: tuple[str, ...]) -> str:
    text = ": ".join(ending)
    return text if len(text) < 300 else f"{text[:300]}..."


def _calls(subject: Subject, batch: Batch) -> Iterator[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Yield what is wrong or unusual about a call, its arrays and its options."""
    blank = {"blank": batch.blank}
    for what, _, wrong in wrong_values(batch):
        yield what, subject.inputs(wrong), blank
    right = subject.inputs(batch)
    classes = batch.logits.shape[2]
    for odd in (-1, classes, -classes - 1, 10**30, True, 1.0, np.int64(batch.blank), None, "0"):
        yield f"blank={odd!r}", right, {"blank": odd}
    for option, values in {
        "reduction": ("sum", "mean", "mean_per_label", "median", None),
        "infeasible": ("zero", "raise", "nan"),
        "time_major": (1,),
        "validate": (False, 0),
    }.items():
        for value in values:
            yield f"{option}={value!r}", right, {**blank, option: value}
    yield from (
        (what, arrays, {**blank, **options})
        for what, arrays in _arrays(subject, batch, right)
        for options in ({}, {"reduction": "mean_per_label"})
    )


def _arrays(
    subject: Subject, batch: Batch, right: CallArrays
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield arrays of other dtypes, sizes and layouts than usual."""
    yield "no lengths", (right.logits, right.labels, None, None)
    for name in ("labels", "logit_lengths", "label_lengths"):
        values = getattr(batch, name)
        for dtype in ("int32", "int16", "uint8", "bool", "float32", "complex64"):
            yield (
                f"{name} of {dtype}",
                right._replace(**{name: subject.array(values.astype(dtype))}),
            )
        for what, other in {
            "one too few": values[:-1],
            "one too many": np.concatenate((values, values[:1])),
            "one axis more": values[..., None],
            "one axis less": values[0],
            "none at all": values[:0],
        }.items():
            yield f"{name} with {what}", right._replace(**{name: subject.array(other)})
        backwards = subject.array(values[::-1])[::-1] if subject.namespace == "numpy" else None
        if backwards is not None:
            yield f"{name} that lie backwards", right._replace(**{name: backwards})
            swapped = values.astype(">i8")
            yield f"{name} with bytes swapped", right._replace(**{name: swapped})
        yield f"{name} as a list", right._replace(**{name: values.tolist()})
    yield "no labels", right._replace(labels=None)
    logits = batch.logits
    for what, other in {
        "one sequence fewer": logits[:-1],
        "one axis": logits[0, 0],
        "two axes": logits[0],
        "four axes": logits[None],
        "no frames": logits[:, :0],
        "no classes": logits[..., :0],
        "no sequences": logits[:0],
    }.items():
        yield f"logits with {what}", right._replace(logits=subject.logits(other))
    for axes in ((1, 0, 2), (0, 2, 1)):
        turned = subject.logits(logits.transpose(axes))
        xp = namespace_of(turned)
        yield f"logits that lie as {axes}", right._replace(logits=xp.permute_dims(turned, axes))
    whole = subject.logits(np.repeat(logits, 2, axis=2))
    yield "every other class", right._replace(logits=whole[..., ::2])
    xp = namespace_of(whole)
    for axis in (0, 1):
        same = subject.logits(np.take(logits, [0], axis))
        repeated = xp.broadcast_to(same, logits.shape)
        yield f"logits repeated along axis {axis}", right._replace(logits=repeated)
    if subject.namespace == "numpy":
        read_only = right.logits.copy()
        read_only.flags.writeable = False
        yield "logits to be read only", right._replace(logits=read_only)
        for name in ("logits", "labels", "logit_lengths", "label_lengths"):
            yield f"{name} out of line", right._replace(**{name: _unaligned(getattr(right, name))})


def _unaligned(array: Any) -> Any:
    """Copy an array to an address that is no multiple of its elements' size."""
    copy = np.empty(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
