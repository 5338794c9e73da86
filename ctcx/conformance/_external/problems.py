"""What programs are asked: the named fixtures, and random ones of several kinds."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from ctcx._errors import CTCInputError
from ctcx.fixtures import RandomOptions, named, random
from ctcx.fixtures._text import JSON, array_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctcx.fixtures import Fixture

__all__ = ["PROTOCOL", "chosen", "problem_line", "problems"]

PROTOCOL = 1
"""Version of the lines that are exchanged, and of what is asked."""

_RANDOM = {
    "random": RandomOptions(count=8, frames=(5, 60), classes=8, seed=1),
    "random-blank-last": RandomOptions(count=4, frames=(5, 40), classes=12, blank=-1, seed=2),
    "random-confident": RandomOptions(
        count=4, frames=(20, 60), classes=32, distribution="confident", seed=3
    ),
}

_SENT = ("logits", "logit_lengths", "labels", "label_lengths", "one_hot")


@lru_cache(maxsize=1)
def problems() -> tuple[Fixture, ...]:
    """Return the whole suite, in order."""
    made = named()
    for kind, options in _RANDOM.items():
        made += [replace(one, name=f"{kind}-{i}") for i, one in enumerate(random(options))]
    return tuple(made)


def chosen(names: Sequence[str] | None) -> list[Fixture]:
    """Return the problems of these names; None for all.

    Raises
    ------
    CTCInputError
        There is no problem of that name.
    """
    if names is None:
        return list(problems())
    by_name = {fixture.name: fixture for fixture in problems()}
    for name in names:
        if name not in by_name:
            msg = f"there is no problem {name!r}: expected one of {', '.join(by_name)}"
            raise CTCInputError(msg, argument="check", value=name)
    return [by_name[name] for name in names]


def problem_line(fixture: Fixture) -> str:
    """Return a problem as one line of JSON, without its end."""
    head = {"protocol": PROTOCOL, "id": fixture.name, "blank": fixture.blank}
    members = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    members += [
        f'"{name}": {array_text(fixture.arrays[name], JSON)}'.replace("\n", "") for name in _SENT
    ]
    return "{" + ", ".join(members) + "}"
