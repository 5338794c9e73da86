r"""The softmax of rows of logits, in one go while the row is in cache.

.. math:: g_c = 2^{x_c \log_2 e - m} / s, \quad s = \sum_c 2^{x_c \log_2 e - m}

with m the row's largest exponent, a whole number. So a power is taken apart into 2**k 2**f without
an error: k is whole, f is rounded once, however large x is (Cody and Waite 1980, chapter 6).
"""

from __future__ import annotations

import numpy as np

from ctcx_numba._jit import inlined, part
from ctcx_numba._simd import (
    constant,
    exp2_fraction,
    fma,
    greater,
    highest,
    lanes,
    load,
    load_some,
    precise_total,
    rounded,
    shifted_to_exponent,
    splat,
    store,
    store_some,
)

__all__ = ["LOG2_E", "softmax_rows"]

LOG2_E = float(np.log2(np.e))

_log2_e = constant(single=LOG2_E, double=LOG2_E, doc="log2(e), rounded")
_rest = constant(
    single=LOG2_E - float(np.float32(LOG2_E)),
    double=2.0355273740931033e-17,
    doc="what the rounding took from log2(e)",
)
# Added to a number, it leaves no room for a fraction; its last bits then hold the number, plus the
# bias that exponents are stored with.
_rounder = constant(
    single=1.5 * 2.0**23 + 127, double=1.5 * 2.0**52 + 1023, doc="rounds to a whole number"
)
_smallest = constant(single=-127.0, double=-1023.0, doc="exponent whose power counts as 0")
_minus_infinity = constant(single=-np.inf, double=-np.inf, doc="-inf")

_LARGEST = 2.0**19
"""A row whose m is beyond this is shifted first, which rounds it to what its own digits are."""


@part
def softmax_rows(x, x_row, g, g_row, rows, classes, sums, sums_row):
    """Softmax of ``rows`` rows from ``x`` to ``g``; what it takes to invert it goes to ``sums``.

    ``x_row``, ``g_row`` and ``sums_row`` are the numbers of elements from a row to the next. Of
    each row, ``sums[0]`` is m and ``sums[1]`` is 1 / s as the row was multiplied with it, or 0 for
    a row with all classes masked. Of a row that is very far from 0, they are its largest logit and
    -1 / s. Returns the excess of the rows together: log(s (1 / s)), which is
    not 0 only as 1 / s is rounded, and which is not finite if a row has a NaN or +inf.

    It is a multiple of half the last digit of 1.0, and small, so that such numbers add up to the
    same in any order.
    """
    excess = 0.0
    if classes <= 2 * lanes(x):
        for t in range(rows):
            excess += _narrow_row(x, t * x_row, g, t * g_row, classes, sums, t * sums_row)
    else:
        for t in range(rows):
            excess += _wide_row(x, t * x_row, g, t * g_row, classes, sums, t * sums_row)
    return excess


@inlined
def _note(sums, at, m, s, inverse):
    """Keep m and 1 / s as it was rounded; return what the rounding made of 1."""
    sums[at], sums[at + 1] = m, inverse
    return s * inverse - 1


@inlined
def _narrow_row(x, xi, g, gi, classes, sums, at):
    """A row that fits into two vectors never leaves the registers."""
    low = min(lanes(x), classes)
    high = classes - low
    none = _minus_infinity(x)
    a = load_some(x, xi, low, none)
    b = load_some(x, xi + low, high, none)
    m = np.rint(highest(greater(a, b)) * LOG2_E)
    if not abs(m) <= _LARGEST:
        return _unusual_row(x, xi, g, gi, classes, sums, at)
    rounder, lowest = _rounder_and_lowest(x, m)
    a = _powers(a, lowest, rounder)
    b = _powers(b, lowest, rounder)
    s = precise_total(a + b)
    inverse = rounded(x, 1 / s)
    factor = splat(x, inverse)
    store_some(g, gi, low, a * factor)
    store_some(g, gi + low, high, b * factor)
    return _note(sums, at, m, s, inverse)


@inlined
def _wide_row(x, xi, g, gi, classes, sums, at):
    m = np.rint(_largest_of_row(x, xi, classes) * LOG2_E)
    if not abs(m) <= _LARGEST:
        return _unusual_row(x, xi, g, gi, classes, sums, at)
    s = _powers_of_row(x, xi, g, gi, classes, m)
    inverse = rounded(x, 1 / s)
    _scale_row(g, gi, classes, inverse)
    return _note(sums, at, m, s, inverse)


