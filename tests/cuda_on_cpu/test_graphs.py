"""CUDA graphs of CuPy: a replay computes anew, and writes to no other array."""

import cupy
import numpy as np
import pytest

import ctcx
from tests.helpers import random_problem


@pytest.fixture(autouse=True)
def pool(fresh_memory):
    """CuPy's default memory pool: it gives what a call frees to other arrays."""
    pool = cupy.get_default_memory_pool()
    with cupy.cuda.using_allocator(pool.malloc):
        yield pool


def on_device(seed=0):
    return [cupy.asarray(array) for array in random_problem(seed, 3, 12, 6, 4, dtype=np.float32)]


def in_a_graph(call, logits, *rest):
    """Result of a call in a graph, a function that replays it, and arrays made after it."""
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        call(logits, *rest)
        stream.begin_capture()
        try:
            result = call(logits, *rest)
        finally:
            graph = stream.end_capture()
        later = [cupy.full(2**k, 7, np.float32) for k in range(3, 16) for _ in range(12)]
        # Buffers on the host are used again too, in CuPy's copies from there.
        later += [cupy.asarray(np.full(2**k, 7, np.int64)) for k in range(8) for _ in range(12)]

    def replay():
        graph.launch(stream)
        stream.synchronize()

    return result, replay, later


CALLS = {
    "loss": lambda *arrays: ctcx.ctc_loss(*arrays),
    "loss, reduced": lambda *arrays: ctcx.ctc_loss(*arrays, reduction="mean_per_label"),
    "loss of all": lambda *arrays: ctcx.ctc_loss(*arrays[:2], infeasible="zero", reduction="sum"),
    "gradient": lambda *arrays: ctcx.ctc_loss_and_grad(*arrays).grad,
    "gradient, reduced": lambda *arrays: ctcx.ctc_loss_and_grad(*arrays, reduction="mean").grad,
    "gradient, time-major": lambda logits, *rest: (
        ctcx.ctc_loss_and_grad(logits.swapaxes(0, 1), *rest, time_major=True).grad
    ),
    "product": lambda logits, *rest: ctcx.ctc_hvp(logits, *rest, vector=logits),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_replay_computes_anew_and_writes_to_no_other_array(name):
    logits, *rest = on_device()
    result, replay, later = in_a_graph(CALLS[name], logits, *rest)
    for seed in (1, 2):
        logits[...] = on_device(seed)[0]
        replay()
        assert all((array == 7).all() for array in later)
        expected = CALLS[name](logits, *rest)
        assert cupy.asnumpy(result).tobytes() == cupy.asnumpy(expected).tobytes()


def test_memory_of_a_captured_call_lives_as_long_as_a_result(pool):
    arrays = on_device()
    (loss, grad, feasible), *_ = in_a_graph(ctcx.ctc_loss_and_grad, *arrays)
    used = pool.used_bytes()
    part = grad[:1]
    del loss, grad, feasible
    assert pool.used_bytes() == used
    del part
    assert pool.used_bytes() < used


@pytest.mark.parametrize("argument", ["labels", "logit_lengths", "label_lengths"])
def test_data_of_the_host_is_refused_during_a_capture(argument):
    names = ("labels", "logit_lengths", "label_lengths")
    logits, *rest = on_device()
    arrays = dict(zip(names, rest, strict=True))
    arrays[argument] = cupy.asnumpy(arrays[argument]).tolist()
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        with pytest.raises(ctcx.CTCInputError, match=rf"^{argument} must be a CuPy array"):
            ctcx.ctc_loss(logits, **arrays)
        stream.end_capture()


def test_an_error_for_infeasible_labels_is_refused_during_a_capture():
    arrays = on_device()
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        with pytest.raises(ctcx.CTCInputError, match="can't be done in a CUDA graph"):
            ctcx.ctc_loss_and_grad(*arrays, infeasible="raise")
        stream.end_capture()
