"""The digits that float32 allows, at any length, on ordinary and on extreme logits."""

import numpy as np
import pytest
from ctcx_numba.kernels import loss, loss_and_grad
from hypothesis import given, settings
from hypothesis import strategies as st

from ctcx._reference.oracle import reference


def make_extreme(kind, t, c, s, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((1, t, c)).astype(np.float32)
    labels = rng.integers(1, c, (1, s))
    if kind == "one frame times 100":
        logits *= 2
        logits[:, t // 3] *= 100
    elif kind == "every seventh frame times 100":
        logits *= 2
        logits[:, ::7] *= 100
    elif kind == "masked classes":
        logits *= 2
        logits[:, rng.random(t) < 0.3, c - 1] = -np.inf
        labels[labels == c - 1] = 1
    elif kind == "far from 0":
        logits = logits * 2 + 1000
    else:
        logits *= float(kind)
    return logits, labels, np.array([t]), np.array([s])


KINDS = [
    "2",
    "30",
    "100",
    "300",
    "one frame times 100",
    "every seventh frame times 100",
    "masked classes",
    "far from 0",
]


def errors(batch, threads):
    losses, grad = loss_and_grad(*batch, blank=0, num_threads=threads)
    right = reference(*batch, 0)
    assert np.array_equal(loss(*batch, blank=0, num_threads=threads), losses)
    finite = np.isfinite(right.loss)
    assert np.array_equal(np.isfinite(losses), finite)
    loss_error = np.abs(losses - right.loss)[finite] / np.maximum(right.loss[finite], 1)
    return loss_error.max(initial=0), np.abs(grad - right.grad).max()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("t", "c", "s"), [(40, 5, 12), (300, 32, 60), (1000, 28, 200)])
def test_up_to_a_thousand_frames(kind, t, c, s, threads):
    loss_error, grad_error = errors(make_extreme(kind, t, c, s), threads)
    assert loss_error <= 1e-7
    assert grad_error <= 5e-6


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["2", "300", "one frame times 100", "masked classes"])
def test_twenty_thousand_frames(kind):
    loss_error, grad_error = errors(make_extreme(kind, 20_000, 32, 2_000), 2)
    assert loss_error <= 1e-7
    assert grad_error <= 1e-5


