"""``ctcx conformance``: the kit, without pytest."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from ctcx._cli.names import LIBRARIES, known_libraries
from ctcx._cli.output import (
    JSON_FILE,
    bullets,
    console,
    heading,
    new_table,
    show,
    styled,
    write_json,
)
from ctcx.conformance._drawing import DRAWN, FAILURES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from rich.table import Table

    from ctcx.conformance import Report, Result

__all__ = ["conformance_command"]

_COUNTED = ("passed", "failed", "error", "expected-failure", "skipped")


def conformance_command(
    *,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The backend to test.")] = None,
    library: Annotated[list[str] | None, LIBRARIES] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only on this device; may be repeated."),
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only with this dtype; may be repeated."),
    ] = None,
    check: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Only this check, or problem of --command; may be repeated.",
        ),
    ] = None,
    slow: Annotated[
        bool, typer.Option("--slow", help="Run also the checks that take a minute.")
    ] = False,
    draw: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", help="Draw so many problems; default: some seconds' worth."
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, metavar="S", help="Draw other problems with another seed.")
    ] = 0,
    thorough: Annotated[
        bool,
        typer.Option("--thorough", help="Draw thousands, run the slow checks too: for a night."),
    ] = False,
    replay: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Run one drawn problem again: a file of --failures, or its name."
        ),
    ] = None,
    failures: Annotated[
        str,
        typer.Option(metavar="DIR", help="Where to write problems with wrong results."),
    ] = FAILURES,
    command: Annotated[
        str | None,
        typer.Option(metavar="COMMAND", help="Test a program in any language, asked in JSON."),
    ] = None,
    operation: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="What to ask a program for: loss (the default, with its gradient), align, "
            "occupancies, entropy, greedy, beam_search, guided_search, or all; may be repeated.",
        ),
    ] = None,
    time_limit: Annotated[
        float, typer.Option(min=0.01, metavar="S", help="Seconds for each problem of --command.")
    ] = 10.0,
    export: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Write the problems of --command to files instead."),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Judge the answers.ndjson in a folder of --export."),
    ] = None,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Show every problem that a program got wrong, not one example."),
    ] = False,
    list_checks: Annotated[
        bool,
        typer.Option("--list", help="Say what each check, of --operation, proves; run none."),
    ] = False,
    json_file: Annotated[str | None, JSON_FILE] = None,
) -> None:
    """Prove a backend right, or find out where it is wrong.

    Runs the conformance kit on every array library, device and dtype that the backend declares and
    that is here. With --command, or with --export and --judge, it is a program in any language
    that is tested. Exit code 1 if a check fails, or if none could be run.
    """
    if list_checks:
        _print_checks(operation or ())
        return
    if export is not None:
        from ctcx.conformance import export_problems

        for path in export_problems(export, operation or ("loss",)):
            typer.echo(f"written: {path}", err=True)
        return
    if sum(each is not None for each in (name, command, judge)) > 1:
        msg = "test a backend, a program or a folder of answers, one at once"
        raise typer.BadParameter(msg, param_hint="NAME, --command, --judge")
    if operation and command is None:
        msg = "only --command and --export have operations"
        raise typer.BadParameter(msg, param_hint="--operation")
    if name is None:
        has_library = bool(library or device)
        report = _external(
            command,
            judge,
            check,
            dtype,
            operation or ("loss",),
            time_limit,
            failures,
            has_library=has_library,
        )
    else:
        checks = [one if one.startswith("check_") else f"check_{one}" for one in check or ()]
        only = {
            "namespaces": known_libraries(library),
            "devices": device or None,
            "dtypes": dtype or None,
            "checks": checks or None,
        }
        report = _run(
            name,
            only,
            replay,
            slow=slow,
            draw=draw,
            seed=seed,
            thorough=thorough,
            failures=failures,
        )
    if json_file != "-":
        _print(report, everything=everything)
    if json_file is not None:
        write_json(json_file, report.to_json())
    raise typer.Exit(0 if report.passed else 1)


def _external(
    command: str | None,
    judge: str | None,
    check: list[str] | None,
    dtypes: list[str] | None,
    operations: Sequence[str],
    time_limit: float,
    failures: str,
    *,
    has_library: bool,
) -> Report:
    """Return the report on a program, or on a folder of its answers."""
    from ctcx.conformance import check_answers, run_command
    from ctcx.conformance._external.problems import chosen

    if command is None and judge is None:
        msg = "say which backend to test; `ctcx backends` lists them"
        raise typer.BadParameter(msg, param_hint="NAME")
    if has_library or len(dtypes or ()) > 1:
        msg = "a program has no array library and no device, and one dtype"
        raise typer.BadParameter(msg, param_hint="--library, --device, --dtype")
    dtype = dtypes[0] if dtypes else "float32"
    if judge is not None:
        if check:
            msg = "a folder is judged as a whole"
            raise typer.BadParameter(msg, param_hint="--check")
        return check_answers(judge, dtype=dtype, failures=failures)
    assert command is not None  # noqa: S101 - one of the two was given
    # The report names what failed; there is no need to, before it.
    with _progress(len(chosen(check or None, operations)), tells=False) as progress:
        return run_command(
            command,
            operations=operations,
            dtype=dtype,
            only=check or None,
            time_limit=time_limit,
            failures=failures,
            progress=progress,
        )


_OPTIONS = {
    "namespaces": "--library",
    "devices": "--device",
    "dtypes": "--dtype",
    "checks": "--check",
}
"""The options that say what to run, by the arguments that they are for."""


def _run(
    name: str, only: dict[str, Any], replay: str | None, *, slow: bool, **drawing: Any
) -> Report:
    from ctcx.conformance import run_conformance
    from ctcx.conformance._draws import read_problem
    from ctcx.conformance._plan import make_plan

    if replay is not None:
        only["checks"] = [DRAWN]
        try:
            read_problem(replay)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--replay") from None
    try:
        total = len(make_plan(name, **only, slow=slow).items)
    except ValueError as error:  # a name that doesn't exist, or isn't declared
        given = " or ".join(_OPTIONS[what] for what, names in only.items() if names) or "NAME"
        raise typer.BadParameter(str(error), param_hint=given) from None
    with _progress(total) as progress:
        return run_conformance(name, **only, slow=slow, **drawing, replay=replay, progress=progress)


@contextmanager
def _progress(total: int, *, tells: bool = True) -> Iterator[Callable[[Result], None]]:
    """Show a bar on a terminal's standard error; tell of each failure there at once, bar or not.

    Where a run takes seconds, the report is soon enough: ``tells`` is False.
    """
    err = console(stderr=True)
    bar = Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )
    task = bar.add_task("", total=total)

    def progress(result: Result) -> None:
        if result.bad and tells:
            bar.console.print(Text.assemble(styled(result.status), f" {result.where}"))
        bar.update(task, advance=1, description=f"{result.namespace} {result.dtype} {result.check}")

    with bar:
        yield progress


def _print_checks(operations: Collection[str]) -> None:
    from ctcx.conformance import checks
    from ctcx.plugin import OPERATIONS

    if unknown := set(operations).difference(OPERATIONS):
        msg = f"a backend has no operation {min(unknown)}; there are {', '.join(OPERATIONS)}"
        raise typer.BadParameter(msg, param_hint="--operation")
    for one in checks().values():
        if operations and one.operations.isdisjoint(operations):
            continue
        needs = sorted(f"Feature.{feature.name}" for feature in one.requires)
        needs += ["a library with jit"] if one.jit else []
        needs += ["--slow"] if one.slow else []
        about = f"{one.summary} Needs {' and '.join(needs)}." if needs else one.summary
        show(Text(one.name, style="bold"), Padding(Text(about), (0, 0, 0, 4)))


def _print(report: Report, *, everything: bool) -> None:
    style = "bold green" if report.passed else "bold red"
    verdict = "PASSED" if report.passed else "FAILED"
    counts = report.counts
    counted = ", ".join(f"{counts[each]} {each}" for each in _COUNTED if each in counts)
    show(
        Text.assemble(
            (verdict, style),
            f": {report.kind} {report.backend!r} of {report.provenance}, conformance kit "
            f"{report.kit_version}: {counted or 'nothing was run'}",
        ),
        soft_wrap=True,
    )
    if report.problems:
        show(bullets([("failed", "", problem) for problem in report.problems]))
    if report.verdict:
        _print_verdict(report)
    if report.results:
        show(heading("What was run"), _subjects(report.results))
    if report.not_run:
        lines = [("unusable", what, why) for what, why in report.not_run.items()]
        show(heading("What was not"), bullets(lines))
    for status, title in (("skipped", "Checks skipped"), ("passed", "Checks run in part")):
        if lines := _grouped(report.results, status):
            show(heading(title), bullets(lines))
    _print_failures(report, everything=everything)


def _print_failures(report: Report, *, everything: bool) -> None:
    """Print what did not pass; of a program with one mistake only the names of the problems."""
    bad = _same(report.results)
    if report.verdict and report.kind != "backend" and not everything:
        quiet = [group for group in bad if all(one.status == "failed" for one in group)]
        bad = [group for group in bad if group not in quiet]
        names = [f"{one.device}:{one.check}".removeprefix("-:") for group in quiet for one in group]
        if names:
            problems = "1 problem" if len(names) == 1 else f"{len(names)} problems"
            show(Text(f"\n{problems} failed: {', '.join(names)}. --all shows each."))
    for group in bad:
        show(Text(""))
        for result in group:
            note = " (provisional: doesn't count yet)" if result.provisional else ""
            show(Text.assemble(styled(result.status), f"{note}: {result.where}"))
        show(Padding(Text(group[0].message), (0, 0, 0, 4)))


def _print_verdict(report: Report) -> None:
    """Say which mistake gives wrong numbers, and show one of them."""
    show(Text(f"\n{report.verdict}", style="bold"))
    if report.explanation:
        show(Text(report.explanation))
    show(heading("One example"), Text(report.example))
    for line in report.command.splitlines():
        show(Text(f"look at it: {line}"), soft_wrap=True)


def _subjects(results: Iterable[Result]) -> Table:
    """Return a table with a line for each library, device and dtype."""
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.namespace, result.device, result.dtype), []).append(result)
    columns = ("passed", "wrong", "skipped", "seconds")
    table = new_table("library", "device", "dtype", *columns, "verdict", right=columns)
    for place, group in groups.items():
        counts = Counter(result.status for result in group)
        wrong = sum(result.bad for result in group)
        executed = any(result.executed for result in group)
        table.add_row(
            *place,
            str(counts["passed"]),
            str(wrong),
            str(counts["skipped"]),
            f"{sum(result.seconds for result in group):.1f}",
            styled("failed" if wrong else "passed" if executed else "skipped"),
        )
    return table


def _grouped(results: Iterable[Result], status: str) -> list[tuple[str, str, str]]:
    """Return checks with a status and something to say about it, one line for each reason."""
    by_reason: dict[str, Counter[str]] = {}
    for result in results:
        if result.status == status and result.message:
            by_reason.setdefault(result.message, Counter())[result.check] += 1
    return [(status, _names(checks), why) for why, checks in by_reason.items()]


def _names(checks: Counter[str]) -> str:
    """Name some checks: each of up to three, else the first and how many more there are."""
    shown = list(checks)[: 3 if len(checks) <= 3 else 1]
    names = [f"{one} ({checks[one]} times)" if checks[one] > 1 else one for one in shown]
    more = len(checks) - len(shown)
    return f"{names[0]} and {more} more" if more else ", ".join(names)


def _same(results: Iterable[Result]) -> list[list[Result]]:
    """Return what did not pass, in groups that one message is enough for."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        if result.status in {"failed", "error", "expected-failure"}:
            # Checks reach the same line of a kernel by different ways; the end of the traceback
            # is what counts.
            last_frame = max(0, result.message.rfind('\n  File "'))
            groups.setdefault(result.message[last_frame:], []).append(result)
    return list(groups.values())
