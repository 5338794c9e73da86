"""Decoding: the best class of each frame, and the exact prefix beam search."""

import itertools
import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from ctcx_cpu import kernels

import ctcx
from ctcx.conformance.cases import case

BF16 = "bfloat16"


def as_type(x, dtype):
    """Return logits of a type, and what they are in float64."""
    if dtype != BF16:
        return x.astype(dtype), x.astype(dtype).astype(np.float64)
    torch = pytest.importorskip("torch")
    narrow = torch.from_numpy(x).to(torch.bfloat16)
    return narrow, narrow.to(torch.float64).numpy()


def log_softmax(x):
    top = x.max(axis=-1, keepdims=True)
    top = np.where(top > -np.inf, top, 0)
    with np.errstate(divide="ignore"):
        sums = np.log(np.exp(x - top).sum(axis=-1, keepdims=True))
    return np.where(sums > -np.inf, x - top - sums, -np.inf)


def enumerate_labels(x, blank):
    """Logarithm of the probability of all labels that T frames can emit."""
    logs, found = log_softmax(x), {}
    for path in itertools.product(range(x.shape[1]), repeat=len(x)):
        labels = tuple(c for c, _ in itertools.groupby(path) if c != blank)
        found[labels] = np.logaddexp(
            found.get(labels, -np.inf), sum(logs[t, c] for t, c in enumerate(path))
        )
    return {labels: log for labels, log in found.items() if log > -np.inf}


def search(probabilities, blank, width, max_classes=None):
    """Prefix beam search in exact numbers, with all candidates: [(labels, log-probability)]."""
    beam = {(): (Fraction(1), Fraction(0))}
    for row in probabilities:
        p = [Fraction(number) for number in row.tolist()]
        classes = sorted((c for c in range(len(p)) if c != blank), key=lambda c: (-p[c], c))
        candidates = []
        for i, (labels, (by_blank, by_label)) in enumerate(beam.items()):
            total, last = by_blank + by_label, labels[-1] if labels else None
            into = by_label
            if labels and (above := labels[:-1]) in beam:
                into += beam[above][0] if above and above[-1] == last else sum(beam[above])
            stays = total * p[blank], into * p[last] if labels else Fraction(0)
            candidates.append((-sum(stays), -1, i, labels, stays))
            for rank, c in enumerate(classes[:max_classes]):
                if (*labels, c) not in beam:
                    new = (by_blank if c == last else total) * p[c]
                    candidates.append((-new, rank, i, (*labels, c), (Fraction(0), new)))
        kept = sorted(candidate for candidate in candidates if candidate[0] < 0)[:width]
        beam = {labels: parts for *_, labels, parts in kept}
    logs = (math.log(sum(q).numerator) - math.log(sum(q).denominator) for q in beam.values())
    return list(zip(beam, logs, strict=True))


def decoded(x, lengths=None, *, blank=0, width, top=None, max_classes=None, threads=1):
    lengths = np.full(len(x), x.shape[1]) if lengths is None else np.asarray(lengths)
    labels, log_probs = kernels.beam_search(
        x,
        lengths,
        blank=blank,
        width=width,
        top=top or width,
        max_classes=max_classes,
        num_threads=threads,
    )
    return np.asarray(labels), np.asarray(log_probs, np.float64)


def listed(labels, log_probs):
    """Prefixes of one sequence, and their log-probabilities."""
    assert (np.diff(log_probs[log_probs > -np.inf]) <= 0).all()
    rows = [tuple(row[row >= 0].tolist()) for row in labels]
    for row, kept in zip(labels, rows, strict=True):
        assert row.tolist() == [*kept, *[-1] * (len(row) - len(kept))]
    assert not any(rows[i] for i in np.flatnonzero(log_probs == -np.inf))
    return [(row, log) for row, log in zip(rows, log_probs.tolist(), strict=True) if log > -np.inf]


@pytest.mark.parametrize("dtype", ["float16", BF16, "float32", "float64"])
@pytest.mark.parametrize("scale", [1, 100])
@pytest.mark.parametrize(
    ("frames", "classes", "blank"), [(5, 4, 0), (7, 3, 2), (1, 6, 3), (4, 1, 0)]
)
def test_a_wide_beam_has_the_true_probabilities(dtype, scale, frames, classes, blank):
    rng = np.random.default_rng(frames)
    x = rng.normal(size=(3, frames, classes)) * scale
    x[1][rng.random(x[1].shape) < 0.3] = -np.inf
    given, exact = as_type(x, dtype)
    labels, log_probs = decoded(given, blank=blank, width=4000)
    for n in range(3):
        right, got = enumerate_labels(exact[n], blank), dict(listed(labels[n], log_probs[n]))
        assert got.keys() == right.keys()
        for key, log in right.items():
            digits = 1e-11 if dtype == "float64" else 1e-6
            assert got[key] == pytest.approx(log, rel=digits, abs=digits)


