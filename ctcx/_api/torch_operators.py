"""Operators of PyTorch, for all that sees operators only.

A compiler can't look into a selection of backends at run time, and need not: it sees an operator of
which it knows the shapes and the derivative. Backends are selected when the operator runs.
``ctcx::loss`` and ``ctcx::loss_and_grad`` are the call of a kernel. What stands around it, layouts
and reductions, is in plain PyTorch, for ``torch.compile`` and ``torch.export`` to trace. PyTorch's
dispatcher takes them to the tensors that kernels can't read (:mod:`ctcx._arrays.tensor_forms`).
``ctcx::ctc_loss`` and ``ctcx::ctc_loss_and_grad`` are whole calls, for ``torch.jit``.
"""

from __future__ import annotations

import traceback
import warnings
from typing import TYPE_CHECKING, Any

import array_api_compat.torch as xp
import torch

from ctcx._api.call import Options, check_options, run
from ctcx._api.loss import ctc_loss_and_grad
from ctcx._arrays.tensor_forms import FUNCTIONAL
from ctcx._autodiff.torch_function import from_above, merge
from ctcx._errors import BackendError, CTCInputError, one_line
from ctcx._inputs.concatenated import padded
from ctcx._inputs.labels import from_lists, resolve_blank
from ctcx._reduction import Reduction

if TYPE_CHECKING:
    from ctcx._inputs.prepare import KernelInputs
    from ctcx._typing import Array

__all__ = [
    "TracedArguments",
    "assembled_loss",
    "constants",
    "define_whole",
    "differentiable_loss_and_grad",
    "dispatched",
    "traced_loss",
    "traced_loss_and_grad",
    "untraced_hvp",
]

# ``labels`` are (N, S), or (sum of label_lengths,) one sequence after the other. ``layout`` is that
# of the caller's logits, for error messages: "NTC", "TNC" or "TC". These are always (N, T, C).
_ARGUMENTS = (
    "Tensor logits, Tensor labels, Tensor logit_lengths, Tensor label_lengths, int blank, "
    "str infeasible, str? backend, bool validate, str layout"
)


@torch.library.custom_op("ctcx::loss", mutates_args=(), schema=f"({_ARGUMENTS}) -> Tensor")  # type: ignore[untyped-decorator]
def _loss(*arguments: Any) -> Array:
    return _run("loss", *arguments)


@_loss.register_fake  # type: ignore[untyped-decorator]
def _fake_loss(logits: Array, *arguments: Any) -> Array:
    _check_devices(logits, *arguments[:3])
    return logits.new_empty(logits.shape[:1], dtype=_loss_dtype(logits))


@torch.library.custom_op(  # type: ignore[untyped-decorator]
    "ctcx::loss_and_grad", mutates_args=(), schema=f"({_ARGUMENTS}) -> (Tensor, Tensor)"
)
def _loss_and_grad(*arguments: Any) -> tuple[Array, Array]:
    loss, grad = _run("loss_and_grad", *arguments)
    return loss, grad.contiguous()


@_loss_and_grad.register_fake  # type: ignore[untyped-decorator]
def _fake_loss_and_grad(logits: Array, *arguments: Any) -> tuple[Array, Array]:
    return _fake_loss(logits, *arguments), logits.new_empty(logits.shape)


def _check_devices(logits: Array, *integers: Array) -> None:
    """Refuse labels and lengths that are elsewhere: PyTorch would take them for fake ones."""
    names = ("labels", "logit_lengths", "label_lengths")
    for name, tensor in zip(names, integers, strict=True):
        if tensor.device != logits.device:
            msg = (
                f"{name} is on device {tensor.device}, but the logits are on {logits.device}: "
                f"move it there, or pass a NumPy array or a list"
            )
            raise CTCInputError(msg, argument=name)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Array, Array]) -> None:
    ctx.blank = inputs[4]
    ctx.save_for_backward(*output, *inputs[:4])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, from_loss: Array | None, from_grad: Array | None) -> tuple[Any, ...]:
    losses, grad, logits, labels, logit_lengths, label_lengths = ctx.saved_tensors
    weights = None
    if from_loss is not None:
        weights = torch.where(losses.detach() == torch.inf, 0.0, from_loss)
    if from_grad is not None and labels.ndim == 1:
        labels = padded(labels, label_lengths)
    saved = (grad, logits, labels, logit_lengths, label_lengths)
    return from_above(saved, ctx.blank, weights, from_grad), *[None] * 8


_loss_and_grad.register_autograd(_backward, setup_context=_keep)


@_loss.register_vmap  # type: ignore[untyped-decorator]
def _vmap_loss(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Array, int]:
    arrays = merge(arguments[:4], in_dims[:4], info.batch_size)
    return _loss(*arrays, *arguments[4:]).unflatten(0, (info.batch_size, -1)), 0


@_loss_and_grad.register_vmap  # type: ignore[untyped-decorator]
def _vmap_loss_and_grad(
    info: Any, in_dims: tuple[int | None, ...], *arguments: Any
) -> tuple[tuple[Array, Array], tuple[int, int]]:
    arrays = merge(arguments[:4], in_dims[:4], info.batch_size)
    loss, grad = _loss_and_grad(*arrays, *arguments[4:])
    sizes = (info.batch_size, -1)
    return (loss.unflatten(0, sizes), grad.unflatten(0, sizes)), (0, 0)


