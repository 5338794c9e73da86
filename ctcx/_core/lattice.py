r"""The forward recursion of CTC in extended exponents: exact in float32 at any length.

Every state keeps its probability as ``mantissa * exp(exponent)``, both floating-point arrays, the
exponent a multiple of 8. One frame is (Graves et al. 2006, eq. 6 to 8; blanks and labels apart)

.. math::
    b_j &\leftarrow (b_j + l_{j-1})\, p_{blank} \\
    l_j &\leftarrow (l_j + b_j + [y_j \ne y_{j-1}]\, l_{j-1})\, p_{y_j}

where ``b_j`` is the blank before label ``j`` and ``l_j`` the label. A sum takes the largest
exponent of its terms and scales the others down by ``exp`` of whole negative numbers, so nothing
can overflow and the only thing that underflows is a term beside a far larger one *of the same
state*. A product with a probability adds whole exponents, which is exact, and multiplies mantissas.
So the error of a state is that of a few float32 multiplications a frame, whatever the size of its
logarithm.

Exponents are multiples of ``GRAIN``, 8. float32 holds those exactly up to 8 * 2**24, about 134
million in either direction, and the recursion starts at ``START``, above 0. So a state is exact to
194 million below the best that a state can be, and a state that is further down belongs to a path
whose loss is above the limit that all kernels have (:data:`ctcx._core.occupancy.LIMIT`).
Impossible states have the exponent ``DEAD``, so low that adding to it changes nothing.

Mantissas of emissions lie within ``exp(-4.25)`` and ``exp(4.25)``. :func:`renormalise` brings those
of states within ``exp(-4)`` and ``exp(4)``, and after B more frames they lie within
``exp(-4 - 4.25 B)`` and ``3**B * exp(4 + 4.25 B)``. B is at most 8 (:func:`is_due`), so no sum of
states loses a term that matters. Where two directions meet they have done at most 8 frames between
them since then, so the product of their mantissas lies within ``exp(-42)`` and ``exp(52)``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from ctcx._arrays.facts import is_undecided
from ctcx._core.context import DEAD, GRAIN, START, in_grains

if TYPE_CHECKING:
    from ctcx._core.context import Context
    from ctcx._core.emissions import Emissions
    from ctcx._core.loops.base import Loop, Power
    from ctcx._typing import Array, ArrayModule

__all__ = [
    "States",
    "Topology",
    "advance",
    "emit",
    "inflow",
    "initial_states",
    "is_due",
    "renormalise",
]


_LARGE, _SMALL = math.exp(GRAIN / 2), math.exp(-GRAIN / 2)
_UP, _DOWN = math.exp(GRAIN), math.exp(-GRAIN)
_EVERY = 8
"""Frames after which to renormalise."""


class States(NamedTuple):
    """Mantissas and exponents of all states at one frame.

    Shapes (M, S+1), M sequences and S label positions: ``blank[:, j]`` is the blank before label j
    (after the last one for j = S). The last column of the labels belongs to no label; nothing flows
    out of it, so what it holds doesn't matter.
    """

    label_exponent: Array
    label_mantissa: Array
    blank_exponent: Array
    blank_mantissa: Array


class Topology(NamedTuple):
    """Which transitions exist: constants of the recursion.

    ``may_skip`` (M, S+1) is 1 where label j may follow label j-1 with no blank between (they
    differ), else 0; ``must_stop`` is its complement, ``skip_exponent`` 0 or ``DEAD``. ``dead`` and
    ``zero`` (M, 1) flow into the first column. ``all_differ`` says that all labels are known to
    differ from the one before, which saves a fifth of the work.
    """

    may_skip: Array
    must_stop: Array
    skip_exponent: Array
    dead: Array
    zero: Array
    all_differ: bool

    @classmethod
    def of_labels(cls, labels: Array, context: Context, *, all_differ: bool) -> Topology:
        """Of label rows (M, S), in the order in which the recursion meets them."""
        zero = context.full((labels.shape[0], 1), 0.0)
        differs = context.cast(labels[:, 1:] != labels[:, :-1])
        # Nothing stands before the first label, and the last column is no label: any value will do.
        width = labels.shape[1]
        edges = [zero] * (2 if is_undecided(width) else min(2, width + 1))
        may_skip = context.xp.concat([edges[0], differs, *edges[1:]], axis=1)
        must_stop = 1.0 - may_skip
        return cls(may_skip, must_stop, must_stop * DEAD, zero + DEAD, zero, all_differ)


def initial_states(start: Array, width: int, context: Context) -> States:
    """All probability in the blank before label ``start`` (M,), ahead of the first frame."""
    mantissa = context.cast(context.arange(0, width)[None, :] == start[:, None])
    nothing = mantissa * 0.0
    return States(nothing + DEAD, nothing, (1.0 - mantissa) * DEAD + START, mantissa)


def inflow(states: States, topology: Topology, loop: Loop, xp: ArrayModule) -> States:
    """Sum what flows into each state, before the next frame's emission."""
    flow = _flow_where_all_differ if topology.all_differ else _flow
    return States(*loop.fused(flow, xp)(*states, *_neighbours(states, topology, xp)))


