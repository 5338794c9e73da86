r"""One frame of the recursion, for all states of a sequence, without a logarithm or a power.

A probability is kept as m 2**e: the mantissa m in [1, 2) in one array, the whole exponent e in
another. So nothing underflows at any length. A sum of two such numbers takes differences of
exponents, which become powers of two by an integer shift; a state that can't be reached has the
exponent ``never``, whose powers are 0.

The states of a sequence with labels y_0 .. y_{L-1} are L + 1 blanks and L labels, blank i before
label i; a row holds the blanks and then the labels, each padded to whole vectors. With p for the
probability of a state's class in the frame, forward (Graves et al. 2006, eq. 6 and 7)::

    blank_i' = (blank_i + label_{i-1}) p_blank
    label_i' = (label_i + blank_i + [y_i != y_{i-1}] label_{i-1}) p_i

and backward, from the last frame (eq. 9 to 11), where what is multiplied with alpha is the sum
before it is multiplied with p::

    blank_i' = (blank_i + label_i) p_blank
    label_i' = (label_i + blank_{i+1} + [y_i != y_{i+1}] label_{i+1}) p_i

In frame t (from 0) only the states up to index t can have been reached, so that rows grow by a
vector at a time, and on the way back only those states count whose occupancy doesn't underflow. So
a part of each row is computed, ``first`` to ``last`` in vectors. The vectors next to it are set to
``never``, since the next row may read them.
"""

from __future__ import annotations

from ctcx_numba._jit import inlined
from ctcx_numba._simd import (
    any_positive,
    constant,
    exponent,
    fma,
    greater,
    lanes,
    load,
    mantissa,
    most,
    next_lanes,
    power_of_two,
    previous_lanes,
    splat,
    store,
    total,
)

__all__ = [
    "backward_frame",
    "clear",
    "forward_frame",
    "likelihood",
    "never",
    "reached",
]

never = constant(single=-(2**29), double=-(2**60), doc="exponent of a state that can't be reached")
_bias = constant(single=127, double=1023, doc="what stored exponents have in excess")
_one = constant(single=1.0, double=1.0, doc="1")


