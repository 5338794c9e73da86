"""What Python calls: compiled once for float32 and once for float64, and kept on disk.

Logits and gradient come as addresses and strides in elements, so that one compilation serves every
layout, and read-only arrays too. Nothing is trusted: a label or length out of range, and a logit
that is NaN or +inf, make the loss of that sequence and its gradient within its length NaN, and
nothing outside of the arrays is touched. Labels and lengths are copies that only the kernel has, so
that they stay as they were when they were looked at.
"""

from __future__ import annotations

import math
from collections import namedtuple

from ctcx_numba._half import (
    arrive,
    go_back,
    half_of,
    meet,
    room_of_half,
    rows_together,
    softmax_of,
    walk,
)
from ctcx_numba._jit import entry, inlined, part
from ctcx_numba._simd import above, pointer, pointer_to, take_number
from ctcx_numba._softmax import softmax_rows

__all__ = [
    "IMPOSSIBLE",
    "POSSIBLE",
    "WRONG",
    "Batch",
    "back",
    "begin",
    "forth",
    "middle",
    "room_of",
    "sequences",
    "softmax_part",
    "softmaxes",
    "spoil",
]

Batch = namedtuple(
    "Batch",
    [
        # Address of the logits, elements to the next sequence and frame.
        "x",
        "x_sequence",
        "x_row",
        # The same of the gradient, and whether it is wanted.
        "g",
        "g_sequence",
        "g_row",
        "with_gradient",
        # int64: (N, width), (N,), (N,); nobody else may write to them
        "labels",
        "frames",
        "counts",
        # Sizes of the logits, and the blank.
        "most_frames",
        "classes",
        "blank",
    ],
)

_Sequence = namedtuple("_Sequence", ["x", "g", "labels", "frames", "count"])

WRONG, IMPOSSIBLE, POSSIBLE = -1, 0, 1
"""A sequence with labels or lengths out of range; that no path can emit; the others."""

_MOST_NATS = 1.8e8
"""Above this a loss is +inf. In float32, exponents have room for a little more."""


@inlined
def _sequence(batch, n, like):
    """Pointers to what belongs to sequence n, and its sizes."""
    return _Sequence(
        above(pointer_to(batch.x, like), n * batch.x_sequence),
        above(pointer_to(batch.g, like), n * batch.g_sequence),
        above(pointer(batch.labels), n * batch.labels.shape[1]),
        batch.frames[n],
        batch.counts[n],
    )


@inlined
def _lengths_in_range(batch, n):
    frames, count = batch.frames[n], batch.counts[n]
    return 0 <= frames <= batch.most_frames and 0 <= count <= batch.labels.shape[1]


@inlined
def _state(batch, n, sequence):
    labels, count = sequence.labels, sequence.count
    if not (_lengths_in_range(batch, n) and 0 <= batch.blank < batch.classes):
        return WRONG
    needed = count  # a frame for each label, and one for the blank between two equal ones
    for i in range(count):
        if not 0 <= labels[i] < batch.classes or labels[i] == batch.blank:
            return WRONG
        if i > 0 and labels[i] == labels[i - 1]:
            needed += 1
    return POSSIBLE if needed <= sequence.frames else IMPOSSIBLE


@inlined
def _frames_of(frames, which):
    """Frames of the first half of so many, or of the second."""
    return (frames + which) // 2


@entry
def room_of(batch, step):
    """Elements of m (and of e), ids, sums and rows with which each half of a batch has room.

    ``step`` is how many numbers make a vector.
    """
    m, ids, sums, rows = 0, 0, 2, 0  # softmaxes needs a place in sums, whatever the lengths
    for n in range(batch.frames.size):
        if _lengths_in_range(batch, n):
            for which in range(2):
                frames = _frames_of(batch.frames[n], which)
                needed = room_of_half(frames, batch.counts[n], batch.classes, step)
                m, ids = max(m, needed[0]), max(ids, needed[1])
                sums, rows = max(sums, needed[2]), max(rows, needed[3])
    return m, ids, sums, rows


@inlined
def _half(batch, sequence, which, room):
    """First half of a sequence, or the second, which runs from the last frame back.

    ``room`` is its scratch, arrays of the sizes of :func:`room_of`: mantissas, exponents, classes,
    sums, and rows of the softmax. The softmax goes to where the gradient belongs, or else to
    ``rows``, which are used again.
    """
    frames = sequence.frames
    m, e, ids, sums, rows = room
    rows = pointer(rows)
    x, x_row, own = sequence.x, batch.x_row, _frames_of(frames, which)
    g, g_row = sequence.g, batch.g_row
    if which == 1:
        x, x_row = above(x, (frames - 1) * x_row), -x_row
        g, g_row = above(g, (frames - 1) * g_row), -g_row
    g_rows = max(own, 1)
    if not batch.with_gradient:
        g, g_row, g_rows = rows, batch.classes, rows_together(batch.classes)
    return half_of(
        x,
        x_row,
        g,
        g_row,
        g_rows,
        own,
        batch.classes,
        batch.blank,
        sequence.labels,
        sequence.count,
        which == 1,
        (pointer(m), pointer(e), pointer(ids), pointer(sums)),
    )


@part
def _fill(batch, sequence, first, last, value):
    """Set the gradient of a sequence from one frame to another."""
    if batch.with_gradient:
        for t in range(first, last):
            row = above(sequence.g, t * batch.g_row)
            for c in range(batch.classes):
                row[c] = value


