"""The directive ``executed``: shows code, runs it, and shows what it prints."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from executed import run
from sphinx.util.docutils import SphinxDirective

__all__ = ["Executed", "setup"]


class Executed(SphinxDirective):
    """A block of Python; all blocks of a page share their names."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Run the code; an exception of it fails the build."""
        self.env.note_reread()  # what it prints depends on more than the page
        names = self.env.current_document.setdefault("executed_names", {})
        code = "\n".join(self.content)
        found: list[nodes.Node] = [nodes.literal_block(code, code, language="python")]
        if printed := run(code, names).rstrip():
            found.append(nodes.literal_block(printed, printed, language="text"))
        return found


def setup(app: Any) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("executed", Executed)
    return {"parallel_read_safe": True}
