"""``ctcx compare``: known numbers beside everything that computes CTC here."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from ctcx._cli.backends import advice
from ctcx._cli.names import BACKENDS, LIBRARIES, PEERS, known_backends, known_libraries, known_peers
from ctcx._cli.output import (
    JSON_FILE,
    activity,
    bullets,
    heading,
    json_text,
    new_table,
    show,
    styled,
    unwarned,
    write_json,
)
from ctcx._comparison.result import LONG, TOLERANCE_OF, error_text
from ctcx._comparison.run import compare
from ctcx._cores import busy
from ctcx._dispatch.report import backends
from ctcx._peers import PEERS as ABOUT_PEERS

if TYPE_CHECKING:
    from rich.table import Table

    from ctcx._comparison.result import BackendResult, Comparison

__all__ = ["compare_command"]


def compare_command(
    *,
    backend: Annotated[list[str] | None, BACKENDS] = None,
    library: Annotated[list[str] | None, LIBRARIES] = None,
    peer: Annotated[list[str] | None, PEERS] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME",
            help=f"Only this input ({', '.join(TOLERANCE_OF)}); may be repeated.",
        ),
    ] = None,
    repeat: Annotated[
        int, typer.Option(min=1, metavar="N", help="Calls to take the median time of.")
    ] = 5,
    all_devices: Annotated[
        bool, typer.Option("--all-devices", help="Use the pretended devices of array_api_strict.")
    ] = False,
    json_file: Annotated[str | None, JSON_FILE] = None,
) -> None:
    """Hold ctcx to known numbers, beside all other CTC.

    Each backend, and the own CTC of every other library that is installed, computes three inputs:
    the notebook's example, with the loss and gradient that the notebook printed; the output of a
    text recogniser for real lines; and 3,200 frames. The last two have a float64 reference. What
    can't be used here is listed with its reason. Exit code 1 if a result of ctcx differs by more
    than its tolerance or fails, or if ctcx could compute nothing; what others compute fails
    nothing.
    """
    with unwarned(), activity("comparing") as tell:
        found = compare(
            backends=known_backends(backend),
            libraries=known_libraries(library),
            peers=known_peers(peer),
            inputs=_known_inputs(inputs),
            repeat=repeat,
            all_devices=all_devices,
            progress=tell,
        )
    if json_file != "-":
        _print(found)
    if json_file is not None:
        write_json(json_file, json_text(found.as_dict()))
    raise typer.Exit(0 if found.passed else 1)


def _known_inputs(given: list[str] | None) -> list[str] | None:
    for name in given or ():
        if name not in TOLERANCE_OF:
            msg = f"{name!r} is no input; known: {', '.join(TOLERANCE_OF)}"
            raise typer.BadParameter(msg, param_hint="--input")
    return given or None


_ABOUT = (
    "CTC (connectionist temporal classification) is the loss that trains recognisers of speech and "
    "text. ctcx computes it, with its gradient, on the arrays that you have. Here it is held to "
    "known numbers, beside the other libraries' own CTC."
)

_HEADINGS = {
    "notebook": "The notebook's example, beside the loss that it printed: {}",
    "ocr-lines": "Real lines of text, beside a float64 reference with the mean loss {}",
    LONG: "3,200 frames, beside a float64 reference with the loss {}",
}


def _print(found: Comparison) -> None:
    headline = found.headline()
    verdict = headline.partition(":")[0]
    style = "bold green" if found.passed else "bold red"
    show(Text.assemble((verdict, style), headline.removeprefix(verdict)), Text(_ABOUT))
    for line in [f"- {finding}" for finding in found.findings()] + advice(backends()):
        show(Text(line))
    for name, what in _HEADINGS.items():
        rows = [row for row in found.rows if row.input == name and row.computed]
        if rows:
            show(heading(what.format(_loss(found.references[name]))), _results(found, rows))
    for title, picked in (
        ("Wrong", [row for row in found.rows if row.bad]),
        ("Others", [row for row in found.rows if row.peer and row.computed and row.reason]),
        ("Notes", [row for row in found.rows if row.verdict == "ok" and row.reason]),
    ):
        if picked:
            lines = [(row.verdict, _place(row), row.reason) for row in picked]
            show(heading(title), bullets(lines))
    unusable: dict[str, dict[str, None]] = {}
    for row in found.rows:
        if not row.computed:
            unusable.setdefault(row.reason, {})[_place(row)] = None
    if unusable:
        lines = [("unusable", ", ".join(places), why) for why, places in unusable.items()]
        show(heading("Not used here"), bullets(lines))
    if found.lines:
        show(heading("What the recogniser saw, and what it gives to the text that was drawn"))
        show(_lines(found))
    show(*_footer(found))


def _results(found: Comparison, rows: list[BackendResult]) -> Table:
    # Headings in two lines leave room for the names in a terminal of 80 columns.
    loss = "mean\nloss" if rows[0].input == "ocr-lines" else "loss"
    numbers = [loss, "loss\noff by", "gradient\noff by", "time,\nms"]
    peer = found.fastest_peer(rows[0].input or "")
    if peer is not None:
        numbers.append(f"times as fast\nas {peer.name}")
    table = new_table("computed by", *numbers, "verdict", right=tuple(numbers))
    for row in rows:
        cells = [
            _loss(row.loss),
            error_text(row.loss_error),
            error_text(row.grad_error),
            "-" if row.seconds is None else f"{row.seconds * 1e3:.2f}",
        ]
        if peer is not None and peer.seconds:
            cells.append(f"{peer.seconds / row.seconds:.3g}" if row.seconds else "-")
        table.add_row(row.name, *cells, styled(row.verdict))
    return table


def _lines(found: Comparison) -> Table:
    numbers = ("loss,\nnats", "nats per\ncharacter", "probability")
    table = new_table("text drawn", "how", "read as", *numbers, right=numbers)
    for line in found.lines:
        reading = Text(line.reading)
        if line.misread:
            reading = Text.assemble((line.reading, "bold red"), (" (misread)", "red"))
        table.add_row(
            line.text,
            line.condition,
            reading,
            f"{line.loss:.3f}",
            f"{line.loss_per_character:.3f}",
            _percent(line.probability),
            style="" if not line.misread else "bold",
        )
    return table


def _footer(found: Comparison) -> list[Text]:
    notes = [f"Tolerance of {name}: {TOLERANCE_OF[name]}." for name in found.references]
    calls = "one call" if found.repeat == 1 else f"{found.repeat} calls"
    notes.append(
        f"Time: loss and gradient, median of {calls} after one to warm up, until the result is "
        f"there; fewer where they take more than a second together. On a machine that does other "
        f"things, `ctcx bench` tells more. Loss: -ln of the probability of the labels, in nats."
    )
    if now := busy():
        notes.insert(0, f"Mind: {now}.")
    there = dict.fromkeys(row.backend for row in found.rows if row.peer and row.computed)
    notes += [f"{name}: {about}." for name, about in ABOUT_PEERS.items() if name in there]
    return [Text("")] + [Text(note, style="dim") for note in notes]


def _place(row: BackendResult) -> str:
    """Say what a row is about, as far as it is about anything in particular."""
    return row.name if row.input is None else f"{row.name}, {row.input}"


def _loss(losses: tuple[float, ...]) -> str:
    return f"{fmean(losses):.6f}" if losses else "-"


def _percent(probability: float) -> str:
    return f"{probability:.1%}" if probability >= 0.001 else f"{probability:.1e}"
