"""The checks that are the same for each optional operation, but for what it computes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

import ctcx
from ctcx._arrays.facts import describe, is_array, namespace_of
from ctcx._errors import BackendRejectedError, KernelError
from ctcx._plugins.backend import Feature
from ctcx._plugins.targets import load_target
from ctcx.conformance._checks.delegation import raise_if_delegated
from ctcx.conformance._checks.judging import pick, raise_if, with_padding
from ctcx.conformance._checks.registry import check
from ctcx.conformance._failures import CheckFailure, NotApplicable
from ctcx.conformance.cases import case
from ctcx.data.batch import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from ctcx._typing import Array
    from ctcx.conformance._checks.decoding import LogitArrays
    from ctcx.conformance._subject import CallArrays, Subject

    _Inputs = TypeVar("_Inputs", CallArrays, LogitArrays)
    _Options = Callable[[Subject, Batch], dict[str, Any]]

__all__ = [
    "LabelOperation",
    "OptionalOperation",
    "call_by_name",
    "drawn_batch",
    "not_refused",
    "other_layouts",
    "with_other_bits",
]


@dataclass(frozen=True, kw_only=True)
class OptionalOperation(ABC):
    """A public function, and what can be checked whatever it computes."""

    name: str
    """Of the operation."""
    function: Callable[..., Any]
    """Calls the public function, and returns a named tuple."""
    forms: tuple[tuple[str, str], ...]
    """Axes and dtype of each result: N, T and C as for logits, S labels, P states, others of any
    size; the dtype ``"loss"`` is that of a loss."""
    options: _Options = lambda *_: {}
    """Returns what the function gets besides the blank and the backend."""
    kernel_options: _Options = lambda *_: {}
    """Returns what the kernel gets besides the blank, when it is called alone."""
    batch: Callable[[int], Batch]
    """Returns the batch of a seed, for checks that need no special one."""
    mark: str
    """What tells the results for wrong values from others, in words."""
    is_marked: Callable[[Any, int], bool]
    """Whether the results for sequence ``n`` have that mark."""
    calls_others: ClassVar[bool] = False
    """Whether the function computes other operations too, by whichever backend."""

    def __call__(self, subject: Subject, batch: Batch, inputs: Any = None, **options: Any) -> Any:
        """Compute a batch, check all that is not about the numbers, and read it back to NumPy."""
        inputs = inputs or self.inputs(subject, batch)
        settings = self._settings(subject, batch) | options
        found = call_by_name(
            subject,
            self.name,
            batch,
            inputs,
            partial(self.function, *inputs, **settings),
            *filter(is_array, settings.values()),
            among_others=self.calls_others,
        )
        self._check_forms(batch, inputs, found, time_major="time_major" in options)
        return self._read(subject, found)

    def register(self, *, leaving_out: Collection[str] = ()) -> None:
        """Make a check of each of the following methods, such as ``check_align_batching``."""
        needs: dict[Callable[[Subject], None], dict[str, Any]] = {
            self.ignores_padding: {},
            self.batching: {},
            self.marks_wrong_values: {},
            self.time_major: {"requires": {Feature.NONCONTIGUOUS}},
            self.jit: {"requires": {Feature.TRACEABLE}, "jit": True},
            self.same_bits: {"requires": {Feature.DETERMINISTIC}},
            self.computes_by_itself: {},
        }
        for method, options in needs.items():
            if method.__name__ not in leaving_out:
                name = f"check_{self.name}_{method.__name__}"
                check(operation=self.name, name=name, **options)(method)

    @abstractmethod
    def inputs(self, subject: Subject, batch: Batch) -> Any:
        """Return a batch as arrays of the library."""

    @abstractmethod
    def ignores_padding(self, subject: Subject) -> None:
        """What stands past the lengths changes nothing, NaN and labels out of range included."""

    @abstractmethod
    def batching(self, subject: Subject) -> None:
        """A sequence's results don't depend on the others, nor on its place among them."""

    @abstractmethod
    def marks_wrong_values(self, subject: Subject) -> None:
        """A wrong length, label or logit raises; unchecked, it marks its own sequence only."""

    @abstractmethod
    def time_major(self, subject: Subject) -> None:
        """Transposed logits, as time_major=True passes them, give the same results."""

    @abstractmethod
    def jit(self, subject: Subject) -> None:
        """Compiled by the library, a call gives the same results."""

    def same_bits(self, subject: Subject) -> None:
        """The same input gives the same bits, every time."""
        batch = self.batch(1)
        first, second = self(subject, batch), self(subject, batch)
        raise_if([f"{name} differs the second time" for name in with_other_bits(first, second)])

    def computes_by_itself(self, subject: Subject) -> None:
        """No other backend's code runs meanwhile, as check_computes_by_itself says of the loss."""
        # The kernel alone: ctcx itself makes results of what it returns with code of the core.
        kernel = load_target(subject.descriptor.kernels[self.name])

        def call(batch: Batch) -> None:
            options = self.kernel_options(subject, batch)
            kernel(*self.inputs(subject, batch), blank=batch.blank, **options)

        raise_if_delegated(subject, call)

    def compiled(self, subject: Subject, batch: Batch, kind: type[Any]) -> Any:
        """Return the results of a compiled call, ``kind`` of a named tuple."""
        settings = self._settings(subject, batch)
        arrays = {name: value for name, value in settings.items() if is_array(value)}
        inputs = self.inputs(subject, batch)

        def call(*given: Any) -> Any:
            more = dict(zip(arrays, given[len(inputs) :], strict=True))
            return tuple(self.function(*given[: len(inputs)], **settings | more))

        jit: Callable[..., Any] = load_target(str(subject.library.jit))
        return self._read(subject, kind(*jit(call)(*inputs, *arrays.values())))

    def _settings(self, subject: Subject, batch: Batch) -> dict[str, Any]:
        options = self.options(subject, batch)
        return {"blank": batch.blank, "backend": subject.backend, **options}

    def _check_forms(
        self, batch: Batch, inputs: CallArrays | LogitArrays, found: Any, *, time_major: bool
    ) -> None:
        """Fail for an array of a wrong library, device, dtype or shape."""
        given = describe(inputs.logits)
        real = "float64" if given.dtype == "float64" else "float32"
        sizes = dict(zip("NTCS", batch.shape, strict=True))
        sizes["P"] = 2 * sizes["S"] + 1
        for (axes, kind), name, array in zip(self.forms, found._fields, found, strict=True):
            now = describe(array)
            order = "TNC" if axes == "NTC" and time_major else axes
            shape = tuple(
                sizes.get(axis, size) for axis, size in zip(order, array.shape, strict=False)
            )
            is_now = (now.namespace, now.device, now.dtype, tuple(array.shape))
            right = (given.namespace, given.device, real if kind == "loss" else kind, shape)
            if is_now != right or len(axes) != array.ndim:
                msg = f"case {batch.name!r}: {name} is {is_now}, expected {right}"
                raise CheckFailure(msg)

    @staticmethod
    def _read(subject: Subject, found: Any) -> Any:
        """Return results as NumPy arrays, real numbers in float64."""
        arrays = map(subject.numpy, found)
        return type(found)(*(a.astype(float) if a.dtype.kind == "f" else a for a in arrays))


