"""``ctcx align``: where each token of a text stands in a model's output."""

from __future__ import annotations

from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.text import Text

from ctcx._api.align import ctc_align
from ctcx._cli.alignment_files import (
    Utterance,
    as_ctm,
    as_json,
    as_srt,
    as_textgrid,
    token_table,
    tokens_of,
    words,
)
from ctcx._cli.emission_files import (
    BACKEND,
    BLANK,
    EMISSIONS,
    FRAME_SECONDS,
    SEQUENCE,
    TOKENS,
    UtteranceLogits,
    read_utterances,
)
from ctcx._cli.output import check_target, heading, opened, show
from ctcx._cli.token_files import TokenTable, read_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["align_command"]


class _Format(StrEnum):
    JSON = "json"
    CTM = "ctm"
    TEXTGRID = "textgrid"
    SRT = "srt"


class _Unit(StrEnum):
    WORDS = "words"
    TOKENS = "tokens"


def align_command(
    *,
    emissions: Annotated[str, EMISSIONS],
    text: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="What was said; once for each utterance, in order."),
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(metavar="K,K,...", help="Classes in place of a text; once for each, too."),
    ] = None,
    tokens: Annotated[str | None, TOKENS] = None,
    blank: Annotated[int, BLANK] = 0,
    sequence: Annotated[int | None, SEQUENCE] = None,
    frame_seconds: Annotated[float | None, FRAME_SECONDS] = None,
    backend: Annotated[str | None, BACKEND] = None,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            callback=check_target,
            help="Write it to FILE.json, .ctm, .TextGrid or .srt; - for standard output.",
        ),
    ] = None,
    form: Annotated[
        _Format | None, typer.Option("--format", help="Of the output, whatever its name is.")
    ] = None,
    unit: Annotated[
        _Unit | None,
        typer.Option(
            help="What a line of CTM and SRT is.", show_default="words where tokens have spaces"
        ),
    ] = None,
) -> None:
    """Say where each token of a text stands in emissions.

    The most probable path is that of ctcx.ctc_align. Prints a table for each utterance, and how
    well the text fits. An utterance that can't be of its text is an error of its own: the others
    are aligned, and the exit code is 1.
    """
    chosen = _format(output, form)
    picked = read_utterances(emissions, blank=blank, sequence=sequence, frame_seconds=frame_seconds)
    classes = picked.logits.shape[2]
    asked = "--output" if form is None else "--format"
    if chosen not in {None, _Format.JSON} and frame_seconds is None:
        msg = f"{chosen} has times: --frame-seconds must say how long a frame is"
        raise typer.BadParameter(msg, param_hint=asked)
    if chosen in {_Format.SRT, _Format.TEXTGRID} and len(picked.names) != 1:
        msg = f"{chosen} is for one utterance of the {picked.in_file}: pick it with --sequence"
        raise typer.BadParameter(msg, param_hint=asked)
    if chosen is _Format.TEXTGRID and picked.lengths[0] == 0:
        name = picked.names[0]
        msg = f"a {chosen} of 0 seconds has no place for labels: utterance {name} has no frames"
        raise typer.BadParameter(msg, param_hint=asked)
    table = None if tokens is None else read_tokens(tokens, classes, blank % classes)
    space = None if table is None else table.space
    if unit == "words" and space is None:
        msg = "no token says where a word ends"
        raise typer.BadParameter(msg, param_hint="--unit")
    found = _aligned(
        picked, _labels(text, labels, table, len(picked.names)), (blank, table, text, backend)
    )
    shown_unit = unit or (_Unit.TOKENS if space is None else _Unit.WORDS)
    if chosen is not None:
        written = _written(found, chosen, frame_seconds, shown_unit)
        with opened(output or "-") as file:
            file.write(written.encode())
    if chosen is None or output not in {None, "-"}:
        for one in found:
            _print(one, frame_seconds)
    infeasible = [one for one in found if one.infeasible is not None]
    for one in infeasible:
        typer.echo(f"ctcx: error: utterance {one.name} {one.infeasible}", err=True)
    if infeasible:
        raise typer.Exit(1)


