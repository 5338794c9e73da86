"""What Python calls: compiled once for float32 and once for float64, and kept on disk.

Logits and gradient come as addresses and strides in elements, so that one compilation serves every
layout, and read-only arrays too. Nothing is trusted: a label or length out of range, and a logit
that is NaN or +inf, make the loss of that sequence NaN, and nothing outside of the arrays is
touched.
"""

from __future__ import annotations

import math
from collections import namedtuple

from ctcx_numba._half import (
    arrive,
    go_back,
    half_of,
    meet,
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
    "sequences",
    "softmax_part",
    "softmaxes",
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
        # int64: (N, width), (N,), (N,)
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
def _state(batch, sequence):
    labels, count = sequence.labels, sequence.count
    if not (0 <= sequence.frames <= batch.most_frames and 0 <= count <= batch.labels.shape[1]):
        return WRONG
    needed = count  # a frame for each label, and one for the blank between two equal ones
    for i in range(count):
        if not 0 <= labels[i] < batch.classes or labels[i] == batch.blank:
            return WRONG
        if i > 0 and labels[i] == labels[i - 1]:
            needed += 1
    return POSSIBLE if needed <= sequence.frames else IMPOSSIBLE


@inlined
def _room(m, e, ids, sums, rows, which, parts):
    """One of several equal parts of the scratch arrays."""
    return (
        above(pointer(m), m.size // parts * which),
        above(pointer(e), e.size // parts * which),
        above(pointer(ids), ids.size // parts * which),
        above(pointer(sums), sums.size // parts * which),
        above(pointer(rows), rows.size // parts * which),
    )


@inlined
def _half(batch, sequence, which, room):
    """First half of a sequence, or the second, which runs from the last frame back.

    Its softmax goes to where the gradient belongs, or else to ``rows``, which are used again.
    """
    frames = sequence.frames
    m, e, ids, sums, rows = room
    x, x_row, own = sequence.x, batch.x_row, frames // 2
    g, g_row = sequence.g, batch.g_row
    if which == 1:
        x, x_row, own = above(x, (frames - 1) * x_row), -x_row, frames - own
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
        (m, e, ids, sums),
    )


@inlined
def _clear(batch, sequence, first):
    """Set the gradient of a sequence to 0 from a frame on."""
    if batch.with_gradient:
        for t in range(first, batch.most_frames):
            row = above(sequence.g, t * batch.g_row)
            for c in range(batch.classes):
                row[c] = 0


@inlined
def _loss(v, whole, excess):
    """Negative logarithm of v 2**whole, in nats, without what rounding put into it."""
    if v == 0:
        return math.inf
    return max(0.0, excess - (math.log(v) + whole * math.log(2.0)))


@part
def _compute(batch, sequence, room, other_room):
    """Loss of one sequence with labels in range, and its gradient if that is wanted."""
    h = _half(batch, sequence, 0, room)
    k = _half(batch, sequence, 1, other_room)
    excess = walk(h, True) + walk(k, True)
    if not abs(excess) < math.inf:
        return math.nan
    arrive(h, k)
    v, whole = meet(h)
    if v == 0:
        _clear(batch, sequence, 0)
    elif batch.with_gradient:
        arrive(k, h)
        go_back(h)
        go_back(k)
    return _loss(v, whole, excess)


@entry
def sequences(batch, order, begun, losses, m, e, ids, sums, rows):
    """Losses, and gradients if wanted, of sequences that no other thread has begun, one by one.

    ``begun`` is a counter that all threads share: how far in ``order`` they are. ``m`` to ``rows``
    are room for two halves.
    """
    room = _room(m, e, ids, sums, rows, 0, 2)
    other_room = _room(m, e, ids, sums, rows, 1, 2)
    i = take_number(pointer(begun))
    while i < order.size:
        n = order[i]
        sequence = _sequence(batch, n, pointer(m))
        state = _state(batch, sequence)
        if state == POSSIBLE:
            losses[n] = _compute(batch, sequence, room, other_room)
            _clear(batch, sequence, sequence.frames)
        else:
            losses[n] = math.inf if state == IMPOSSIBLE else math.nan
            _clear(batch, sequence, 0)
        i = take_number(pointer(begun))


@entry
def softmaxes(batch, order, begun, losses, m, e, ids, sums, rows):
    """Softmax of sequences that no other thread has begun, and nothing else."""
    i = take_number(pointer(begun))
    while i < order.size:
        sequence = _sequence(batch, order[i], pointer(m))
        softmax_rows(
            sequence.x,
            batch.x_row,
            sequence.g,
            batch.g_row,
            sequence.frames,
            batch.classes,
            pointer(sums),
            2,
        )
        _clear(batch, sequence, sequence.frames)
        i = take_number(pointer(begun))


# The steps of one sequence, for several threads


@entry
def begin(batch, n, losses):
    """Look at a sequence's labels and lengths: :data:`WRONG`, :data:`IMPOSSIBLE`, :data:`POSSIBLE`.

    Writes what is known already: the loss, and the zeros of the gradient.
    """
    sequence = _sequence(batch, n, pointer(losses))
    state = _state(batch, sequence)
    losses[n] = math.inf if state == IMPOSSIBLE else math.nan
    _clear(batch, sequence, sequence.frames if state == POSSIBLE else 0)
    return state


@entry
def softmax_part(batch, n, which, first, last, m, e, ids, sums, rows):
    """Softmax of the frames ``first`` to ``last`` of a half, counted from its end of the sequence.

    Returns the excess as :func:`ctcx_numba._softmax.softmax_rows` does.
    """
    sequence = _sequence(batch, n, pointer(m))
    h = _half(batch, sequence, which, _room(m, e, ids, sums, rows, 0, 1))
    return softmax_of(h, first, max(min(last, h.frames) - first, 0))


@entry
def forth(batch, n, which, softmax, m, e, ids, sums, rows):
    """Take a half to the middle; as :func:`ctcx_numba._half.walk`."""
    sequence = _sequence(batch, n, pointer(m))
    return walk(_half(batch, sequence, which, _room(m, e, ids, sums, rows, 0, 1)), softmax)


@entry
def middle(batch, n, losses, excess, room, other_room):
    """Let the halves meet: writes the loss, and says whether there is a way back.

    ``excess`` is that of both halves. ``room`` and ``other_room`` are the scratch arrays of the
    halves, as tuples.
    """
    sequence = _sequence(batch, n, pointer(losses))
    h = _half(batch, sequence, 0, _room(*room, 0, 1))
    k = _half(batch, sequence, 1, _room(*other_room, 0, 1))
    arrive(h, k)
    arrive(k, h)
    v, whole = meet(h)
    losses[n] = _loss(v, whole, excess)
    if v == 0:
        _clear(batch, sequence, 0)
    return v > 0 and batch.with_gradient


@entry
def back(batch, n, which, m, e, ids, sums, rows):
    """Take a half back to its end, which makes the gradient."""
    sequence = _sequence(batch, n, pointer(m))
    go_back(_half(batch, sequence, which, _room(m, e, ids, sums, rows, 0, 1)))
