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
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ctcx._arrays.facts import is_contiguous, is_undecided
from ctcx._core.context import DEAD, START, in_grains

if TYPE_CHECKING:
    from ctcx._core.context import Context
    from ctcx._core.loops.base import Loop
    from ctcx._typing import Array

__all__ = ["BestPath", "Columns"]

_TABLE = 2**16
"""Bytes of choices of a sequence that are kept all at once."""

_FRAMES_UNDECIDED = 64
"""Frames of a block where JAX has not decided how many frames there are."""

_INFINITY = float("inf")

_Sums: TypeAlias = "tuple[Array, ...]"
"""Sums of logits, in one array or two: see the classes below."""


class _Float64:
    """Sums in float64; impossible states are at -inf."""

    impossible = (-_INFINITY,)
    zero = (0.0,)

    def __init__(self, context: Context) -> None:
        self._xp = context.xp
        self.dtype = context.xp.float64

    def emissions(self, logits: Array, largest: Array) -> _Sums:
        xp, dtype = self._xp, self.dtype
        return (xp.astype(logits, dtype, copy=False) - xp.astype(largest, dtype, copy=False),)

    @staticmethod
    def plus(sums: _Sums, emissions: _Sums) -> _Sums:
        return (sums[0] + emissions[0],)

    @staticmethod
    def is_better(sums: _Sums, others: _Sums) -> Array:
        return sums[0] > others[0]

    def best(self, sums: _Sums, others: _Sums) -> _Sums:
        return (self._xp.maximum(sums[0], others[0]),)

    @staticmethod
    def is_possible(sums: _Sums) -> Array:
        return sums[0] > -_INFINITY


class _TwoFloat32:
    """Sums as a multiple of 8 and a rest; impossible states are at ``DEAD``."""

    impossible = (DEAD, 0.0)
    zero = (START, 0.0)

    def __init__(self, context: Context) -> None:
        self._xp = context.xp
        self.dtype = context.xp.float32

    def emissions(self, logits: Array, largest: Array) -> _Sums:
        """Relative to the largest, rounded to a multiple of 8."""
        xp = self._xp
        reference = in_grains(largest, xp)
        possible = logits > -_INFINITY
        rounded = in_grains(xp.where(possible, logits, 0.0), xp)
        whole = xp.where(possible, xp.maximum(rounded - reference, DEAD), DEAD)
        return whole, xp.where(possible, logits - rounded, 0.0)

    def plus(self, sums: _Sums, emissions: _Sums) -> _Sums:
        rest = sums[1] + emissions[1]
        shift = in_grains(rest, self._xp)
        return sums[0] + emissions[0] + shift, rest - shift

    def is_better(self, sums: _Sums, others: _Sums) -> Array:
        """Whether it is, and is possible at all."""
        return ((sums[0] - others[0]) + (sums[1] - others[1]) > 0.0) & self.is_possible(sums)

    def best(self, sums: _Sums, others: _Sums) -> _Sums:
        better = self.is_better(sums, others)
        return tuple(
            self._xp.where(better, mine, other) for mine, other in zip(sums, others, strict=True)
        )

    @staticmethod
    def is_possible(sums: _Sums) -> Array:
        return sums[0] > 0.1 * DEAD


class Columns:
    """Looks up logits, and columns that the caller made beside them, by sequence, frame and class.

    Parameters
    ----------
    logits
        (N, T, C).
    extra
        (N, T, W), the classes C to C + W - 1; None if there are none.
    context
        Of the call.
    """

    def __init__(self, logits: Array, extra: Array | None, context: Context) -> None:
        xp = context.xp
        rows, frames, self._classes = logits.shape
        time_major = xp.permute_dims(logits, (1, 0, 2))
        if is_contiguous(time_major) and not is_contiguous(logits):
            logits, self._row, self._frame = time_major, 1, rows
        else:
            self._row, self._frame = frames, 1
        self._logits = xp.reshape(logits, (-1,))
        self._frames, self._width = frames, 0 if extra is None else extra.shape[2]
        self._extra = None if extra is None else xp.reshape(extra, (-1,))
        self._context = context

    def __call__(self, row: Array, frame: Array, column: Array) -> Array:
        """Take the logits at these places, which broadcast against each other."""
        xp = self._context.xp
        place = (row * self._row + frame * self._frame) * self._classes
        if self._extra is None:
            return self._context.cast(self._take(self._logits, place + column))
        own = column < self._classes
        found = self._take(self._logits, place + xp.where(own, column, 0))
        place = (row * self._frames + frame) * self._width
        others = self._take(self._extra, place + xp.where(own, 0, column - self._classes))
        return xp.where(own, self._context.cast(found), others)

    def _take(self, flat: Array, place: Array) -> Array:
        xp = self._context.xp
        return xp.reshape(xp.take(flat, xp.reshape(place, (-1,)), axis=0), place.shape)


