"""The core's recursion and its occupancies for JAX, in a form that XLA's CPU compiler vectorises.

XLA compiles one kernel for each array that a step of a loop leaves behind. The kernel is a vector
loop if it looks little up, has no branch, and writes to memory that it doesn't read. It recomputes
all intermediate values that no array holds. Therefore

- grains are four times as wide as the core's: mantissas lie within ``exp(-16)`` and ``exp(16)``,
  so that a power is one of few numbers, and states are normalised where they are read, by two
  comparisons;
- a column stands before the first label, which nothing ever reaches: no case is special;
- the first half carries what flows into the states of a frame, the second one the states after
  the emission. Where they meet, both are there already, and arrays of all frames receive nothing
  that is still to be computed.

Mantissas that flow into states lie within ``exp(-16)`` and ``3 * exp(16)``, emissions within
``exp(-16.25)`` and ``exp(16.25)``. So a product of both directions lies within ``exp(-49)`` and
``exp(51)``, and no sum that is taken of it loses a term that matters.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from ctcx._arrays.jax import same_axes
from ctcx._core.context import DEAD
from ctcx._core.lattice import States
from ctcx._core.occupancy import Likelihood

if TYPE_CHECKING:
    from ctcx._core.emissions import EmissionSource, LabelLogits
    from ctcx._core.recursion import Recursion
    from ctcx._typing import Array

__all__ = ["meet"]

_GRAIN = 32.0
_LARGE, _SMALL = math.exp(_GRAIN / 2), math.exp(-_GRAIN / 2)
_UP, _DOWN = math.exp(_GRAIN), math.exp(-_GRAIN)


def meet(recursion: Recursion) -> tuple[Array, Array, Likelihood]:
    """Do what :meth:`ctcx._core.loops.base.Loop.meet` says."""
    source, half, cast = recursion.source, recursion.plan.half, recursion.context.cast
    skip = recursion.topology.skip_exponent[:, :-1]
    frames = _Frames(source, recursion.label_logits(0, 2 * half))

    def first(step: Any, carry: tuple[States, States]) -> tuple[States, States]:
        flow, past = carry
        after = frames.emit(flow, frames.at(step))
        # In the narrower dtype, which rounds once: it is most of the memory.
        past = States(*(_put(all_, cast(now), step) for all_, now in zip(past, flow, strict=True)))
        return _inflow(_guarded(after), skip), past

    flow = _inflow(recursion.start, skip)
    # All is overwritten. Of arrays that are filled alike XLA would make one, and copy it.
    past = States(
        *(
            jnp.full((half, *part.shape), float(number), recursion.context.dtype)
            for number, part in enumerate(flow)
        )
    )
    flow, past, _ = same_axes((flow, past, frames.all))
    flow, past = jax.lax.fori_loop(0, half, first, (flow, past))
    states = frames.emit(flow, frames.at(half))
    total = _likelihood(_normal(states), States(*(jnp.flip(part[-1]) for part in past)))
    # Impossible labels have an exponent beyond all, so that no state counts.
    scale = jnp.flip(jnp.where(total.possible, total.exponent, -1e6 * DEAD))
    exponents = past.label_exponent, past.blank_exponent

    def second(step: Any, carry: tuple[States, Array, Array]) -> tuple[States, Array, Array]:
        states, *mantissas = carry
        frame = half - 1 - step  # the other direction's, whose order all is in
        label_e, label_m, blank_e, blank_m = map(jnp.flip, states)
        after = (label_e[:, :-1], label_m[:, :-1]), (blank_e, blank_m)
        # What has been met takes the place of what isn't needed any more.
        for kind, (exponent, mantissa) in enumerate(after):
            product = _at(mantissas[kind], frame) * mantissa
            power = _power(_at(exponents[kind], frame) + exponent - scale, least=2)
            mantissas[kind] = _put(mantissas[kind], cast(product * power), frame)
        # The last step's frame doesn't exist, and nothing comes of it.
        states = frames.emit(_inflow(states, skip), frames.at(half + 1 + step))
        return _guarded(states), *mantissas

    carry = same_axes((_guarded(states), past.label_mantissa, past.blank_mantissa))
    _, labels, blanks = jax.lax.fori_loop(0, half, second, carry)
    return labels, blanks, total


class _Frames:
    """What all frames emit: of the labels their logits, of the blank what has been made of them."""

    def __init__(self, source: EmissionSource, read: LabelLogits) -> None:
        self._source = source
        blanks = source.split(read._replace(logits=read.logits[..., -1:]), _GRAIN)
        labels = read._replace(logits=read.logits[..., :-1])
        self.all = labels, blanks.blank_exponent, blanks.blank_mantissa

    def at(self, frame: Any) -> Any:
        return jax.tree.map(lambda array: _at(array, frame), self.all)

    def emit(self, flow: States, frame: Any) -> States:
        """States after the emission of a frame, of what flows into them."""
        logits, blank_exponent, blank_mantissa = frame
        labels = self._source.split(logits, _GRAIN)
        return States(
            flow.label_exponent + labels.exponent,
            flow.label_mantissa * labels.mantissa,
            flow.blank_exponent + blank_exponent,
            flow.blank_mantissa * blank_mantissa,
        )


def _at(array: Array, frame: Any) -> Array:
    return jax.lax.dynamic_index_in_dim(array, frame, axis=0, keepdims=False)


def _put(array: Array, value: Array, frame: Any) -> Array:
    return jax.lax.dynamic_update_index_in_dim(array, value, frame, axis=0)


def _guarded(states: States) -> States:
    """With a column before the labels that nothing reaches."""
    label_e, label_m, *blanks = states

    def pad(array: Array, value: float) -> Array:
        return jax.lax.pad(array, jnp.asarray(value, array.dtype), ((0, 0, 0), (1, 0, 0)))

    return States(pad(label_e, DEAD), pad(label_m, 0.0), *blanks)


def _normal(states: States) -> States:
    """Bring mantissas between exp(-16) and exp(16), which an emission multiplies by so much."""
    label_e, label_m, blank_e, blank_m = states
    return States(*_nearer(label_e, label_m), *_nearer(blank_e, blank_m))


def _nearer(exponent: Array, mantissa: Array) -> tuple[Array, Array]:
    large, small = mantissa > _LARGE, mantissa < _SMALL
    return (
        jnp.where(large, exponent + _GRAIN, jnp.where(small, exponent - _GRAIN, exponent)),
        jnp.where(large, mantissa * _DOWN, jnp.where(small, mantissa * _UP, mantissa)),
    )


def _power(exponents: Array, least: int | None = None) -> Array:
    """``exp`` of multiples of the grain: 0 where it wouldn't count, at most ``exp(2 * 32)``.

    ``least`` grains below 0 still count. Without it there is nothing above 0, and what is smaller
    than an ulp of a sum doesn't count.
    """
    is_wide = exponents.dtype == jnp.float64
    lowest, highest = (-1 - is_wide, 0) if least is None else (-least - is_wide, 2)
    power = jnp.zeros_like(exponents)
    for grains in range(lowest, highest + 1):
        power = jnp.where(exponents > _GRAIN * (grains - 0.5), math.exp(_GRAIN * grains), power)
    return power


def _inflow(states: States, skip: Array) -> States:
    """Sum what flows into the labels (M, S) and blanks (M, S+1) of the next frame.

    The labels of ``states`` have a column before them, so that those after a blank stand with it.
    ``skip`` (M, S) is 0 where a label may follow the one before with no blank between.
    """
    label_e, label_m, blank_e, blank_m = _normal(states)
    # A maximum would look for NaN besides.
    to_blank = jnp.where(label_e > blank_e, label_e, blank_e)
    to_blank_m = label_m * _power(label_e - to_blank) + blank_m * _power(blank_e - to_blank)
    ways = (
        (label_e[:, 1:], label_m[:, 1:]),
        (blank_e[:, :-1], blank_m[:, :-1]),
        (label_e[:, :-1] + skip, label_m[:, :-1]),
    )
    (stay, _), (enter, _), (over, _) = ways
    to_label = jnp.maximum(jnp.maximum(stay, enter), over)
    to_label_m = sum(mantissa * _power(exponent - to_label) for exponent, mantissa in ways)
    return States(to_label, to_label_m, to_blank, to_blank_m)


def _likelihood(states: States, other: States) -> Likelihood:
    """Sum over all states of each row, where normal states meet what flows against them."""
    label_e, blank_e = (
        mine + flow
        for mine, flow in (
            (states.label_exponent, other.label_exponent),
            (states.blank_exponent, other.blank_exponent),
        )
    )
    top = jnp.maximum(
        jnp.max(label_e, axis=1, keepdims=True), jnp.max(blank_e, axis=1, keepdims=True)
    )
    products = (
        (label_e, states.label_mantissa * other.label_mantissa),
        (blank_e, states.blank_mantissa * other.blank_mantissa),
    )
    mantissa = sum(
        jnp.sum(product * _power(exponent - top, least=2), axis=1, keepdims=True)
        for exponent, product in products
    )
    possible = (top > 0.1 * DEAD) & (mantissa > 0.0)
    return Likelihood(*_nearer(top, mantissa), possible)
