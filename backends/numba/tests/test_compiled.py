"""Compiled kernels are kept on disk, and whatever becomes of the folder, calls work."""

import os
import pickle
import platform
import stat
import subprocess
import sys

import pytest
from ctcx_numba import _compiled, _jit
from ctcx_numba.__main__ import main

CALL = """
import logging, sys
logging.basicConfig(level="INFO", format="%(name)s: %(message)s", stream=sys.stdout)
import numpy as np
from ctcx_numba import _entries
from ctcx_numba.kernels import loss_and_grad
x = np.zeros((1, 100, 1000), np.float32)  # small calls go another way
for _ in range(2):
    print(*loss_and_grad(x, np.array([[1, 2]]), np.array([100]), np.array([2]), blank=0)[0])
print("hits", sum(_entries.sequences.stats.cache_hits.values()))
"""


def start(code, environment):
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def index_files(environment):
    folder = environment["NUMBA_CACHE_DIR"]
    return [
        os.path.join(at, name)
        for at, _, names in os.walk(folder)
        for name in names
        if name.startswith("_entries.sequences") and name.endswith(".nbi")
    ]


@pytest.mark.slow
def test_two_processes_compile_at_once_and_a_third_finds_it_done(environment):
    both = [start(CALL, environment) for _ in range(2)]
    for process in both:
        out = finish(process)
        assert out.count("ctcx_numba: compiling the CPU kernels for float32") == 1
    out = finish(start(CALL, environment))
    assert "compiling" not in out
    assert "hits 1" in out

    # What another version of Numba has left is put aside.
    for path in index_files(environment):
        with open(path, "rb") as file:
            pickle.load(file)
            rest = file.read()
        with open(path, "wb") as file:
            pickle.dump("0.1.0", file)
            file.write(rest)
    out = finish(start(CALL, environment))
    assert "hits 0" in out
    assert "hits 1" in finish(start(CALL, environment))

    # A shared folder that may only be read.
    for at, folders, names in os.walk(environment["NUMBA_CACHE_DIR"], topdown=False):
        for name in [*folders, *names]:
            path = os.path.join(at, name)
            os.chmod(path, os.stat(path).st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    assert "hits 1" in finish(start(CALL, environment))


def test_no_folder_to_keep_them_in(monkeypatch, caplog, capsys):
    real = _jit.njit

    def refuse(*, cache=False, **options):
        if cache:
            raise RuntimeError("no locator available")
        return real(**options)

    monkeypatch.setattr(_jit, "njit", refuse)
    with caplog.at_level("INFO", logger="ctcx_numba"):
        double = _jit.entry(lambda x: 2 * x)
    assert "can't be kept on disk: no locator available" in caplog.text
    assert double(3) == 6

    monkeypatch.setattr(_compiled, "cache_folder", lambda: None)
    monkeypatch.setattr(_compiled, "compile_all", lambda dtypes: iter(dtypes))
    assert main(["warmup"]) == 1
    assert "set NUMBA_CACHE_DIR" in capsys.readouterr().err


@pytest.mark.slow
def test_warmup_leaves_nothing_to_compile(environment):
    command = [sys.executable, "-m", "ctcx_numba", "warmup", "--dtype", "float32"]
    out = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=True
    ).stdout
    assert "float32: whole sequences" in out
    assert f"kept in {environment['NUMBA_CACHE_DIR']}" in out
    assert "compiling" not in finish(start(CALL, environment))


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="names x86 processors")
def test_a_processor_without_avx512_gives_right_answers(environment):
    """LLVM cuts the vectors for AVX2 here, as it does on such a processor."""
    code = """
import numpy as np
from ctcx.conformance.oracle import reference
from ctcx_numba.kernels import loss_and_grad
rng = np.random.default_rng(0)
for scale in (2, 300):
    for classes in (5, 32, 100):
        x = (rng.standard_normal((3, 200, classes)) * scale).astype(np.float32)
        rest = rng.integers(1, classes, (3, 30)), np.array([200, 150, 70]), np.array([30, 20, 3])
        losses, grad = loss_and_grad(x, *rest, blank=0)
        right = reference(x, *rest, 0)
        assert (np.abs(losses - right.loss) <= 1e-7 * right.loss).all()
        assert np.abs(grad - right.grad).max() <= 5e-6
"""
    narrow = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}
    finish(start(code, environment | narrow))


def test_importing_the_plugin_imports_no_numba():
    code = "import sys, ctcx_numba; assert 'numba' not in sys.modules, 'imported'"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
