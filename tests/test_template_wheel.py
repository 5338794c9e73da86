"""From a wheel, in an environment of its own, as a third party would: the kit passes and fails.

A kit that never fails proves nothing, so the template is also installed with two planted faults.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import build_wheel

pytestmark = [pytest.mark.wheel, pytest.mark.slow, pytest.mark.xdist_group("wheel")]

CORE = Path(__file__).parents[1]
TEMPLATE = CORE / "backends" / "template"

USE_IT = """
import ctcx, numpy as np
logits = np.zeros((1, 3, 4), dtype=np.float32)
with ctcx.trace() as runs:
    named = ctcx.ctc_loss(logits, [[1, 2]], backend="template")
    automatic = ctcx.ctc_loss(logits, [[1, 2]])
np.testing.assert_allclose(named, automatic, rtol=1e-6)
print(*(f"{run.backend} of {run.provenance}" for run in runs), sep=", ")
"""

FALLBACK = '''"""Computes nothing itself."""

import ctcx


def loss(logits, labels, logit_lengths, label_lengths, *, blank):
    return ctcx.ctc_loss(
        logits, labels, logit_lengths, label_lengths, blank=blank, backend="array-api"
    )


def loss_and_grad(logits, labels, logit_lengths, label_lengths, *, blank):
    return ctcx.ctc_loss_and_grad(
        logits, labels, logit_lengths, label_lengths, blank=blank, backend="array-api"
    )[:2]
'''


class Environment:
    """A virtual environment, and nothing of the one that runs the tests."""

    def __init__(self, where: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", where], check=True, timeout=300)
        self.where = where
        self._python = where / ("Scripts" if os.name == "nt" else "bin") / "python"

    def python(self, *arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        private = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name not in private and not name.startswith(("CTCX_", "PYTEST_"))
        }
        return subprocess.run(
            [self._python, *arguments],
            cwd=self.where,
            env=inherited | env,
            capture_output=True,
            text=True,
            timeout=600,
        )

    def install(self, *arguments: str | Path) -> None:
        done = self.python("-m", "pip", "install", "--quiet", *arguments)
        assert done.returncode == 0, done.stderr

    def run_the_suite(self) -> subprocess.CompletedProcess[str]:
        """Run a copy of the template's tests, of some, away from this repository's settings.

        The rest, of drawn problems and of repeated calls, is left to the tests of the template.
        """
        shutil.copy(TEMPLATE / "tests" / "test_conformance.py", self.where)
        return self.python(
            *("-m", "pytest", "-q", "-rf", "-p", "no:cacheprovider", "test_conformance.py"),
            *("-k", "numpy-cpu-float32 and not check_repeats"),
            CTCX_TEST_DRAW="40",
        )


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheels of core and template, and what they depend on."""
    wheels = tmp_path_factory.mktemp("wheels")
    core = build_wheel(CORE, wheels / "core")
    template = build_wheel(TEMPLATE, wheels / "template")
    environment = Environment(tmp_path_factory.mktemp("environment"))
    environment.install(f"{core}[conformance]", template)
    return environment


def install_variant(environment: Environment, tmp_path: Path, kernels: str | None = None) -> None:
    """Install the template over itself, with another module of kernels if one is given."""
    project = tmp_path / "template"
    shutil.copytree(TEMPLATE, project)
    if kernels is not None:
        (project / "ctcx_template" / "kernels.py").write_text(kernels, encoding="utf-8")
    wheel = build_wheel(project, tmp_path / "wheel")
    environment.install("--no-deps", "--no-index", "--force-reinstall", wheel)


def failed_checks(done: subprocess.CompletedProcess[str]) -> set[str]:
    lines = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    return {line.split("[", 1)[1].split("-", 1)[0] for line in lines if "[" in line}


def test_the_template_works_from_its_wheel(environment, tmp_path):
    install_variant(environment, tmp_path)
    used = environment.python("-W", "error", "-c", USE_IT)
    assert used.returncode == 0, used.stderr
    first, second = used.stdout.strip().split(", ")
    assert first.startswith("template of ctcx-template 0.")
    assert second.startswith("array-api of ctcx 0.")
    done = environment.run_the_suite()
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


def test_the_kit_finds_a_wrong_recursion(environment, tmp_path):
    right = (TEMPLATE / "ctcx_template" / "kernels.py").read_text(encoding="utf-8")
    rule = " & (states[2:] != states[:-2])"
    assert right.count(rule) == 1
    install_variant(environment, tmp_path, right.replace(rule, ""))
    done = environment.run_the_suite()
    assert done.returncode == 1, done.stdout
    failed = failed_checks(done)
    assert {"check_loss_by_enumeration", "check_gradient_by_enumeration", "check_loss"} <= failed
    # It is a wrong number, and no more: what has nothing to do with numbers still passes.
    others = {"check_takes_what_it_declares", "check_degenerate_shapes"}
    assert not others & failed


def test_the_kit_finds_a_kernel_that_lets_another_backend_compute(environment, tmp_path):
    install_variant(environment, tmp_path, FALLBACK)
    used = environment.python("-c", USE_IT)
    assert used.returncode == 0, used.stderr  # the numbers alone don't give it away
    done = environment.run_the_suite()
    assert done.returncode == 1, done.stdout
    assert {"check_loss", "check_gradient", "check_closed_forms"} <= failed_checks(done)
    assert "A kernel must compute by itself, never through another backend" in done.stdout
    assert "array-api (loss) then template (loss)" in done.stdout
