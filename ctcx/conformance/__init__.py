"""Prove that a kernel is right: checks, cases and an independent oracle, for any backend.

Three lines in the tests of a plugin run all of it with pytest::

    from ctcx.conformance import BackendConformance

    class TestMine(BackendConformance):
        backend = "mine"

Without pytest, :func:`run_conformance` and ``ctcx conformance mine`` do the same. A program in
another language is asked by :func:`run_command`, or by files.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ctcx import _on_first_use

if TYPE_CHECKING:
    from ctcx.conformance._checks.registry import Check
    from ctcx.conformance._external import PROTOCOL, check_answers, export_problems, run_command
    from ctcx.conformance._failures import CheckFailure
    from ctcx.conformance.runner import Report, Result, run_conformance
    from ctcx.conformance.suite import BackendConformance

__all__ = [
    "KIT_VERSION",
    "PROTOCOL",
    "BackendConformance",
    "CheckFailure",
    "Report",
    "Result",
    "check_answers",
    "checks",
    "export_problems",
    "run_command",
    "run_conformance",
]

KIT_VERSION = "4.1"
"""Major: a check got stricter, went or got another name. Minor: checks came, provisional for one
minor version unless they are of an operation that came with them."""


def checks() -> dict[str, Check]:
    """Return all checks by name, in the order that they run.

    Returns
    -------
    dict of str to Check
        A check's ``summary`` says in a sentence what it proves.

    Examples
    --------
    >>> from ctcx.conformance import checks
    >>> checks()["check_infeasible"].summary
    "Labels that can't be emitted: loss exactly +inf, gradient exactly 0, feasible False."
    """
    # Importing the module registers the checks, and imports nearly all of ctcx.
    import_module("ctcx.conformance._checks")
    from ctcx.conformance._checks.registry import registered_checks

    return registered_checks()


__getattr__, __dir__ = _on_first_use(
    __name__,
    __all__,
    {
        "_external": ("PROTOCOL", "check_answers", "export_problems", "run_command"),
        "suite": ("BackendConformance",),
        "_failures": ("CheckFailure",),
        "runner": ("Report", "Result", "run_conformance"),
    },
)
