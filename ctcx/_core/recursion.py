"""What all kernels share: inputs made ready, and the recursion in both directions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ctcx._arrays.facts import is_undecided
from ctcx._core import scaled_probabilities, transition_matrix
from ctcx._core.context import DEAD, Context, in_grains
from ctcx._core.emissions import Emissions, EmissionSource, LabelLogits
from ctcx._core.gradient import block_shape, denominator
from ctcx._core.lattice import (
    States,
    Topology,
    advance,
    emit,
    inflow,
    initial_states,
    is_due,
    renormalise,
)
from ctcx._core.occupancy import (
    LIMIT,
    Likelihood,
    LogLikelihood,
    likelihood,
    log_likelihood,
    loss_of,
    meet_at_frame,
    occupancy,
    other_direction,
)

if TYPE_CHECKING:
    from ctcx._core.loops.base import Loop
    from ctcx._typing import Array

__all__ = ["BlockPlan", "Recursion", "Route", "TooManyLogitsError"]

Route = Literal["shortest", "scaled probabilities", "extended exponents"]
"""The first way to the occupancies that may be tried; all libraries know the last one.

Where values can be read, small problems have a shorter one before both.
"""


_NARROW = 64
"""Labels up to this width are taken as they are."""

_LONG = 1024
"""Above so many frames, states are float64 where there is one.

