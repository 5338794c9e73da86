"""One frame of the recursion, against the formulas in float64."""

import numpy as np
import pytest
from ctcx_numba._lattice import backward_frame, clear, forward_frame, likelihood, never
from ctcx_numba._simd import least, pointer
from numba import njit

WIDTH = 32
STATES = 2 * WIDTH
OLD, NEW, ALPHA, EMISSION, SKIP, AFTER, OCCUPANCY, BLANK = (
    *(STATES * i for i in range(4)),
    STATES * 3 + WIDTH,
    STATES * 4,
    STATES * 4 + WIDTH,
    STATES * 5,
)
COUNT = 21


@njit
def off(e):
    return least(never(pointer(e)))


@njit
def step_forward(m, e, first, last):
    clear(pointer(m), pointer(e), NEW, WIDTH, 0, WIDTH * m.itemsize // 64)
    forward_frame(pointer(m), pointer(e), OLD, NEW, WIDTH, first, last, SKIP, EMISSION, BLANK, True)


@njit
def step_back(m, e, last):
    p, q = pointer(m), pointer(e)
    v, whole = likelihood(p, q, OLD, ALPHA, WIDTH, 0, last, AFTER)
    blanks, lowest, highest = backward_frame(
        p, q, OLD, NEW, WIDTH, 0, last, AFTER, EMISSION, BLANK, ALPHA, OCCUPANCY, 1 / v, whole, True
    )
    return v, whole, blanks, lowest, highest


@pytest.fixture(params=[np.float32, np.float64])
def numbers(request):
    """Random rows of states, emissions, and which labels are like their neighbours."""
    kind = request.param
    rng = np.random.default_rng(0)
    m = rng.uniform(1, 2, STATES * 6).astype(kind)
    e = rng.integers(-30, 30, STATES * 6).astype(np.int32 if kind is np.float32 else np.int64)
    like_last = rng.random(WIDTH) < 0.3
    e[SKIP : SKIP + WIDTH] = np.where(like_last, off(e), 0)
    e[AFTER : AFTER + WIDTH] = np.where(np.append(like_last[1:], False), off(e), 0)
    for row in (OLD, ALPHA):
        e[row + COUNT + 1 : row + WIDTH] = off(e)
        e[row + WIDTH + COUNT : row + STATES] = off(e)
    return m, e, like_last


def values(m, e, at, count=WIDTH):
    exponents = e[at : at + count].astype(np.int64)
    mantissas = np.where(exponents < off(e) // 2, 0.0, m[at : at + count])
    return np.ldexp(mantissas, np.maximum(exponents, -1000))


def shifted(array, by):
    return np.concatenate([np.zeros(1), array[:-1]] if by > 0 else [array[1:], np.zeros(1)])


def test_forward(numbers):
    m, e, like_last = numbers
    blank, label = values(m, e, OLD), values(m, e, OLD + WIDTH)
    p, p_blank = values(m, e, EMISSION), values(m, e, BLANK, 1)
    before = shifted(label, 1)
    step_forward(m, e, 0, WIDTH * m.itemsize // 64)
    tolerance = 4 * np.finfo(m.dtype).eps
    np.testing.assert_allclose(values(m, e, NEW), (blank + before) * p_blank, rtol=tolerance)
    expected = (label + blank + np.where(like_last, 0, before)) * p
    np.testing.assert_allclose(values(m, e, NEW + WIDTH), expected, rtol=tolerance)


def test_forward_computes_only_the_vectors_asked_for(numbers):
    m, e, _ = numbers
    lanes = 64 // m.itemsize
    step_forward(m, e, 1, 2)
    assert (e[NEW : NEW + lanes] == off(e)).all()
    assert (e[NEW + lanes : NEW + min(2 * lanes, COUNT)] > off(e) // 2).all()
    if 2 * lanes < WIDTH:
        assert (e[NEW + 2 * lanes : NEW + 3 * lanes] == off(e)).all()


def test_backward(numbers):
    m, e, like_last = numbers
    blank, label = values(m, e, OLD), values(m, e, OLD + WIDTH)
    alpha_blank, alpha_label = values(m, e, ALPHA), values(m, e, ALPHA + WIDTH)
    p, p_blank = values(m, e, EMISSION), values(m, e, BLANK, 1)
    from_blank = blank + label
    skips = np.append(~like_last[1:], False)
    from_label = label + shifted(blank, -1) + np.where(skips, shifted(label, -1), 0)
    whole = (alpha_blank * from_blank).sum() + (alpha_label * from_label).sum()

    v, exponent, blanks, lowest, highest = step_back(m, e, WIDTH * m.itemsize // 64)
    tolerance = 8 * float(np.finfo(m.dtype).eps)
    assert np.ldexp(float(v), exponent) == pytest.approx(whole, rel=tolerance)
    assert blanks == pytest.approx((alpha_blank * from_blank).sum() / whole, rel=10 * tolerance)
    np.testing.assert_allclose(
        m[OCCUPANCY : OCCUPANCY + WIDTH], alpha_label * from_label / whole, rtol=10 * tolerance
    )
    np.testing.assert_allclose(values(m, e, NEW), from_blank * p_blank, rtol=tolerance)
    np.testing.assert_allclose(values(m, e, NEW + WIDTH), from_label * p, rtol=tolerance)
    assert lowest == 0
    assert highest == -(-(COUNT + 1) * m.itemsize // 64)
