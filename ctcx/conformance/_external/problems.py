"""What programs are asked: the named fixtures, and random ones of several kinds."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from ctcx._errors import CTCInputError
from ctcx.conformance._external.operations import OPERATIONS
from ctcx.fixtures import RandomOptions, named, random
from ctcx.fixtures._cross_check import cross_checked
from ctcx.fixtures._fixture import Recipe, build
from ctcx.fixtures._random_fixtures import PortableRandom, noise
from ctcx.fixtures._text import JSON, array_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctcx.fixtures import Fixture

__all__ = [
    "LOSS",
    "PROTOCOL",
    "chosen",
    "known_operations",
    "problem_id",
    "problem_line",
    "problems",
    "problems_of",
]

PROTOCOL = 3
"""Version of the lines that are exchanged, and of what is asked."""

LOSS = "loss"
"""The operation of version 1, whose lines stay as they were."""

_RANDOM = {
    "random": RandomOptions(count=8, frames=(5, 60), classes=8, seed=1),
    "random-blank-last": RandomOptions(count=4, frames=(5, 40), classes=12, blank=-1, seed=2),
    "random-confident": RandomOptions(
        count=4, frames=(20, 60), classes=32, distribution="confident", seed=3
    ),
}

_SMALL = {
    "small": RandomOptions(count=4, frames=(3, 5), labels=(1, 3), classes=4, seed=4),
    "small-blank-last": RandomOptions(
        count=3, frames=(3, 5), labels=(1, 3), classes=4, blank=-1, seed=5
    ),
    "small-blank-middle": RandomOptions(
        count=2, frames=(3, 5), labels=(1, 3), classes=4, blank=1, seed=6
    ),
}

_SENT = ("logits", "logit_lengths", "labels", "label_lengths", "one_hot")


@lru_cache(maxsize=1)
def problems() -> tuple[Fixture, ...]:
    """Return the problems of most operations, in order."""
    made = [one for one in named() if one.guide is None]
    for kind, options in _RANDOM.items():
        made += [replace(one, name=f"{kind}-{i}") for i, one in enumerate(random(options))]
    return tuple(made)


@lru_cache(maxsize=1)
def small_problems() -> tuple[Fixture, ...]:
    """Return problems whose frames can say few labels, with double letters among them."""
    made = []
    for kind, options in _SMALL.items():
        made += [replace(one, name=f"{kind}-{i}") for i, one in enumerate(random(options))]
    return (*made, *cross_checked(build([_double_letters()])))


def _double_letters() -> Recipe:
    """Return sequences of different lengths whose best path has a blank between equal labels."""
    sequences = []
    for n, path in enumerate(([1, 0, 1], [2, 0, 2, 0, 2], [3, 3, 0, 3], [1, 1])):
        logits = noise(PortableRandom(8, n), len(path), 4, 1.0)
        logits[range(len(path)), path] += 2.0
        sequences.append((logits, [path[0]]))
    about = "Double letters, and what isn't one: a blank between equal classes tells them apart."
    made_by = "ctcx conformance"
    return Recipe("small-double-letters", about, sequences, 0, made_by, junk=(20.0, 3))


@lru_cache(maxsize=1)
def guided_problems() -> tuple[Fixture, ...]:
    """Return problems with phrases, n-grams and label bonuses."""
    return tuple(one for one in named() if one.guide is not None)


def problems_of(operation: str) -> tuple[Fixture, ...]:
    """Return the problems of an operation, in order."""
    if operation == LOSS:
        return problems()
    kind = OPERATIONS[operation].problems
    if kind == "guided":
        return guided_problems()
    return small_problems() if kind == "small" else (*problems(), *small_problems())


def known_operations(names: Sequence[str]) -> tuple[str, ...]:
    """Return operations once each, ``"all"`` as all of them.

    Raises CTCInputError: there is no such operation, or none is named.
    """
    every = (LOSS, *OPERATIONS)
    for name in names:
        if name not in (*every, "all"):
            msg = f"there is no operation {name!r}: expected one of {', '.join((*every, 'all'))}"
            raise CTCInputError(msg, argument="operation", value=name)
    if not names:
        msg = f"no operation is named: expected some of {', '.join((*every, 'all'))}"
        raise CTCInputError(msg, argument="operation", value=names)
    return every if "all" in names else tuple(dict.fromkeys(names))


def chosen(
    names: Sequence[str] | None, operations: Sequence[str] = (LOSS,)
) -> list[tuple[str, Fixture]]:
    """Return the problems of these names, each with its operation; None for all.

    Raises CTCInputError: there is no problem of that name, or no such operation.
    """
    asked = [(each, one) for each in known_operations(operations) for one in problems_of(each)]
    by_name = {fixture.name for _, fixture in asked}
    for name in names or ():
        if name not in by_name:
            there = ", ".join(dict.fromkeys(fixture.name for _, fixture in asked))
            msg = f"there is no problem {name!r}: expected one of {there}"
            raise CTCInputError(msg, argument="check", value=name)
    if names is None:
        return asked
    return [
        pair
        for each in known_operations(operations)
        for name in names
        for pair in asked
        if pair[0] == each and pair[1].name == name
    ]


def problem_id(fixture: Fixture, operation: str = LOSS) -> str:
    """Return what the answer to a problem must have as its id."""
    return fixture.name if operation == LOSS else f"{operation}:{fixture.name}"


def problem_line(fixture: Fixture, operation: str = LOSS) -> str:
    """Return a problem as one line of JSON, without its end."""
    head: dict[str, object] = {"protocol": 1, "id": fixture.name, "blank": fixture.blank}
    arrays: tuple[str, ...] = _SENT
    if operation != LOSS:
        asked = OPERATIONS[operation]
        arrays += asked.arrays
        head = {"protocol": asked.protocol, "operation": operation}
        head |= {"id": problem_id(fixture, operation), "blank": fixture.blank, **asked.settings}
        head |= {name: getattr(fixture, name) for name in asked.facts}
        if asked.unique is not None:
            head["unique"] = fixture.arrays[asked.unique].tolist()
    # Decoders get labels, too: a program that knows the loss alone answers with that.
    members = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    members += [
        f'"{name}": {array_text(fixture.arrays[name], JSON)}'.replace("\n", "") for name in arrays
    ]
    return "{" + ", ".join(members) + "}"
