"""What there is to see of one sequence: a lattice, and another implementation's numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctcx._diagnosis.best_path import best_path
from ctcx._diagnosis.divergence import first_parting
from ctcx._diagnosis.mistakes import diagnose
from ctcx._errors import CTCInputError
from ctcx._reference.lattice import solve
from ctcx.fixtures._text import JSON, array_text

if TYPE_CHECKING:
    from ctcx._diagnosis.answer import Answer
    from ctcx._diagnosis.divergence import Parting
    from ctcx._diagnosis.mistakes import Mistake
    from ctcx._reference.lattice import Lattice
    from ctcx.fixtures._fixture import Fixture

__all__ = ["View", "as_json", "look"]

_FORMAT = 1
_ARRAYS = ("log_softmax", "softmax", "alpha", "beta", "occupancy", "gradient")


@dataclass(frozen=True, eq=False, kw_only=True)
class View:
    """One sequence of a fixture from inside.

    Attributes
    ----------
    fixture : Fixture
        Where it is from.
    sequence : int
        Which one.
    lattice : Lattice
        Its numbers, computed anew.
    best_path : list of int
        A state for each frame.
    dtype : str
        Whose tolerances hold for `answer`.
    answer : Answer or None
        What another implementation says about the whole fixture.
    parting : Parting or None
        Where that first goes wrong in this sequence.
    mistake : Mistake or None
        What it probably does.
    """

    fixture: Fixture
    sequence: int
    lattice: Lattice
    best_path: list[int]
    dtype: str
    answer: Answer | None = None
    parting: Parting | None = None
    mistake: Mistake | None = None


def look(fixture: Fixture, sequence: int | None, dtype: str, answer: Answer | None = None) -> View:
    """Return what there is to see.

    Parameters
    ----------
    fixture : Fixture
        The problem.
    sequence : int or None
        Which sequence; None for the first that `answer` is wrong in, or else the first.
    dtype : str
        Whose tolerances hold.
    answer : Answer, optional
        Another implementation's numbers.

    Raises
    ------
    CTCInputError
        There is no such sequence.
    """
    count = fixture.shape[0]
    if sequence is not None and not 0 <= sequence < count:
        msg = f"sequence is {sequence}: expected 0 to {count - 1}, those of {fixture.name!r}"
        raise CTCInputError(msg, argument="sequence", value=sequence)
    found = {}
    if answer is not None:
        found = {n: first_parting(fixture, answer, n, dtype) for n in range(count)}
    if sequence is None:
        sequence = next((n for n, parting in found.items() if parting), 0)
    lattice = solve(fixture.problem(sequence))
    return View(
        fixture=fixture,
        sequence=sequence,
        lattice=lattice,
        best_path=best_path(lattice),
        dtype=dtype,
        answer=answer,
        parting=found.get(sequence),
        mistake=None if answer is None else diagnose(fixture, answer, dtype),
    )


def as_json(view: View) -> str:
    """Return the view as JSON text; infinities are strings."""
    lattice, parting = view.lattice, view.parting
    facts = {
        "format": "ctcx-trace",
        "version": _FORMAT,
        "fixture": view.fixture.name,
        "sequence": view.sequence,
        "blank": view.fixture.blank,
        "labels": lattice.states[1::2].tolist(),
        "states": lattice.states.tolist(),
        "skips": lattice.skips.tolist(),
        "loss": lattice.loss if lattice.feasible else "inf",
        "feasible": lattice.feasible,
        "best_path": view.best_path,
    }
    if view.answer is not None:
        facts["against"] = {
            "dtype": view.dtype,
            "right": parting is None,
            "parting": None
            if parting is None
            else {
                "quantity": parting.quantity,
                "frame": parting.frame,
                "column": parting.column,
                "got": _plain(parting.got),
                "expected": _plain(parting.expected),
                "count": parting.count,
            },
            "mistake": None if view.mistake is None else view.mistake.name,
            "sentence": None if view.mistake is None else view.mistake.sentence,
        }
    members = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in facts.items()]
    members += [f'"{name}": {array_text(getattr(lattice, name), JSON)}' for name in _ARRAYS]
    return "{" + ",\n".join(members) + "}"


def _plain(value: float) -> float | str:
    return value if abs(value) < float("inf") else str(value)
