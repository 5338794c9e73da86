"""The wheels are ready for an index of packages."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from tests.helpers import build_wheel

ROOT = Path(__file__).parents[1]
# ctcx-cpu, which is compiled, looks at its own.
PROJECTS = [ROOT, *(ROOT / "backends" / name for name in ("cuda", "numba", "template"))]

pytestmark = [pytest.mark.wheel, pytest.mark.slow, pytest.mark.xdist_group("wheel")]


@pytest.fixture(scope="module", params=PROJECTS, ids=lambda path: path.name)
def wheel(request, tmp_path_factory):
    return build_wheel(request.param, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


@pytest.mark.parametrize("check", ["twine check --strict", "check_wheel_contents"])
def test_the_tools_of_the_trade_find_nothing(wheel, check):
    done = subprocess.run(
        [sys.executable, "-m", *check.split(), wheel], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_has_no_link_that_only_works_in_the_repository(metadata):
    page = metadata.get_payload()
    assert page.startswith("# ctcx")
    links = re.findall(r"\]\(([^)]*)\)", page)
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


def test_the_metadata_say_what_an_index_shows(metadata, wheel):
    assert metadata["Summary"]
    assert metadata["Author"] == "The ctcx developers"
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    package = metadata["Name"].replace("-", "_")
    assert f"{package}/py.typed" in zipfile.ZipFile(wheel).namelist()
    if metadata["Name"] != "ctcx":  # a plugin goes with the versions that have its plugin API
        assert "ctcx<0.2,>=0.1" in metadata.get_all("Requires-Dist")