@inlined
def _finish(batch, n, sequence, losses, loss):
    """Write a loss; says if there is a way back, which makes the gradient.

    If there is none, the gradient is NaN as the loss is, or 0. It is 0 past the sequence's end.
    """
    losses[n] = loss
    frames = sequence.frames
    if not 0 <= frames <= batch.most_frames:  # then no frame is known to be past the end
        frames = batch.most_frames
    _fill(batch, sequence, frames, batch.most_frames, 0.0)
    if loss < math.inf:
        return batch.with_gradient
    _fill(batch, sequence, 0, frames, 0.0 if loss == math.inf else math.nan)
    return False


@part
def _without_path(batch, sequence, state):
    """Loss of a sequence that isn't POSSIBLE: +inf, or NaN for wrong labels, lengths or logits."""
    if state == WRONG:
        return math.nan
    for t in range(sequence.frames):
        row = above(sequence.x, t * batch.x_row)
        for c in range(batch.classes):
            if not row[c] < math.inf:
                return math.nan
    return math.inf


@inlined
def _loss(h, excess):
    """Loss of a sequence, in nats, from a half that the other has arrived at.

    ``excess`` is what rounding put into the rows of both. If it isn't finite, there are logits that
    are not allowed.
    """
    if not abs(excess) < math.inf:
        return math.nan
    v, whole = meet(h)
    if v == 0:
        return math.inf
    loss = max(0.0, excess - (math.log(v) + whole * math.log(2.0)))
    return loss if loss <= _MOST_NATS else math.inf


@part
def _compute(batch, n, sequence, losses, room, other_room):
    """Compute a sequence with labels in range."""
    h = _half(batch, sequence, 0, room)
    k = _half(batch, sequence, 1, other_room)
    excess = walk(h, True) + walk(k, True)
    arrive(h, k)
    if _finish(batch, n, sequence, losses, _loss(h, excess)):
        arrive(k, h)
        go_back(h)
        go_back(k)


@entry
def sequences(batch, order, begun, losses, room, other_room):
    """Losses, and gradients if wanted, of sequences that no other thread has begun, one by one.

    ``begun`` is a counter that all threads share: how far in ``order`` they are. ``room`` and
    ``other_room`` are the scratch arrays of two halves: see :func:`room_of`.
    """
    i = take_number(pointer(begun))
    while i < order.size:
        n = order[i]
        sequence = _sequence(batch, n, pointer(losses))
        state = _state(batch, n, sequence)
        if state == POSSIBLE:
            _compute(batch, n, sequence, losses, room, other_room)
        else:
            _finish(batch, n, sequence, losses, _without_path(batch, sequence, state))
        i = take_number(pointer(begun))


@part
def spoil(batch, losses):
    """Make all losses and gradients NaN: there is no memory to compute them in."""
    for n in range(losses.size):
        _finish(batch, n, _sequence(batch, n, pointer(losses)), losses, math.nan)


@entry
def softmaxes(batch, order, begun, losses, room, other_room):
    """Softmax of sequences that no other thread has begun, and nothing else."""
    sums = pointer(room[3])
    i = take_number(pointer(begun))
    while i < order.size:
        sequence = _sequence(batch, order[i], pointer(losses))
        frames = min(max(sequence.frames, 0), batch.most_frames)
        softmax_rows(
            sequence.x, batch.x_row, sequence.g, batch.g_row, frames, batch.classes, sums, 0
        )
        _fill(batch, sequence, frames, batch.most_frames, 0.0)
        i = take_number(pointer(begun))


# The steps of one sequence, for several threads


@entry
def begin(batch, n, losses):
    """Look at a sequence's labels and lengths: :data:`WRONG`, :data:`IMPOSSIBLE`, :data:`POSSIBLE`.

    Writes loss and gradient if there is nothing to compute.
    """
    sequence = _sequence(batch, n, pointer(losses))
    state = _state(batch, n, sequence)
    if state != POSSIBLE:
        _finish(batch, n, sequence, losses, _without_path(batch, sequence, state))
    return state


@entry
def softmax_part(batch, n, which, first, last, room):
    """Softmax of the frames ``first`` to ``last`` of a half, counted from its end of the sequence.

    Returns the excess as :func:`ctcx_numba._softmax.softmax_rows` does.
    """
    h = _half(batch, _sequence(batch, n, pointer(room[0])), which, room)
    return softmax_of(h, first, max(min(last, h.frames) - first, 0))


@entry
def forth(batch, n, which, softmax, room):
    """Take a half to the middle; as :func:`ctcx_numba._half.walk`."""
    return walk(_half(batch, _sequence(batch, n, pointer(room[0])), which, room), softmax)


@entry
def middle(batch, n, losses, excess, room, other_room):
    """Let the halves meet: writes the loss, and says whether there is a way back.

    ``excess`` is that of both halves.
    """
    sequence = _sequence(batch, n, pointer(losses))
    h = _half(batch, sequence, 0, room)
    k = _half(batch, sequence, 1, other_room)
    arrive(h, k)
    arrive(k, h)
    return _finish(batch, n, sequence, losses, _loss(h, excess))


@entry
def back(batch, n, which, room):
    """Take a half back to its end, which makes the gradient."""
    go_back(_half(batch, _sequence(batch, n, pointer(room[0])), which, room))
