"""Best paths and classes, in each way that they are computed: numbers, launches, order, memory."""

import cuda_on_cpu
import cupy
import numpy as np
import pytest
from ctcx_cuda import paths, plan

import ctcx
from ctcx.conformance.oracle import best_classes, best_paths

# All choices are kept; sums are; and there are more positions than threads.
WAYS = pytest.mark.parametrize("way", ["table", "spans", "strips"])


@pytest.fixture(autouse=True)
def chosen(request, monkeypatch):
    way = request.node.callspec.params.get("way") if hasattr(request.node, "callspec") else None
    if way in {"spans", "strips"}:
        monkeypatch.setattr(plan, "_TABLE", 0)
    if way == "strips":
        monkeypatch.setattr(paths, "MOST_THREADS", 96)


def problem(dtype="float32", *, sequences=3, frames=150, width=100):
    """Return few-bit logits, whose sums are exact: there is one right path."""
    rng = np.random.default_rng(3)
    logits = rng.integers(-6, 6, (sequences, frames, 7)).astype(dtype) / 4
    labels = rng.integers(1, 7, (sequences, width))
    logit_lengths = frames - 7 * np.arange(sequences)
    label_lengths = np.array([width, width // 5, 0])[:sequences]
    return logits, labels, logit_lengths, label_lengths


def align(arrays, *, blank=0, extra=None, ends=None):
    arrays = [cupy.asarray(array) for array in arrays]
    beside = None if extra is None else cupy.asarray(extra)
    return paths.align(*arrays, blank=blank, extra=beside, ends=ends or (blank, blank))


def bits(*arrays):
    return [cupy.asnumpy(array).tobytes() for array in arrays]


@WAYS
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_right_in_every_way_and_order_of_threads(way, dtype):
    arrays = problem(dtype)
    states, log_probs = align(arrays)
    right = best_paths(*arrays, 0)
    np.testing.assert_array_equal(cupy.asnumpy(states), right.states)
    exact = 1e-12 if dtype == "float64" else 1e-6
    np.testing.assert_allclose(cupy.asnumpy(log_probs), right.log_probs, rtol=exact, atol=exact)
    for order in ("reverse", "random"):
        with cuda_on_cpu.thread_order(order, 1):
            assert bits(*align(arrays)) == bits(states, log_probs)


@WAYS
def test_two_launches_and_nothing_comes_back(way, gpu_counters):
    arrays = [cupy.asarray(array) for array in problem()]
    align(arrays)
    with gpu_counters() as counted:
        align(arrays)
    assert counted.launches == 2
    assert counted.device_to_host == counted.device_to_device == counted.synchronisations == 0
    # States, probabilities and scratch memory.
    assert counted.allocations <= 3


def test_chosen_by_itself_for_cupy():
    with ctcx.trace() as runs:
        ctcx.ctc_align(*[cupy.asarray(array) for array in problem(width=20)], infeasible="empty")
    assert [run.backend for run in runs if run.operation == "align"] == ["cuda"]


@WAYS
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_columns_beside_the_logits(way, dtype):
    """Extra columns have the dtype of the results, and any strides."""
    arrays = problem(dtype)
    rng = np.random.default_rng(1)
    real = "float64" if dtype == "float64" else "float32"
    extra = (rng.integers(-20, 0, (2, 150, 3)) / 4).astype(real).transpose(2, 1, 0)
    arrays[1][:, ::3] = 8
    right = best_paths(*arrays, 0, extra=extra, ends=(7, 8))
    states, log_probs = align(arrays, extra=extra, ends=(7, 8))
    np.testing.assert_array_equal(cupy.asnumpy(states), right.states)
    np.testing.assert_allclose(cupy.asnumpy(log_probs), right.log_probs, rtol=1e-6, atol=1e-6)


def test_any_strides_and_integers_without_a_copy(gpu_counters):
    arrays = [cupy.asarray(array) for array in problem()]
    plain = align(arrays)
    views = [cupy.asarray(np.asfortranarray(problem()[0])), arrays[1].astype("int32")]
    for lengths, kind in zip(arrays[2:], ("int32", "int64"), strict=True):
        room = cupy.full(2 * lengths.size + 1, -9, kind)
        room[-2:0:-2] = lengths
        views.append(room[-2:0:-2])
    with gpu_counters() as counted:
        got = align(views)
    assert counted.launches == 2
    assert counted.device_to_device == counted.device_to_host == 0
    assert bits(*got) == bits(*plain)


@WAYS
def test_slices_of_a_batch_give_the_same_bits(way, monkeypatch, gpu_counters):
    arrays = [cupy.asarray(array) for array in problem()]
    plain = align(arrays)
    monkeypatch.setattr(paths, "scratch_limit", lambda: 1)
    with gpu_counters() as counted:
        got = align(arrays)
    assert counted.launches == 6
    assert bits(*got) == bits(*plain)


def test_a_wide_array_of_labels_takes_no_more_than_the_frames_allow():
    logits, labels, *lengths = problem(width=30)
    wide = np.pad(labels, ((0, 0), (0, 5000)), constant_values=-5)
    assert bits(*align((logits, wide, *lengths))) == bits(*align((logits, labels, *lengths)))
    assert plan.make_path_plan(3, 150, 5030, real=4, limit=1 << 28, threads=512).spans == 1


def test_a_graph_writes_to_nobody_elses_memory():
    arrays = [cupy.asarray(array) for array in problem(frames=40, width=9)]
    stream = cupy.cuda.Stream(non_blocking=True)
    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc), stream:
        align(arrays)
        stream.begin_capture()
        found = align(arrays)
        graph = stream.end_capture()
        later = [cupy.full(2**k, 7, np.float32) for k in range(3, 18) for _ in range(6)]
        arrays[0][...] = cupy.flip(arrays[0], axis=2)
        graph.launch(stream)
        stream.synchronize()
        assert all((array == 7).all() for array in later)
        assert bits(*found) == bits(*align(arrays))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("classes", [1, 5, 32, 33, 127, 129, 300])
def test_best_classes_in_every_order_of_threads(classes, dtype, gpu_counters):
    rng = np.random.default_rng(classes)
    logits = (rng.integers(-4, 4, (3, 21, classes)) / 2).astype(dtype)  # many equal ones
    logits[0, :, 1:] -= np.asarray(12, dtype)  # nearly certain
    logits[1, 4] = -np.inf
    lengths = np.array([21, 20, 0])
    arrays = (cupy.asarray(logits), cupy.asarray(lengths))
    found = paths.greedy(*arrays, blank=0)
    right = best_classes(logits, lengths, 0)
    np.testing.assert_array_equal(cupy.asnumpy(found[0]), right.classes)
    # In float32 small logarithms have all their digits, in float64 more than the reference's.
    exact = {"rtol": 5e-7, "atol": 0} if dtype != "float64" else {"rtol": 1e-12, "atol": 1e-14}
    np.testing.assert_allclose(cupy.asnumpy(found[1]), right.log_probs, **exact)
    turned = cupy.asarray(np.asfortranarray(logits))
    for order in ("reverse", "random"):
        with cuda_on_cpu.thread_order(order, 1), gpu_counters() as counted:
            again = paths.greedy(turned, arrays[1].astype("int32")[::1], blank=0)
        assert bits(*again) == bits(*found)
        assert counted.launches == 3  # that of astype, too
        assert counted.device_to_host == counted.synchronisations == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_wrong_logit_or_length_spoils_its_own_sequence_only(value):
    logits = problem()[0]
    clean = cupy.asnumpy(paths.greedy(cupy.asarray(logits), cupy.asarray([150] * 3), blank=0)[0])
    logits[0, 149, 3] = value
    lengths = cupy.asarray([150, 150, 10**9])
    classes, log_probs = map(cupy.asnumpy, paths.greedy(cupy.asarray(logits), lengths, blank=0))
    assert (classes[[0, 2]] == -1).all()
    assert np.isnan(log_probs[[0, 2]]).all()
    assert (classes[1] == clean[1]).all()
    assert np.isfinite(log_probs[1]).all()
