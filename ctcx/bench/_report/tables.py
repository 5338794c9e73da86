"""What the tables of a report say, for Markdown and HTML alike."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from ctcx.bench._report.format import error, seconds, size, three
from ctcx.bench._report.slopes import fit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ctcx.bench._report.results import BenchmarkRun, Measured, Missing, WorkloadFacts

__all__ = [
    "BUSY",
    "LAYOUTS",
    "LETTERS",
    "TIMES",
    "Table",
    "header",
    "headline",
    "missing_table",
    "ratios",
    "sweep_table",
    "sweeps",
    "times",
    "warning",
    "workload_table",
]

LETTERS = {"T": "frames", "N": "sequences", "C": "classes", "L": "labels a sequence"}
"""What grows in a sweep."""

TIMES = "\N{MULTIPLICATION SIGN}"
"""Before the name of what a number is a multiple of."""

BUSY = "~"
"""Before a figure that was measured while the machine was busy."""

LAYOUTS = {
    "alone": "each implementation in a process of its own",
    "together": "all implementations in one process",
}
"""What the layouts are called in a title."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows of text under headings; the first column says what a row is about."""

    title: str
    about: str = ""
    """What is above it."""
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """Its text; numbers are in all columns but the first ``words``."""
    words: int = 1
    """How many columns are words."""
    kinds: tuple[str, ...] = ()
    """For each row, a word by which it may be coloured."""


def header(run: BenchmarkRun) -> Table:
    """Return date, machine, versions and the command."""
    machine = run.machine
    cores = f"{machine['usable_cores']} usable of {machine['cores']}"
    variables = ", ".join(f"{key}={value}" for key, value in machine["variables"].items())
    first = {
        "date": run.date.replace("T", " ").partition(".")[0] + " UTC",
        "command": run.command,
        "took": "-" if run.seconds is None else f"{run.seconds:.0f} s",
        "CPU": f"{machine['cpu']}, {machine['architecture']}",
        "cores": cores,
        "memory": size(machine["memory"]),
        "copy": "-" if run.copy_rate is None else f"{size(run.copy_rate)}/s, read and written",
        "variables": variables or "none that decide about threads",
    }
    plugins = {
        who.about.rpartition("(")[2].rstrip(")")
        for who in run.implementations.values()
        if who.kind == "backend"
    }
    if run.busiest is not None:
        first["load"] = f"up to {run.busiest:.1f}: the machine was busy"
    lines = run.environment | {"plugins": ", ".join(sorted(plugins)) or "none"}
    rows = tuple((key, value) for key, value in (first | lines).items())
    return Table(title="Machine and versions", head=("what", "value"), rows=rows, words=2)


def headline(run: BenchmarkRun) -> str:
    """Say in a sentence how fast the fastest backend is, beside the fastest of the others."""
    ours, others = [], []
    for layout in run.layouts()[:1]:
        for name, workload in run.workloads.items():
            if workload.sweep is not None:
                continue
            fastest: dict[str, Measured] = {}
            for one in run.of(layout, name):
                kind = run.implementations[one.implementation].kind
                if kind not in fastest or one.median < fastest[kind].median:
                    fastest[kind] = one
            if {"backend", "peer"} <= fastest.keys():
                ours.append(fastest["backend"].median)
                others.append(fastest["peer"].median)
    if not ours:
        return "No other implementation was measured: these are the backends of ctcx alone."
    gains = [other / own for own, other in zip(ours, others, strict=True)]
    if len(gains) == 1:
        return (
            f"The fastest backend of ctcx is {three(gains[0])} times as fast as the fastest of the "
            f"other implementations, on the one workload that both computed."
        )
    better = sum(gain > 1 for gain in gains)
    return (
        f"On {better} of {len(gains)} workloads the fastest backend of ctcx is faster than the "
        f"fastest of the other implementations: {three(min(gains))} to {three(max(gains))} times "
        f"as fast, {three(median(gains))} times in the median."
    )


def warning(run: BenchmarkRun) -> str:
    """Say that the machine was busy; empty if it was not."""
    if run.busiest is None:
        return ""
    return (
        f"The machine was busy: the load was up to {run.busiest:.1f} with "
        f"{run.machine['usable_cores']} usable cores. Figures marked {BUSY} were measured then: "
        f"times are too long, and ratios may be far off."
    )


