"""Two losses that TensorFlow has and CTC has not: unmerged labels, and a finite infinity."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ctcx._arrays.facts import device_of, namespace_of
from ctcx._errors import CTCInputError
from ctcx._inputs.prepare import KernelInputs, prepare
from ctcx._inputs.validate import check_values
from ctcx.compat._shared.generic_lattice import Rules, frame_mask, log_softmax, occupancies, one_hot

if TYPE_CHECKING:
    from ctcx._typing import Array

__all__ = ["LOG_ZERO", "leaky", "unmerged"]

LOG_ZERO = math.log(1e-307)
"""What TensorFlow's dense loss takes for the logarithm of 0; -706.8936 in float32."""


def unmerged(
    logits: Array,
    labels: Array,
    logit_lengths: Any,
    label_lengths: Any,
    *,
    blank: int,
    time_major: bool,
    infeasible: str = "inf",
) -> tuple[Array, Array]:
    r"""CTC without merging: a path spells all its non-blank classes, however they repeat.

    .. math:: -\ln \sum_{\pi \in D^{-1}(y)} \prod_t \mathrm{softmax}(x_t)_{\pi_t}

    where D only removes blanks, and CTC's B (Graves et al. 2006, eq. 3) merges repeats first.

    This is TensorFlow's ``ctc_merge_repeated=False``. +inf, with a gradient of 0, where there are
    fewer frames than labels.

    Returns
    -------
    loss (N,), grad
        The gradient of the sum, in the layout of ``logits``.

    Raises
    ------
    CTCInputError
        As :func:`ctcx.ctc_loss`.
    """
    call = _checked(logits, labels, logit_lengths, label_lengths, blank, time_major=time_major)
    rules = Rules(
        stay=-math.inf,
        skip=call.facts.xp.zeros_like(call.labels, dtype=call.logits.dtype),
        elsewhere=-math.inf,
        **_ends(call, -math.inf),
    )
    loss, grad = _solve(call, call.labels, call.labels, rules, time_major=time_major)
    if infeasible == "zero":
        loss = call.facts.xp.where(loss < math.inf, loss, call.facts.xp.zeros_like(loss))
    return loss, grad


def leaky(
    logits: Array,
    labels: Array,
    logit_lengths: Any,
    label_lengths: Any,
    *,
    blank: int,
    time_major: bool,
) -> tuple[Array, Array]:
    """CTC as ``tf.nn.ctc_loss`` computes it for dense labels, with 706.8936 for infinity.

    A path may end in any state, at a price of 706.8936, also in the states of the padding past a
    label's length. So labels that can't be emitted cost 706.8936 and what the best such path
    costs, and a loss that is really larger is replaced by that. The gradient is that of
    TensorFlow, which may in addition start anywhere at that price.

    Returns
    -------
    loss (N,), grad
        The gradient as TensorFlow returns it, in the layout of ``logits``.

    Raises
    ------
    CTCInputError
        As :func:`ctcx.ctc_loss`: what TensorFlow gets wrong besides is not reproduced.
    """
    call = _checked(logits, labels, logit_lengths, label_lengths, blank, time_major=time_major)
    xp = call.facts.xp
    # How TensorFlow moves the blank to the front decides which classes padding stands for.
    states = call.labels
    if call.blank:
        states = xp.where(call.labels == -1, xp.full_like(states, call.blank), states)
        states = xp.where(call.labels == call.blank, xp.full_like(states, call.blank - 1), states)
    same = states[:, 1:] == states[:, :-1]
    free = xp.zeros(states.shape, dtype=call.logits.dtype, device=device_of(states))
    rules = Rules(
        stay=0.0,
        skip=xp.concat(
            [free[:, :1], xp.where(same, xp.full_like(free[:, 1:], -math.inf), free[:, 1:])], axis=1
        ),
        elsewhere=LOG_ZERO,
        **_ends(call, LOG_ZERO),
    )
    credited = xp.where(states == call.blank, xp.full_like(states, -1), states)
    return _solve(call, states, credited, rules, time_major=time_major)


