"""Threads, forked children and process pools; the same bits whatever the number of threads."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from ctcx_numba import _halves, _threads
from ctcx_numba._threads import number_of_threads, run_all
from ctcx_numba.kernels import loss, loss_and_grad

from ctcx.plugin import usable_cores

SHAPES = {
    "many sequences": (40, 60, 28, 20),
    "ragged, wide": (9, 150, 700, 30),
    "one long": (1, 3000, 32, 120),
    "one wide": (1, 900, 900, 30),
    "two long": (2, 2500, 32, 120),
}


@pytest.mark.parametrize("scale", [2.0, 60.0])
@pytest.mark.parametrize("name", SHAPES)
def test_any_number_of_threads_gives_the_same_bits(batch, name, scale):
    x, y, frames, counts = batch(*SHAPES[name], scale=scale, ragged="ragged" in name)
    expected = loss_and_grad(x, y, frames, counts, blank=0, num_threads=1)
    for threads in (2, 3, 8):
        got = loss_and_grad(x, y, frames, counts, blank=0, num_threads=threads)
        np.testing.assert_array_equal(got[0], expected[0])
        np.testing.assert_array_equal(got[1], expected[1])
        alone = loss(x, y, frames, counts, blank=0, num_threads=threads)
        np.testing.assert_array_equal(alone, expected[0])


def test_sequences_that_are_wrong_or_hopeless_on_several_threads(batch):
    x, y, frames, counts = batch(3, 2500, 32, 120)
    x[0, 2400, 3] = np.nan
    frames[1] = 100
    losses, grad = loss_and_grad(x, y, frames, counts, blank=0, num_threads=8)
    assert np.isnan(losses[0])
    assert losses[1] == np.inf
    assert not grad[1].any()
    alone = loss_and_grad(x[2:], y[2:], frames[2:], counts[2:], blank=0, num_threads=1)
    np.testing.assert_array_equal(losses[2:], alone[0])
    np.testing.assert_array_equal(grad[2:], alone[1])
    x[1:] = -np.inf
    losses, grad = loss_and_grad(x[1:], y[1:], frames[2:] * [1, 1], counts[1:], blank=0)
    assert (losses == np.inf).all()
    assert not grad.any()


def test_calls_from_many_threads_at_once(batch):
    inputs = [batch(30, 80, 40, 20, seed=seed) for seed in range(8)]
    expected = [loss_and_grad(*each, blank=0, num_threads=1) for each in inputs]
    faults = []
    barrier = threading.Barrier(len(inputs))

    def work(mine, right):
        barrier.wait()
        for _ in range(10):
            losses, grad = loss_and_grad(*mine, blank=0, num_threads=4)
            if not (np.array_equal(losses, right[0]) and np.array_equal(grad, right[1])):
                faults.append(losses)

    threads = [
        threading.Thread(target=work, args=pair) for pair in zip(inputs, expected, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert not faults


def _in_child(inputs):
    losses, grad = loss_and_grad(*inputs, blank=0, num_threads=2)
    return losses, float(np.abs(grad).sum()), os.getpid()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system can't fork")
def test_forked_children_compute_while_the_parent_has_threads():
    # In a process of its own: other libraries of this one's can't be forked.
    code = """
import multiprocessing, os
from concurrent.futures import ProcessPoolExecutor
import numpy as np
from ctcx_numba import _threads
from ctcx_numba.kernels import loss_and_grad

def compute(_):
    x = np.random.default_rng(0).standard_normal((60, 200, 40), dtype=np.float32)
    arguments = x, np.full((60, 5), 3), np.full(60, 200), np.full(60, 5)
    losses, grad = loss_and_grad(*arguments, blank=0, num_threads=2)
    return losses.tolist(), float(np.abs(grad).sum()), os.getpid()

expected = compute(0)
assert _threads._pool is not None
with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
    for losses, size, child in pool.map(compute, range(6), timeout=60):
        assert (losses, size) == expected[:2]
        assert child != os.getpid()
assert compute(0) == expected
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code]
    subprocess.run(command, check=True, timeout=120)


def test_a_pool_of_fresh_processes(batch):
    inputs = batch(30, 80, 40, 20)
    expected = _in_child(inputs)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        for losses, size, _ in pool.map(_in_child, [inputs] * 4, timeout=120):
            np.testing.assert_array_equal(losses, expected[0])
            assert size == expected[1]


