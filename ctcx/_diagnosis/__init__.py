"""One CTC computation from inside: what is in it, where another one parts from it, and why."""

from __future__ import annotations

from ctcx._diagnosis.answer import QUANTITIES, Answer, read_answer
from ctcx._diagnosis.best_path import best_path
from ctcx._diagnosis.divergence import Divergence, first_divergence
from ctcx._diagnosis.examined import Examined, batch_of, examine
from ctcx._diagnosis.mistakes import MISTAKES, LikelyMistakes, diagnose

__all__ = [
    "MISTAKES",
    "QUANTITIES",
    "Answer",
    "Divergence",
    "Examined",
    "LikelyMistakes",
    "batch_of",
    "best_path",
    "diagnose",
    "examine",
    "first_divergence",
    "read_answer",
]
