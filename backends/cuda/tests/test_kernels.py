"""What a call does on the device, in every variant: numbers, launches, copies, order, memory."""

import cuda_on_cpu
import cupy
import numpy as np
import pytest
from ctcx_cuda import kernels

import ctcx
from backends.cuda.tests.problems import WIDTHS, problem
from ctcx.conformance.cases import cases, truth

VARIANTS = pytest.mark.parametrize("variant", WIDTHS)


def on_device(arrays):
    return [cupy.asarray(array) for array in arrays]


def bits(*arrays):
    return [cupy.asnumpy(array).tobytes() for array in arrays]


def reference(arrays):
    return ctcx.ctc_loss_and_grad(arrays[0].astype(np.float64), *arrays[1:])


@VARIANTS
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_right_in_every_variant(variant, dtype):
    arrays = problem(variant, dtype)
    loss, grad = kernels.loss_and_grad(*on_device(arrays), blank=0)
    wanted = reference(arrays)
    loose = {"float16": 6e-4, "float32": 2e-6, "float64": 1e-11}[dtype]
    np.testing.assert_allclose(cupy.asnumpy(grad), wanted.grad, rtol=0, atol=loose)
    exact = 1e-12 if dtype == "float64" else 1e-6
    np.testing.assert_allclose(cupy.asnumpy(loss), wanted.loss, rtol=exact)


@VARIANTS
def test_three_launches_and_nothing_comes_back(variant, gpu_counters):
    arrays = on_device(problem(variant))
    kernels.loss_and_grad(*arrays, blank=0)
    with gpu_counters() as counted:
        kernels.loss_and_grad(*arrays, blank=0)
    assert counted.launches == 3
    assert counted.device_to_host == counted.device_to_device == counted.synchronisations == 0
    # A loss, a gradient and scratch memory.
    assert counted.allocations <= 3
    with gpu_counters() as counted:
        kernels.loss(*arrays, blank=0)
    assert counted.launches == 2
    assert counted.device_to_host == counted.synchronisations == 0


@VARIANTS
def test_the_public_call_adds_no_copy_and_no_wait(variant, gpu_counters):
    arrays = on_device(problem(variant))
    ctcx.ctc_loss_and_grad(*arrays, validate=False, backend="cuda")
    with gpu_counters() as counted:
        ctcx.ctc_loss_and_grad(*arrays, validate=False, backend="cuda")
    assert counted.device_to_host == counted.synchronisations == 0


def test_chosen_by_itself_for_cupy():
    arrays = on_device(problem("labels-31"))
    with ctcx.trace() as runs:
        ctcx.ctc_loss_and_grad(*arrays)
    assert [run.backend for run in runs] == ["cuda"]


@VARIANTS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_bits_in_every_order_of_threads(variant, dtype):
    arrays = on_device(problem(variant, dtype))
    results = []
    for order, seed in (("forward", 0), ("reverse", 0), ("random", 1), ("random", 2)):
        with cuda_on_cpu.thread_order(order, seed):
            results.append(bits(*kernels.loss_and_grad(*arrays, blank=0)))
    assert results.count(results[0]) == len(results)


def test_gradient_within_2e_6_on_the_kits_float32_problems():
    tried = 0
    for batch in cases():
        if not batch.groups & {"oracle", "real", "long", "degenerate"}:
            continue
        arrays = (batch.labels, batch.logit_lengths, batch.label_lengths)
        logits = cupy.asarray(np.clip(batch.logits, -3.4e38, None).astype(np.float32))
        if np.isneginf(batch.logits).any():
            logits = cupy.asarray(batch.logits.astype(np.float32))
        got = ctcx.ctc_loss_and_grad(logits, *arrays, blank=batch.blank, backend="cuda")
        expected = truth(batch, "float32").grad
        error = np.abs(cupy.asnumpy(got.grad) - expected).max(initial=0)
        assert error <= 2e-6, (batch.name, error)
        tried += 1
    assert tried > 15


