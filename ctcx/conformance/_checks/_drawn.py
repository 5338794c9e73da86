"""Problems of drawn sizes and values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctcx.conformance._checks._judging import raise_if
from ctcx.conformance._draws import faults_of, problems_for
from ctcx.conformance._failures import NotApplicable
from ctcx.conformance._registered import check

if TYPE_CHECKING:
    from ctcx.conformance._subject import Subject

__all__ = ["check_drawn_problems"]

_ENOUGH = 5


@check(provisional=True)
def check_drawn_problems(subject: Subject) -> None:
    """Problems of drawn sizes and values are right: ragged, masked, confident, in any layout."""
    wrong: list[str] = []
    refused: list[str] = []
    done = 0
    for problem in problems_for(subject):
        try:
            faults = faults_of(subject, problem)
        except NotApplicable as reason:
            refused.append(str(reason))
            continue
        done += 1
        wrong += faults[:1]
        if len(wrong) == _ENOUGH:
            break
    raise_if(wrong)
    if not done:
        raise NotApplicable("; ".join(refused[:1]) or "no problem is drawn")
    subject.notes.extend(refused[:3])