def _run(
    operation: str,
    logits: Array,
    labels: Array,
    logit_lengths: Array,
    label_lengths: Array,
    blank: int,
    infeasible: Any,
    backend: str | None,
    validate: bool,  # noqa: FBT001 - as the operator passes it
    layout: str,
) -> Any:
    if labels.ndim == 1:
        labels = padded(labels, label_lengths)
    arrays = [logits, labels, logit_lengths, label_lengths]
    single = layout == "TC" and logits.shape[0] == 1  # under vmap there are more
    if single:
        arrays = [array[0] for array in arrays]
    elif layout == "TNC":
        arrays[0] = logits.permute(1, 0, 2)
    options = Options(layout == "TNC", "none", infeasible, backend, validate)
    _, result = run(operation, arrays[0], arrays[1], arrays[2], arrays[3], blank, options)
    return result.reshape(1) if single and operation == "loss" else result


def _loss_dtype(logits: Array) -> Any:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def dispatched(operation: str, options: Options, prepared: KernelInputs) -> Any:
    """Call the operator for what a kernel would compute, so that PyTorch's dispatcher sees it.

    Raises
    ------
    BackendError
        PyTorch can't take the operator to a kernel for tensors of these types.
    """
    layout = "TC" if prepared.single else "TNC" if options.time_major else "NTC"
    arguments = (
        *prepared[:4],
        prepared.blank,
        options.infeasible,
        options.backend,
        options.validate,
        layout,
    )
    differentiable = prepared.facts.form & FUNCTIONAL and torch.is_grad_enabled()
    try:
        if operation == "loss" and not differentiable:
            return _loss(*arguments)
        loss, grad = _loss_and_grad(*arguments)
    except Exception as error:
        if _ran_a_kernel(error):
            raise
        types = ", ".join(dict.fromkeys(type(array).__name__ for array in prepared[:4]))
        if prepared.facts.form & FUNCTIONAL:
            advice = "Under torch.func.functionalize, differentiate with torch.autograd"
        else:
            advice = "Pass plain tensors, such as those that these wrap"
        msg = (
            f"PyTorch can't take the operator ctcx::{operation} to a kernel for arguments of the "
            f"types {types}: {one_line(error)}. {advice}"
        )
        raise BackendError(msg) from error
    return loss if operation == "loss" else (loss, grad)


def _ran_a_kernel(error: Exception) -> bool:
    """Whether an error comes from within the operator, not from PyTorch's way to it."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code is _run.__code__ for frame, _ in frames)


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
        loss, _ = _loss_and_grad(*call.arrays, *call.settings)
    else:
        loss = _loss(*call.arrays, *call.settings)
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
    loss, grad = _loss_and_grad(*call.arrays, *call.settings)
    return loss, grad


@torch.compiler.disable  # type: ignore[untyped-decorator]
def untraced_hvp(*arguments: Any, **options: Any) -> Array:
    """Call :func:`ctcx.ctc_hvp` as it is: a compiler would unroll the recursion over frames."""
    from ctcx._api.hvp import ctc_hvp

    product: Array = ctc_hvp(*arguments, **options)
    return product


def _as_tensors(
    logits: Array, labels: Any, logit_lengths: Any, label_lengths: Any
) -> tuple[Array | None, ...]:
    """Labels and lengths as tensors or None, for an operator of a whole call."""
    if isinstance(labels, (list, tuple)):
        rows, own = from_lists([labels] if logits.ndim == 2 else labels)
        labels = rows[0] if logits.ndim == 2 else rows
        label_lengths = own if label_lengths is None else label_lengths
    return logits, *constants(logits, labels, logit_lengths, label_lengths)


def constants(logits: Array, *integers: Any) -> list[Array | None]:
    """Labels and lengths as tensors: a trace holds host data as constants, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return [None if x is None else _integers(x, logits) for x in integers]


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
        if isinstance(labels, (list, tuple)):
            labels, own = _padded([labels] if self.single else labels)
            label_lengths = own if label_lengths is None else label_lengths
        else:
            labels = labels[None] if self.single else labels
        labels = _integers(labels, logits)
        if labels.ndim != (1 if concatenated else 2):
            msg = f"labels must have shape (N, S), or (S,) for one sequence; got {labels.ndim} axes"
            raise CTCInputError(msg, argument="labels")
        if logit_lengths is None:
            logit_lengths = torch.full((count,), frames, dtype=torch.int64, device=logits.device)
        if label_lengths is None:
            width = labels.shape[1]
            label_lengths = torch.full((count,), width, dtype=torch.int64, device=logits.device)
        lengths = [_integers(x, logits).reshape(-1) for x in (logit_lengths, label_lengths)]
        _check_devices(logits, labels, *lengths)
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
        divisor = how.divisor(xp, self.arrays[3], loss.dtype)
        result: Array = how.value(xp, loss, divisor)
        return result

    def label_counts(self, dtype: Any) -> Array:
        """Labels of each sequence, at least 1."""
        return self.arrays[3].clamp(min=1).to(dtype)


def _padded(rows: Any) -> tuple[Array, Array]:
    """Turn lists into a tensor and lengths, whose values the operator checks."""
    lengths = [len(row) for row in rows]
    width = max(lengths, default=0)
    counts = torch.tensor(lengths, dtype=torch.int64, device="cpu")
    if width == 0:
        return torch.zeros((len(lengths), 0), dtype=torch.int64, device="cpu"), counts
    padded_rows = [[*row, *[0] * (width - len(row))] for row in rows]
    return torch.tensor(padded_rows, device="cpu"), counts


def _integers(values: Any, logits: Array) -> Array:
    """Host data as a tensor beside the logits; tensors as they are, for the operator to check."""
    if isinstance(values, torch.Tensor):
        return values
    return torch.as_tensor(values, device="cpu").to(logits.device)
