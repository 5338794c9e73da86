"""The kernels of the ``array-api`` backend; see :class:`ctcx.plugin.Backend` for their contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from ctcx._arrays.facts import library_name
from ctcx._core.gradient import ClassSums, block_shape, denominator, gradient_rows
from ctcx._core.loops.base import Loop, PythonLoop
from ctcx._core.recursion import Recursion, TooManyLogitsError
from ctcx._plugins.backend import Decline
from ctcx._plugins.registry import registry
from ctcx._plugins.targets import load_target

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from ctcx._typing import Array

__all__ = ["loop_for", "loss", "loss_and_grad", "run"]


def loss(
    logits: Array, labels: Array, logit_lengths: Array, label_lengths: Array, *, blank: int
) -> Array:
    """Negative log likelihood of each sequence, (N,)."""
    arrays = (logits, labels, logit_lengths, label_lengths)
    return cast("Array", run(_loss, arrays, blank))


def loss_and_grad(
    logits: Array, labels: Array, logit_lengths: Array, label_lengths: Array, *, blank: int
) -> tuple[Array, Array]:
    """Negative log likelihood (N,) and its gradient (N, T, C) with respect to the logits."""
    arrays = (logits, labels, logit_lengths, label_lengths)
    return cast("tuple[Array, Array]", run(_loss_and_grad, arrays, blank))


def _loss(
    logits: Array, labels: Array, logit_lengths: Array, label_lengths: Array, blank: int
) -> Array:
    loop = loop_for(library_name(logits))
    call = Recursion(loop, logits, labels, logit_lengths, label_lengths, blank)
    context = call.context
    if (result := call.small()) is not None:
        return result[0]
    call.prepare()
    _, _, total = call.first_half(keep=False)
    found = call.log_likelihood(total)

    def block(rows: slice, frames: slice) -> tuple[Array]:
        part = (rows, frames)
        _, _, spread = denominator(
            logits[(*part, slice(None))],
            call.peak[part],
            call.inside[part],
            context,
            all_inside=call.all_inside,
        )
        return (spread,)

    (spread,) = call.loop.assemble(
        block, logits.shape[:2], [((), context.dtype)], block_shape(*logits.shape), context
    )
    return call.loss(spread, found, call.possible(found))


def _loss_and_grad(
    logits: Array, labels: Array, logit_lengths: Array, label_lengths: Array, blank: int
) -> tuple[Array, Array]:
    loop = loop_for(library_name(logits))
    call = Recursion(loop, logits, labels, logit_lengths, label_lengths, blank)
    context, xp = call.context, call.context.xp
    if (result := call.small()) is not None:
        return result
    call.prepare()
    occupancies, found = call.occupancies()
    possible = call.possible(found)
    classes = logits.shape[2]
    sum_by_class = ClassSums(call.columns, classes, context)

    def block(rows: slice, frames: slice) -> tuple[Array, ...]:
        part = (rows, frames)
        powers, total, spread = denominator(
            logits[(*part, slice(None))],
            call.peak[part],
            call.inside[part],
            context,
            all_inside=call.all_inside,
        )
        sums = sum_by_class(occupancies[frames, rows, :], rows)
        grad = gradient_rows(powers, total, call.factor(rows, frames, possible), sums)
        return xp.astype(grad, logits.dtype, copy=False), spread

    grad, spread = call.loop.assemble(
        block,
        logits.shape[:2],
        [((classes,), logits.dtype), ((), context.dtype)],
        block_shape(logits.shape[0], logits.shape[1], classes + call.columns.shape[1]),
        context,
    )
    loss = call.loss(spread, found, possible)
    if call.loop.reads_values and bool(xp.any((loss == float("inf")) & possible)):
        # Only the softmax's denominator has brought these above the limit.
        grad = xp.where((loss == float("inf"))[:, None, None], 0.0, grad)
    return loss, grad


_PYTHON_LOOP = PythonLoop()


def loop_for(namespace: str) -> Loop:
    """Give the loop that the library's descriptor names, or the one in Python."""
    registered = registry().namespaces.get(namespace)
    target = None if registered is None else registered.namespace.loop
    return _PYTHON_LOOP if target is None else cast("Loop", load_target(target))


def run(kernel: Callable[..., Any], arrays: tuple[Array, ...], constants: Hashable) -> Any:
    """Call ``kernel(*arrays, constants)`` as the library of the first array runs kernels.

    Raises
    ------
    Decline
        The batch has more logits than the library can count.
    """
    loop = loop_for(library_name(arrays[0]))
    try:
        return loop.run(kernel, arrays, constants)
    except TooManyLogitsError as error:
        raise Decline(str(error)) from None