def _neighbours(states: States, topology: Topology, xp: ArrayModule) -> tuple[Array, ...]:
    """Return the label before, exponent and mantissa, which flows in; and where it may."""
    previous_e = xp.concat([topology.dead, states.label_exponent[:, :-1]], axis=1)
    previous_m = xp.concat([topology.zero, states.label_mantissa[:, :-1]], axis=1)
    return previous_e, previous_m, topology.may_skip, topology.must_stop, topology.skip_exponent


def _flow(
    xp: ArrayModule,
    power: Power,
    label_e: Array,
    label_m: Array,
    blank_e: Array,
    blank_m: Array,
    previous_e: Array,
    previous_m: Array,
    may_skip: Array,
    must_stop: Array,
    skip_exponent: Array,
) -> tuple[Array, ...]:
    """Each state's inflow, as the fields of :class:`States`; element by element."""
    to_blank_e, to_blank_m = _sum(xp, power, blank_e, blank_m, previous_e, previous_m)
    # Into a label flows what flows into the blank before it where it may skip, else that blank.
    enter_e = xp.maximum(blank_e, to_blank_e + skip_exponent)
    enter_m = to_blank_m * may_skip + blank_m * must_stop
    return *_sum(xp, power, label_e, label_m, enter_e, enter_m), to_blank_e, to_blank_m


def _sum(
    xp: ArrayModule, power: Power, exponent: Array, mantissa: Array, other_e: Array, other_m: Array
) -> tuple[Array, Array]:
    """Sum of two numbers in extended exponents; element by element."""
    largest = xp.maximum(exponent, other_e)
    scaled = mantissa * power(exponent - largest, xp)
    return largest, scaled + other_m * power(other_e - largest, xp)


def _flow_where_all_differ(
    xp: ArrayModule,
    power: Power,
    label_e: Array,
    label_m: Array,
    blank_e: Array,
    blank_m: Array,
    previous_e: Array,
    previous_m: Array,
    *_: Array,
) -> tuple[Array, ...]:
    """Do the same where every label may skip; nothing skips into the first one."""
    to_blank = _sum(xp, power, blank_e, blank_m, previous_e, previous_m)
    return *_sum(xp, power, label_e, label_m, *to_blank), *to_blank


def _flow_and_emit(xp: ArrayModule, power: Power, *arrays: Array) -> tuple[Array, ...]:
    """Inflow, and the states after the emission: four arrays each, element by element.

    The arrays are those of :func:`_flow`, then exponent and mantissa of the emission probabilities
    of the labels and of the blank.
    """
    flow = _flow(xp, power, *arrays[:-4])
    return *flow, *_emitted(xp, power, *flow, *arrays[-4:])


