"""Peak memory beyond inputs and gradient: two arrays of N x T x (2S+1), and a block of frames."""

import gc
import json
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

import ctcx
from tests.helpers import needed

BLOCK = 16


def peak_beyond_gradient(logits, labels):
    ctcx.ctc_loss_and_grad(logits[:, :4], labels[:, :1])  # imports are not the call's memory
    gc.collect()
    tracemalloc.start()
    try:
        result = ctcx.ctc_loss_and_grad(logits, labels, backend="array-api")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return peak - result.grad.nbytes


@pytest.mark.parametrize(
    ("n", "t", "c", "s"), [(16, 400, 32, 60), (8, 150, 3000, 20), (1, 4000, 32, 400)]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_peak_memory(n, t, c, s, dtype):
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((n, t, c)).astype(dtype)
    labels = rng.integers(1, c, (n, s))
    size = np.dtype(dtype).itemsize
    lattice = 2 * n * t * (2 * s + 1) * size
    frames = 4 * BLOCK * n * (c + 4 * s) * size
    one_megabyte_blocks = 8 * 2**20
    assert peak_beyond_gradient(logits, labels) < 1.05 * lattice + frames + one_megabyte_blocks


def test_never_frames_by_labels_by_classes():
    """That array would take 3 GB here."""
    logits = np.zeros((4, 100, 2000), dtype=np.float32)
    labels = np.ones((4, 1000), dtype=np.int64)
    labels[:, ::2] = 2
    assert peak_beyond_gradient(logits, labels) < 100 * 2**20


MAPS_OF_NEW_SHAPES = """
import gc, json
import jax, numpy as np
import ctcx
from ctcx._core.loops import jax as loops

loops.JAX_LOOP = loops.JaxLoop(programs=1)
maps = []
for frames in range(3, 7):
    logits = jax.device_put(np.zeros((1, frames, 3), np.float32))
    ctcx.ctc_beam_search(logits, width=2)
    gc.collect()
    with open("/proc/self/maps") as file:
        maps.append(len(file.readlines()))
print(json.dumps(maps))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts the memory maps that Linux lists")
def test_jax_programs_that_are_dropped_free_their_memory_maps():
    """XLA makes some 500 for each new shape of this search; a process may have 65,530."""
    needed("jax")
    child = subprocess.run(
        [sys.executable, "-c", MAPS_OF_NEW_SHAPES], capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr
    maps = json.loads(child.stdout)
    assert maps[-1] - maps[1] < 2 * 100, maps
