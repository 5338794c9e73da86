"""The scripts of benchmarks/gpu, which are for a machine with a GPU, run and can fail."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[3] / "benchmarks" / "gpu"


def script(name, *arguments):
    """Run a script; the completed process, with what it printed."""
    return run([sys.executable, SCRIPTS / name, *arguments])


def run(command, **options):
    return subprocess.run(
        command, capture_output=True, text=True, timeout=500, check=False, **options
    )


@pytest.mark.parametrize("backend", ["cuda", "array-api"])
def test_right_results_pass(backend):
    done = script("correct.py", "--few", "--library", "cupy", "--backend", backend)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("0 problems are wrong\n")
    assert [line.split(":")[0] for line in done.stdout.splitlines()[:-1]] == [
        "cupy float32",
        "cupy float64",
        "cupy float16",
    ]


def test_a_backend_that_is_not_there_fails():
    done = script("correct.py", "--few", "--library", "cupy", "--backend", "nobody")
    assert done.returncode == 1
    assert "UnknownBackendError" in done.stdout
    assert "nothing could be computed" in done.stderr


def test_times_are_written_and_what_is_missing_is_said(tmp_path):
    done = script("speed.py", "--few", "--json", tmp_path / "speed.json")
    assert done.returncode == 0, done.stderr
    for times in json.loads((tmp_path / "speed.json").read_text()).values():
        assert times["ctcx on cupy"] > 0
        assert "torch" not in times
    assert "torch_calls: " in done.stdout  # there is no CUDA for PyTorch


def test_times_of_jax_are_those_of_a_gpu():
    done = script("speed.py", "--few", "--jax")
    assert done.returncode == 1
    assert "JAX" in done.stdout or "jax" in done.stdout
    assert "nothing could be measured" in done.stderr


def test_all_steps_run_and_the_summary_tells_which_failed(tmp_path):
    folder, out = tmp_path / "folder", tmp_path / "out"
    (folder / "wheels").mkdir(parents=True)  # ctcx is installed here
    for file in SCRIPTS.glob("*.py"):
        shutil.copy(file, folder)
    environment = os.environ | {"PYTHON": sys.executable, "ONLY": "warmup,core,memcheck"}
    (folder / "correct.py").write_text("import sys; print('in vain'); sys.exit(3)")
    done = run(["bash", SCRIPTS / "run.sh", folder, out], env=environment)
    lines = [line.split()[:4] for line in done.stdout.splitlines()]
    assert [(line[0], line[3]) for line in lines] == [
        ("warmup", "0"),
        ("memcheck", "127"),  # there is no compute-sanitizer
        ("core", "3"),
    ], done.stdout + done.stderr
    assert done.returncode == 1
    assert done.stdout == (out / "summary.txt").read_text()
    assert (out / "core.txt").read_text() == "in vain\n"
