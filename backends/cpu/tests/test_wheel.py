"""The wheel: what is in it, what it needs, and that it works where there is nothing but NumPy."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.wheel,
    pytest.mark.slow,
    pytest.mark.xdist_group("wheel"),  # which is built once
    pytest.mark.skipif(sys.platform != "linux", reason="auditwheel is about Linux"),
]

PROJECT = Path(__file__).parents[1]
USE_IT = """
import ctypes, sys, numpy as np, ctcx, ctcx_cpu
x = np.random.default_rng(0).standard_normal((3, 40, 20), dtype="float32")
with ctcx.trace() as runs:
    got = ctcx.ctc_loss_and_grad(x, [[1, 2, 2], [3], [4, 4]])
assert [run.backend for run in runs] == ["cpu"], runs
right = ctcx.ctc_loss_and_grad(x, [[1, 2, 2], [3], [4, 4]], backend="array-api")
np.testing.assert_allclose(got.loss, right.loss, rtol=1e-6)
np.testing.assert_allclose(got.grad, right.grad, atol=1e-6)
assert (ctcx_cpu.include_dir() / "ctcx_cpu.h").is_file()
ctypes.CDLL(str(ctcx_cpu.library_path()))
assert not {"torch", "jax", "scipy"} & set(sys.modules)
"""


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tool(name):
    """Path of a program of the group `build`, which is installed beside this Python."""
    found = shutil.which(name, path=os.path.dirname(sys.executable)) or shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is missing: pip install --group backends/cpu/pyproject.toml:build")
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Return the wheel, built as pip does it for anyone: ``CTCX_CPU_WHEEL``, or a new one."""
    if built := os.environ.get("CTCX_CPU_WHEEL"):
        return Path(built)
    folder = tmp_path_factory.mktemp("wheel")
    without = shutil.ignore_patterns("build", "*.so", "__pycache__")
    shutil.copytree(PROJECT, folder / "cpu", ignore=without)
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", folder, folder / "cpu")
    (path,) = folder.glob("*.whl")
    return path


def test_what_is_in_the_wheel(wheel):
    assert "-cp311-abi3-" in wheel.name
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {path.name for path in (PROJECT / "ctcx_cpu").glob("*.py*")}
    sources |= {"py.typed", "_native.abi3.so", "libctcx_cpu.so", "include/ctcx_cpu.h"}
    inside = {name for name in names if ".dist-info/" not in name}
    assert inside == {f"ctcx_cpu/{name}" for name in sources}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    run(sys.executable, "-m", "check_wheel_contents", wheel)
    run(sys.executable, "-m", "twine", "check", "--strict", wheel)


def test_it_needs_the_c_and_cpp_libraries_and_the_stable_abi_only(wheel):
    shown = " ".join(run(tool("auditwheel"), "show", wheel).split())
    assert re.search(r'platform tag: "manylinux_2_\d+_', shown), shown
    libraries = set(re.findall(r"(\S+\.so\.\d+) with versions", shown))
    assert libraries <= {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "libstdc++.so.6"}, shown
    run(tool("abi3audit"), "--strict", "--summary", wheel)


def test_it_works_in_an_empty_environment(wheel, tmp_path):
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", PROJECT.parents[1], wheel)
    environment = {name: os.environ[name] for name in os.environ if name[:5] != "CTCX_"}
    environment.pop("PYTHONPATH", None)
    run(python, "-W", "error", "-c", USE_IT, cwd=tmp_path, env=environment)
    doctor = run(python, "-c", "import ctcx; ctcx.show_versions()", cwd=tmp_path, env=environment)
    assert re.search(r"ctcx-cpu version:? +0\.\d+\.\d+, C interface 1\.\d", doctor), doctor


@pytest.mark.parametrize("missing", ["CC", "CXX"])
def test_one_line_says_that_there_is_no_compiler(tmp_path, missing):
    environment = os.environ | {missing: "no-such-compiler"}
    command = [tool("cmake"), "-S", PROJECT, "-B", tmp_path, "-G", "Ninja"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "ctcx-cpu" in line]
    assert "no C++ compiler was found. Install GCC 12, Clang 14" in line
    # Once it is there, the same folder will do.
    run(*command, f"-DPython_EXECUTABLE={sys.executable}")
