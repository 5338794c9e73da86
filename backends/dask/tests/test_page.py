"""The page about dask says what is so."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "dask.md"


def test_the_examples_of_the_page_are_so(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    namespace = {}
    text = PAGE.read_text(encoding="utf-8")
    for code, printed in re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", text, re.DOTALL):
        exec(compile(code, "dask.md", "exec"), namespace)
        assert capsys.readouterr().out == printed
    assert (tmp_path / "scores.parquet").is_file()
