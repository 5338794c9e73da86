"""What several test files need."""

import os
import subprocess
import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import array_api_strict
import numpy as np
import pytest

from ctcx._plugins import registry, targets

posix_only = pytest.mark.skipif(
    os.name == "nt", reason="signals and symbolic links work differently on Windows"
)

STRICT_DEVICES = ("CPU_DEVICE", "device1", "device2", "no_float64", "no_x64")


class _Missing:
    """Stands in for a library that isn't installed: a test that uses it is skipped."""

    def __init__(self, name):
        self._name = name

    def __getattr__(self, attribute):
        if attribute.startswith(("_", "pytest")):  # pytest looks for these while it collects
            raise AttributeError(attribute)
        pytest.skip(f"{self._name} is not installed")


def optional(name):
    """A library, or what skips each test that uses it, so that the others of a module run.

    One that ``CTCX_TEST_NAMESPACES`` names must be there.
    """
    top = name.partition(".")[0]
    required = top in os.environ.get("CTCX_TEST_NAMESPACES", "").replace(".", ",").split(",")
    return import_module(name) if required or find_spec(top) else _Missing(name)


def needed(name):
    """A library without which a test, or a whole module of tests, is skipped."""
    library = optional(name)
    if isinstance(library, _Missing):
        pytest.skip(f"{name} is not installed", allow_module_level=True)
    return library


def need_what_is_imported(code):
    """Skip the test if the code of an example imports a library that isn't installed."""
    for name in ("torch", "jax"):
        if f"import {name}" in code:
            needed(name)


def run_cli(*arguments, env=None):
    """The result of a ctcx command, run in this process."""
    from typer import testing
    from typer.main import get_command

    from ctcx._cli import app

    if testing._get_command is get_command:
        testing._get_command = cache(get_command)  # it would build all commands for each call
    return testing.CliRunner().invoke(app, [*map(str, arguments)], env=env, prog_name="ctcx")


def current_registry():
    """The plugins that this process has loaded."""
    return registry.registry()


def reload_plugins():
    """Load all plugins anew."""
    return registry.reload()


def forget_plugins(monkeypatch):
    """Let the next call of ctcx be the first one, which loads the plugins."""
    monkeypatch.setattr(registry, "_current", None)


def forget_kernels():
    """Let the next calls import their kernels again, which a test has exchanged."""
    targets.load_target.cache_clear()


def random_problem(seed, n, t, c, s, *, scale=2.0, blank=0, dtype=np.float32, ragged=True):
    """Logits, labels, logit lengths and label lengths of a batch that is mostly feasible."""
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((n, t, c)) * scale).astype(dtype)
    labels = (blank + rng.integers(1, max(2, c), size=(n, s))) % c
    if not ragged:
        return logits, labels, np.full(n, t), np.full(n, s)
    logit_lengths = rng.integers(max(0, t // 2), t + 1, size=n)
    label_lengths = np.minimum(rng.integers(0, s + 1, size=n), logit_lengths // 2)
    return logits, labels, logit_lengths, label_lengths


def strict_array(array, device):
    """To array_api_strict, integers as wide as the device has them."""
    array = np.asarray(array)
    where = array_api_strict.Device(device)
    if array.dtype == np.int64 and device == "no_x64":
        array = array.astype(np.int32)
    return array_api_strict.asarray(array, device=where)


def strict_values(array):
    """Values of a strict array on any device, as NumPy."""
    on_cpu = array_api_strict.asarray(array, device=array_api_strict.Device("CPU_DEVICE"))
    return np.asarray(on_cpu)


def to_lists(array):
    """Values of an array of any library and device, as (lists of) Python numbers."""
    if isinstance(array, array_api_strict.ones(1).__class__):
        array = strict_values(array)
    return array.tolist()


def check_sharded(program, backend, *options):
    """Run ``tests.<program>`` in a process in which JAX has four devices."""
    child = subprocess.run(
        [sys.executable, "-W", "error", "-m", f"tests.{program}", backend, *options],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert child.returncode == 0, child.stdout + child.stderr
    assert child.stdout.endswith("done\n")


def build_wheel(project: Path, into: Path) -> Path:
    """Build the wheel of a project with this environment's own build backend."""
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir"]
    pip = [sys.executable, "-m", "pip", "wheel", *options, into, project]
    subprocess.run(pip, check=True, timeout=300)
    (wheel,) = into.glob("*.whl")
    return wheel