@inlined
def reached(frame, width, step):
    """Count the vectors of states that can be reached in a frame."""
    return min(width // step, frame // step + 1)


@inlined
def clear(m, e, row, width, first, last):
    """Set the vectors from ``first`` to ``last`` of a row, blanks and labels, to 0."""
    step = lanes(m)
    for k in range(row + first * step, row + last * step, step):
        store(m, k, _one(m))
        store(e, k, never(e))
        store(m, k + width, _one(m))
        store(e, k + width, never(e))


@inlined
def _keep(m, e, at, value, low, more, apart):
    """Store ``value * 2**(low + bias + more)``, taken apart."""
    whole = low + exponent(value)
    if apart:
        whole = greater(whole + more, never(e))
    store(m, at, mantissa(value))
    store(e, at, whole)


@inlined
def _sum_of_two(m0, e0, m1, e1):
    """Sum as (v, low): v 2**(low + bias)."""
    low = greater(e0, e1) - _bias(e0)
    return fma(m0, power_of_two(e0 - low), m1 * power_of_two(e1 - low)), low


@inlined
def _sum_of_three(m0, e0, m1, e1, m2, e2):
    """Sum as (v, low): v 2**(low + bias)."""
    low = greater(greater(e0, e1), e2) - _bias(e0)
    v = fma(m1, power_of_two(e1 - low), m2 * power_of_two(e2 - low))
    return fma(m0, power_of_two(e0 - low), v), low


@inlined
def forward_frame(m, e, old, new, width, first, last, skip, emission, blank, apart):
    """Compute vectors ``first`` to ``last`` of row ``new`` of alphas from row ``old``.

    ``skip`` is where ``e`` holds 0 for labels unlike the one before, else ``never``; ``emission``
    is where the probabilities of the labels stand, ``blank`` where that of the blank does;
    ``apart``, a constant, is whether they have exponents.
    """
    step = lanes(m)
    p_blank, e_blank = splat(m, m[blank]), splat(e, e[blank])
    m_last, e_last = _one(m), never(e)
    for k in range(first * step, last * step, step):
        m_blank, e_from_blank = load(m, old + k), load(e, old + k)
        m_label, e_label = load(m, old + width + k), load(e, old + width + k)
        m_before = previous_lanes(m_last, m_label)
        e_before = previous_lanes(e_last, e_label)
        m_last, e_last = m_label, e_label
        v, low = _sum_of_two(m_blank, e_from_blank, m_before, e_before)
        _keep(m, e, new + k, v * p_blank, low, e_blank, apart)
        e_before = e_before + load(e, skip + k)
        v, low = _sum_of_three(m_blank, e_from_blank, m_label, e_label, m_before, e_before)
        v = v * load(m, emission + k)
        _keep(m, e, new + width + k, v, low, load(e, emission + k), apart)
    clear(m, e, new, width, last, min(last + 1, width // step))


@inlined
def backward_frame(
    m, e, old, new, width, first, last, skip, emission, blank, alpha, occupancy, scale, whole, apart
):
    """Compute vectors ``first`` to ``last`` of row ``new`` of betas, and their occupancies.

    Those of the labels go to ``occupancy``. They are relative to ``2**whole / scale``, the
    likelihood. ``skip`` is for the label after. Returns the occupancy of all blanks together, and
    from which to which vector there is anything above 0: what underflows here, the probability of
    all paths through a state, is too little to matter anywhere else (2**-126 of the whole).
    """
    step = lanes(m)
    p_blank, e_blank = splat(m, m[blank]), splat(e, e[blank])
    scales = splat(m, scale)
    excess = splat(e, whole) - _bias(e) - _bias(e)
    m_blank_after, e_blank_after = _one(m), never(e)
    m_label_after, e_label_after = _one(m), never(e)
    if last * step < width:
        k = last * step
        m_blank_after, e_blank_after = load(m, old + k), load(e, old + k)
        m_label_after, e_label_after = load(m, old + width + k), load(e, old + width + k)
    blanks = splat(m, 0)
    lowest, highest = last, first
    for i in range(last - 1, first - 1, -1):
        k = i * step
        m_blank, e_from_blank = load(m, old + k), load(e, old + k)
        m_label, e_label = load(m, old + width + k), load(e, old + width + k)
        v, low = _sum_of_two(m_blank, e_from_blank, m_label, e_label)
        q = power_of_two(load(e, alpha + k) + low - excess)
        blanks = fma(v * load(m, alpha + k), q, blanks)
        present = q
        _keep(m, e, new + k, v * p_blank, low, e_blank, apart)
        v, low = _sum_of_three(
            next_lanes(m_blank, m_blank_after),
            next_lanes(e_from_blank, e_blank_after),
            m_label,
            e_label,
            next_lanes(m_label, m_label_after),
            next_lanes(e_label, e_label_after) + load(e, skip + k),
        )
        m_blank_after, e_blank_after = m_blank, e_from_blank
        m_label_after, e_label_after = m_label, e_label
        q = power_of_two(load(e, alpha + width + k) + low - excess)
        store(m, occupancy + k, v * load(m, alpha + width + k) * (q * scales))
        if any_positive(greater(q, present)):
            lowest, highest = i, max(highest, i + 1)
        v = v * load(m, emission + k)
        _keep(m, e, new + width + k, v, low, load(e, emission + k), apart)
    clear(m, e, new, width, max(first - 1, 0), first)
    clear(m, e, new, width, last, min(last + 1, width // step))
    return total(blanks) * scale, lowest, highest


@inlined
def _terms(m, e, beta, alpha, width, skip, k):
    """What the states of a vector contribute to the likelihood: values and exponents, less bias."""
    step = lanes(m)
    m_blank, e_blank = load(m, beta + k), load(e, beta + k)
    m_label, e_label = load(m, beta + width + k), load(e, beta + width + k)
    m_blank_after, e_blank_after = _one(m), never(e)
    m_label_after, e_label_after = _one(m), never(e)
    if k + step < width:
        m_blank_after, e_blank_after = load(m, beta + k + step), load(e, beta + k + step)
        m_label_after = load(m, beta + width + k + step)
        e_label_after = load(e, beta + width + k + step)
    v, low = _sum_of_two(m_blank, e_blank, m_label, e_label)
    w, under = _sum_of_three(
        next_lanes(m_blank, m_blank_after),
        next_lanes(e_blank, e_blank_after),
        m_label,
        e_label,
        next_lanes(m_label, m_label_after),
        next_lanes(e_label, e_label_after) + load(e, skip + k),
    )
    return (
        v * load(m, alpha + k),
        low + load(e, alpha + k),
        w * load(m, alpha + width + k),
        under + load(e, alpha + width + k),
    )


@inlined
def likelihood(m, e, beta, alpha, width, first, last, skip):
    """Sum over all states of alpha times what follows, as (v, whole): v 2**whole.

    The sum is the same in every frame (Graves et al. 2006, eq. 14), but for rounding.
    """
    step = lanes(m)
    top = never(e) + never(e)
    for k in range(first * step, last * step, step):
        _, low, _, under = _terms(m, e, beta, alpha, width, skip, k)
        top = greater(top, greater(low, under))
    highest_of_all = most(top)
    base = splat(e, highest_of_all) - _bias(e)
    result = splat(m, 0)
    for k in range(first * step, last * step, step):
        v, low, w, under = _terms(m, e, beta, alpha, width, skip, k)
        result = fma(v, power_of_two(low - base), result)
        result = fma(w, power_of_two(under - base), result)
    return total(result), highest_of_all + most(_bias(e))
