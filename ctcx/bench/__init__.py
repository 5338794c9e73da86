"""What ``ctcx bench`` is made of: a pytest-benchmark suite, and the reports on its JSON.

:mod:`ctcx.bench.suite` is the suite and :mod:`ctcx.bench.plugin` its options, hooks and fixture;
both ship with ctcx, so that users can measure on their own machines. Implementations run in
processes of their own (:mod:`ctcx.bench._measure.worker`) and take turns
(:mod:`ctcx.bench._measure.schedule`). The reports need nothing but the JSON
(:mod:`ctcx.bench._report.results`); :func:`load_run` reads it for reports of your own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctcx import _on_first_use

if TYPE_CHECKING:
    from ctcx.bench._implementations.registered import Implementation
    from ctcx.bench._report.html_report import html_report
    from ctcx.bench._report.markdown_report import markdown_report
    from ctcx.bench._report.results import BenchmarkRun, ReportError, load_run
    from ctcx.bench._report.run_comparison import DifferentMachinesError, compare_runs
    from ctcx.bench._report.tables import ratios, times

__all__ = [
    "BenchmarkRun",
    "DifferentMachinesError",
    "Implementation",
    "ReportError",
    "compare_runs",
    "html_report",
    "load_run",
    "markdown_report",
    "ratios",
    "times",
]

__getattr__, __dir__ = _on_first_use(
    __name__,
    __all__,
    {
        "_report.results": ("BenchmarkRun", "ReportError", "load_run"),
        "_report.run_comparison": ("DifferentMachinesError", "compare_runs"),
        "_implementations.registered": ("Implementation",),
        "_report.html_report": ("html_report",),
        "_report.markdown_report": ("markdown_report",),
        "_report.tables": ("ratios", "times"),
    },
)
