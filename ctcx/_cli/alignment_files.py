"""Alignments as tables, JSON, CTM, TextGrid and SRT."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ctcx._api.align import spans
from ctcx._cli.output import json_text, new_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.table import Table

    from ctcx._api.align import Alignment
    from ctcx._cli.token_files import TokenTable

__all__ = [
    "Stretch",
    "Utterance",
    "as_ctm",
    "as_json",
    "as_srt",
    "as_textgrid",
    "stretch_as_json",
    "token_table",
    "tokens_of",
    "words",
]


class Stretch(NamedTuple):
    """A token or a word, and its frames, the end exclusive; ``log_prob`` is their mean, in nats."""

    text: str
    start: int
    end: int
    log_prob: float
    label: int | None = None


class Utterance(NamedTuple):
    """The alignment of one sequence."""

    name: str
    """From the name of the file."""
    text: str | None
    """That was asked for; None for labels."""
    frames: int
    """How many count."""
    score: float
    """Logarithm of the probability of the path, in nats."""
    lost: float
    """How far it is below that of the best path of all, in nats a frame."""
    tokens: list[Stretch]
    words: list[Stretch] | None
    """Where they stand; ``words`` is None where nothing says where one ends."""
    infeasible: str | None
    """Why no path emits the labels, so that they stand nowhere; None if one does."""


def tokens_of(alignment: Alignment[Any], n: int, table: TokenTable | None) -> list[Stretch]:
    """Return the labels of sequence ``n``, named by the table, or by their numbers."""
    names = {} if table is None else table.names
    return [
        Stretch(
            names.get(span.label, str(span.label)), span.start, span.end, span.log_prob, span.label
        )
        for span in spans(alignment, n)
    ]


def token_table(tokens: Iterable[Stretch], seconds: float | None) -> Table:
    """Return a table of tokens and where they stand; times only if a frame's are known."""
    times = () if seconds is None else ("from", "to")
    columns = ("class", "start", "end", *times, "probability")
    table = new_table("token", *columns, right=columns)
    for one in tokens:
        cells = [str(one.label), str(one.start), str(one.end)]
        if seconds is not None:
            cells += [f"{one.start * seconds:.3f}", f"{one.end * seconds:.3f}"]
        shown = one.text if one.text.strip() else repr(one.text)
        table.add_row(shown, *cells, f"{np.exp(one.log_prob):.3f}")
    return table


def words(tokens: Iterable[Stretch], space: str) -> list[Stretch]:
    """Join the tokens between spaces; ``space`` is a token, or the start of one."""
    found: list[list[Stretch]] = [[]]
    for token in tokens:
        if token.text.startswith(space):
            found.append([])
            token = token._replace(text=token.text.removeprefix(space))  # noqa: PLW2901
        if token.text:
            found[-1].append(token)
    return [
        Stretch(
            "".join(part.text for part in parts),
            parts[0].start,
            parts[-1].end,
            sum(part.log_prob * (part.end - part.start) for part in parts)
            / sum(part.end - part.start for part in parts),
        )
        for parts in found
        if parts
    ]


def stretch_as_json(one: Stretch, seconds: float | None) -> dict[str, object]:
    """Return what is known of a token or a word; times only if a frame's are known."""
    found: dict[str, object] = {"text": one.text}
    if one.label is not None:
        found["label"] = one.label
    found |= {"start_frame": one.start, "end_frame": one.end, "log_prob": one.log_prob}
    if seconds is not None:
        found |= {"start": _time(one.start, seconds), "end": _time(one.end, seconds)}
    return found


def as_json(utterances: Sequence[Utterance], seconds: float | None) -> str:
    """Return all that is known as JSON, ``ctcx-align/1``; times only if a frame's are known."""
    stretch = partial(stretch_as_json, seconds=seconds)
    return json_text(
        {
            "format": "ctcx-align/1",
            "frame_seconds": seconds,
            "utterances": [
                {
                    "name": one.name,
                    "text": one.text,
                    "frames": one.frames,
                    "score": one.score,
                    "nats_a_frame_below_best_path": one.lost,
                    "tokens": list(map(stretch, one.tokens)),
                    "words": None if one.words is None else list(map(stretch, one.words)),
                    "infeasible": one.infeasible,
                }
                for one in utterances
            ],
        }
    )


def as_ctm(utterances: Sequence[Utterance], seconds: float, unit: str) -> str:
    """Return NIST's CTM: name, channel, start, duration, text, probability.

    Fields are separated by blanks, so stretches of nothing else are left out.
    """
    lines = []
    for one in utterances:
        name = "_".join(one.name.split())
        for text, start, end, log_prob, _ in _stretches(one, unit):
            if text.strip():
                first, last = start * seconds, end * seconds
                field = "_".join(text.split())
                probability = np.exp(log_prob)
                lines.append(f"{name} 1 {first:.3f} {last - first:.3f} {field} {probability:.4f}")
    return _lines(lines)


def as_srt(utterance: Utterance, seconds: float, unit: str) -> str:
    """Return subtitles, one for each stretch that isn't blank."""

    def clock(frame: int) -> str:
        milliseconds = round(1000 * frame * seconds)
        minutes, rest = divmod(milliseconds, 60_000)
        whole, part = divmod(rest, 1000)
        return f"{minutes // 60:02}:{minutes % 60:02}:{whole:02},{part:03}"

    shown = [one for one in _stretches(utterance, unit) if one.text.strip()]
    return _lines(
        f"{number}\n{clock(one.start)} --> {clock(one.end)}\n{' '.join(one.text.split())}\n"
        for number, one in enumerate(shown, 1)
    )


def as_textgrid(utterance: Utterance, seconds: float) -> str:
    """Return Praat's TextGrid with a tier of tokens, and one of words where there are any."""
    tiers: dict[str, list[Stretch]] = {"tokens": utterance.tokens}
    if utterance.words is not None:
        tiers = {"words": utterance.words, **tiers}
    end = _time(utterance.frames, seconds)
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', ""]
    lines += ["xmin = 0", f"xmax = {end}", "tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, stretches) in enumerate(tiers.items(), 1):
        filled = _without_gaps(stretches, utterance.frames)
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f'        name = "{name}"',
            "        xmin = 0",
            f"        xmax = {end}",
            f"        intervals: size = {len(filled)}",
        ]
        for place, one in enumerate(filled, 1):
            quoted = one.text.replace('"', '""')
            lines += [
                f"        intervals [{place}]:",
                f"            xmin = {_time(one.start, seconds)}",
                f"            xmax = {_time(one.end, seconds)}",
                f'            text = "{quoted}"',
            ]
    return _lines(lines)


def _stretches(utterance: Utterance, unit: str) -> list[Stretch]:
    return utterance.tokens if unit == "tokens" else utterance.words or []


def _without_gaps(stretches: Sequence[Stretch], frames: int) -> list[Stretch]:
    """Put empty intervals between the others, since those of a tier must touch."""
    edges = [Stretch("", 0, 0, 0.0), *stretches, Stretch("", frames, frames, 0.0)]
    found = []
    for one, other in pairwise(edges):
        if one.end < other.start:
            found.append(Stretch("", one.end, other.start, 0.0))
        if other.start < other.end:
            found.append(other)
    return found


def _time(frame: int, seconds: float) -> float:
    return round(frame * seconds, 6)


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
