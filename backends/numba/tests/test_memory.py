"""Results live in memory that is used again, and only when nobody can see it any more."""

import gc
import os
import subprocess
import sys

import numpy as np
import pytest
from ctcx_numba import _batch, _memory, _scratch
from ctcx_numba.kernels import loss, loss_and_grad


@pytest.fixture(autouse=True)
def nothing_kept():
    gc.collect()
    _memory.forget()
    _scratch.forget()


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2)])
def test_layout_and_alignment(order):
    like = np.empty((30, 40, 500), dtype=np.float32).transpose(order)
    array = _memory.empty_like(like)
    assert (array.shape, array.strides, array.dtype) == (like.shape, like.strides, like.dtype)
    assert address(array) % 64 == 0
    assert array.flags.writeable
    array[...] = 1


def test_memory_is_used_again_when_all_views_are_gone():
    like = np.empty((30, 40, 500), dtype=np.float32)
    first = _memory.empty_like(like)
    where, view = address(first), first[3, ::2]
    del first
    second = _memory.empty_like(like)
    assert address(second) != where
    second[...] = 7
    view[...] = 5
    assert (second == 7).all()
    del view
    assert address(_memory.empty_like(like)) == where


def test_a_much_smaller_array_takes_no_large_piece():
    large = _memory.empty_like(np.empty((30, 400, 500), dtype=np.float32))
    where = address(large)
    del large
    small = _memory.empty_like(np.empty((3, 400, 500), dtype=np.float32))
    assert address(small) != where


def test_what_is_kept_has_a_limit(monkeypatch):
    monkeypatch.setattr(_memory, "MOST_KEPT", 2**24)
    arrays = [
        _memory.empty_like(np.empty((k, 2**10, 2**10), dtype=np.float32)) for k in (1, 2, 3, 1)
    ]
    assert _memory.kept_bytes() == 0
    del arrays
    assert 0 < _memory.kept_bytes() <= 2**24
    _memory.forget()
    assert _memory.kept_bytes() == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system can't fork")
def test_a_forked_child_does_not_write_into_its_parents_results():
    code = """
import os
import numpy as np
from ctcx_numba import _memory
array = _memory.empty_like(np.empty((1, 2**10, 2**10), dtype=np.float32))
array[...] = 1
child = os.fork()
if child == 0:
    array[...] = 2
    os._exit(0)
os.waitpid(child, 0)
assert (array == 1).all()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_results_of_earlier_calls_stay(batch):
    x, *rest = batch(20, 100, 64, 10)
    first = loss_and_grad(x, *rest, blank=0)
    copy = first[1].copy()
    for _ in range(3):
        loss_and_grad(x * 2, *rest, blank=0)
    np.testing.assert_array_equal(first[1], copy)


def test_scratch_of_other_shapes_changes_nothing(batch):
    """Scratch only grows; a call must not depend on how large the one that it gets is."""
    shapes = [(1, 5, 4, 2), (2, 100, 5000, 20), (3, 400, 28, 100), (2, 90, 300, 5), (1, 7, 28, 3)]
    batches = [batch(*shape) for shape in shapes]
    fresh = []
    for each in batches:
        _scratch.forget()
        fresh.append(loss_and_grad(*each, blank=0, num_threads=1))
    _scratch.forget()
    for _ in range(2):
        for each, (losses, grad) in zip(batches, fresh, strict=True):
            again = loss_and_grad(*each, blank=0, num_threads=1)
            np.testing.assert_array_equal(again[0], losses)
            np.testing.assert_array_equal(again[1], grad)
            np.testing.assert_array_equal(loss(*each, blank=0, num_threads=1), losses)


def scratch_of(t, s, frames=None, counts=None):
    """Bytes of scratch for two halves."""
    frames, counts = frames or [t], counts or [s]
    n = len(frames)
    x, labels = np.zeros((n, t, 32), np.float32), np.ones((n, s), int)
    job = _batch.Job(x, labels, np.array(frames), np.array(counts), 0, 1, gradient=False)
    room = _scratch.take("float32", _scratch.sizes_of(job._batch, job.losses))
    return 2 * sum(part.nbytes for part in room)


def test_long_sequences_need_little_memory():
    """Beyond the gradient: the square root of the frames, not the frames, times the labels."""
    short, long = scratch_of(5_000, 2_000), scratch_of(20_000, 2_000)
    assert long < 50e6
    assert long < 2.5 * short


def test_a_batch_needs_what_the_hungriest_of_its_sequences_does():
    """Neither more frames nor more labels always take more."""
    frames, counts = [20_000, 700, 18_000, 900], [3, 310, 60, 2]
    alone = [scratch_of(t, s) for t, s in zip(frames, counts, strict=True)]
    assert alone[0] < alone[1]
    together = scratch_of(max(frames), max(counts), frames, counts)
    assert max(alone) <= together <= 1.5 * max(alone)