def _flow_and_emit_where_all_differ(
    xp: ArrayModule, power: Power, *arrays: Array
) -> tuple[Array, ...]:
    """Do the same with :func:`_flow_where_all_differ`."""
    flow = _flow_where_all_differ(xp, power, *arrays[:-4])
    return *flow, *_emitted(xp, power, *flow, *arrays[-4:])


def _emitted(
    _xp: ArrayModule,
    _power: Power,
    label_e: Array,
    label_m: Array,
    blank_e: Array,
    blank_m: Array,
    emission_e: Array,
    emission_m: Array,
    emission_blank_e: Array,
    emission_blank_m: Array,
) -> tuple[Array, ...]:
    return (
        label_e + emission_e,
        label_m * emission_m,
        blank_e + emission_blank_e,
        blank_m * emission_blank_m,
    )


def emit(flow: States, emissions: Emissions, frame: int, loop: Loop, xp: ArrayModule) -> States:
    """States after the emission of a frame, of what flows into them."""
    return States(*loop.fused(_emitted, xp)(*flow, *(part[frame, ...] for part in emissions)))


def advance(
    states: States,
    topology: Topology,
    emissions: Emissions,
    frame: int,
    loop: Loop,
    xp: ArrayModule,
) -> tuple[States, States]:
    """Go on by one frame: what flows into each state, and the states after the emission."""
    step = _flow_and_emit_where_all_differ if topology.all_differ else _flow_and_emit
    both = loop.fused(step, xp)(
        *states,
        *_neighbours(states, topology, xp),
        *(part[frame, ...] for part in emissions),
    )
    return States(*both[:4]), States(*both[4:])


def _near_one(
    xp: ArrayModule, _power: Power, label_e: Array, label_m: Array, blank_e: Array, blank_m: Array
) -> tuple[Array, ...]:
    # A mantissa of 0 has an exponent that absorbs any shift; it only must not reach the log.
    label_shift = in_grains(xp.log(xp.maximum(label_m, 1e-30)), xp)
    blank_shift = in_grains(xp.log(xp.maximum(blank_m, 1e-30)), xp)
    return (
        label_e + label_shift,
        label_m * xp.exp(-label_shift),
        blank_e + blank_shift,
        blank_m * xp.exp(-blank_shift),
    )


def _one_grain_nearer(
    xp: ArrayModule, _power: Power, label_e: Array, label_m: Array, blank_e: Array, blank_m: Array
) -> tuple[Array, ...]:
    """Do the same where mantissas are at most one grain away, without a logarithm."""
    label_large, label_small = label_m > _LARGE, label_m < _SMALL
    blank_large, blank_small = blank_m > _LARGE, blank_m < _SMALL
    return (
        xp.where(label_large, label_e + GRAIN, xp.where(label_small, label_e - GRAIN, label_e)),
        label_m * xp.where(label_large, _DOWN, xp.where(label_small, _UP, 1.0)),
        xp.where(blank_large, blank_e + GRAIN, xp.where(blank_small, blank_e - GRAIN, blank_e)),
        blank_m * xp.where(blank_large, _DOWN, xp.where(blank_small, _UP, 1.0)),
    )


def is_due(frame: int, size: int | None = None) -> bool:
    """Whether to renormalise before a frame of a block.

    With ``size``, that of the block, in the second half: whole numbers of ``_EVERY`` frames before
    its end. There it meets a block that was renormalised as many frames after its beginning.
    """
    return frame % _EVERY == 0 if size is None else frame == 0 or (size - frame) % _EVERY == 0


def renormalise(states: States, loop: Loop, xp: ArrayModule) -> States:
    """Bring mantissas between exp(-4) and exp(4); a frame multiplies them by so much, or by 3."""
    near = _one_grain_nearer if loop.frames_a_block == 1 else _near_one
    return States(*loop.fused(near, xp)(*states))
