"""Options, parameters and JSON of the suite, which ships with ctcx."""

from __future__ import annotations

from ctcx.bench.plugin import (
    measured,
    pytest_addoption,
    pytest_benchmark_update_json,
    pytest_benchmark_update_machine_info,
    pytest_generate_tests,
    pytest_sessionfinish,
)

__all__ = [
    "measured",
    "pytest_addoption",
    "pytest_benchmark_update_json",
    "pytest_benchmark_update_machine_info",
    "pytest_generate_tests",
    "pytest_sessionfinish",
]
