"""Half of a sequence: from one end to the middle, and back.

Both ends of a sequence are treated alike: the second half runs through the frames and the labels
backwards. In the middle, the last row of the one is the first of the other's way back, where alphas
and betas meet. So the halves need each other's rows only once, and can run on two threads.

The way back needs the alphas of all frames. A long half keeps the alphas of every ``span`` frames,
and computes those between again; only the last span's are still there. With span near the square
root of the frames, memory grows with that.
"""

from __future__ import annotations

from collections import namedtuple

import numpy as np

from ctcx_numba._jit import inlined, part
from ctcx_numba._lattice import (
    backward_frame,
    clear,
    forward_frame,
    likelihood,
    never,
    reached,
)
from ctcx_numba._simd import above, gather, lanes, least, lowest, smaller, splat, store
from ctcx_numba._softmax import LOG2_E, softmax_rows

__all__ = [
    "Half",
    "arrive",
    "go_back",
    "half_of",
    "meet",
    "room_of_half",
    "rows_together",
    "softmax_of",
    "walk",
]

_SMALLEST = 2.0**-100
"""In a frame where one is below this, probabilities are taken apart into mantissa and exponent."""

_LOGITS_TOGETHER = (2**12, 2**17)
"""Logits whose softmax stays in cache until it is looked up: in the first cache, in the second."""

_ROWS_TOGETHER = 32
"""Rows that are worth the second cache: read one after the other, they are fetched ahead."""

_FRAMES_A_SCALE = 32
"""How often, in frames, occupancies are scaled to add up to 1 anew."""

_SPAN_ALWAYS = 2**17
"""Numbers up to which all alphas of a half are kept."""

Half = namedtuple(
    "Half",
    [
        # Logits and gradient: pointers to the half's first frame, elements to the next frame.
        "x",
        "x_row",
        "g",
        "g_row",
        "g_rows",  # frames that g has room for, after which it starts again: all, or those together
        "frames",
        "classes",
        "blank",
        "count",  # labels
        # Scratch: mantissas, exponents, classes, and what the softmax divided by.
        "m",
        "e",
        "ids",
        "sums",
        # As in Shape.
        "width",
        "span",
        "spans",
    ],
)

Shape = namedtuple(
    "Shape",
    [
        "width",  # blanks or labels of a row, padded
        "span",
        "spans",
    ],
)
"""What the places below follow from; of a half, it is part of the half."""