def test_frames_first_without_a_copy(gpu_counters):
    logits, *rest = problem("labels-31")
    turned = cupy.asarray(np.ascontiguousarray(logits.transpose(1, 0, 2)))
    rest = on_device(rest)
    plain = kernels.loss_and_grad(cupy.asarray(logits), *rest, blank=0)
    view = turned.transpose(1, 0, 2)
    with gpu_counters() as counted:
        got = kernels.loss_and_grad(view, *rest, blank=0)
    assert counted.launches == 3
    assert counted.device_to_device == 0
    assert bits(*got) == bits(*plain)
    assert got[1].strides == view.strides


@pytest.mark.parametrize("sequences", [1, 3])
def test_checkpoints_and_slices_under_a_small_limit(monkeypatch, sequences, gpu_counters):
    arrays = problem("labels-143", sequences=sequences, slack=100)
    plain = kernels.loss_and_grad(*on_device(arrays), blank=0)
    monkeypatch.setattr(kernels, "scratch_limit", lambda: 200_000)
    with gpu_counters() as counted:
        loss, grad = kernels.loss_and_grad(*on_device(arrays), blank=0)
    assert counted.launches == 3 * sequences
    cupy.testing.assert_allclose(loss, plain[0], rtol=1e-6)
    cupy.testing.assert_allclose(grad, plain[1], rtol=0, atol=2e-6)


def test_labels_that_fill_no_shared_memory():
    arrays = problem("any-length", classes=5)
    logits, labels, logit_lengths, label_lengths = arrays
    wide = np.tile(labels, (1, 3))  # 1680: two rows of states take 54 KB
    got = kernels.loss_and_grad(*on_device((logits, wide, logit_lengths, label_lengths)), blank=0)
    plain = kernels.loss_and_grad(*on_device(arrays), blank=0)
    assert bits(*got) == bits(*plain)


@VARIANTS
def test_unchecked_values_stay_inside_the_arrays(variant):
    logits, labels, *_ = problem(variant)
    wild = np.where(labels % 3 == 0, 10**9, labels)
    wild[1, :4] = -(10**9)
    lengths = np.array([10**9, -5])
    loss, _ = kernels.loss_and_grad(*on_device((logits, wild, lengths, lengths)), blank=0)
    assert cupy.asnumpy(loss).tolist() == [np.inf, 0.0]


@VARIANTS
def test_in_a_cuda_graph(variant):
    arrays = on_device(problem(variant))
    plain = kernels.loss_and_grad(*arrays, blank=0)
    stream = cupy.cuda.Stream(non_blocking=True)
    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc), stream:
        kernels.loss_and_grad(*arrays, blank=0)  # fills the pool
        stream.begin_capture()
        loss, grad = kernels.loss_and_grad(*arrays, blank=0)
        graph = stream.end_capture()
        graph.launch(stream)
        stream.synchronize()
        assert bits(loss, grad) == bits(*plain)


def test_out_of_memory_is_an_error_and_leaves_the_arrays():
    arrays = on_device(problem("labels-31"))
    before = bits(*arrays)
    room = cuda_on_cpu.state().allocated + 1024
    with (
        cuda_on_cpu.memory_limit(room),
        cupy.cuda.using_allocator(cupy.cuda.MemoryPool().malloc),
        pytest.raises(cupy.cuda.memory.OutOfMemoryError, match="Out of memory"),
    ):
        kernels.loss_and_grad(*arrays, blank=0)
    assert bits(*arrays) == before


@pytest.mark.parametrize("kernel", ["ctc_rows", "ctc_paths", "ctc_gradient"])
def test_a_refused_launch_is_an_error_that_names_the_kernel(kernel):
    arrays = on_device(problem("labels-31"))
    before = bits(*arrays)
    with (
        cuda_on_cpu.failing_kernel(kernel),
        pytest.raises(RuntimeError, match=rf"{kernel} of ctcx-cuda's variant 'labels-31'"),
    ):
        kernels.loss_and_grad(*arrays, blank=0)
    assert bits(*arrays) == before