def test_a_call_while_the_interpreter_shuts_down():
    code = """
import atexit
import numpy as np
from ctcx_numba.kernels import loss_and_grad
def call():
    x = np.zeros((40, 100, 40), np.float32)
    arguments = x, np.ones((40, 3), int), np.full(40, 100), np.full(40, 3)
    print(loss_and_grad(*arguments, blank=0, num_threads=2)[0][0])
call()
atexit.register(call)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    first, last = run.stdout.split()
    assert first == last
    assert not run.stderr


def test_an_error_of_a_task_is_raised_and_nothing_runs_on():
    finished = []

    def fail():
        raise RuntimeError("no")

    for position in (0, 3):
        tasks = [lambda: finished.append(1)] * 4
        tasks[position] = fail
        with pytest.raises(RuntimeError, match="no"):
            run_all(tasks, 3)
    run_all([lambda: finished.append(2)] * 5, 3)
    assert finished.count(2) == 5


class Stingy(ThreadPoolExecutor):
    """Starts so many threads; a later one fails, after it was asked, as the system's does."""

    can_start = 1

    def _adjust_thread_count(self):
        if len(self._threads) >= self.can_start:
            raise RuntimeError("can't start new thread")
        super()._adjust_thread_count()


@pytest.mark.parametrize("can_start", [0, 1, 2])
@pytest.mark.parametrize("name", ["ragged, wide", "two long"])
def test_threads_that_cannot_be_started(batch, monkeypatch, name, can_start):
    """What others have begun is waited for, and the caller does the rest."""
    inputs = batch(*SHAPES[name])
    expected = loss_and_grad(*inputs, blank=0, num_threads=1)
    monkeypatch.setattr(_threads, "ThreadPoolExecutor", Stingy)
    monkeypatch.setattr(Stingy, "can_start", can_start)
    monkeypatch.setattr(_threads, "_pool", None)
    monkeypatch.setattr(_threads, "_workers", 0)
    for _ in range(20):
        losses, grad = loss_and_grad(*inputs, blank=0, num_threads=6)
        np.testing.assert_array_equal(losses, expected[0])
        np.testing.assert_array_equal(grad, expected[1])


def test_a_thread_that_came_although_asking_for_it_failed_is_waited_for(monkeypatch):
    class Comes:
        def __init__(self, *_, **__):
            pass

        def submit(self, work):
            threading.Thread(target=work).start()
            raise RuntimeError("can't start new thread")

        def shutdown(self, **_):
            pass

    monkeypatch.setattr(_threads, "ThreadPoolExecutor", Comes)
    monkeypatch.setattr(_threads, "_pool", None)
    monkeypatch.setattr(_threads, "_workers", 0)
    taken, done = threading.Event(), []

    def slow():
        if threading.current_thread() is threading.main_thread():
            assert taken.wait(10)
        else:
            taken.set()
            time.sleep(0.2)
        done.append(1)

    run_all([slow, slow], 2)
    assert len(done) == 2


def test_no_work_is_left_in_a_pool_that_has_no_threads(monkeypatch):
    monkeypatch.setattr(_threads, "ThreadPoolExecutor", Stingy)
    monkeypatch.setattr(Stingy, "can_start", 0)
    monkeypatch.setattr(_threads, "_pool", None)
    monkeypatch.setattr(_threads, "_workers", 0)
    held = set()
    run_all([partial(held.add, 1)] * 2, 2)
    assert held == {1}
    assert _threads._pool is None


def test_more_threads_than_an_int32_holds(batch, monkeypatch):
    pytest.importorskip("jax")
    import jax.numpy as jnp

    inputs = batch(3, 20, 10, 5)
    expected = loss(*inputs, blank=0)
    monkeypatch.setenv("CTCX_NUM_THREADS", str(2**32))
    for array in (np.asarray, jnp.asarray):
        np.testing.assert_array_equal(loss(*map(array, inputs), blank=0), expected)
    assert number_of_threads(2**70) == number_of_threads()


def test_number_of_threads(monkeypatch):
    monkeypatch.delenv("CTCX_NUM_THREADS", raising=False)
    assert number_of_threads() == usable_cores() >= 1
    monkeypatch.setenv("CTCX_NUM_THREADS", "3")
    assert number_of_threads() == 3
    assert number_of_threads(5) == 5
    for wrong in ("0", "-1", "two", "1.5"):
        monkeypatch.setenv("CTCX_NUM_THREADS", wrong)
        with pytest.raises(ValueError, match=f"CTCX_NUM_THREADS must be .*{wrong}"):
            number_of_threads()
    for wrong in (0, -1, 1.5, True, "2"):
        with pytest.raises(ValueError, match="num_threads must be"):
            number_of_threads(wrong)


def test_few_long_sequences_are_halved(batch, monkeypatch):
    from ctcx_numba import _batch

    seen = []
    monkeypatch.setattr(_batch, "share_halves", lambda *args: seen.append(args))
    loss_and_grad(*batch(1, 3000, 32, 120), blank=0, num_threads=2)
    assert len(seen) == 1
    loss_and_grad(*batch(1, 30, 32, 12), blank=0, num_threads=2)
    assert len(seen) == 1
    assert _halves.share_halves is not _batch.share_halves