@pytest.mark.parametrize("kind", ["2", "300", "masked classes"])
def test_float64(kind):
    logits, *rest = make_extreme(kind, 500, 20, 100)
    loss_error, grad_error = errors((logits.astype(np.float64), *rest), 1)
    assert loss_error <= 1e-14
    assert grad_error <= 1e-11


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_random_batches(data):
    draw = data.draw
    n, t, c, s = (draw(st.integers(*limits)) for limits in ((1, 4), (0, 40), (1, 70), (0, 20)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    logits = rng.standard_normal((n, t, c)) * draw(st.sampled_from([0.0, 1.0, 10.0, 300.0, 1e4]))
    logits[rng.random(logits.shape) < draw(st.sampled_from([0.0, 0.1, 0.8]))] = -np.inf
    blank = draw(st.integers(0, c - 1))
    labels = rng.integers(0, c, (n, s))
    labels[labels == blank] = (blank + 1) % c
    frames = rng.integers(0, t + 1, n)
    counts = rng.integers(0, s + 1, n) if c > 1 else np.zeros(n, dtype=np.int64)
    batch = logits.astype(dtype), labels, frames, counts

    losses, grad = loss_and_grad(*batch, blank=blank, num_threads=draw(st.integers(1, 3)))
    right = reference(*batch, blank)
    tolerance = 5e-6 if dtype is np.float32 else 1e-11
    # Roundings of alike frames add up: a quarter of the last digit of 1 in each.
    rounding = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(losses, right.loss, rtol=2e-7, atol=(t + 2) * rounding / 4)
    np.testing.assert_allclose(grad, right.grad, rtol=0, atol=tolerance)
    np.testing.assert_allclose(grad.sum(axis=2), 0, atol=c * tolerance)


def test_a_certain_path_beside_tiny_probabilities_costs_nothing():
    """In float64 too, where the exponent of a large logit has no digits to spare."""
    logits = np.array([[[-300.7, 123.456], [-321.1, 234.567]]])
    nothing = np.zeros((1, 1), dtype=np.int64), np.array([2]), np.array([0])
    losses, _ = loss_and_grad(logits, *nothing, blank=1, num_threads=1)
    assert 0 <= losses[0] <= 5e-16
    one = np.array([[1]]), np.array([2]), np.array([1])
    losses, _ = loss_and_grad(logits, *one, blank=0, num_threads=1)
    assert 0 <= losses[0] <= 5e-16


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("t", "s", "frames", "counts"),
    [
        (1000, 200, [1000, 1000], [200, 50]),
        (3000, 60, [3000, 900], [60, 60]),
        (700, 310, [700, 700], [310, 19]),
        (2000, 300, [2000, 1365, 1366, 700, 2000], [300, 31, 15, 90, 1]),
    ],
)
def test_sequences_beside_longer_ones_or_ones_of_more_labels(t, s, frames, counts, threads, dtype):
    rng = np.random.default_rng(0)
    n = len(frames)
    logits = rng.standard_normal((n, t, 40)).astype(dtype)
    batch = logits, rng.integers(1, 40, (n, s)), np.array(frames), np.array(counts)
    loss_error, grad_error = errors(batch, threads)
    assert loss_error <= 1e-7
    assert grad_error <= 5e-6


def wrong_row(x, n, t, value):
    x = x.copy()
    x[n, t, x.shape[2] // 2] = value
    return x


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("sizes", [(3, 20, 10, 5), (40, 90, 64, 8), (2, 3000, 300, 100)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_and_inf_within_a_sequence_make_it_nan_and_no_other(
    batch, dtype, sizes, threads, value
):
    x, labels, frames, counts = batch(*sizes, dtype=dtype)
    n, t, _, s = sizes
    frames[:] = t - 2
    frames[n - 1] = s - 1  # infeasible
    right = loss_and_grad(x, labels, frames, counts, blank=0, num_threads=1)
    assert right[0][n - 1] == np.inf
    for wrong in (0, n - 1):
        last = frames[wrong]
        for at in (0, last // 2, last - 1):
            given = wrong_row(x, wrong, at, value), labels, frames, counts
            losses, grad = loss_and_grad(*given, blank=0, num_threads=threads)
            assert np.isnan(losses[wrong])
            assert np.isnan(grad[wrong, :last]).all()
            assert not grad[wrong, last:].any()
            np.testing.assert_array_equal(np.delete(losses, wrong), np.delete(right[0], wrong))
            np.testing.assert_array_equal(np.delete(grad, wrong, 0), np.delete(right[1], wrong, 0))
            np.testing.assert_array_equal(
                loss(*given, blank=0, num_threads=threads), losses, strict=True
            )
        past = wrong_row(x, wrong, last, value), labels, frames, counts
        np.testing.assert_array_equal(loss_and_grad(*past, blank=0)[0], right[0])
        np.testing.assert_array_equal(loss_and_grad(*past, blank=0)[1], right[1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("frames", [1, 40])
@pytest.mark.parametrize("nats", [1e6, 1.7e8, 1.799e8, 1.801e8, 1.9e8, 1e9, 1e12, 3.4e38])
def test_losses_up_to_the_limit(dtype, frames, nats):
    """Up to 1.8e8 nats a loss is right, beyond it is +inf and the gradient is 0."""
    x = np.zeros((2, frames, 3), dtype)
    x[0, :, 1] = -nats / frames
    batch = x, np.ones((2, frames), int)[:, : (frames + 1) // 2], *np.full((2, 2), frames)
    batch[3][:] = 1
    x[0, :, 0] = x[0, :, 1]  # each frame costs the same, whether blank or label
    losses, grad = loss_and_grad(*batch, blank=0)
    right = reference(*batch, 0)
    assert np.isfinite(losses[1])
    np.testing.assert_allclose(grad[1], right.grad[1], atol=5e-6)
    if nats > 1.8e8:
        assert losses[0] == np.inf
        assert not grad[0].any()
    else:
        np.testing.assert_allclose(losses, right.loss, rtol=2e-7)
        np.testing.assert_allclose(grad, right.grad, atol=5e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [4, 40, 300])
def test_logits_up_to_the_largest_number_there_is(dtype, classes):
    most = float(np.finfo(dtype).max)
    rest = np.array([[1, 2]]), np.array([40]), np.array([2])
    even = loss_and_grad(np.zeros((1, 40, classes), dtype), *rest, blank=0)
    for value in (1e30, -1e30, 3e38, -3e38, most, -most, 1e7, -1e10):
        losses, grad = loss_and_grad(np.full((1, 40, classes), value, dtype), *rest, blank=0)
        np.testing.assert_allclose(losses, even[0], rtol=1e-6)
        np.testing.assert_allclose(grad, even[1], atol=1e-6)
    x = np.zeros((1, 40, classes), dtype)
    x[0, :, :4] = most, -most, 0, 1
    losses, grad = loss_and_grad(x, *rest, blank=0)  # class 1 can't be emitted below the limit
    assert losses[0] == np.inf
    assert not grad.any()
    x[0, 3, 1], x[0, 9, 2] = most, most
    x[0, [3, 9], 0] = -most
    losses, grad = loss_and_grad(x, *rest, blank=0)
    assert losses[0] == 0
    assert not grad.any()


@pytest.mark.parametrize("offset", [1e7, 1e9, -1e9])
def test_a_constant_changes_nothing_in_float64(offset):
    """Beyond what adding it rounds the logits to."""
    logits, *rest = make_extreme("100", 200, 20, 60)
    shifted = logits.astype(np.float64) + offset
    back = shifted - offset
    losses, grad = loss_and_grad(shifted, *rest, blank=0)
    expected = loss_and_grad(back, *rest, blank=0)
    np.testing.assert_allclose(losses, expected[0], rtol=1e-14)
    np.testing.assert_allclose(grad, expected[1], atol=1e-13)
