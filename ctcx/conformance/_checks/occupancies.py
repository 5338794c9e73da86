"""Occupancies are right: of classes and of states, with the loss beside them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

import ctcx
from ctcx._plugins.backend import Feature
from ctcx._plugins.targets import load_target
from ctcx._reference.oracle import round_to_dtype
from ctcx._reference.posterior import Posterior, enumerate_posterior, occupancies
from ctcx._reference.tolerances import TOLERANCES
from ctcx.conformance._checks.delegation import raise_if_delegated
from ctcx.conformance._checks.judging import in_group, pick, raise_if
from ctcx.conformance._checks.optional_operations import (
    call_by_name,
    check_forms,
    drawn_batch,
    judge_each,
    not_refused,
    other_layouts,
    raise_if_padding_counts,
    wrong_values,
)
from ctcx.conformance._checks.registry import check
from ctcx.conformance._failures import CheckFailure
from ctcx.conformance.cases import Batch, case

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from ctcx.conformance._subject import CallArrays, Subject

__all__ = ["drawn"]


@dataclass(frozen=True, eq=False, slots=True)
class _ReadBack:
    """Occupancies, read back into NumPy."""

    classes: NDArray[np.float64]
    states: NDArray[np.float64]
    loss: NDArray[np.float64]


def _call(
    subject: Subject, batch: Batch, inputs: CallArrays | None = None, **options: Any
) -> _ReadBack:
    """Compute a batch, and check all that is not about the numbers."""
    inputs = inputs or subject.inputs(batch)
    settings: dict[str, Any] = {
        "blank": batch.blank,
        "backend": subject.backend,
        "states": True,
    } | options

    def call() -> ctcx.Occupancies[Any]:
        return ctcx.ctc_occupancies(*inputs, **settings)

    found = call_by_name(subject, "occupancies", batch, inputs, call)
    rows, frames, classes, width = batch.shape
    shape = (frames, rows, classes) if options.get("time_major") else (rows, frames, classes)
    expected = {
        "classes": ("loss", shape),
        "states": ("loss", (rows, frames, 2 * width + 1)),
        "loss": ("loss", (rows,)),
        "feasible": ("bool", (rows,)),
    }
    forms = ((name, getattr(found, name), *form) for name, form in expected.items())
    check_forms(batch, inputs, forms)
    return _ReadBack(*(subject.numpy(array).astype(np.float64) for array in found[:3]))


@lru_cache(maxsize=256)
def _truth(batch: Batch, dtype: str) -> Posterior:
    arrays = (batch.labels, batch.logit_lengths, batch.label_lengths, batch.blank)
    solve = enumerate_posterior if "enumerable" in batch.groups else occupancies
    return solve(round_to_dtype(batch.logits, dtype), *arrays)


def _judge(subject: Subject, batch: Batch, found: _ReadBack) -> list[str]:
    truth = _truth(batch, subject.dtype)
    # Results are float32 for half precision.
    allowed = TOLERANCES["float64" if subject.dtype == "float64" else "float32"]
    off = allowed.loss(truth.loss, batch.logit_lengths)
    faults = []
    for n in range(len(batch.logits)):
        where = f"case {batch.name!r}: {batch.label(n)}"
        loss = found.loss[n]
        if loss != truth.loss[n] and not abs(loss - truth.loss[n]) <= off[n]:
            faults.append(f"{where}: the loss is {loss}, expected {truth.loss[n]}")
            continue
        for name in ("classes", "states"):
            got, right = getattr(found, name)[n], getattr(truth, name)[n]
            bad = np.argwhere(~(np.abs(got - right) <= allowed.grad) | (got < 0))
            # Where no path can be, in padding among others, there is exactly nothing.
            padding = np.arange(len(got)) >= (batch.logit_lengths[n] if loss < np.inf else 0)
            extra = np.argwhere(padding[:, None] & (got != 0))
            if len(bad := np.concatenate([bad, extra])):
                t, i = bad[0].tolist()
                faults.append(
                    f"{where}: the occupancy of {name} at frame {t}, column {i}, is {got[t, i]}, "
                    f"expected {right[t, i]}"
                )
                break
    return faults


def _judge_all(subject: Subject, batches: Iterable[Batch]) -> None:
    judge_each(batches, lambda batch: _judge(subject, batch, _call(subject, batch)))


drawn = partial(drawn_batch, salt=15, frames=130, width=40)
"""Return the drawn problem of a seed."""


@check(operation="occupancies")
def check_occupancies_by_enumeration(subject: Subject) -> None:
    """On tiny problems occupancies are sums over all paths."""
    _judge_all(subject, in_group("enumerable"))


@check(operation="occupancies")
def check_occupancies_edge_cases(subject: Subject) -> None:
    """No labels, no frames, too few frames, masked classes."""
    _judge_all(subject, in_group("infeasible", "masked", "degenerate"))


@check(operation="occupancies")
def check_occupancies_drawn(subject: Subject) -> None:
    """Drawn problems: lengths, repeats, scales, masked logits; and 1,500 frames."""
    _judge_all(subject, [*map(drawn, range(6)), drawn(6, frames=1500)])


@check(operation="occupancies")
def check_occupancies_of_classes_alone(subject: Subject) -> None:
    """Without states the occupancies of classes and the loss are the same."""
    batch = drawn(1)
    inputs = subject.inputs(batch)
    settings: dict[str, Any] = {"blank": batch.blank, "backend": subject.backend}

    def call() -> ctcx.Occupancies[Any]:
        return ctcx.ctc_occupancies(*inputs, **settings)

    found = call_by_name(subject, "occupancies", batch, inputs, call)
    if found.states is not None:
        msg = f"states=False gave states: {type(found.states).__name__}"
        raise CheckFailure(msg)
    expected = _call(subject, batch)
    alone = _ReadBack(
        subject.numpy(found.classes).astype(np.float64),
        expected.states,
        subject.numpy(found.loss).astype(np.float64),
    )
    raise_if(_judge(subject, batch, alone))


@check(operation="occupancies")
def check_occupancies_ignore_padding(subject: Subject) -> None:
    """What stands past the lengths changes nothing, NaN and labels out of range included."""
    names = ("classes", "states", "loss")
    raise_if_padding_counts(case("ragged"), names, partial(_call, subject))


@check(operation="occupancies")
def check_occupancies_batching(subject: Subject) -> None:
    """A sequence's occupancies don't depend on the others, nor on its place among them."""
    batch = drawn(2)
    order = np.array([2, 0, 3, 1])
    turned = _call(subject, pick(batch, order))
    raise_if(_judge(subject, pick(batch, order), turned))
    only = np.arange(len(batch.logits)) == 1
    lengths, counts = (only * given for given in (batch.logit_lengths, batch.label_lengths))
    alone = replace(batch, logit_lengths=lengths, label_lengths=counts)
    raise_if(_judge(subject, alone, _call(subject, alone)))


@check(operation="occupancies", requires={Feature.NONCONTIGUOUS})
def check_occupancies_time_major(subject: Subject) -> None:
    """Transposed logits, as time_major=True passes them, give the same occupancies."""
    batch = drawn(4)
    for inputs, options in other_layouts(subject, batch, subject.inputs(batch)):
        found = _call(subject, batch, inputs, **options)
        if options:
            found = replace(found, classes=found.classes.transpose(1, 0, 2))
        raise_if(_judge(subject, batch, found))


@check(operation="occupancies", requires={Feature.TRACEABLE}, jit=True)
def check_occupancies_jit(subject: Subject) -> None:
    """Compiled by the library, a call gives the same occupancies."""
    batch = drawn(5)
    _call(subject, batch)  # says so if the backend takes no such arrays

    def call(*arrays: Any) -> Any:
        found = ctcx.ctc_occupancies(
            *arrays, blank=batch.blank, backend=subject.backend, states=True
        )
        return tuple(found)[:3]

    compiled: Callable[..., Any] = load_target(str(subject.library.jit))(call)
    arrays = compiled(*subject.inputs(batch))
    found = _ReadBack(*(subject.numpy(array).astype(np.float64) for array in arrays))
    raise_if(_judge(subject, batch, found))


@check(operation="occupancies", requires={Feature.DETERMINISTIC})
def check_occupancies_same_bits(subject: Subject) -> None:
    """The same input gives the same bits, every time."""
    batch = drawn(1)
    first, second = _call(subject, batch), _call(subject, batch)
    for name in ("classes", "states", "loss"):
        if getattr(first, name).tobytes() != getattr(second, name).tobytes():
            msg = f"{name} differ the second time"
            raise CheckFailure(msg)


@check(operation="occupancies")
def check_occupancies_mark_wrong_values(subject: Subject) -> None:
    """A wrong length, label or logit is an error; unchecked, a loss of NaN, its own only."""
    batch = case("ragged")
    right = _call(subject, batch)
    n, batches = wrong_values(batch)
    faults = []
    for what, wrong in batches:
        found = _call(subject, wrong, validate=False)
        if not np.isnan(found.loss[n]):
            faults.append(f"{what}: the loss is {found.loss[n]}, expected NaN")
        faults += not_refused(what, n, partial(_call, subject, wrong))
        rest = np.arange(len(batch.logits)) != n
        if not np.allclose(found.classes[rest], right.classes[rest], rtol=0, atol=1e-5):
            faults.append(f"{what} changes the occupancies of other sequences")
    raise_if(faults)


@check(operation="occupancies")
def check_occupancies_computes_by_itself(subject: Subject) -> None:
    """No other backend's code runs meanwhile, as check_computes_by_itself says of the loss."""
    kernel = load_target(subject.descriptor.kernels["occupancies"])

    def call(batch: Batch) -> None:
        kernel(*subject.inputs(batch), blank=batch.blank, states=True)

    raise_if_delegated(subject, call)
