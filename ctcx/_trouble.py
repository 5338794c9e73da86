"""How trouble with a plugin is reported: a warning that names the plugin, or an error if strict."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from pathlib import Path

from ctcx._env import env_flag
from ctcx._errors import PluginError, PluginWarning

__all__ = ["STRICT", "one_line", "report", "strict"]

STRICT = "CTCX_STRICT_PLUGINS"
# Frames that no user wrote: of this package, and of the `with` of its context managers.
_INNER = (str(Path(__file__).parent) + os.sep, contextlib.__file__)


def strict() -> bool:
    """Whether a broken plugin is an error (``CTCX_STRICT_PLUGINS``) rather than a warning."""
    return env_flag(STRICT)


def report(message: str, error: BaseException | None = None) -> None:
    """Warn, or raise under ``CTCX_STRICT_PLUGINS=1``, chained to what went wrong.

    Raises
    ------
    PluginError
        In strict mode.
    """
    if strict():
        raise PluginError(message) from error
    warnings.warn(message, PluginWarning, stacklevel=_levels_to_the_caller())


def one_line(error: BaseException) -> str:
    """Type and message of an exception, without its further lines."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _levels_to_the_caller() -> int:
    """Stack level, seen from `report`, of the first frame that is not of this package."""
    level = 1
    frame = sys._getframe(1)  # noqa: SLF001 - what warnings itself uses; inspect.stack is slow
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INNER):
        frame = frame.f_back
        level += 1
    return level
