"""What the checks of decoders share: call one, look at the forms of its results, read them back."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ctcx._arrays.facts import describe
from ctcx._plugins.targets import load_target
from ctcx.conformance._checks.delegation import raise_if_delegated
from ctcx.conformance._checks.judging import raise_if, with_padding
from ctcx.conformance._checks.optional_operations import call_by_name, not_refused, other_layouts
from ctcx.conformance._failures import CheckFailure
from ctcx.conformance.cases import Batch

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ctcx._typing import Array
    from ctcx.conformance._subject import Subject

__all__ = ["Decoder", "LogitArrays", "quantised", "random_batch"]


class LogitArrays(NamedTuple):
    """Arrays of the library under test, in the order of the signature of a decoder."""

    logits: Array
    logit_lengths: Array


class Decoder(NamedTuple):
    """A public decoder, and what can be checked whatever it decodes.

    Attributes
    ----------
    operation
        Its name.
    function
        The public function.
    axes
        Of each result: ``"N"`` for sequences, ``"."`` for whatever the function finds.
    options
        Of the function, in these checks.
    kernel_options
        Of the kernel, when it is called alone.
    """

    operation: str
    function: Callable[..., Any]
    axes: tuple[tuple[str, str], ...]
    options: dict[str, Any]
    kernel_options: dict[str, Any]

    def __call__(
        self, subject: Subject, batch: Batch, inputs: LogitArrays | None = None, **options: Any
    ) -> Any:
        """Decode a batch, check all that is not about the numbers, and read it back to NumPy."""
        inputs = inputs or self.inputs(subject, batch)
        settings = {"blank": batch.blank, "backend": subject.backend, **self.options}

        def call() -> Any:
            return self.function(*inputs, **settings | options)

        found = call_by_name(subject, self.operation, batch, inputs, call, among_others=True)
        self._check_forms(batch, inputs, found)
        return self.read(subject, found)

    @staticmethod
    def inputs(subject: Subject, batch: Batch) -> LogitArrays:
        """Return a batch as arrays of the library."""
        return LogitArrays(subject.logits(batch.logits), subject.array(batch.logit_lengths))

    @staticmethod
    def read(subject: Subject, found: Any) -> Any:
        """Return results as NumPy arrays, real numbers in float64."""
        arrays = map(subject.numpy, found)
        return type(found)(*(a.astype(float) if a.dtype.kind == "f" else a for a in arrays))

    def _check_forms(self, batch: Batch, inputs: LogitArrays, found: Any) -> None:
        given = describe(inputs.logits)
        real = "float64" if given.dtype == "float64" else "float32"
        for (axes, kind), name, array in zip(self.axes, found._fields, found, strict=True):
            now = describe(array)
            right = (given.namespace, given.device, real if kind == "real" else kind)
            if (now.namespace, now.device, now.dtype) != right:
                msg = f"case {batch.name!r}: {name} is {now}, expected {right}"
                raise CheckFailure(msg)
            if array.ndim != len(axes) or array.shape[0] != len(batch.logits):
                msg = f"case {batch.name!r}: {name} has shape {tuple(array.shape)}"
                raise CheckFailure(msg)

    def check_padding(self, subject: Subject) -> None:
        """Fail if numbers past the lengths change anything."""
        batch = quantised(1)
        expected = self(subject, batch)
        faults = []
        for logit in (np.nan, np.inf, -np.inf, 50.0):
            found = self(subject, with_padding(batch, logit, 0))
            faults += [
                f"{name} changes when padding is {logit}"
                for name, one, other in zip(found._fields, found, expected, strict=True)
                if one.tobytes() != other.tobytes()
            ]
        raise_if(faults)

    def check_batching(self, subject: Subject) -> None:
        """Fail if a sequence's result depends on the others, or on its place among them."""
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

    def check_layouts(self, subject: Subject) -> None:
        """Fail if logits in other strides give other labels."""
        batch = quantised(3)
        expected = self(subject, batch)
        for given, options in other_layouts(subject, batch, self.inputs(subject, batch)):
            found = self(subject, batch, given, **options)
            if found.labels.tolist() != expected.labels.tolist():
                msg = f"labels differ for logits in another layout ({options or 'strided'})"
                raise CheckFailure(msg)

    def check_jit(self, subject: Subject) -> None:
        """Fail if a compiled call gives something else."""
        batch = quantised(5)
        expected = self(subject, batch)

        def call(*arrays: Any) -> Any:
            settings = {"blank": batch.blank, "backend": subject.backend, **self.options}
            return self.function(*arrays, **settings)

        compiled: Callable[..., Any] = load_target(str(subject.library.jit))(call)
        found = self.read(subject, compiled(*self.inputs(subject, batch)))
        faults = []
        for name, one, other in zip(found._fields, found, expected, strict=True):
            part = tuple(slice(0, size) for size in other.shape)
            if not np.allclose(one[part], other, rtol=1e-5, atol=1e-6, equal_nan=True):
                faults.append(f"{name} differs under jit")
        raise_if(faults)

    def check_same_bits(self, subject: Subject) -> None:
        """Fail if the same input gives other bits."""
        batch = quantised(9)
        first, second = self(subject, batch), self(subject, batch)
        raise_if(
            [
                f"{name} differs the second time"
                for name, one, other in zip(first._fields, first, second, strict=True)
                if one.tobytes() != other.tobytes()
            ]
        )

    def check_wrong_values(self, subject: Subject, marks: Callable[[Any, int], bool]) -> None:
        """Fail if wrong values are no errors; or unchecked not marked, or change others."""
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
            if not marks(found, n):
                faults.append(f"{what} is not marked by NaN and no labels")
            faults += not_refused(what, n, partial(self.__call__, subject, batch, given))
            rest = np.arange(len(batch.logits)) != n
            if found.lengths[rest].tolist() != right.lengths[rest].tolist():
                faults.append(f"{what} changes other sequences")
        raise_if(faults)

    def check_by_itself(self, subject: Subject) -> None:
        """Fail if other backends' code runs meanwhile."""
        # The kernel alone: ctcx itself reads results out with code of the core.
        kernel = load_target(subject.descriptor.kernels[self.operation])

        def call(batch: Batch) -> None:
            kernel(*self.inputs(subject, batch), blank=batch.blank, **self.kernel_options)

        raise_if_delegated(subject, call)


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
