"""Judge one answer of a program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctcx._diagnosis import diagnose, first_divergence, read_answer
from ctcx._errors import CTCInputError
from ctcx.conformance._execute import Result

if TYPE_CHECKING:
    from ctcx.conformance._execute import Status
    from ctcx.fixtures import Fixture

__all__ = ["judge", "result"]

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


def judge(fixture: Fixture, document: dict[str, Any], dtype: str) -> tuple[Status, str]:
    """Return whether an answer is right, and else where it goes wrong and the likely mistake.

    Parameters
    ----------
    fixture : Fixture
        What was asked.
    document : dict
        The answer.
    dtype : str
        Whose tolerances hold.
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
            hint = ". JSON has no infinity and no NaN: write the strings 'inf', '-inf' and 'nan'"
        return "failed", f"{error}{hint}"
    wrong = [
        divergence
        for n in range(fixture.shape[0])
        if (divergence := first_divergence(fixture, answer, n, dtype)) is not None
    ]
    if not wrong:
        return "passed", "" if "gradient" in answer else "the answer has no gradient"
    lines = [f"{fixture.about}", *(str(divergence) for divergence in wrong[:_SHOWN])]
    if len(wrong) > _SHOWN:
        lines.append(f"and in {len(wrong) - _SHOWN} more sequences")
    mistake = diagnose(fixture, answer, dtype)
    if mistake is not None:
        lines.append(f"likely mistake ({mistake.name}): {mistake.sentence}")
    else:
        lines.append("no known mistake gives these numbers")
    lines.append(f"to see it: ctcx diagnose {fixture.name} --against FILE with this answer")
    return "failed", "\n".join(lines)
