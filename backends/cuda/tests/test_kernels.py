"""What a call does on the device, in every variant: numbers, launches, copies, order, memory."""

import cuda_on_cpu
import cupy
import numpy as np
import pytest
from ctcx_cuda import kernels, launch, variants

import ctcx
from backends.cuda.tests.problems import WIDTHS, problem, short_problem
from ctcx.conformance.cases import cases, truth
from ctcx.plugin import Decline

VARIANTS = pytest.mark.parametrize("variant", WIDTHS)


def on_device(arrays):
    return [cupy.asarray(array) for array in arrays]


@pytest.fixture
def few_threads(monkeypatch):
    """Take fewer threads where the number is free: the harness is slow with many."""
    monkeypatch.setattr(
        kernels, "THREADS", kernels.THREADS | {"ctc_checkpoints": 64, "ctc_segments": 64}
    )


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


def test_the_options_that_cupy_adds_are_those_of_the_static_analysis(monkeypatch, tmp_path):
    """`static_analysis.ADDED_BY_CUPY`: the binaries that it measures are those that run."""
    asked = []

    def compile_nothing(self, options=(), log_stream=None):
        asked.extend(options)
        raise InterruptedError

    # A source that no cache has.
    monkeypatch.setattr(launch, "source", lambda variant: f"// {tmp_path}\n")
    monkeypatch.setattr("cupy.cuda.compiler._NVRTCProgram.compile", compile_nothing)
    launch.module.cache_clear()
    with pytest.raises(InterruptedError):
        launch.module(variants.IN_REGISTERS[0], "float16").get_function("ctc_rows")
    launch.module.cache_clear()
    # Which headers there are, and that functions are the device's, changes no binary.
    ignored = ("-I", "-arch=", "--device-as-default-execution-space")
    added = [option for option in asked if not option.startswith(ignored)]
    assert added == [*variants.options(variants.IN_REGISTERS[0], "float16"), "-ftz=true"]


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
def test_checked_values_take_one_copy_and_one_wait(variant, gpu_counters):
    arrays = on_device(short_problem(variant))
    ctcx.ctc_loss_and_grad(*arrays, backend="cuda")
    with gpu_counters() as counted:
        ctcx.ctc_loss_and_grad(*arrays, backend="cuda")
    assert counted.device_to_host == 1
    assert counted.synchronisations <= 1
    arrays[1][1, 0] = 0
    with pytest.raises(ctcx.CTCInputError, match=r"labels\[1, 0\] is 0"):
        ctcx.ctc_loss_and_grad(*arrays, backend="cuda")


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


