"""The report as one HTML file that needs no network and no other file."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from ctcx.bench._report.charts import legend, opening_charts, scaling_charts
from ctcx.bench._report.notes import notes
from ctcx.bench._report.tables import (
    LAYOUTS,
    header,
    headline,
    missing_table,
    ratios,
    sweep_table,
    warning,
    workload_table,
)

if TYPE_CHECKING:
    from ctcx.bench._report.results import BenchmarkRun

__all__ = ["html_report"]


def html_report(run: BenchmarkRun) -> str:
    """Return the whole report.

    Parameters
    ----------
    run : BenchmarkRun
        From :func:`load_run`.

    Returns
    -------
    str
        A page of HTML that loads nothing.

    Raises
    ------
    ImportError
        Jinja2 or vl-convert is not installed.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("ctcx.bench._report").joinpath("report.html.jinja").read_text("utf-8")
    by_workload = {
        layout: [
            table
            for workload in run.workloads.values()
            if workload.sweep is None and (table := workload_table(run, layout, workload)).rows
        ]
        for layout in run.layouts()
    }
    return environment.from_string(source).render(
        run=run,
        header=header(run),
        headline=headline(run),
        warning=warning(run),
        opening=opening_charts(run),
        ratios=[ratios(run, layout) for layout in run.layouts()],
        by_workload=by_workload,
        layouts=LAYOUTS,
        charts={
            letter: (svg, sweep_table(run, letter)) for letter, svg in scaling_charts(run).items()
        },
        legend=legend(run),
        missing=missing_table(run),
        notes=notes(run.baseline),
    )
