"""How the documentation is built: ``sphinx-build -W --keep-going docs docs/_build``.

Needs no network. What pages state about the code comes from the code, through ``_ext/facts.py``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / "_ext"), str(Path(__file__).parents[1])]
# The pages describe ctcx itself, whatever else is installed or set where they are built.
os.environ["CTCX_DISABLE_PLUGINS"] = "all"
os.environ.pop("CTCX_BACKEND", None)

import ctcx  # noqa: E402 - must be found first

project = "ctcx"
author = "The ctcx developers"
copyright = author  # noqa: A001 - Sphinx's name for it
version = release = ctcx.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "executed_directive",
    "facts_directive",
    "mathml",
]
exclude_patterns = ["_build", "_ext", "_static", "examples"]

html_theme = "furo"
html_title = f"ctcx {release}"
html_copy_source = False
html_static_path = ["_static"]
html_math_renderer = "mathml"

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

add_module_names = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "none"  # the numpydoc sections say types, and shapes with them
python_maximum_signature_line_length = 88
numpydoc_show_class_members = False

nitpicky = True
nitpick_ignore_regex = [
    # Of the standard library, whose inventory a build without a network can't read.
    ("py:class", r"(bool|enum\.Enum|Exception|float|int|object|RuntimeError|str|tuple|ValueError)"),
    ("py:class", r"(UserWarning|Warning|NamedTuple|Enum)"),
    # What docstrings name for readers of the source.
    ("py:.*", r"ctcx\._core\..*"),
    # Fields are described in their class, as a list.
    ("py:attr", r"(ctcx\.plugin\.)?(Backend|LowerBound|Problem|Namespace)\..*"),
]