@pytest.mark.parametrize("variant", ["labels-31", "labels-143"])
def test_slices_of_a_batch_give_the_same_bits(monkeypatch, variant, gpu_counters):
    arrays = on_device(short_problem(variant, sequences=5))
    plain = kernels.loss_and_grad(*arrays, blank=0)
    whole = kernels.make_plan(5, 30, 9, arrays[1].shape[1], real=4, grad=True, limit=1 << 30)
    monkeypatch.setattr(kernels, "scratch_limit", lambda: whole.scratch * 2 // 3)
    with gpu_counters() as counted:
        got = kernels.loss_and_grad(*arrays, blank=0)
    assert counted.launches == 6  # 3 sequences, then 2
    assert bits(*got) == bits(*plain)


def test_labels_that_fill_no_shared_memory():
    arrays = problem("any-length", classes=5)
    logits, labels, logit_lengths, label_lengths = arrays
    wide = np.tile(labels, (1, 3))  # 1680: two rows of states take 54 KB
    got = kernels.loss_and_grad(*on_device((logits, wide, logit_lengths, label_lengths)), blank=0)
    plain = kernels.loss_and_grad(*on_device(arrays), blank=0)
    assert bits(*got) == bits(*plain)


@pytest.mark.usefixtures("few_threads")
@VARIANTS
def test_unchecked_values_stay_inside_the_arrays(variant):
    """What is out of range gives NaN, and the sequence beside it stays right."""
    logits, labels, logit_lengths, label_lengths = short_problem(variant, sequences=6)
    right, right_grad = kernels.loss_and_grad(
        *on_device((logits, labels, logit_lengths, label_lengths)), blank=0
    )
    labels[1, 0], labels[2, 1] = 10**9, -(10**9)
    logit_lengths[3] = 10**9
    label_lengths[1:6] = 4
    labels[5, 3] = 0  # the blank
    label_lengths[4] = -5
    arrays = on_device((logits, labels, logit_lengths, label_lengths))
    loss, grad = map(cupy.asnumpy, kernels.loss_and_grad(*arrays, blank=0))
    assert np.isnan(loss).tolist() == [False, True, True, True, True, True]
    assert np.isnan(cupy.asnumpy(kernels.loss(*arrays, blank=0))[1:]).all()
    assert bits(loss[0], grad[0]) == bits(right[0], right_grad[0])
    for n in range(1, 6):
        assert np.isnan(grad[n, : logit_lengths[n]]).all()
        assert (grad[n, logit_lengths[n] :] == 0).all()


@pytest.mark.usefixtures("few_threads")
@VARIANTS
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_in_a_sequence_are_nan_in_its_results(variant, dtype, value):
    logits, labels, logit_lengths, label_lengths = short_problem(variant, dtype, sequences=8)
    logits[1, 3, 0] = value
    logits[2, 0, 8] = value  # in the class of no label, and in a frame that is masked otherwise
    labels[2] = labels[2] % 7 + 1
    logits[2, 0, :8] = -np.inf
    logits[3, logit_lengths[3] - 1, 5] = value
    logits[4, logit_lengths[4] :] = value  # past the end: nothing happens
    logit_lengths[5], label_lengths[5] = 3, 7  # can't be emitted in 3 frames
    logits[5, 1, 2] = value
    label_lengths[6] = 0
    logits[6, 5] = -np.inf
    logits[6, 5, 3] = value
    logit_lengths[7] = 0
    logits[7] = value
    arrays = on_device((logits, labels, logit_lengths, label_lengths))
    loss, grad = map(cupy.asnumpy, kernels.loss_and_grad(*arrays, blank=0))
    bad = [1, 2, 3, 5, 6]
    assert np.flatnonzero(np.isnan(loss)).tolist() == bad
    assert bits(loss) == bits(kernels.loss(*arrays, blank=0))
    for n in range(8):
        inside = grad[n, : logit_lengths[n]]
        assert np.isnan(inside).all() if n in bad else np.isfinite(inside).all()
        assert (grad[n, logit_lengths[n] :] == 0).all()
    good = [0, 4, 7]
    clean = np.where(np.isnan(logits) | np.isposinf(logits), 0, logits)
    wanted = reference((clean, labels, logit_lengths, label_lengths))
    np.testing.assert_allclose(loss[good], wanted.loss[good], rtol=1e-6)


@pytest.mark.usefixtures("few_threads")
@VARIANTS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_losses_up_to_the_limit_are_right_and_above_it_infinite(variant, dtype):
    logits, labels, logit_lengths, label_lengths = short_problem(variant, dtype, sequences=7)
    logits[:] = 0
    logits[:, :, 0] = 2
    label_lengths[:] = 1
    labels[:] = 1
    frames = logit_lengths.min()
    logit_lengths[:] = frames
    # All of it in one frame, spread evenly over all frames, and in between: by masks of all but one
    # class, whose logit is that far below a class that no label has.
    for n, (total, spread) in enumerate(
        [(1.79e8, 1), (1.79e8, frames), (9e7, 2), (1.81e8, 1), (1.81e8, frames), (1e9, 2), (2e7, 1)]
    ):
        logits[n, :spread] = -np.inf
        logits[n, :spread, 1] = -total / spread
        logits[n, :spread, 8] = 0
    arrays = (logits, labels, logit_lengths, label_lengths)
    loss, grad = map(cupy.asnumpy, kernels.loss_and_grad(*on_device(arrays), blank=0))
    finite = [0, 1, 2, 6]
    assert np.flatnonzero(np.isfinite(loss)).tolist() == finite
    assert np.isposinf(loss[[3, 4, 5]]).all()
    assert (grad[[3, 4, 5]] == 0).all()
    wanted = reference(arrays)
    np.testing.assert_allclose(loss[finite], wanted.loss[finite], rtol=2e-6)
    np.testing.assert_allclose(grad[finite], wanted.grad[finite], rtol=0, atol=5e-6)


def test_two_ways_through_logits_far_below_the_others():
    """Logits of -2^26 and the like: their differences decide, and rounding must not drown them."""
    logits = np.full((4, 2, 4), -np.inf, np.float32)
    for n, far in enumerate([2.0**23, 2.0**24 - 3, 2.0**26, 2.0**27]):
        logits[n, :, 3] = 0  # a class that no label has
        logits[n, 0, :2] = -far
        logits[n, 1, :2] = 1, 0
    labels, frames, counts = np.ones((4, 1), np.int64), np.full(4, 2), np.ones(4, np.int64)
    arrays = (logits, labels, frames, counts)
    loss, grad = map(cupy.asnumpy, kernels.loss_and_grad(*on_device(arrays), blank=0))
    wanted = reference(arrays)
    np.testing.assert_allclose(loss, wanted.loss, rtol=2e-6)
    np.testing.assert_allclose(grad, wanted.grad, rtol=0, atol=5e-6)


@pytest.mark.usefixtures("few_threads")
@VARIANTS
def test_a_certain_path_has_a_loss_of_plus_zero(variant):
    logits, labels, logit_lengths, label_lengths = short_problem(variant)
    logits[:] = -np.inf
    logits[:, :, 0] = 0
    label_lengths[:] = 0
    logits[1, :, 1] = 0
    logits[1, :, 0] = -np.inf
    labels[1], label_lengths[1] = 1, 1
    loss = kernels.loss(*on_device((logits, labels, logit_lengths, label_lengths)), blank=0)
    assert bits(loss) == [np.zeros(2, np.float32).tobytes()]


def test_subnormal_logits_of_float16_count():
    """CuPy compiles with -ftz=true; 64 frames of 2^-15 against 0 change the loss by 8e-5."""
    logits, labels, logit_lengths, label_lengths = problem("labels-31", "float16")
    logits[:] = np.float16(2.0**-24) * np.random.default_rng(0).integers(-1023, 1024, logits.shape)
    arrays = (logits, labels, logit_lengths, label_lengths)
    with cuda_on_cpu.flushing_subnormals():
        loss, grad = kernels.loss_and_grad(*on_device(arrays), blank=0)
    wanted = reference(arrays)
    zeros = reference((np.zeros_like(logits), labels, logit_lengths, label_lengths))
    # Ten times what float32 may be off: the subnormal numbers are seen in the loss.
    assert np.abs(zeros.loss / wanted.loss - 1).max() > 1e-6
    np.testing.assert_allclose(cupy.asnumpy(loss), wanted.loss, rtol=1e-7)
    np.testing.assert_allclose(cupy.asnumpy(grad), wanted.grad, rtol=0, atol=2.6e-4)


@pytest.mark.usefixtures("few_threads")
@VARIANTS
@pytest.mark.parametrize("kinds", ["iqi", "qii", "iiq"])
def test_integers_as_they_come(variant, kinds, gpu_counters):
    """int32 and int64, each of its own, in any strides: same bits, nothing launched or copied."""
    logits, *integers = short_problem(variant)
    plain = kernels.loss_and_grad(*on_device((logits, *integers)), blank=0)
    views = []
    for kind, array in zip(kinds, integers, strict=True):
        room = cupy.full([2 * size + 1 for size in array.shape], -9, kind)
        view = room[tuple(slice(-2, 0, -2) for _ in array.shape)]
        view[...] = cupy.asarray(array)
        views.append(view)
    with gpu_counters() as counted:
        got = kernels.loss_and_grad(cupy.asarray(logits), *views, blank=0)
    assert counted.launches == 3
    assert counted.device_to_device == counted.device_to_host == 0
    assert bits(*got) == bits(*plain)
    with gpu_counters() as counted:
        kernels.loss_and_grad(cupy.asarray(logits), *views, blank=0)
    assert counted.allocations <= 4


def test_arrays_that_are_not_aligned_are_declined():
    logits, *rest = on_device(problem("labels-31"))
    raw = cupy.zeros(logits.nbytes + 1, np.uint8)
    for shift, strides in ((1, logits.strides), (0, (logits.strides[0] - 2, *logits.strides[1:]))):
        odd = cupy.ndarray(logits.shape, logits.dtype, raw.data + shift, strides=strides)
        with pytest.raises(Decline, match="strides of"):
            kernels.loss(odd, *rest, blank=0)


@pytest.mark.parametrize("labels", [0, 1, 31, 32, 33, 70])
@pytest.mark.parametrize("classes", [2, 3, 90])
def test_equal_labels_are_summed_in_any_number(labels, classes):
    logits, _, logit_lengths, label_lengths = problem("labels-143", sequences=1, classes=classes)
    rng = np.random.default_rng(labels)
    wide = rng.integers(1, classes, (1, 70))
    label_lengths[:] = labels
    logits, logit_lengths = np.tile(logits, (1, 2, 1)), 2 * logit_lengths
    arrays = (logits, wide, logit_lengths, label_lengths)
    _, grad = kernels.loss_and_grad(*on_device(arrays), blank=0)
    np.testing.assert_allclose(cupy.asnumpy(grad), reference(arrays).grad, rtol=0, atol=2e-6)


def captured(stream, arrays, call=kernels.loss_and_grad):
    stream.begin_capture()
    try:
        result = call(*arrays, blank=0)
    finally:
        graph = stream.end_capture()
    return graph, result


@pytest.fixture(params=["default pool", "pool of its own"])
def pool(request):
    """CuPy's memory pool in use, with free blocks: nothing can be allocated during a capture."""
    pool = cupy.get_default_memory_pool()
    if request.param != "default pool":
        pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc):
        yield pool


