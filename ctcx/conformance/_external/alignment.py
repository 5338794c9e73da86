"""Alignments of a program: whether a path is one of the best ones, and how paths go wrong."""

from __future__ import annotations

import math
from functools import partial
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ctcx._errors import CTCInputError
from ctcx._reference.decoding import log_softmax, merged
from ctcx.conformance._external.asked import close, label_rows, number_rows
from ctcx.conformance._external.likely import known, new

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ctcx.conformance._external.asked import Asked
    from ctcx.conformance._external.likely import Ways
    from ctcx.fixtures import Fixture

__all__ = ["MISTAKEN_PATHS", "Path", "path_fault", "read_paths", "same_path"]


class Path(NamedTuple):
    """What is said of one sequence: states, or classes, or both; None: nothing."""

    states: list[int] | None
    classes: list[int] | None
    score: float | None = None
    symbols: tuple[int, ...] = ()
    """The class of each state, in a mistaken program."""

    def trimmed(self, said: Path) -> Path:
        """Return the path without what ``said`` doesn't say."""
        return self if said.score is not None else self._replace(score=None)


def read_paths(document: dict[str, Any], fixture: Fixture) -> list[Path]:
    """Return the path of each sequence.

    Raises CTCInputError: there is none, or something else.
    """
    count = fixture.shape[0]
    rows = {
        name: label_rows(f"answer.{name}", document[name], 2, count)
        for name in ("states", "classes")
        if document.get(name) is not None
    }
    if not rows:
        msg = "the answer has neither 'states' nor 'classes'"
        raise CTCInputError(msg, argument="answer")
    scores = number_rows(document, "score", count)
    frames = fixture.arrays["logit_lengths"].tolist()
    paths = []
    for n in range(count):
        states, classes = (
            rows[name][n][: frames[n]] if name in rows else None for name in ("states", "classes")
        )
        paths.append(Path(states, classes, None if scores is None else float(scores[n])))
    return paths


def path_fault(asked: Asked, path: Path, dtype: str) -> str | None:
    """Return what is wrong with a path; None if it is as good as the best one."""
    best = float(asked.truth("alignment_score"))
    if not asked.truth("feasible"):
        if path.score is not None and path.score != -math.inf:
            return f"score: got {path.score!r}, expected -inf: no path emits the labels"
        if any(one not in (None, -1) for one in [*(path.states or ()), *(path.classes or ())]):
            return "got a path, expected -1 in all frames: no path emits the labels"
        return None
    symbols = _symbols(asked.labels, asked.blank)
    if fault := _wrong_form(asked, path, symbols):
        return fault
    own = _own(asked, path, symbols)
    allowed = 1e-9 * max(1.0, abs(best)) if dtype == "float64" else 1e-3
    if not own >= best - allowed:
        several = "" if asked.truth("alignment_unique") else ", one of several"
        return (
            f"the path has a log-probability of {own!r}, expected {best!r}, the best one{several}"
        )
    if path.score is not None and not close(path.score, own, dtype):
        return f"score: got {path.score!r}, expected {own!r}, that of the path"
    return None


def _wrong_form(asked: Asked, path: Path, symbols: tuple[int, ...]) -> str | None:
    """Return why a path does not emit the labels."""
    for name, values, most in (
        ("states", path.states, len(symbols)),
        ("classes", path.classes, asked.logits.shape[1]),
    ):
        if values is None:
            continue
        if len(values) < asked.frames:
            return f"{name}: there are {len(values)}, expected {asked.frames}, one for a frame"
        for t, value in enumerate(values):
            if not 0 <= value < most:
                return f"{name}: got {value} at frame {t}, expected 0 to {most - 1}"
    classes = path.classes
    if path.states is not None:
        if fault := _wrong_states(path.states, symbols):
            return fault
        classes = [symbols[state] for state in path.states]
        if path.classes not in (None, classes):
            return "states and classes are of different paths"
    said = [label for label, _, _ in merged(classes or [], asked.blank)]
    if said != asked.labels:
        return f"the path says the labels {said}, expected {asked.labels}"
    return None


