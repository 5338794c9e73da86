"""``ctcx compare``: every usable backend on the bundled inputs."""

from __future__ import annotations

from ctcx._comparison.result import TOLERANCE_OF, BackendResult, Comparison
from ctcx._comparison.run import compare, read_lines

__all__ = ["TOLERANCE_OF", "BackendResult", "Comparison", "compare", "read_lines"]
