"""The kernels of the ``array-api`` backend; see :class:`ctcx.plugin.Backend` for their contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ctcx._arrayapi import linear, small
from ctcx._arrayapi.context import Context
from ctcx._arrayapi.emissions import Emissions, EmissionSource, offset_of
from ctcx._arrayapi.gradient import ClassSums, block_shape, denominator, gradient_rows
from ctcx._arrayapi.lattice import (
    DEAD,
    States,
    Topology,
    advance,
    inflow,
    initial_states,
    renormalise,
)
from ctcx._arrayapi.loops import loop_of
from ctcx._arrayapi.occupancy import (
    Likelihood,
    likelihood,
    loss_of,
    meet_at_frame,
    occupancy,
    other_direction,
)
from ctcx._arrays import library_name
from ctcx._descriptors import Decline

if TYPE_CHECKING:
    from ctcx._typing import Array

__all__ = ["Recursion", "loss", "loss_and_grad"]


class _Plan(NamedTuple):
    """How a direction runs through ``2 * blocks * size`` frames, at least T.

    In the middle it meets the other one.
    """

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


class Recursion:
    """What all kernels share: the inputs made ready, and the recursion.

    Both directions run as one batch of 2N rows. The second N rows are the first N turned round in
    every way: sequences, labels and frames.
    """

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
        _require_countable(logits, labels, context)
        rows = logits.shape[0]
        if labels.shape[1] == 0:  # one position that no sequence uses: nothing below is empty
            labels = context.integers((rows, 1), blank)
        width = labels.shape[1]
        used = context.arange(0, width)[None, :] < label_lengths[:, None]
        classes = xp.where(used, labels, blank)
        self.classes, self.used = classes, used
        self.logit_lengths, self.label_lengths = logit_lengths, label_lengths
        self.columns = xp.concat([classes, context.integers((rows, 1), blank)], axis=1)
        self.context, self.logits, self.blank = context, logits, blank
        self.loop = loop_of(library_name(logits))
        self.inside = context.arange(0, logits.shape[1])[None, :] < logit_lengths[:, None]

    def prepare(self) -> None:
        """Make ready what the recursions need."""
        context, xp, logits, classes = self.context, self.context.xp, self.logits, self.classes
        rows, width = classes.shape
        self.all_inside = self.loop.reads_values and bool(xp.all(self.inside))
        self.plan = _Plan.of(logits.shape[1], self.loop.frames_a_block)
        self.offset = offset_of(logits, context)
        self.source = EmissionSource(
            logits,
            classes,
            self.blank,
            self.logit_lengths,
            self.offset,
            steps=2 * self.plan.half,
            context=context,
        )
        self.topology = Topology.of_labels(xp.concat([classes, xp.flip(classes)]), context)
        ends = xp.flip(width - self.label_lengths)
        start = xp.concat([context.integers((rows,), 0), ends])
        self.start = initial_states(start, width + 1, context)

    def small(self) -> tuple[Array, Array] | None:
        """Loss and gradient the short way, where there is little to compute and it is exact."""
        rows, frames, classes = self.logits.shape
        if not self.loop.reads_values or not small.is_small(
            rows, frames, classes, self.classes.shape[1]
        ):
            return None
        return small.loss_and_grad(
            self.logits,
            self.classes,
            self.blank,
            self.inside,
            self.label_lengths,
            self.has_enough_frames(),
            self.context,
        )

    def occupancies(self) -> tuple[Array, Likelihood]:
        """Occupancies (frames, N, S+1), the last column the blank's, and likelihoods (N, 1)."""
        found = None
        rows, frames, _ = self.logits.shape
        xp, enough = self.context.xp, self.has_enough_frames()
        if self.loop.reads_values and rows > 0 and frames <= linear.LONGEST:
            found = linear.occupancies(
                self.source,
                self.topology.may_skip,
                self.start.blank_mantissa,
                xp.concat([enough, xp.flip(enough)]),
                self.offset,
                all_full=self.all_inside,
                steps=2 * self.plan.half,
                context=self.context,
            )
        if found is not None:
            return found
        states, past, total = self.first_half(keep=True)
        return self.second_half(states, past, total), self.forward(total)

    def has_enough_frames(self) -> Array:
        """Whether a sequence has a frame for each label and blank between equal ones: (N, 1)."""
        context, xp = self.context, self.context.xp
        repeats = (self.classes[:, 1:] == self.classes[:, :-1]) & self.used[:, 1:]
        need = self.label_lengths + xp.sum(
            xp.astype(repeats, context.index_dtype), axis=1, dtype=context.index_dtype
        )
        return (need <= self.logit_lengths)[:, None]

    def forward(self, total: Likelihood) -> Likelihood:
        """The rows of the forward direction."""
        rows = self.logits.shape[0]
        return Likelihood(*(part[:rows, :] for part in total))

    def first_half(self, *, keep: bool) -> tuple[States, Any, Likelihood]:
        """Both directions up to the middle: the states there, the past if kept, the likelihood."""
        xp = self.context.xp

        def step(
            states: States, emissions: Emissions, _: None
        ) -> tuple[States, list[States] | None]:
            states = renormalise(states, self.loop, xp)
            flows = []
            for frame in range(self.plan.size):
                flow, states = advance(states, self.topology, emissions, frame, self.loop, xp)
                if keep:
                    flows.append(flow)
            return states, flows if keep else None

        states, past = self.loop.scan(
            step,
            self.start,
            self.source,
            first=0,
            blocks=self.plan.blocks,
            size=self.plan.size,
        )
        ahead = other_direction(inflow(states, self.topology, xp), xp)
        return states, past, likelihood(states, ahead, xp)

    def second_half(self, states: States, past: Any, total: Likelihood) -> Array:
        """Occupancies (frames, N, S+1): the columns are the labels, the last one the blank.

        Frame by frame, each direction meets what the other one left in the first half.
        """
        xp = self.context.xp
        scale = self.scale_of(total)

        def step(
            states: States, emissions: Emissions, flows: list[States]
        ) -> tuple[States, tuple[Array]]:
            states = renormalise(states, self.loop, xp)
            met = []
            for frame in range(self.plan.size):
                _, states = advance(states, self.topology, emissions, frame, self.loop, xp)
                opposite = other_direction(flows[-1 - frame], xp)
                met.append(meet_at_frame(states, opposite, scale, self.loop, xp))
            labels, blanks = (xp.stack(part) for part in zip(*met, strict=True))
            return states, (occupancy(labels, blanks, xp),)

        _, past = self.loop.scan(
            step,
            states,
            self.source,
            first=self.plan.half,
            blocks=self.plan.blocks,
            size=self.plan.size,
            past=past,
        )
        (both,) = self.loop.joined(past, xp)
        return self.in_order(both)

    def scale_of(self, total: Likelihood) -> Array:
        """Exponent of the likelihood; for impossible labels beyond all, so that no state counts."""
        return self.context.xp.where(total.possible, total.exponent, -1e6 * DEAD)

    def in_order(self, both: Array) -> Array:
        """Put what both directions met in their second halves, (half, 2N, S+1), frame by frame."""
        xp, rows = self.context.xp, self.logits.shape[0]
        # The backward direction goes from the middle to the first frame.
        early = both[:, rows:, :]
        early = xp.concat([xp.flip(early[:, :, :-1]), xp.flip(early[:, :, -1:])], axis=2)
        return xp.concat([early, both[:, :rows, :]])