@pytest.mark.usefixtures("few_threads")
@VARIANTS
def test_a_graph_writes_to_nobody_elses_memory(variant, pool):
    """Its scratch memory stays its own, while a result lives."""
    arrays = on_device(short_problem(variant))
    kernels.loss_and_grad(*arrays, blank=0)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        kernels.loss_and_grad(*arrays, blank=0)  # fills the stream's part of the pool
        graph, (loss, grad) = captured(stream, arrays)
        used = pool.used_bytes()
        later = [cupy.full(2**k, 7, np.float32) for k in range(3, 18) for _ in range(6)]
        for _ in range(2):
            arrays[0][...] = cupy.flip(arrays[0], axis=2) * 2
            graph.launch(stream)
            stream.synchronize()
            assert all((array == 7).all() for array in later)
            assert bits(loss, grad) == bits(*kernels.loss_and_grad(*arrays, blank=0))
        del later
        part = grad[:1]
        del loss, grad
        assert pool.used_bytes() == used
        del part
        assert pool.used_bytes() < used


def test_a_graph_of_the_public_call_keeps_what_it_took_on_the_way(pool):
    arrays = on_device(short_problem("labels-31"))

    def call(*arrays, blank):
        return ctcx.ctc_loss(*arrays, blank=blank, reduction="mean", backend="cuda")

    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        call(*arrays, blank=0)
        graph, loss = captured(stream, arrays, call)
        later = [cupy.full(2**k, 7, np.float32) for k in range(3, 18) for _ in range(6)]
        arrays[0][...] *= 2
        graph.launch(stream)
        stream.synchronize()
        assert all((array == 7).all() for array in later)
        assert bits(loss) == bits(call(*arrays, blank=0))


def test_a_kernel_is_not_loaded_into_a_graph(monkeypatch):
    monkeypatch.setattr(launch, "_functions", {})
    arrays = on_device(problem("labels-31"))
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream, pytest.raises(RuntimeError, match=r"call it once before capturing \(warm up\)"):
        captured(stream, arrays)
    kernels.loss(*arrays, blank=0)
    with stream, pytest.raises(RuntimeError, match=r"call it once before capturing \(warm up\)"):
        captured(stream, arrays)
    kernels.loss_and_grad(*arrays, blank=0)
    with stream:
        captured(stream, arrays)


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
