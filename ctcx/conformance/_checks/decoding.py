"""What the checks of decoders share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from ctcx.conformance._checks.judging import raise_if, with_padding
from ctcx.conformance._checks.optional_operations import (
    OptionalOperation,
    not_refused,
    other_layouts,
    with_other_bits,
)
from ctcx.conformance._failures import CheckFailure
from ctcx.data.batch import Batch

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ctcx import Beams
    from ctcx._typing import Array
    from ctcx.conformance._subject import Subject

__all__ = [
    "BEAM_FORMS",
    "Decoder",
    "LogitArrays",
    "is_without_results",
    "quantised",
    "random_batch",
]


class LogitArrays(NamedTuple):
    """Arrays of the library under test, in the order of the signature of a decoder."""

    logits: Array
    logit_lengths: Array


def quantised(seed: int) -> Batch:
    """Return logits of few different values, which every dtype holds exactly: many ties."""
    rng = np.random.default_rng([seed, 8])
    logits = rng.integers(-2, 2, size=(12, 23, 4)).astype(float)
    return _batch(f"quantised {seed}", logits, rng.integers(6, 24, size=12))


def random_batch(seed: int, *, scale: float, masked: float = 0.0, blank: int = 1) -> Batch:
    """Return logits of normal distribution, of which a share is -inf."""
    rng = np.random.default_rng([seed, 9])
    logits = rng.normal(size=(6, 40, 5), scale=scale)
    logits[rng.random(logits.shape) < masked] = -np.inf
    return _batch(f"random {seed}", logits, rng.integers(0, 41, size=6), blank)


def _batch(
    name: str, logits: NDArray[np.float64], lengths: NDArray[np.int64], blank: int = 0
) -> Batch:
    rows = len(logits)
    nothing = np.zeros((rows, 0), dtype=np.int64)
    return Batch(
        name=name,
        why="Made for decoders, which get no labels.",
        logits=logits,
        labels=nothing,
        logit_lengths=lengths,
        label_lengths=np.zeros(rows, dtype=np.int64),
        blank=blank,
    )


def _some(batch: Batch, rows: NDArray[np.int64]) -> Batch:
    return _batch(batch.name, batch.logits[rows], batch.logit_lengths[rows], batch.blank)


def _with_lengths(batch: Batch, lengths: NDArray[np.int64]) -> Batch:
    return _batch(batch.name, batch.logits, lengths, batch.blank)


@dataclass(frozen=True, kw_only=True)
class Decoder(OptionalOperation):
    """A public decoder."""

    batch: Callable[[int], Batch] = quantised
    mark: str = "NaN and no labels"
    calls_others: ClassVar[bool] = True

    def inputs(self, subject: Subject, batch: Batch) -> LogitArrays:
        """Return a batch as arrays of the library."""
        return LogitArrays(subject.logits(batch.logits), subject.array(batch.logit_lengths))

    def ignores_padding(self, subject: Subject) -> None:
        """What stands past the lengths changes nothing, NaN included."""
        batch = quantised(1)
        expected = self(subject, batch)
        faults = []
        for logit in (np.nan, np.inf, -np.inf, 50.0):
            found = self(subject, with_padding(batch, logit, 0))
            faults += [
                f"{name} changes when padding is {logit}"
                for name in with_other_bits(found, expected)
            ]
        raise_if(faults)

    def batching(self, subject: Subject) -> None:
        """A sequence's labels don't depend on the others, nor on its place among them."""
        batch = quantised(7)
        whole = self(subject, batch)
        order = np.random.default_rng(1).permutation(len(batch.logits))
        turned = self(subject, _some(batch, order))
        only = np.arange(len(batch.logits)) == 5
        alone = self(subject, _with_lengths(batch, only * batch.logit_lengths))
        faults = []
        for name in ("labels", "lengths"):
            one, other = getattr(whole, name)[order], getattr(turned, name)
            if one.tolist() != other.tolist():
                faults.append(f"{name} changes with the order of the sequences")
            mine, theirs = getattr(whole, name)[5], getattr(alone, name)[5]
            if mine[mine >= 0].tolist() != theirs[theirs >= 0].tolist():
                faults.append(f"{name} of sequence 5 differs when the others are empty")
        raise_if(faults)

    def marks_wrong_values(self, subject: Subject) -> None:
        """Of unchecked values, NaN and +inf and wrong lengths give no labels and NaN."""
        batch = quantised(2)
        right = self(subject, batch)
        n, frames, classes = 3, batch.shape[1], batch.shape[2]
        faults = []
        for what, field, index, value in (
            ("a logit length above T", "logit_lengths", n, frames + 1),
            ("a negative logit length", "logit_lengths", n, -1),
            ("a logit of NaN", "logits", (n, 0, 0), np.nan),
            ("a logit of +inf", "logits", (n, 0, classes - 1), np.inf),
        ):
            wrong = np.array(getattr(batch, field))
            wrong[index] = value
            changed = subject.logits(wrong) if field == "logits" else subject.array(wrong)
            given = self.inputs(subject, batch)._replace(**{field: changed})
            found = self(subject, batch, given, validate=False)
            if not self.is_marked(found, n):
                faults.append(f"{what} is not marked by {self.mark}")
            faults += not_refused(what, n, partial(self.__call__, subject, batch, given))
            rest = np.arange(len(batch.logits)) != n
            if found.lengths[rest].tolist() != right.lengths[rest].tolist():
                faults.append(f"{what} changes other sequences")
        raise_if(faults)

    def time_major(self, subject: Subject) -> None:
        """Transposed logits, as time_major=True passes them, give the same labels."""
        batch = quantised(3)
        expected = self(subject, batch)
        for given, options in other_layouts(subject, batch, self.inputs(subject, batch)):
            found = self(subject, batch, given, **options)
            if found.labels.tolist() != expected.labels.tolist():
                msg = f"labels differ for logits in another layout ({options or 'strided'})"
                raise CheckFailure(msg)

    def jit(self, subject: Subject) -> None:
        """Compiled by the library, a call gives the same labels."""
        batch = quantised(5)
        expected = self(subject, batch)
        found = self.compiled(subject, batch, type(expected))
        faults = []
        for name, one, other in zip(found._fields, found, expected, strict=True):
            part = tuple(slice(0, size) for size in other.shape)
            if not np.allclose(one[part], other, rtol=1e-5, atol=1e-6, equal_nan=True):
                faults.append(f"{name} differs under jit")
        raise_if(faults)


BEAM_FORMS = (
    ("NWK", "int32"),
    ("NW", "int32"),
    ("NW", "loss"),
    ("NW", "loss"),
    ("NW", "loss"),
    ("NWK", "int32"),
    ("N", "int32"),
)
"""Of the results of :func:`ctcx.ctc_beam_search`."""


def is_without_results(found: Beams[Any], n: int) -> bool:
    """Whether a beam search has found nothing for a sequence, and marks it by NaN."""
    return bool(np.isnan(found.beam_log_probs[n]).all()) and found.count[n] == 0
