"""Judge the answers of a program: one by one, and all together."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ctcx._diagnosis import diagnose, first_divergence, read_answer
from ctcx._errors import CTCInputError
from ctcx._files import json_safe, replaced
from ctcx.conformance._execute import Result
from ctcx.conformance._external.asked import Asked
from ctcx.conformance._external.likely import likely_mistakes
from ctcx.conformance._external.operations import OPERATIONS
from ctcx.conformance._external.problems import LOSS
from ctcx.fixtures import save

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from ctcx._diagnosis import Answer
    from ctcx.conformance._execute import Status
    from ctcx.conformance._external.likely import Judged
    from ctcx.conformance._external.operations import ExternalOperation
    from ctcx.fixtures import Fixture

__all__ = ["NOT_OFFERED", "Judge", "all_findings", "judges", "result"]

NOT_OFFERED = "not offered: the program answers with the loss, as in version 1 of the protocol"

_SHOWN = 3


def result(
    asked: tuple[str, Fixture],
    where: str,
    dtype: str,
    status: Status,
    message: str = "",
    seconds: float = 0,
) -> Result:
    """Return how a problem of an operation ended, in the form of the kit's results.

    A program has no device; the operation stands there, if it isn't the loss.
    """
    operation, fixture = asked
    return Result(
        check=fixture.name,
        namespace=where,
        device="-" if operation == LOSS else operation,
        dtype=dtype,
        status=status,
        message=message,
        seconds=seconds,
    )


class Judge(Protocol):
    """All answers of a program for one operation."""

    def judge(self, fixture: Fixture, document: dict[str, Any]) -> tuple[Status, str]:
        """Return whether an answer is right, and else where it goes wrong."""

    def findings(self, failures: str | os.PathLike[str] | None) -> dict[str, Any]:
        """Return what all answers together tell, as fields of a report."""


def judges(operations: Sequence[str], dtype: str) -> dict[str, Judge]:
    """Return a judge for each operation."""
    return {
        name: LossAnswers(dtype) if name == LOSS else OperationAnswers(dtype, OPERATIONS[name])
        for name in operations
    }


def all_findings(
    answers: Mapping[str, Judge], failures: str | os.PathLike[str] | None
) -> dict[str, Any]:
    """Return the findings of all operations; each one's lines begin with its name, if not alone."""
    found = {name: judge.findings(failures) for name, judge in answers.items()}
    found = {name: fields for name, fields in found.items() if fields}
    whole: dict[str, Any] = {}
    for name, fields in found.items():
        for key, value in fields.items():
            if len(found) > 1 and key in {"verdict", "explanation", "example"} and value:
                value = f"{name}: {value}"  # noqa: PLW2901
            before = whole.get(key)
            joined = isinstance(value, str) and before
            whole[key] = f"{before}\n{value}" if joined and value else (before or value)
            if isinstance(value, tuple):
                whole[key] = (*(before or ()), *value)
    return whole


def _refusal(document: dict[str, Any]) -> tuple[Status, str] | None:
    """Return what an answer without results says."""
    if "unsupported" in document:
        return "skipped", f"the program doesn't support it: {document['unsupported']}"
    if "error" in document:
        return "error", f"the program reports an error: {document['error']}"
    return None


def _unread(error: CTCInputError) -> tuple[Status, str]:
    """Return what is told of an answer that can't be read."""
    hint = ""
    if " is None" in str(error) or " is 'None'" in str(error):
        hint = ". JSON has no infinity and no NaN: write the strings 'inf', '-inf', 'nan'"
    return "failed", f"{error}{hint}"