def times(run: BenchmarkRun, layout: str) -> Table:
    """Return how long each takes, and how many times as fast as the baseline that is.

    Parameters
    ----------
    run : BenchmarkRun
        From :func:`load_run`.
    layout : str
        One of ``run.layouts()``.

    Returns
    -------
    Table
        One row for each implementation.
    """

    def cell(one: Measured) -> str:
        return f"{_marked(run, one)}{three(one.median * 1e3)} ({_plain_ratio(run, one)}{TIMES})"

    return _by_workload(
        run,
        layout,
        cell,
        title=f"Milliseconds, and times as fast as {run.baseline}: {LAYOUTS[layout]}",
        about="Loss and gradient in float32, medians.",
    )


def ratios(run: BenchmarkRun, layout: str) -> Table:
    """Return how many times as fast as the baseline each is, on each workload.

    Parameters
    ----------
    run : BenchmarkRun
        From :func:`load_run`.
    layout : str
        One of ``run.layouts()``.

    Returns
    -------
    Table
        One row for each implementation.
    """
    return _by_workload(
        run,
        layout,
        lambda one: _ratio(run, one),
        title=f"Times as fast as {run.baseline}: {LAYOUTS[layout]}",
        about="Loss and gradient in float32, ratio of medians; above 1 is faster.",
    )


def _by_workload(
    run: BenchmarkRun, layout: str, cell: Callable[[Measured], str], *, title: str, about: str
) -> Table:
    """Return a row for each implementation and a column for each workload that is no sweep."""
    names = [
        name
        for name, workload in run.workloads.items()
        if workload.sweep is None and any(run.of(layout, name))
    ]
    rows, kinds = [], []
    for who in run.implementations.values():
        found = [run.measured.get((layout, name, who.name)) for name in names]
        if any(found):
            cells = [
                cell(one) if one else _why_not(run, layout, name, who.name)
                for name, one in zip(names, found, strict=True)
            ]
            rows.append((who.name, *cells))
            kinds.append(who.kind)
    return Table(
        title=title,
        about=about,
        head=("implementation", *names),
        rows=tuple(rows),
        kinds=tuple(kinds),
    )


def workload_table(run: BenchmarkRun, layout: str, workload: WorkloadFacts) -> Table:
    """Return all that was measured with one workload."""
    head = (
        "implementation",
        "median",
        "IQR",
        f"{TIMES} {run.baseline}",
        "first call",
        "peak memory",
        "loss error",
        "gradient error",
        "per cell",
        "GB/s",
        "of copy",
        f"{TIMES} lower bound",
    )
    found = list(run.of(layout, workload.name))
    return Table(
        title=workload.name,
        about=describe(workload),
        head=head,
        rows=tuple(_row(run, one) for one in found),
        kinds=tuple(run.implementations[one.implementation].kind for one in found),
    )


def describe(workload: WorkloadFacts) -> str:
    """Return origin and sizes in a sentence."""
    if not workload.shape:
        return workload.origin
    sizes = ", ".join(f"{k}={v:,}" for k, v in zip("NTCL", workload.shape, strict=True))
    return f"{workload.origin}; {sizes}; {workload.cells:,} lattice cells"


def sweeps(run: BenchmarkRun) -> dict[str, dict[str, list[Measured]]]:
    """Return, by the size that grows and by implementation, the points of its line."""
    found: dict[str, dict[str, list[Measured]]] = {}
    for workload in run.workloads.values():
        if workload.sweep is not None:
            for one in run.of("alone", workload.name):
                lines = found.setdefault(workload.sweep, {})
                lines.setdefault(one.implementation, []).append(one)
    return found


