"""Strings ``"package.module:name"``, which name what a plugin imports on first use."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib import import_module
from typing import Any

from ctcx._errors import one_line, shown
from ctcx._isolation import attempt

__all__ = ["check_target", "load_target"]


_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*\Z")


@lru_cache(maxsize=256)
def load_target(target: str) -> Any:
    """Import what ``"package.module:attribute"`` names.

    Raises ImportError: the module can't be imported, has no such attribute, or tried to end the
    process; the message names ``target``. Exception: whatever else the import raises.
    """
    found, error = attempt(_imported, target)
    if error is None:
        return found
    if issubclass(type(error), Exception):  # isinstance() may run code of the plugin's
        raise error
    msg = f"{target!r}: its import raised {one_line(error)}"
    raise ImportError(msg) from error


def _imported(target: str) -> Any:
    module_name, _, attribute = target.partition(":")
    module = import_module(module_name)
    try:
        return getattr(module, attribute)
    except AttributeError:
        msg = f"{target!r}: module {module_name!r} has no attribute {attribute!r}"
        raise ImportError(msg) from None


def check_target(where: str, target: object) -> None:
    if not isinstance(target, str) or not _TARGET.match(target):
        msg = f"{where} must look like 'package.module:function', got {shown(target)}"
        raise ValueError(msg)
