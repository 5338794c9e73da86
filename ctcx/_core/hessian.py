r"""Products of the loss's second derivatives with a vector, in closed form.

With ``log Z`` the logarithm of the likelihood without the softmax's denominator, the loss is the
sum of the frames' ``log(sum(exp(x)))`` minus ``log Z``. Both are logarithms of sums of exponentials
of sums of logits, so their second derivatives are covariances. For a vector v of the shape of the
logits,

.. math::
    (H v)_{t,c} = p_{t,c} \Bigl(v_{t,c} - \sum_k p_{t,k} v_{t,k}\Bigr)
                  - \sum_{s: y_s = c} \gamma_t(s) \bigl(E[V \mid s_t = s] - E[V]\bigr)

with p the softmax, gamma the occupancies (Graves et al. 2006, eq. 14 and 16), and ``V`` the sum of
v along a path that emits the labels. Given the state at a frame, what is before and what is behind
are independent, so ``E[V | s]`` is a sum of two means, one from each direction of the recursion.
A mean over what flows into a state is weighted by the shares of the inflow: numbers from 0 to 1, of
which a state of probability 0 has none. So there is no logarithm of 0 and nothing can overflow.

A constant added to a frame of v changes nothing. The mean under the occupancies is taken off each
frame first, so that ``E[V]`` is 0 and the means stay as small as what they differ by.

The result is linear in v, also as a computation: a library can turn it round (JAX does).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ctcx._arrays.facts import library_name
from ctcx._core.emissions import ClassLookup
from ctcx._core.gradient import block_shape
from ctcx._core.kernels import loop_for, run
from ctcx._core.lattice import advance, inflow, is_due, renormalise
from ctcx._core.occupancy import likelihood, meet_at_frame, other_direction
from ctcx._core.recursion import Recursion

if TYPE_CHECKING:
    from ctcx._core.lattice import States
    from ctcx._typing import Array, ArrayModule

__all__ = ["hessian_vector_product"]

_TINY = 1e-30


class _Means(NamedTuple):
    """Mean of the vector's sum along the paths into each state, (M, S+1) as in States."""

    label: Array
    blank: Array


def hessian_vector_product(
    logits: Array,
    labels: Array,
    logit_lengths: Array,
    label_lengths: Array,
    grad: Array,
    vector: Array,  # (N, T, C); frames past a length are ignored
    *,
    blank: int,
) -> Array:
    """Second derivatives of each sequence's loss times ``vector``, (N, T, C).

    The arguments are those of a kernel (see :class:`ctcx.plugin.Backend`), and the gradient that it
    returns: only to keep numbers small, so an error in it does not reach the result. The result has
    the dtype of the logits; it is 0 past a sequence's length and for infeasible sequences.
    """
    arrays = (logits, labels, logit_lengths, label_lengths, grad, vector)
    return cast("Array", run(_product, arrays, blank))


def _product(
    logits: Array,
    labels: Array,
    logit_lengths: Array,
    label_lengths: Array,
    grad: Array,
    vector: Array,
    blank: int,
) -> Array:
    loop = loop_for(library_name(logits))
    recursion = Recursion(loop, logits, labels, logit_lengths, label_lengths, blank)
    recursion.prepare()
    context = recursion.context
    xp, dtype = context.xp, context.dtype
    classes = logits.shape[2]
    inside = recursion.inside

    def softmax(part: tuple[slice, slice]) -> Array:
        powers, total, _ = recursion.denominator(part)
        return powers / total

    def centre(rows: slice, frames: slice) -> tuple[Array]:
        part = (rows, frames)
        seen = inside[part][:, :, None]
        values = xp.where(seen, context.cast(vector[(*part, ...)]), 0.0)
        occupancy = softmax(part) - context.cast(grad[(*part, ...)])
        return (xp.where(seen, values - _mean(occupancy, values, seen, xp), 0.0),)

    blocks = block_shape(logits.shape[0], logits.shape[1], classes)
    (centred,) = loop.assemble(centre, logits.shape[:2], [((classes,), dtype)], blocks, context)
    shifts, possible = _Covariances(recursion, centred).run()
    sum_by_class = loop.class_sums(recursion.columns, classes, context)

    def block(rows: slice, frames: slice) -> tuple[Array]:
        part = (rows, frames)
        values, soft = centred[(*part, ...)], softmax(part)
        seen = inside[rows, frames][:, :, None]
        of_denominator = soft * (values - _mean(soft, values, seen, xp))
        of_labels = sum_by_class(shifts[frames, rows, :], rows)
        factor = recursion.factor(rows, frames, possible)[:, :, None]
        product = (of_denominator - of_labels) * factor
        return (xp.astype(product, logits.dtype, copy=False),)

    (product,) = loop.assemble(
        block, logits.shape[:2], [((classes,), logits.dtype)], blocks, context
    )
    return product


def _mean(weights: Array, values: Array, seen: Array, xp: ArrayModule) -> Array:
    """Mean of the values (n, t, C) of each frame under its weights, (n, t, 1); 0 where not seen.

    The ``where`` matters for JAX, too: XLA on the CPU, as of JAX 0.10.2, may fuse a sum of products
    with the subtraction that follows it, and then computes all after 32,768 elements wrongly.
    """
    return xp.where(seen, xp.sum(weights * values, axis=2, keepdims=True), 0.0)


