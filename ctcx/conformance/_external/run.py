"""Put a program through the suite, as a child process."""

from __future__ import annotations

import json
import shlex
import time
from typing import TYPE_CHECKING, Any

from ctcx._errors import CTCInputError
from ctcx._reference.tolerances import TOLERANCES
from ctcx.conformance._external.judging import NOT_OFFERED, all_findings, judges, result
from ctcx.conformance._external.problems import (
    PROTOCOL,
    chosen,
    known_operations,
    problem_id,
    problem_line,
)
from ctcx.conformance._external.process import ProgramError, ProgramProcess
from ctcx.conformance.runner import Report, Result, versions_of

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from ctcx.conformance._execute import Status
    from ctcx.conformance._external.judging import Judge
    from ctcx.fixtures import Fixture

__all__ = ["as_report", "check_dtype", "run_command"]


def run_command(
    command: str | Sequence[str],
    *,
    operations: Sequence[str] = ("loss",),
    dtype: str = "float32",
    only: Sequence[str] | None = None,
    time_limit: float = 10.0,
    failures: str | os.PathLike[str] | None = None,
    progress: Callable[[Result], None] | None = None,
) -> Report:
    """Ask a program in any language all problems of the suite, one line of JSON at a time.

    Parameters
    ----------
    command : str or sequence of str
        Program and arguments. A string is split as a shell would, and no shell is used.
    operations : sequence of str
        What to ask for: ``loss``, with its gradient; ``align``, ``occupancies``, ``entropy``,
        ``greedy``, ``beam_search``, ``guided_search``; ``all``. One that the program does not
        offer is listed in `not_run`.
    dtype : str
        Whose tolerances hold.
    only : sequence of str, optional
        Names of problems; default: all.
    time_limit : float
        Seconds for each problem; the first one includes the start of the program.
    failures : path, optional
        Folder for the files of one problem that was answered wrongly; default: none are written.
    progress : callable, optional
        Called with each :class:`Result` as it comes.

    Returns
    -------
    Report
        Its results have the name of the problem as `check`; its verdict is about all of them.

    Raises
    ------
    CTCInputError
        The program can't be started, or there is no such operation, dtype or problem.

    Examples
    --------
    >>> from ctcx.conformance import run_command
    >>> report = run_command("true", only=["notebook"])
    >>> report.passed, report.results[0].message
    (False, 'the program ended with exit code 0 instead of answering')
    """
    check_dtype(dtype)
    try:
        words = shlex.split(command) if isinstance(command, str) else list(command)
    except ValueError as error:
        msg = f"command {command!r} can't be split as a shell would: {error}"
        raise CTCInputError(msg, argument="command", value=command) from None
    if not words:
        msg = "command is empty: expected a program and its arguments"
        raise CTCInputError(msg, argument="command", value=command)
    child = ProgramProcess(words)
    answers = judges(known_operations(operations), dtype)
    results: list[Result] = []
    try:
        for asked in chosen(only, operations):
            if results and results[-1].message == NOT_OFFERED and results[-1].device == asked[0]:
                continue
            begin = time.perf_counter()
            status, message = _put(child, asked, answers[asked[0]], dtype, time_limit)
            seconds = time.perf_counter() - begin
            results.append(result(asked, "program", dtype, status, message, seconds))
            if progress is not None:
                progress(results[-1])
        child.close()
    finally:
        child.end()
    return as_report(shlex.join(words), "program", results, answers, failures)


def as_report(
    name: str,
    kind: str,
    results: Sequence[Result],
    answers: Mapping[str, Judge],
    failures: str | os.PathLike[str] | None,
) -> Report:
    """Return the report on a program."""
    not_run = {}
    for operation in answers:
        some = [one for one in results if one.device == operation]
        if some and all(one.status == "skipped" for one in some):
            not_run[operation] = next(
                (one.message for one in some if one.message == NOT_OFFERED),
                f"not offered: {some[0].message}",
            )
    results = [one for one in results if one.device not in not_run]
    answered = any(one.executed for one in results)
    return Report(
        backend=name,
        provenance=f"protocol {PROTOCOL}",
        results=tuple(results),
        not_run=not_run,
        problems=() if answered else ("no problem was answered",),
        versions=versions_of(set()),
        kind=kind,
        **all_findings(answers, failures),
    )


def check_dtype(dtype: str) -> None:
    """Refuse a dtype without tolerances."""
    if dtype not in TOLERANCES:
        msg = f"dtype is {dtype!r}: expected one of {', '.join(TOLERANCES)}"
        raise CTCInputError(msg, argument="dtype", value=dtype)


def _put(
    child: ProgramProcess, asked: tuple[str, Fixture], judge: Judge, dtype: str, seconds: float
) -> tuple[Status, str]:
    operation, fixture = asked
    if dtype not in fixture.tolerances:
        return "skipped", f"{dtype} can't hold its logits"
    name = problem_id(fixture, operation)
    try:
        line = child.ask(problem_line(fixture, operation), seconds)
    except ProgramError as trouble:
        return "error", str(trouble)
    document = _parsed(line)
    if isinstance(document, str):
        child.end()  # who knows what else is on its way
        return "error", document
    if document.get("id") != name:
        child.end()
        told = f"an answer to {document['id']!r}" if "id" in document else "an answer without 'id'"
        return "error", f"{told} came when {name!r} was asked: answer in order, once each"
    return judge.judge(fixture, document)


def _parsed(line: bytes) -> dict[str, Any] | str:
    """Return the object that a line holds, or what is wrong with it."""
    shown = line[:60].decode(errors="replace")
    shown += "..." if len(line) > 60 else ""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return (
            f"the program wrote what is not JSON: {shown!r}. Standard output is for answers "
            f"alone, one object a line; write all else to standard error"
        )
    if not isinstance(document, dict):
        return f"the program wrote {shown!r}: expected an object"
    return document
