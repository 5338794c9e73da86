"""Each operation on vectors does what its docstring says, for both kinds of real numbers."""

import numpy as np
import pytest
from ctcx_numba import _simd as simd
from ctcx_numba._simd import load, pointer, store
from numba import njit

KINDS = (np.float32, np.float64)
WHOLE = {np.float32: np.int32, np.float64: np.int64}


def numbers(kind, seed=0):
    return np.random.default_rng(seed).uniform(-4, 4, 64 // np.dtype(kind).itemsize).astype(kind)


@njit
def arithmetic(a, b, out):
    x, y, n = load(pointer(a), 0), load(pointer(b), 0), a.size
    p = pointer(out)
    store(p, 0, x + y)
    store(p, n, x - y)
    store(p, 2 * n, x * y)
    store(p, 3 * n, x + 1.5)
    store(p, 4 * n, simd.greater(x, y))
    store(p, 5 * n, simd.smaller(x, y))
    store(p, 6 * n, simd.fma(x, y, x))
    store(p, 7 * n, simd.previous_lanes(x, y))
    store(p, 8 * n, simd.next_lanes(x, y))
    store(p, 9 * n, simd.splat(p, a[3]))


@pytest.mark.parametrize("kind", KINDS)
def test_arithmetic(kind):
    a, b = numbers(kind), numbers(kind, 1)
    out = np.empty((10, a.size), dtype=kind)
    arithmetic(a, b, out.reshape(-1))
    expected = [
        a + b,
        a - b,
        a * b,
        a + kind(1.5),
        np.maximum(a, b),
        np.minimum(a, b),
        a * b + a,
        np.concatenate([a[-1:], b[:-1]]),
        np.concatenate([a[1:], b[:1]]),
        np.full_like(a, a[3]),
    ]
    np.testing.assert_allclose(out, expected, rtol=4 * np.finfo(kind).eps)


@njit
def reductions(a):
    x = load(pointer(a), 0)
    return simd.total(x), simd.highest(x), simd.lowest(x), simd.any_positive(x)


@pytest.mark.parametrize("kind", KINDS)
def test_reductions(kind):
    a = numbers(kind)
    total, highest, lowest, positive = reductions(a)
    assert total == pytest.approx(float(a.sum()), rel=1e-5)
    assert (highest, lowest, positive) == (a.max(), a.min(), True)
    assert not reductions(-np.abs(a))[3]
    assert not reductions(np.zeros_like(a))[3]


@njit
def precise(a):
    x = load(pointer(a), 0)
    return simd.precise_total(x), simd.rounded(pointer(a), 1 / 3)


@pytest.mark.parametrize("kind", KINDS)
def test_precise_sums(kind):
    a = numbers(kind)
    a[0] = 2.0**20
    total, third = precise(a)
    assert total == pytest.approx(float(a.astype(np.float64).sum()), rel=1e-15)
    assert third == float(kind(1 / 3))


@njit
def whole_reductions(a):
    x = load(pointer(a), 0)
    return simd.most(x), simd.least(x)


@pytest.mark.parametrize("kind", WHOLE.values())
def test_reductions_of_integers(kind):
    a = np.arange(64 // np.dtype(kind).itemsize, dtype=kind)[::-1].copy() - 5
    assert whole_reductions(a) == (a.max(), a.min())


@njit
def parts(a, count, out):
    p = pointer(out)
    rest = simd.splat(p, -1.0)
    simd.store_some(p, 0, count, simd.load_some(pointer(a), 0, count, rest))
    store(p, a.size, simd.load_some(pointer(a), 0, count, rest))


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_vectors_touch_nothing_else(kind):
    a = numbers(kind)
    for count in range(a.size + 1):
        out = np.full((2, a.size), 9, dtype=kind)
        parts(a, count, out.reshape(-1))
        np.testing.assert_array_equal(out[0], np.where(np.arange(a.size) < count, a, 9))
        np.testing.assert_array_equal(out[1], np.where(np.arange(a.size) < count, a, -1))


@njit
def gathered(a, indices, out):
    store(pointer(out), 0, simd.gather(pointer(a), pointer(indices), 1))


@pytest.mark.parametrize("kind", KINDS)
def test_gather(kind):
    a, out = numbers(kind), np.empty_like(numbers(kind))
    indices = np.random.default_rng(0).integers(0, a.size, a.size + 1).astype(np.int32)
    gathered(a, indices, out)
    np.testing.assert_array_equal(out, a[indices[1:]])


@njit
def apart(a, mantissas, exponents, back):
    x = load(pointer(a), 0)
    store(pointer(mantissas), 0, simd.mantissa(x))
    store(pointer(exponents), 0, simd.exponent(x))
    store(pointer(back), 0, simd.power_of_two(simd.exponent(x)))


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_taken_apart(kind):
    a = np.abs(numbers(kind)) * kind(2) ** np.arange(-8, 8, dtype=kind)[: numbers(kind).size]
    mantissas, powers = np.empty_like(a), np.empty_like(a)
    exponents = np.empty(a.size, dtype=WHOLE[kind])
    apart(a, mantissas, exponents, powers)
    assert ((mantissas >= 1) & (mantissas < 2)).all()
    np.testing.assert_array_equal(mantissas * powers, a)


@njit
def powers(biased, out):
    store(pointer(out), 0, simd.power_of_two(load(pointer(biased), 0)))


@pytest.mark.parametrize("kind", KINDS)
def test_powers_of_two_end_in_zero(kind):
    bias = 127 if kind is np.float32 else 1023
    biased = np.full(64 // np.dtype(kind).itemsize, bias, dtype=WHOLE[kind])
    biased[:4] = 0, -5, np.iinfo(biased.dtype).min, bias - 3
    out = np.empty(biased.size, dtype=kind)
    powers(biased, out)
    np.testing.assert_array_equal(out[:5], [0, 0, 0, 0.125, 1])


@njit
def fraction(a, out):
    store(pointer(out), 0, simd.exp2_fraction(load(pointer(a), 0)))


@pytest.mark.parametrize(("kind", "ulps"), [(np.float32, 1), (np.float64, 2)])
def test_powers_of_fractions(kind, ulps):
    worst = 0.0
    for f in np.linspace(-0.5, 0.5, 4096).astype(kind).reshape(-1, 64 // np.dtype(kind).itemsize):
        out = np.empty_like(f)
        fraction(f, out)
        exact = np.exp2(f.astype(np.longdouble))
        worst = max(worst, float(np.abs(out / exact - 1).max()))
    assert worst <= ulps * np.finfo(kind).eps
    fraction(np.zeros_like(f), out)
    assert (out == 1).all()


@njit
def numbered(counter):
    return simd.take_number(pointer(counter)), simd.take_number(pointer(counter))


def test_each_caller_gets_another_number():
    counter = np.zeros(1, dtype=np.int64)
    assert numbered(counter) == (0, 1)
    assert counter[0] == 2
