"""Calls in operations that PyTorch's compilers and tracers can record.

What stands around the operators of kernels (:mod:`ctcx._autodiff.torch_kernels`), layouts and
reductions, is in plain PyTorch here, for ``torch.compile`` and ``torch.export`` to trace.
``ctcx::ctc_loss`` and ``ctcx::ctc_loss_and_grad`` are whole calls, for ``torch.jit``.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import array_api_compat.torch as xp
import numpy as np
import torch

from ctcx._api.call import run
from ctcx._api.loss import ctc_loss_and_grad
from ctcx._autodiff.torch_kernels import check_devices, loss_and_grad
from ctcx._autodiff.torch_kernels import loss as kernel_loss
from ctcx._errors import CTCInputError
from ctcx._inputs.host_data import is_list
from ctcx._inputs.labels import from_lists, resolve_blank
from ctcx._inputs.options import Options, check_options
from ctcx._reduction import Reduction

if TYPE_CHECKING:
    from ctcx._typing import Array

__all__ = [
    "TracedArguments",
    "assembled_loss",
    "constants",
    "define_whole",
    "differentiable_loss_and_grad",
    "traced_loss",
    "traced_loss_and_grad",
]

_INTEGERS = ("labels", "logit_lengths", "label_lengths")
_WHOLE = (
    "(Tensor logits, Tensor labels, Tensor? logit_lengths, Tensor? label_lengths, int blank, "
    "bool time_major, str reduction, str infeasible, str? backend, bool validate)"
)


def define_whole(name: str, schema: str, function: Any) -> Any:
    """Define an operator of a whole call. It is made of what ``function`` calls when it runs."""
    torch.library.define(f"ctcx::{name}", schema)
    torch.library.impl(f"ctcx::{name}", "CompositeImplicitAutograd", function)
    return getattr(torch.ops.ctcx, name).default


def _whole_loss(*arguments: Any) -> Array:
    logits, labels, logit_lengths, label_lengths, blank, *options = arguments
    arrays = (logits, labels, logit_lengths, label_lengths)
    return run("loss", *arrays, blank, Options(*options))[1]


def _whole_loss_and_grad(*arguments: Any) -> tuple[Array, ...]:
    options = Options(*arguments[5:])._asdict()
    return tuple(ctc_loss_and_grad(*arguments[:4], blank=arguments[4], **options))


_call_loss = define_whole("ctc_loss", f"{_WHOLE} -> Tensor", _whole_loss)
_call_loss_and_grad = define_whole(
    "ctc_loss_and_grad", f"{_WHOLE} -> (Tensor, Tensor, Tensor)", _whole_loss_and_grad
)


def traced_loss(
    logits: Any,
    labels: Any,
    logit_lengths: Any,
    label_lengths: Any,
    blank: int,
    options: Options,
) -> Array:
    """Do what :func:`ctcx.ctc_loss` does, in operations that a compiler or tracer can record."""
    arrays = (logits, labels, logit_lengths, label_lengths)
    if torch.compiler.is_compiling():
        return assembled_loss(*arrays, blank, options)
    return _call_loss(*_as_tensors(*arrays), blank, *options)


def assembled_loss(
    logits: Any,
    labels: Any,
    logit_lengths: Any,
    label_lengths: Any,
    blank: int,
    options: Options,
    *,
    concatenated: bool = False,
) -> Array:
    """Do the same in plain PyTorch around the operator of a kernel.

    ``concatenated`` says that labels are (sum of label_lengths,).
    """
    check_options(options)
    call = TracedArguments(
        logits, labels, logit_lengths, label_lengths, blank, options, concatenated
    )
    if call.arrays[0].requires_grad and torch.is_grad_enabled():
        loss, _ = loss_and_grad(*call.arrays, *call.settings)
    else:
        loss = kernel_loss(*call.arrays, *call.settings)
    return call.reduced(loss)


def traced_loss_and_grad(
    logits: Any,
    labels: Any,
    logit_lengths: Any,
    label_lengths: Any,
    blank: int,
    options: Options,
) -> tuple[Array, Array, Array]:
    """Do what :func:`ctcx.ctc_loss_and_grad` does, as :func:`traced_loss`."""
    logits = logits.detach()
    if not torch.compiler.is_compiling():
        tensors = _as_tensors(logits, labels, logit_lengths, label_lengths)
        loss, grad, feasible = _call_loss_and_grad(*tensors, blank, *options)
        return loss, grad, feasible
    check_options(options)
    call = TracedArguments(logits, labels, logit_lengths, label_lengths, blank, options)
    loss, grad = differentiable_loss_and_grad(call)
    feasible = loss != torch.inf
    weights = torch.ones_like(loss)
    if options.reduction == "mean_per_label":
        weights = weights / call.label_counts(loss.dtype)
    if options.reduction in {"mean", "mean_per_label"}:
        grad = (grad * (weights / max(1, loss.shape[0]))[:, None, None]).to(grad.dtype)
    loss = call.reduced(loss)
    if call.single:
        return loss, grad[0], feasible[0]
    return loss, grad.permute(1, 0, 2) if options.time_major else grad, feasible


def differentiable_loss_and_grad(call: TracedArguments) -> tuple[Array, Array]:
    """Losses (N,) and gradient (N, T, C), both differentiable."""
    loss, grad = loss_and_grad(*call.arrays, *call.settings)
    return loss, grad


def _as_tensors(
    logits: Array, labels: Any, logit_lengths: Any, label_lengths: Any
) -> tuple[Array | None, ...]:
    """Labels and lengths as tensors or None, for an operator of a whole call."""
    if is_list(labels):
        rows, own = from_lists([labels] if logits.ndim == 2 else labels)
        labels = rows[0] if logits.ndim == 2 else rows
        label_lengths = own if label_lengths is None else label_lengths
    return logits, *constants(logits, labels, logit_lengths, label_lengths)


def constants(logits: Array, *integers: Any) -> list[Array | None]:
    """Labels and lengths as tensors: a trace holds host data as constants, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return [
            None if x is None else _integers(name, x, logits)
            for name, x in zip(_INTEGERS, integers, strict=True)
        ]


