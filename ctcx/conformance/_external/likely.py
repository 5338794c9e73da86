"""Which mistake gives the answers of a program: hypotheses, each computed and compared.

A mistake is named if its results are those of the answers wherever they are wrong, and if no answer
is right where it would be wrong, over all problems together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from ctcx._diagnosis.mistakes import MISTAKES, LikelyMistakes, Mistake

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ctcx.conformance._external.asked import Asked
    from ctcx.conformance._external.operations import ExternalOperation

__all__ = ["Judged", "Ways", "known", "likely_mistakes", "new"]

T = TypeVar("T")
Ways: TypeAlias = "tuple[Mistake, tuple[Callable[[Asked], T | None], ...]]"
"""A mistake, and what each way to make it gives; None where programs may differ."""

Judged: TypeAlias = "tuple[Asked, Any, bool]"
"""A sequence, what is said of it, and whether that is wrong."""

_MOST = 0.8
"""So much of what is wrong must be explained: extreme problems have faults of their own."""

_SOME = 0.25
"""So much of all that is wrong must be where the hypothesis says something."""

_BY_NAME = {mistake.name: mistake for mistake in MISTAKES}


def known(name: str) -> Mistake:
    """Return a mistake that is also one of the loss."""
    return _BY_NAME[name]


def new(name: str, sentence: str) -> Mistake:
    """Return a mistake that the loss doesn't have."""
    return Mistake(name=name, sentence=sentence)


def likely_mistakes(
    operation: ExternalOperation, given: Sequence[Judged], dtype: str
) -> LikelyMistakes:
    """Return the mistake that gives these answers, by the tolerances of a dtype."""
    # What is wrong comes first: most hypotheses fail there.
    given = sorted(given, key=lambda one: (not one[2], one[0].padded.size))
    problems = {asked.fixture.name for asked, _, _ in given}
    wrong = {asked.fixture.name for asked, _, is_wrong in given if is_wrong}
    scores: list[tuple[int, int, Mistake]] = []
    for mistake, ways in operation.mistakes:
        for way in ways:
            found = _score(operation, way, given, dtype)
            if found is not None:
                scores.append((*found, mistake))
    best = max((score for score, _, _ in scores), default=0)
    first = [(matched, mistake) for score, matched, mistake in scores if score == best]
    return LikelyMistakes(
        mistakes=tuple({mistake.name: mistake for _, mistake in first}.values()),
        matched=max((matched for matched, _ in first), default=0),
        wrong=len(wrong),
        total=len(problems),
    )


def _score(
    operation: ExternalOperation,
    way: Callable[[Asked], Any],
    given: Sequence[Judged],
    dtype: str,
) -> tuple[int, int] | None:
    """Return how many wrong sequences, and how many problems, a hypothesis explains.

    None if it doesn't explain enough, or if something is right that it would get wrong.
    """
    explained = tested = 0
    wrong = sum(is_wrong for _, _, is_wrong in given)
    unlike = set()
    for asked, said, is_wrong in given:
        mistaken = way(asked)
        if mistaken is None:
            continue
        mistaken = mistaken.trimmed(said)
        if not is_wrong:
            if operation.fault(asked, mistaken, dtype) is not None:
                return None
            continue
        tested += 1
        if operation.same(asked, mistaken, said, dtype):
            explained += 1
        else:
            unlike.add(asked.fixture.name)
        if tested - explained > (1 - _MOST) * wrong:
            return None
    if not explained or explained < _MOST * tested or explained < _SOME * wrong:
        return None
    return explained, len({asked.fixture.name for asked, _, _ in given} - unlike)
