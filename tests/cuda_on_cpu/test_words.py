"""What the commands say of CuPy: with a device, with CuPy and no device, and without CuPy."""

import os
import subprocess
import sys

import pytest

# With CuPy hidden, importing it fails as it does where it is not installed.
COMMAND = "import sys, ctcx.__main__ as c; {hide}; sys.exit(c.main())"


def ctcx(*arguments, hide="pass", **environment):
    ended = subprocess.run(
        [sys.executable, "-c", COMMAND.format(hide=hide), *arguments],
        env=os.environ | {"COLUMNS": "400", "NO_COLOR": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended


NO_DEVICE = {"CUDA_ON_CPU_NO_DEVICE": "1"}
NO_CUPY = {"hide": "sys.modules['cupy'] = None"}
WHY_NO_DEVICE = "CuPy finds no usable GPU: CUDARuntimeError: cudaErrorNoDevice"
WHY_NO_CUPY = "cupy is not installed (pip install cupy-cuda13x, or cupy-cuda12x for CUDA 12)"


def test_doctor_with_a_device():
    said = ctcx("doctor").stdout
    assert "cuda:0" in said
    assert "CUDA on CPU: a test harness, no GPU" in said
    assert "checked on the CUDA-on-CPU harness; not yet run on a GPU" in said
    assert "ctcx conformance array-api --library cupy" in said


def test_explain_with_a_device():
    said = ctcx("explain", "--library", "cupy").stdout
    assert "of cupy float32 on cuda:0" in said
    assert "array-api is chosen automatically" in said
    assert "can't be used" not in said


def test_compare_with_a_device():
    ended = ctcx("compare", "--library", "cupy", "--repeat", "1")
    assert ended.returncode == 0
    assert ended.stdout.startswith("PASSED: ")
    assert "The notebook's printed numbers are reproduced" in ended.stdout
    assert "array-api on cupy cuda:0" in ended.stdout


@pytest.mark.parametrize(
    ("setting", "reason"), [(NO_DEVICE, WHY_NO_DEVICE), (NO_CUPY, WHY_NO_CUPY)]
)
def test_without(setting, reason):
    doctor = ctcx("doctor", **setting)
    assert doctor.returncode == 0
    (line,) = (
        line
        for line in doctor.stdout.splitlines()
        if line.startswith("cupy  ") and "unusable" in line
    )
    assert reason in line
    assert "not yet run on a GPU" not in doctor.stdout
    explained = ctcx("explain", "--library", "cupy", **setting).stdout
    assert f"On this machine cupy can't be used: {reason}" in explained
    assert "array-api is chosen automatically" in explained  # what a call would do, elsewhere
    compared = ctcx("compare", "--library", "cupy", "--repeat", "1", **setting)
    assert f"unusable  cupy: {reason}" in compared.stdout
    assert "FAILED: nothing could be computed" in compared.stdout
