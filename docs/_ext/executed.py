"""Code of a page that is run when the page is built; its output stands below it.

Nothing here needs Sphinx, so that the tests can run the same blocks.
"""

from __future__ import annotations

import contextlib
import io
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["outputs", "run"]

_BLOCK = re.compile(r"^```\{executed\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run(code: str, names: dict[str, Any]) -> str:
    """Run a block in the names of the blocks before it, and return what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "<page>", "exec"), names)  # noqa: S102 - the page's own code
    return printed.getvalue()


def outputs(page: Path) -> list[str]:
    """Return what each block of a page prints."""
    names: dict[str, Any] = {}
    return [run(code, names) for code in _BLOCK.findall(page.read_text(encoding="utf-8"))]
