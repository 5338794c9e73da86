"""All that is public is documented, and the documentation is so."""

from __future__ import annotations

import doctest
import inspect
import os
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path

import pytest

import ctcx
from ctcx import compat, conformance, fixtures, plot, plugin
from ctcx.conformance import oracle
from ctcx.plugin import hookspecs
from tests.helpers import need_what_is_imported

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# A module of this name must not stay around for other tests.
sys.path.insert(0, str(DOCS / "_ext"))
try:
    import facts
finally:
    sys.path.remove(str(DOCS / "_ext"))

PAGES = sorted(
    path for path in DOCS.rglob("*.md") if not {"_build", "node_modules"} & set(path.parts)
)
FACTS_BLOCK = re.compile(r"^```\{facts\} ([\w-]+)\n```$", re.MULTILINE)

# Modules whose docstrings the pages show.
SHOWN = (
    "ctcx",
    "ctcx._api.align",
    "ctcx._api.beam_search",
    "ctcx._api.explain",
    "ctcx._api.greedy",
    "ctcx._api.guided_search",
    "ctcx._api.linear",
    "ctcx._api.loss",
    "ctcx._api.ngram",
    "ctcx._api.posterior",
    "ctcx._dispatch.requested",
    "ctcx._plugins.case",
    "ctcx._plugins.backend",
    "ctcx._errors",
    "ctcx._plugins.lower_bound",
    "ctcx._plugins.hookspecs",
    "ctcx._plugins.registry",
    "ctcx._api.hvp",
    "ctcx._inputs.labels",
    "ctcx._dispatch.report",
    "ctcx._dispatch.tracing",
    "ctcx.compat",
    "ctcx.compat.keras",
    "ctcx.compat.optax",
    "ctcx.compat.tensorflow",
    "ctcx.compat.tfjs",
    "ctcx.compat.torch",
    "ctcx.compat.torchaudio",
    "ctcx.conformance",
    "ctcx.conformance._external.run",
    "ctcx.conformance.oracle",
    "ctcx.conformance.suite",
    "ctcx.fixtures",
    "ctcx.plot",
    "ctcx.plugin",
)


