"""The report as Markdown: the tables, for a terminal, a forge or a documentation page."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ctcx.bench._report.notes import notes
from ctcx.bench._report.tables import (
    LAYOUTS,
    header,
    headline,
    missing_table,
    ratios,
    sweep_table,
    sweeps,
    warning,
    workload_table,
)

if TYPE_CHECKING:
    from ctcx.bench._report.results import BenchmarkRun
    from ctcx.bench._report.tables import Table

__all__ = ["markdown_report", "markdown_table"]

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~])")


def markdown_report(run: BenchmarkRun) -> str:
    """Return the whole report.

    Parameters
    ----------
    run : BenchmarkRun
        From :func:`load_run`.

    Returns
    -------
    str
        In Markdown.
    """
    parts = ["# Benchmark report"]
    parts += [escape(text) for text in (headline(run), warning(run)) if text]
    parts.append(markdown_table(header(run)))
    for layout in run.layouts():
        table = ratios(run, layout)
        parts += [f"## {escape(table.title)}", table.about, markdown_table(table)]
    if letters := sweeps(run):
        parts.append("## Scaling")
        for letter in letters:
            table = sweep_table(run, letter)
            parts += [f"### {table.title}", table.about, markdown_table(table)]
    for layout in run.layouts():
        parts.append(f"## By workload: {LAYOUTS[layout]}")
        for workload in (one for one in run.workloads.values() if one.sweep is None):
            table = workload_table(run, layout, workload)
            if table.rows:
                parts += [
                    f"### {table.title} ({layout})",
                    escape(table.about),
                    markdown_table(table),
                ]
    gone = missing_table(run)
    if gone.rows:
        parts += [f"## {gone.title}", gone.about, markdown_table(gone)]
    parts += ["## How to read this", "\n".join(f"- {escape(note)}" for note in notes(run.baseline))]
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """Return a table, numbers to the right."""
    rule = ["---" if place < table.words else "---:" for place in range(len(table.head))]
    lines = [[escape(cell) for cell in table.head], rule]
    lines += [[escape(cell) for cell in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def escape(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
