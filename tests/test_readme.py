"""The README does what it says: its blocks run, and what it names is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.helpers import current_registry, need_what_is_imported

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


class Block(NamedTuple):
    language: str
    text: str
    line: int


def blocks_of(text):
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Block(m[1], m[2], text[: m.start()].count("\n") + 1) for m in found]


BLOCKS = blocks_of(README)
SHELL = [block.text for block in BLOCKS if block.language in {"sh", "bash", "console", "shell"}]


def python_blocks():
    """Each with what it is said to print, which stands in the text block after it."""
    for block, after in zip(BLOCKS, [*BLOCKS[1:], Block("", "", 0)], strict=True):
        if block.language == "python":
            printed = after.text if after.language == "text" else None
            yield pytest.param(block.text, printed, id=f"line {block.line}")


def test_the_first_two_blocks_are_the_only_ones_for_a_shell():
    assert [block.language for block in BLOCKS[:2]] == ["sh", "sh"]
    assert len(SHELL) == 2


@pytest.mark.parametrize("text", SHELL, ids=["main job", "tests"])
def test_a_shell_block_stands_alone(text):
    assert text.startswith("python3 -m venv .venv && . .venv/bin/activate\n")
    assert "\ncd " not in text


def test_tests_of_a_group_run_in_one_process(tmp_path):
    # What they share is expensive: builds with sanitizers, what JAX compiles. pytest-xdist ignores
    # the groups where it doesn't understand pytest.
    (tmp_path / "test_it.py").write_text(
        "import os, pathlib, time, pytest\n"
        "@pytest.mark.xdist_group('one')\n"
        "@pytest.mark.parametrize('which', range(4))\n"
        "def test_it(which):\n"
        "    time.sleep(0.1)\n"
        "    (pathlib.Path(__file__).parent / f'{which}.pid').write_text(str(os.getpid()))\n"
    )
    options = ("-q", "-n", "2", "--dist", "loadgroup", "-p", "no:cacheprovider")
    command = [sys.executable, "-m", "pytest", *options, "test_it.py"]
    environment = {key: value for key, value in os.environ.items() if "PYTEST" not in key}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    processes = {path.read_text() for path in tmp_path.glob("*.pid")}
    assert len(processes) == 1


@pytest.mark.parametrize("text", SHELL, ids=["main job", "tests"])
def test_a_shell_block_names_what_there_is(text):
    for group in re.findall(r"--group (\S+)", text):
        assert group in PYPROJECT["dependency-groups"]
    for editable, extras in re.findall(r'-e "?([\w./-]+)(?:\[([\w,]+)\])?"?', text):
        assert (ROOT / editable / "pyproject.toml").is_file()
        known = PYPROJECT["project"]["optional-dependencies"]
        assert set(filter(None, extras.split(","))) <= set(known)


def test_the_tests_need_no_library_that_the_package_does_not_need():
    assert not re.search(r"torch|jax|CTCX_TEST_NAMESPACES", SHELL[1])


def test_the_checks_of_a_change_require_all_libraries():
    (required,) = re.findall(r"CTCX_TEST_NAMESPACES=([\w.,]+)", README)
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert f"libraries={required}\n" in ci
    assert "CTCX_TEST_NAMESPACES=$libraries pytest_on_all_cores --ignore" in ci
    there = set(current_registry().namespaces)
    assert there - set(required.split(",")) == {"cupy", "mlx.core"}  # in steps of their own


def test_the_lines_for_windows_say_the_same():
    (windows,) = [block.text for block in BLOCKS if block.language == "powershell"]
    assert windows.splitlines()[1:3] == SHELL[1].splitlines()[1:3]
    assert windows.endswith(SHELL[1].splitlines()[-1] + "\n")


@pytest.mark.parametrize(("code", "printed"), list(python_blocks()))
def test_an_example_runs_and_prints_what_it_says(code, printed, capsys, monkeypatch):
    monkeypatch.delenv("CTCX_BACKEND", raising=False)
    compiled = compile(code, "README.md", "exec")
    if "import cupy" in code:
        return  # needs a GPU, and the text before it says that it has not been run on one
    need_what_is_imported(code)
    exec(compiled, {"__name__": "readme"})
    if printed is not None:
        assert capsys.readouterr().out == printed


def test_the_example_for_cupy_is_marked_as_not_run():
    before, found, _ = README.partition("```python\nimport cupy")
    assert found
    assert "not been run on a GPU" in before.strip().rpartition("\n\n")[2]


def test_every_library_has_a_line_that_says_where_it_is_verified():
    section = README.partition("## What is verified, where")[2].partition("\n## ")[0]
    names = {"jax.numpy": "JAX", "array_api_strict": "array-api-strict", "torch": "PyTorch"}
    names |= {"mlx.core": "MLX"}
    for library in current_registry().namespaces:
        assert f"| {names.get(library, library)}".lower() in section.lower()


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_the_files_it_names_are_there(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", text)
    spans = re.findall(r"`([\w.-]*/[\w./-]*|[\w-]+\.(?:py|md|toml))`", text)
    assert links
    assert spans
    for name in {*links, *spans}:
        # Modules of the package may be named without it.
        assert any((ROOT / base / name).exists() for base in ("", "ctcx", "ctcx/conformance")), name


def test_its_links_within_the_page_have_a_target():
    titles = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= anchors


def test_contributing_fits_a_screen():
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) <= 50
