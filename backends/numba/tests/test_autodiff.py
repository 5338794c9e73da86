"""PyTorch and JAX differentiate through this kernel, JAX under ``jax.jit`` too."""

import numpy as np
import pytest

import ctcx

LABELS = [[1, 2], [3, 3, 1], [2]]


@pytest.fixture
def logits():
    return np.random.default_rng(0).standard_normal((3, 7, 4)).astype(np.float32)


@pytest.fixture
def expected(logits):
    return ctcx.ctc_loss_and_grad(logits, LABELS, reduction="mean", backend="array-api")


def test_torch(logits, expected):
    torch = pytest.importorskip("torch")
    x = torch.tensor(logits, requires_grad=True)
    with ctcx.trace() as runs:
        loss = ctcx.ctc_loss(x, LABELS, reduction="mean")
        loss.backward()
    assert [(run.backend, run.operation) for run in runs] == [("numba", "loss_and_grad")]
    np.testing.assert_allclose(loss.detach(), expected.loss, rtol=1e-6)
    np.testing.assert_allclose(x.grad, expected.grad, atol=1e-6)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_jax(logits, expected, compiled):
    jax = pytest.importorskip("jax")
    function = jax.value_and_grad(lambda x: ctcx.ctc_loss(x, LABELS, reduction="mean"))
    with ctcx.trace() as runs:
        loss, grad = (jax.jit(function) if compiled else function)(jax.device_put(logits))
    assert [(run.backend, run.operation) for run in runs] == [("numba", "loss_and_grad")]
    np.testing.assert_allclose(loss, expected.loss, rtol=1e-6)
    np.testing.assert_allclose(grad, expected.grad, atol=1e-6)