def expand(page):
    """A page with the generated blocks filled in."""
    return FACTS_BLOCK.sub(lambda m: facts.FACTS[m[1]](), page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def documented():
    return "\n".join(map(expand, PAGES))


def public(module, without=()):
    """Names and values of all that a module says is public."""
    names = [name for name in module.__all__ if name not in without]
    return [(f"{module.__name__}.{name}", getattr(module, name)) for name in names]


PUBLIC = public(ctcx) + public(plugin) + public(conformance) + public(fixtures) + public(plot)
# But the two classes, whose frameworks may not be there.
PUBLIC += [
    (name, value)
    for module in map(import_module, (f"ctcx.compat.{name}" for name in compat.__all__))
    for name, value in public(module, without=("CTC", "CTCLoss"))
]
ORACLE = public(oracle)
FUNCTIONS = [(name, value) for name, value in PUBLIC if inspect.isfunction(value)]
CLASSES = [(name, value) for name, value in PUBLIC if inspect.isclass(value)]
DATACLASSES = [(name, value) for name, value in CLASSES + ORACLE if is_dataclass(value)]


def named(pairs):
    return [pytest.param(*pair, id=pair[0]) for pair in pairs]


@pytest.mark.parametrize("name", [name for name, _ in PUBLIC + ORACLE])
def test_every_public_name_is_on_a_page(documented, name):
    module, _, short = name.rpartition(".")
    data = rf"py:data\}}? {short}\n[^`]*:module: {re.escape(module)}\n"
    declared = rf"py:data:: ({re.escape(name)}|{short})\n"
    link = rf"\[`{re.escape(name)}`\]\("
    shown = rf"auto\w+:: {re.escape(name)}\n"
    assert re.search(f"{shown}|{data}|{declared}|{link}", documented)


@pytest.mark.parametrize("name", hookspecs.__all__)
def test_every_hook_is_on_a_page(documented, name):
    assert f"autofunction:: ctcx._plugins.hookspecs.{name}\n" in documented


@pytest.mark.parametrize("name", conformance.checks())
def test_every_check_is_on_a_page_with_what_it_proves(documented, name):
    (row,) = re.findall(rf"^\| `{name}` \| (.*?) \|", documented, re.MULTILINE)
    assert row.endswith(".")


@pytest.mark.parametrize("name", facts.command_names())
def test_every_command_is_on_a_page_with_its_options(documented, name):
    section = documented.partition(f"## `ctcx {name}`\n")[2].partition("\n## ")[0]
    assert f"Usage: ctcx {name}" in section
    assert "--help" in section


@pytest.mark.parametrize("name", sorted(facts.variables_in_source()))
def test_every_environment_variable_is_on_a_page(documented, name):
    assert re.search(rf"^\| `{name}` \|", documented, re.MULTILINE)


def test_every_generated_text_is_on_a_page():
    asked = [name for page in PAGES for name in FACTS_BLOCK.findall(page.read_text("utf-8"))]
    assert sorted(asked) == sorted(facts.FACTS)


def test_every_page_is_in_the_contents():
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    for page in PAGES:
        name = str(page.relative_to(DOCS).with_suffix(""))
        assert name == "index" or f"\n{name}\n" in index


def sections(obj):
    """Titles of the sections of a numpydoc docstring."""
    return set(re.findall(r"^(\w[\w ]*)\n-{3,}$", inspect.getdoc(obj) or "", re.MULTILINE))


@pytest.mark.parametrize(("name", "function"), named(FUNCTIONS))
def test_a_public_function_says_what_it_takes_returns_and_raises(name, function):
    signature = inspect.signature(function)
    wanted = set()
    if signature.parameters:
        wanted |= {"Parameters"}
    if signature.parameters and signature.return_annotation != "bool":  # a question raises nothing
        wanted |= {"Raises"}
    if str(signature.return_annotation) not in {"None", "Iterator[None]"}:
        wanted |= {"Yields" if "Iterator" in str(signature.return_annotation) else "Returns"}
    assert wanted <= sections(function), name


@pytest.mark.parametrize(
    ("name", "function"),
    named(FUNCTIONS + [pair for pair in ORACLE if inspect.isfunction(pair[1])]),
)
def test_a_public_function_describes_every_parameter(name, function):
    parameters = (inspect.getdoc(function) or "").partition("Parameters\n----------\n")[2]
    parameters = re.split(r"\n\n\w[\w ]*\n-{3,}", parameters)[0]
    # Lists of names may run over a line.
    heads = re.sub(r"\\\n", "", parameters)
    described = {
        part.strip().lstrip("*")
        for line in heads.splitlines()
        if line and not line.startswith(" ")
        for part in line.partition(" : ")[0].split(",")
    }
    assert set(inspect.signature(function).parameters) <= described, name


@pytest.mark.parametrize(("name", "cls"), named(DATACLASSES))
def test_a_public_dataclass_describes_every_field(name, cls):
    described = facts.fields_of(cls)
    assert {field.name for field in fields(cls)} <= set(described), name
    assert all(described.values())


@pytest.mark.parametrize("name", SHOWN)
def test_examples_in_docstrings_are_so(name, monkeypatch):
    for variable in facts.variables_in_source():
        monkeypatch.delenv(variable, raising=False)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    assert doctest.testmod(import_module(name), optionflags=flags).failed == 0


def test_the_documentation_speaks_of_the_package_as_it_is():
    """Files that pages name in inline code exist."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in re.findall(r"`((?:ctcx|docs|tests|backends|benchmarks)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name


def test_every_folder_is_on_the_page_about_the_architecture():
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    drawing = (DOCS / "architecture.svg").read_text(encoding="utf-8")
    packages = [path.parent.name for path in (ROOT / "ctcx").glob("*/__init__.py")]
    plugins = [path.parent.name for path in (ROOT / "backends").glob("*/pyproject.toml")]
    assert packages
    assert plugins
    assert [name for name in packages if f"| `ctcx/{name}/` |" not in page] == []
    assert [name for name in plugins if f"`backends/{name}/`" not in page] == []
    assert [name for name in packages if not re.search(rf"\b{name}\b", drawing)] == []


@pytest.mark.parametrize(
    "page", ["align.md", "differentiation.md", "large-heads.md", "occupancies.md"]
)
def test_examples_on_pages_are_so(page, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (DOCS / page).read_text(encoding="utf-8")
    need_what_is_imported(text)
    namespace = {}
    for code, printed in re.findall(
        r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", text, re.DOTALL
    ):
        exec(compile(code, page, "exec"), namespace)
        assert capsys.readouterr().out == printed


@pytest.mark.docs
def test_the_pages_build_without_a_warning(tmp_path):
    environment = os.environ | {"CTCX_STRICT_PLUGINS": "1"}
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", tmp_path / "trees"]
    done = subprocess.run(
        [*build, DOCS, tmp_path / "html"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    html = "".join(p.read_text(encoding="utf-8") for p in (tmp_path / "html").rglob("*.html"))
    for name in (*ctcx.__all__, *(f"plugin.{name}" for name in plugin.__all__)):
        assert f'id="ctcx.{name}"' in html or f'id="module-ctcx.{name}"' in html
    assert "<math" in html
    loaded = re.findall(r'<(?:script|img|iframe|link)[^>]*(?:src|href)="(?:https?:)?//[^"]*"', html)
    assert loaded == []  # a page is whole without a network
