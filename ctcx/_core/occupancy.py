r"""Where the two directions meet: the likelihood, and the probability of each state.

With alpha after a frame's emission and beta before it, both in extended exponents, the probability
of all paths through a state is their product (Graves et al. 2006, eq. 14, whose beta includes the
emission and whose product is therefore divided by it). Divided by the sum over all states of the
same frame, the result is exact even where a rounding error has grown over thousands of frames:
such an error is common to all states of a frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ctcx._core.context import DEAD, START
from ctcx._core.lattice import States

if TYPE_CHECKING:
    from ctcx._core.loops.base import Loop, Power
    from ctcx._typing import Array, ArrayModule

__all__ = [
    "LIMIT",
    "Likelihood",
    "LogLikelihood",
    "likelihood",
    "log_likelihood",
    "loss_of",
    "meet_at_frame",
    "occupancy",
    "other_direction",
]

LIMIT = 1.8e8
"""A loss above this, in nats, is infinite: the labels count as impossible."""

_TINY = 1e-30
_RANGE = 80.0


class Likelihood(NamedTuple):
    """Likelihood of each row's labels, (M, 1), as the recursion has it: in extended exponents.

    ``mantissa * exp(exponent - 2 * START)``, relative to the references of the emissions.
    ``possible`` is False where no path emits the labels.
    """

    exponent: Array
    mantissa: Array
    possible: Array


class LogLikelihood(NamedTuple):
    """Logarithm of each sequence's likelihood, (N,): ``whole + rest``, ``whole`` a whole number.

    Relative to the references of the emissions, so at most about 0. ``possible`` is False where no
    path emits the labels.
    """

    whole: Array
    rest: Array
    possible: Array


def log_likelihood(total: Likelihood, xp: ArrayModule) -> LogLikelihood:
    """Logarithm of ``total``, (N, 1)."""
    rest = xp.log(xp.maximum(total.mantissa[:, 0], _TINY))
    return LogLikelihood(total.exponent[:, 0] - 2.0 * START, rest, total.possible[:, 0])


def other_direction(states: States, xp: ArrayModule) -> States:
    """Return the opposite direction's states in one's own order; labels lose their spare column."""
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

    The product of the mantissas lies within exp(-42) and exp(52), so nothing below can matter, and
    subnormal numbers are slow on most processors. Nothing that is at most 1 with the mantissas is
    above.
    """
    return xp.minimum(xp.maximum(exponent, -_RANGE), _RANGE)


def _scaled_product(
    xp: ArrayModule,
    _power: Power,
    exponent: Array,
    mantissa: Array,
    other_e: Array,
    other_m: Array,
    scale: Array,
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


def occupancy(label: Array, blanks: Array, xp: ArrayModule, *, each_blank: bool) -> Array:
    """Occupancies of frames (t, M, S+1), the last column the blank: the sum over its S+1 states.

    With ``each_blank`` (t, M, 2S+1), those of each. ``label`` (t, M, S) and ``blanks`` (t, M, S+1)
    are as from :func:`meet_at_frame`.
    """
    blank = xp.sum(blanks, axis=2, keepdims=True)
    whole = xp.sum(label, axis=2, keepdims=True) + blank
    scale = 1.0 / xp.maximum(whole, _TINY)
    return xp.concat([label * scale, (blanks if each_blank else blank) * scale], axis=2)


def loss_of(
    peak: Array,
    reference: Array,
    spread: Array,
    inside: Array | None,
    found: LogLikelihood,
    xp: ArrayModule,
) -> Array:
    """Negative log likelihood (N,), in nats, where there is any.

    ``peak`` and ``spread`` (N, T) give the softmax's denominator, ``log(sum(exp(x))) = peak +
    spread``, and ``reference`` (N, T) is what the likelihood is relative to. ``inside`` (N, T) are
    the frames within the lengths, None if all are. Whole numbers are summed apart, where they are
    exact, so that large logits cost no accuracy.
    """
    whole = xp.round(peak)
    rest = (peak - whole) + spread
    if inside is not None:
        rest = xp.where(inside, rest, 0.0)
    whole_sum = xp.sum(whole - reference, axis=1) - found.whole
    rest_sum = xp.sum(rest, axis=1) - found.rest
    return xp.maximum(whole_sum + rest_sum, 0.0)