def _checked(
    logits: Array,
    labels: Array,
    logit_lengths: Any,
    label_lengths: Any,
    blank: int,
    *,
    time_major: bool,
) -> KernelInputs:
    """Return validated arrays, the logits in float32 or float64, and 0 where they are ignored."""
    call = prepare(logits, labels, logit_lengths, label_lengths, blank, time_major=time_major)
    if call.facts.traced or getattr(logits, "requires_grad", False):
        msg = (
            "logits are to be differentiated by their library, which ctcx supports for CTC itself "
            "only, not for ctc_merge_repeated=False or strict_compat=True: pass them detached"
        )
        raise CTCInputError(msg, argument="logits")
    check_values(call, time_major=time_major)
    xp = call.facts.xp
    wide = xp.float64 if call.facts.dtype == "float64" else xp.float32
    logits = xp.astype(call.logits, wide, copy=False)
    inside = frame_mask(xp, call.logit_lengths, logits.shape[1])
    return call._replace(logits=xp.where(inside, logits, xp.zeros_like(logits)))


def _ends(call: KernelInputs, price: float) -> dict[str, Array]:
    """0 for the last label and the blank after it, ``price`` for all other states."""
    xp = call.facts.xp
    lengths = call.label_lengths[:, None]
    device = device_of(lengths)
    position = xp.arange(call.labels.shape[1] + 1, dtype=lengths.dtype, device=device)[None, :]

    def weights(last: Array) -> Array:
        free = xp.zeros(last.shape, dtype=call.logits.dtype, device=device)
        return xp.where(last, free, xp.full_like(free, price))

    return {
        "end_labels": weights(position[:, 1:] == lengths),
        "end_blanks": weights(position == lengths),
    }


def _solve(
    call: KernelInputs, states: Array, credited: Array, rules: Rules, *, time_major: bool
) -> tuple[Array, Array]:
    """Loss and gradient; ``states`` and ``credited`` (N, S) are the classes that label states emit
    and whose gradient they count for, a class out of range being emitted for nothing.
    """
    xp = call.facts.xp
    classes = call.logits.shape[2]
    log_probs = log_softmax(xp, call.logits)
    emitted = _emissions(log_probs, states)
    loss, on_label, on_blank = occupancies(
        xp.permute_dims(emitted, (1, 0, 2)),
        xp.permute_dims(log_probs[:, :, call.blank], (1, 0)),
        call.logit_lengths,
        rules,
    )
    spread = xp.permute_dims(on_label, (1, 0, 2)) @ one_hot(credited, classes, on_label.dtype)
    device = device_of(call.labels)
    blank = xp.full((1, 1), call.blank, dtype=call.labels.dtype, device=device)
    spread = spread + (
        xp.permute_dims(on_blank, (1, 0))[:, :, None] * one_hot(blank, classes, on_blank.dtype)
    )
    counts = (
        frame_mask(xp, call.logit_lengths, log_probs.shape[1]) & (loss < math.inf)[:, None, None]
    )
    grad = xp.where(counts, xp.exp(log_probs) - spread, xp.zeros_like(spread))
    return loss, xp.permute_dims(grad, (1, 0, 2)) if time_major else grad


def _emissions(log_probs: Array, states: Array) -> Array:
    """(N, T, S): log probability of each state's class; 0 for what is no class."""
    xp = namespace_of(log_probs)
    count, frames, classes = log_probs.shape
    width = states.shape[1]
    known = (states >= 0) & (states < classes)
    index = xp.where(known, states, xp.zeros_like(states))
    index = xp.broadcast_to(index[:, None, :], (count, frames, width))
    emitted = xp.take_along_axis(log_probs, index, axis=2)
    return xp.where(known[:, None, :], emitted, xp.zeros_like(emitted))