@dataclass(eq=False)
class LossAnswers:
    """All answers of a program for the loss and its gradient.

    Attributes
    ----------
    dtype : str
        Whose tolerances hold.
    """

    dtype: str
    _given: list[tuple[Fixture, Answer]] = field(default_factory=list)
    _wrong: list[tuple[Fixture, dict[str, Any], str]] = field(default_factory=list)

    def judge(self, fixture: Fixture, document: dict[str, Any]) -> tuple[Status, str]:
        """Return whether an answer is right, and else where it goes wrong.

        Parameters
        ----------
        fixture : Fixture
            What was asked.
        document : dict
            The answer.
        """
        if refusal := _refusal(document):
            return refusal
        try:
            answer = read_answer("answer", document, fixture)
            if "loss" not in answer:
                return "failed", "the answer has no 'loss'"
        except CTCInputError as error:
            return _unread(error)
        self._given.append((fixture, answer))
        wrong = [
            divergence
            for n in range(fixture.shape[0])
            if (divergence := first_divergence(fixture, answer, n, self.dtype)) is not None
        ]
        if not wrong:
            return "passed", "" if "gradient" in answer else "the answer has no gradient"
        example = f"{fixture.name}: {fixture.about}\nfirst wrong number: {wrong[0]}"
        self._wrong.append((fixture, document, example))
        return "failed", _message(fixture, [str(divergence) for divergence in wrong])

    def findings(self, failures: str | os.PathLike[str] | None) -> dict[str, Any]:
        """Return what all answers together tell, as fields of a report.

        Parameters
        ----------
        failures : path or None
            Folder for the files of one wrong problem; None to write none.
        """
        if not self._wrong:
            return {}
        found = diagnose(self._given, self.dtype)
        fixture, document, example = min(self._wrong, key=lambda one: one[0].arrays["logits"].size)
        return {
            "verdict": found.verdict,
            "mistakes": tuple(mistake.name for mistake in found.mistakes),
            "explanation": found.explanation,
            "example": example,
            "command": "" if failures is None else _written(Path(failures), fixture, document),
        }


@dataclass(eq=False)
class OperationAnswers:
    """All answers of a program for another operation.

    Attributes
    ----------
    dtype : str
        Whose tolerances hold.
    operation : ExternalOperation
        What was asked for.
    """

    dtype: str
    operation: ExternalOperation
    _given: list[Judged] = field(default_factory=list)
    _wrong: list[tuple[Fixture, dict[str, Any], str]] = field(default_factory=list)

    def judge(self, fixture: Fixture, document: dict[str, Any]) -> tuple[Status, str]:
        """Return whether an answer is right, and else what is wrong; see :class:`LossAnswers`."""
        if refusal := _refusal(document):
            return refusal
        if not any(name in document for name in self.operation.fields):
            if "loss" in document:
                return "skipped", NOT_OFFERED
            names = " or ".join(map(repr, self.operation.fields))
            return "failed", f"the answer has no {names}"
        try:
            said = self.operation.read(document, fixture)
        except CTCInputError as error:
            return _unread(error)
        lines = []
        for n, one in enumerate(said):
            asked = Asked(fixture, n)
            fault = self.operation.fault(asked, one, self.dtype)
            self._given.append((asked, one, fault is not None))
            if fault is not None:
                lines.append(f"sequence {n}: {fault}")
        if not lines:
            no_score = self.operation.unique is not None and "score" not in document
            return "passed", "the answer has no score" if no_score else ""
        self._wrong.append((fixture, document, f"{fixture.name}: {fixture.about}\n{lines[0]}"))
        return "failed", _message(fixture, lines)

    def findings(self, failures: str | os.PathLike[str] | None) -> dict[str, Any]:
        """Return what all answers together tell; see :class:`LossAnswers`."""
        if not self._wrong:
            return {}
        found = likely_mistakes(self.operation, self._given, self.dtype)
        wrong = min(self._wrong, key=lambda one: one[0].arrays["logits"].size)
        fixture, document, example = wrong
        return {
            "verdict": found.verdict,
            "mistakes": tuple(mistake.name for mistake in found.mistakes),
            "explanation": found.explanation,
            "example": example,
            "command": ""
            if failures is None
            else _written(Path(failures), fixture, document, f"{self.operation.name}-"),
        }


def _message(fixture: Fixture, wrong: list[str]) -> str:
    lines = [fixture.about, *wrong[:_SHOWN]]
    if len(wrong) > _SHOWN:
        lines.append(f"and in {len(wrong) - _SHOWN} more sequences")
    return "\n".join(lines)


def _written(folder: Path, fixture: Fixture, document: dict[str, Any], operation: str = "") -> str:
    """Write a problem and the answer to it; return the command that looks at them."""
    problem = folder / f"{operation}{fixture.name}.fixture.json"
    answer = folder / f"{operation}{fixture.name}.answer.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save([fixture], problem)
        with replaced(answer) as file:
            file.write(json.dumps(json_safe(document)).encode())
    except OSError as error:
        msg = f"{folder}: can't be written: {error.strerror}"
        raise CTCInputError(msg, argument="failures", value=str(folder)) from None
    against = [] if operation else ["--against", str(answer)]  # which knows losses and gradients
    return shlex.join(["ctcx", "diagnose", str(problem), *against])