@pytest.mark.parametrize("max_classes", [None, 1, 3])
@pytest.mark.parametrize("width", [1, 2, 7, 65])
@pytest.mark.parametrize("scale", [0.5, 3, 50])
def test_the_prefixes_of_a_plain_search(width, scale, max_classes):
    rng = np.random.default_rng(width)
    x = rng.normal(size=(4, 25, 6)) * scale
    lengths = [25, 0, 13, 24]
    for n, length in enumerate(lengths):
        x[n, length:] = np.nan
    labels, log_probs = decoded(x, lengths, blank=2, width=width, max_classes=max_classes)
    for n, length in enumerate(lengths):
        got = listed(labels[n], log_probs[n])
        right = search(np.exp(log_softmax(x[n, :length])), 2, width, max_classes)
        assert [key for key, _ in got] == [key for key, _ in right]
        np.testing.assert_allclose(
            [p for _, p in got], [p for _, p in right], rtol=1e-11, atol=1e-11
        )


@pytest.mark.parametrize("width", [1, 2, 3, 5, 9, 40])
@pytest.mark.parametrize("seed", range(8))
def test_the_order_of_equal_prefixes(width, seed):
    # Powers of two, whose sums and products are exact in either way of computing them.
    rng = np.random.default_rng(seed)
    rows = np.array([[2, 2, 2, 2], [1, 3, 3, 2], [1, 2, 3, 3], [3, 1, 3, 2], [np.inf, 1, 2, 2]])
    x = -rows[rng.integers(0, len(rows), 5)] * math.log(2)
    for frame in x:
        frame[1:] = rng.permutation(frame[1:])
    got = listed(*(result[0] for result in decoded(x[None], width=width)))
    right = [key for key, _ in search(np.round(np.exp(x) * 8) / 8, 0, width)]
    assert [key for key, _ in got] == right


def test_a_prefix_that_comes_back_feeds_its_descendants():
    # "12" leaves at frame 3 while "121" stays, comes back at frame 4 and is its parent in frame 5.
    p = [
        [0.15, 0.6, 0.25],
        [0.15, 0.4, 0.45],
        [0.15, 0.65, 0.2],
        [0.1, 0.45, 0.45],
        [0.15, 0.35, 0.5],
    ]
    got = listed(*(result[0] for result in decoded(np.log(p)[None], width=2)))
    assert [key for key, _ in got] == [(1, 2, 1), (1, 2)]
    np.testing.assert_allclose(np.exp([log for _, log in got]), [0.074486, 0.060109], atol=1e-6)


def test_threads_and_layouts_change_no_bit():
    rng = np.random.default_rng(0)
    x, lengths = rng.normal(size=(20, 60, 40)).astype(np.float32), rng.integers(0, 61, 20)
    right = decoded(x, lengths, width=12, top=5)
    best = kernels.greedy(x, lengths, blank=0, num_threads=1)
    turned = np.ascontiguousarray(x.transpose(1, 0, 2)).transpose(1, 0, 2)
    backwards = np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1]
    for same in x, turned, backwards:
        for threads in 1, 2, 7:
            for got, expected in zip(
                decoded(same, lengths, width=12, top=5, threads=threads), right, strict=True
            ):
                assert got.tobytes() == expected.tobytes()
            again = kernels.greedy(same, lengths, blank=0, num_threads=threads)
            assert [a.tobytes() for a in again] == [a.tobytes() for a in best]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("classes", [3, 40])
def test_what_is_wrong_spoils_its_own_sequence(bad, classes):
    x = np.random.default_rng(0).normal(size=(5, 9, classes)).astype(np.float32)
    x[0, 7, 2], x[1, 8, 1] = bad, bad
    x[4, 3] = -np.inf  # nothing can be emitted, which is no fault...
    lengths = np.array([9, 8, 10, 9, 9])
    labels, log_probs = decoded(x, lengths, width=4)
    classes_, class_logs = kernels.greedy(x, lengths, blank=0)
    for n in 0, 2:
        assert (labels[n] == -1).all()
        assert np.isnan(log_probs[n]).all()
        assert (classes_[n] == -1).all()
        assert np.isnan(class_logs[n]).all()
    for n in 1, 3:
        assert (log_probs[n] > -np.inf).all()
        assert (classes_[n, : lengths[n]] >= 0).all()
        assert (classes_[n, lengths[n] :] == -1).all()
        assert (class_logs[n, lengths[n] :] == 0).all()
    assert (labels[4] == -1).all()
    assert (log_probs[4] == -np.inf).all()
    assert classes_[4, 3] == -1
    assert class_logs[4, 3] == -np.inf
    x[4, 8, 0] = bad  # ... and hides none
    assert np.isnan(decoded(x, lengths, width=4)[1][4]).all()


