"""What ``torch.compile`` and ``torch.export`` have to know: two operators of PyTorch.

A compiler can't look into a selection of backends at run time, and need not: it sees an operator of
which it knows the shapes and the derivative. Backends are selected when the operator runs. What
stands around it, layouts and reductions, is in plain PyTorch, for the compiler to trace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ctcx._api import Options, check_options, run
from ctcx._autodiff.torch_function import from_above, merge
from ctcx._errors import CTCInputError
from ctcx._labels import resolve_blank

if TYPE_CHECKING:
    from ctcx._typing import Array

__all__ = ["traced_loss", "traced_loss_and_grad"]

_ARGUMENTS = (
    "Tensor logits, Tensor labels, Tensor logit_lengths, Tensor label_lengths, int blank, "
    "str infeasible, str? backend, bool validate"
)


@torch.library.custom_op("ctcx::loss", mutates_args=(), schema=f"({_ARGUMENTS}) -> Tensor")  # type: ignore[untyped-decorator]
def _loss(*arguments: Any) -> Array:
    return _run("loss", *arguments)


@_loss.register_fake  # type: ignore[untyped-decorator]
def _fake_loss(logits: Array, *_: Any) -> Array:
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


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Array, Array]) -> None:
    *arrays, blank, _, _, _ = inputs
    ctx.blank = blank
    ctx.save_for_backward(*output, *arrays)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, from_loss: Array | None, from_grad: Array | None) -> tuple[Any, ...]:
    losses, *saved = ctx.saved_tensors
    weights = None
    if from_loss is not None:
        weights = torch.where(losses.detach() == torch.inf, 0.0, from_loss)
    return from_above(tuple(saved), ctx.blank, weights, from_grad), *[None] * 7


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
    operation: Any,
    logits: Array,
    labels: Array,
    logit_lengths: Array,
    label_lengths: Array,
    blank: int,
    infeasible: Any,
    backend: str | None,
    validate: bool,  # noqa: FBT001 - as the operator passes it
) -> Any:
    options = Options(False, "none", infeasible, backend, validate)
    return run(operation, logits, labels, logit_lengths, label_lengths, blank, options)[1]


def _loss_dtype(logits: Array) -> Any:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def traced_loss(
    logits: Any,
    labels: Any,
    logit_lengths: Any,
    label_lengths: Any,
    blank: int,
    options: Options,
) -> Array:
    """Do what :func:`ctcx.ctc_loss` does, in operations that a compiler can trace."""
    call = _Traced(logits, labels, logit_lengths, label_lengths, blank, options)
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
    """Do what :func:`ctcx.ctc_loss_and_grad` does, in operations that a compiler can trace."""
    call = _Traced(logits.detach(), labels, logit_lengths, label_lengths, blank, options)
    loss, grad = _loss_and_grad(*call.arrays, *call.settings)
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


class _Traced:
    """A call's arguments in the form of the operators, made in plain PyTorch."""

    def __init__(
        self,
        logits: Array,
        labels: Any,
        logit_lengths: Any,
        label_lengths: Any,
        blank: int,
        options: Options,
    ) -> None:
        check_options(options)
        if logits.ndim not in {2, 3}:
            msg = f"logits must have 2 or 3 axes; got {tuple(logits.shape)}"
            raise CTCInputError(msg, argument="logits")
        self.single = logits.ndim == 2
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
        if logit_lengths is None:
            logit_lengths = torch.full((count,), frames)
        if label_lengths is None:
            label_lengths = torch.full((count,), labels.shape[1])
        lengths = [_integers(x, logits).reshape(-1) for x in (logit_lengths, label_lengths)]
        self.arrays = (logits, labels, *lengths)
        self.settings = (
            resolve_blank(blank, classes),
            options.infeasible,
            options.backend,
            options.validate,
        )
        self._options = options

    def reduced(self, loss: Array) -> Array:
        """Apply policy and reduction to losses (N,)."""
        options = self._options
        if options.infeasible == "zero":
            loss = torch.where(loss == torch.inf, 0.0, loss)
        if options.reduction == "mean_per_label":
            loss = loss / self.label_counts(loss.dtype)
        if options.reduction == "none":
            return loss[0] if self.single else loss
        total = loss.sum()
        return total if options.reduction == "sum" else total / max(1, loss.shape[0])

    def label_counts(self, dtype: Any) -> Array:
        """Labels of each sequence, at least 1."""
        return self.arrays[3].clamp(min=1).to(dtype)


def _padded(rows: Any) -> tuple[Array, Array]:
    """Lists as a tensor, and their lengths. The operator checks what stands in them."""
    lengths = [len(row) for row in rows]
    width = max(lengths, default=0)
    if width == 0:
        return torch.zeros((len(lengths), 0), dtype=torch.int64), torch.tensor(lengths)
    padded = [[*row, *[0] * (width - len(row))] for row in rows]
    return torch.tensor(padded), torch.tensor(lengths)


def _integers(values: Any, logits: Array) -> Array:
    return torch.as_tensor(values).to(logits.device)
