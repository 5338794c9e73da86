"""The library under sanitizers, with a program that draws problems and plays several callers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent
SECONDS = os.environ.get("CTCX_CPU_FUZZ_SECONDS", "20")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the sanitizers of GCC are tried on Linux"),
]


def build(folder, *options):
    """Build the program; return where it is."""
    if shutil.which("cmake") is None:
        pytest.fail("cmake is missing: pip install cmake ninja")
    configure = ["cmake", "-S", SOURCE, "-B", folder, "-G", "Ninja", "-DCTCX_CPU_FUZZ=ON"]
    subprocess.run([*configure, *options], check=True)
    subprocess.run(["cmake", "--build", folder, "--target", "fuzz"], check=True)
    return folder / "fuzz"


@pytest.fixture(scope="module", params=["address", "thread"])
def fuzz(request, tmp_path_factory):
    """Return the program, built with a sanitizer."""
    return build(tmp_path_factory.mktemp(request.param), f"-DCTCX_CPU_SANITIZE={request.param}")


def run(program, instructions="", seconds=SECONDS, seed="7"):
    environment = os.environ | {"CTCX_CPU_INSTRUCTIONS": instructions}
    environment |= {"TSAN_OPTIONS": "halt_on_error=1", "ASAN_OPTIONS": "detect_leaks=1"}
    return subprocess.run(
        [program, seconds, seed], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("instructions", ["baseline", "avx2", ""])
def test_no_access_out_of_bounds_and_no_race(fuzz, instructions):
    result = run(fuzz, instructions)
    assert result.returncode == 0, result.stdout + result.stderr
    assert int(result.stdout.split(": ")[1].split()[0]) > 20


def test_a_planted_overrun_of_one_element_is_found(tmp_path):
    planted = "-DCTCX_CPU_PLANTED_OVERRUN=ON", "-DCTCX_CPU_INSTRUCTION_SETS=baseline"
    result = run(build(tmp_path, "-DCTCX_CPU_SANITIZE=address", *planted), seconds="5")
    assert result.returncode != 0
    assert "heap-buffer-overflow" in result.stderr
