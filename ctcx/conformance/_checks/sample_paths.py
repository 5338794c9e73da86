"""Sampled paths are right: the ones that the given numbers pick."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import ctcx
from ctcx._reference.posterior import SampledPaths, sample_paths
from ctcx.conformance._checks.judging import in_group, raise_if, with_padding
from ctcx.conformance._checks.occupancies import drawn
from ctcx.conformance._checks.optional_operations import LabelOperation
from ctcx.conformance._checks.registry import check
from ctcx.conformance.cases import case

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctcx._typing import Array
    from ctcx.conformance._subject import Subject
    from ctcx.data.batch import Batch

__all__: list[str] = []


_NEAR = 1e-5
"""Within so much of a boundary, rounding may decide."""

_PATHS = 7


@lru_cache(maxsize=64)
def _uniforms(batch: Batch) -> NDArray[np.float64]:
    """Return numbers that float32 holds exactly; the first path's are 0, the second's nearly 1."""
    rows, frames, _, _ = batch.shape
    numbers = np.random.default_rng(frames).random((rows, _PATHS, frames), dtype=np.float32)
    numbers[:, 0] = 0.0
    numbers[:, 1] = np.nextafter(np.float32(1), np.float32(0))
    return numbers.astype(np.float64)


class _Paths(NamedTuple):
    states: Any


def _sample(
    logits: Array, labels: Array, *lengths: Array, uniforms: Array, **options: Any
) -> _Paths:
    return _Paths(ctcx.ctc_sample_paths(logits, labels, uniforms, *lengths, **options))


def _options(subject: Subject, batch: Batch) -> dict[str, Any]:
    return {"uniforms": _as_uniforms(subject, _uniforms(batch))}


def _as_uniforms(subject: Subject, numbers: NDArray[np.float64]) -> Any:
    dtype = "float64" if subject.dtype == "float64" else "float32"
    return subject.array(numbers.astype(dtype), dtype)


@lru_cache(maxsize=64)
def _truth(batch: Batch, dtype: str) -> SampledPaths:
    return sample_paths(*batch.rounded(dtype), uniforms=_uniforms(batch))


def _judge(subject: Subject, batch: Batch, found: _Paths) -> list[str]:
    states = found.states
    truth = _truth(batch, subject.dtype)
    faults = []
    for n, k in np.argwhere((states != truth.states).any(axis=2)).tolist():
        # Near a boundary another path is right as well, but no other form.
        if truth.margin[n, k] < _NEAR and ((states[n, k] < 0) == (truth.states[n, k] < 0)).all():
            continue
        t = int(np.flatnonzero(states[n, k] != truth.states[n, k])[-1])
        faults.append(
            f"case {batch.name!r}: {batch.label(n)}: the last state of path {k} that differs is "
            f"{states[n, k, t]} at frame {t}, expected {truth.states[n, k, t]} for the number "
            f"{_uniforms(batch)[n, k, t]}: staying comes before one state back, that before two, "
            f"and the last label before the last blank"
        )
    return faults


_SAMPLE_PATHS = LabelOperation(
    name="sample_paths",
    function=_sample,
    forms=(("NKT", "int32"),),
    options=_options,
    kernel_options=_options,
    judge=_judge,
    batch=drawn,
    mark="states of -1",
    is_marked=lambda found, n: bool((found.states[n] == -1).all()),
)


@check(operation="sample_paths")
def check_sample_paths(subject: Subject) -> None:
    """Paths of tiny problems are the ones that the numbers pick."""
    _SAMPLE_PATHS.judge_all(subject, in_group("enumerable"))


@check(operation="sample_paths")
def check_sample_paths_edge_cases(subject: Subject) -> None:
    """No labels, no frames, too few frames, masked classes."""
    _SAMPLE_PATHS.judge_all(subject, in_group("infeasible", "masked", "degenerate"))


@check(operation="sample_paths")
def check_sample_paths_drawn(subject: Subject) -> None:
    """Drawn problems: lengths, repeats, scales, masked logits; and 700 frames."""
    _SAMPLE_PATHS.judge_all(subject, [*map(drawn, range(6)), drawn(6, frames=700)])


@check(operation="sample_paths")
def check_sample_paths_ignores_padding(subject: Subject) -> None:
    """What stands past the lengths changes nothing, NaN in the numbers included."""
    batch = case("ragged")
    padding = np.broadcast_to(batch.padded_frames()[:, None, :], _uniforms(batch).shape)
    faults = []
    for logit, label, number in ((np.nan, -7, np.nan), (-np.inf, batch.blank, 2.0)):
        uniforms = _as_uniforms(subject, np.where(padding, number, _uniforms(batch)))
        found = _SAMPLE_PATHS(subject, with_padding(batch, logit, label), uniforms=uniforms)
        faults += _judge(subject, batch, found)
    raise_if(faults)


_SAMPLE_PATHS.register(leaving_out={"ignores_padding"})
