"""One word, one thing: a class name says which class is meant, wherever it is read."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAY_STAND_TWICE = 3


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
