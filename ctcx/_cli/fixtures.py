"""``ctcx fixtures``: examples for implementations in other languages."""

from __future__ import annotations

import sys
from itertools import chain
from typing import Annotated

import typer
from rich.padding import Padding
from rich.text import Text

from ctcx._cli.output import check_target, opened, show

__all__ = ["fixtures_command"]


def fixtures_command(
    *,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Built-in fixtures; default: all of them."),
    ] = None,
    random: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Make N random ones, and no others but those named."),
    ] = None,
    frames: Annotated[
        str, typer.Option(metavar="A:B", help="Least and most frames of a random one, or one size.")
    ] = "20:200",
    labels: Annotated[
        str | None,
        typer.Option(metavar="A:B", help="Least and most labels; default: 1 to frames / 4."),
    ] = None,
    classes: Annotated[int, typer.Option(metavar="N", help="Classes of a random one.")] = 32,
    blank: Annotated[int, typer.Option(metavar="N", help="Blank of a random one.")] = 0,
    seed: Annotated[int, typer.Option(metavar="N", help="Same seed, same file.")] = 0,
    dtype: Annotated[
        str, typer.Option(metavar="NAME", help="The logits are exact in this dtype.")
    ] = "float32",
    distribution: Annotated[
        str, typer.Option(metavar="NAME", help="normal, uniform or confident.")
    ] = "normal",
    scale: Annotated[
        float, typer.Option(metavar="X", help="Standard deviation, or half the width if uniform.")
    ] = 2.0,
    beam: Annotated[
        int,
        typer.Option(
            metavar="N", help="Width of a beam search of random ones; 0 for none: it takes time."
        ),
    ] = 0,
    guided: Annotated[
        bool,
        typer.Option(
            "--guided",
            help="A search with phrases, a language model and a label bonus in random ones, which "
            "must be small: --frames 3:8 --classes 4.",
        ),
    ] = False,
    form: Annotated[
        str,
        typer.Option("--format", metavar="NAME", help="json, npz, safetensors, typescript or c."),
    ] = "json",
    time_major: Annotated[
        bool, typer.Option("--time-major", help="Frames before sequences.")
    ] = False,
    out: Annotated[
        str,
        typer.Option(
            metavar="FILE", callback=check_target, help="Where to; - for standard output."
        ),
    ] = "-",
    list_names: Annotated[
        bool, typer.Option("--list", help="Say what each built-in fixture catches, and write none.")
    ] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of the files, and no more.")
    ] = False,
    check: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Read FILE and compute every number of it again."),
    ] = None,
) -> None:
    """Write examples of CTC to test another program against.

    Each has loss and gradient with every number on the way, and what alignment, occupancies,
    entropy, greedy decoding and beam search give.

    For tests of an implementation in any language. Numbers are computed in float64 and compared
    with two other computations before they are written. The same command writes the same bytes on
    every machine.
    """
    if list_names:
        _print_names()
    elif schema:
        from ctcx._cli.output import json_text
        from ctcx.fixtures import schema as json_schema

        typer.echo(json_text(json_schema()))
    elif check is not None:
        from ctcx.fixtures import check_file

        count = len(check_file(check))
        typer.echo(f"{check}: {count} fixtures, all numbers as they should be")
    else:
        from ctcx.fixtures import RandomOptions

        options = None
        if random is not None:
            options = RandomOptions(
                count=random,
                frames=_span("--frames", frames),
                labels=None if labels is None else _span("--labels", labels),
                classes=classes,
                blank=blank,
                seed=seed,
                dtype=dtype,
                distribution=distribution,
                scale=scale,
                beam_width=beam,
                guided=guided,
            )
        _write(names or [], options, form, out, time_major=time_major)


def _write(names: list[str], options: object, form: str, out: str, *, time_major: bool) -> None:
    from ctcx.fixtures import FORMATS, RandomOptions, named
    from ctcx.fixtures import random as random_fixtures
    from ctcx.fixtures._parallel import random_texts
    from ctcx.fixtures._write import TEXTS, object_text, write, write_texts

    if form not in FORMATS:
        msg = f"there is no format {form!r}; there are {', '.join(FORMATS)}"
        raise typer.BadParameter(msg, param_hint="--format")
    if out == "-" and form in {"npz", "safetensors"} and sys.stdout.isatty():
        msg = f"{form} is no text for a terminal: say --out FILE"
        raise typer.BadParameter(msg, param_hint="--out")
    built_in = named(*names) if names or options is None else []
    with opened(out) as file:
        if not isinstance(options, RandomOptions):
            write(built_in, file, form, time_major=time_major)
        elif form in TEXTS:
            first = (object_text(fixture, form, time_major=time_major) for fixture in built_in)
            texts = chain(first, random_texts(options, form, time_major=time_major))
            write_texts(texts, file, form, time_major=time_major)
        else:
            write([*built_in, *random_fixtures(options)], file, form, time_major=time_major)


def _span(option: str, text: str) -> tuple[int, int]:
    low, colon, high = text.partition(":")
    try:
        return int(low), int(high if colon else low)
    except ValueError:
        msg = f"{text!r} is no range: expected a number, or two such as 20:200"
        raise typer.BadParameter(msg, param_hint=option) from None


def _print_names() -> None:
    from ctcx.fixtures import names

    for name, about in names().items():
        show(Text(name, style="bold"), Padding(Text(about), (0, 0, 0, 4)))