class TracedArguments:
    """A call's arguments in the form of the operators, made in plain PyTorch."""

    def __init__(
        self,
        logits: Array,
        labels: Any,
        logit_lengths: Any,
        label_lengths: Any,
        blank: int,
        options: Options,
        concatenated: bool = False,  # noqa: FBT001, FBT002 - Dynamo
    ) -> None:
        if logits.ndim not in {2, 3}:
            msg = f"logits must have 2 or 3 axes; got {tuple(logits.shape)}"
            raise CTCInputError(msg, argument="logits")
        self.single = logits.ndim == 2
        layout = "TC" if self.single else "TNC" if options.time_major else "NTC"
        if self.single:
            logits = logits[None]
        elif options.time_major:
            logits = logits.permute(1, 0, 2)
        count, frames, classes = logits.shape
        if is_list(labels):
            labels, own = _padded([labels] if self.single else labels)
            label_lengths = own if label_lengths is None else label_lengths
        else:
            labels = labels[None] if self.single else labels
        labels = _integers("labels", labels, logits)
        if labels.ndim != (1 if concatenated else 2):
            msg = f"labels must have shape (N, S), or (S,) for one sequence; got {labels.ndim} axes"
            raise CTCInputError(msg, argument="labels")
        if logit_lengths is None:
            logit_lengths = torch.full((count,), frames, dtype=torch.int64, device=logits.device)
        if label_lengths is None:
            width = labels.shape[1]
            label_lengths = torch.full((count,), width, dtype=torch.int64, device=logits.device)
        lengths = [
            _integers("logit_lengths", logit_lengths, logits),
            _integers("label_lengths", label_lengths, logits),
        ]
        if self.single:
            lengths = [x.reshape(-1) for x in lengths]
        check_devices(logits, labels, *lengths)
        self.arrays = (logits, labels, *lengths)
        self.settings = (
            resolve_blank(blank, classes),
            options.infeasible,
            options.backend,
            options.validate,
            layout,
        )
        self._options = options

    def reduced(self, loss: Array) -> Array:
        """Apply policy and reduction to losses (N,)."""
        how = Reduction(self._options.reduction, self._options.infeasible == "zero", self.single)
        divisor = how.divisor(xp, self.arrays[3].to(torch.int64), loss.dtype)
        result: Array = how.value(xp, loss, divisor)
        return result

    def label_counts(self, dtype: Any) -> Array:
        """Labels of each sequence, at least 1."""
        return self.arrays[3].to(torch.int64).clamp(min=1).to(dtype)


def _check_list(argument: str, values: Any, sequence: int | None) -> None:
    """Refuse what is no integer, of which PyTorch would make one."""
    for place, value in enumerate(values):
        if isinstance(value, bool) or getattr(value, "dtype", None) == torch.bool:
            where = f"[{place}]" if sequence is None else f"[{sequence}][{place}]"
            msg = f"{argument}{where} is a boolean: expected an integer"
            raise CTCInputError(msg, argument=argument)


def _padded(rows: Any) -> tuple[Array, Array]:
    """Turn lists into a tensor and lengths, whose values the operator checks."""
    for sequence, row in enumerate(rows):
        if is_list(row):
            _check_list("labels", row, sequence)
        elif (
            not isinstance(row, (torch.Tensor, np.ndarray))
            or torch.as_tensor(row).dtype == torch.bool
        ):
            msg = f"labels[{sequence}] must be a list of integers, got {type(row).__name__}"
            raise CTCInputError(msg, argument="labels", sequence=sequence)
    lengths = [len(row) for row in rows]
    width = max(lengths, default=0)
    counts = torch.tensor(lengths, dtype=torch.int64, device="cpu")
    if width == 0:
        return torch.zeros((len(lengths), 0), dtype=torch.int64, device="cpu"), counts
    padded_rows = [[*row, *[-1] * (width - len(row))] for row in rows]
    return torch.tensor(padded_rows, device="cpu"), counts


def _integers(argument: str, values: Any, logits: Array) -> Array:
    """Host data as a tensor beside the logits; tensors as they are, for the operator to check."""
    if isinstance(values, torch.Tensor):
        return values
    if is_list(values):
        _check_list(argument, values, None)
    return torch.as_tensor(values, device="cpu").to(logits.device)