def _format(output: str | None, form: _Format | None) -> _Format | None:
    """Return the form of the output; None if only a table is asked for."""
    if form is not None or output is None:
        return form
    end = Path(output).suffix.lower().removeprefix(".")
    if end not in list(_Format):
        msg = f"{output!r} doesn't end in .{', .'.join(_Format)}: --format must say which it is"
        raise typer.BadParameter(msg, param_hint="--output")
    return _Format(end)


def _labels(
    text: Sequence[str] | None, labels: Sequence[str] | None, table: TokenTable | None, count: int
) -> list[list[int]]:
    """Return the labels of each utterance, from texts or from numbers."""
    if bool(text) == bool(labels):
        msg = "expected either --text or --labels"
        raise typer.BadParameter(msg, param_hint="--text")
    option, given = ("--text", text) if text else ("--labels", labels)
    if len(given := given or []) != count:
        msg = f"expected one for each of the {count} utterances; got {len(given)}"
        raise typer.BadParameter(msg, param_hint=option)
    if text:
        if table is None:
            msg = "--tokens must say which class each character is"
            raise typer.BadParameter(msg, param_hint=option)
        return [table.labels_of(one, or_else=", or pass --labels") for one in text]
    try:
        return [[int(k) for k in one.split(",")] if one.strip() else [] for one in given]
    except ValueError:
        msg = f"expected classes like 3,1,4; got {', '.join(map(repr, given))}"
        raise typer.BadParameter(msg, param_hint=option) from None


def _aligned(
    emissions: UtteranceLogits,
    labels: list[list[int]],
    options: tuple[int, TokenTable | None, Sequence[str] | None, str | None],
) -> list[Utterance]:
    logits, lengths, names, _ = emissions
    blank, table, texts, backend = options
    found = ctc_align(logits, labels, lengths, blank=blank, backend=backend, infeasible="empty")
    space = None if table is None else table.space
    utterances = []
    for n, name in enumerate(names):
        frames = int(lengths[n])
        inside = logits[n, :frames].astype(np.float64)
        score, best = float(found.score[n]), float(_best_path(inside))
        tokens = tokens_of(found, n, table)
        text = None if not texts else texts[n]
        joined = None if space is None else words(tokens, space)
        lost = max(0.0, best - score) / max(1, frames)
        why = None if found.feasible[n] else _why_infeasible(frames, labels[n])
        utterances.append(Utterance(name, text, frames, score, lost, tokens, joined, why))
    return utterances


def _best_path(logits: NDArray[np.float64]) -> float:
    """Return the logarithm of the probability of the most probable path of all."""
    above = logits - logits.max(axis=1, keepdims=True)
    return -float(np.log(np.exp(above).sum(axis=1)).sum())


def _why_infeasible(frames: int, labels: Sequence[int]) -> str:
    repeats = sum(one == other for one, other in pairwise(labels))
    need = len(labels) + repeats
    between = ", as a blank must stand between equal neighbours" if repeats else ""
    if need <= frames:
        return f"has logits of -inf on every path of its {len(labels)} labels"
    return f"needs at least {need} frames for its {len(labels)} labels{between}, and has {frames}"


def _written(found: list[Utterance], form: _Format, seconds: float | None, unit: str) -> str:
    if form is _Format.JSON or seconds is None:
        return f"{as_json(found, seconds)}\n"
    if form is _Format.CTM:
        return as_ctm(found, seconds, unit)
    return (
        as_srt(found[0], seconds, unit) if form is _Format.SRT else as_textgrid(found[0], seconds)
    )


def _print(one: Utterance, seconds: float | None) -> None:
    said = "" if one.text is None else f": {one.text!r}"
    if one.infeasible is not None:
        show(heading(f"{one.name}{said}"), Text(f"no path: it {one.infeasible}"))
        return
    show(
        heading(f"{one.name}{said}"),
        Text(
            f"{one.frames} frames, score {one.score:.2f} nats, {one.lost:.2f} nats a frame below "
            "the best path of all"
        ),
        token_table(one.tokens, seconds),
    )
