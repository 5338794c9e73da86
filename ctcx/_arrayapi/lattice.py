r"""The forward recursion of CTC in extended exponents: exact in float32 at any length.

Every state keeps its probability as ``mantissa * exp(exponent)``, both floating-point arrays, the
exponent a whole number. One frame is (Graves et al. 2006, eq. 6 to 8; blanks and labels apart)

.. math::
    b_j &\leftarrow (b_j + l_{j-1})\, p_{blank} \\
    l_j &\leftarrow (l_j + b_j + [y_j \ne y_{j-1}]\, l_{j-1})\, p_{y_j}

where ``b_j`` is the blank before label ``j`` and ``l_j`` the label. A sum takes the largest
exponent of its terms and scales the others down by ``exp`` of whole negative numbers, so nothing
can overflow and the only thing that underflows is a term beside a far larger one *of the same
state*. A product with a probability adds whole exponents, which is exact, and multiplies mantissas.
So the error of a state is that of a few float32 multiplications a frame, whatever the size of its
logarithm.

Whole numbers are exact in float32 up to 2**24 = 16,777,216, and so is the recursion while a path's
logits add up to less than that.
Impossible states have the exponent ``DEAD``, so low that adding to it changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ctcx._arrayapi.context import Context
    from ctcx._arrayapi.emissions import Emissions
    from ctcx._arrayapi.loops import Loop
    from ctcx._typing import Array, ArrayModule

__all__ = ["DEAD", "States", "Topology", "advance", "inflow", "initial_states", "renormalise"]

DEAD = -1e30
"""Exponent of a state of probability 0. Finite, so that differences of two are 0 and never NaN."""


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
    ``zero`` (M, 1) flow into the first column.
    """

    may_skip: Array
    must_stop: Array
    skip_exponent: Array
    dead: Array
    zero: Array

    @classmethod
    def of_labels(cls, labels: Array, context: Context) -> Topology:
        """Of label rows (M, S), in the order in which the recursion meets them."""
        zero = context.full((labels.shape[0], 1), 0.0)
        differs = context.cast(labels[:, 1:] != labels[:, :-1])
        # Nothing stands before the first label, and the last column is no label: any value will do.
        edges = [zero] * min(2, labels.shape[1] + 1)
        may_skip = context.xp.concat([edges[0], differs, *edges[1:]], axis=1)
        must_stop = 1.0 - may_skip
        return cls(may_skip, must_stop, must_stop * DEAD, zero + DEAD, zero)


def initial_states(start: Array, width: int, context: Context) -> States:
    """All probability in the blank before label ``start`` (M,), ahead of the first frame."""
    mantissa = context.cast(context.arange(0, width)[None, :] == start[:, None])
    nothing = mantissa * 0.0
    return States(nothing + DEAD, nothing, (1.0 - mantissa) * DEAD, mantissa)


def inflow(states: States, topology: Topology, xp: ArrayModule) -> States:
    """Sum what flows into each state, before the next frame's emission."""
    return States(*_flow(xp, *states, *_neighbours(states, topology, xp)))


def _neighbours(states: States, topology: Topology, xp: ArrayModule) -> tuple[Array, ...]:
    """What flows in from the left: the label before, exponent and mantissa; and where it may."""
    previous_e = xp.concat([topology.dead, states.label_exponent[:, :-1]], axis=1)
    previous_m = xp.concat([topology.zero, states.label_mantissa[:, :-1]], axis=1)
    return previous_e, previous_m, topology.may_skip, topology.must_stop, topology.skip_exponent


def _flow(
    xp: ArrayModule,
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
    exp, maximum = xp.exp, xp.maximum
    to_blank_e = maximum(blank_e, previous_e)
    to_blank_m = blank_m * exp(blank_e - to_blank_e) + previous_m * exp(previous_e - to_blank_e)
    # Into a label flows what flows into the blank before it where it may skip, else that blank.
    enter_e = maximum(blank_e, to_blank_e + skip_exponent)
    enter_m = to_blank_m * may_skip + blank_m * must_stop
    to_label_e = maximum(label_e, enter_e)
    to_label_m = label_m * exp(label_e - to_label_e) + enter_m * exp(enter_e - to_label_e)
    return to_label_e, to_label_m, to_blank_e, to_blank_m


def _flow_and_emit(xp: ArrayModule, *arrays: Array) -> tuple[Array, ...]:
    """Inflow, and the states after the emission: four arrays each, element by element.

    The arrays are those of :func:`_flow`, then exponent and mantissa of the emission probabilities
    of the labels and of the blank.
    """
    label_e, label_m, blank_e, blank_m = flow = _flow(xp, *arrays[:-4])
    emission_e, emission_m, emission_blank_e, emission_blank_m = arrays[-4:]
    return (
        *flow,
        label_e + emission_e,
        label_m * emission_m,
        blank_e + emission_blank_e,
        blank_m * emission_blank_m,
    )


def advance(
    states: States,
    topology: Topology,
    emissions: Emissions,
    frame: int,
    loop: Loop,
    xp: ArrayModule,
) -> tuple[States, States]:
    """Go on by one frame: what flows into each state, and the states after the emission."""
    both = loop.fused(_flow_and_emit, xp)(
        *states,
        *_neighbours(states, topology, xp),
        emissions.exponent[frame, ...],
        emissions.mantissa[frame, ...],
        emissions.blank_exponent[frame, ...],
        emissions.blank_mantissa[frame, ...],
    )
    return States(*both[:4]), States(*both[4:])


def _near_one(
    xp: ArrayModule, label_e: Array, label_m: Array, blank_e: Array, blank_m: Array
) -> tuple[Array, ...]:
    # A mantissa of 0 has an exponent that absorbs any shift; it only must not reach the log.
    label_shift = xp.round(xp.log(xp.maximum(label_m, 1e-30)))
    blank_shift = xp.round(xp.log(xp.maximum(blank_m, 1e-30)))
    return (
        label_e + label_shift,
        label_m * xp.exp(-label_shift),
        blank_e + blank_shift,
        blank_m * xp.exp(-blank_shift),
    )


def renormalise(states: States, loop: Loop, xp: ArrayModule) -> States:
    """Bring mantissas near 1; a frame changes them by a factor between exp(-1/2) and 3 exp(1/2)."""
    return States(*loop.fused(_near_one, xp)(*states))
