"""Compiled kernels are kept on disk, and whatever becomes of the folder, calls work."""

import os
import pickle
import platform
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from ctcx_numba import _cache, _compiled, _jit, _machine
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


KEPT = """
import logging, sys
logging.basicConfig(level="WARNING", format="%(levelname)s %(message)s", stream=sys.stdout)
from ctcx_numba import _jit

def double(x):
    return 2 * x

def triple(x):
    return 3 * x

double = _jit.entry(double)
print("results", double(3), double(1.5))
print("hits", sum(double.stats.cache_hits.values()))
triple = _jit.callback("float64(float64)")(triple)
print("triple", triple.ctypes(2.0), "hits", triple.cache_hits)
"""


@pytest.fixture
def run_kept(tmp_path, environment):
    """Return a function that runs the program above and returns what it prints."""
    script = tmp_path / "kept.py"
    script.write_text(KEPT)

    def run(before=""):
        script.write_text(before + KEPT)
        return finish(
            subprocess.Popen(
                [sys.executable, str(script)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )

    return run


def kept_files(environment, suffix):
    return sorted(Path(environment["NUMBA_CACHE_DIR"]).rglob(f"*{suffix}"))


def flipped(data, where):
    at = int(where * (len(data) - 1))
    return data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]


DAMAGE = {
    "cut": lambda data: data[: len(data) // 2],
    "emptied": lambda _: b"",
    "zeroed": lambda data: bytes(len(data)),
    "a bit at the front": lambda data: flipped(data, 0),
    "a bit in the middle": lambda data: flipped(data, 0.5),
    "a bit at the end": lambda data: flipped(data, 1),
}


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_files_that_are_damaged_are_replaced(run_kept, environment, suffix):
    first = run_kept()
    assert "results 6 3.0\nhits 0\ntriple 6.0 hits 0" in first
    assert "results 6 3.0\nhits 2\ntriple 6.0 hits 1" in run_kept()
    files = kept_files(environment, suffix)
    assert len(files) == (2 if suffix == ".nbi" else 3)
    for damage in DAMAGE.values():
        for path in files:
            path.write_bytes(damage(path.read_bytes()))
        out = run_kept()
        assert "results 6 3.0\nhits 0\ntriple 6.0 hits 0" in out
        assert out.count("WARNING") == 1
        assert any(str(path) in out for path in files)
        assert "python -m ctcx_numba warmup" in out
    assert run_kept() == "results 6 3.0\nhits 2\ntriple 6.0 hits 1\n"


def test_a_file_that_holds_another_variant_is_not_used(run_kept, environment):
    """Two processes that write at once may give one name to two variants."""
    run_kept()
    one, other, _ = kept_files(environment, ".nbc")
    one.write_bytes(other.read_bytes())
    assert "results 6 3.0\nhits 1\n" in run_kept()
    assert "results 6 3.0\nhits 2\n" in run_kept()


@pytest.mark.skipif(os.name == "nt", reason="limits are set as on Unix")
@pytest.mark.parametrize("size", [0, 3000])
def test_a_full_disk(run_kept, environment, size):
    full = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
    out = run_kept(full)
    assert "results 6 3.0" in out
    assert "triple 6.0" in out
    assert out.count("WARNING") == 1
    assert environment["NUMBA_CACHE_DIR"] in out
    assert "NUMBA_CACHE_DIR to another folder" in out
    assert not [path for path in kept_files(environment, "") if ".tmp" in path.name]
    assert "results 6 3.0\nhits 0" in run_kept()
    assert "results 6 3.0\nhits 2" in run_kept()


def test_no_folder_to_keep_them_in(monkeypatch, run_kept, environment, capsys):
    Path(environment["NUMBA_CACHE_DIR"]).write_text("not a folder")
    nowhere = "import os; os.environ['NUMBA_CACHE_LOCATOR_CLASSES'] = 'UserProvidedCacheLocator'\n"
    out = run_kept(nowhere)
    assert "results 6 3.0\nhits 0" in out
    assert out.count("WARNING") == 1
    assert "set NUMBA_CACHE_DIR to a folder that can be written to" in out

    monkeypatch.setattr(_compiled, "cache_folder", lambda: None)
    monkeypatch.setattr(_compiled, "compile_all", lambda dtypes: iter(dtypes))
    assert main(["warmup"]) == 1
    assert "set NUMBA_CACHE_DIR" in capsys.readouterr().err


def test_warmup_says_what_it_could_not_keep(monkeypatch, capsys):
    monkeypatch.setattr(_compiled, "compile_all", lambda dtypes: iter(dtypes))
    monkeypatch.setattr(_cache, "_not_kept", ["OSError: no space left"])
    assert main(["warmup"]) == 1
    assert "can't be kept" in (said := capsys.readouterr().err)
    assert "no space left" in said


def test_doctor_names_damaged_files(monkeypatch, tmp_path):
    path = tmp_path / f"_entries.back_{_jit.SOURCES}-1.py311.1.nbc"
    path.write_bytes(b"x" * 100)
    monkeypatch.setattr(_compiled, "cache_folder", lambda: tmp_path)
    lines = _machine.runtime_info()
    assert str(path) in lines["ctcx-numba kernels"]
    assert "warmup" in lines["ctcx-numba kernels"]
    path.unlink()
    assert "damaged" not in _machine.runtime_info()["ctcx-numba kernels"]


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
from ctcx._reference.oracle import reference
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
