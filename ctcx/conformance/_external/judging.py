"""Judge the answers of a program: one by one, and all together."""

from __future__ import annotations

import json
import shlex
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

    from ctcx._diagnosis.mistakes import LikelyMistakes
    from ctcx.conformance._execute import Status
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


class Judge(ABC):
    """All answers of a program for one operation, by the tolerances of a dtype."""

    _prefix = ""
    """Of the files of a wrong problem."""

    def __init__(self, dtype: str) -> None:
        self._dtype = dtype
        self._given: list[Any] = []
        self._wrong: list[tuple[Fixture, dict[str, Any], str]] = []

    def judge(self, fixture: Fixture, document: dict[str, Any]) -> tuple[Status, str]:
        """Return whether an answer is right, and else where it goes wrong."""
        if refusal := self._refusal(document):
            return refusal
        try:
            faults, lacks = self._faults(fixture, document)
        except CTCInputError as error:
            hint = ""
            if " is None" in str(error) or " is 'None'" in str(error):
                hint = ". JSON has no infinity and no NaN: write the strings 'inf', '-inf', 'nan'"
            return "failed", f"{error}{hint}"
        if not faults:
            return "passed", lacks
        self._wrong.append((fixture, document, f"{fixture.name}: {fixture.about}\n{faults[0]}"))
        lines = [fixture.about, *faults[:_SHOWN]]
        if len(faults) > _SHOWN:
            lines.append(f"and in {len(faults) - _SHOWN} more sequences")
        return "failed", "\n".join(lines)

    def findings(self, failures: str | os.PathLike[str] | None) -> dict[str, Any]:
        """Return what all answers together tell, as fields of a report.

        The files of one wrong problem are written to the folder ``failures``, if there is one.
        """
        if not self._wrong:
            return {}
        found = self._likely_mistakes()
        fixture, document, example = min(self._wrong, key=lambda one: one[0].arrays["logits"].size)
        command = ""
        if failures is not None:
            command = _written(Path(failures), fixture, document, self._prefix)
        return {
            "verdict": found.verdict,
            "mistakes": tuple(mistake.name for mistake in found.mistakes),
            "explanation": found.explanation,
            "example": example,
            "command": command,
        }

    def _refusal(self, document: dict[str, Any]) -> tuple[Status, str] | None:
        """Return what an answer without results says."""
        if "unsupported" in document:
            return "skipped", f"the program doesn't support it: {document['unsupported']}"
        if "error" in document:
            return "error", f"the program reports an error: {document['error']}"
        return None

    @abstractmethod
    def _faults(self, fixture: Fixture, document: dict[str, Any]) -> tuple[list[str], str]:
        """Note an answer; return what is wrong with it, and what a right one lacks."""

    @abstractmethod
    def _likely_mistakes(self) -> LikelyMistakes:
        """Return which mistake gives the answers noted so far."""


class LossAnswers(Judge):
    """All answers of a program for the loss and its gradient."""

    def _faults(self, fixture: Fixture, document: dict[str, Any]) -> tuple[list[str], str]:
        answer = read_answer("answer", document, fixture)
        if "loss" not in answer:
            msg = "the answer has no 'loss'"
            raise CTCInputError(msg, argument="answer")
        self._given.append((fixture, answer))
        places = (
            first_divergence(fixture, answer, n, self._dtype) for n in range(fixture.shape[0])
        )
        lacks = "" if "gradient" in answer else "the answer has no gradient"
        return [f"first wrong number: {place}" for place in places if place is not None], lacks

    def _likely_mistakes(self) -> LikelyMistakes:
        return diagnose(self._given, self._dtype)


class OperationAnswers(Judge):
    """All answers of a program for another operation."""

    def __init__(self, dtype: str, operation: ExternalOperation) -> None:
        super().__init__(dtype)
        self._operation = operation
        self._prefix = f"{operation.name}-"

    def _refusal(self, document: dict[str, Any]) -> tuple[Status, str] | None:
        if refusal := super()._refusal(document):
            return refusal
        if any(name in document for name in self._operation.fields):
            return None
        if "loss" in document:
            return "skipped", NOT_OFFERED
        return "failed", f"the answer has no {' or '.join(map(repr, self._operation.fields))}"

    def _faults(self, fixture: Fixture, document: dict[str, Any]) -> tuple[list[str], str]:
        faults = []
        for n, said in enumerate(self._operation.read(document, fixture)):
            asked = Asked(fixture, n)
            fault = self._operation.fault(asked, said, self._dtype)
            self._given.append((asked, said, fault is not None))
            if fault is not None:
                faults.append(f"sequence {n}: {fault}")
        no_score = self._operation.unique is not None and "score" not in document
        return faults, "the answer has no score" if no_score else ""

    def _likely_mistakes(self) -> LikelyMistakes:
        return likely_mistakes(self._operation, self._given, self._dtype)


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
