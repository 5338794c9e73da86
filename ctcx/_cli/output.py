"""Where output goes, how tables look, and how JSON is written."""

from __future__ import annotations

import io
import json
import os
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import typer
from rich import box
from rich.console import Console, Group
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ctcx._errors import PluginWarning
from ctcx._files import json_safe, replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import RenderableType

__all__ = [
    "JSON_FILE",
    "activity",
    "bullets",
    "check_target",
    "console",
    "heading",
    "json_text",
    "new_table",
    "opened",
    "show",
    "styled",
    "unwarned",
    "write_json",
]

_PIPE_WIDTH = 4000
"""A pipe has no width: wide enough that nothing is ever wrapped there."""

_NARROW = 100
"""Below so many columns, tables are set closer."""

_FEW_LETTERS = 6
"""So narrow may a column of words become, folded."""

_STYLES = {
    "ok": "green",
    "active": "green",
    "available": "green",
    "passed": "green",
    "selected": "bold green",
    "differs": "bold red",
    "error": "bold red",
    "failed": "bold red",
    "incompatible": "bold red",
    "inexact": "yellow",
    "invalid": "bold red",
    "opt-in": "cyan",
    "blocked": "yellow",
    "declined": "yellow",
    "expected-failure": "yellow",
    "rejected": "yellow",
    "unusable": "yellow",
}


def console(*, stderr: bool = False) -> Console:
    """Return the console; markup is off, since reasons may hold square brackets."""
    made = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = _PIPE_WIDTH
    return made


def show(*parts: RenderableType, soft_wrap: bool = False) -> None:
    """Print to standard output; where that is no terminal, without blanks at the ends of lines.

    With ``soft_wrap`` a line stays one, for a command or a path to be copied.
    """
    out = console()
    parts = tuple(
        _as_records(part) if isinstance(part, Table) and _breaks_numbers(part, out) else part
        for part in parts
    )
    if out.is_terminal:
        out.print(*parts, sep="\n", soft_wrap=soft_wrap)
        return
    with out.capture() as captured:
        out.print(*parts, sep="\n", soft_wrap=soft_wrap)
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def styled(word: str) -> Text:
    """Return a status in its colour."""
    return Text(word, style=_STYLES.get(word, ""))


def heading(text: str) -> Text:
    """Return a line that stands above a table."""
    return Text(f"\n{text}", style="bold")


def bullets(lines: Sequence[tuple[str, str, str]]) -> Table:
    """Return ``(status, what, why)`` as lines that wrap between words."""
    listing = Table(
        box=None, show_header=False, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0)
    )
    listing.add_column(overflow="fold")
    listing.add_column(overflow="fold")
    for status, what, why in lines:
        listing.add_row(styled(status), f"{what}: {why}" if what else why)
    return listing


def new_table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """Return an empty table that wraps and folds, and never cuts off; ``right`` hold numbers."""
    gap = 1 if console().width < _NARROW else 2
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, gap - 1, 0, 0),
        header_style="bold",
    )
    for column in columns:
        table.add_column(
            column,
            justify="right" if column in right else "left",
            overflow="fold",
            vertical="top",
        )
    return table


def _breaks_numbers(table: Table, out: Console) -> bool:
    """Whether numbers would have to be wrapped, where words have room for a few letters."""
    needed = len(table.columns) * sum(table.padding[1::2])
    for column in table.columns:
        widest = Measurement.get(out, out.options, Group(*column.cells, column.header)).maximum
        needed += widest if column.justify == "right" else min(widest, _FEW_LETTERS)
    return table.show_header and needed > out.width


def _as_records(table: Table) -> Group:
    """Return the rows one after the other, with a line for each cell."""
    first, *others = table.columns
    headers = [" ".join(str(column.header).split()) for column in others]
    lines: list[RenderableType] = []
    for name, *cells in zip(*(column.cells for column in table.columns), strict=True):
        lines.append(name)
        lines += [
            Text.assemble(f"  {header}: ", cell)
            for header, cell in zip(headers, cells, strict=True)
        ]
    return Group(Text(str(first.header), style="bold"), *lines)


@contextmanager
def activity(what: str) -> Iterator[Callable[[str], None]]:
    """Show on a terminal's standard error what goes on, until it is over."""
    err = console(stderr=True)
    if not err.is_terminal:
        yield lambda _: None
        return
    with err.status(what) as status:
        yield lambda now: status.update(f"{what}: {now}")


@contextmanager
def unwarned() -> Iterator[None]:
    """Hold back warnings about plugins, for commands that print the same in a table."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PluginWarning)
        yield


def check_target(target: str | None) -> str | None:
    """Refuse a file that can't be written, before anything is computed."""
    if target is not None and target != "-":
        path = Path(target)
        try:
            is_directory, has_parent = path.is_dir(), path.parent.is_dir()
        except OSError as error:  # a name that is too long, a folder that can't be searched
            msg = f"{target!r} can't be written: {error.strerror}"
            raise typer.BadParameter(msg) from None
        if is_directory:
            msg = f"{target!r} is a directory"
            raise typer.BadParameter(msg)
        if not has_parent:
            msg = f"there is no directory {str(path.parent)!r}"
            raise typer.BadParameter(msg)
    return target


@contextmanager
def opened(target: str) -> Iterator[IO[bytes]]:
    """Open a file that is there whole or not at all, or standard output for ``-``."""
    if target == "-":
        whole = io.BytesIO()
        yield whole
        typer.echo(whole.getvalue(), nl=False)
        return
    try:
        with replaced(target) as file:
            yield file
    except OSError as error:
        typer.echo(f"ctcx: error: can't write {target}: {error.strerror}", err=True)
        raise typer.Exit(2) from None
    typer.echo(f"written: {target}", err=True)


JSON_FILE = typer.Option(
    "--json",
    metavar="FILE",
    callback=check_target,
    help="Write the result to FILE as JSON too; - for standard output, and nothing else there.",
)


def write_json(target: str, text: str) -> None:
    """Write JSON text to a file, or to standard output for ``-``.

    Halves of characters, which names may hold, become question marks.
    """
    with opened(target) as file:
        file.write(f"{text}\n".encode(errors="replace"))


def json_text(data: Any) -> str:
    """Return plain data as JSON text that any parser takes."""
    return json.dumps(json_safe(data), indent=2, allow_nan=False, ensure_ascii=False)
