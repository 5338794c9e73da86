"""One CTC computation from inside: what is in it, where another one parts from it, and why."""

from __future__ import annotations

from ctcx._inside._answer import QUANTITIES, Answer, read_answer
from ctcx._inside._mistakes import MISTAKES, diagnose
from ctcx._inside._parting import Parting, first_parting
from ctcx._inside._path import best_path

__all__ = [
    "MISTAKES",
    "QUANTITIES",
    "Answer",
    "Parting",
    "best_path",
    "diagnose",
    "first_parting",
    "read_answer",
]
