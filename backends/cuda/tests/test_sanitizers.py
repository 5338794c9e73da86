"""No race and no overrun in any variant; and both would be found."""

from pathlib import Path

import cuda_on_cpu
import pytest

from backends.cuda.tests.problems import WIDTHS

PROGRAM = str(Path(__file__).with_name("run_kernels.py"))
PATHS = str(Path(__file__).with_name("run_paths.py"))
DRAWN = str(Path(__file__).with_name("run_drawn.py"))


# labels-539 has more threads than ThreadSanitizer can tell apart; its code is that of labels-143.
@pytest.mark.parametrize("variant", [name for name in WIDTHS if name != "labels-539"])
def test_no_race(variant):
    run = cuda_on_cpu.run_sanitized("thread", [PROGRAM, variant])
    assert run.reports == (), run.stderr
    assert run.returncode == 0, run.stderr
    assert f"ran {variant}" in run.stdout


@pytest.mark.parametrize(
    ("variant", "defect"),
    [
        ("labels-143", "no-barrier"),
        ("labels-143", "one-buffer"),
        ("labels-31", "no-warp-barrier"),
        ("any-length", "no-frame-barrier"),
    ],
)
def test_a_planted_race_is_found(variant, defect):
    run = cuda_on_cpu.run_sanitized("thread", [PROGRAM, variant, defect])
    assert "data race" in run.reports, run.stderr


@pytest.mark.parametrize("variant", WIDTHS)
def test_no_overrun(variant):
    run = cuda_on_cpu.run_sanitized("address", [PROGRAM, variant])
    assert run.reports == (), run.stderr
    assert run.returncode == 0, run.stderr
    assert f"ran {variant}" in run.stdout


@pytest.mark.parametrize("seed", [0, 1])
def test_no_overrun_at_sizes_around_the_thresholds(seed):
    """Each part of the scratch memory is an allocation of the size that the plan gives it."""
    run = cuda_on_cpu.run_sanitized("address", [DRAWN, str(seed), "45"], timeout=600)
    assert run.reports == (), run.stderr
    assert run.returncode == 0, run.stderr
    assert "ran 45" in run.stdout


@pytest.mark.parametrize("part", ["rows", "next", "first", "emitted", "paths", "work", "sums"])
def test_a_part_of_the_scratch_memory_that_is_too_small_is_found(part):
    run = cuda_on_cpu.run_sanitized("address", [DRAWN, "0", "15", part], timeout=600)
    assert "heap-buffer-overflow" in run.reports, run.stderr


def test_a_planted_overrun_is_found():
    run = cuda_on_cpu.run_sanitized("address", [PROGRAM, "labels-31", "past-the-end"])
    assert "heap-buffer-overflow" in run.reports, run.stderr


def test_no_race_in_best_paths():
    run = cuda_on_cpu.run_sanitized("thread", [PATHS, "96", "4"], timeout=600)
    assert run.reports == (), run.stderr
    assert run.returncode == 0, run.stderr
    assert "ran 4" in run.stdout


@pytest.mark.parametrize(
    "defect", ["no-barrier", "one-row", "no-strip-barrier", "no-state-barrier"]
)
def test_a_planted_race_in_best_paths_is_found(defect):
    run = cuda_on_cpu.run_sanitized("thread", [PATHS, "96", "4", defect], timeout=600)
    assert "data race" in run.reports, run.stderr


def test_no_overrun_in_best_paths():
    run = cuda_on_cpu.run_sanitized("address", [PATHS, "96", "110"], timeout=600)
    assert run.reports == (), run.stderr
    assert run.returncode == 0, run.stderr
    assert "ran 110" in run.stdout


@pytest.mark.parametrize(
    "flaw", ["spreads", "choices", "kept", "strips", "past-the-end", "past-the-last-frame"]
)
def test_a_planted_overrun_in_best_paths_is_found(flaw):
    run = cuda_on_cpu.run_sanitized("address", [PATHS, "96", "22", flaw], timeout=600)
    assert "heap-buffer-overflow" in run.reports, run.stderr
