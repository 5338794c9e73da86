r"""The most probable path of the labels: Viterbi's recursion, exact at any length.

The best sum of logits of any path that is in a state after a frame is

.. math::
    b_j &\leftarrow \max(b_j, l_{j-1}) + x_{blank} \\
    l_j &\leftarrow \max(l_j, b_j, l_{j-1} \text{ if } y_j \ne y_{j-1}) + x_{y_j}

with ``b_j`` the blank before label ``j`` and ``l_j`` the label. The softmax's denominator is the
same for all states of a frame, so the best path needs none. Logits are relative to the largest of
their frame, so that a constant, however large, changes nothing. A state keeps its predecessor
unless another one is better: of equal ones staying comes before one state back, and that before two
back.

**Sums are exact enough.** A float32 sum over 50,000 frames is off by several nats, more than the
distance between paths. With float64 a plain sum does (:class:`_Float64`). Without it (JAX by
default) a sum is a multiple of 8, which float32 holds exactly, and a rest within 4 of zero
(:class:`_TwoFloat32`).

**Memory.** One byte a state says where the path came from. Where all of them are more than
``_TABLE`` bytes for a sequence, the first pass keeps only the sums at the start of each of about
``sqrt(T) / 2`` blocks. The way back computes a block again, with the choices, for those labels only
from which the path can have come: in K frames a path passes K labels at most.

**Lengths.** Sequences end together, at the last step. In the steps before its first frame a
sequence rests in the blank before the first label: that emits with probability 1, labels with 0.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from ctcx._arrays.facts import is_undecided
from ctcx._core.columns import picked
from ctcx._core.viterbi import PathState

if TYPE_CHECKING:
    from ctcx._core.columns import Columns
    from ctcx._core.context import Context
    from ctcx._core.loops.base import Loop
    from ctcx._core.viterbi import Sums
    from ctcx._typing import Array

__all__ = ["BestPath"]

_TABLE = 2**16
"""Bytes of choices of a sequence that are kept all at once."""

_FRAMES_UNDECIDED = 64
"""Frames of a block where JAX has not decided how many frames there are."""

_INFINITY = float("inf")


class _Window(NamedTuple):
    """Labels side by side: all of them, or those of a window, W.

    ``first`` (N, 1) is the first one's position, ``classes`` (N, W) are the labels' columns,
    ``may_not_skip`` (N, W) is -inf or ``DEAD`` where a label equals the one before, else 0; None if
    all are known to differ.
    """

    first: Array
    classes: Array
    may_not_skip: Array | None


class BestPath:
    """The best path of each sequence of a batch."""

    def __init__(
        self,
        columns: Columns,
        classes: Array,  # (N, S >= 1): columns of the labels; past a length any valid one
        logit_lengths: Array,  # (N,), within T
        label_lengths: Array,  # (N,), within S
        *,
        frames: int,  # T, at least 1
        blank: int,  # column of the blanks between the first and the last
        ends: tuple[int, int],  # columns of these two
        largest: Array,  # (N, T): the largest logit of each frame, a number
        all_full: bool,  # all sequences have T frames, as far as is known
        all_differ: bool,  # no label equals the one before, as far as is known
        loop: Loop,
        context: Context,
    ) -> None:
        self._columns, self._loop, self._context = columns, loop, context
        self._frames, self._blank, self._ends = frames, blank, ends
        self._counts = label_lengths[:, None]
        self._largest, self._all_full = largest, all_full
        self._viterbi = loop.viterbi(context)
        self._sums = self._viterbi.sums
        self._plan(*classes.shape)
        self._shift = self._blocks * self._size - logit_lengths[:, None]
        self._row = context.arange(0, classes.shape[0])[:, None]
        xp = context.xp
        stop = None
        if not all_differ:
            equal = classes[:, 1:] == classes[:, :-1]
            impossible = self._full(equal.shape, self._sums.impossible[0])
            stop = xp.where(equal, impossible, 0.0)
            stop = xp.concat([self._full((classes.shape[0], 1), 0.0), stop], axis=1)
        self._whole = _Window(self._row * 0, classes, stop)

    def _plan(self, rows: int, width: int) -> None:
        """Decide about blocks: how many, how long, in how many parts."""
        self._part = self._loop.frames_a_block
        undecided = is_undecided(self._frames, width)
        if undecided:
            size = _FRAMES_UNDECIDED
        elif self._frames * 2 * (width + 1) <= _TABLE:
            size = self._frames
        else:
            size = math.ceil(2 * math.sqrt(self._frames))
        if self._viterbi.states_at_once:
            self._part = max(self._part, self._viterbi.states_at_once // (rows * (width + 1)))
        self._parts = -(-size // self._part)
        self._part = -(-size // self._parts)
        self._size = self._parts * self._part
        # One more where JAX couldn't tell that there is an earlier block.
        self._blocks = -(-self._frames // self._size) + int(undecided)
        self._window = width if undecided else min(width, self._size + 1)

    def __call__(self) -> tuple[Array, Array]:
        """States (N, T), and whether there is a path at all (N,). Past a length stands anything."""
        context, xp, loop = self._context, self._context.xp, self._loop
        earlier = self._blocks - 1
        state, past = self._initial(), None

        def forwards(first: int, count: int) -> Array:
            return context.arange(first, first + count)

        if is_undecided(earlier) or earlier > 0:
            state, past = loop.scan(
                self._pass_over, state, forwards, first=0, blocks=earlier, size=self._size
            )
        last = context.arange(0, self._size) + earlier * self._size
        position, possible, path = self._last_block(state, last)

        def backwards(first: int, count: int) -> Array:
            """Frames of the blocks, the last block first."""
            step = forwards(first, count)
            within = step % self._size
            return (earlier - 1) * self._size - (step - within) + within

        if past is not None:
            _, paths = loop.scan(
                self._way_back,
                position,
                backwards,
                first=0,
                blocks=earlier,
                size=self._size,
                past=past,
            )
            path = xp.concat([path, *loop.joined(paths, xp)])
        return self._in_place(xp.flip(path, axis=0)), possible

    def _full(self, shape: tuple[int, ...], value: float) -> Array:
        context = self._context
        return context.xp.full(shape, value, dtype=self._sums.dtype, device=context.device)

    def _initial(self) -> PathState:
        """All is in the blank before the first label."""
        xp, (rows, width) = self._context.xp, self._whole.classes.shape
        label = tuple(self._full((rows, width + 1), value) for value in self._sums.impossible)
        first = (self._full((rows, 1), value) for value in self._sums.zero)
        blank = tuple(
            xp.concat([one, rest[:, 1:]], axis=1) for one, rest in zip(first, label, strict=True)
        )
        return PathState(blank, label)

    def _emissions(self, lattice: _Window, steps: Array) -> tuple[Sums, Sums]:
        """Of blanks (t, N, 1 or W+1) and labels (t, N, W)."""
        xp, row = self._context.xp, self._row[None, :, :]
        frame = steps[:, None, None] - self._shift[None, :, :]
        is_inside = frame >= 0
        frame = xp.maximum(frame, 0)
        place = xp.reshape(row * self._frames + frame, (-1,))
        largest = xp.take(xp.reshape(self._largest, (-1,)), place, axis=0)
        largest = xp.reshape(largest, frame.shape)
        has_outside = not self._all_full or self._blocks * self._size != self._frames

        def emissions(logits: Array, resting: float) -> Sums:
            if not has_outside:
                return self._sums.emissions(logits, largest)
            logits = xp.where(is_inside, logits, resting)
            return self._sums.emissions(logits, xp.where(is_inside, largest, 0.0))

        blanks, classes = self._blank_columns(lattice), lattice.classes
        if self._columns.is_wider_than(classes.shape[1]):
            labels = emissions(self._columns(row, frame, classes[None, :, :]), -_INFINITY)
            return emissions(self._columns(row, frame, blanks[None, :, :]), 0.0), labels
        # What is made of each class needn't be made of each label.
        table = self._columns.of_frames(row, frame)
        labels = tuple(
            picked(part, classes, self._context) for part in emissions(table, -_INFINITY)
        )
        return emissions(picked(table, blanks, self._context), 0.0), labels

    def _blank_columns(self, lattice: _Window) -> Array:
        """Columns of the blanks: (N, 1) if it is the same for all, else (N, W+1)."""
        context, xp = self._context, self._context.xp
        if self._ends == (self._blank, self._blank):
            return self._row * 0 + self._blank
        position = lattice.first + context.arange(0, lattice.classes.shape[1] + 1)[None, :]
        columns = xp.where(position == self._counts, self._ends[1], position * 0 + self._blank)
        return xp.where(position == 0, self._ends[0], columns)

    def _pass_over(self, state: PathState, steps: Array, _: None) -> tuple[PathState, PathState]:
        """Go through a block and leave the state at its start."""

        def step(state: PathState, steps: Array, _: None) -> tuple[PathState, None]:
            emissions = self._emissions(self._whole, steps)
            return self._viterbi(state, *emissions, self._whole.may_not_skip, choices=False)

        after, _ = self._in_parts(step, state, steps)
        return after, state

    def _in_parts(self, step: Any, carry: Any, steps: Array, past: Any = None) -> tuple[Any, Any]:
        return self._loop.scan(
            step,
            carry,
            lambda first, count: steps[first : first + count],
            first=0,
            blocks=self._parts,
            size=self._part,
            past=past,
        )

    def _choices(self, state: PathState, lattice: _Window, steps: Array) -> tuple[PathState, Any]:
        """Go through a block; how many states back the path comes from, (t, N, 2W+2) a part."""

        def step(state: PathState, steps: Array, _: None) -> tuple[PathState, tuple[Array]]:
            emissions = self._emissions(lattice, steps)
            state, choices = self._viterbi(state, *emissions, lattice.may_not_skip, choices=True)
            return state, (choices,)

        return self._in_parts(step, state, steps)

    def _trace(
        self, position: Array, lattice: _Window, choices: Any, steps: Array
    ) -> tuple[Array, Array]:
        """Follow the choices back: the state before the block (N,), and those in it, last first."""
        xp = self._context.xp
        width = lattice.classes.shape[1]
        start = self._row[:, 0] * (2 * (width + 1)) - 2 * lattice.first[:, 0]

        def step(place: Array, _: Array, choices: tuple[Array]) -> tuple[Array, tuple[Array]]:
            flat = xp.reshape(choices[0], (self._part, -1))
            path = []
            for i in reversed(range(self._part)):
                path.append(place)
                place = place - xp.astype(xp.take(flat[i, :], place, axis=0), place.dtype)
            return place, (xp.stack(path),)

        place, path = self._in_parts(step, position + start, steps, past=choices)
        return place - start, self._loop.joined(path, xp)[0] - start[None, :]

    def _last_block(self, state: PathState, steps: Array) -> tuple[Array, Array, Array]:
        """Choose the last state; of equal ones the last label comes before the blank after it."""
        xp, sums = self._context.xp, self._sums
        lattice = self._around(self._counts)
        state, choices = self._choices(self._within(state, lattice), lattice, steps)
        column = self._counts - lattice.first
        blank, label = (
            tuple(xp.take_along_axis(part, column, axis=1)[:, 0] for part in parts)
            for parts in state
        )
        counts = self._counts[:, 0]
        is_blank = sums.is_better(blank, label) | (counts == 0)
        position = xp.where(is_blank, 2 * counts, 2 * counts - 1)
        possible = sums.is_possible(blank) | sums.is_possible(label)
        position, path = self._trace(position, lattice, choices, steps)
        return position, possible, path

    def _way_back(
        self, position: Array, steps: Array, state: PathState
    ) -> tuple[Array, tuple[Array]]:
        """Go back through a block, of which the state at its start was kept."""
        lattice = self._around((position - position % 2)[:, None] // 2)
        _, choices = self._choices(self._within(state, lattice), lattice, steps)
        position, path = self._trace(position, lattice, choices, steps)
        return position, (path,)

    def _around(self, label: Array) -> _Window:
        """Narrow the lattice to labels from which a block's path to this one (N, 1) can come."""
        context, xp, whole = self._context, self._context.xp, self._whole
        width = whole.classes.shape[1]
        if is_undecided(width) or self._window == width:
            return whole
        first = xp.minimum(xp.maximum(label - self._size, 0), width - self._window)
        position = first + context.arange(0, self._window)[None, :]
        stop = whole.may_not_skip
        return _Window(
            first,
            xp.take_along_axis(whole.classes, position, axis=1),
            None if stop is None else xp.take_along_axis(stop, position, axis=1),
        )

    def _within(self, state: PathState, lattice: _Window) -> PathState:
        """Narrow a state likewise."""
        context, xp = self._context, self._context.xp
        if lattice is self._whole:
            return state
        position = lattice.first + context.arange(0, self._window + 1)[None, :]
        return PathState(
            *(
                tuple(xp.take_along_axis(part, position, axis=1) for part in parts)
                for parts in state
            )
        )

    def _in_place(self, path: Array) -> Array:
        """Turn the path (steps, N), where sequences end together, into (N, T)."""
        context, xp = self._context, self._context.xp
        if self._all_full:
            steps = path.shape[0]
            return xp.permute_dims(path[steps - self._frames :, :], (1, 0))
        frame = context.arange(0, self._frames)[None, :] + self._shift
        frame = xp.minimum(frame, path.shape[0] - 1)
        rows = path.shape[1]
        flat = xp.reshape(path, (-1,))
        place = frame * rows + self._row
        return xp.reshape(xp.take(flat, xp.reshape(place, (-1,)), axis=0), place.shape)
