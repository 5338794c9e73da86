"""The examples on the pages "Coming from ..." run, and print what the pages say."""

from pathlib import Path

import pytest

from tests.test_readme import blocks_of

PAGES = sorted((Path(__file__).parents[2] / "docs" / "coming-from").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_example_runs_and_prints_what_the_page_says(page, capsys):
    code, *printed = blocks_of(page.read_text(encoding="utf-8"))
    assert code.language == "python"
    exec(compile(code.text, str(page), "exec"), {"__name__": "page"})
    expected = "".join(block.text for block in printed if block.language == "text")
    assert capsys.readouterr().out == expected
