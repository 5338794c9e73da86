"""The digits that float32 allows, at any length, on ordinary and on extreme logits."""

import numpy as np
import pytest
from ctcx_cpu.kernels import loss, loss_and_grad
from hypothesis import given, settings
from hypothesis import strategies as st

from ctcx.conformance.oracle import reference


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
@pytest.mark.parametrize(
    ("kind", "count"),
    [("2", 2_000), ("300", 500), ("one frame times 100", 500), ("masked classes", 500)],
)
def test_twenty_thousand_frames(kind, count):
    loss_error, grad_error = errors(make_extreme(kind, 20_000, 32, count), 2)
    assert loss_error <= 1e-7
    assert grad_error <= 1e-5


@pytest.mark.parametrize("kind", ["2", "300", "masked classes"])
def test_float64(kind):
    logits, *rest = make_extreme(kind, 500, 20, 100)
    loss_error, grad_error = errors((logits.astype(np.float64), *rest), 1)
    assert loss_error <= 1e-14
    assert grad_error <= 1e-11


@pytest.mark.parametrize("frames", [1, 2, 31, 32, 33, 127, 128])
@pytest.mark.parametrize("classes", [1, 2, 7, 33])
def test_a_short_path_that_is_certain_has_a_loss_of_exactly_0(frames, classes):
    logits = np.full((1, frames, classes), -np.inf, np.float32)
    logits[:, :, 0] = 0
    arrays = logits, np.zeros((1, 0), np.int64), np.array([frames]), np.array([0])
    zero = np.zeros(1, np.float32).tobytes()
    assert loss(*arrays, blank=0).tobytes() == zero
    assert loss_and_grad(*arrays, blank=0)[0].tobytes() == zero


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
