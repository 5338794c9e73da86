"""Environment variables, read strictly: a value that means nothing raises an error."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

from ctcx._errors import CTCError

__all__ = ["env_count", "env_flag", "env_text", "split_names"]

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"", "0", "false", "no", "off"})


def env_text(variable: str) -> str | None:
    """Read an environment variable in code that runs in each call.

    Where the variable isn't set, as is usual, this is faster than ``os.environ.get``, which raises
    and catches an exception then.

    Parameters
    ----------
    variable : str
        Its name.

    Returns
    -------
    str or None
        None where it isn't set.

    Raises
    ------
    TypeError
        The name is no string.
    """
    kept = getattr(os.environ, "_data", None)  # where CPython keeps them, by encoded names
    if kept is not None and _encoded(variable) not in kept:
        return None
    return os.environ.get(variable)


@lru_cache(maxsize=16)
def _encoded(variable: str) -> Any:
    return os.environ.encodekey(variable)


def env_flag(variable: str) -> bool:
    """Whether a yes-or-no environment variable says yes; unset or empty is no.

    Raises CTCError: the value is neither a yes nor a no.
    """
    value = os.environ.get(variable, "").strip().lower()
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    msg = (
        f"the environment variable {variable}={os.environ[variable]!r} is neither yes "
        f"(1, true, yes, on) nor no (0, false, no, off, empty)"
    )
    raise CTCError(msg)


def env_count(variable: str, default: int | None) -> int | None:
    """Return the number in an environment variable; unset or empty is the default.

    Raises CTCError: the value is no whole number, or a negative one.
    """
    text = os.environ.get(variable, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdigit()):
        msg = f"the environment variable {variable}={text!r} is no whole number of 0 or more"
        raise CTCError(msg)
    return int(text)


def split_names(text: str) -> tuple[str, ...]:
    """Names in a comma-separated list, in order, without blanks and empty parts."""
    return tuple(name for part in text.split(",") if (name := part.strip()))
