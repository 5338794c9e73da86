"""No read or write past an end: of scratch, inputs and results, on every route.

In child processes: see :mod:`guarded`, beside this file.
"""

import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="protects pages as Unix does")

ROUTES = ["whole", "threads", "halves", "softmax first", "small"]
if find_spec("jax") is not None:
    ROUTES.append("xla")


def run(route, seed, count, *short):
    command = [sys.executable, str(Path(__file__).parent / "guarded.py"), route, str(seed)]
    return subprocess.run(
        [*command, str(count), *short], capture_output=True, text=True, timeout=500, check=False
    )


@pytest.mark.parametrize("route", ROUTES)
def test_nothing_past_an_end_is_touched(route):
    child = run(route, 7, 40 if route == "xla" else 150)
    lines = child.stdout.splitlines()
    assert child.returncode == 0, f"{child.returncode} at {lines[-1:]}\n{child.stderr}"
    assert lines[-1] == "done"
    assert len(lines) > 30


@pytest.mark.parametrize(
    ("route", "short"),
    [
        *((route, "scratch") for route in ROUTES),
        *((route, "longest") for route in ("whole", "halves")),
        *(
            (route, what)
            for route in ("whole", "small")
            for what in ("logits", "labels", "results")
        ),
    ],
)
def test_one_element_past_an_end_is_noticed(route, short):
    child = run(route, 7, 100, short)
    assert child.returncode in {-signal.SIGSEGV, -signal.SIGBUS}, child.stdout + child.stderr


def test_labels_and_lengths_that_change_during_a_call():
    """They are looked at in a copy: a call has them as they were, or NaN for what was wrong."""
    code = """
import threading, time
import numpy as np
from ctcx_numba import kernels
rng = np.random.default_rng(0)
for kind in (np.int64, np.int32):
    for n, t, s in ((2, 60, 40), (20, 300, 120), (1, 3000, 200)):
        x = rng.standard_normal((n, t, 50)).astype(np.float32)
        right = rng.integers(1, 50, (n, s)), np.full(n, t), np.full(n, s)
        arrays = [a.astype(kind) for a in right]
        stop = threading.Event()

        def change():
            while not stop.is_set():
                for array, value in zip(arrays, right):
                    array[...] = np.iinfo(kind).max // 16
                for array, value in zip(arrays, right):
                    array[...] = value

        thread = threading.Thread(target=change)
        thread.start()
        end = time.monotonic() + 0.7
        while time.monotonic() < end:
            losses, grad = kernels.loss_and_grad(x, *arrays, blank=0, num_threads=2)
            assert (np.isnan(losses) | (losses > 0)).all()
        stop.set()
        thread.join()
"""
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert child.returncode == 0, f"{child.returncode}\n{child.stderr}"
