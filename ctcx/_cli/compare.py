"""``ctcx compare``: the notebook and real inputs on everything that is here."""

from __future__ import annotations

import math
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from ctcx._cli.names import BACKENDS, LIBRARIES, known_backends, known_libraries
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
from ctcx._comparison.result import TOLERANCE_OF
from ctcx._comparison.run import compare

if TYPE_CHECKING:
    from rich.table import Table

    from ctcx._comparison.result import BackendResult, Comparison

__all__ = ["compare_command"]


def compare_command(
    *,
    backend: Annotated[list[str] | None, BACKENDS] = None,
    library: Annotated[list[str] | None, LIBRARIES] = None,
    repeat: Annotated[
        int, typer.Option(min=1, metavar="N", help="Calls to take the median time of.")
    ] = 5,
    all_devices: Annotated[
        bool, typer.Option("--all-devices", help="Use the pretended devices of array_api_strict.")
    ] = False,
    json_file: Annotated[str | None, JSON_FILE] = None,
) -> None:
    """Compare all backends and libraries with known numbers.

    The notebook's example beside the loss and gradient that the notebook printed, and the output of
    a text recogniser for real lines beside a float64 reference. What can't be used here is listed
    with its reason. Exit code 1 if a result differs by more than its tolerance, or fails.
    """
    with unwarned(), activity("comparing") as tell:
        found = compare(
            backends=known_backends(backend),
            libraries=known_libraries(library),
            repeat=repeat,
            all_devices=all_devices,
            progress=tell,
        )
    if json_file != "-":
        _print(found)
    if json_file is not None:
        write_json(json_file, json_text(found.as_dict()))
    raise typer.Exit(0 if found.passed else 1)


def _print(found: Comparison) -> None:
    show(Text(found.summary(), style="" if found.passed else "bold red"))
    for name, what in (
        ("notebook", "The notebook's example, beside the loss that it printed: {}"),
        ("ocr-lines", "Real lines of text, beside a float64 reference with the mean loss {}"),
    ):
        rows = [row for row in found.rows if row.input == name and row.computed]
        if rows:
            show(heading(what.format(_loss(found.references[name]))), _results(rows))
    if bad := [row for row in found.rows if row.bad]:
        show(heading("Wrong"), bullets([(row.verdict, _place(row), row.reason) for row in bad]))
    if noted := [row for row in found.rows if row.verdict == "ok" and row.reason]:
        show(heading("Notes"), bullets([("ok", _place(row), row.reason) for row in noted]))
    if unusable := [row for row in found.rows if not row.computed]:
        lines = [(row.verdict, _place(row), row.reason) for row in unusable]
        show(heading("Not used here"), bullets(lines))
    show(heading("What the recogniser saw, and what it gives to the text that was drawn"))
    show(_lines(found))
    show(*_footer(found))


def _results(rows: list[BackendResult]) -> Table:
    # Headings in two lines leave room for the names in a terminal of 80 columns.
    loss = "loss" if rows[0].input == "notebook" else "mean\nloss"
    numbers = (loss, "loss\noff by", "gradient\noff by", "time,\nms")
    table = new_table("backend", "library", "device", *numbers, "verdict", right=numbers)
    for row in rows:
        table.add_row(
            row.backend,
            row.library,
            row.device,
            _loss(row.loss),
            _error(row.loss_error),
            _error(row.grad_error),
            "-" if row.seconds is None else f"{row.seconds * 1e3:.2f}",
            styled(row.verdict),
        )
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
    notes = [f"Tolerance of {name}: {tolerance}." for name, tolerance in TOLERANCE_OF.items()]
    calls = "one call" if found.repeat == 1 else f"{found.repeat} calls"
    notes.append(
        f"Time: loss and gradient, median of {calls} after one to warm up, until the result is "
        f"there. Loss: -ln of the probability of the labels, in nats."
    )
    return [Text("")] + [Text(note, style="dim") for note in notes]


def _place(row: BackendResult) -> str:
    """Say what a row is about, as far as it is about anything in particular."""
    parts = [row.backend or "", row.library or "", row.device or ""]
    where = " ".join(part for part in parts if part)
    return where if row.input is None else f"{where}, {row.input}"


def _loss(losses: tuple[float, ...]) -> str:
    return f"{fmean(losses):.6f}" if losses else "-"


def _error(error: float | None) -> str:
    if error is None:
        return "-"
    return "0" if error == 0 else f"{error:.1e}" if math.isfinite(error) else str(error)


def _percent(probability: float) -> str:
    return f"{probability:.1%}" if probability >= 0.001 else f"{probability:.1e}"