def sweep_table(run: BenchmarkRun, letter: str) -> Table:
    """Return the medians of a sweep, the exponent of the growth, and the largest error."""
    lines = sweeps(run)[letter]
    sizes = sorted({run.workloads[one.workload].size for line in lines.values() for one in line})
    rows = []
    for name, points in lines.items():
        by_size = {run.workloads[one.workload].size: one for one in points}
        fitted = fit(list(by_size), [one.median for one in by_size.values()])
        errors = [one.facts["grad"] for one in points if "grad" in one.facts]
        rows.append(
            (
                name,
                *(
                    _marked(run, by_size[size]) + seconds(by_size[size].median)
                    if size in by_size
                    else "-"
                    for size in sizes
                ),
                "-" if fitted is None else str(fitted),
                error(max(errors, default=None)),
            )
        )
    return Table(
        title=f"Time by {LETTERS[letter]}",
        about=_stays(run, letter),
        head=(
            "implementation",
            *(f"{letter}={size:,}" for size in sizes),
            "slope",
            "gradient error",
        ),
        rows=tuple(rows),
        kinds=tuple(run.implementations[name].kind for name in lines),
    )


def _stays(run: BenchmarkRun, letter: str) -> str:
    """Say which sizes don't grow."""
    shapes = [one.shape for one in run.workloads.values() if one.sweep == letter and one.shape]
    if not shapes:
        return ""
    pairs = zip("NTCL", shapes[0], strict=True)
    return "With " + ", ".join(f"{k}={v:,}" for k, v in pairs if k != letter) + "."


def missing_table(run: BenchmarkRun) -> Table:
    """Return what has no time and why; cells with one reason are one row."""
    grouped: dict[tuple[str, str, str], list[Missing]] = {}
    for one in run.missing.values():
        grouped.setdefault((one.verdict, one.implementation, one.reason), []).append(one)
    order = {"wrong": 0, "failed": 1, "skipped": 2}
    rows, kinds = [], []
    for (verdict, who, reason), cells in sorted(grouped.items(), key=lambda g: order[g[0][0]]):
        rows.append((verdict, who, _where(cells), reason))
        kinds.append(verdict)
    for who, where, reason in run.excluded:
        rows.append(("left out", who, where, reason))
        kinds.append("skipped")
    return Table(
        title="Without a time",
        about="A wrong result gets no time, whatever it took.",
        head=("verdict", "implementation", "where", "reason"),
        rows=tuple(rows),
        words=4,
        kinds=tuple(kinds),
    )


def _row(run: BenchmarkRun, one: Measured) -> tuple[str, ...]:
    facts = one.facts
    per_cell, rate = run.per_cell(one), run.rate(one)
    bound = run.bound_multiple(one)
    return (
        one.implementation,
        _marked(run, one) + seconds(one.median),
        seconds(one.iqr) if one.rounds > 1 else "-",
        _ratio(run, one),
        seconds(facts.get("first")),
        size(facts.get("peak")),
        error(facts.get("loss_rel")),
        error(facts.get("grad")),
        "-" if per_cell is None else f"{three(per_cell * 1e9)} ns",
        "-" if rate is None else three(rate / 1e9),
        "-" if rate is None or not run.copy_rate else f"{rate / run.copy_rate:.0%}",
        "-" if bound is None else three(bound[0]),
    )


def _ratio(run: BenchmarkRun, one: Measured) -> str:
    ratio = _plain_ratio(run, one)
    return ratio if ratio == "-" else _marked(run, one) + ratio


def _plain_ratio(run: BenchmarkRun, one: Measured) -> str:
    ratio = run.ratio(one)
    return "-" if ratio is None else three(ratio)


def _marked(run: BenchmarkRun, one: Measured) -> str:
    """Return what stands before a figure of a busy machine."""
    return BUSY if run.busy(one) else ""


def _why_not(run: BenchmarkRun, layout: str, workload: str, implementation: str) -> str:
    missing = run.missing.get((layout, workload, implementation))
    return missing.verdict if missing else "-"


def _where(cells: Sequence[Missing]) -> str:
    by_layout: dict[str, list[str]] = {}
    for one in cells:
        by_layout.setdefault(one.layout, []).append(one.workload)
    lists = {layout: ", ".join(names) for layout, names in by_layout.items()}
    if len(set(lists.values())) == 1 and len(lists) > 1:
        return f"{lists.popitem()[1]} (alone and together)"
    return "; ".join(f"{names} ({layout})" for layout, names in lists.items())
