"""``ctcx bench``: measure everything that is here, report it, and tell two reports apart."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from ctcx._cli.names import BACKENDS, LIBRARIES, PEERS, known_backends, known_libraries
from ctcx._cli.output import (
    JSON_FILE,
    bullets,
    console,
    heading,
    json_text,
    new_table,
    opened,
    show,
    unwarned,
    write_json,
)
from ctcx._cores import busy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.table import Table as RichTable

    from ctcx.bench._measure.session import Session, SessionOptions
    from ctcx.bench._report.results import BenchmarkRun
    from ctcx.bench._report.tables import Table

__all__ = ["bench_command"]

_NEEDED = {
    "pytest": "pytest",
    "pytest_benchmark": "pytest-benchmark",
    "jinja2": "jinja2",
    "vl_convert": "vl-convert-python",
}

_INTERRUPTED = 130


def bench_command(
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few workloads, briefly: about a minute.")
    ] = False,
    backend: Annotated[list[str] | None, BACKENDS] = None,
    library: Annotated[list[str] | None, LIBRARIES] = None,
    peer: Annotated[list[str] | None, PEERS] = None,
    workload: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Only this workload, or those like 'scale-T-*'; may be repeated."
        ),
    ] = None,
    max_seconds: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="S", help="Begin nothing new after so many seconds."),
    ] = None,
    patience: Annotated[
        float,
        typer.Option(
            min=1.0,
            metavar="S",
            help="End an implementation that gives no answer for so long; its first call, which "
            "may compile, has three times as long.",
        ),
    ] = 120.0,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The implementation to compare with.", show_default="torch"
        ),
    ] = None,
    output: Annotated[
        str,
        typer.Option(metavar="STEM", help="Write STEM.html, STEM.md and STEM.json."),
    ] = "ctcx-bench",
    json_file: Annotated[str | None, JSON_FILE] = None,
    report: Annotated[
        str | None,
        typer.Option(
            "--report", metavar="FILE", help="Measure nothing; make the reports from this JSON."
        ),
    ] = None,
    diff: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--diff", metavar="OLD NEW", help="Measure nothing; tell what two JSONs differ in."
        ),
    ] = None,
    different_machines: Annotated[
        bool,
        typer.Option("--different-machines", help="Compare even runs of different machines."),
    ] = False,
) -> None:
    """Measure everything that is here, and write a report.

    Backends, array libraries and other implementations, on real inputs, named workloads and
    sweeps. A result is checked against a float64 reference before its time counts. What can't be
    measured is listed with its reason, and never keeps the others from being measured. Exit code 1
    if an implementation fails or is wrong; with --diff, if something became slower, less exact, or
    is gone. After Ctrl-C what was measured until then is reported, and the exit code is 130.
    """
    if diff is not None:
        raise typer.Exit(_diff(*diff, different_machines=different_machines, json_file=json_file))
    _need(_NEEDED)
    stem = _stem(output)
    if report is not None:
        run = _load(report, baseline)
        _print(run)
        _write_reports(run, stem)
        return
    from ctcx.bench._measure.session import SessionOptions

    options = SessionOptions(
        quick=quick,
        backends=known_backends(backend) or (),
        libraries=known_libraries(library) or (),
        peers=tuple(peer or ()),
        workloads=tuple(workload or ()),
        baseline=baseline or "torch",
        max_seconds=max_seconds,
        patience=patience,
    )
    target = stem.with_name(f"{stem.name}.json")
    target.unlink(missing_ok=True)
    session, interrupted = _measure(options, target)
    raise typer.Exit(_conclude(session, stem, target, json_file, interrupted=interrupted))


def _measure(options: SessionOptions, target: Path) -> tuple[Session, bool]:
    from ctcx.bench._measure.session import UnknownNameError
    from ctcx.bench._run import run_suite

    if now := busy():
        typer.echo(f"ctcx: warning: {now}; wait until it is idle", err=True)
    try:
        with unwarned(), _progress() as tell:
            return run_suite(options, target, tell)
    except UnknownNameError as error:
        raise typer.BadParameter(str(error)) from None


def _conclude(
    session: Session, stem: Path, target: Path, json_file: str | None, *, interrupted: bool
) -> int:
    """Report what there is, and return the exit code."""
    missing = session.as_dict()["missing"]
    if target.exists():
        run = _load(str(target), None)
        if json_file == "-":
            write_json("-", target.read_text(encoding="utf-8").rstrip())
        else:
            _print(run)
            if json_file is not None:
                write_json(json_file, target.read_text(encoding="utf-8").rstrip())
        _write_reports(run, stem)
        typer.echo(f"written: {target}", err=True)
    else:
        typer.echo("ctcx: error: nothing was measured, so there is no report", err=True)
        lines = {(one["verdict"], one["implementation"], one["reason"]) for one in missing}
        show(bullets(sorted(lines)))
    if interrupted:
        typer.echo("ctcx: interrupted: what was not measured is listed as such", err=True)
        return _INTERRUPTED
    bad = any(one["verdict"] != "skipped" for one in missing)
    return 1 if bad or not target.exists() else 0


def _write_reports(run: BenchmarkRun, stem: Path) -> None:
    from ctcx.bench._report.html_report import html_report
    from ctcx.bench._report.markdown_report import markdown_report

    for suffix, text in ((".html", html_report(run)), (".md", markdown_report(run))):
        with opened(str(stem.with_name(stem.name + suffix))) as file:
            file.write(text.encode())


def _print(run: BenchmarkRun) -> None:
    from ctcx.bench._report.tables import headline, missing_table, times, warning

    if said := headline(run):
        show(Text(said))
    if said := warning(run):
        show(Text(said, style="bold yellow"))
    for layout in run.layouts():
        table = times(run, layout)
        show(heading(table.title), *_rich(table))
    gone: dict[tuple[str, str], list[str]] = {}
    for verdict, who, where, reason in missing_table(run).rows:
        # Where nothing could be measured it is nowhere; a fault has a place.
        what = who if verdict in {"skipped", "left out"} else f"{who} ({where})"
        gone.setdefault((verdict, reason), []).append(what)
    if gone:
        lines = [
            (verdict, ", ".join(dict.fromkeys(whom)), reason)
            for (verdict, reason), whom in gone.items()
        ]
        show(heading("Without a time"), bullets(lines))


def _rich(table: Table) -> list[RichTable]:
    """Return the table, in as many parts as the width of the terminal makes necessary."""
    widths = [max(map(len, column)) for column in zip(table.head, *table.rows, strict=True)]
    words = range(table.words)
    room = console().width - sum(widths[i] + 2 for i in words)
    parts: list[list[int]] = [[]]
    left = room
    for i in range(table.words, len(widths)):
        left -= widths[i] + 2
        if left < 0 and parts[-1]:
            parts.append([])
            left = room - widths[i] - 2
        parts[-1].append(i)
    made = []
    for part in parts:
        picked = [*words, *part]
        one = new_table(*(table.head[i] for i in picked), right=tuple(table.head[i] for i in part))
        for row in table.rows:
            one.add_row(*(row[i] for i in picked))
        made.append(one)
    return made


def _diff(old: str, new: str, *, different_machines: bool, json_file: str | None) -> int:
    from ctcx.bench._report.run_comparison import DifferentMachinesError, compare_runs

    before, after = _load(old, None), _load(new, None)
    try:
        changes = compare_runs(before, after, different_machines=different_machines)
    except DifferentMachinesError as error:
        raise typer.BadParameter(str(error), param_hint="--diff") from None
    if json_file is not None:
        write_json(json_file, json_text(asdict(changes)))
    if json_file != "-":
        show(Text(changes.summary()))
        if changes.versions:
            lines = [("", name, f"{was} -> {now}") for name, was, now in changes.versions]
            show(heading("Environment"), bullets(lines))
        if changes.changes:
            show(heading("Changed beyond noise"), *_rich(changes.table()))
    return 1 if any(one.bad for one in changes.changes) else 0


def _load(path: str, baseline: str | None) -> BenchmarkRun:
    from ctcx.bench._report.results import ReportError, load_run

    try:
        return load_run(Path(path), baseline=baseline)
    except ReportError as error:
        raise typer.BadParameter(str(error)) from None


def _stem(output: str) -> Path:
    """Return the stem, if files can be made there."""
    stem = Path(output)
    try:
        is_good = bool(stem.name) and stem.parent.is_dir() and not stem.is_dir()
    except OSError:  # a name that is too long, a folder that can't be searched
        is_good = False
    if not is_good:
        msg = f"{output!r} is no name for files in a directory that exists"
        raise typer.BadParameter(msg, param_hint="--output")
    return stem


def _need(modules: dict[str, str]) -> None:
    if lacking := [install for module, install in modules.items() if find_spec(module) is None]:
        typer.echo(
            f'ctcx: error: ctcx bench needs {", ".join(lacking)}: pip install "ctcx[bench]"',
            err=True,
        )
        raise typer.Exit(2)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show on standard error how far it is: a bar on a terminal, else a line for each workload."""
    err = console(stderr=True)
    if not err.is_terminal:
        said: set[str] = set()

        def say(line: str, done: int, total: int) -> None:
            where = line.partition(":")[0]
            if where not in said:
                said.add(where)
                typer.echo(f"[{done}/{total}] {where}", err=True)

        yield say
        return
    columns = (
        TextColumn("measuring"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda line, done, total: progress.update(
            task, description=line, completed=done, total=total
        )
