"""What another implementation says about a fixture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ctcx._errors import CTCInputError
from ctcx.fixtures._fixture import ARRAYS
from ctcx.fixtures._read import numbers
from ctcx.fixtures._write import FORMAT, oriented

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctcx.fixtures._fixture import Fixture

__all__ = ["QUANTITIES", "Answer", "read_answer"]

Answer: TypeAlias = "dict[str, NDArray[np.float64]]"
"""Some of :data:`QUANTITIES`, batch-major and shaped as in the fixture."""

QUANTITIES = ("softmax", "log_softmax", "alpha", "loss", "beta", "occupancy", "gradient")
"""What may be compared, in the order in which it is computed."""


def read_answer(place: str, document: Any, fixture: Fixture) -> Answer:
    """Return the numbers of an answer, or of the fixture of the same name in a file of fixtures.

    The answer is an object with some of :data:`QUANTITIES`, each a nested list in the shape that
    the fixture has, with ``"inf"``, ``"-inf"`` and ``"nan"`` as strings; and with ``"layout"``, if
    it is ``"time-major"``. Errors call it ``place``.

    Raises CTCInputError: nothing to compare, a wrong shape, or no number; names the place.
    """
    if not isinstance(document, dict):
        msg = f"{place} is of type {type(document).__name__}: expected an object with 'loss'"
        raise CTCInputError(msg, argument=place)
    time_major = document.get("layout") == "time-major"
    if document.get("format") == FORMAT:
        place, document = _of_the_same_name(place, document, fixture)
    answer = {}
    for name in QUANTITIES:
        if document.get(name) is None:
            continue
        values = numbers(f"{place}.{name}", document[name])
        expected = fixture.arrays[name].shape
        if time_major:
            values = (
                oriented(name, values, time_major=True).astype(np.float64)
                if values.ndim == len(expected)
                else values
            )
        if values.shape != expected and values.size + int(np.prod(expected)):
            axes = ", ".join(ARRAYS[name])
            msg = f"{place}.{name} has the shape {values.shape}: expected {expected} ({axes})"
            raise CTCInputError(msg, argument=f"{place}.{name}")
        answer[name] = values.reshape(expected)
    if not answer:
        msg = f"{place} has none of {', '.join(QUANTITIES)}: expected at least 'loss'"
        raise CTCInputError(msg, argument=place)
    return answer


def _of_the_same_name(
    place: str, document: dict[str, Any], fixture: Fixture
) -> tuple[str, dict[str, Any]]:
    entries = document.get("fixtures")
    for i, entry in enumerate(entries if isinstance(entries, list) else ()):
        if isinstance(entry, dict) and entry.get("name") == fixture.name:
            return f"{place}: fixtures[{i}]", entry
    msg = f"{place} has no fixture {fixture.name!r}: expected one of that name"
    raise CTCInputError(msg, argument=place)
