"""``ctcx decode``: what a model's output says."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from ctcx._api.align import ctc_align
from ctcx._api.beam_search import ctc_beam_search
from ctcx._api.greedy import ctc_greedy
from ctcx._api.guided_search import LARGEST_WEIGHT
from ctcx._api.loss import ctc_loss
from ctcx._cli.alignment_files import Stretch, stretch_as_json, token_table, tokens_of
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
from ctcx._cli.guide_files import read_model, read_phrases, unknown_tokens
from ctcx._cli.output import JSON_FILE, heading, json_text, show, write_json
from ctcx._cli.token_files import TokenTable, read_tokens
from ctcx._errors import CTCInputError

if TYPE_CHECKING:
    from ctcx._api.ngram import NGram

__all__ = ["decode_command"]

_WIDTH = 16
"""Of a beam that is needed but not asked for."""

_TOP = 3
"""How many alternatives are shown."""

_SHOWN = 10
"""How many tokens that a model doesn't know are named."""


@dataclass(frozen=True)
class _Alternative:
    """Labels that an utterance may say, and the logarithm of their probability by all paths.

    ``score`` has what phrases and a language model add.
    """

    text: str
    labels: list[int]
    log_prob: float
    score: float


@dataclass(frozen=True)
class _Reading:
    """What an utterance says: alternatives, the best first, and the tokens of the best."""

    name: str
    frames: int
    alternatives: list[_Alternative]
    tokens: list[Stretch]


def decode_command(
    *,
    emissions: Annotated[str, EMISSIONS],
    tokens: Annotated[str, TOKENS],
    beam: Annotated[
        int | None,
        typer.Option(min=1, metavar="WIDTH", help="Search with a beam; default: greedily."),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="K",
            help="How many alternatives of a beam to show, at most its width; default: 3.",
        ),
    ] = None,
    lm: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Let a beam ask the n-gram model in this ARPA file (or .gz)."
        ),
    ] = None,
    lm_words: Annotated[
        bool,
        typer.Option(
            "--lm-words",
            help="The model is one of words, with a token ' ', '<space>', '|' or '▁' between them; "
            "default: of tokens.",
        ),
    ] = False,
    lm_weight: Annotated[
        float | None,
        typer.Option(metavar="X", help="What the model's logarithms count, 0 or more; default: 1."),
    ] = None,
    label_bonus: Annotated[
        float, typer.Option(metavar="NATS", help="What each token adds to the score of a text.")
    ] = 0.0,
    boost: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Let a beam prefer the phrases in this file, one a line; after a tab, what each "
            "of its tokens adds in nats, else 1.",
        ),
    ] = None,
    blank: Annotated[int, BLANK] = 0,
    sequence: Annotated[int | None, SEQUENCE] = None,
    frame_seconds: Annotated[float | None, FRAME_SECONDS] = None,
    backend: Annotated[str | None, BACKEND] = None,
    json_file: Annotated[str | None, JSON_FILE] = None,
) -> None:
    """Say what text emissions hold, and how probable it is.

    Prints the text, its alternatives, and where each token stands. Decodes as ctcx.ctc_greedy does,
    or as ctcx.ctc_beam_search with --beam, --lm, --boost or --label-bonus. Probabilities are those
    of the text by all its paths.
    """
    if lm is None and (lm_words or lm_weight is not None):
        msg = "there is no model: name its file with --lm"
        raise typer.BadParameter(msg, param_hint="--lm-words" if lm_words else "--lm-weight")
    if top is not None and (beam, lm, boost, label_bonus) == (None, None, None, 0.0):
        msg = "greedy decoding has one result: say --beam, too"
        raise typer.BadParameter(msg, param_hint="--top")
    _check_weight("--lm-weight", lm_weight, least=0.0)
    _check_weight("--label-bonus", label_bonus, least=-LARGEST_WEIGHT)
    is_guided = (lm, boost, label_bonus) != (None, None, 0.0)
    if is_guided and beam is None:
        beam = _WIDTH
    if top is not None and beam is not None and top > beam:
        msg = (
            f"{top} alternatives are more than a beam of width {beam} holds: expected at most "
            f"{beam}, or --beam {top} or more"
        )
        raise typer.BadParameter(msg, param_hint="--top")
    picked = read_utterances(emissions, blank=blank, sequence=sequence, frame_seconds=frame_seconds)
    classes = picked.logits.shape[2]
    table = read_tokens(tokens, classes, blank % classes)
    guided: dict[str, Any] = {"label_bonus": label_bonus} if label_bonus else {}
    if lm is not None:
        guided["lm"] = read_model(lm, table, classes, words=lm_words)
        _tell_unknown(lm, guided["lm"], table)
        guided["lm_weight"] = 1.0 if lm_weight is None else lm_weight
    if boost is not None:
        guided["boost"] = read_phrases(boost, table)
    found = _read(picked, table, beam, top or _TOP, {"backend": backend, **guided})
    if json_file is not None:
        write_json(json_file, _as_json(found, frame_seconds))
    if json_file != "-":
        for one in found:
            _print(one, frame_seconds, with_scores=is_guided)