class _Covariances:
    """The recursion of states together with the means along their paths.

    Both directions meet in the middle, as they do for the occupancies.
    """

    def __init__(self, recursion: Recursion, centred: Array) -> None:
        self._recursion, self._xp = recursion, recursion.context.xp
        rows, width = recursion.classes.shape
        self._none = recursion.context.full((2 * rows, width + 1), 0.0)
        self._lookup = ClassLookup(
            centred,
            recursion.classes,
            recursion.blank,
            recursion.logit_lengths,
            self._none,
            steps=2 * recursion.plan.half,
            look_up=recursion.loop.look_up,
            context=recursion.context,
        )

    def run(self) -> tuple[Array, Array]:
        """Occupancy times what the mean differs by, (frames, N, S+1), and possible (N,)."""
        recursion, xp = self._recursion, self._xp
        plan, topology, loop = recursion.plan, recursion.topology, recursion.loop
        nothing = _Means(self._none, self._none)

        def first(
            carry: tuple[States, _Means], source: tuple[Any, Array], _: None
        ) -> tuple[tuple[States, _Means], list[tuple[States, _Means]]]:
            states, means = carry
            flows = []
            for frame in range(plan.size):
                if is_due(frame):
                    states = renormalise(states, loop, xp)
                flow, after = advance(states, topology, source[0], frame, loop, xp)
                means = _inflow(states, flow, means, topology, xp)
                flows.append((flow, means))
                states, means = after, _add(means, source[1][frame, ...])
            return (states, means), flows

        (states, means), past = recursion.loop.scan(
            first,
            (recursion.start, nothing),
            self._source,
            first=0,
            blocks=plan.blocks,
            size=plan.size,
        )
        states = renormalise(states, loop, xp)
        total = likelihood(states, other_direction(inflow(states, topology, loop, xp), xp), xp)
        scale = recursion.scale_of(total)

        def second(
            carry: tuple[States, _Means],
            source: tuple[Any, Array],
            flows: list[tuple[States, _Means]],
        ) -> tuple[tuple[States, _Means], tuple[Array]]:
            states, means = carry
            met = []
            for frame in range(plan.size):
                if is_due(frame, plan.size):
                    states = renormalise(states, loop, xp)
                flow, after = advance(states, topology, source[0], frame, loop, xp)
                means = _inflow(states, flow, means, topology, xp)
                states, means = after, _add(means, source[1][frame, ...])
                opposite, behind = flows[-1 - frame]
                ahead = other_direction(opposite, xp)
                label, blank = meet_at_frame(states, ahead, scale, loop, xp)
                met.append(_differences(label, blank, _whole(means, behind, xp), xp))
            return (states, means), (xp.stack(met),)

        _, shifts = recursion.loop.scan(
            second,
            (states, means),
            self._source,
            first=plan.half,
            blocks=plan.blocks,
            size=plan.size,
            past=past,
        )
        (both,) = recursion.loop.joined(shifts, xp)
        return recursion.in_order(both), recursion.possible(recursion.log_likelihood(total))

    def _source(self, first: int, count: int) -> tuple[Any, Array]:
        return self._recursion.emissions(first, count), self._lookup(first, count)


def _inflow(states: States, flow: States, means: _Means, topology: Any, xp: ArrayModule) -> _Means:
    """Average the means of what flows into each state, by their shares of ``flow``."""
    previous = xp.concat([topology.zero, means.label[:, :-1]], axis=1)
    stays = _share(states.blank_exponent, states.blank_mantissa, flow[2], flow[3], xp)
    to_blank = stays * means.blank + (1.0 - stays) * previous
    enter = topology.may_skip * to_blank + topology.must_stop * means.blank
    stays = _share(states.label_exponent, states.label_mantissa, flow[0], flow[1], xp)
    return _Means(stays * means.label + (1.0 - stays) * enter, to_blank)


def _share(
    exponent: Array, mantissa: Array, flow_exponent: Array, flow_mantissa: Array, xp: ArrayModule
) -> Array:
    """Which part of the inflow stayed in its state; 0 where nothing flows."""
    return mantissa * xp.exp(exponent - flow_exponent) / xp.maximum(flow_mantissa, _TINY)


def _add(means: _Means, values: Array) -> _Means:
    """Add a frame's entries of the vector: (M, S+1), the blank's last."""
    return _Means(means.label + values, means.blank + values[:, -1:])


def _whole(ahead: _Means, behind: _Means, xp: ArrayModule) -> _Means:
    """Means along whole paths, of what both directions hold of their halves; labels (M, S)."""
    return _Means(
        ahead.label[:, :-1] + xp.flip(behind.label[:, :-1]), ahead.blank + xp.flip(behind.blank)
    )


def _differences(label: Array, blank: Array, means: _Means, xp: ArrayModule) -> Array:
    """Occupancies times what the means differ by from their own mean, (M, S+1), the blank last."""
    whole = xp.sum(label, axis=1, keepdims=True) + xp.sum(blank, axis=1, keepdims=True)
    whole = xp.maximum(whole, _TINY)
    label, blank = label / whole, blank / whole
    mean = xp.sum(label * means.label, axis=1, keepdims=True)
    mean = mean + xp.sum(blank * means.blank, axis=1, keepdims=True)
    of_blank = xp.sum(blank * (means.blank - mean), axis=1, keepdims=True)
    return xp.concat([label * (means.label - mean), of_blank], axis=1)
