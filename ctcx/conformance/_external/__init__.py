"""The suite for programs in any language: as a child process, or by files.

``problems``, ``operations``
    What is asked, and what may be asked for.
``process``, ``run``, ``files``
    A child process; all problems put to it; the same by files.
``judging``, ``asked``, ``alignment``, ``posterior``, ``greedy``, ``beam_search``, ``guided_search``
    Whether answers are right.
``likely``
    Which mistake gives them.
"""

from __future__ import annotations

from ctcx.conformance._external.asked import Asked
from ctcx.conformance._external.beam_search import SaidBeam, ScoredLabels, beam_fault
from ctcx.conformance._external.files import check_answers, export_problems
from ctcx.conformance._external.judging import judges
from ctcx.conformance._external.operations import OPERATIONS
from ctcx.conformance._external.problems import (
    PROTOCOL,
    problem_id,
    problem_line,
    problems,
    problems_of,
)
from ctcx.conformance._external.run import run_command

__all__ = [
    "OPERATIONS",
    "PROTOCOL",
    "Asked",
    "SaidBeam",
    "ScoredLabels",
    "beam_fault",
    "check_answers",
    "export_problems",
    "judges",
    "problem_id",
    "problem_line",
    "problems",
    "problems_of",
    "run_command",
]
