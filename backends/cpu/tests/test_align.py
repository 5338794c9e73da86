"""Best paths: those of the core to the state, since both add up the same numbers."""

import subprocess
import sys

import numpy as np
import pytest
from ctcx_cpu import kernels

import ctcx
from ctcx.conformance.cases import case
from ctcx.plugin import load_kernel


@pytest.mark.parametrize(
    ("shape", "most_labels"),
    [
        ((5, 60, 7), 20),  # a table of choices, and logits in registers
        ((3, 200, 90), 100),  # logits from memory
        ((2, 3000, 12), 300),  # several spans, the window smaller than the labels
        ((2, 4000, 12), 30),  # several spans, the window as large as the labels
        ((2, 1500, 5), 1500),  # hardly a frame to spare
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("coarse", [False, True])
def test_the_path_is_that_of_the_core(batch, shape, most_labels, dtype, coarse):
    x, y, frames, counts = batch(*shape, most_labels, scale=3, dtype=dtype, ragged=True)
    if coarse:  # many paths are equally good
        x = np.round(x)
    if most_labels == shape[1]:
        y, frames = np.arange(most_labels)[None, :] % 2 + 1 + 0 * y, np.full_like(frames, shape[1])
        counts = np.array([most_labels, most_labels - 3])
    given = x, y, frames, np.minimum(counts, frames)
    arguments = {"blank": 0, "extra": None, "ends": (0, 0)}
    states, log_probs = kernels.align(*given, **arguments)
    expected_states, expected = load_kernel("array-api", "align")(*given, **arguments)
    np.testing.assert_array_equal(states, expected_states)
    digits = 2e-6 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(log_probs, expected, rtol=digits, atol=digits)
    for threads in 2, 5:
        again = kernels.align(*given, **arguments, num_threads=threads)
        assert again[0].tobytes() == states.tobytes()
        assert again[1].tobytes() == log_probs.tobytes()


@pytest.mark.parametrize("count", [0, 1, 70, 200])
def test_extra_columns_and_other_blanks(count):
    rng = np.random.default_rng(count)
    x = rng.normal(size=(2, 900, 6)).astype(np.float32)
    extra = rng.normal(size=(3, 2, 900)).astype(np.float32).transpose(1, 2, 0)
    extra[:, :, 2] = -0.5
    y = rng.integers(1, 9, (2, count))
    given = x, y, np.array([900, 700]), np.array([count, count // 2])
    for ends in (0, 0), (8, 7), (0, 8):
        arguments = {"blank": 0, "extra": extra, "ends": ends}
        states, log_probs = kernels.align(*given, **arguments)
        expected_states, expected = load_kernel("array-api", "align")(*given, **arguments)
        np.testing.assert_array_equal(states, expected_states)
        np.testing.assert_allclose(log_probs, expected, atol=2e-6)


def test_nearly_certain_frames_keep_their_digits():
    x = np.zeros((1, 50_000, 20), np.float32) + np.float32(3.3)
    x[:, :, 0] += 18
    found = ctcx.ctc_align(x, [[]], backend="cpu")
    right = -50_000 * np.log1p(19 * np.exp(-(np.float64(x[0, 0, 0]) - x[0, 0, 1])))
    np.testing.assert_allclose(found.score, [right], rtol=1e-6)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the peak of memory")
def test_memory_grows_with_the_square_root_of_the_frames():
    code = """
from pathlib import Path
import numpy as np
from ctcx_cpu.kernels import align
def peak():  # MiB of this process alone: getrusage() also counts what its parent had at the fork
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024
x = np.random.default_rng(0).normal(size=(1, 50_000, 4)).astype(np.float32)
y = np.arange(10_000)[None, :] % 2 + 1
before = peak()
states, _ = align(x, y, np.array([50_000]), np.array([10_000]), blank=0, extra=None, ends=(0, 0))
assert states.max() >= 19_999
print(peak() - before)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # 36 MB of sums; one byte for each frame and state would be 1,000 MB.
    assert float(run.stdout) < 60


def test_ctc_align_takes_this_kernel():
    lines = case("ragged")
    arrays = lines.logits, lines.labels, lines.logit_lengths, lines.label_lengths
    with ctcx.trace() as runs:
        ctcx.ctc_align(*arrays, blank=lines.blank, infeasible="empty")
    assert [(run.backend, run.operation) for run in runs] == [("cpu", "align")]
