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
    from ctcx._typing import Array, ArrayModule

__all__ = ["DEAD", "States", "Topology", "emit", "inflow", "initial_states", "renormalise"]

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
    label_e, label_m, blank_e, blank_m = states
    exp, maximum = xp.exp, xp.maximum
    previous_e = xp.concat([topology.dead, label_e[:, :-1]], axis=1)
    previous_m = xp.concat([topology.zero, label_m[:, :-1]], axis=1)
    to_blank_e = maximum(blank_e, previous_e)
    to_blank_m = blank_m * exp(blank_e - to_blank_e) + previous_m * exp(previous_e - to_blank_e)
    # Into a label flows what flows into the blank before it where it may skip, else that blank.
    enter_e = maximum(blank_e, to_blank_e + topology.skip_exponent)
    enter_m = to_blank_m * topology.may_skip + blank_m * topology.must_stop
    to_label_e = maximum(label_e, enter_e)
    to_label_m = label_m * exp(label_e - to_label_e) + enter_m * exp(enter_e - to_label_e)
    return States(to_label_e, to_label_m, to_blank_e, to_blank_m)


def emit(flow: States, emissions: Emissions, frame: int) -> States:
    """Multiply by the emission probabilities of one frame."""
    return States(
        flow.label_exponent + emissions.exponent[frame, ...],
        flow.label_mantissa * emissions.mantissa[frame, ...],
        flow.blank_exponent + emissions.blank_exponent[frame, ...],
        flow.blank_mantissa * emissions.blank_mantissa[frame, ...],
    )


def renormalise(states: States, xp: ArrayModule) -> States:
    """Bring mantissas near 1; a frame changes them by a factor between exp(-1/2) and 3 exp(1/2)."""

    def near_one(exponent: Array, mantissa: Array) -> tuple[Array, Array]:
        # A mantissa of 0 has an exponent that absorbs any shift; it only must not reach the log.
        shift = xp.round(xp.log(xp.maximum(mantissa, 1e-30)))
        return exponent + shift, mantissa * xp.exp(-shift)

    return States(*near_one(*states[:2]), *near_one(*states[2:]))
