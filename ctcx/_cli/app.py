"""The application: its commands, its version, and how errors end it."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from typer.core import TyperGroup

from ctcx import __version__
from ctcx._cli import (
    align,
    backends,
    bench,
    compare,
    conformance,
    decode,
    diagnose,
    doctor,
    explain,
    fixtures,
    score,
)
from ctcx._errors import CTCError, PluginWarning

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["app", "run"]

_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
"""Why standard output takes no more; Windows has no quotas. Typer handles closed pipes."""


class _Group(TyperGroup):
    """Ends a command with one line where ctcx itself says what is wrong."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an error of ctcx is exit code 2 and no traceback."""
        try:
            return super().invoke(ctx)
        except CTCError as error:
            # Further lines are tables of candidates, which `ctcx explain` prints better.
            typer.echo(f"ctcx: error: {str(error).partition(chr(10))[0]}", err=True)
            raise typer.Exit(2) from None
        except MemoryError as error:
            typer.echo(
                f"ctcx: error: out of memory: {str(error) or 'no more can be had'}", err=True
            )
            raise typer.Exit(2) from None


app = typer.Typer(
    name="ctcx",
    cls=_Group,
    help="CTC loss and gradient for every array library, with kernels as plugins.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(value: bool) -> None:  # noqa: FBT001 - typer's signature of a callback
    if value:
        typer.echo(f"ctcx {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """CTC loss and gradient for every array library, with kernels as plugins."""


app.command("compare")(compare.compare_command)
app.command("backends")(backends.backends_command)
app.command("doctor")(doctor.doctor_command)
app.command("explain")(explain.explain_command)
app.command("conformance")(conformance.conformance_command)
app.command("fixtures")(fixtures.fixtures_command)
app.command("bench")(bench.bench_command)
app.command("align")(align.align_command)
app.command("decode")(decode.decode_command)
app.command("score")(score.score_command)
app.command("diagnose")(diagnose.diagnose_command)


def run() -> None:
    """Run the command that the arguments of this process name, and exit."""
    for stream in (sys.stdout, sys.stderr):
        # What an encoding can't say is spelled out; better than to end in the middle of a table.
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
    warnings.showwarning = _in_one_line(warnings.showwarning)
    try:
        app(prog_name="ctcx")
    except OSError as error:
        if error.errno not in _FULL:
            raise
        with suppress(OSError):
            typer.echo(f"ctcx: error: can't write the output: {error.strerror}", err=True)
        # Python would try once more at the end to write what it still has, with a traceback.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        sys.exit(2)


def _in_one_line(show: Callable[..., None]) -> Callable[..., None]:
    """Show warnings about plugins without a line of ctcx's source, and all others as ever."""

    def showwarning(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, PluginWarning):
            typer.echo(f"ctcx: warning: {message}", err=True)
        else:
            show(message, category, filename, lineno, file, line)

    return showwarning
