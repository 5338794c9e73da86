"""The template's tutorial quotes the files as they are, and what it says of them is so."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

TEMPLATE = Path(__file__).parents[1] / "backends" / "template"
BLOCK = re.compile(r"`(?P<path>[\w./]+)`\n\n```(?:toml|python)\n(?P<code>.*?)```\n", re.DOTALL)


def quoted():
    readme = (TEMPLATE / "README.md").read_text(encoding="utf-8")
    return [(match["path"], match["code"]) for match in BLOCK.finditer(readme)]


def test_the_tutorial_quotes_all_that_a_plugin_needs():
    assert [path for path, _ in quoted()] == [
        "pyproject.toml",
        "ctcx_template/__init__.py",
        "ctcx_template/kernels.py",
        "tests/test_conformance.py",
    ]


@pytest.mark.parametrize(("path", "code"), quoted(), ids=[path for path, _ in quoted()])
def test_the_tutorial_quotes_the_files_as_they_are(path, code):
    text = (TEMPLATE / path).read_text(encoding="utf-8")
    if path.endswith("kernels.py"):
        assert f"\n{code}\n\n" in text
    else:
        assert code == text


def test_to_register_the_template_imports_no_kernel(monkeypatch):
    monkeypatch.syspath_prepend(str(TEMPLATE))
    monkeypatch.delitem(sys.modules, "ctcx_template", raising=False)
    monkeypatch.delitem(sys.modules, "ctcx_template.kernels", raising=False)
    import ctcx_template

    (backend,) = ctcx_template.ctcx_backends()
    assert "ctcx_template.kernels" not in sys.modules
    assert backend.opt_in
