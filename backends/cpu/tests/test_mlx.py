"""The kernel on the memory of MLX's arrays."""

import numpy as np
import pytest

import ctcx
from ctcx.conformance import BackendConformance

mx = pytest.importorskip("mlx.core")


class TestCpuOnMlx(BackendConformance):
    backend = "cpu"
    namespaces = ("mlx.core",)
    dtypes = ("float32",)
    draw = 8


def test_it_is_chosen_and_reads_arrays_in_any_strides(batch):
    logits, *rest = batch(3, 20, 7, 4, ragged=True)
    expected = ctcx.ctc_loss_and_grad(logits, *rest)
    turned = mx.swapaxes(mx.array(np.swapaxes(logits, 0, 1)), 0, 1)
    backward = mx.array(logits[:, :, ::-1].copy())[:, :, ::-1]
    with ctcx.trace() as ran:
        for x in (mx.array(logits), turned, backward):
            found = ctcx.ctc_loss_and_grad(x, *rest)
            np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-6)
            np.testing.assert_allclose(found.grad, expected.grad, atol=1e-6)
            np.testing.assert_array_equal(x, logits)
    assert {run.backend for run in ran} == {"cpu"}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_gradients_of_mlx_are_those_of_the_kernel(batch, dtype):
    logits, *rest = batch(2, 15, 6, 3)
    x = mx.array(logits, dtype=getattr(mx, dtype))
    with ctcx.trace() as ran:
        grad = mx.grad(lambda x: mx.sum(ctcx.ctc_loss(x, *rest)))(x)
    assert [(run.backend, run.operation) for run in ran] == [("cpu", "loss_and_grad")]
    assert grad.dtype == x.dtype
    direct = ctcx.ctc_loss_and_grad(x, *rest).grad
    assert mx.array_equal(grad, direct)


def test_under_vmap_the_core_is_traced_and_the_kernel_computes(batch):
    logits, *rest = batch(2, 9, 5, 3)
    x = mx.stack([mx.array(logits), mx.array(2 * logits)])
    with ctcx.trace() as ran:
        losses = mx.vmap(lambda x: ctcx.ctc_loss(x, *rest))(x)
    assert ran[-1].backend == "cpu"
    np.testing.assert_allclose(losses[1], ctcx.ctc_loss(2 * logits, *rest), rtol=1e-5)
    with pytest.raises(ctcx.BackendError, match=r"mx\.compile or mx\.vmap"):
        mx.vmap(lambda x: ctcx.ctc_loss(x, *rest, backend="cpu"))(x)
