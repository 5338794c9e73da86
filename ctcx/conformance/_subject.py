"""What a check is run on: one backend, on one library, device and dtype.

Every call goes through :meth:`Subject.run`, which also looks at what has nothing to do with the
numbers: that the named backend alone computed, that the result has the library, device,
dtype and shape that it should have, and that the inputs are as they were.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import ctcx
from ctcx._arrays.facts import describe
from ctcx._diagnosis import batch_of, examine
from ctcx._dispatch.shortcut import has_shortcut, without_shortcuts
from ctcx._errors import BackendRejectedError, KernelError
from ctcx._plugins.backend import Feature, Problem
from ctcx._plugins.registry import registry
from ctcx._plugins.targets import load_target
from ctcx._reference.oracle import round_to_dtype
from ctcx._reference.tolerances import TOLERANCES, Tolerance
from ctcx.conformance._drawing import Drawing
from ctcx.conformance._failures import CheckFailure, NotApplicable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ctcx._diagnosis import Answer, Examined
    from ctcx._plugins.backend import Backend
    from ctcx._plugins.namespace import Namespace
    from ctcx._typing import Array
    from ctcx.data.batch import Batch
    from ctcx.fixtures import Fixture

__all__ = ["CallArrays", "Outcome", "Subject"]


class CallArrays(NamedTuple):
    """Arrays of the library under test, in the order of the signature of ``ctc_loss``."""

    logits: Array
    labels: Array
    logit_lengths: Array
    label_lengths: Array


@dataclass(frozen=True, eq=False, slots=True)
class Outcome:
    """What a call gave, read back into NumPy; gradient and feasibility only where asked for."""

    loss: NDArray[np.float64]
    grad: NDArray[np.float64] | None = None
    feasible: NDArray[np.bool_] | None = None

    @property
    def gradient(self) -> NDArray[np.float64]:
        """The gradient, where it is known to be there."""
        if self.grad is None:
            msg = "this call computed no gradient"
            raise TypeError(msg)
        return self.grad

    def same_bits(self, other: Outcome) -> bool:
        """Whether loss and gradient are bit for bit those of ``other``."""
        mine, theirs = (
            (one.loss.tobytes(), b"" if one.grad is None else one.grad.tobytes())
            for one in (self, other)
        )
        return mine == theirs


@dataclass(frozen=True, eq=False, kw_only=True)
class Subject:
    """One backend on one library, device and dtype."""

    backend: str
    """The backend's name."""
    namespace: str
    device: str
    dtype: str
    """Of the logits, by the names that :class:`ctcx.plugin.Namespace` uses."""
    drawing: Drawing = field(default_factory=Drawing)
    """Which problems are drawn."""
    notes: list[str] = field(default_factory=list)
    """What a check could not do; shown with its result."""

    def __str__(self) -> str:
        return f"{self.namespace}-{self.device}-{self.dtype}"

    @property
    def descriptor(self) -> Backend:
        """What the backend says about itself."""
        return registry().backends[self.backend].backend

    @property
    def library(self) -> Namespace:
        """How to work with the library."""
        return registry().namespaces[self.namespace].namespace

    @property
    def tolerance(self) -> Tolerance:
        """How far off a result may be."""
        return TOLERANCES[self.dtype]

    def has(self, feature: Feature) -> bool:
        """Whether the backend declares ``feature``."""
        return feature in self.descriptor.features

    @property
    def can_grad(self) -> bool:
        """Whether the backend computes gradients."""
        return self.has(Feature.GRAD)

    @property
    def with_and_without_grad(self) -> tuple[bool, ...]:
        """Whether to ask for the gradient: both ways, where there is one."""
        return (False, True) if self.can_grad else (False,)

    def array(self, values: NDArray[Any], dtype: str | None = None) -> Array:
        """Return a new array of the library on the device under test."""
        # A copy, in row-major order: some libraries share memory with what they are given.
        return load_target(self.library.from_numpy)(np.array(values, order="C"), dtype, self.device)

    def logits(self, values: NDArray[np.float64], dtype: str | None = None) -> Array:
        """Return logits rounded to the dtype under test (or to another one)."""
        dtype = dtype or self.dtype
        rounded = round_to_dtype(values, dtype)
        kind = np.float64 if dtype == "float64" else np.float32
        return self.array(rounded.astype(kind), dtype)

    def inputs(self, batch: Batch) -> CallArrays:
        """Return a batch as arrays of the library."""
        return CallArrays(
            self.logits(batch.logits),
            self.array(batch.labels),
            self.array(batch.logit_lengths),
            self.array(batch.label_lengths),
        )

    def numpy(self, array: Array) -> NDArray[Any]:
        """Return an array of the library as a NumPy array of its own."""
        return np.array(load_target(self.library.to_numpy)(array))

    def state_of(self, array: Array) -> tuple[bytes, bool]:
        """Return the bytes of an input, and whether it is a tensor that can be resized."""
        torch = sys.modules.get("torch")
        is_tensor = torch is not None and isinstance(array, torch.Tensor)
        return self.numpy(array).tobytes(), is_tensor and array.untyped_storage().resizable()

    def raise_if_changed(self, what: str, array: Array, before: tuple[bytes, bool]) -> None:
        """Raise CheckFailure if an input isn't as it was before the call."""
        content, could_be_resized = before
        now, can_be_resized = self.state_of(array)
        if now != content:
            msg = f"the kernel changed {what}; inputs are read-only"
            raise CheckFailure(msg)
        if could_be_resized and not can_be_resized:
            msg = (
                f"after the kernel, {what} can't be resized any more: .numpy() does that to a "
                "tensor; numpy.from_dlpack() doesn't"
            )
            raise CheckFailure(msg)

    def call(
        self, inputs: CallArrays, *, grad: bool, blank: int, **options: Any
    ) -> tuple[Array, ...]:
        """Call ctcx with the backend by name, and fail unless that backend alone ran.

        Where it has a shortcut, fail unless its kernel gives the same.
        """
        function: Callable[..., Any] = ctcx.ctc_loss_and_grad if grad else ctcx.ctc_loss
        operation = "loss_and_grad" if grad else "loss"

        def called() -> tuple[Array, ...]:
            with ctcx.trace() as runs:
                result = function(*inputs, blank=blank, backend=self.backend, **options)
            self.check_who_ran(runs, operation)
            return tuple(result) if grad else (result,)

        result = called()
        if has_shortcut(operation, self.namespace, self.backend):
            with without_shortcuts():
                self.check_same(result, called())
        return result

    def check_same(self, by_shortcut: tuple[Array, ...], usual: tuple[Array, ...]) -> None:
        """Fail unless two results are equal, but for rounding where a kernel may round anew."""
        names = ("loss", "grad", "feasible")  # ctc_loss gives the loss alone
        close = 0.0 if self.has(Feature.DETERMINISTIC) else 2 * self.tolerance.grad
        for name, one, other in zip(names, by_shortcut, usual, strict=False):
            mine, its = self.numpy(one), self.numpy(other)
            if mine.shape != its.shape or not np.allclose(mine, its, close, close, equal_nan=True):
                msg = (
                    f"its shortcut and its kernel give another {name}: "
                    f"{mine.ravel()[:4]}... and {its.ravel()[:4]}..."
                )
                raise CheckFailure(msg)

    def check_who_ran(self, runs: Sequence[Any], operation: str) -> None:
        """Fail unless exactly one kernel ran: the right one of this backend.

        One that declares ``DELEGATES`` may have called others.
        """
        ran = [(run.backend, run.operation) for run in runs]
        if self.has(Feature.DELEGATES):
            ran = [one for one in ran if one[0] == self.backend]
        if ran != [(self.backend, operation)]:
            names = " then ".join(f"{name} ({what})" for name, what in ran) or "nothing"
            msg = (
                f"backend {self.backend!r} was asked for {operation!r}, but what ran was: {names}. "
                f"A kernel must compute by itself, never through another backend"
            )
            raise CheckFailure(msg)

    def run(
        self,
        batch: Batch,
        *,
        grad: bool,
        inputs: CallArrays | None = None,
        grad_shape: tuple[int, ...] | None = None,
        blank: int | None = None,
        **options: Any,
    ) -> Outcome:
        """Compute a batch, and check all that is not about the numbers.

        ``inputs`` are the batch as arrays, if not as :meth:`inputs` makes them; ``grad_shape`` is
        the shape of the gradient, if not (N, T, C); ``blank`` is another name of the blank class,
        such as -1; ``options`` are more arguments of ``ctc_loss``.

        Raises CheckFailure: another backend ran, the result has the wrong form, or an input was
        changed. NotApplicable: the backend's own ``accepts`` says that it doesn't take such a
        problem.
        """
        inputs = inputs or self.inputs(batch)
        blank = batch.blank if blank is None else blank
        before = [self.state_of(array) for array in inputs]
        try:
            result = self.call(inputs, grad=grad, blank=blank, **options)
            self.check_form(batch, inputs, result, grad_shape)
            for name, array, old in zip(CallArrays._fields, inputs, before, strict=True):
                self.raise_if_changed(f"its input {name!r}", array, old)
        except BackendRejectedError as error:
            if reason := self.declined_by_itself(
                batch, inputs.logits, "loss_and_grad" if grad else "loss"
            ):
                msg = f"its accepts() rejects case {batch.name!r}: {reason}"
                raise NotApplicable(msg) from error
            raise
        except (CheckFailure, KernelError) as failure:
            msg = f"case {batch.name!r}: {failure}"
            raise CheckFailure(msg) from failure
        except Exception as error:
            error.add_note(f"in case {batch.name!r}, which is about: {batch.why}")
            raise
        loss, *others = (self.numpy(array) for array in result)
        outcome = Outcome(loss.astype(np.float64))
        if others:
            outcome = Outcome(outcome.loss, others[0].astype(np.float64), others[1])
        return outcome

    def examined(self) -> Examined:
        """Return which mistake the backend likely makes, by its numbers for all fixtures."""

        def answer(fixture: Fixture) -> Answer | None:
            try:
                outcome = self.run(batch_of(fixture), grad=self.can_grad)
            except Exception:  # noqa: BLE001 - a kernel may raise anything, which checks report
                return None
            gradient = {} if outcome.grad is None else {"gradient": outcome.grad}
            return {"loss": outcome.loss} | gradient

        return examine(answer, self.dtype)

    def declined_by_itself(self, batch: Batch, logits: Array, operation: str) -> str | None:
        """Return why the backend's ``accepts`` rejects a batch; None if it doesn't."""
        facts = describe(logits)
        num_sequences, num_frames, num_classes, width = batch.shape
        return self.descriptor.accepts(
            Problem(
                operation=operation,
                namespace=facts.namespace,
                device=facts.device,
                dtype=facts.dtype,
                N=num_sequences,
                T=num_frames,
                C=num_classes,
                S=width,
                blank=batch.blank,
                contiguous=facts.contiguous,
            )
        )

    def check_form(
        self,
        batch: Batch,
        inputs: CallArrays,
        result: tuple[Array, ...],
        grad_shape: tuple[int, ...] | None = None,
    ) -> None:
        """Fail unless the results have the right library, device, dtype and shape."""
        given = describe(inputs.logits)
        num_sequences, num_frames, num_classes, _ = batch.shape
        wanted = {
            "loss": ((num_sequences,), "float64" if given.dtype == "float64" else "float32"),
            "grad": (grad_shape or (num_sequences, num_frames, num_classes), given.dtype),
            "feasible": ((num_sequences,), "bool"),
        }
        # ctc_loss gives the loss alone, ctc_loss_and_grad all three.
        for (name, (shape, kind)), array in zip(wanted.items(), result, strict=False):
            try:
                found = describe(array)
            except Exception as error:
                msg = f"{name} is no array but {type(array).__name__}"
                raise CheckFailure(msg) from error
            for what, is_now, right in (
                ("array library", found.namespace, given.namespace),
                ("device", found.device, given.device),
                ("dtype", found.dtype, kind),
                ("shape", tuple(array.shape), shape),
            ):
                if is_now != right:
                    msg = f"the {what} of {name} is {is_now}, expected {right}"
                    raise CheckFailure(msg)
