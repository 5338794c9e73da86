"""The suite for programs in any language: as a child process, or by files.

``problems``, ``operations``
    What is asked, and what may be asked for.
``process``, ``run``, ``files``
    A child process; all problems put to it; the same by files.
``judging``, ``asked``, ``alignment``, ``decoding``, ``posterior``
    Whether answers are right.
``likely``
    Which mistake gives them.
"""

from __future__ import annotations

from ctcx.conformance._external.files import check_answers, export_problems
from ctcx.conformance._external.problems import PROTOCOL, problem_line, problems
from ctcx.conformance._external.run import run_command

__all__ = [
    "PROTOCOL",
    "check_answers",
    "export_problems",
    "problem_line",
    "problems",
    "run_command",
]
