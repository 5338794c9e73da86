"""What there is to see of one sequence: a lattice, and another implementation's numbers."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctcx._diagnosis.best_path import best_path
from ctcx._diagnosis.divergence import first_divergence
from ctcx._diagnosis.mistakes import diagnose
from ctcx._errors import CTCInputError
from ctcx._reference.lattice import solve
from ctcx.fixtures._operations import is_the_only_path
from ctcx.fixtures._text import JSON, array_text

if TYPE_CHECKING:
    from ctcx._diagnosis.answer import Answer
    from ctcx._diagnosis.divergence import Divergence
    from ctcx._diagnosis.mistakes import LikelyMistakes
    from ctcx._reference.lattice import Lattice
    from ctcx.fixtures._fixture import Fixture

__all__ = ["SequenceInspection", "as_json", "inspect_sequence"]

_FORMAT = 1
_ARRAYS = ("log_softmax", "softmax", "alpha", "beta", "occupancy", "gradient")


@dataclass(frozen=True, eq=False, kw_only=True)
class SequenceInspection:
    """One sequence of a fixture from inside."""

    fixture: Fixture
    """Where it is from."""
    sequence: int
    """Which one."""
    lattice: Lattice
    """Its numbers, computed anew."""
    best_path: list[int]
    """A state for each frame."""
    best_score: float
    """Log-probability of that path; -inf where there is none."""
    best_is_unique: bool
    """Whether all other paths are worse."""
    dtype: str
    """Whose tolerances hold for `answer`."""
    answer: Answer | None = None
    """What another implementation says about the whole fixture."""
    divergence: Divergence | None = None
    """Where that first goes wrong in this sequence."""
    diagnosis: LikelyMistakes | None = None
    """What it probably does."""


def inspect_sequence(
    fixture: Fixture, sequence: int | None, dtype: str, answer: Answer | None = None
) -> SequenceInspection:
    """Return what there is to see of a sequence, and of another program's ``answer`` about it.

    Without a ``sequence``, it is the first that the answer is wrong in, or else the first.
    ``dtype`` is the one whose tolerances hold.

    Raises CTCInputError: there is no such sequence.
    """
    count = fixture.shape[0]
    if sequence is not None and not 0 <= sequence < count:
        msg = f"sequence is {sequence}: expected 0 to {count - 1}, those of {fixture.name!r}"
        raise CTCInputError(msg, argument="sequence", value=sequence)
    found = {}
    if answer is not None:
        found = {n: first_divergence(fixture, answer, n, dtype) for n in range(count)}
    if sequence is None:
        sequence = next((n for n, divergence in found.items() if divergence), 0)
    lattice = solve(fixture.problem(sequence))
    path = best_path(lattice)
    emitted = lattice.log_softmax[:, lattice.states]
    return SequenceInspection(
        fixture=fixture,
        sequence=sequence,
        lattice=lattice,
        best_path=path,
        best_score=math.fsum(emitted[range(len(path)), path]) if lattice.feasible else -math.inf,
        best_is_unique=lattice.feasible and is_the_only_path(emitted, lattice.states),
        dtype=dtype,
        answer=answer,
        divergence=found.get(sequence),
        diagnosis=None if answer is None else diagnose([(fixture, answer)], dtype),
    )


def as_json(view: SequenceInspection) -> str:
    """Return the view as JSON text; infinities are strings."""
    lattice, divergence = view.lattice, view.divergence
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
        "best_path_score": _plain(view.best_score),
        "best_path_unique": view.best_is_unique,
    }
    if view.answer is not None:
        facts["against"] = {
            "dtype": view.dtype,
            "right": divergence is None,
            "divergence": None
            if divergence is None
            else {
                "quantity": divergence.quantity,
                "frame": divergence.frame,
                "column": divergence.column,
                "got": _plain(divergence.got),
                "expected": _plain(divergence.expected),
                "count": divergence.count,
            },
            "verdict": None if view.diagnosis is None else view.diagnosis.verdict,
            "mistakes": [] if view.diagnosis is None else _names(view.diagnosis),
            "sentence": None if view.diagnosis is None else view.diagnosis.explanation or None,
        }
    members = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in facts.items()]
    members += [f'"{name}": {array_text(getattr(lattice, name), JSON)}' for name in _ARRAYS]
    return "{" + ",\n".join(members) + "}"


def _names(diagnosis: LikelyMistakes) -> list[str]:
    return [mistake.name for mistake in diagnosis.mistakes]


def _plain(value: float) -> float | str:
    return value if abs(value) < float("inf") else str(value)
