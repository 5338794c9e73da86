"""The library under sanitizers, with a program that plays several callers and with Python."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import ctcx_cpu
import pytest

SOURCE = Path(__file__).parent.parent
X86 = platform.machine() == "x86_64"
SECONDS = os.environ.get("CTCX_CPU_FUZZ_SECONDS", "20")

# One build for all tests of a group.
ASAN, TSAN = pytest.mark.xdist_group("asan"), pytest.mark.xdist_group("tsan")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the sanitizers of GCC are tried on Linux"),
]


def build(folder, *options, targets=("fuzz",)):
    """Build the library in a folder, and programs with it."""
    if shutil.which("cmake") is None:
        pytest.fail("cmake is missing: pip install cmake ninja")
    configure = ["cmake", "-S", SOURCE, "-B", folder, "-G", "Ninja", "-DCTCX_CPU_FUZZ=ON"]
    configure += [f"-DPython_EXECUTABLE={sys.executable}"]
    subprocess.run([*configure, *options], check=True)
    subprocess.run(["cmake", "--build", folder, "--target", *targets], check=True)
    return folder


@pytest.fixture(scope="module")
def with_asan(tmp_path_factory):
    """Return a folder with the program and the module, under AddressSanitizer and UBSan.

    On a processor without AVX-512 the source for it is compiled for AVX2, with the same accesses.
    """
    folder = tmp_path_factory.mktemp("address")
    options = ["-DCTCX_CPU_SANITIZE=address,undefined"]
    if X86 and ctcx_cpu.ctcx_runtime_info()["ctcx-cpu instructions"] != "avx512":
        options.append("-DCTCX_CPU_LOWERED=ON")
    return build(folder, *options, targets=("fuzz", "_native"))


@pytest.fixture(scope="module")
def with_tsan(tmp_path_factory):
    """Return the same under ThreadSanitizer, for one instruction set: they share no threads."""
    folder = tmp_path_factory.mktemp("thread")
    options = "-DCTCX_CPU_SANITIZE=thread", "-DCTCX_CPU_INSTRUCTION_SETS=baseline"
    return build(folder, *options, targets=("fuzz", "_native"))


def run(folder, instructions="", seconds=SECONDS, seed="7"):
    environment = os.environ | {"CTCX_CPU_INSTRUCTIONS": instructions}
    environment |= {"TSAN_OPTIONS": "halt_on_error=1", "ASAN_OPTIONS": "detect_leaks=1"}
    return subprocess.run(
        [folder / "fuzz", seconds, seed],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def passed(result, instructions=""):
    assert result.returncode == 0, result.stdout + result.stderr
    name, _, rest = result.stdout.partition(": ")
    assert name == (instructions or name)
    return int(rest.split()[0]) > 20


@ASAN
@pytest.mark.parametrize("instructions", ["baseline", "avx2", "avx512"] if X86 else ["baseline"])
def test_no_access_out_of_bounds(with_asan, instructions):
    assert passed(run(with_asan, instructions))


@TSAN
def test_no_race(with_tsan):
    assert passed(run(with_tsan))


@ASAN
def test_a_planted_overrun_of_one_element_is_found(with_asan, tmp_path, monkeypatch):
    monkeypatch.setenv("CTCX_CPU_PLANTED_OVERRUN", "1")
    for result in run(with_asan, seconds="5"), run_python(with_asan, tmp_path, "asan", "-c", CALL):
        assert result.returncode != 0
        assert "heap-buffer-overflow" in result.stderr


def run_python(folder, tmp_path, sanitizer, *arguments):
    """Run Python, itself without sanitizer, with a package that has the module of a folder."""
    package = tmp_path / "ctcx_cpu"
    if not package.exists():
        ignored = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(Path(ctcx_cpu.__file__).parent, package, ignore=ignored)
        (module,) = folder.glob("_native*.so")
        shutil.copy(module, package)  # it finds the library in the folder
    runtimes = []  # a sanitizer's, and the one of C++ that it looks for functions in
    for name in sanitizer, "stdc++":
        command = ["gcc", f"-print-file-name=lib{name}.so"]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        runtimes.append(result.stdout.strip())
    # glibc frees what ended threads had to themselves, under a lock that no sanitizer sees.
    suppressions = tmp_path / "suppressions"
    suppressions.write_text("race:_dl_deallocate_tls\n", encoding="utf-8")
    environment = os.environ | {
        "LD_PRELOAD": " ".join(runtimes),
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "TSAN_OPTIONS": f"halt_on_error=1 suppressions={suppressions}",
        "CTCX_NUM_THREADS": "4",
        "OPENBLAS_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )


CALL = """
import sys
import numpy as np
from ctcx_cpu.kernels import loss_and_grad
x = np.random.default_rng(0).standard_normal((40, 50, 30), dtype=np.float32)
loss_and_grad(x, np.full((40, 9), 1), np.full(40, 50), np.full(40, 9), blank=0)
print(sys.modules["ctcx_cpu._native"].__file__)
"""


# An axis of length 1 or 0 may have any stride, and an expanded one any length.
ODD_SIZES = """
import torch
import ctcx
x, y = torch.randn(1, 1, 5), torch.ones(1, 1, dtype=torch.int64)
huge = 2**62
for logits, labels in (
    (x.as_strided(x.shape, (huge, huge, 1)), y.as_strided(y.shape, (huge, huge))),
    (x[:0].as_strided((0, 3, 5), (huge, huge, 1)), y[:0]),
    (x[..., :1].expand(2**61, 1, 1), y),
):
    for function in (ctcx.ctc_loss, ctcx.ctc_loss_and_grad):
        try:
            function(logits, labels)
        except ctcx.CTCInputError as error:
            assert "labels must have shape" in str(error)
print("done")
"""


@ASAN
def test_products_of_sizes_and_strides_do_not_overflow(with_asan, tmp_path):
    pytest.importorskip("torch")
    result = run_python(with_asan, tmp_path, "asan", "-c", ODD_SIZES)
    assert result.stdout == "done\n", result.stderr


# Where threads share what they compute, one check of each operation does.
SHARED = ["threads", "repeats", "long_sequences", "align_drawn", "greedy", "beam_search"]
SHARED += ["guided_search_chunks", "occupancies_drawn", "sample_paths_drawn"]


@pytest.mark.parametrize(
    ("sanitizer", "checks"),
    [
        pytest.param("asan", [], marks=ASAN, id="asan"),
        pytest.param("tsan", SHARED, marks=TSAN, id="tsan"),
        pytest.param("tsan", [], marks=[TSAN, pytest.mark.thorough], id="tsan, all"),
    ],
)
def test_the_conformance_kit(sanitizer, checks, request, tmp_path):
    folder = request.getfixturevalue(f"with_{sanitizer}")
    call = run_python(folder, tmp_path, sanitizer, "-c", CALL)
    assert call.stdout.startswith(str(tmp_path)), call.stderr
    # Not through pytest, which has the kit ask PyTorch and JAX too; their threads race.
    # The program has all dtypes.
    kit = ["-m", "ctcx", "conformance", "cpu", "--library", "numpy", "--dtype", "float32"]
    kit += [option for name in checks for option in ("--check", f"check_{name}")]
    result = run_python(folder, tmp_path, sanitizer, *kit)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