class _Window(NamedTuple):
    """Labels side by side: all of them, or those of a window, W.

    ``first`` (N, 1) is the first one's position, ``classes`` (N, W) are the labels' columns,
    ``may_not_skip`` (N, W) is -inf or ``DEAD`` where a label equals the one before, else 0; None if
    all are known to differ.
    """

    first: Array
    classes: Array
    may_not_skip: Array | None


class _PathState(NamedTuple):
    """Best sums after a frame, (N, W+1) each: of the blanks, and of the label before each blank."""

    blank: _Sums
    label: _Sums


class BestPath:
    """The best path of each sequence of a batch.

    Parameters
    ----------
    columns
        The emissions.
    classes
        (N, S), S at least 1: columns of the labels; past a sequence's length any valid one.
    logit_lengths, label_lengths
        (N,), within T and S.
    frames
        T, at least 1.
    ends
        Columns of the first and of the last blank.
    blank
        Column of the others.
    largest
        (N, T): the largest logit of each frame, a number.
    all_full, all_differ
        Whether all sequences are known to have T frames, and no label to equal the one before.
    """

    def __init__(
        self,
        columns: Columns,
        classes: Array,
        logit_lengths: Array,
        label_lengths: Array,
        *,
        frames: int,
        blank: int,
        ends: tuple[int, int],
        largest: Array,
        all_full: bool,
        all_differ: bool,
        loop: Loop,
        context: Context,
    ) -> None:
        self._columns, self._loop, self._context = columns, loop, context
        self._frames, self._blank, self._ends = frames, blank, ends
        self._counts = label_lengths[:, None]
        self._largest, self._all_full = largest, all_full
        self._sums = _Float64(context) if context.has_float64 else _TwoFloat32(context)
        self._plan(classes.shape[1])
        self._shift = self._blocks * self._size - logit_lengths[:, None]
        self._row = context.arange(0, classes.shape[0])[:, None]
        self._nothing = tuple(
            self._full((classes.shape[0], 1), value) for value in self._sums.impossible
        )
        xp = context.xp
        stop = None
        if not all_differ:
            equal = classes[:, 1:] == classes[:, :-1]
            impossible = self._full(equal.shape, self._sums.impossible[0])
            stop = xp.where(equal, impossible, 0.0)
            stop = xp.concat([self._full((classes.shape[0], 1), 0.0), stop], axis=1)
        self._whole = _Window(self._row * 0, classes, stop)

    def _plan(self, width: int) -> None:
        """Decide about blocks: how many, how long, in how many parts."""
        self._part = self._loop.frames_a_block
        undecided = is_undecided(self._frames, width)
        if undecided:
            size = _FRAMES_UNDECIDED
        elif self._frames * 2 * (width + 1) <= _TABLE:
            size = self._frames
        else:
            size = math.ceil(2 * math.sqrt(self._frames))
        self._parts = -(-size // self._part)
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

    def _initial(self) -> _PathState:
        """All is in the blank before the first label."""
        xp, (rows, width) = self._context.xp, self._whole.classes.shape
        label = tuple(self._full((rows, width + 1), value) for value in self._sums.impossible)
        first = (self._full((rows, 1), value) for value in self._sums.zero)
        blank = tuple(
            xp.concat([one, rest[:, 1:]], axis=1) for one, rest in zip(first, label, strict=True)
        )
        return _PathState(blank, label)

    def _emissions(self, lattice: _Window, steps: Array) -> tuple[_Sums, _Sums]:
        """Of blanks (t, N, 1 or W+1) and labels (t, N, W)."""
        xp = self._context.xp
        frame = steps[:, None, None] - self._shift[None, :, :]
        is_inside = frame >= 0
        frame = xp.maximum(frame, 0)
        row = self._row[None, :, :]
        labels = self._columns(row, frame, lattice.classes[None, :, :])
        blanks = self._columns(row, frame, self._blank_columns(lattice)[None, :, :])
        if not self._all_full or self._blocks * self._size != self._frames:
            labels = xp.where(is_inside, labels, -_INFINITY)
            blanks = xp.where(is_inside, blanks, 0.0)
        place = xp.reshape(row * self._frames + frame, (-1,))
        largest = xp.take(xp.reshape(self._largest, (-1,)), place, axis=0)
        largest = xp.where(is_inside, xp.reshape(largest, frame.shape), 0.0)
        return self._sums.emissions(blanks, largest), self._sums.emissions(labels, largest)

    def _blank_columns(self, lattice: _Window) -> Array:
        """Columns of the blanks: (N, 1) if it is the same for all, else (N, W+1)."""
        context, xp = self._context, self._context.xp
        if self._ends == (self._blank, self._blank):
            return self._row * 0 + self._blank
        position = lattice.first + context.arange(0, lattice.classes.shape[1] + 1)[None, :]
        columns = xp.where(position == self._counts, self._ends[1], position * 0 + self._blank)
        return xp.where(position == 0, self._ends[0], columns)

    def _advance(
        self, state: _PathState, lattice: _Window, blanks: _Sums, labels: _Sums
    ) -> tuple[_PathState, tuple[_Sums, ...]]:
        """Go on by one frame; also what can come into labels: by staying, from one state back, the
        better of the two, and from two back.
        """
        xp, sums = self._context.xp, self._sums
        one_back = tuple(part[:, :-1] for part in state.blank)
        stay = tuple(part[:, 1:] for part in state.label)
        two_back = tuple(part[:, :-1] for part in state.label)
        if lattice.may_not_skip is not None:
            two_back = (two_back[0] + lattice.may_not_skip, *two_back[1:])
        near = sums.best(one_back, stay)
        label = sums.plus(sums.best(two_back, near), labels)
        blank = sums.plus(sums.best(state.label, state.blank), blanks)
        # No label of the lattice stands before its first blank.
        label = tuple(
            xp.concat([one, part], axis=1) for one, part in zip(self._nothing, label, strict=True)
        )
        return _PathState(blank, label), (stay, one_back, near, two_back)

    def _pass_over(self, state: _PathState, steps: Array, _: None) -> tuple[_PathState, _PathState]:
        """Go through a block and leave the state at its start."""

        def step(state: _PathState, steps: Array, _: None) -> tuple[_PathState, None]:
            blanks, labels = self._emissions(self._whole, steps)
            for i in range(self._part):
                emitted = (tuple(part[i, ...] for part in parts) for parts in (blanks, labels))
                state = self._advance(state, self._whole, *emitted)[0]
            return state, None

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

    def _choices(self, state: _PathState, lattice: _Window, steps: Array) -> tuple[_PathState, Any]:
        """Go through a block; how many states back the path comes from, (t, N, 2W+2) a part."""
        xp, sums = self._context.xp, self._sums

        def step(state: _PathState, steps: Array, _: None) -> tuple[_PathState, tuple[Array]]:
            blanks, labels = self._emissions(lattice, steps)
            blank_moves, label_moves, label_skips = [], [], []
            for i in range(self._part):
                emitted = (tuple(part[i, ...] for part in parts) for parts in (blanks, labels))
                before = state
                state, (stay, one_back, near, two_back) = self._advance(before, lattice, *emitted)
                blank_moves.append(sums.is_better(before.label, before.blank))
                label_moves.append(sums.is_better(one_back, stay))
                label_skips.append(sums.is_better(two_back, near))
            from_blank = xp.astype(xp.stack(blank_moves), xp.int8)
            from_label = xp.astype(xp.stack(label_moves), xp.int8)
            from_label = xp.where(xp.stack(label_skips), 2, from_label)
            from_label = xp.concat([from_label, xp.zeros_like(from_label[:, :, :1])], axis=2)
            both = xp.stack([from_blank, from_label], axis=3)
            return state, (xp.reshape(both, (*both.shape[:2], 2 * both.shape[2])),)

        return self._in_parts(step, state, steps)

    def _trace(
        self, position: Array, lattice: _Window, choices: Any, steps: Array
    ) -> tuple[Array, Array]:
        """Follow the choices back: the state before the block (N,), and those in it, last first."""
        context, xp = self._context, self._context.xp
        rows, width = lattice.classes.shape
        width = 2 * (width + 1)
        start = self._row[:, 0] * width - 2 * lattice.first[:, 0]

        def step(position: Array, _: Array, choices: tuple[Array]) -> tuple[Array, tuple[Array]]:
            flat = xp.reshape(choices[0], (-1,))
            path = []
            for i in reversed(range(self._part)):
                path.append(position)
                place = position + start + i * rows * width
                position = position - context.as_indices(xp.take(flat, place, axis=0))
            return position, (xp.stack(path),)

        position, path = self._in_parts(step, position, steps, past=choices)
        return position, self._loop.joined(path, xp)[0]

    def _last_block(self, state: _PathState, steps: Array) -> tuple[Array, Array, Array]:
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
        self, position: Array, steps: Array, state: _PathState
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

    def _within(self, state: _PathState, lattice: _Window) -> _PathState:
        """Narrow a state likewise."""
        context, xp = self._context, self._context.xp
        if lattice is self._whole:
            return state
        position = lattice.first + context.arange(0, self._window + 1)[None, :]
        return _PathState(
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