@dataclass(frozen=True, kw_only=True)
class LabelOperation(OptionalOperation):
    """A public function of logits and labels."""

    judge: Callable[[Subject, Batch, Any], list[str]]
    """Returns what is wrong with the results for a batch."""

    def judge_all(self, subject: Subject, batches: Iterable[Batch]) -> None:
        """Fail with all that is wrong with the results for these batches."""
        faults: list[str] = []
        for batch in batches:
            try:
                faults += self.judge(subject, batch, self(subject, batch))
            except CheckFailure as failure:
                faults.append(str(failure))
        raise_if(faults)

    def inputs(self, subject: Subject, batch: Batch) -> CallArrays:
        """Return a batch as arrays of the library."""
        return subject.inputs(batch)

    def ignores_padding(self, subject: Subject) -> None:
        """What stands past the lengths changes nothing, NaN and labels out of range included."""
        batch = case("ragged")
        expected = self(subject, batch)
        faults = []
        for logit, label in ((np.nan, -7), (np.inf, 10**6), (-np.inf, batch.blank)):
            found = self(subject, with_padding(batch, logit, label))
            faults += [
                f"{name} changes when padding is {logit} and {label}"
                for name in with_other_bits(found, expected)
            ]
        raise_if(faults)

    def batching(self, subject: Subject) -> None:
        """A sequence's results don't depend on the others, nor on its place among them."""
        batch = self.batch(2)
        order = np.random.default_rng(1).permutation(len(batch.logits))
        only = np.arange(len(batch.logits)) == 1
        lengths, counts = (only * given for given in (batch.logit_lengths, batch.label_lengths))
        alone = replace(batch, logit_lengths=lengths, label_lengths=counts)
        self.judge_all(subject, [pick(batch, order), alone])

    def marks_wrong_values(self, subject: Subject) -> None:
        """A wrong length, label or logit raises; unchecked, it marks its own sequence only."""
        batch = case("ragged")
        right = self(subject, batch)
        n, batches = _wrong_values(batch)
        rest = np.arange(len(batch.logits)) != n
        faults = []
        for what, wrong in batches:
            found = self(subject, wrong, validate=False)
            if not self.is_marked(found, n):
                faults.append(f"{what} is not marked by {self.mark}: {[each[n] for each in found]}")
            faults += not_refused(what, n, partial(self.__call__, subject, wrong))
            if not np.allclose(found[0][rest], right[0][rest], rtol=0, atol=1e-5):
                faults.append(f"{what} changes {found._fields[0]} of other sequences")
        raise_if(faults)

    def time_major(self, subject: Subject) -> None:
        """Transposed logits, as time_major=True passes them, give the same results."""
        batch = self.batch(4)
        for inputs, options in other_layouts(subject, batch, subject.inputs(batch)):
            found = self(subject, batch, inputs, **options)
            if options:
                turned = (
                    array.transpose(1, 0, 2) if axes == "NTC" else array
                    for array, (axes, _) in zip(found, self.forms, strict=True)
                )
                found = type(found)(*turned)
            raise_if(self.judge(subject, batch, found))

    def jit(self, subject: Subject) -> None:
        """Compiled by the library, a call gives the same results."""
        batch = self.batch(5)
        kind = type(self(subject, batch))  # or says that the backend takes no such arrays
        raise_if(self.judge(subject, batch, self.compiled(subject, batch, kind)))


