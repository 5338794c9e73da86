"""The kernels of the ``array-api`` backend; see :class:`ctcx.plugin.Backend` for their contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from ctcx._arrays.facts import is_undecided, library_name
from ctcx._arrays.lending import given_back, lent
from ctcx._core.gradient import block_shape, gradient_rows
from ctcx._core.loops.base import Loop
from ctcx._core.recursion import Recursion, TooManyLogitsError
from ctcx._plugins.backend import Decline
from ctcx._plugins.registry import registry
from ctcx._plugins.targets import load_target

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from ctcx._core.context import Context
    from ctcx._core.occupancy import LogLikelihood
    from ctcx._core.recursion import Route
    from ctcx._typing import Array

    _Rows = Callable[[Array, Array, Array, Array], Array]

__all__ = ["loop_for", "loss", "loss_and_grad", "occupancies", "run", "run_on_results"]


def loss(
    logits: Array,
    labels: Array,
    logit_lengths: Array,
    label_lengths: Array,
    *,
    blank: int,
    route: Route = "shortest",
) -> Array:
    """Negative log likelihood of each sequence, (N,)."""
    arrays = (logits, labels, logit_lengths, label_lengths)
    return cast("Array", run(_loss, arrays, (blank, route)))


def loss_and_grad(
    logits: Array,
    labels: Array,
    logit_lengths: Array,
    label_lengths: Array,
    *,
    blank: int,
    route: Route = "shortest",
) -> tuple[Array, Array]:
    """Negative log likelihood (N,) and its gradient (N, T, C) with respect to the logits."""
    arrays = (logits, labels, logit_lengths, label_lengths)
    return cast("tuple[Array, Array]", run(_loss_and_grad, arrays, (blank, route)))


def occupancies(
    logits: Array,
    labels: Array,
    logit_lengths: Array,
    label_lengths: Array,
    *,
    blank: int,
    states: bool,
) -> tuple[Array, ...]:
    """Loss (N,), and the occupancies of classes (N, T, C) and, if wanted, states (N, T, 2S+1)."""
    arrays = (logits, labels, logit_lengths, label_lengths)
    return cast("tuple[Array, ...]", run(_occupancies, arrays, (blank, states)))


def _loss(
    logits: Array,
    labels: Array,
    logit_lengths: Array,
    label_lengths: Array,
    constants: tuple[int, Route],
) -> Array:
    blank, route = constants
    loop = loop_for(library_name(logits))
    call = Recursion(loop, logits, labels, logit_lengths, label_lengths, blank, route=route)
    if (result := call.small()) is not None:
        return result.loss
    call.prepare()
    _, _, total = call.first_half(keep=False)
    found = call.log_likelihood(total)

    return call.loss(call.spread(), found, call.possible(found))


def _loss_and_grad(
    logits: Array,
    labels: Array,
    logit_lengths: Array,
    label_lengths: Array,
    constants: tuple[int, Route],
) -> tuple[Array, Array]:
    blank, route = constants
    loop = loop_for(library_name(logits))
    call = Recursion(loop, logits, labels, logit_lengths, label_lengths, blank, route=route)
    xp = call.context.xp
    if (result := call.small()) is not None:
        return result.loss, xp.astype(result.softmax - result.classes, logits.dtype)
    call.prepare()
    occupancies, found = call.occupancies()

    def rows(powers: Array, total: Array, sums: Array, factor: Array) -> Array:
        return xp.astype(gradient_rows(powers, total, factor, sums), logits.dtype, copy=False)

    loss, grad, _ = _by_class(
        call, lambda frames, rows: occupancies[frames, rows, :], found, rows, logits.dtype
    )
    return loss, grad


def _occupancies(
    logits: Array,
    labels: Array,
    logit_lengths: Array,
    label_lengths: Array,
    constants: tuple[int, bool],
) -> tuple[Array, ...]:
    blank, with_states = constants
    loop = loop_for(library_name(logits))
    call = Recursion(loop, logits, labels, logit_lengths, label_lengths, blank)
    xp, cast_, width = call.context.xp, call.context.cast, labels.shape[1]
    used = call.classes.shape[1]
    position = call.context.arange(0, 2 * width + 1)[None, :]
    there = cast_(position <= 2 * call.label_lengths[:, None])[:, None, :]
    if (result := call.small()) is not None:
        loss, classes = result.loss, cast_(result.classes)
        if not with_states:
            return loss, classes
        in_order = _in_path_order(result.states, used, width, call.context)
        return loss, classes, cast_(in_order) * there
    call.prepare()
    each, found = call.occupancies(each_blank=with_states)

    def with_one_blank(frames: slice, rows: slice) -> Array:
        part = each[frames, rows, :]
        if not with_states:
            return part
        blank = xp.sum(part[:, :, used:], axis=2, keepdims=True)
        return xp.concat([part[:, :, :used], blank], axis=2)

    def rows_of(_powers: Array, _total: Array, sums: Array, factor: Array) -> Array:
        # Of sums in another order, as XLA makes them, a difference may be below 0.
        return xp.maximum(sums, 0.0) * factor[:, :, None]

    loss, classes, possible = _by_class(call, with_one_blank, found, rows_of, call.context.dtype)
    if not with_states:
        return loss, classes

    def block(rows: slice, frames: slice) -> tuple[Array]:
        part = xp.permute_dims(each[frames, rows, :], (1, 0, 2))
        part = part * call.factor(rows, frames, possible)[:, :, None]
        return (_in_path_order(part, used, width, call.context) * there[rows, ...],)

    (states,) = loop.assemble(
        block,
        logits.shape[:2],
        [((2 * width + 1,), call.context.dtype)],
        block_shape(logits.shape[0], logits.shape[1], 2 * width + 1),
        call.context,
    )
    return loss, classes, states


def _in_path_order(each: Array, used: int, width: int, context: Context) -> Array:
    """Turn ``used`` columns of labels and one more of blanks into the 2S+1 states, S = width."""
    xp = context.xp
    label, blank = each[:, :, :used], each[:, :, used:]
    pairs = xp.stack([blank[:, :, :-1], label], axis=3)
    whole = xp.reshape(pairs, (*pairs.shape[:2], 2 * used))
    whole = xp.concat([whole, blank[:, :, -1:]], axis=2)
    if is_undecided(width, used) or width == used:
        return whole
    if width < used:  # no labels at all: the position that the recursion adds is of none
        return whole[:, :, : 2 * width + 1]
    rest = xp.zeros_like(whole[:, :, :1])
    return xp.concat([whole, xp.broadcast_to(rest, (*rest.shape[:2], 2 * (width - used)))], axis=2)


def _by_class(
    call: Recursion,
    occupancies: Callable[[slice, slice], Array],
    found: LogLikelihood,
    rows_of: _Rows,
    dtype: Any,
) -> tuple[Array, Array, Array]:
    """Loss (N,), what ``rows_of`` makes of frames (N, T, C), and possible (N,).

    ``occupancies(frames, rows)`` gives (t, n, S+1), the last column the blank's.
    ``rows_of(powers, total, sums, factor)`` gets softmax numerators and their sum, occupancies by
    class, and the factor of each frame: 1, 0 or NaN.
    """
    logits, context = call.logits, call.context
    xp, classes = context.xp, logits.shape[2]
    possible = call.possible(found)
    sum_by_class = call.loop.class_sums(call.columns, classes, context)

    def block(rows: slice, frames: slice) -> tuple[Array, ...]:
        powers, total, spread = call.denominator((rows, frames))
        sums = sum_by_class(occupancies(frames, rows), rows)
        return rows_of(powers, total, sums, call.factor(rows, frames, possible)), spread

    whole, spread = call.loop.assemble(
        block,
        logits.shape[:2],
        [((classes,), dtype), ((), context.dtype)],
        block_shape(logits.shape[0], logits.shape[1], classes + call.columns.shape[1]),
        context,
    )
    loss = call.loss(spread, found, possible)
    if call.loop.reads_values and bool(xp.any((loss == float("inf")) & possible)):
        # Only the softmax's denominator has brought these above the limit.
        possible = possible & (loss < float("inf"))
        # A Python number would make float64 of bfloat16.
        nothing = xp.zeros_like(whole[:, :1, :1])
        whole = xp.where((loss == float("inf"))[:, None, None], nothing, whole)
    return loss, whole, possible


_PYTHON_LOOP = Loop()


def loop_for(namespace: str) -> Loop:
    """Give the loop that the library's descriptor names, or the one in Python."""
    registered = registry().namespaces.get(namespace)
    target = None if registered is None else registered.namespace.loop
    return _PYTHON_LOOP if target is None else cast("Loop", load_target(target))


def run(kernel: Callable[..., Any], arrays: tuple[Array, ...], constants: Hashable) -> Any:
    """Call ``kernel(*arrays, constants)`` as the library of the first array runs kernels.

    Raises Decline: the batch has more logits than the library can count.
    """
    loop = loop_for(library_name(arrays[0]))
    try:
        return loop.run(kernel, arrays, constants)
    except TooManyLogitsError as error:
        raise Decline(str(error)) from None


def run_on_results(
    kernel: Callable[..., Any], arrays: tuple[Array, ...], constants: Hashable
) -> Any:
    """Do the same for what little is computed from a kernel's results.

    NumPy does it for JAX where it can: see :mod:`ctcx._arrays.lending`.
    """
    if (host := lent(*arrays)) is None:
        return run(kernel, arrays, constants)
    return given_back(run(kernel, host, constants), arrays[0])