The errors of float32 add up to 4e-6 of an occupancy in 2,000 frames, where two paths that have no
frame in common are equally probable, and grow with the square root of the frames.
"""


class BlockPlan(NamedTuple):
    """How a direction runs through ``2 * blocks * size`` frames, at least T.

    In the middle it meets the other one.
    """

    blocks: int
    size: int

    @classmethod
    def of(cls, frames: int, frames_a_block: int) -> BlockPlan:
        if is_undecided(frames):  # in a form in which JAX can tell that it is at least T
            return cls(-(-frames // (2 * frames_a_block)), frames_a_block)
        half = max(1, (frames + 1) // 2)
        blocks = -(-half // frames_a_block)
        return cls(blocks, -(-half // blocks))

    @property
    def half(self) -> int:
        return self.blocks * self.size


class TooManyLogitsError(Exception):
    """No integer of the library counts the logits of a batch."""


class Recursion:
    """What all kernels share: the inputs made ready, and the recursion.

    Both directions run as one batch of 2N rows. The second N rows are the first N turned round in
    every way: sequences, labels and frames.
    """

    def __init__(
        self,
        loop: Loop,
        logits: Array,
        labels: Array,
        logit_lengths: Array,
        label_lengths: Array,
        blank: int,
        *,
        extra_classes: int = 0,
        route: Route = "shortest",
    ) -> None:
        self.loop, self._route = loop, route
        self._num_classes = logits.shape[2] + extra_classes
        self._width = labels.shape[1]
        if self.loop.reads_values and labels.shape[1] > _NARROW:
            longest = int(label_lengths.max()) if label_lengths.shape[0] else 0
            labels = labels[:, : max(0, longest)]
        context = Context.of(logits, labels, logit_lengths, label_lengths)
        context = _countable(logits, labels, context)
        self.context, self.logits, self.blank = context, logits, blank
        if labels.shape[1] == 0:  # one position that no sequence uses: nothing below is empty
            labels = context.integers((logits.shape[0], 1), blank)
        self._labels = context.as_indices(labels)
        self.logit_lengths = context.as_indices(logit_lengths)
        self.label_lengths = context.as_indices(label_lengths)
        self.wrong: Array | None = None
        self._read_lengths()
        self._given = self.inside
        self._leave_out(self._out_of_range())

    def _read_lengths(self) -> None:
        context, xp, labels = self.context, self.context.xp, self._labels
        self.used = context.arange(0, labels.shape[1])[None, :] < self.label_lengths[:, None]
        self.classes = xp.where(self.used, labels, self.blank)
        frames = context.arange(0, self.logits.shape[1])[None, :]
        self.inside = frames < self.logit_lengths[:, None]

    def _out_of_range(self) -> Array:
        """Sequences (N,) with a length or a label out of range, where values are unchecked."""
        logit_lengths, label_lengths, classes = self.logit_lengths, self.label_lengths, self.classes
        frames = self.logits.shape[1]
        bad = (classes < 0) | (classes >= self._num_classes)
        return (
            (logit_lengths < 0)
            | (logit_lengths > frames)
            | (label_lengths < 0)
            | (label_lengths > self._width)
            | self.context.xp.any(bad, axis=1)
        )

    def _leave_out(self, wrong: Array) -> None:
        """Compute the sequences ``wrong`` (N,) as empty ones; what is returned for them is NaN."""
        xp = self.context.xp
        if self.loop.reads_values and not bool(xp.any(wrong)):
            return
        self.wrong = wrong if self.wrong is None else self.wrong | wrong
        self.logit_lengths = xp.where(wrong, 0, self.logit_lengths)
        self.label_lengths = xp.where(wrong, 0, self.label_lengths)
        self._read_lengths()

    def factor(self, rows: slice, frames: slice, possible: Array) -> Array:
        """Return the factors of the gradient of some frames, (n, t): 1, 0 or NaN."""
        context, part = self.context, (rows, frames)
        factor = context.cast(self.inside[part] & possible[rows, None])
        if self.wrong is None:
            return factor
        left_out = self.wrong[rows, None] & self._given[part]
        return context.xp.where(left_out, float("nan"), factor)

    def loss(self, spread: Array, found: LogLikelihood, possible: Array) -> Array:
        """Losses (N,), NaN for what has been left out; ``spread`` as for :func:`loss_of`."""
        xp = self.context.xp
        inside = None if self.all_inside else self.inside
        loss = loss_of(self.peak, self.reference, spread, inside, found, xp)
        if self.loop.reads_values:
            possible = possible & (loss <= LIMIT)
        loss = xp.where(possible, loss, float("inf"))
        if self.wrong is None:
            return loss
        return xp.where(self.wrong, float("nan"), loss)

    def prepare(self) -> None:
        """Make ready what the recursions need."""
        context, xp, logits = self.context, self.context.xp, self.logits
        self.read_logits()
        self.columns = xp.concat(
            [self.classes, context.integers((logits.shape[0], 1), self.blank)], axis=1
        )
        self.plan = BlockPlan.of(logits.shape[1], self.loop.frames_a_block)
        classes = self.classes
        rows, width = classes.shape
        if not is_undecided(logits.shape[1]) and logits.shape[1] > _LONG and context.has_float64:
            context = context._replace(dtype=xp.float64)
        self.source = EmissionSource(
            logits,
            classes,
            self.blank,
            self.logit_lengths,
            self.reference,
            steps=2 * self.plan.half,
            look_up=self.loop.look_up,
            context=context,
        )
        self.topology = Topology.of_labels(
            xp.concat([classes, xp.flip(classes)]),
            context,
            all_differ=self.loop.reads_values and not bool(xp.any(self.repeats())),
        )
        ends = xp.flip(width - self.label_lengths)
        start = xp.concat([context.integers((rows,), 0), ends])
        self.start = initial_states(start, width + 1, context)

    def read_logits(self) -> None:
        """Find the largest logit of each frame, and leave out sequences with wrong ones."""
        self._take_peaks(self._largest())
        self.reference = in_grains(self.peak, self.context.xp)

    def _largest(self) -> Array:
        """Largest logit of each frame, (N, T); NaN wins."""
        context, logits = self.context, self.logits
        if logits.dtype == context.dtype:
            return context.xp.max(logits, axis=2)

        def block(rows: slice, frames: slice) -> tuple[Array]:
            return (context.xp.max(context.cast(logits[rows, frames, :]), axis=2),)

        (largest,) = self.loop.assemble(
            block, logits.shape[:2], [((), context.dtype)], block_shape(*logits.shape), context
        )
        return largest

    def _take_peaks(self, peak: Array) -> None:
        """Keep the largest logits (N, T); leave out sequences of which one is NaN or +inf."""
        xp = self.context.xp
        self.all_inside = self.loop.reads_values and bool(xp.all(self.inside))
        self.peak = peak if self.all_inside else xp.where(self.inside, peak, 0.0)
        if self.loop.reads_values and bool(xp.all(xp.isfinite(self.peak))):
            return
        self._leave_out(xp.any(~(self.peak < float("inf")), axis=1))
        # A frame of only -inf logits has no largest; its labels are impossible.
        is_number = self.inside & (self.peak > -float("inf"))
        self.peak = xp.where(is_number, self.peak, 0.0)
        self.all_inside = self.loop.reads_values and bool(xp.all(self.inside))

    def denominator(self, part: tuple[slice, slice]) -> tuple[Array, Array, Array]:
        """Softmax of some rows and frames: see :func:`ctcx._core.gradient.denominator`."""
        return denominator(
            self.logits[(*part, slice(None))],
            self.peak[part],
            self.inside[part],
            self.context,
            all_inside=self.all_inside,
        )

    def spread(self) -> Array:
        """Logarithm of the softmax's denominator, relative to the largest logit: (N, T)."""

        def block(rows: slice, frames: slice) -> tuple[Array]:
            return (self.denominator((rows, frames))[2],)

        shape = self.logits.shape
        (spread,) = self.loop.assemble(
            block, shape[:2], [((), self.context.dtype)], block_shape(*shape), self.context
        )
        return spread

    def small(self) -> transition_matrix.Solution | None:
        """Loss and occupancies the short way, where there is little to compute and it is exact."""
        rows, frames, classes = self.logits.shape
        if (
            not self.loop.reads_values
            or self._route != "shortest"
            or self.wrong is not None
            or not transition_matrix.is_small(rows, frames, classes, self.classes.shape[1])
        ):
            return None
        return transition_matrix.solve(
            self.logits,
            self.classes,
            self.blank,
            self.inside,
            self.label_lengths,
            self.has_enough_frames(),
            self.context,
        )

    def occupancies(self, *, each_blank: bool = False) -> tuple[Array, LogLikelihood]:
        """Occupancies (frames, N, S+1), the last column the blank's, and log likelihoods (N,).

        With ``each_blank`` the last S+1 columns, of 2S+1, are those of each blank.
        """
        if (found := self.linear(each_blank=each_blank)) is not None:
            return found
        if (met := self.loop.meet(self)) is not None:
            labels, blanks, total = met
            both = occupancy(labels, blanks, self.context.xp, each_blank=each_blank)
            return self.in_order(both, turned_last=True), self.log_likelihood(total)
        middle, past, total = self.first_half(keep=True)
        occupancies = self.second_half(middle, past, total, each_blank=each_blank)
        return occupancies, self.log_likelihood(total)

    def linear(self, *, each_blank: bool) -> tuple[Array, LogLikelihood] | None:
        """Occupancies and log likelihoods by plain probabilities, where proved."""
        rows, frames, _ = self.logits.shape
        if (
            not self.loop.reads_values
            or self._route == "extended exponents"
            or rows == 0
            or frames > scaled_probabilities.LONGEST
        ):
            return None
        enough, xp = self.has_enough_frames(), self.context.xp
        return scaled_probabilities.run(
            self.source,
            self.topology.may_skip,
            self.start.blank_mantissa,
            xp.concat([enough, xp.flip(enough)]),
            all_full=self.all_inside,
            half=self.plan.half,
            context=self.context,
            each_blank=each_blank,
        )

    def log_likelihood(self, total: Likelihood) -> LogLikelihood:
        """Logarithm of the forward rows' likelihood."""
        found, cast = log_likelihood(self.forward(total), self.context.xp), self.context.cast
        rest = found.rest + self.source.shift
        return LogLikelihood(cast(found.whole), cast(rest), found.possible)

    def possible(self, found: LogLikelihood) -> Array:
        """Whether some path emits the labels, (N,), of a loss that isn't above the limit.

        As far as can be known without the softmax's denominator, where values aren't read: a loss
        may be above by that.
        """
        if self.loop.reads_values:
            return found.possible
        xp = self.context.xp
        so_far = xp.sum(self.peak - self.reference, axis=1) - found.whole - found.rest
        return found.possible & (so_far <= LIMIT)

    def has_enough_frames(self) -> Array:
        """Whether a sequence has a frame for each label and blank between equal ones: (N, 1)."""
        context, xp = self.context, self.context.xp
        need = self.label_lengths + xp.sum(
            xp.astype(self.repeats(), context.index_dtype), axis=1, dtype=context.index_dtype
        )
        return (need <= self.logit_lengths)[:, None]

    def repeats(self) -> Array:
        """Which labels equal the one before, (N, S-1); padding never does."""
        return (self.classes[:, 1:] == self.classes[:, :-1]) & self.used[:, 1:]

    def forward(self, total: Likelihood) -> Likelihood:
        """Return the rows of the forward direction."""
        rows = self.logits.shape[0]
        return Likelihood(*(part[:rows, :] for part in total))

    def first_half(self, *, keep: bool) -> tuple[tuple[States, States], Any, Likelihood]:
        """Both directions up to the middle: the inflow there, the past if kept, the likelihood."""
        xp = self.context.xp

        def step(
            states: States, logits: LabelLogits, _: None
        ) -> tuple[States, list[States] | None]:
            emissions = self.source.split(logits)
            made = []
            for frame in range(self.plan.size):
                if keep:  # in the narrower dtype, which rounds once: it is most of the memory
                    made.append(States(*map(self.context.cast, states)))
                if is_due(frame):
                    states = renormalise(states, self.loop, xp)
                states = advance(states, self.topology, emissions, frame, self.loop, xp)[1]
            return states, made if keep else None

        states, past = self.loop.scan(
            step,
            self.start,
            self.label_logits,
            first=0,
            blocks=self.plan.blocks,
            size=self.plan.size,
        )
        states = renormalise(states, self.loop, xp)
        flow = inflow(states, self.topology, self.loop, xp)
        return (flow, states), past, likelihood(flow, other_direction(states, xp), xp)

    def second_half(
        self, middle: tuple[States, States], past: Any, total: Likelihood, *, each_blank: bool
    ) -> Array:
        """Occupancies as from :meth:`occupancies`.

        Frame by frame, what flows into each state of a direction meets the states that the other
        one had there after the emission, in the first half.
        """
        xp = self.context.xp
        scale = self.scale_of(total)

        def step(
            carry: tuple[States, States], logits: LabelLogits, before: list[States]
        ) -> tuple[tuple[States, States], tuple[Array]]:
            flow, after = carry
            met, emissions = [], self.source.split(logits)
            for frame in range(self.plan.size):
                if is_due(frame, self.plan.size):
                    flow = renormalise(flow, self.loop, xp)
                met.append(meet_at_frame(flow, other_direction(after, xp), scale, self.loop, xp))
                flow = emit(flow, emissions, frame, self.loop, xp)
                flow = inflow(flow, self.topology, self.loop, xp)
                after = before[-1 - frame]
            labels, blanks = (xp.stack(part) for part in zip(*met, strict=True))
            found = occupancy(labels, blanks, xp, each_blank=each_blank)
            return (flow, after), (self.context.cast(found),)

        flow, states = middle
        _, past = self.loop.scan(
            step,
            (flow, States(*map(self.context.cast, states))),
            self.label_logits,
            first=self.plan.half,
            blocks=self.plan.blocks,
            size=self.plan.size,
            past=past,
        )
        (both,) = self.loop.joined(past, xp)
        return self.in_order(both)

    def emissions(self, first: int, count: int) -> Emissions:
        """Of ``count`` steps, for both directions."""
        return self.source(first, count, all_full=self.all_inside)

    def label_logits(self, first: int, count: int) -> LabelLogits:
        """Look up what the emissions of ``count`` steps are made of, for both directions."""
        return self.source.read(first, count, all_full=self.all_inside)

    def scale_of(self, total: Likelihood) -> Array:
        """Exponent of the likelihood; for impossible labels beyond all, so that no state counts."""
        return self.context.xp.where(total.possible, total.exponent, -1e6 * DEAD)

    def in_order(self, both: Array, *, turned_last: bool = False) -> Array:
        """Put what both directions met in their second halves, (half, 2N, ...), frame by frame.

        With ``turned_last`` they are the first halves, and the backward direction's frames come
        last.
        """
        xp, (rows, labels) = self.context.xp, self.classes.shape
        # The backward direction goes from the last frame to the first.
        straight, turned = both[:, :rows, :], both[:, rows:, :]
        turned = xp.concat([xp.flip(turned[:, :, :labels]), xp.flip(turned[:, :, labels:])], axis=2)
        return xp.concat([straight, turned] if turned_last else [turned, straight])


def _countable(logits: Array, labels: Array, context: Context) -> Context:
    """With indices that can count logits, which are looked up by position, and labels by class."""
    rows, frames, classes = logits.shape
    if is_undecided(*logits.shape, *labels.shape):  # as far as indices go here
        return context._replace(index_dtype=context.xp.asarray(0).dtype)
    largest_index = max(rows * frames * classes, classes * (labels.shape[1] + 2))
    if largest_index < 2**31 or largest_index <= context.xp.iinfo(context.index_dtype).max:
        return context
    widest = context.xp.asarray(0).dtype
    limit = context.xp.iinfo(widest).max
    if largest_index <= limit:
        return context._replace(index_dtype=widest)
    msg = (
        f"{rows} x {frames} x {classes} logits with {labels.shape[1]} label positions are more "
        f"than {widest} can count ({limit}): split the batch, or use 64-bit integers "
        f"(JAX_ENABLE_X64=1)"
    )
    raise TooManyLogitsError(msg)
