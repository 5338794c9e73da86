"""Results live in memory that is used again, and only when nobody can see it any more."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ctcx_cpu import _results
from ctcx_cpu.kernels import loss_and_grad


@pytest.fixture(autouse=True)
def nothing_kept():
    gc.collect()
    _results.forget()


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2)])
def test_layout_and_alignment(order):
    like = np.empty((30, 40, 500), dtype=np.float32).transpose(order)
    array = _results.empty_like(like)
    assert (array.shape, array.strides, array.dtype) == (like.shape, like.strides, like.dtype)
    assert address(array) % 64 == 0
    assert array.flags.writeable
    array[...] = 1


def test_results_is_used_again_when_all_views_are_gone():
    like = np.empty((30, 40, 500), dtype=np.float32)
    first = _results.empty_like(like)
    where, view = address(first), first[3, ::2]
    del first
    second = _results.empty_like(like)
    assert address(second) != where
    second[...] = 7
    view[...] = 5
    assert (second == 7).all()
    del view
    assert address(_results.empty_like(like)) == where


def test_a_much_smaller_array_takes_no_large_piece():
    large = _results.empty_like(np.empty((30, 400, 500), dtype=np.float32))
    where = address(large)
    del large
    small = _results.empty_like(np.empty((3, 400, 500), dtype=np.float32))
    assert address(small) != where


def test_what_is_kept_has_a_limit(monkeypatch):
    monkeypatch.setattr(_results, "MOST_KEPT", 2**24)
    arrays = [
        _results.empty_like(np.empty((k, 2**10, 2**10), dtype=np.float32)) for k in (1, 2, 3, 1)
    ]
    assert _results.kept_bytes() == 0
    del arrays
    assert 0 < _results.kept_bytes() <= 2**24
    _results.forget()
    assert _results.kept_bytes() == 0


def test_large_results_lie_in_huge_pages():
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[never]" in setting.read_text():
        pytest.skip("this system has no huge pages, or has them turned off")
    code = """
import re
from pathlib import Path
import numpy as np
from ctcx_cpu.kernels import loss_and_grad
x = np.broadcast_to(np.zeros(2**10, np.float32), (32, 2**10, 2**10))
array = loss_and_grad(x, np.ones((32, 1), int), np.full(32, 2**10), np.ones(32, int), blank=0)[1]
smaps, where = Path("/proc/self/smaps").read_text(), array.__array_interface__["data"][0]
for mapping in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", smaps, flags=re.MULTILINE)[1:]:
    first, last = (int(each, 16) for each in mapping.split()[0].split("-"))
    if first <= where < last:
        print(re.search(r"AnonHugePages: +([0-9]+) kB", mapping)[1])
"""
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert int(run.stdout) > 2**10, "kilobytes, of 128 megabytes"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system can't fork")
def test_a_forked_child_does_not_write_into_its_parents_results():
    code = """
import os
import numpy as np
from ctcx_cpu.kernels import loss_and_grad
x = np.zeros((1, 2**10, 2**10), np.float32)
array = loss_and_grad(x, np.ones((1, 1), int), np.full(1, 2**10), np.ones(1, int), blank=0)[1]
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


def test_where_the_system_has_no_memory_that_is_a_memory_error():
    code = """if True:
    import resource
    import numpy as np
    import ctcx

    logits, labels = np.zeros((8, 500, 300), np.float32), np.ones((8, 9), int)
    call = lambda: ctcx.ctc_loss_and_grad(logits, labels, backend="cpu")
    call()
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(),) * 2)
    held = [call().grad]  # in what is kept
    try:
        while True:
            held.append(call().grad)
    except MemoryError as error:
        print(type(error).__name__, len(held) > 0)
    """
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs Linux")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MemoryError True" in done.stdout, done.stderr