@pytest.mark.parametrize("dtype", ["float16", BF16, "float32", "float64"])
@pytest.mark.parametrize("classes", [1, 2, 5, 16, 17, 33, 300])
def test_the_best_class_of_each_frame(dtype, classes):
    rng = np.random.default_rng(classes)
    x, exact = as_type(np.round(rng.normal(size=(6, 50, classes)) * 3), dtype)  # with equal ones
    lengths = rng.integers(0, 51, 6)
    found, log_probs = (np.asarray(a) for a in kernels.greedy(x, lengths, blank=0))
    assert log_probs.dtype == ("float64" if dtype == "float64" else "float32")
    within = np.arange(50) < lengths[:, None]
    np.testing.assert_array_equal(found, np.where(within, exact.argmax(axis=2), -1))
    right = np.where(within, log_softmax(exact).max(axis=2), 0)
    digits = 1e-13 if dtype == "float64" else 2e-7
    np.testing.assert_allclose(log_probs, right, rtol=digits, atol=digits)


@pytest.mark.parametrize("classes", [12, 300])
def test_float32_keeps_its_digits_over_thousands_of_frames(classes):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 8000, classes)).astype(np.float32)
    x[:, :, 0] += 9
    wide = x.astype(np.float64)
    labels, log_probs = decoded(x, width=8)
    expected_labels, expected = decoded(wide, width=8)
    np.testing.assert_array_equal(labels, expected_labels)
    # The probability, not its logarithm, to 1e-5; float32 holds the logarithm to 6e-8.
    np.testing.assert_allclose(log_probs, expected, rtol=6e-8, atol=1e-6)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the peak of memory")
def test_memory_is_that_of_the_beam():
    code = """
from pathlib import Path
import numpy as np
from ctcx_cpu.kernels import beam_search
def peak():  # MiB of this process alone: getrusage() also counts what its parent had at the fork
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024
x = np.random.default_rng(0).normal(size=(1, 4000, 2000)).astype(np.float32)
before = peak()
labels, _ = beam_search(x, np.array([4000]), blank=0, width=50, top=1, max_classes=None)
assert (labels >= 0).sum() > 1000
print(peak() - before)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # A byte for each class, entry and frame would be 400 MB; 24 for each entry and frame, 5 MB.
    assert float(run.stdout) < 4


@pytest.mark.parametrize("operation", ["greedy", "beam_search"])
def test_the_public_functions_take_these_kernels(operation):
    lines = case("ragged")
    with ctcx.trace() as runs:
        if operation == "greedy":
            ctcx.ctc_greedy(lines.logits, lines.logit_lengths, blank=lines.blank)
        else:
            ctcx.ctc_beam_search(
                lines.logits, lines.logit_lengths, blank=lines.blank, exact_scores=False
            )
    assert [(run.backend, run.operation) for run in runs] == [("cpu", operation)]


@pytest.mark.parametrize(
    ("classes", "width", "max_classes"),
    [(30, 1, None), (30, 12, None), (400, 8, None), (400, 12, 5), (5, 60, None), (30, 300, None)],
)
@pytest.mark.parametrize("scale", [0.7, 4])
def test_the_prefixes_of_the_core(classes, width, max_classes, scale):
    rng = np.random.default_rng(width)
    x = rng.normal(size=(3, 60, classes)) * scale
    settings = {"width": width, "top": width, "max_classes": max_classes, "exact_scores": False}
    lengths = np.array([60, 31, 0])
    got, right = (
        ctcx.ctc_beam_search(x, lengths, blank=3, backend=backend, **settings)
        for backend in ("cpu", "array-api")
    )
    np.testing.assert_array_equal(got.labels, right.labels)
    np.testing.assert_array_equal(got.count, right.count)
    np.testing.assert_allclose(got.beam_log_probs, right.beam_log_probs, rtol=1e-11, atol=1e-11)
