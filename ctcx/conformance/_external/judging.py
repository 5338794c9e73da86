"""Judge the answers of a program: one by one, and all together."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctcx._diagnosis import diagnose, first_divergence, read_answer
from ctcx._errors import CTCInputError
from ctcx._files import json_safe, replaced
from ctcx.conformance._execute import Result
from ctcx.fixtures import save

if TYPE_CHECKING:
    import os

    from ctcx._diagnosis import Answer
    from ctcx.conformance._execute import Status
    from ctcx.fixtures import Fixture

__all__ = ["Answers", "result"]

_SHOWN = 3


def result(
    fixture: Fixture, where: str, dtype: str, status: Status, message: str = "", seconds: float = 0
) -> Result:
    """Return how a problem ended, in the form of the kit's results."""
    return Result(
        check=fixture.name,
        namespace=where,
        device="-",
        dtype=dtype,
        status=status,
        message=message,
        seconds=seconds,
    )


@dataclass(eq=False)
class Answers:
    """All answers of a program.

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
        if "unsupported" in document:
            return "skipped", f"the program doesn't support it: {document['unsupported']}"
        if "error" in document:
            return "error", f"the program reports an error: {document['error']}"
        try:
            answer = read_answer("answer", document, fixture)
            if "loss" not in answer:
                return "failed", "the answer has no 'loss'"
        except CTCInputError as error:
            hint = ""
            if " is None" in str(error):
                hint = ". JSON has no infinity and no NaN: write the strings 'inf', '-inf', 'nan'"
            return "failed", f"{error}{hint}"
        self._given.append((fixture, answer))
        wrong = [
            divergence
            for n in range(fixture.shape[0])
            if (divergence := first_divergence(fixture, answer, n, self.dtype)) is not None
        ]
        if not wrong:
            return "passed", "" if "gradient" in answer else "the answer has no gradient"
        lines = [f"{fixture.about}", *(str(divergence) for divergence in wrong[:_SHOWN])]
        if len(wrong) > _SHOWN:
            lines.append(f"and in {len(wrong) - _SHOWN} more sequences")
        example = f"{fixture.name}: {fixture.about}\nfirst wrong number: {wrong[0]}"
        self._wrong.append((fixture, document, example))
        return "failed", "\n".join(lines)

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


def _written(folder: Path, fixture: Fixture, document: dict[str, Any]) -> str:
    """Write a problem and the answer to it; return the command that shows both."""
    problem = folder / f"{fixture.name}.fixture.json"
    answer = folder / f"{fixture.name}.answer.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save([fixture], problem)
        with replaced(answer) as file:
            file.write(json.dumps(json_safe(document)).encode())
    except OSError as error:
        msg = f"{folder}: can't be written: {error.strerror}"
        raise CTCInputError(msg, argument="failures", value=str(folder)) from None
    return shlex.join(["ctcx", "diagnose", str(problem), "--against", str(answer)])
