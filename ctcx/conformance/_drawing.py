"""How many problems are drawn, from which seed, and where failures are written."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DRAW", "DRAWN", "FAILURES", "SEED", "THOROUGH", "Drawing"]

DRAW = "CTCX_TEST_DRAW"
SEED = "CTCX_TEST_SEED"
THOROUGH = "CTCX_TEST_THOROUGH"

DRAWN = "check_drawn_problems"
"""The check that draws."""

FAILURES = "ctcx-failures"
"""Folder, in the current directory, that problems which a backend gets wrong are written to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """What the check of drawn problems is asked for."""

    count: int | None = None
    """How many problems; None: what a run draws by default, for which fewer are drawn where a call
    takes longer."""
    seed: int = 0
    """Other seeds give other problems."""
    thorough: bool = False
    """Draw thousands, the largest among them: for a night."""
    folder: str = FAILURES
    """Where a problem with a wrong result is written to."""
    replay: str | None = None
    """Only this one: a file that the kit has written, or the name of a drawn problem."""

    def __post_init__(self) -> None:
        for name, value in (("count", self.count), ("seed", self.seed)):
            if value is not None and value < 0:
                msg = f"{name} of drawn problems is {value!r}: expected at least 0"
                raise ValueError(msg)
