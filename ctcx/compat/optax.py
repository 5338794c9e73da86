"""Optax's CTC functions, on JAX and on any other array library.

>>> import numpy as np
>>> from ctcx.compat.optax import ctc_loss
>>> ctc_loss(np.zeros((1, 3, 4)), np.zeros((1, 3)), np.asarray([[1, 2]]), np.zeros((1, 2)))
array([2.54944517])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import array_api_compat
import numpy as np

from ctcx._api.loss import ctc_loss as _ctc_loss
from ctcx._arrays.facts import describe, device_of, index_dtype, is_array, is_numpy, namespace_of
from ctcx.compat._shared.argument_names import in_terms, refuse, shape_of
from ctcx.compat._shared.generic_lattice import log_softmax

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctcx._typing import Array

__all__ = ["ctc_loss", "ctc_loss_with_forward_probs"]

_TERMS = {
    "logit_lengths": "logit_paddings",
    "label_lengths": "label_paddings",
    "blank": "blank_id",
}


def ctc_loss(
    logits: Array,
    logit_paddings: Array,
    labels: Array,
    label_paddings: Array,
    *,
    blank_id: int = 0,
    log_epsilon: float = -1e5,
) -> Array:
    """CTC loss with the signature of ``optax.ctc_loss``.

    Parameters
    ----------
    logits : array (B, T, K)
        Before the softmax. Of any array library.
    logit_paddings : array (B, T)
        1 where a frame is padding, else 0; of any dtype. Padding may stand anywhere: such a frame
        is passed over.
    labels : array of int (B, N)
        Entries in the padding are ignored.
    label_paddings : array (B, N)
        1 where a label is padding, else 0; of any dtype, padding on the right.
    blank_id : int
        Class of the blank; unlike in Optax, negative ones count from the end.
    log_epsilon : float
        Ignored: impossible is -inf here, and needs no stand-in.

    Returns
    -------
    array (B,)
        In nats, +inf where no path emits the labels; differentiable by JAX and PyTorch.

    Raises
    ------
    CTCInputError
        Wrong ranks, shapes, dtypes, libraries or devices, and, where values can be read: paddings
        other than 0 and 1, padding before a label, a label out of range or equal to the blank.

    Notes
    -----
    Where values can't be read, as under ``jax.jit``, ctcx can't know that padded frames come last,
    and gathers the others with one copy of the logits.
    """
    del log_epsilon
    _check_rank("logits", logits, "(B, T, K)")
    _check_rank("labels", labels, "(B, N)")
    skipped = _padded("logit_paddings", logit_paddings, logits, "logits")
    unused = _padded("label_paddings", label_paddings, labels, "labels")
    if _on_the_right(unused) is False:
        refuse("label_paddings", "have its ones after its zeros in each row", "others")
    with in_terms(_TERMS):
        return _ctc_loss(
            logits if _on_the_right(skipped) else _without_gaps(logits, skipped),
            labels,
            _count_of_zeros(skipped),
            _count_of_zeros(unused),
            blank=blank_id,
        )


def ctc_loss_with_forward_probs(
    logits: Array,
    logit_paddings: Array,
    labels: Array,
    label_paddings: Array,
    *,
    blank_id: int = 0,
    log_epsilon: float = -1e5,
) -> tuple[Array, Array, Array]:
    r"""CTC loss and forward probabilities, as ``optax.ctc_loss_with_forward_probs``.

    Parameters
    ----------
    logits, logit_paddings, labels, label_paddings, blank_id
        As for :func:`ctc_loss`.
    log_epsilon : float
        Stand-in for the logarithm of 0 in the forward probabilities; the loss needs none.

    Returns
    -------
    loss : array (B,)
        As from :func:`ctc_loss`.
    logalpha_blank : array (T, B, N + 1)
        Logarithm of the probability of all beginnings that have emitted the first n labels and
        end in a blank, or, in the last frame, in either.
    logalpha_label : array (T, B, N)
        The same, ending in label n.

    Raises
    ------
    CTCInputError
        As for :func:`ctc_loss`.

    Notes
    -----
    The forward probabilities are Optax's, and lose digits with length as those do; the loss isn't
    made from them.
    """
    loss = ctc_loss(logits, logit_paddings, labels, label_paddings, blank_id=blank_id)
    skipped = _padded("logit_paddings", logit_paddings, logits, "logits")
    on_blank, on_label = _forward(
        logits, skipped, labels, blank_id % logits.shape[2], float(log_epsilon)
    )
    return loss, on_blank, on_label


def _check_rank(argument: str, array: Any, shape: str) -> None:
    if not is_array(array) or array.ndim != shape.count(",") + 1:
        refuse(argument, f"have shape {shape}", shape_of(array))


def _padded(argument: str, paddings: Any, array: Array, name: str) -> Array:
    """Return paddings as booleans, checked as far as their values can be read."""
    if not is_array(paddings) or tuple(paddings.shape) != tuple(array.shape[:2]):
        refuse(argument, f"have shape {tuple(array.shape[:2])}, as {name} have", shape_of(paddings))
    if array_api_compat.is_jax_array(paddings) and not describe(paddings).traced:
        # Inside of a function that is traced, JAX would trace what is done to this, too.
        paddings = np.asarray(paddings)
    xp = namespace_of(paddings)
    if xp.isdtype(paddings.dtype, "bool"):
        return paddings
    if not describe(paddings).traced and not bool(xp.all((paddings == 0) | (paddings == 1))):
        refuse(argument, "be 0 or 1 everywhere", "other values")
    return paddings != 0


def _count_of_zeros(padded: Array) -> Array:
    xp = namespace_of(padded)
    dtype = index_dtype(xp, device_of(padded))
    return xp.sum(xp.astype(~padded, dtype), axis=1, dtype=dtype)


def _on_the_right(padded: Array) -> bool | None:
    """Whether no row has a zero after a one; None if that can't be read."""
    if describe(padded).traced:
        return None
    xp = namespace_of(padded)
    return not bool(xp.any(padded[:, :-1] & ~padded[:, 1:]))


