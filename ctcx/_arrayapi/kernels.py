"""The kernels of the ``array-api`` backend; see :class:`ctcx.plugin.Backend` for their contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ctcx._arrayapi.context import Context
from ctcx._arrayapi.emissions import Emissions, EmissionSource
from ctcx._arrayapi.gradient import ClassSums, block_shape, denominator, gradient_rows
from ctcx._arrayapi.lattice import Keep, States, Topology, advance, inflow, initial_states
from ctcx._arrayapi.loops import loop_of
from ctcx._arrayapi.occupancy import (
    Likelihood,
    likelihood,
    loss_of,
    occupancies,
    read_backwards,
)
from ctcx._arrays import library_name

if TYPE_CHECKING:
    from ctcx._typing import Array

__all__ = ["loss", "loss_and_grad"]

class _Plan(NamedTuple):
    """A direction runs through ``2 * blocks * size`` frames, at least T, and meets the other one
    in the middle."""

    blocks: int
    size: int

    @classmethod
    def of(cls, frames: int, frames_a_block: int) -> _Plan:
        half = max(1, (frames + 1) // 2)
        blocks = -(-half // frames_a_block)
        return cls(blocks, -(-half // blocks))

    @property
    def half(self) -> int:
        return self.blocks * self.size


class _Call:
    """What both kernels share: the inputs made ready, and the first half of the recursion."""

    def __init__(
        self,
        logits: Array,
        labels: Array,
        logit_lengths: Array,
        label_lengths: Array,
        blank: int,
    ) -> None:
        context = Context.of(logits, labels)
        xp = context.xp
        rows = logits.shape[0]
        if labels.shape[1] == 0:  # one position that no sequence uses: nothing below is empty
            labels = context.integers((rows, 1), blank)
        width = labels.shape[1]
        used = context.arange(0, width)[None, :] < label_lengths[:, None]
        classes = xp.where(used, labels, blank)
        self.columns = xp.concat([classes, context.integers((rows, 1), blank)], axis=1)
        self.context, self.logits = context, logits
        self.loop = loop_of(library_name(logits))
        self.inside = context.arange(0, logits.shape[1])[None, :] < logit_lengths[:, None]
        self.plan = _Plan.of(logits.shape[1], self.loop.frames_a_block)
        backward = xp.flip(classes, axis=1)
        self.source = EmissionSource(
            logits,
            self.columns,
            xp.concat([backward, self.columns[:, width:]], axis=1),
            self.inside,
            steps=2 * self.plan.half,
            context=context,
        )
        self.topology = Topology.of_labels(xp.concat([classes, backward], axis=0), context)
        start = xp.concat([context.integers((rows,), 0), width - label_lengths])
        self.start = initial_states(start, width + 1, context)

    def split(self, states: States) -> tuple[States, States]:
        """The directions apart: (forward, backward), each in its own order."""
        rows = self.logits.shape[0]
        return (
            States(*(part[..., :rows, :] for part in states)),
            States(*(part[..., rows:, :] for part in states)),
        )

    def first_half(self, *, keep: bool) -> tuple[States, Any, Likelihood]:
        """Both directions up to the middle: the states there, the past if kept, the likelihood."""
        xp = self.context.xp

        what: Keep = "before emission, reversed" if keep else "nothing"

        def step(states: States, emissions: Emissions, _: None) -> tuple[States, States | None]:
            return advance(states, emissions, self.topology, keep=what, xp=xp)

        states, past = self.loop.scan(
            step,
            self.start,
            self.source,
            first=0,
            blocks=self.plan.blocks,
            size=self.plan.size,
        )
        alpha, _ = self.split(states)
        _, beta = self.split(inflow(states, self.topology, xp))
        return states, past, likelihood(alpha, read_backwards(beta, xp), self.context)

    def occupancy(self, states: States, past: Any, total: Likelihood) -> Array:
        """Occupancies (frames, N, S+1) from the second half, where each direction meets the other's
        past."""
        xp = self.context.xp

        def step(states: States, emissions: Emissions, earlier: States) -> tuple[States, Any]:
            states, passed = advance(
                states, emissions, self.topology, keep="after emission", xp=xp
            )
            ahead, behind = self.split(cast("States", passed))
            seen_ahead, seen_behind = self.split(earlier)
            late = occupancies(ahead, read_backwards(seen_behind, xp), total, self.context)
            early = occupancies(seen_ahead, read_backwards(behind, xp), total, self.context)
            return states, (late, early)

        _, past = self.loop.scan(
            step,
            states,
            self.source,
            first=self.plan.half,
            blocks=self.plan.blocks,
            size=self.plan.size,
            past=past,
        )
        late, early = self.loop.joined(past, xp)
        # The backward direction runs through the early frames from the middle to the first.
        return xp.concat([xp.flip(early, axis=0), late])


def loss(
    logits: Array, labels: Array, logit_lengths: Array, label_lengths: Array, *, blank: int
) -> Array:
    """Negative log likelihood of each sequence, (N,)."""
    arrays = (logits, labels, logit_lengths, label_lengths)
    return loop_of(library_name(logits)).run(_loss, arrays, blank)


def loss_and_grad(
    logits: Array, labels: Array, logit_lengths: Array, label_lengths: Array, *, blank: int
) -> tuple[Array, Array]:
    """Negative log likelihood (N,) and its gradient (N, T, C) with respect to the logits."""
    arrays = (logits, labels, logit_lengths, label_lengths)
    return cast(
        "tuple[Array, Array]", loop_of(library_name(logits)).run(_loss_and_grad, arrays, blank)
    )


def _loss(
    logits: Array, labels: Array, logit_lengths: Array, label_lengths: Array, blank: int
) -> Array:
    call = _Call(logits, labels, logit_lengths, label_lengths, blank)
    context = call.context
    _, _, total = call.first_half(keep=False)

    def block(rows: slice, frames: slice) -> tuple[Array, ...]:
        inside = call.inside[rows, frames]
        return denominator(logits[rows, frames, :], inside, context)[2]

    dtype = context.dtype
    peak, spread = call.loop.assemble(
        block,
        logits.shape[:2],
        [((), dtype), ((), dtype)],
        block_shape(*logits.shape),
        context,
    )
    return loss_of(peak, spread, call.inside, total, context)


def _loss_and_grad(
    logits: Array, labels: Array, logit_lengths: Array, label_lengths: Array, blank: int
) -> tuple[Array, Array]:
    call = _Call(logits, labels, logit_lengths, label_lengths, blank)
    context = call.context
    states, past, total = call.first_half(keep=True)
    occupancy = call.occupancy(states, past, total)
    classes = logits.shape[2]
    sum_by_class = ClassSums(call.columns, classes, context)

    def block(rows: slice, frames: slice) -> tuple[Array, ...]:
        inside = call.inside[rows, frames]
        powers, sum_of_powers, logarithm = denominator(
            logits[rows, frames, :], inside, context
        )
        sums = sum_by_class(occupancy[frames, rows, :], rows)
        counted = inside & total.possible[rows, :]
        grad = gradient_rows(powers, sum_of_powers, counted, sums, context)
        return context.xp.astype(grad, logits.dtype, copy=False), *logarithm

    dtype = context.dtype
    grad, peak, spread = call.loop.assemble(
        block,
        logits.shape[:2],
        [((classes,), logits.dtype), ((), dtype), ((), dtype)],
        block_shape(logits.shape[0], logits.shape[1], classes + call.columns.shape[1]),
        context,
    )
    return loss_of(peak, spread, call.inside, total, context), grad
