"""``ctcx decode``: what a model's output says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from ctcx._api.align import Span, ctc_align, spans
from ctcx._api.beam_search import ctc_beam_search
from ctcx._api.greedy import ctc_greedy
from ctcx._api.loss import ctc_loss
from ctcx._cli.emission_files import read_emissions, utterance_name
from ctcx._cli.output import check_target, heading, json_text, new_table, opened, show
from ctcx._cli.token_files import TokenTable, read_tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["decode_command"]


@dataclass(frozen=True)
class _Alternative:
    """Labels that an utterance may say, and the logarithm of their probability by all paths."""

    text: str
    labels: list[int]
    log_prob: float


@dataclass(frozen=True)
class _Reading:
    """What an utterance says: alternatives, the best first, and the tokens of the best."""

    name: str
    frames: int
    alternatives: list[_Alternative]
    tokens: list[Span]


def decode_command(
    *,
    emissions: Annotated[
        str,
        typer.Argument(
            metavar="EMISSIONS",
            help="FILE.npz with the array logits, and logit_lengths if any is padded; or FILE.npy.",
        ),
    ],
    tokens: Annotated[
        str,
        typer.Option(metavar="FILE", help="The token of each class: one a line, or JSON."),
    ],
    beam: Annotated[
        int | None,
        typer.Option(min=1, metavar="WIDTH", help="Search with a beam; default: greedily."),
    ] = None,
    top: Annotated[
        int, typer.Option(min=1, metavar="K", help="How many alternatives of a beam to show.")
    ] = 3,
    blank: Annotated[
        int, typer.Option(metavar="K", help="Class of the blank; -1 is the last one.")
    ] = 0,
    sequence: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Only this utterance of the file, from 0."),
    ] = None,
    frame_seconds: Annotated[
        float | None, typer.Option(metavar="S", help="Duration of a frame, for times in seconds.")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(metavar="NAME", help="As if backend=NAME were passed.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--json",
            metavar="FILE",
            callback=check_target,
            help="Write the result to FILE as JSON; - for standard output, and nothing else there.",
        ),
    ] = None,
) -> None:
    """Say what text emissions hold, and how probable it is.

    Prints the text, its alternatives, and where each token stands. Decodes as ctcx.ctc_greedy does,
    or as ctcx.ctc_beam_search with --beam. Probabilities are those of the text by all its paths.
    """
    logits, lengths = read_emissions(emissions)
    count, _, classes = logits.shape
    if not -classes <= blank < classes:
        msg = f"{blank} is no class: there are {classes}"
        raise typer.BadParameter(msg, param_hint="--blank")
    if sequence is not None and sequence >= count:
        msg = f"{sequence} is no utterance: {emissions} has {count}"
        raise typer.BadParameter(msg, param_hint="--sequence")
    if frame_seconds is not None and not 0 < frame_seconds < math.inf:
        msg = f"expected a positive number; got {frame_seconds}"
        raise typer.BadParameter(msg, param_hint="--frame-seconds")
    picked = list(range(count)) if sequence is None else [sequence]
    table = read_tokens(tokens, classes, blank % classes)
    names = [utterance_name(emissions, n, count) for n in picked]
    found = _read(logits[picked], lengths[picked], names, table, beam, top, backend)
    if output is not None:
        with opened(output) as file:
            file.write(f"{_as_json(found, frame_seconds)}\n".encode())
    if output != "-":
        for one in found:
            _print(one, frame_seconds)


def _read(
    logits: NDArray[Any],
    lengths: NDArray[Any],
    names: list[str],
    table: TokenTable,
    beam: int | None,
    top: int,
    backend: str | None,
) -> list[_Reading]:
    options: dict[str, Any] = {"blank": table.blank, "backend": backend}
    # The probability of a greedy result is found as that of a beam's: by the loss.
    if beam is None:
        decoded = ctc_greedy(logits, lengths, **options)
        labels, counts = decoded.labels[:, None, :], decoded.lengths[:, None]
        loss = ctc_loss(logits, decoded.labels, lengths, decoded.lengths, blank=table.blank)
        log_probs = -loss[:, None]
    else:
        found = ctc_beam_search(logits, lengths, width=beam, top=min(top, beam), **options)
        labels, counts, log_probs = found.labels, found.lengths, found.log_probs
    best = [row[0, : max(0, size[0])].tolist() for row, size in zip(labels, counts, strict=True)]
    aligned = ctc_align(logits, best, lengths, blank=table.blank, infeasible="empty")
    readings = []
    for n, name in enumerate(names):
        alternatives = []
        for k in range(counts.shape[1]):
            if counts[n, k] >= 0:
                said = labels[n, k, : counts[n, k]].tolist()
                alternatives.append(_Alternative(table.text_of(said), said, float(log_probs[n, k])))
        tokens = [
            span._replace(token=table.names.get(span.label, str(span.label)))
            for span in spans(aligned, n)
        ]
        readings.append(_Reading(name, int(lengths[n]), alternatives, tokens))
    return readings


def _as_json(found: list[_Reading], seconds: float | None) -> str:
    """Return all that is known as JSON, ``ctcx-decode/1``; times only if a frame's are known."""

    def token(span: Span) -> dict[str, object]:
        shown: dict[str, object] = {
            "text": span.token,
            "label": span.label,
            "start_frame": span.start,
            "end_frame": span.end,
            "log_prob": span.log_prob,
        }
        if seconds is not None:
            shown |= {"start": span.start * seconds, "end": span.end * seconds}
        return shown

    return json_text(
        {
            "format": "ctcx-decode/1",
            "frame_seconds": seconds,
            "utterances": [
                {
                    "name": one.name,
                    "frames": one.frames,
                    "alternatives": [
                        {"text": each.text, "labels": each.labels, "log_prob": each.log_prob}
                        for each in one.alternatives
                    ],
                    "tokens": list(map(token, one.tokens)),
                }
                for one in found
            ],
        }
    )


def _print(one: _Reading, seconds: float | None) -> None:
    if not one.alternatives:
        show(heading(one.name), Text(f"{one.frames} frames, of which logits of -inf allow no text"))
        return
    best = one.alternatives[0]
    shown = [
        heading(f"{one.name}: {best.text!r}"),
        Text(f"{one.frames} frames, probability {math.exp(best.log_prob):.3g}"),
    ]
    shown += [
        Text(f"or {other.text!r}, probability {math.exp(other.log_prob):.3g}")
        for other in one.alternatives[1:]
    ]
    times = () if seconds is None else ("from", "to")
    columns = ("class", "start", "end", *times, "probability")
    table = new_table("token", *columns, right=columns)
    for span in one.tokens:
        cells = [str(span.label), str(span.start), str(span.end)]
        if seconds is not None:
            cells += [f"{span.start * seconds:.3f}", f"{span.end * seconds:.3f}"]
        token = span.token or ""
        table.add_row(
            token if token.strip() else repr(token), *cells, f"{math.exp(span.log_prob):.3f}"
        )
    show(*shown, *([table] if one.tokens else []))
