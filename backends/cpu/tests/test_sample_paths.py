"""Sampled paths: those that the numbers pick, in memory of the square root of the frames."""

import subprocess
import sys

import numpy as np
import pytest
from ctcx_cpu import kernels

import ctcx
from ctcx.conformance.cases import case
from ctcx.conformance.oracle import round_to_dtype, sample_paths

SHAPES = {
    "short": (5, 60, 7, 20),
    "a vector of labels": (3, 50, 40, 16),
    "several spans": (2, 3000, 12, 300),
    "several spans, few classes": (2, 4000, 3, 500),
    "several spans of many classes": (1, 2500, 500, 100),
    "one class": (2, 9, 1, 0),
}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", SHAPES)
def test_they_are_those_of_the_textbook(batch, name, dtype):
    x, *rest = batch(*SHAPES[name], dtype=dtype, ragged=True)
    blank = 0 if name == "one class" else 2
    rest[0] = np.where(rest[0] == blank, 0, rest[0])
    uniforms = np.random.default_rng(0).random((len(x), 6, x.shape[1]), dtype=np.float32)
    uniforms[:, 0], uniforms[:, 1] = 0, np.nextafter(np.float32(1), np.float32(0))
    right = sample_paths(round_to_dtype(x, dtype), *rest, blank, uniforms=uniforms)
    results = [
        kernels.sample_paths(x, *rest, blank=blank, uniforms=numbers, num_threads=threads)
        for numbers in (
            uniforms,
            uniforms.astype(np.float64),
            uniforms[:, :, ::-1].copy()[:, :, ::-1],
        )
        for threads in (1, 5)
    ]
    for states in results:
        assert states.dtype == np.int32
        np.testing.assert_array_equal(states, results[0])
    decided = right.margin > 1e-5
    assert decided.mean() > 0.5
    np.testing.assert_array_equal(results[0][decided], right.states[decided])


@pytest.mark.parametrize("sizes", [(3, 20, 10, 5), (3, 3000, 60, 100)], ids=str)
def test_what_is_wrong_or_impossible(batch, sizes):
    x, labels, frames, counts = batch(*sizes)
    uniforms = np.random.default_rng(0).random((3, 2, sizes[1]))
    right = kernels.sample_paths(x, labels, frames, counts, blank=0, uniforms=uniforms)
    x[1, 3, 2] = np.nan
    frames[2] = sizes[3] - 1
    got = kernels.sample_paths(x, labels, frames, counts, blank=0, uniforms=uniforms)
    np.testing.assert_array_equal(got[0], right[0])
    assert (got[1:] == -1).all()


def test_numbers_out_of_range_lead_along_paths(batch):
    """Unchecked, they pick states that a path can be in."""
    arrays = batch(2, 300, 10, 100)
    first = kernels.sample_paths(*arrays, blank=0, uniforms=np.zeros((2, 1, 300)))
    for number in -1.0, np.nan, 1.0, 9.0, np.inf:
        got = kernels.sample_paths(*arrays, blank=0, uniforms=np.full((2, 1, 300), number))
        assert np.isin(np.diff(got, axis=2), (0, 1, 2)).all()
        assert ((got >= 0) & (got <= 200)).all()
        assert (got == first).all() == (not number > 0)


def test_no_paths(batch):
    arrays = batch(2, 30, 10, 5)
    states = kernels.sample_paths(*arrays, blank=0, uniforms=np.empty((2, 0, 30)))
    assert states.shape == (2, 0, 30)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the peak of memory")
def test_memory_grows_with_the_square_root_of_the_frames():
    code = """
from pathlib import Path
import numpy as np
from ctcx_cpu.kernels import sample_paths
def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024
x = np.random.default_rng(0).normal(size=(1, 50_000, 4)).astype(np.float32)
y = np.arange(10_000)[None, :] % 2 + 1
uniforms = np.full((1, 1, 50_000), 0.5, np.float32)
before = peak()
states = sample_paths(x, y, np.array([50_000]), np.array([10_000]), blank=0, uniforms=uniforms)
assert states.max() >= 19_999
print(peak() - before)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # 72 MB of alphas and emissions; those of all frames would be 8,000 MB.
    assert float(run.stdout) < 130


def test_ctc_sample_paths_takes_this_kernel():
    lines = case("ragged")
    uniforms = np.full((len(lines.logits), 2, lines.logits.shape[1]), 0.5)
    arrays = lines.logits, lines.labels, uniforms, lines.logit_lengths, lines.label_lengths
    with ctcx.trace() as runs:
        ctcx.ctc_sample_paths(*arrays, blank=lines.blank)
    assert [(run.backend, run.operation) for run in runs] == [("cpu", "sample_paths")]