@part
def _unusual_row(x, xi, g, gi, classes, sums, at):
    """A row that is all masked, has NaN or +inf in it, or is very far from 0."""
    largest = _largest_of_row(x, xi, classes)
    if largest == -np.inf:
        s = _powers_of_row(x, xi, g, gi, classes, 0.0)  # zeros, or there is a NaN
        sums[at], sums[at + 1] = 0.0, 0.0
        return s
    if not largest < np.inf:
        return np.nan
    for c in range(classes):
        g[gi + c] = x[xi + c] - largest
    s = _powers_of_row(g, gi, g, gi, classes, 0.0)
    inverse = rounded(x, 1 / s)
    _scale_row(g, gi, classes, inverse)
    excess = _note(sums, at, largest, s, inverse)
    sums[at + 1] = -inverse
    return excess


@inlined
def _largest_of_row(x, xi, classes):
    step = lanes(x)
    none = _minus_infinity(x)
    a, b, c, d = none, none, none, none
    whole = classes // (4 * step) * (4 * step)
    for i in range(0, whole, 4 * step):
        a = greater(a, load(x, xi + i))
        b = greater(b, load(x, xi + i + step))
        c = greater(c, load(x, xi + i + 2 * step))
        d = greater(d, load(x, xi + i + 3 * step))
    for i in range(whole, classes, step):
        a = greater(a, load_some(x, xi + i, min(step, classes - i), none))
    return highest(greater(greater(a, b), greater(c, d)))


@inlined
def _rounder_and_lowest(x, m):
    """What m makes of the constants: added to round, and the logit whose power counts as 0."""
    exponent = splat(x, m)
    return _rounder(x) - exponent, (_smallest(x) + exponent) * (1 / LOG2_E)


@inlined
def _powers(x, lowest, rounder):
    """2**(x log2(e) - m), and 0 from 2**-127 down (2**-1023); NaN stays NaN."""
    x = greater(lowest, x)
    whole = fma(x, _log2_e(x), rounder)
    f = fma(x, _log2_e(x), rounder - whole)
    f = fma(x, _rest(x), f)
    return exp2_fraction(f) * shifted_to_exponent(whole)


@inlined
def _powers_of_row(x, xi, g, gi, classes, m):
    """Write the powers, and return their sum."""
    step = lanes(x)
    rounder, lowest = _rounder_and_lowest(x, m)
    none = _minus_infinity(x)
    zero = splat(x, 0)
    whole = classes // (4 * step) * (4 * step)
    total = 0.0
    # A few vectors at a time: beside the largest, about 1, float32 would lose many small ones.
    for first in range(0, whole, 16 * step):
        a, b, c, d = zero, zero, zero, zero
        for i in range(first, min(first + 16 * step, whole), 4 * step):
            p = _powers(load(x, xi + i), lowest, rounder)
            q = _powers(load(x, xi + i + step), lowest, rounder)
            r = _powers(load(x, xi + i + 2 * step), lowest, rounder)
            s = _powers(load(x, xi + i + 3 * step), lowest, rounder)
            store(g, gi + i, p)
            store(g, gi + i + step, q)
            store(g, gi + i + 2 * step, r)
            store(g, gi + i + 3 * step, s)
            a, b, c, d = a + p, b + q, c + r, d + s
        total += precise_total((a + b) + (c + d))
    a = zero
    for i in range(whole, classes, step):
        count = min(step, classes - i)
        p = _powers(load_some(x, xi + i, count, none), lowest, rounder)
        store_some(g, gi + i, count, p)
        a = a + p
    return total + precise_total(a)


@inlined
def _scale_row(g, gi, classes, factor):
    step = lanes(g)
    factors = splat(g, factor)
    whole = classes // (4 * step) * (4 * step)
    for i in range(0, whole, 4 * step):
        store(g, gi + i, load(g, gi + i) * factors)
        store(g, gi + i + step, load(g, gi + i + step) * factors)
        store(g, gi + i + 2 * step, load(g, gi + i + 2 * step) * factors)
        store(g, gi + i + 3 * step, load(g, gi + i + 3 * step) * factors)
    for i in range(whole, classes, step):
        count = min(step, classes - i)
        store_some(g, gi + i, count, load_some(g, gi + i, count, factors) * factors)
