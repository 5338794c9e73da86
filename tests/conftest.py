"""Fixtures shared by the tests: real plugins, built and installed for the session."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
import zipfile
from collections import Counter
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hatchling.builders.wheel import WheelBuilder

import ctcx
from tests.helpers import current_registry, forget_kernels, reload_plugins

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
TESTS = count(1)
VARIABLES = ("CTCX_BACKEND", "CTCX_DISABLE_PLUGINS", "CTCX_STRICT_PLUGINS")


def pytest_sessionstart() -> None:
    """The tests state what is there without any plugin, so none may be installed."""
    others = {e.dist.name for e in metadata.entry_points(group="ctcx.plugins") if e.dist}
    if others:
        names = " ".join(sorted(others))
        msg = f"the tests of ctcx need an environment without plugins: pip uninstall {names}"
        raise pytest.UsageError(msg)


# The core computes half precision in float32, and on array-api-strict by the same code as on NumPy.
REPEATED = re.compile(r"-b?float16\]|-float64\]|-array_api_strict-")

# Long lists of parameters that take one way through the code. The README's tests have every fifth,
# so that each parameter takes all its values; `.ci/run` has all.
LONG_LISTS = {
    "tests/test_core_edges.py::test_a_constant_for_each_frame_changes_nothing",
    "tests/test_core_edges.py::test_large_offsets_are_as_exact_as_the_inputs",
    "tests/test_core_edges.py::test_rows_of_one_value",
    "tests/test_core_edges.py::test_up_to_the_limit",
    "tests/test_core_edges.py::test_wide_labels_are_sorted_by_class",
    "tests/test_diagnose.py::test_a_wrong_implementation_gets_the_name_of_its_own_mistake",
    "tests/test_exactness.py::test_a_large_shared_offset",
    "tests/test_exactness.py::test_random_batches",
    "tests/test_fixtures.py::test_a_wrong_number_in_a_file_is_found",
    "tests/test_isolation.py::test_ctrl_c_while_a_plugin_works_interrupts",
    "tests/test_isolation.py::test_hooks_that_return_what_can_not_be_looked_at",
    "tests/test_outside.py::test_trouble_with_one_problem_is_told_and_the_rest_goes_on",
    (
        "tests/test_outside_operations.py::"
        "test_a_mistake_is_named_over_all_problems_or_said_to_be_unknown"
    ),
    "tests/test_outside_operations.py::test_right_programs_pass_whichever_of_equal_results_they_give",
}

# Fixtures of a module that take seconds: all tests with one of them stay in one process, too.
SHARED = {"documented", "everything"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what the kit and long lists repeat on the core: the README's tests skip it.

    Tests that share what is costly stay in one process: what JAX compiles for one check of the kit
    serves others of the same dtype, and the right answers to drawn problems serve all libraries.
    """
    seen: Counter[str] = Counter()
    for item in items:
        name = item.nodeid.split("[")[0]
        if name in LONG_LISTS:
            if seen[name] % 5:
                item.add_marker(pytest.mark.slow)
            seen[name] += 1
        if "test_core_conformance" in item.nodeid and REPEATED.search(item.nodeid):
            item.add_marker(pytest.mark.slow)
        if found := re.search(r"\[check_\w+-(jax\.numpy-.+)\]", item.nodeid):
            item.add_marker(pytest.mark.xdist_group(found[1]))
        elif "[check_drawn_problems-" in item.nodeid:
            item.add_marker(pytest.mark.xdist_group("drawn problems"))
        for name in SHARED & {*getattr(item, "fixturenames", ())}:
            item.add_marker(pytest.mark.xdist_group(name))


def pytest_runtest_teardown() -> None:
    """Drop what JAX has compiled, every 100 tests.

    Each program maps memory, of which Linux allows a process 65,530 pieces; beyond, it crashes.
    """
    if next(TESTS) % 100 == 0 and (jax := sys.modules.get("jax")) is not None:
        jax.clear_caches()


@pytest.fixture(scope="session")
def plugin_sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directory for each project in tests/plugins with its wheel installed in it."""
    wheels = tmp_path_factory.mktemp("wheels")
    sites = {}
    for project in sorted(path.parent for path in HERE.glob("plugins/*/pyproject.toml")):
        # The build backend itself: pip would start two processes for each project.
        (wheel,) = WheelBuilder(str(project)).build(directory=str(wheels))
        sites[project.name] = tmp_path_factory.mktemp(project.name)
        with zipfile.ZipFile(wheel) as archive:  # to install a pure wheel is to unpack it
            archive.extractall(sites[project.name])
    return sites


class PluginBench:
    """Installs plugins for one test, in this process and in those that it starts."""

    def __init__(
        self, sites: dict[str, Path], scratch: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.monkeypatch = monkeypatch
        self._sites = sites
        self._scratch = scratch
        self.paths: list[Path] = []
        # What the environment has installed besides must not take part.
        installed = metadata.entry_points(group="ctcx.plugins")
        self._foreign = sorted({entry.dist.name for entry in installed if entry.dist})
        self.block()

    def install(self, *names: str) -> None:
        """Put projects of tests/plugins on the path."""
        for name in names:
            self._add(self._sites[name])

    def write(
        self,
        name: str,
        code: str,
        *,
        distribution: str | None = None,
        module: str | None = None,
        meta: bool = True,
    ) -> None:
        """Install a plugin of one module of this code, as pip would leave it."""
        distribution = distribution or f"ctcx-{name}"
        module = module or distribution.replace("-", "_")
        site = self._scratch / distribution
        info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"{module}.py").write_text(code, encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[ctcx.plugins]\n{name} = {module}\n")
        if meta:
            (info / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
            )
        self._add(site)

    def _add(self, site: Path) -> None:
        self.paths.append(site)
        self.monkeypatch.syspath_prepend(str(site))

    def block(self, *names: str) -> None:
        """Set ``CTCX_DISABLE_PLUGINS``."""
        self.monkeypatch.setenv("CTCX_DISABLE_PLUGINS", ",".join([*names, *self._foreign]))

    def load(self) -> tuple[Any, list[str]]:
        """Load all plugins anew; the registry, and the warnings that loading gave."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loaded = reload_plugins()
        assert all(warning.category is ctcx.PluginWarning for warning in caught)
        return loaded, [str(warning.message) for warning in caught]

    def record(self, name: str) -> Any:
        """What became of the plugin with this entry-point name."""
        (found,) = [r for r in current_registry().plugins if r.name == name]
        return found

    def python(self, code: str, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run code in a fresh interpreter that has the same plugins."""
        paths = [*self.paths, Path(ctcx.__file__).parents[1]]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))} | env
        return subprocess.run(
            [sys.executable, *options, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def forget(self) -> None:
        """Drop the modules that were imported from the plugins' directories."""
        folders = tuple(f"{path}{os.sep}" for path in self.paths)
        for name, module in list(sys.modules.items()):
            if (getattr(module, "__file__", None) or "").startswith(folders):
                del sys.modules[name]
        forget_kernels()


@pytest.fixture
def plugins(plugin_sites: dict[str, Path], tmp_path: Path) -> Iterator[PluginBench]:
    """Bench for plugins; the test begins with none but the built-in one."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for variable in VARIABLES:
            monkeypatch.delenv(variable, raising=False)
        bench = PluginBench(plugin_sites, tmp_path, monkeypatch)
        yield bench
        bench.forget()
        exec("")  # a KeyboardInterrupt that left the latest one would end the process at its exit
    reload_plugins()
