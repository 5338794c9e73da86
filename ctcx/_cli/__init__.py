"""The command line: one module for each command, and what they share.

Imported by :mod:`ctcx.__main__` alone, after it has made sure of typer and rich.
"""

from __future__ import annotations

from ctcx._cli.app import app, run

__all__ = ["app", "run"]
