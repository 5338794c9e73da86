"""One word, one thing: a class name says which class is meant, and tests speak of public names."""

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAY_STAND_TWICE = 3
FEWER_PRIVATE_IMPORTS_THAN = 20
IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+(ctcx\w*[\w.]*)[ \t]+import[ \t]+(\([^)]*\)|.*)|import[ \t]+(.*ctcx.*))$",
    re.MULTILINE,
)


def duplicates(folders):
    """Places of module-level classes by name, for the names that more than one class has."""
    places = defaultdict(list)
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef):
                    places[node.name.lstrip("_")].append(path.as_posix())
    return {name: where for name, where in places.items() if len(where) > 1}


def packages():
    found = [ROOT / "ctcx", *ROOT.glob("backends/*/ctcx_*")]
    assert any(path.name == "ctcx_template" for path in found)
    return found


def test_at_most_three_class_names_stand_for_two_classes():
    assert len(found := duplicates(packages())) <= MAY_STAND_TWICE, found


def test_a_name_with_an_underscore_is_the_same_name(tmp_path):
    (tmp_path / "one.py").write_text("class Plan: ...")
    (tmp_path / "two.py").write_text("class _Plan: ...\nclass Other: ...")
    assert list(duplicates([tmp_path])) == ["Plan"]


def private_imports(text):
    """Import statements of private modules or names, in code and in code that is in strings."""
    found = []
    for statement in IMPORT.finditer(text):
        words = re.findall(r"[\w.]+", " ".join(part for part in statement.groups() if part))
        if any(re.search(r"(?:^|\.)_[a-z]", word) for word in words):
            found.append(statement[0].strip())
    return found


def test_few_tests_import_what_is_private():
    """What a test needs is public, or is reached through one of the few helpers that are here."""
    folders = [ROOT / "tests", ROOT / "benchmarks", *ROOT.glob("backends/*/tests")]
    found = {
        path.relative_to(ROOT).as_posix(): statements
        for folder in folders
        for path in sorted(folder.rglob("*.py"))
        if path != Path(__file__)
        and (statements := private_imports(path.read_text(encoding="utf-8")))
    }
    assert found
    assert sum(map(len, found.values())) < FEWER_PRIVATE_IMPORTS_THAN, found


def test_private_imports_are_seen_in_every_form():
    private = [
        "from ctcx._core import kernels",
        "    from ctcx import _peers",
        "from ctcx.bench import (\n    _report,\n    load_run,\n)",
        "import ctcx._core.kernels as kernels",
        "from ctcx_cpu import _native, kernels",
        "from ctcx.compat.torch._module import CTCLoss",
    ]
    public = [
        "import ctcx",
        "from ctcx.__main__ import main",
        "from ctcx import __version__, ctc_loss",
        "from ctcx.bench import load_run  # of ctcx",
        "from tests.helpers import _private",
    ]
    assert private_imports("\n".join([*private, *public])) == [one.strip() for one in private]
