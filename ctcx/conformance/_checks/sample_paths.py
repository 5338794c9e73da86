"""Sampled paths are right: the ones that the given numbers pick."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

import ctcx
from ctcx._plugins.backend import Feature
from ctcx._plugins.targets import load_target
from ctcx._reference.oracle import round_to_dtype
from ctcx._reference.posterior import SampledPaths, sample_paths
from ctcx.conformance._checks.delegation import raise_if_delegated
from ctcx.conformance._checks.judging import in_group, pick, raise_if, with_padding
from ctcx.conformance._checks.occupancies import drawn
from ctcx.conformance._checks.optional_operations import (
    call_by_name,
    check_forms,
    judge_each,
    not_refused,
    other_layouts,
    wrong_values,
)
from ctcx.conformance._checks.registry import check
from ctcx.conformance.cases import Batch, case

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from ctcx.conformance._subject import CallArrays, Subject

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


def _call(
    subject: Subject,
    batch: Batch,
    inputs: CallArrays | None = None,
    numbers: NDArray[np.float64] | None = None,
    **options: Any,
) -> NDArray[np.int64]:
    """Draw paths for a batch, and check all that is not about which."""
    inputs = inputs or subject.inputs(batch)
    uniforms = _as_uniforms(subject, _uniforms(batch) if numbers is None else numbers)
    settings: dict[str, Any] = {"blank": batch.blank, "backend": subject.backend} | options

    def call() -> Any:
        logits, labels, *lengths = inputs
        return ctcx.ctc_sample_paths(logits, labels, uniforms, *lengths, **settings)

    states = call_by_name(subject, "sample_paths", batch, inputs, call, uniforms)
    check_forms(batch, inputs, [("states", states, "int32", tuple(uniforms.shape))])
    return subject.numpy(states).astype(np.int64)


def _as_uniforms(subject: Subject, numbers: NDArray[np.float64]) -> Any:
    dtype = "float64" if subject.dtype == "float64" else "float32"
    return subject.array(numbers.astype(dtype), dtype)


@lru_cache(maxsize=64)
def _truth(batch: Batch, dtype: str) -> SampledPaths:
    return sample_paths(
        round_to_dtype(batch.logits, dtype),
        batch.labels,
        batch.logit_lengths,
        batch.label_lengths,
        batch.blank,
        uniforms=_uniforms(batch),
    )


def _judge(subject: Subject, batch: Batch, states: NDArray[np.int64]) -> list[str]:
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


def _judge_all(subject: Subject, batches: Iterable[Batch]) -> None:
    judge_each(batches, lambda batch: _judge(subject, batch, _call(subject, batch)))


@check(operation="sample_paths")
def check_sample_paths(subject: Subject) -> None:
    """Paths of tiny problems are the ones that the numbers pick."""
    _judge_all(subject, in_group("enumerable"))


@check(operation="sample_paths")
def check_sample_paths_edge_cases(subject: Subject) -> None:
    """No labels, no frames, too few frames, masked classes."""
    _judge_all(subject, in_group("infeasible", "masked", "degenerate"))


@check(operation="sample_paths")
def check_sample_paths_drawn(subject: Subject) -> None:
    """Drawn problems: lengths, repeats, scales, masked logits; and 700 frames."""
    _judge_all(subject, [*map(drawn, range(6)), drawn(6, frames=700)])


@check(operation="sample_paths")
def check_sample_paths_ignore_padding(subject: Subject) -> None:
    """What stands past the lengths changes nothing, NaN in the numbers included."""
    batch = case("ragged")
    padding = np.broadcast_to(batch.padded_frames()[:, None, :], _uniforms(batch).shape)
    faults = []
    for logit, label, number in ((np.nan, -7, np.nan), (-np.inf, batch.blank, 2.0)):
        numbers = np.where(padding, number, _uniforms(batch))
        faults += _judge(
            subject, batch, _call(subject, with_padding(batch, logit, label), numbers=numbers)
        )
    raise_if(faults)


@check(operation="sample_paths")
def check_sample_paths_batching(subject: Subject) -> None:
    """A sequence's paths don't depend on the others, nor on its place among them."""
    batch = drawn(2)
    order = np.array([2, 0, 3, 1])
    turned = _call(subject, pick(batch, order), numbers=_uniforms(batch)[order])
    sorted_again = np.empty_like(turned)
    sorted_again[order] = turned
    raise_if(_judge(subject, batch, sorted_again))


@check(operation="sample_paths", requires={Feature.NONCONTIGUOUS})
def check_sample_paths_time_major(subject: Subject) -> None:
    """Transposed logits, as time_major=True passes them, give the same paths."""
    batch = drawn(4)
    for inputs, options in other_layouts(subject, batch, subject.inputs(batch)):
        raise_if(_judge(subject, batch, _call(subject, batch, inputs, **options)))


@check(operation="sample_paths", requires={Feature.TRACEABLE}, jit=True)
def check_sample_paths_jit(subject: Subject) -> None:
    """Compiled by the library, a call gives the same paths."""
    batch = drawn(5)
    _call(subject, batch)  # says so if the backend takes no such arrays

    def call(logits: Any, labels: Any, uniforms: Any, *lengths: Any) -> Any:
        return ctcx.ctc_sample_paths(
            logits, labels, uniforms, *lengths, blank=batch.blank, backend=subject.backend
        )

    compiled: Callable[..., Any] = load_target(str(subject.library.jit))(call)
    logits, labels, *lengths = subject.inputs(batch)
    states = compiled(logits, labels, _as_uniforms(subject, _uniforms(batch)), *lengths)
    raise_if(_judge(subject, batch, subject.numpy(states).astype(np.int64)))


@check(operation="sample_paths")
def check_sample_paths_mark_wrong_values(subject: Subject) -> None:
    """A wrong length, label or logit is an error; unchecked, states of -1, its own only."""
    batch = case("ragged")
    right = _call(subject, batch)
    n, batches = wrong_values(batch)
    faults = []
    for what, wrong in batches:
        found = _call(subject, wrong, validate=False)
        if (found[n] != -1).any():
            faults.append(f"{what}: states are {found[n, 0].tolist()}, expected -1 everywhere")
        faults += not_refused(what, n, partial(_call, subject, wrong))
        rest = np.arange(len(batch.logits)) != n
        if (found[rest] != right[rest]).any():
            faults.append(f"{what} changes the paths of other sequences")
    raise_if(faults)


@check(operation="sample_paths")
def check_sample_paths_computes_by_itself(subject: Subject) -> None:
    """No other backend's code runs meanwhile, as check_computes_by_itself says of the loss."""
    kernel = load_target(subject.descriptor.kernels["sample_paths"])

    def call(batch: Batch) -> None:
        uniforms = _as_uniforms(subject, _uniforms(batch))
        kernel(*subject.inputs(batch), blank=batch.blank, uniforms=uniforms)

    raise_if_delegated(subject, call)
