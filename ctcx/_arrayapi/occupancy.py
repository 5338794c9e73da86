r"""Where the two directions meet: the likelihood, and the probability of each state.

With alpha after a frame's emission and beta before it, both in extended exponents, the probability
of all paths through a state is their product (Graves et al. 2006, eq. 14, whose beta includes the
emission and whose product is therefore divided by it). Divided by the sum over all states of the
same frame, the result is exact even where a rounding error has grown over thousands of frames:
such an error is common to all states of a frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ctcx._arrayapi.lattice import DEAD, States

if TYPE_CHECKING:
    from ctcx._arrayapi.context import Context
    from ctcx._arrayapi.loops import Loop
    from ctcx._typing import Array, ArrayModule

__all__ = ["Likelihood", "likelihood", "loss_of", "meet_at_frame", "occupancy", "other_direction"]

_TINY = 1e-30
_RANGE = 80.0


class Likelihood(NamedTuple):
    """Likelihood of each row's labels, (M, 1): ``mantissa * exp(exponent)``.

    Relative to emissions that lack the softmax's denominator. ``possible`` is False where no path
    emits the labels.
    """

    exponent: Array
    mantissa: Array
    possible: Array


def other_direction(states: States, xp: ArrayModule) -> States:
    """What the opposite direction holds, in one's own order; labels lose their spare column."""
    label_e, label_m, blank_e, blank_m = states
    flip = xp.flip
    return States(flip(label_e[:, :-1]), flip(label_m[:, :-1]), flip(blank_e), flip(blank_m))


def _meet(alpha: States, beta: States) -> States:
    """Product of the directions, state by state; ``beta`` as from :func:`other_direction`."""
    return States(
        alpha.label_exponent[:, :-1] + beta.label_exponent,
        alpha.label_mantissa[:, :-1] * beta.label_mantissa,
        alpha.blank_exponent + beta.blank_exponent,
        alpha.blank_mantissa * beta.blank_mantissa,
    )


def likelihood(alpha: States, beta: States, xp: ArrayModule) -> Likelihood:
    """Sum over all states of each row where alpha (M, S+1) meets beta, at any one frame."""
    label_e, label_m, blank_e, blank_m = _meet(alpha, beta)
    exponents = xp.concat([label_e, blank_e], axis=1)
    mantissas = xp.concat([label_m, blank_m], axis=1)
    top = xp.max(exponents, axis=1, keepdims=True)
    mantissa = xp.sum(mantissas * xp.exp(exponents - top), axis=1, keepdims=True)
    return Likelihood(top, mantissa, (top > 0.1 * DEAD) & (mantissa > 0.0))


def _in_range(exponent: Array, xp: ArrayModule) -> Array:
    """Limit to +-80, so that exp gives a normal number.

    Nothing below can matter, and subnormal numbers are slow on most processors. Nothing is above
    unless logits are so large that exponents are rounded.
    """
    return xp.minimum(xp.maximum(exponent, -_RANGE), _RANGE)


def _scaled_product(
    xp: ArrayModule, exponent: Array, mantissa: Array, other_e: Array, other_m: Array, scale: Array
) -> Array:
    """Product of two numbers in extended exponents, times ``exp(-scale)``; element by element."""
    return mantissa * other_m * xp.exp(_in_range(exponent + other_e - scale, xp))


def meet_at_frame(
    alpha: States, beta: States, scale: Array, loop: Loop, xp: ArrayModule
) -> tuple[Array, Array]:
    """Probability of each label's state and of each blank, (M, S) and (M, S+1), but for a factor.

    It is the same for all states of a frame. ``beta`` is as from :func:`other_direction`. ``scale``
    (M, 1) is about the exponent of the likelihood; it only keeps numbers in range.
    """
    product = loop.fused(_scaled_product, xp)
    label_e, label_m, blank_e, blank_m = alpha
    other_e, other_m, other_blank_e, other_blank_m = beta
    return (
        product(label_e[:, :-1], label_m[:, :-1], other_e, other_m, scale),
        product(blank_e, blank_m, other_blank_e, other_blank_m, scale),
    )


def occupancy(label: Array, blank_each: Array, xp: ArrayModule) -> Array:
    """Occupancies of frames (t, M, S+1), the last column the blank: the sum over its S+1 states.

    ``label`` (t, M, S) and ``blank_each`` (t, M, S+1) are as from :func:`meet_at_frame`.
    """
    blank = xp.sum(blank_each, axis=2, keepdims=True)
    whole = xp.sum(label, axis=2, keepdims=True) + blank
    return xp.concat([label, blank], axis=2) / xp.maximum(whole, _TINY)


def loss_of(
    peak: Array, spread: Array, counted: Array, total: Likelihood, context: Context
) -> Array:
    """Negative log likelihood (N,), in nats.

    ``peak`` and ``spread`` (N, T) give the softmax's denominator, ``log(sum(exp(x))) = peak +
    spread`` plus the sequence's offset; ``counted`` (N, T) are the frames inside the length.
    Whole numbers are summed apart, where they are exact, so that large logits cost no accuracy.
    """
    xp = context.xp
    # A frame of only -inf logits has no finite peak; its labels are impossible and the sum unused.
    peak = xp.where(counted & (peak > 0.1 * DEAD), peak, 0.0)
    spread = xp.where(counted, spread, 0.0)
    whole = xp.round(peak)
    whole_sum = xp.sum(whole, axis=1) - total.exponent[:, 0]
    rest = xp.log(xp.maximum(total.mantissa[:, 0], _TINY))
    rest_sum = xp.sum((peak - whole) + spread, axis=1) - rest
    loss = xp.maximum(whole_sum + rest_sum, 0.0)
    return xp.where(total.possible[:, 0], loss, float("inf"))
