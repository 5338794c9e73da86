"""Problems of drawn sizes and values."""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ctcx.conformance._checks.judging import raise_if
from ctcx.conformance._checks.registry import check
from ctcx.conformance._draws import (
    DrawnProblem,
    command_for,
    faults_of,
    problems_for,
    shrink,
    write_problem,
)
from ctcx.conformance._failures import NotApplicable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ctcx.conformance._subject import Subject

__all__ = ["check_drawn_problems"]

_ENOUGH = 5
"""After so many wrong problems no more are tried."""

_TRIES = 250
"""How many smaller problems are tried."""


@check()
def check_drawn_problems(subject: Subject) -> None:
    """Problems of drawn sizes and values are right: ragged, masked, confident, in any layout.

    The first with a wrong result is made smaller and written as a fixture file, and the message
    has the command that replays it.
    """
    wrong: list[tuple[DrawnProblem, list[str]]] = []
    refused: list[str] = []
    done = 0
    with _remembered(subject) as remember:
        for problem in problems_for(subject):
            remember(problem)
            try:
                faults = faults_of(subject, problem)
            except NotApplicable as reason:
                refused.append(str(reason))
                continue
            done += 1
            if faults:
                wrong.append((problem, faults))
            if len(wrong) == _ENOUGH:
                break
        if wrong:
            raise_if([_story(subject, wrong, done, remember)])
    if not done:
        raise NotApplicable("; ".join(refused[:1]) or "no problem is drawn")
    subject.notes.extend(refused[:3])


def _story(
    subject: Subject,
    wrong: list[tuple[DrawnProblem, list[str]]],
    done: int,
    remember: Callable[[DrawnProblem], None],
) -> str:
    """Return what is wrong: the first problem made smaller, and how to see the others."""
    first, faults = wrong[0]
    lines = [f"{len(wrong)} of {done} problems come out wrong"]
    if done > 1:
        lines[0] += f" (it ends after {_ENOUGH})" if len(wrong) == _ENOUGH else ""
    if subject.drawing.replay is not None and Path(subject.drawing.replay).exists():
        return "\n".join([*lines, *faults])

    kind = _kind(faults[0])

    def fails(problem: DrawnProblem) -> bool:
        remember(problem)
        try:
            # Another fault of the kernel may be met on the way; it is the first one's example.
            return kind in map(_kind, faults_of(subject, problem))
        except NotApplicable:
            return False

    named = replace(first, batch=replace(first.batch, name=f"smaller-{first.batch.name}"))
    # A library that compiles does so for each size that is tried.
    small = shrink(named, fails, 12 if subject.library.jit else _TRIES)
    sizes = ", ".join(
        f"{size} {what}" for size, what in zip(small.batch.shape, _SIZES, strict=True)
    )
    path = write_problem(subject, small, faults[0].splitlines()[0])
    lines += [f"{first.batch.name}, made smaller: {sizes}", *faults_of(subject, small)]
    lines += [f"written as a fixture: {path}", f"to replay it: {command_for(subject, str(path))}"]
    for problem, others in wrong[1:]:
        lines.append(f"also wrong: {' '.join(others[0].split())[:200]}")
        lines.append(f"  to replay it: {command_for(subject, problem.batch.name)}")
    return "\n".join(lines)


def _kind(fault: str) -> str:
    """Return what a fault says, without names and numbers."""
    return re.sub(r"'[^']*'|[\d.]+", "", fault.splitlines()[0])


_SIZES = ("sequences", "frames", "classes", "labels")


@contextmanager
def _remembered(subject: Subject) -> Iterator[Callable[[DrawnProblem], None]]:
    """Keep the command for the problem being computed in a file, for if the process dies."""
    path = Path(tempfile.gettempdir()) / f"ctcx-conformance-{os.getpid()}.txt"

    def remember(problem: DrawnProblem) -> None:
        command = command_for(subject, problem.batch.name.removeprefix("smaller-"))
        path.write_text(f"{command}\n", encoding="utf-8")

    try:
        yield remember
    finally:
        path.unlink(missing_ok=True)
