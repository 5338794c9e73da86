"""What ``ctcx bench`` is made of: a pytest-benchmark suite, and the reports on its JSON.

:mod:`ctcx.bench.suite` is the suite and :mod:`ctcx.bench.plugin` its options, hooks and fixture;
both ship with ctcx, so that users can measure on their own machines. Implementations run in
processes of their own (:mod:`ctcx.bench._measure.worker`) and take turns
(:mod:`ctcx.bench._measure.schedule`). The reports need nothing but the JSON
(:mod:`ctcx.bench._report.results`); :func:`load_run` reads it for reports of your own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

_HOMES = {
    "BenchmarkRun": "_report.results",
    "DifferentMachinesError": "_report.run_comparison",
    "Implementation": "_implementations.registered",
    "ReportError": "_report.results",
    "compare_runs": "_report.run_comparison",
    "html_report": "_report.html_report",
    "load_run": "_report.results",
    "markdown_report": "_report.markdown_report",
    "ratios": "_report.tables",
    "times": "_report.tables",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(f"ctcx.bench.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