def _wrong_states(states: list[int], symbols: tuple[int, ...]) -> str | None:
    """Return why a path can't begin, go on or end as it does."""
    last = len(symbols) - 1
    if states and (states[0] > 1 or states[-1] < last - 1):
        return f"states: a path from {states[0]} to {states[-1]} of {last} lacks labels"
    for t, (one, other) in enumerate(pairwise(states), 1):
        skips = other % 2 == 1 and other == one + 2 and symbols[one] != symbols[other]
        if other not in (one, one + 1) and not skips:
            return f"states: {other} at frame {t} can't follow {one}"
    return None


def same_path(asked: Asked, mistaken: Path, said: Path, dtype: str) -> bool:
    """Return whether what is said is what a mistake gives, or as good by the same mistake."""
    scored = said.score is not None and mistaken.score is not None
    if scored and not close(said.score or 0.0, mistaken.score or 0.0, dtype):
        return False
    given = said.states if said.states is not None else said.classes
    expected = mistaken.states if said.states is not None else mistaken.classes
    if given == expected:
        return True
    own, other = (_own(asked, path, mistaken.symbols) for path in (said, mistaken))
    return math.isfinite(own) and close(own, other, dtype)


def _own(asked: Asked, path: Path, symbols: tuple[int, ...]) -> float:
    """Return the log-probability of a path; NaN where it isn't one."""
    classes = path.classes
    if path.states is not None and symbols:
        if any(not 0 <= state < len(symbols) for state in path.states):
            return math.nan
        classes = [symbols[state] for state in path.states]
    if classes is None or len(classes) != asked.frames:
        return math.nan
    if any(not 0 <= each < asked.logits.shape[1] for each in classes):
        return math.nan
    return math.fsum(float(asked.log_probs[t, each]) for t, each in enumerate(classes))


def _symbols(labels: list[int], blank: int) -> tuple[int, ...]:
    symbols = [blank]
    for label in labels:
        symbols += [label, blank]
    return tuple(symbols)


def _best(
    asked: Asked,
    *,
    blank: int | None = None,
    labels: list[int] | None = None,
    skips: str = "differing",
    starts: tuple[int, ...] = (0, 1),
    ends: tuple[int, ...] | None = (-2, -1),
    whole: bool = False,
) -> Path | None:
    """Return the best path by other rules; None where programs may differ."""
    blank = asked.blank if blank is None else blank
    symbols = _symbols(asked.labels if labels is None else labels, blank)
    log_probs = log_softmax(asked.padded) if whole else asked.log_probs
    if np.isnan(log_probs).any():
        return None
    frames, width = len(log_probs), len(symbols)
    nothing = Path([], [], -math.inf, symbols)
    if not frames:
        return Path([], [], 0.0, symbols) if width == 1 else nothing
    emitted = log_probs[:, symbols]
    may_skip = np.zeros(width, dtype=np.bool_)
    for s in range(3, width, 2):
        differs = symbols[s] != symbols[s - 2] and not (skips == "blank" and symbols[s] == blank)
        may_skip[s] = skips == "always" or (skips != "never" and differs)
    best = np.full(width, -np.inf)
    first = [s for s in starts if s < width]
    best[first] = emitted[0, first]
    back = np.zeros((frames, width), dtype=np.int64)
    for t in range(1, frames):
        came = np.full((3, width), -np.inf)
        came[0], came[1, 1:], came[2, 2:] = best, best[:-1], best[:-2]
        came[2, ~may_skip] = -np.inf
        back[t] = came.argmax(axis=0)
        best = came.max(axis=0) + emitted[t]
    last = range(width) if ends is None else [max(0, width + end) for end in ends]
    state = max(last, key=lambda s: best[s])
    if best[state] == -np.inf:
        return nothing
    total = float(best[state])
    states = []
    for t in reversed(range(frames)):
        states.append(state)
        state -= int(back[t, state])
    states = states[::-1][: asked.frames]
    classes = [symbols[s] for s in states]
    return Path(states, classes, total, symbols)


def _all_labels(asked: Asked) -> Path | None:
    return _best(asked, labels=asked.truth("labels").tolist())


