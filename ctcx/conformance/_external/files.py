"""The suite as files, for programs that can't be run as a child."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctcx._errors import CTCInputError
from ctcx._files import replaced
from ctcx.conformance._external.judging import Answers, result
from ctcx.conformance._external.problems import problem_line, problems
from ctcx.conformance._external.run import as_report, check_dtype
from ctcx.fixtures import save

if TYPE_CHECKING:
    import os

    from ctcx.conformance.runner import Report

__all__ = ["check_answers", "export_problems"]

_PROBLEMS, _ANSWERS, _FIXTURES = "problems.ndjson", "answers.ndjson", "fixtures.json"


def export_problems(directory: str | os.PathLike[str]) -> list[Path]:
    """Write the suite: ``problems.ndjson``, and ``fixtures.json`` with all right numbers.

    Parameters
    ----------
    directory : path
        Where to; made if it isn't there.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    CTCInputError
        They can't be written.
    """
    folder = Path(directory)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replaced(folder / _PROBLEMS) as file:
            file.write(_lines())
        save(problems(), folder / _FIXTURES)
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
    if _read(folder / _PROBLEMS) != _lines():
        msg = (
            f"{folder / _PROBLEMS} is not what this ctcx asks: expected the file as "
            f"`ctcx conformance --export {folder}` writes it; export and answer again"
        )
        raise CTCInputError(msg, argument="directory", value=str(directory))
    answers = _answers(folder / _ANSWERS)
    judged = Answers(dtype)
    results = []
    for fixture in problems():
        if dtype not in fixture.tolerances:
            results.append(result(fixture, "file", dtype, "skipped", "can't hold its logits"))
        elif fixture.name not in answers:
            message = f"{_ANSWERS} has no answer with this id"
            results.append(result(fixture, "file", dtype, "failed", message))
        else:
            status, message = judged.judge(fixture, answers[fixture.name])
            results.append(result(fixture, "file", dtype, status, message))
    return as_report(str(folder / _ANSWERS), "file", results, judged, failures)


def _lines() -> bytes:
    return "".join(f"{problem_line(fixture)}\n" for fixture in problems()).encode()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        msg = f"{path}: can't be read: {error.strerror}"
        raise CTCInputError(msg, argument="directory", value=str(path)) from None


def _answers(path: Path) -> dict[str, dict[str, Any]]:
    known = {fixture.name for fixture in problems()}
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
        if name not in known:
            msg = f"{path}, line {number}: the id is {name!r}: expected that of a problem"
            raise CTCInputError(msg, argument="directory", value=name)
        if name in answers:
            msg = f"{path}, line {number}: a second answer to {name!r}: expected one"
            raise CTCInputError(msg, argument="directory", value=name)
        answers[name] = document
    return answers
