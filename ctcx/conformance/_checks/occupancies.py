"""Occupancies are right: of classes and of states, with the loss beside them."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

import ctcx
from ctcx._reference.posterior import Posterior, enumerate_posterior, occupancies
from ctcx._reference.tolerances import TOLERANCES
from ctcx.conformance._checks.judging import in_group, raise_if
from ctcx.conformance._checks.optional_operations import LabelOperation, call_by_name, drawn_batch
from ctcx.conformance._checks.registry import check
from ctcx.conformance._failures import CheckFailure

if TYPE_CHECKING:
    from ctcx.conformance._subject import Subject
    from ctcx.data.batch import Batch

__all__ = ["drawn"]

drawn = partial(drawn_batch, salt=15, frames=130, width=40)
"""Return the drawn problem of a seed."""


@lru_cache(maxsize=256)
def _truth(batch: Batch, dtype: str) -> Posterior:
    solve = enumerate_posterior if "enumerable" in batch.groups else occupancies
    return solve(*batch.rounded(dtype))


def _judge(subject: Subject, batch: Batch, found: ctcx.Occupancies[Any]) -> list[str]:
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


_OCCUPANCIES = LabelOperation(
    name="occupancies",
    function=ctcx.ctc_occupancies,
    forms=(("NTC", "loss"), ("NTP", "loss"), ("N", "loss"), ("N", "bool")),
    options=lambda *_: {"states": True},
    kernel_options=lambda *_: {"states": True},
    judge=_judge,
    batch=drawn,
    mark="a loss of NaN",
    is_marked=lambda found, n: bool(np.isnan(found.loss[n])),
)


@check(operation="occupancies")
def check_occupancies_by_enumeration(subject: Subject) -> None:
    """On tiny problems occupancies are sums over all paths."""
    _OCCUPANCIES.judge_all(subject, in_group("enumerable"))


@check(operation="occupancies")
def check_occupancies_edge_cases(subject: Subject) -> None:
    """No labels, no frames, too few frames, masked classes."""
    _OCCUPANCIES.judge_all(subject, in_group("infeasible", "masked", "degenerate"))


@check(operation="occupancies")
def check_occupancies_drawn(subject: Subject) -> None:
    """Drawn problems: lengths, repeats, scales, masked logits; and 1,500 frames."""
    _OCCUPANCIES.judge_all(subject, [*map(drawn, range(6)), drawn(6, frames=1500)])


@check(operation="occupancies")
def check_occupancies_of_classes_alone(subject: Subject) -> None:
    """Without states the occupancies of classes and the loss are the same."""
    batch = drawn(1)
    inputs = subject.inputs(batch)
    call = partial(ctcx.ctc_occupancies, *inputs, blank=batch.blank, backend=subject.backend)
    found = call_by_name(subject, "occupancies", batch, inputs, call)
    if found.states is not None:
        msg = f"states=False gave states: {type(found.states).__name__}"
        raise CheckFailure(msg)
    classes, loss = (subject.numpy(array).astype(float) for array in (found.classes, found.loss))
    alone = _OCCUPANCIES(subject, batch)._replace(classes=classes, loss=loss)
    raise_if(_judge(subject, batch, alone))


_OCCUPANCIES.register()
