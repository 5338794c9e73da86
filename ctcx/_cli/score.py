"""``ctcx score``: the losses of a corpus that is larger than memory. ctcx-dask computes them."""

from __future__ import annotations

import math
import warnings
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from ctcx._cli.emission_files import BACKEND
from ctcx._cli.output import activity, check_target, show
from ctcx._errors import CTCError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["score_command"]

GROUP = "ctcx.commands"
"""Entry points of packages that bring what a command needs."""


def score_command(
    *,
    corpus: Annotated[
        str,
        typer.Argument(
            metavar="CORPUS.zarr",
            help="Group with the arrays logits, labels, logit_lengths and label_lengths, and the "
            "attribute blank.",
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            callback=check_target,
            help="Table to write: NAME.parquet, or NAME.zarr.",
        ),
    ],
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Scheduler of dask.distributed, such as tcp://host:8786; default: this process.",
        ),
    ] = None,
    backend: Annotated[str | None, BACKEND] = None,
) -> None:
    """Compute the loss of each sequence of a corpus, of any size.

    Writes a table with the columns sequence, loss, feasible, frames and labels. Needs ctcx-dask.
    """
    with warnings.catch_warnings(), activity("scoring") as tell:
        warnings.showwarning = lambda message, *_, **__: typer.echo(
            f"ctcx: warning: {message}", err=True
        )
        summary = _scorer()(
            corpus,
            out,
            scheduler=scheduler,
            backend=backend,
            progress=lambda done, total: tell(f"{done} of {total} blocks"),
        )
    infeasible = f", {summary.infeasible:,} of them infeasible" if summary.infeasible else ""
    typer.echo(f"written: {out}", err=True)
    mean = "" if math.isnan(summary.mean) else f"; the mean loss is {summary.mean:.4g}"
    show(Text(f"{summary.sequences:,} sequences{infeasible}, in {summary.seconds:.1f} s{mean}"))


def _scorer() -> Callable[..., Any]:
    """Find the function that a package offers.

    Raises CTCError: none does, or it needs other packages.
    """
    advice = "pip install 'ctcx-dask[score]'"
    for entry in metadata.entry_points(group=GROUP, name="score"):
        try:
            found: Callable[..., Any] = entry.load()
        except ImportError as error:
            msg = f"ctcx score can't be run: {error} ({advice})"
            raise CTCError(msg) from error
        return found
    msg = f"ctcx score needs ctcx-dask, which is not installed ({advice})"
    raise CTCError(msg)
