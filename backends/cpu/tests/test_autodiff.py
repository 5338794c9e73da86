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
    assert [(run.backend, run.operation) for run in runs] == [("cpu", "loss_and_grad")]
    np.testing.assert_allclose(loss.detach(), expected.loss, rtol=1e-6)
    np.testing.assert_allclose(x.grad, expected.grad, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_gradients_of_means_are_those_of_sums_with_weights(logits, dtype):
    """On NumPy, PyTorch and JAX, eagerly."""
    counts = [max(len(labels), 1) for labels in LABELS]
    weights = (1 / (np.float32(3) * np.array(counts, np.float32)))[:, None, None]
    plain = ctcx.ctc_loss_and_grad(logits.astype(dtype).astype(np.float32), LABELS).grad
    expected = (plain * weights).astype(dtype)
    jax, torch = pytest.importorskip("jax"), pytest.importorskip("torch")
    for make in np.asarray, torch.tensor, jax.numpy.asarray:
        x = make(logits.astype(dtype))
        found = ctcx.ctc_loss_and_grad(x, LABELS, reduction="mean_per_label", backend="cpu")
        np.testing.assert_allclose(
            np.asarray(found.grad, np.float32),
            expected.astype(np.float32),
            rtol=1e-6 if dtype == "float32" else 2e-3,
            atol=1e-8,
        )


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_jax(logits, expected, compiled):
    jax = pytest.importorskip("jax")
    function = jax.value_and_grad(lambda x: ctcx.ctc_loss(x, LABELS, reduction="mean"))
    with ctcx.trace() as runs:
        loss, grad = (jax.jit(function) if compiled else function)(jax.device_put(logits))
    assert [(run.backend, run.operation) for run in runs] == [("cpu", "loss_and_grad")]
    np.testing.assert_allclose(loss, expected.loss, rtol=1e-6)
    np.testing.assert_allclose(grad, expected.grad, atol=1e-6)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_jax_differentiates_twice_in_both_modes(logits, compiled):
    jax = pytest.importorskip("jax")
    from jax.test_util import check_grads

    def loss(x):
        return ctcx.ctc_loss(x, LABELS, reduction="mean_per_label", backend="cpu")

    with jax.enable_x64(True):
        x = jax.numpy.asarray(logits, dtype="float64")
        check_grads(jax.jit(loss) if compiled else loss, (x,), order=2, atol=1e-6, rtol=1e-6)


def test_jax_maps_gradients_over_batches(logits):
    jax = pytest.importorskip("jax")

    def loss(x):
        return ctcx.ctc_loss(x, LABELS, reduction="mean", backend="cpu")

    stacked = jax.numpy.stack([logits, 2 * logits])
    mapped = jax.jit(jax.vmap(jax.grad(loss)))(stacked)
    for one, x in zip(mapped, stacked, strict=True):
        np.testing.assert_array_equal(one, jax.jit(jax.grad(loss))(x))


@pytest.mark.filterwarnings("ignore::UserWarning:torch")
def test_compiled_functions_of_torch_do_not_look_into_the_kernel(logits):
    """PyTorch runs them as they are under a transformation, and compiles what they call."""
    torch = pytest.importorskip("torch")
    torch.compiler.reset()
    batch = torch.tensor(logits).repeat(2, 1, 1, 1)

    def loss(x):
        return ctcx.ctc_loss(x, LABELS, reduction="mean")

    found = torch.func.vmap(torch.compile(loss, backend="eager"))(batch)
    torch.testing.assert_close(found, torch.func.vmap(loss)(batch))
    torch.compiler.reset()
