"""The suite as files, for programs that can't be run as a child."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctcx._errors import CTCInputError
from ctcx._files import replaced
from ctcx.conformance._external.judging import judges, result
from ctcx.conformance._external.operations import OPERATIONS
from ctcx.conformance._external.problems import LOSS, chosen, problem_id, problem_line
from ctcx.conformance._external.run import as_report, check_dtype
from ctcx.fixtures import save

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Sequence

    from ctcx.conformance._execute import Status
    from ctcx.conformance.runner import Report
    from ctcx.fixtures import Fixture

__all__ = ["check_answers", "export_problems"]

_PROBLEMS, _ANSWERS, _FIXTURES = "problems.ndjson", "answers.ndjson", "fixtures.json"
_OPERATION = re.compile(rb'{"protocol": \d+, "operation": "(\w+)"')


def export_problems(
    directory: str | os.PathLike[str], operations: Sequence[str] = ("loss",)
) -> list[Path]:
    """Write the suite: ``problems.ndjson``, and ``fixtures.json`` with all right numbers.

    Parameters
    ----------
    directory : path
        Where to; made if it isn't there.
    operations : sequence of str
        What to ask for, as for :func:`run_command`.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    CTCInputError
        They can't be written, or there is no such operation.
    """
    asked = chosen(None, operations)
    folder = Path(directory)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replaced(folder / _PROBLEMS) as file:
            file.write(_lines(asked))
        save({one.name: one for _, one in asked}.values(), folder / _FIXTURES)
    except OSError as error:
        msg = f"{folder}: can't be written: {error.strerror}"
        raise CTCInputError(msg, argument="export", value=str(directory)) from None
    return [folder / _PROBLEMS, folder / _FIXTURES]


def check_answers(
    directory: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    failures: str | os.PathLike[str] | None = None,
) -> Report:
    """Judge ``answers.ndjson``, which holds the answers to ``problems.ndjson``.

    Parameters
    ----------
    directory : path
        What :func:`export_problems` wrote, with the answers beside it: one object a line, in any
        order.
    dtype : str
        Whose tolerances hold.
    failures : path, optional
        Folder for the files of one problem that was answered wrongly; default: none are written.

    Returns
    -------
    Report
        A problem without an answer fails.

    Raises
    ------
    CTCInputError
        A file is missing, was made by another version of ctcx, or a line is no answer.
    """
    check_dtype(dtype)
    folder = Path(directory)
    given = _read(folder / _PROBLEMS)
    operations = _asked_for(given)
    asked = chosen(None, operations)
    if given != _lines(asked):
        msg = (
            f"{folder / _PROBLEMS} is not what this ctcx asks: expected the file as "
            f"`ctcx conformance --export {folder}` writes it; export and answer again"
        )
        raise CTCInputError(msg, argument="directory", value=str(directory))
    answers = _answers(folder / _ANSWERS, {problem_id(one, name) for name, one in asked})
    answered = {name.partition(":")[0] for name in answers}
    judged = judges(operations, dtype)
    results = []
    for pair in asked:
        operation, fixture = pair
        name = problem_id(fixture, operation)
        if dtype not in fixture.tolerances:
            outcome: tuple[Status, str] = ("skipped", "can't hold its logits")
        elif name in answers:
            outcome = judged[operation].judge(fixture, answers[name])
        elif operation != LOSS and operation not in answered:
            outcome = ("skipped", f"{_ANSWERS} has no answer for it")
        else:
            outcome = ("failed", f"{_ANSWERS} has no answer with this id")
        results.append(result(pair, "file", dtype, *outcome))
    return as_report(str(folder / _ANSWERS), "file", results, judged, failures)


def _lines(asked: Sequence[tuple[str, Fixture]]) -> bytes:
    return "".join(f"{problem_line(one, operation)}\n" for operation, one in asked).encode()


def _asked_for(lines: bytes) -> list[str]:
    """Return the operations that a file of problems asks for; the loss where it has no name."""
    heads = [_OPERATION.match(line) for line in lines.splitlines()] or [None]
    found = [head[1].decode() if head else LOSS for head in heads]
    return [name for name in dict.fromkeys(found) if name == LOSS or name in OPERATIONS] or [LOSS]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        msg = f"{path}: can't be read: {error.strerror}"
        raise CTCInputError(msg, argument="directory", value=str(path)) from None


def _answers(path: Path, known: Collection[str]) -> dict[str, dict[str, Any]]:
    answers: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(_read(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)
        except (ValueError, RecursionError) as error:
            msg = f"{path}, line {number}: not JSON: {error}"
            raise CTCInputError(msg, argument="directory") from None
        name = document.get("id") if isinstance(document, dict) else None
        if not isinstance(name, str) or name not in known:
            msg = f"{path}, line {number}: the id is {name!r}: expected that of a problem"
            raise CTCInputError(msg, argument="directory", value=name)
        if name in answers:
            msg = f"{path}, line {number}: a second answer to {name!r}: expected one"
            raise CTCInputError(msg, argument="directory", value=name)
        answers[name] = document
    return answers
