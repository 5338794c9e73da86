"""The directive ``facts``: puts what :mod:`facts` says about the code into a page."""

from __future__ import annotations

from typing import Any, ClassVar

from docutils import nodes
from docutils.statemachine import StringList
from facts import FACTS, ROOT
from sphinx.util.docutils import SphinxDirective

__all__ = ["Facts", "setup"]


class Facts(SphinxDirective):
    """``{facts} name`` is replaced with the Markdown that the function of that name returns."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """Parse the text as a part of the page."""
        name = self.arguments[0]
        if name not in FACTS:
            message = f"there are no facts {name!r}; there are {', '.join(sorted(FACTS))}"
            raise self.error(message)
        for source in sorted((ROOT / "ctcx").rglob("*.py")):
            self.env.note_dependency(str(source))
        lines = FACTS[name]().splitlines()
        container = nodes.Element()
        self.state.nested_parse(
            StringList(lines, source=f"facts {name}"),
            self.content_offset,
            container,
            match_titles=True,
        )
        return container.children


def setup(app: Any) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("facts", Facts)
    return {"parallel_read_safe": True}
