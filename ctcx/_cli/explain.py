"""``ctcx explain``: which backend a call would use, and why none of the others."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from rich.text import Text

from ctcx._cli.names import library_name
from ctcx._cli.output import new_table, show, styled, unwarned
from ctcx._dispatch.decision import describe
from ctcx._dispatch.dispatcher import explain_problem
from ctcx._operations import OPERATIONS
from ctcx._plugins.backend import Problem
from ctcx._plugins.registry import registry
from ctcx._typing import DTYPES

__all__ = ["explain_command"]


_Dtype = StrEnum("_Dtype", {name: name for name in DTYPES})  # type: ignore[misc] # no literal
_Operation = StrEnum("_Operation", {name: name for name in OPERATIONS})  # type: ignore[misc]
_FLOAT32 = _Dtype("float32")
_LOSS_AND_GRAD = _Operation("loss_and_grad")


def explain_command(
    *,
    library: Annotated[str, typer.Option(metavar="NAME", help="Array library.")] = "numpy",
    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="As the library names it: cpu, cuda:0.",
            show_default="cuda:0 for cupy, else cpu",
        ),
    ] = None,
    dtype: Annotated[_Dtype, typer.Option(help="Of the logits.")] = _FLOAT32,
    shape: Annotated[
        str, typer.Option(metavar="N,T,C", help="Sequences, frames, classes.")
    ] = "64,150,28",
    labels: Annotated[int, typer.Option(min=0, metavar="S", help="Width of the label array.")] = 40,
    blank: Annotated[int, typer.Option(metavar="K", help="Class of the blank.")] = 0,
    backend: Annotated[
        str | None, typer.Option(metavar="NAME", help="As if backend=NAME were passed.")
    ] = None,
    operation: Annotated[_Operation, typer.Option(help="What is asked for.")] = _LOSS_AND_GRAD,
    traced: Annotated[bool, typer.Option("--traced", help="As under jax.jit.")] = False,
    not_contiguous: Annotated[
        bool, typer.Option("--not-contiguous", help="As for transposed logits.")
    ] = False,
) -> None:
    """Say which backend a call would use, and why.

    Every other candidate is listed with the reason why it is not the one. Nothing is computed, and
    the library need not be installed. Exit code 1 if no backend can take the call.
    """
    count, frames, classes = _parse_shape(shape)
    if not -classes <= blank < classes:
        msg = f"{blank} is no class: there are {classes}"
        raise typer.BadParameter(msg, param_hint="--blank")
    with unwarned():
        known = library_name(library)
        missing = None if known is None else registry().namespace_unusable(known)
        problem = Problem(
            operation=operation.value,
            namespace=known or library,
            device=device or ("cuda:0" if known == "cupy" else "cpu"),
            dtype=dtype.value,
            N=count,
            T=frames,
            C=classes,
            S=labels,
            blank=blank % classes,
            traced=traced,
            contiguous=not not_contiguous,
        )
        decision = explain_problem(problem, backend)
    if decision.selected is None:
        choice = Text("No backend can take it.", style="bold red")
    else:
        by = "automatically" if decision.source == "auto" else f"by {decision.source}"
        choice = Text(f"{decision.selected.backend.name} is chosen {by}.", style="bold green")
    show(Text(describe(problem)), choice, Text(""))
    table = new_table("backend", "from", "status", "reason")
    for candidate in decision.candidates:
        table.add_row(
            candidate.name, candidate.provenance, styled(candidate.status), candidate.reason
        )
    show(table)
    if known is None:
        note = (
            f"No plugin describes {library!r}: only backends for any library can take its arrays."
        )
        show(Text(f"\n{note}", style="dim"))
    if missing:
        show(Text(f"\nOn this machine {known} can't be used: {missing}", style="dim"))
    raise typer.Exit(0 if decision.selected is not None else 1)


def _parse_shape(text: str) -> tuple[int, int, int]:
    try:
        count, frames, classes = (int(part) for part in text.split(","))
    except ValueError:
        msg = f"expected three numbers like 64,150,28; got {text!r}"
        raise typer.BadParameter(msg, param_hint="--shape") from None
    if min(count, frames) < 0 or classes < 1:
        msg = f"expected no negative number, and at least one class; got {text!r}"
        raise typer.BadParameter(msg, param_hint="--shape")
    return count, frames, classes
