"""``ctcx diagnose``: one computation from inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.text import Text

from ctcx._cli.output import JSON_FILE, check_target, heading, new_table, opened, show, write_json
from ctcx._errors import CTCInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from rich.table import Table

    from ctcx._diagnosis.view import SequenceInspection
    from ctcx.fixtures import Fixture

__all__ = ["diagnose_command"]

_FRAMES = 24
_COLUMNS = 13


def diagnose_command(
    *,
    fixture: Annotated[
        str,
        typer.Argument(
            metavar="FIXTURE",
            help="A built-in one, or FILE.json, or FILE.json#NAME for one of several.",
        ),
    ],
    sequence: Annotated[
        int | None,
        typer.Option(metavar="N", help="Which of the batch; default: the first that is wrong."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Another implementation's numbers, as JSON."),
    ] = None,
    dtype: Annotated[
        str, typer.Option(metavar="NAME", help="Whose tolerances hold for the others' numbers.")
    ] = "float32",
    frames: Annotated[
        str | None,
        typer.Option(metavar="A:B", help="Show these frames; default: first and last ones."),
    ] = None,
    json_file: Annotated[str | None, JSON_FILE] = None,
    html: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            callback=check_target,
            help="Write a page to look at in a browser.",
        ),
    ] = None,
) -> None:
    """Show one CTC computation from inside.

    The states, and frame by frame log-softmax, alpha, beta, occupancy, gradient and the best path.
    With --against, where another implementation first parts from it, and the likely mistake; exit
    code 1 if it does.
    """
    from ctcx._diagnosis.answer import read_answer
    from ctcx._diagnosis.html_page import page
    from ctcx._diagnosis.view import as_json, inspect_sequence
    from ctcx._reference.tolerances import TOLERANCES
    from ctcx.fixtures._read import read_document

    if dtype not in TOLERANCES:
        msg = f"there is no dtype {dtype!r}; there are {', '.join(TOLERANCES)}"
        raise typer.BadParameter(msg, param_hint="--dtype")
    found = _find(fixture)
    answer = None
    if against is not None:
        answer = read_answer(against, read_document(against), found)
    view = inspect_sequence(found, sequence, dtype, answer)
    shown = _frames(frames, len(view.lattice.alpha))
    # Files first: a pager that is closed ends the printing.
    if html is not None:
        with opened(html) as file:
            file.write(page(view).encode(errors="replace"))
    if json_file is not None:
        write_json(json_file, as_json(view))
    if "-" not in {json_file, html}:
        _print(view, shown)
    wrong = view.divergence is not None or (view.diagnosis is not None and view.diagnosis.wrong)
    raise typer.Exit(1 if wrong else 0)


def _find(given: str) -> Fixture:
    """Return the fixture of that name, or from that file."""
    from ctcx.fixtures import named, names, read_fixtures

    try:
        exists = Path(given).exists()
    except OSError:  # reading it says why
        exists = False
    if given in names() or not ("." in given or "/" in given or exists):
        return named(given)[0]
    path, _, name = (given, "", "") if exists else given.partition("#")
    fixtures = read_fixtures(path)
    if name:
        fixtures = [one for one in fixtures if one.name == name] or fixtures
    if len(fixtures) != 1 or (name and fixtures[0].name != name):
        there = ", ".join(one.name for one in fixtures[:20]) or "none"
        what = f"has no fixture {name!r}" if name else f"has {len(fixtures)} fixtures"
        msg = f"{path} {what}: expected {path}#NAME with one of: {there}"
        raise CTCInputError(msg, argument="fixture", value=given)
    return fixtures[0]


def _frames(given: str | None, count: int) -> list[int]:
    """Return the frames to show; those at both ends where there are too many."""
    if given is None:
        half = _FRAMES // 2
        every = range(count)
        return list(every) if count <= _FRAMES else [*every[:half], *every[-half:]]
    low, colon, high = given.partition(":")
    try:
        start = int(low or 0)
        stop = int(high or count) if colon else start + 1
    except ValueError:
        start = stop = -1
    if not 0 <= start < stop <= count:
        msg = f"{given!r} is no range of the {count} frames: expected A:B with 0 <= A < B"
        raise typer.BadParameter(msg, param_hint="--frames")
    return list(range(start, stop))


def _print(view: SequenceInspection, frames: Sequence[int]) -> None:
    lattice, fixture = view.lattice, view.fixture
    names = [_class(k, fixture.blank) for k in range(lattice.softmax.shape[1])]
    states = [f"{s}:{_class(int(k), fixture.blank)}" for s, k in enumerate(lattice.states)]
    show(
        Text(f"{fixture.name}, sequence {view.sequence} of {fixture.shape[0]}", style="bold"),
        Text(fixture.about),
        Text(
            f"{len(lattice.alpha)} frames, {len(names)} classes, blank {fixture.blank}, "
            f"labels {lattice.states[1::2].tolist()}, loss {lattice.loss!r} nats"
        ),
        Text(f"states: {' '.join(states)}"),
    )
    _print_verdict(view)
    if view.best_path:
        path = " ".join(_class(int(lattice.states[s]), fixture.blank) for s in view.best_path)
        others = "" if view.best_is_unique else ", others are equally good"
        show(Text(f"best path: {path} (log-probability {view.best_score:.6g}{others})"))
    for title, name, columns in (
        ("log-softmax, by class", "log_softmax", names),
        ("alpha, by state", "alpha", states),
        ("beta, by state", "beta", states),
        ("occupancy, by state", "occupancy", states),
        ("gradient, by class", "gradient", names),
    ):
        show(heading(title), _table(getattr(lattice, name), columns, frames))
    if len(frames) < len(lattice.alpha) or len(states) > _COLUMNS or len(names) > _COLUMNS:
        show(Text("\nShown in part. --frames A:B, --json FILE and --html FILE show more.", "dim"))


def _print_verdict(view: SequenceInspection) -> None:
    if view.answer is None:
        return
    if view.divergence is None:
        line = Text.assemble(("right", "bold green"), ": every number that is given")
        show(line)
    else:
        show(Text.assemble(("first wrong number", "bold red"), f": {view.divergence}"))
    said = view.diagnosis
    if said is not None and said.mistakes:
        names = " or ".join(mistake.name for mistake in said.mistakes)
        show(Text(f"likely mistake ({names}): {said.explanation}", style="bold"))
    elif view.divergence is not None:
        show(Text("unknown mistake: no known one gives these numbers"))


def _table(values: NDArray[np.float64], columns: Sequence[str], frames: Sequence[int]) -> Table:
    """Return a table of frames; columns in the middle are left out where there are too many."""
    half = _COLUMNS // 2
    picked = list(range(len(columns)))
    if len(columns) > _COLUMNS:
        picked = [*picked[: half + 1], *picked[-half:]]
    heads = [columns[i] for i in picked]
    if len(columns) > _COLUMNS:
        heads.insert(half + 1, "...")
    table = new_table("frame", *heads, right=("frame", *heads))
    for before, t in zip([None, *frames[:-1]], frames, strict=True):
        if before is not None and t != before + 1:
            table.add_row("...")
        cells = [_number(float(values[t, i])) for i in picked]
        if len(columns) > _COLUMNS:
            cells.insert(half + 1, "")
        table.add_row(str(t), *cells)
    return table


def _class(k: int, blank: int) -> str:
    return "-" if k == blank else str(k)


def _number(value: float) -> str:
    if value == 0 or not np.isfinite(value):
        return "0" if value == 0 else str(value)
    return f"{value:.1e}" if abs(value) < 1e-4 else f"{value:.4f}"