def with_other_bits(found: Any, expected: Any) -> Iterator[str]:
    """Yield the names of results that differ."""
    for name, one, other in zip(found._fields, found, expected, strict=True):
        if one.tobytes() != other.tobytes():
            yield name


def call_by_name(
    subject: Subject,
    operation: str,
    batch: Batch,
    inputs: CallArrays | LogitArrays,
    call: Callable[[], Any],
    *more: Array,
    among_others: bool = False,
) -> Any:
    """Return what ``call`` does, in which the named backend alone computes and changes no input.

    ``among_others``: the function computes other operations too, by whichever backend.
    """
    arrays = (*inputs, *more)
    before = [subject.state_of(array) for array in arrays]
    try:
        with ctcx.trace() as runs:
            found = call()
        ran = [run for run in runs if run.operation == operation] if among_others else runs
        subject.check_who_ran(ran, operation)
    except BackendRejectedError as error:
        if reason := subject.declined_by_itself(batch, inputs.logits, operation):
            msg = f"its accepts() rejects case {batch.name!r}: {reason}"
            raise NotApplicable(msg) from error
        raise
    except (CheckFailure, KernelError) as failure:
        msg = f"case {batch.name!r}: {failure}"
        raise CheckFailure(msg) from failure
    for array, old in zip(arrays, before, strict=True):
        subject.raise_if_changed(f"an input of case {batch.name!r}", array, old)
    return found


def other_layouts(
    subject: Subject, batch: Batch, inputs: _Inputs
) -> Iterator[tuple[_Inputs, dict[str, Any]]]:
    """Yield the arrays of a call with logits in two other layouts, and the options for each."""
    xp = namespace_of(inputs.logits)
    turned = subject.logits(batch.logits.transpose(1, 0, 2))
    yield inputs._replace(logits=turned), {"time_major": True}
    odd = subject.logits(batch.logits.transpose(0, 2, 1))
    yield inputs._replace(logits=xp.permute_dims(odd, (0, 2, 1))), {}


def _wrong_values(batch: Batch) -> tuple[int, Collection[tuple[str, Batch]]]:
    """Return the number of a sequence, and batches in which a value of it is wrong, each named."""
    n = int(np.flatnonzero((batch.label_lengths > 0) & (batch.logit_lengths > 0))[-1])
    _, frames, classes, width = batch.shape
    batches = []
    for what, field, index, value in (
        ("the label -1", "labels", (n, 0), -1),
        ("a label out of range", "labels", (n, 0), classes),
        ("a label length of -1", "label_lengths", n, -1),
        ("a label length above S", "label_lengths", n, width + 1),
        ("a logit length above T", "logit_lengths", n, frames + 1),
        ("a logit of NaN", "logits", (n, 0, 0), np.nan),
        ("a logit of +inf", "logits", (n, 0, classes - 1), np.inf),
    ):
        wrong = np.array(getattr(batch, field))
        wrong[index] = value
        batches.append((what, replace(batch, **{field: wrong})))  # type: ignore[arg-type]
    return n, batches


def not_refused(what: str, n: int, call: Callable[[], Any]) -> list[str]:
    """Say so if a call with a wrong value of sequence ``n`` raises no error that names it."""
    try:
        call()
    except ctcx.CTCInputError as error:
        if error.sequence == n:
            return []
        return [f"{what}: the error names sequence {error.sequence}, expected {n}"]
    return [f"{what}: no error, expected CTCInputError"]


@lru_cache(maxsize=32)
def drawn_batch(seed: int, *, salt: int, frames: int, width: int) -> Batch:
    """Return a drawn problem; one shape and one blank, since some libraries compile for each."""
    rng = np.random.default_rng([seed, salt])
    rows, classes = 4, 5
    blank = 3
    labels = rng.integers(classes - 1, size=(rows, width))
    logits = rng.normal(size=(rows, frames, classes), scale=rng.choice([0.1, 3.0, 40.0]))
    if seed % 3 == 0:
        logits[rng.random(logits.shape) < 0.03] = -np.inf
    return Batch(
        name=f"drawn {seed}",
        why="Drawn at random.",
        logits=logits,
        labels=labels + (labels >= blank),
        logit_lengths=rng.integers(frames // 2, frames + 1, size=rows),
        label_lengths=rng.integers(0, width + 1, size=rows),
        blank=blank,
    )