def _without_gaps(logits: Array, padded: Array) -> Array:
    """Logits with the padded frames of each sequence moved behind the others."""
    xp = namespace_of(logits)
    own = namespace_of(padded)
    order = own.argsort(own.astype(padded, own.int8), axis=1, stable=True)
    if is_numpy(order) and not is_numpy(logits):
        order = xp.asarray(order, device=device_of(logits))
    return xp.take_along_axis(logits, order[:, :, None], axis=1)


def _forward(
    logits: Array, padded: Array, labels: Array, blank: int, epsilon: float
) -> tuple[Array, Array]:
    """Forward probabilities (T, B, N + 1) and (T, B, N), with ``epsilon`` for log 0."""
    xp = namespace_of(logits)
    device = device_of(logits)
    if logits.dtype in {xp.float16, getattr(xp, "bfloat16", None)}:
        logits = xp.astype(logits, xp.float32)
    labels, padded = (
        xp.asarray(array, device=device) if is_numpy(array) and not is_numpy(logits) else array
        for array in (labels, padded)
    )
    log_probs = log_softmax(xp, logits)
    classes = logits.shape[2]
    index = xp.where((labels >= 0) & (labels < classes), labels, xp.zeros_like(labels))
    index = xp.broadcast_to(index[:, None, :], (*logits.shape[:2], labels.shape[1]))
    at_label = xp.permute_dims(xp.take_along_axis(log_probs, index, axis=2), (1, 0, 2))
    at_blank = xp.permute_dims(log_probs[:, :, blank : blank + 1], (1, 0, 2))
    skipped = xp.permute_dims(padded, (1, 0))[:, :, None]
    never = xp.full_like(at_label[0, ...], epsilon)
    last = xp.zeros_like(labels[:, -1:], dtype=xp.bool)
    again = xp.concat([labels[:, :-1] == labels[:, 1:], last], axis=1)
    free = xp.zeros_like(never)
    # Label n may be followed by label n + 1 at once only if they differ; else a blank must come.
    at_once = xp.where(again, never, free)
    after_blank = xp.where(again, free, never)

    def joined(on_blank: Array, added: Array) -> Array:
        return xp.concat([on_blank[:, :1], xp.logaddexp(on_blank[:, 1:], added)], axis=1)

    def step(state: tuple[Array, Array], frame: tuple[Array, Array, Array]) -> Any:
        on_blank, on_label = state
        label, at, skip = frame
        ready = joined(on_blank, on_label + at_once)
        next_label = xp.logaddexp(ready[:, :-1], on_label) + label
        next_blank = joined(ready + at, on_label + at + after_blank)
        state = (xp.where(skip, on_blank, next_blank), xp.where(skip, on_label, next_label))
        return state, state

    start = (xp.concat([xp.zeros_like(at_blank[0, ...]), never], axis=1), never)
    on_blank, on_label = _scan(step, start, (at_label, at_blank, skipped))
    either = joined(on_blank[-1, ...], on_label[-1, ...])
    return xp.concat([on_blank[:-1, ...], either[None, ...]], axis=0), on_label


def _scan(step: Callable[..., Any], state: Any, frames: tuple[Array, ...]) -> tuple[Array, Array]:
    """States after each frame, stacked; ``lax.scan`` on JAX."""
    xp = array_api_compat.array_namespace(*frames)
    if array_api_compat.is_jax_namespace(xp):
        from jax import lax

        stacked: tuple[Array, Array] = lax.scan(step, state, frames)[1]
        return stacked
    states = []
    for t in range(frames[0].shape[0]):
        state, _ = step(state, tuple(frame[t, ...] for frame in frames))
        states.append(state)
    return xp.stack([blank for blank, _ in states]), xp.stack([label for _, label in states])