def _wrong_blank(asked: Asked, *, which: int, skips: str) -> Path | None:
    return _best(asked, blank=asked.other_blanks[which], skips=skips)


def _greedy(asked: Asked) -> Path:
    """Return the best class of each frame, whatever the labels."""
    classes = asked.log_probs.argmax(axis=1).tolist()
    states, count = [], 0
    for symbol, run in groupby(classes):
        count += symbol != asked.blank
        states += [2 * count - (symbol != asked.blank)] * len(list(run))
    score = math.fsum(asked.log_probs.max(axis=1)) if classes else 0.0
    return Path(states, classes, score)


def _right(asked: Asked) -> tuple[NDArray[np.int64], Path]:
    symbols = _symbols(asked.labels, asked.blank)
    states = [s for s in asked.truth("alignment")[: asked.frames].tolist() if s >= 0]
    score = float(asked.truth("alignment_score"))
    classes = [symbols[s] for s in states]
    return np.array(classes, dtype=np.int64), Path(states, classes, score, symbols)


def _of_logits(asked: Asked) -> Path | None:
    """Return the right path with the sum of its logits."""
    classes, path = _right(asked)
    if not asked.truth("feasible"):
        return None
    return path._replace(score=math.fsum(asked.logits[np.arange(asked.frames), classes]))


def _of_all(asked: Asked) -> Path:
    return _right(asked)[1]._replace(score=0.0 - float(asked.truth("loss")))


def _negated(asked: Asked, *, infinite: bool) -> Path:
    """Return the right path; ``infinite`` says whether scores of no path are negated as well."""
    path = _right(asked)[1]
    score = path.score or 0.0
    return path._replace(score=0.0 - score if infinite or math.isfinite(score) else score)


def _from_one(asked: Asked) -> Path:
    """Return the right path with states numbered from 1."""
    path = _right(asked)[1]
    states = [state + 1 for state in path.states or ()]
    return path._replace(states=states, symbols=(asked.blank, *path.symbols))


def _mean(asked: Asked) -> Path:
    path = _right(asked)[1]
    return path._replace(score=(path.score or 0.0) / max(1, asked.frames))


def _mistaken_paths() -> Iterator[Ways[Path]]:
    yield (
        known("blank-at-wrong-end"),
        # Where a label is what is taken for the blank, programs differ.
        tuple(
            partial(_wrong_blank, which=i, skips=skips)
            for i in range(3)
            for skips in ("differing", "blank")
        ),
    )
    yield known("repeat-transition-allowed"), (partial(_best, skips="always"),)
    yield known("skip-missing"), (partial(_best, skips="never"),)
    yield (
        known("alpha-end-states"),
        tuple(partial(_best, ends=ends) for ends in ((-1,), (-2,), None)),
    )
    yield known("alpha-start-states"), (partial(_best, starts=(0,)), partial(_best, starts=(1,)))
    yield known("padding-not-masked"), (partial(_best, whole=True), _all_labels)
    yield (
        new(
            "greedy-path",
            "The path is the most probable class of each frame: the labels are ignored.",
        ),
        (_greedy,),
    )
    yield (
        new(
            "score-without-softmax",
            "The score is the sum of logits: the logarithm of the softmax of each frame belongs "
            "there, so log-sum-exp of its logits is missing.",
        ),
        (_of_logits,),
    )
    yield (
        new(
            "score-of-all-paths",
            "The score is the log-likelihood, of all paths: that of the one path is asked for.",
        ),
        (_of_all,),
    )
    yield (
        new(
            "score-negated-or-averaged",
            "The score is the sum of log-probabilities along the path: here it has the other sign, "
            "or is divided by the number of frames.",
        ),
        (partial(_negated, infinite=True), partial(_negated, infinite=False), _mean),
    )
    yield (
        new(
            "states-numbered-from-one",
            "States are numbered from 1: the blank before the first label is state 0.",
        ),
        (_from_one,),
    )


MISTAKEN_PATHS = tuple(_mistaken_paths())
"""Mistakes of alignments, each with the ways to make it."""
