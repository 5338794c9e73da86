"""Problems that are drawn anew from a seed, over the sizes and values that people have.

The named cases are few and fixed: a kernel can be right on each of them and wrong between them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctcx._plugins.targets import load_target
from ctcx.conformance._drawing import Drawing
from ctcx.conformance._draws.judging import faults_of, spread
from ctcx.conformance._draws.problem import DrawnProblem, draw
from ctcx.conformance._draws.replay import command_for, read_problem, write_problem
from ctcx.conformance._draws.shrinking import shrink
from ctcx.conformance._draws.sizes import Sizes, cycle_length, sizes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctcx.conformance._subject import Subject

__all__ = [
    "Drawing",
    "DrawnProblem",
    "command_for",
    "draw",
    "faults_of",
    "how_many",
    "problems_for",
    "read_problem",
    "shrink",
    "spread",
    "write_problem",
]

_THOROUGH = 4000

_MOULDS = (
    # Shapes that other checks have compiled already, and one where routes change.
    (Sizes(7, 23, 7, 6), 6),
    (Sizes(2, 160, 40, 60), 0),
    (Sizes(1, 2000, 30, 200), 0),
    (Sizes(2, 900, 40, 180), 0),
)
_SERVES = 12
"""How many problems share a shape on a library that compiles for each."""


def problems_for(subject: Subject) -> Iterator[DrawnProblem]:
    """Yield the drawn problems that a subject is put to."""
    if subject.drawing.replay is not None:
        yield read_problem(subject.drawing.replay)
        return
    seed = subject.drawing.seed
    count = how_many(subject)
    if subject.library.jit is None:
        for index in range(count):
            yield draw(seed, index)
        return
    long = subject.dtype in {"float32", "float64"}
    moulds = _MOULDS if long else _MOULDS[:2]
    for index in range(count):
        if index < _SERVES * len(moulds):
            yield draw(seed, index, *moulds[index % len(moulds)])
        else:
            # A larger count has more shapes.
            yield draw(seed, index, sizes(seed, index - index % _SERVES), 0)


def how_many(subject: Subject) -> int:
    """Return how many problems a subject is put to."""
    drawing = subject.drawing
    half = subject.dtype not in {"float32", "float64"}
    if drawing.thorough or drawing.count is not None:
        count = _THOROUGH if drawing.count is None else drawing.count
        # Half precision is float32 with other logits.
        return -(-count // 4) if half else count
    if subject.library.jit is not None:
        return _SERVES * (2 if half else len(_MOULDS))
    count = cycle_length() // {"float32": 1, "float64": 2}.get(subject.dtype, 8)
    if "*" in subject.descriptor.namespaces and subject.namespace not in {"numpy", "cupy"}:
        # Written once for all libraries, in their own functions: a call takes long, and what it
        # computes is the same as elsewhere.
        count //= 8
    if subject.device != load_target(subject.library.devices)()[0]:
        # A second device of a library computes with the same code.
        count //= 4
    return max(1, count)