@inlined
def rows_together(classes):
    """Frames whose softmax is computed before any of it is looked up."""
    first, second = _LOGITS_TOGETHER
    return max(first // classes, min(second // classes, _ROWS_TOGETHER), 1)


@inlined
def _shape_of(frames, labels, step):
    """Shape of a half of so many frames and labels, with so many numbers in a vector."""
    width = (labels // step + 1) * step
    # How much room this takes is not monotonic: just above the limit it is much less.
    span = frames if frames * 2 * width <= _SPAN_ALWAYS else int(np.sqrt(frames))
    span = max(span, 1)
    return Shape(width, span, max(-(-frames // span), 1))


# Where things stand in m and e. All rows begin at a multiple of a vector. The room that they need
# follows from the same functions, see room_of_half: so the two can't disagree.


@inlined
def _skip_before(h):
    return 0


@inlined
def _skip_after(h):
    return h.width


@inlined
def _occupancy(h):
    return 2 * h.width


@inlined
def _table(h):
    return 3 * h.width


@inlined
def _rows(h):
    return 4 * h.width


@inlined
def _beta(h, which):
    return _rows(h) + which * 2 * h.width


@inlined
def _passing(h, which):
    return _rows(h) + (2 + which) * 2 * h.width


@inlined
def _alpha(h, within_span):
    return _rows(h) + (4 + within_span) * 2 * h.width


@inlined
def _kept(h, span):
    """Alphas before a span; those before the last one are where its own begin."""
    return _alpha(h, 0) if span == h.spans - 1 else _alpha(h, h.span + 1 + span)


@inlined
def _emission(h, within_span):
    return _alpha(h, h.span + h.spans) + within_span * h.width


@inlined
def _blank(h, within_span):
    return _emission(h, h.span) + within_span


@inlined
def _apart(h, within_span):
    """In e: whether the probabilities of a frame have been taken apart."""
    return _blank(h, h.span) + within_span


# And in ids.


@inlined
def _slots(h):
    return h.width


@inlined
def _listed(h):
    return 2 * h.width


@inlined
def _known(h):
    return 3 * h.width


@inlined
def room_of_half(frames, labels, classes, step):
    """Elements of m (and of e), ids, sums and rows that a half needs.

    A longer half, or one with more labels, may need less: of several, the room for all is the
    largest that one of them needs, not that for the most frames and the most labels.
    """
    shape = _shape_of(frames, labels, step)
    rows = rows_together(classes) * classes
    return _apart(shape, shape.span), _known(shape) + classes, 2 * max(frames, 1), rows


@inlined
def half_of(x, x_row, g, g_row, g_rows, frames, classes, blank, labels, count, turned, scratch):
    """Lay out a half. ``turned``: the labels are read from the end."""
    m, e, ids, sums = scratch
    step = lanes(m)
    width, span, spans = _shape_of(frames, count, step)
    for i in range(count):
        ids[i] = labels[count - 1 - i if turned else i]
    for i in range(count, width):
        ids[i] = blank
    off = most_never(e)
    for i in range(2 * width):
        e[i] = 0
    e[0] = off
    for i in range(1, count):
        if ids[i] == ids[i - 1]:
            e[i] = off
            e[width + i - 1] = off
    return Half(
        x,
        x_row,
        g,
        g_row,
        g_rows,
        frames,
        classes,
        blank,
        count,
        m,
        e,
        ids,
        sums,
        width,
        span,
        spans,
    )


@inlined
def most_never(e):
    """``never`` as one number."""
    return least(never(e))


# Emissions


@inlined
def _row_of(h, frame):
    return above(h.g, frame % h.g_rows * h.g_row)


@inlined
def _look_up(h, frame, within_span, begin, end):
    """Probabilities of the labels in a frame, as the softmax left them; returns the smallest."""
    row = _row_of(h, frame)
    at = _emission(h, within_span)
    step = lanes(h.m)
    p = row[h.blank]
    h.m[_blank(h, within_span)] = p
    smallest = splat(h.m, p)
    for k in range(begin * step, end * step, step):
        v = gather(row, h.ids, k)
        store(h.m, at + k, v)
        smallest = smaller(v, smallest)
    return lowest(smallest)


@inlined
def _index_classes(h):
    """List the classes that occur, the blank last, and where in that list each label is."""
    slots = above(h.ids, _slots(h))
    listed = above(h.ids, _listed(h))
    known = above(h.ids, _known(h))
    for i in range(h.count):
        known[h.ids[i]] = -1
    distinct = 0
    for i in range(h.count):
        if known[h.ids[i]] < 0:
            known[h.ids[i]] = distinct
            listed[distinct] = h.ids[i]
            distinct += 1
        slots[i] = known[h.ids[i]]
    listed[distinct] = h.blank
    for i in range(h.count, h.width):
        slots[i] = distinct
    return distinct


@inlined
def _take_apart(h, frame, within_span, begin, end, distinct):
    """Mantissas and exponents of the labels' probabilities, however small they are.

    Those that are not small stay as the softmax has left them. Returns whether one is small.
    """
    row, softmax = above(h.x, frame * h.x_row), _row_of(h, frame)
    m, inverse = h.sums[2 * frame], h.sums[2 * frame + 1]
    far = inverse < 0
    inverse = abs(inverse)
    table = _table(h)
    off = most_never(h.e)
    listed = above(h.ids, _listed(h))
    small = False
    for i in range(distinct + 1):
        p = softmax[listed[i]]
        if p >= _SMALLEST:
            h.m[table + i] = p
            h.e[table + i] = 0
            continue
        small = True
        x = np.float64(row[listed[i]])
        y = (x - m) * LOG2_E if far else x * LOG2_E - m
        if y > off and inverse > 0:
            whole = np.rint(y)
            h.m[table + i] = np.exp2(y - whole) * inverse
            h.e[table + i] = int(whole)
        else:
            h.m[table + i] = 1
            h.e[table + i] = off
    blank = _blank(h, within_span)
    h.m[blank] = h.m[table + distinct]
    h.e[blank] = h.e[table + distinct]
    slots = above(h.ids, _slots(h))
    at = _emission(h, within_span)
    step = lanes(h.m)
    for k in range(begin * step, end * step, step):
        store(h.m, at + k, gather(above(h.m, table), slots, k))
        store(h.e, at + k, gather(above(h.e, table), slots, k))
    return small


@inlined
def _find_emissions(h, frame, within_span, begin, end, state):
    """Find the labels' probabilities in a frame, taken apart where one of them is small.

    ``state`` is what the frame before has left: whether it had small ones, since then these are
    likely to be small too, and how many classes occur, or -1 if they haven't been listed. Returns
    whether they were taken apart, and the next state.
    """
    small, distinct = state
    apart = small or _look_up(h, frame, within_span, begin, end) < _SMALLEST
    if apart:
        if distinct < 0:
            distinct = _index_classes(h)
        small = _take_apart(h, frame, within_span, begin, end, distinct)
    h.e[_apart(h, within_span)] = apart
    return apart, (small, distinct)


# To the middle


@inlined
def softmax_of(h, first, rows):
    """Softmax of so many frames, from ``first`` on; returns the excess as :func:`softmax_rows`.

    In the order in which the logits lie in memory. Processors fetch ahead what is read upwards:
    downwards, rows of a thousand classes took twice as long.
    """
    begin, turn = first, 1
    if h.x_row < 0:
        begin, turn = first + rows - 1, -1
    return softmax_rows(
        above(h.x, begin * h.x_row),
        turn * h.x_row,
        _row_of(h, begin),
        turn * h.g_row,
        rows,
        h.classes,
        above(h.sums, 2 * begin),
        2 * turn,
    )


@inlined
def _any_step(h, old, new, within_span, begin, end, apart):
    skip, emission, blank = _skip_before(h), _emission(h, within_span), _blank(h, within_span)
    forward_frame(h.m, h.e, old, new, h.width, begin, end, skip, emission, blank, apart)


@inlined
def _step(h, old, new, within_span, begin, end, apart):
    if apart:  # what is no constant becomes one, so that each compiles for itself
        _any_step(h, old, new, within_span, begin, end, True)
    else:
        _any_step(h, old, new, within_span, begin, end, False)


@inlined
def _start(h):
    """Row before the first frame: in the blank that comes first."""
    first = _kept(h, 0)
    clear(h.m, h.e, first, h.width, 0, h.width // lanes(h.m))
    h.e[first] = 0


@inlined
def _walk(h, softmax, first, ready, excess, plain):
    """Go on from the frame ``first``, when the softmax of the first ``ready`` frames is there.

    ``plain``: only to a frame with small probabilities. A loop that knows no other frames is
    faster. Returns where it ended, and ``ready`` and ``excess`` from then on.
    """
    step = lanes(h.m)
    state = (False, -1)
    for t in range(first, h.frames):
        if softmax and t == ready:
            rows = min(rows_together(h.classes), h.frames - t)
            excess += softmax_of(h, t, rows)
            ready += rows
        vectors = reached(t, h.width, step)
        span, within = t // h.span, t % h.span
        last = span == h.spans - 1
        at = within if last else 0
        if plain:
            if _look_up(h, t, at, 0, vectors) < _SMALLEST:
                return t, ready, excess
            h.e[_apart(h, at)] = False
            apart = False
        else:
            apart, state = _find_emissions(h, t, at, 0, vectors, state)
        old = _kept(h, span)
        if within:
            old = _alpha(h, within) if last else _passing(h, within % 2)
        if last:
            new = _alpha(h, within + 1)
        elif within == h.span - 1:
            new = _kept(h, span + 1)
        else:
            new = _passing(h, (within + 1) % 2)
        if plain:
            _any_step(h, old, new, at, 0, vectors, False)
        else:
            _step(h, old, new, at, 0, vectors, apart)
    return h.frames, ready, excess


@part
def walk(h, softmax):
    """Go to the middle, computing the softmax on the way unless it is there.

    Returns the excess of the rows as :func:`softmax_rows` does.
    """
    _start(h)
    t, ready, excess = _walk(h, softmax, 0, 0, 0.0, True)
    if t < h.frames:
        _, _, excess = _walk(h, softmax, t, ready, excess, False)
    step = lanes(h.m)
    done = reached(h.frames, h.width, step)
    clear(h.m, h.e, _last(h), h.width, done, h.width // step)
    return excess


@inlined
def _last(h):
    """Alphas after the last frame."""
    return _alpha(h, h.frames - (h.spans - 1) * h.span)


# In the middle


@part
def arrive(h, other):
    """Take the other half's last row as the first of the way back."""
    step = lanes(h.m)
    to, source = _beta(h, 0), _last(other)
    clear(h.m, h.e, to, h.width, 0, h.width // step)
    for i in range(h.count + 1):
        h.m[to + i] = other.m[source + h.count - i]
        h.e[to + i] = other.e[source + h.count - i]
    to, source = to + h.width, source + h.width
    for i in range(h.count):
        h.m[to + i] = other.m[source + h.count - 1 - i]
        h.e[to + i] = other.e[source + h.count - 1 - i]


@part
def meet(h):
    """Likelihood of the whole sequence, as (v, whole): v 2**whole; (0, 0) if there is no path."""
    vectors = h.width // lanes(h.m)
    v, whole = likelihood(h.m, h.e, _beta(h, 0), _last(h), h.width, 0, vectors, _skip_after(h))
    if v == 0 or whole < most_never(h.e) // 2:
        return 0.0, 0
    return np.float64(v), np.int64(whole)


# Back to the end


@inlined
def _fill_span(h, span, lowest, highest, state):
    """Compute the alphas of a span again, from those that were kept.

    Only those that count when coming back into the span at the vectors ``lowest`` to ``highest``:
    frame by frame, it goes down by a label at most. What is left out below spoils as many more.
    Takes and returns the state of :func:`_find_emissions`.
    """
    step = lanes(h.m)
    begin = max(lowest - 2 * (h.span // step + 1), 0)
    first = span * h.span
    old = _kept(h, span)
    for within in range(h.span):
        end = min(reached(first + within, h.width, step), highest)
        apart, state = _find_emissions(h, first + within, within, begin, end, state)
        new = _alpha(h, within + 1)
        _step(h, old, new, within, begin, end, apart)
        old = new
    return state


@inlined
def _subtract(h, frame, begin, end, occupancy_of_blank):
    """Gradient of a frame: the softmax, which is there, less the occupancies."""
    row = _row_of(h, frame)
    row[h.blank] -= occupancy_of_blank
    occupancy = above(h.m, _occupancy(h))
    step = lanes(h.m)
    for i in range(begin * step, min(h.count, end * step)):
        row[h.ids[i]] -= occupancy[i]


@inlined
def _step_back(h, old, new, within_span, begin, end, scale, whole):
    """Compute one row of betas, and the occupancies: see :func:`backward_frame`."""
    skip, emission, blank = _skip_after(h), _emission(h, within_span), _blank(h, within_span)
    alpha = _alpha(h, within_span + 1)
    around = h.width, begin, end, skip, emission, blank, alpha, _occupancy(h), scale, whole
    if h.e[_apart(h, within_span)]:
        return backward_frame(h.m, h.e, old, new, *around, True)
    return backward_frame(h.m, h.e, old, new, *around, False)


@part
def go_back(h):
    """From the middle to the end: turns the softmax in ``g`` into the gradient."""
    step = lanes(h.m)
    state = (False, -1)
    which = 0
    scale = 0.0
    whole = 0
    lowest, highest = 0, h.width // step
    for span in range(h.spans - 1, -1, -1):
        if span < h.spans - 1:
            state = _fill_span(h, span, lowest, highest, state)
        first = span * h.span
        for t in range(min(h.frames, first + h.span) - 1, first - 1, -1):
            begin = max(lowest - 1, 0)
            end = min(reached(t, h.width, step), highest)
            old, new = _beta(h, which), _beta(h, 1 - which)
            if (h.frames - 1 - t) % _FRAMES_A_SCALE == 0:
                alpha = _alpha(h, t - first + 1)
                v, whole = likelihood(h.m, h.e, old, alpha, h.width, begin, end, _skip_after(h))
                scale = 1 / v
            blanks, lowest, highest = _step_back(h, old, new, t - first, begin, end, scale, whole)
            _subtract(h, t, lowest, highest, blanks)
            which = 1 - which