def _check_weight(option: str, value: float | None, *, least: float) -> None:
    """Refuse what no search takes, NaN included."""
    if value is not None and not least <= value <= LARGEST_WEIGHT:
        msg = f"expected a number from {least:g} to {LARGEST_WEIGHT:g}; got {value:g}"
        raise typer.BadParameter(msg, param_hint=option)


def _tell_unknown(path: str, model: NGram, table: TokenTable) -> None:
    """Say which tokens count as unknown words, which most often is a mistake."""
    if unknown := unknown_tokens(model, table):
        count = len(model.tokens) - 1  # without the blank
        shown = ", ".join(map(repr, unknown[:_SHOWN])) + (", ..." if unknown[_SHOWN:] else "")
        typer.echo(
            f"ctcx: warning: --lm: {path} knows the tokens of {count - len(unknown)} of the "
            f"{count} classes besides the blank; the others count as its <unk>: {shown}",
            err=True,
        )


def _read(
    emissions: UtteranceLogits,
    table: TokenTable,
    beam: int | None,
    top: int,
    options: dict[str, Any],
) -> list[_Reading]:
    logits, lengths, names, _ = emissions
    options = {"blank": table.blank, **options}
    # The probability of a greedy result is found as that of a beam's: by the loss.
    if beam is None:
        decoded = ctc_greedy(logits, lengths, **options)
        labels, counts = decoded.labels[:, None, :], decoded.lengths[:, None]
        loss = ctc_loss(logits, decoded.labels, lengths, decoded.lengths, blank=table.blank)
        log_probs = scores = -loss[:, None]
    else:
        try:
            found = ctc_beam_search(logits, lengths, width=beam, top=min(top, beam), **options)
        except MemoryError:
            msg = (
                f"--beam: {beam} prefixes of up to {logits.shape[1]} frames take more memory than "
                f"there is: pass a smaller --beam, or one utterance at a time with --sequence"
            )
            raise CTCInputError(msg, argument="beam", value=beam) from None
        labels, counts = found.labels, found.lengths
        log_probs, scores = found.log_probs, found.scores
    best = [row[0, : max(0, size[0])].tolist() for row, size in zip(labels, counts, strict=True)]
    aligned = ctc_align(logits, best, lengths, blank=table.blank, infeasible="empty")
    readings = []
    for n, name in enumerate(names):
        alternatives = []
        for k in range(counts.shape[1]):
            if counts[n, k] >= 0 and log_probs[n, k] > -math.inf:  # greedily, some say nothing
                said = labels[n, k, : counts[n, k]].tolist()
                numbers = float(log_probs[n, k]), float(scores[n, k])
                alternatives.append(_Alternative(table.text_of(said), said, *numbers))
        tokens = tokens_of(aligned, n, table)
        readings.append(_Reading(name, int(lengths[n]), alternatives, tokens))
    return readings


def _as_json(found: list[_Reading], seconds: float | None) -> str:
    """Return all that is known as JSON, ``ctcx-decode/1``; times only if a frame's are known."""
    return json_text(
        {
            "format": "ctcx-decode/1",
            "frame_seconds": seconds,
            "utterances": [
                {
                    "name": one.name,
                    "frames": one.frames,
                    "alternatives": [asdict(each) for each in one.alternatives],
                    "tokens": [stretch_as_json(token, seconds) for token in one.tokens],
                }
                for one in found
            ],
        }
    )


def _numbers(one: _Alternative, *, with_scores: bool) -> str:
    score = f", score {one.score:.2f}" if with_scores else ""
    return f"probability {math.exp(one.log_prob):.3g}{score}"


def _print(one: _Reading, seconds: float | None, *, with_scores: bool) -> None:
    if not one.alternatives:
        show(heading(one.name), Text(f"{one.frames} frames, of which logits of -inf allow no text"))
        return
    numbers = partial(_numbers, with_scores=with_scores)
    best = one.alternatives[0]
    shown = [
        heading(f"{one.name}: {best.text!r}"),
        Text(f"{one.frames} frames, {numbers(best)}"),
    ]
    shown += [Text(f"or {other.text!r}, {numbers(other)}") for other in one.alternatives[1:]]
    show(*shown, *([token_table(one.tokens, seconds)] if one.tokens else []))
