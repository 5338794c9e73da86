"""What the fields of descriptors may hold."""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet
from typing import Any

from ctcx._errors import one_line, shown
from ctcx._typing import DTYPES

__all__ = [
    "always_usable",
    "check_api",
    "check_callable",
    "check_line",
    "check_name",
    "check_names",
    "check_type",
    "freeze",
]


_NAME = re.compile(r"[a-z][a-z0-9_-]*\Z")


def always_usable() -> str | None:
    return None


def check_name(kind: str, name: object) -> None:
    if not isinstance(name, str) or not _NAME.match(name):
        msg = (
            f"{kind} name {shown(name)} is not valid: use lower-case letters, digits, '-' and '_', "
            f"starting with a letter"
        )
        raise ValueError(msg)


def check_names(where: str, descriptor: object, attribute: str) -> None:
    """Make a frozen set of one of names, which must not be empty."""
    names = freeze(where, descriptor, attribute)
    if not names:
        msg = f"{where}: {attribute} is empty, so it could never be used"
        raise ValueError(msg)
    if bad := [name for name in names if not isinstance(name, str)]:
        msg = f"{where}: {attribute} must be names, got {shown(bad[0])}"
        raise TypeError(msg)
    if attribute == "dtypes" and (strange := names.difference(DTYPES)):
        msg = f"{where}: unknown dtypes {sorted(strange)}; known: {sorted(DTYPES)}"
        raise ValueError(msg)


def freeze(where: str, descriptor: object, attribute: str) -> frozenset[Any]:
    """Make a frozen set of the value of a field; of sets, lists and tuples, which are finite."""
    given: object = getattr(descriptor, attribute)
    if isinstance(given, str):
        msg = f"{where}: {attribute} must be a set of names, got the string {shown(given)}"
        raise TypeError(msg)
    if not isinstance(given, (AbstractSet, list, tuple)):
        msg = f"{where}: {attribute} must be a set, got {shown(given)}"
        raise TypeError(msg)
    try:
        frozen = frozenset(given)
    except Exception as error:  # noqa: BLE001 - something in it can't be hashed
        msg = f"{where}: {attribute} can't be made a set: {one_line(error)}"
        raise TypeError(msg) from None
    object.__setattr__(descriptor, attribute, frozen)
    return frozen


def check_type(where: str, descriptor: object, attribute: str, kind: type) -> None:
    value: object = getattr(descriptor, attribute)
    if type(value) is not kind:  # True is an int, and no priority
        msg = f"{where}: {attribute} must be of type {kind.__name__}, got {shown(value)}"
        raise TypeError(msg)


def check_callable(where: str, descriptor: object, attribute: str) -> None:
    value: object = getattr(descriptor, attribute)
    if not callable(value):
        msg = f"{where}: {attribute} must be a function, got {shown(value)}"
        raise TypeError(msg)


def check_line(where: str, descriptor: object, attribute: str) -> None:
    value: object = getattr(descriptor, attribute)
    if not isinstance(value, str) or not value.isprintable():
        msg = f"{where}: {attribute} must be one line of text, got {shown(value)}"
        raise TypeError(msg)


def check_api(where: str, api: object) -> None:
    match api:
        case (int(major), int(minor)) if isinstance(api, tuple):
            if not isinstance(major, bool) and not isinstance(minor, bool):
                return
    msg = f"{where}: api must be two integers (major, minor), got {shown(api)}"
    raise TypeError(msg)
