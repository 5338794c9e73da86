"""Formulas as MathML, which browsers draw themselves: no script, no fonts, no network.

docutils converts the LaTeX. A formula that it can't read fails the build.
"""

from __future__ import annotations

from typing import Any, NoReturn

from docutils import nodes
from docutils.utils.math.latex2mathml import MathError, tex2mathml
from sphinx.errors import ExtensionError

__all__ = ["setup"]


def _converted(node: nodes.Element, *, as_block: bool) -> str:
    try:
        return tex2mathml(node.astext(), as_block=as_block)
    except MathError as error:
        msg = f"the formula {node.astext()!r} can't be converted to MathML: {error}"
        raise ExtensionError(msg) from error


def _inline(writer: Any, node: nodes.math) -> NoReturn:
    writer.body.append(_converted(node, as_block=False))
    raise nodes.SkipNode


def _block(writer: Any, node: nodes.math_block) -> NoReturn:
    formula = _converted(node, as_block=True)
    writer.body.append(writer.starttag(node, "div", CLASS="math") + formula + "</div>\n")
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, Any]:
    """Register the renderer."""
    app.add_html_math_renderer(
        "mathml", inline_renderers=(_inline, None), block_renderers=(_block, None)
    )
    app.add_css_file("mathml.css")
    return {"parallel_read_safe": True}