def _require_countable(logits: Array, labels: Array, context: Context) -> None:
    """Logits are looked up by their position, and labels sorted by class and position."""
    rows, frames, classes = logits.shape
    largest = max(rows * frames * classes, classes * (labels.shape[1] + 2))
    limit = context.xp.iinfo(context.index_dtype).max
    if largest > limit:
        msg = (
            f"{rows} x {frames} x {classes} logits with {labels.shape[1]} label positions are more "
            f"than {context.index_dtype} can count ({limit}): split the batch, or use 64-bit "
            f"integers (JAX_ENABLE_X64=1)"
        )
        raise Decline(msg)


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
    call = Recursion(logits, labels, logit_lengths, label_lengths, blank)
    context = call.context
    call.prepare()
    _, _, total = call.first_half(keep=False)

    def block(rows: slice, frames: slice) -> tuple[Array, ...]:
        inside = call.inside[rows, frames]
        return denominator(logits[rows, frames, :], inside, context, all_inside=call.all_inside)[2]

    dtype = context.dtype
    peak, spread = call.loop.assemble(
        block,
        logits.shape[:2],
        [((), dtype), ((), dtype)],
        block_shape(*logits.shape),
        context,
    )
    peak = peak - call.offset[:, None]
    return loss_of(peak, spread, call.inside, call.forward(total), context)


def _loss_and_grad(
    logits: Array, labels: Array, logit_lengths: Array, label_lengths: Array, blank: int
) -> tuple[Array, Array]:
    call = Recursion(logits, labels, logit_lengths, label_lengths, blank)
    context = call.context
    if (found := call.small()) is not None:
        return found
    call.prepare()
    occupancies, forward = call.occupancies()
    classes = logits.shape[2]
    sum_by_class = ClassSums(call.columns, classes, context)

    def block(rows: slice, frames: slice) -> tuple[Array, ...]:
        inside = call.inside[rows, frames]
        powers, sum_of_powers, logarithm = denominator(
            logits[rows, frames, :], inside, context, all_inside=call.all_inside
        )
        sums = sum_by_class(occupancies[frames, rows, :], rows)
        counted = inside & forward.possible[rows, :]
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
    return loss_of(peak - call.offset[:, None], spread, call.inside, forward, context), grad
