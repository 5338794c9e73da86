"""The digits of losses and gradients, on ordinary and on extreme logits, at any length."""

from itertools import pairwise

import numpy as np
import pytest
from ctcx_numba import compiled
from ctcx_numba.kernels import loss_and_grad

import ctcx
from backends.numba.tests import drawn
from ctcx.conformance.oracle import reference


def test_drawn_problems():
    drawn.check_many(600, seed=0)


@pytest.mark.parametrize("kind", ["plain", "wide", "one wild frame", "masked"])
@pytest.mark.parametrize("sizes", [(1, 1000, 28, 200), (1, 4000, 12, 300)], ids=str)
def test_long_sequences_whole_and_in_blocks(batch, kind, sizes, monkeypatch):
    x, labels, *lengths = batch(*sizes, scale=100.0 if kind == "wide" else 2.0)
    if kind == "one wild frame":
        x[:, 300] *= 100
    elif kind == "masked":
        x[:, ::3, -1] = -np.inf
        labels[labels == sizes[2] - 1] = 1
    right = reference(x, labels, *lengths, 0)
    monkeypatch.setattr(compiled, "MOST_STATES", 2**30)
    losses, grad = loss_and_grad(x, labels, *lengths, blank=0)
    np.testing.assert_allclose(losses, right.loss, rtol=1e-7)
    np.testing.assert_allclose(grad, right.grad, atol=2e-7)
    monkeypatch.setattr(compiled, "MOST_STATES", 0)
    again = loss_and_grad(x, labels, *lengths, blank=0)
    np.testing.assert_array_equal(again[0], losses)
    np.testing.assert_array_equal(again[1], grad)


def arrays_of(scratch):
    return [a for field in scratch for a in (field if isinstance(field, tuple) else [field])]


def test_memory_grows_with_the_root_of_the_length():
    assert sum(a.nbytes for a in arrays_of(compiled.scratch_for(20_000, 2_000, 32))) < 30e6


@pytest.mark.parametrize("sizes", [(0, 0, 1), (1, 1, 2), (9, 8, 23), (300, 40, 28)])
def test_no_array_of_scratch_begins_shortly_behind_another(sizes):
    """LLVM would take another loop, and give other bits: a vector has 64 bytes at most."""
    arrays = sorted(arrays_of(compiled.scratch_for(*sizes)), key=lambda a: a.ctypes.data)
    for one, next_one in pairwise(arrays):
        assert next_one.ctypes.data - one.ctypes.data - one.nbytes >= 16 * 64


@pytest.mark.parametrize(("dtype", "digits"), [(np.float32, 2e-7), (np.float64, 1e-13)])
@pytest.mark.parametrize("nats", [1e-12, 1e-7, 1e-3])
def test_nearly_certain_frames_keep_their_digits(dtype, digits, nats):
    """Only what the other classes add: here each frame has one way, and costs so many nats."""
    x = np.full((1, 2000, 3), np.log(np.expm1(nats) / 2), dtype)
    x[:, :, 0] = 0
    rest = np.zeros((1, 0), np.int64), np.array([2000]), np.array([0])
    losses, _ = loss_and_grad(x, *rest, blank=0)
    exact = 2000 * np.log1p(2 * np.exp(x[0, 0, 1].astype(np.float64)))
    np.testing.assert_allclose(losses, [exact], rtol=digits)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("nats", [1e6, 1.799e8, 1.801e8, 1e12, 3.4e38])
def test_losses_up_to_the_limit(dtype, nats):
    x = np.zeros((2, 1, 3), dtype)
    x[0, 0, :2] = -nats
    losses, grad = loss_and_grad(x, np.ones((2, 1), int), *np.ones((2, 2), int), blank=0)
    assert losses[1] == pytest.approx(np.log(3))
    if nats > 1.8e8:
        assert losses[0] == np.inf
        assert not grad[0].any()
    else:
        assert losses[0] == pytest.approx(nats, rel=1e-7)
        np.testing.assert_array_equal(grad[0], [[0, -1, 1]])


@pytest.mark.parametrize("constant", [1e30, -1e30])
def test_a_constant_changes_nothing(constant):
    rest = np.array([[1, 2]]), np.array([40]), np.array([2])
    even = loss_and_grad(np.zeros((1, 40, 9), np.float32), *rest, blank=0)
    moved = loss_and_grad(np.full((1, 40, 9), constant, np.float32), *rest, blank=0)
    np.testing.assert_array_equal(moved[0], even[0])
    np.testing.assert_array_equal(moved[1], even[1])


def test_a_gradient_too_small_for_half_precision_is_no_error():
    """Also where NumPy is told to raise what it otherwise ignores."""
    logits = np.array([[[0.0, 14.0, 1.0], [9.0, 0.0, 0.0]]], np.float16)
    with np.errstate(all="raise"):
        grad = ctcx.ctc_loss_and_grad(logits, [[1]], backend="numba").grad
    assert grad.dtype == np.float16
    assert np.isfinite(grad).all()
