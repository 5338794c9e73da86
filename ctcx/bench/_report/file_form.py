"""The form of a run's JSON file: what each field must be that a report reads.

A file may have been edited or cut. So all fields are looked at before any is used, and what is
wrong is said of its place in the file, in one line.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from ctcx._errors import short_repr
from ctcx.bench._implementations.registered import Kind
from ctcx.bench._measure.schedule import Layout

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

__all__ = ["check_file"]

_LARGEST = 1e18
"""Of numbers of seconds, bytes and all else: what is larger would be no result of a measurement."""


class _Field(NamedTuple):
    """A field without parts: what it may hold, and how a message says so."""

    fits: Callable[[Any], bool]
    words: str


class _Each(NamedTuple):
    """A mapping from any names to values of one form."""

    form: Any


def _is_text(value: Any) -> bool:
    # Half of a surrogate pair can't be written into a report.
    return isinstance(value, str) and not any("\ud800" <= sign <= "\udfff" for sign in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_amount(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= _LARGEST


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and _is_amount(value)


def _is_finite(value: float) -> bool:
    return isinstance(value, int) or math.isfinite(value)  # an int may be more than any float


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and len(value) in (0, 4) and all(map(_is_count, value))


def _or_none(field: _Field) -> _Field:
    return _Field(lambda value: value is None or field.fits(value), f"{field.words}, or null")


def _one_of(*values: str) -> _Field:
    return _Field(lambda value: value in values, f"one of {', '.join(values)}")


_TEXT = _Field(_is_text, "a text")
_FLAG = _Field(lambda value: isinstance(value, bool), "true or false")
_COUNT = _Field(_is_count, "a whole number of 0 or more")
_ONE_OR_MORE = _Field(lambda value: _is_count(value) and value > 0, "a whole number of 1 or more")
_AMOUNT = _Field(_is_amount, "a number of 0 or more")
_TIME = _Field(lambda value: _is_amount(value) and value > 0, "a number above 0")
_ANY_NUMBER = _Field(
    lambda value: _is_number(value) and (abs(value) <= _LARGEST or not _is_finite(value)),
    "a number",
)

# A name that ends in "?" may be absent; others that a report doesn't read may be there.
_FACTS = {
    "first?": _or_none(_AMOUNT),
    "peak?": _or_none(_AMOUNT),
    "loss_rel?": _or_none(_ANY_NUMBER),
    "grad?": _or_none(_ANY_NUMBER),
    "load?": _AMOUNT,
}
_CELL = {"layout": _one_of(*get_args(Layout)), "workload": _TEXT, "implementation": _TEXT}
_RUN = {
    "command": _TEXT,
    "baseline": _TEXT,
    "seconds": _or_none(_AMOUNT),
    "machine": {
        "cpu": _TEXT,
        "architecture": _TEXT,
        "cores": _or_none(_COUNT),
        "usable_cores": _ONE_OR_MORE,
        "memory": _or_none(_COUNT),
        "system": _TEXT,
        "variables": _Each(_TEXT),
    },
    "environment": _Each(_TEXT),
    "copy_rate": _or_none(_AMOUNT),
    "implementations": [
        {
            "name": _TEXT,
            "kind": _one_of(*get_args(Kind)),
            "about?": _TEXT,
            "backend?": _TEXT,
            "library?": _TEXT,
            "jit?": _FLAG,
            "training?": _FLAG,
            "bound_of": [_TEXT],
        }
    ],
    "workloads": [
        {
            "name": _TEXT,
            "origin": _TEXT,
            "sweep": _or_none(_one_of(*"TNCL")),
            "size": _COUNT,
            "shape?": _Field(_is_shape, "four whole numbers of 0 or more, or none"),
            "cells?": _COUNT,
            "traffic?": _COUNT,
        }
    ],
    "missing": [
        {
            **_CELL,
            "verdict": _one_of("skipped", "failed", "wrong"),
            "reason": _TEXT,
            "facts?": _FACTS,
        }
    ],
    "excluded?": [{"implementation": _TEXT, "where": _TEXT, "reason": _TEXT}],
}
_ANY_BENCHMARK = {"extra_info": _Each(_Field(lambda _: True, "")), "stats": {"median": _ANY_NUMBER}}
_BENCHMARK = {
    "extra_info": {**_CELL, "facts": _FACTS},
    "stats": {"median": _TIME, "q1": _AMOUNT, "q3": _AMOUNT, "rounds": _ONE_OR_MORE},
}


def check_file(data: Mapping[str, Any], has_times: Callable[[Any], bool]) -> None:
    """Look at all that a report reads of a file; ``has_times`` says of which benchmarks it does.

    Raises ValueError, which names the place and says what was expected there.
    """
    _check(data, {"datetime": _TEXT, "ctcx": _RUN, "benchmarks": [_ANY_BENCHMARK]}, "")
    about = data["ctcx"]
    known = {
        argument: {one["name"] for one in about[f"{argument}s"]}
        for argument in ("workload", "implementation")
    }
    for place, bench in enumerate(data["benchmarks"]):
        if has_times(bench):
            _check(bench, _BENCHMARK, f"benchmarks[{place}]")
            _check_quartiles(bench["stats"], f"benchmarks[{place}].stats")
            _check_names(bench["extra_info"], known, f"benchmarks[{place}].extra_info")
    for place, cell in enumerate(about["missing"]):
        _check_names(cell, known, f"ctcx.missing[{place}]")


def _check_quartiles(stats: Mapping[str, Any], place: str) -> None:
    if not stats["q1"] <= stats["q3"]:
        msg = f"{place}.q3 is {stats['q3']}: expected at least q1, {stats['q1']}"
        raise ValueError(msg)


def _check_names(cell: Mapping[str, Any], known: Mapping[str, Collection[str]], place: str) -> None:
    for argument, names in known.items():
        if cell[argument] not in names:
            name = short_repr(cell[argument])
            msg = f"{place}.{argument} is {name}, which ctcx.{argument}s lacks"
            raise ValueError(msg)


def _check(value: Any, form: Any, place: str) -> None:
    if isinstance(form, _Field):
        if not form.fits(value):
            msg = f"{place} is {short_repr(value)}: expected {form.words}"
            raise ValueError(msg)
    elif isinstance(form, list):
        _check_kind(value, list, "a list", place)
        for index, one in enumerate(value):
            _check(one, form[0], f"{place}[{index}]")
    else:
        _check_kind(value, dict, "an object", place)
        for name, part, each in _parts(value, form, place):
            _check(part, each, f"{place}.{name}".lstrip("."))


def _check_kind(value: Any, kind: type, words: str, place: str) -> None:
    if not isinstance(value, kind):
        msg = f"{place} is {short_repr(value)}: expected {words}"
        raise ValueError(msg)  # noqa: TRY004 - a value of a file


def _parts(value: dict[str, Any], form: Any, place: str) -> list[tuple[str, Any, Any]]:
    """Names, values and forms of an object's fields."""
    if isinstance(form, _Each):
        for name in value:
            _check(name, _TEXT, f"a name in {place}")
        return [(name, part, form.form) for name, part in value.items()]
    found = []
    for key, each in form.items():
        name = key.removesuffix("?")
        if name in value:
            found.append((name, value[name], each))
        elif name == key:
            msg = f"{place or 'it'} has no {name!r}"
            raise ValueError(msg)
    return found
