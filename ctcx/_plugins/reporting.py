"""How trouble with a plugin is reported: a warning that names the plugin, or an error if strict."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from pathlib import Path

from ctcx._environment import env_flag
from ctcx._errors import PluginError, PluginWarning

__all__ = ["STRICT", "report", "strict", "warn"]

STRICT = "CTCX_STRICT_PLUGINS"
# Frames that no user wrote: of this package, and of the `with` of its context managers.
_INNER = (str(Path(__file__).parents[1]) + os.sep, contextlib.__file__)


def strict() -> bool:
    """Whether a broken plugin raises an error (``CTCX_STRICT_PLUGINS``), not a warning."""
    return env_flag(STRICT)


def report(message: str, error: BaseException | None = None) -> None:
    """Warn, or raise under ``CTCX_STRICT_PLUGINS=1``, chained to what went wrong.

    Raises PluginError: in strict mode.
    """
    if strict():
        raise PluginError(message) from error
    warn(message)


def warn(message: str) -> None:
    """Warn, at the line of the caller of ctcx."""
    warnings.warn(message, PluginWarning, stacklevel=_levels_to_the_caller())


def _levels_to_the_caller() -> int:
    """Stack level, seen from `report`, of the first frame that is not of this package."""
    level = 1
    frame = sys._getframe(1)  # noqa: SLF001 - what warnings itself uses; inspect.stack is slow
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INNER):
        frame = frame.f_back
        level += 1
    return level
