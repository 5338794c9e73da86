"""The table of ratios at the end of a benchmark run, and the facts about the machine."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch


def pytest_benchmark_update_machine_info(machine_info):
    """What decides speed and what pytest-benchmark doesn't know."""
    machine_info["ctcx"] = {
        "numpy": np.__version__,
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
    }


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter, config):
    """Ratio of torch's time to ours: above 1, ctcx is faster."""
    session = getattr(config, "_benchmarksession", None)
    medians = {}
    for bench in getattr(session, "benchmarks", []):
        info = bench.extra_info
        if "contestant" in info and not bench.has_error and bench.stats.rounds:
            medians.setdefault(info["workload"], {})[info["contestant"]] = bench.stats.median
    rows = [(name, both) for name, both in medians.items() if len(both) == 2]
    if not rows:
        return
    terminalreporter.section("torch's time / ctcx's time (median; above 1, ctcx is faster)")
    for name, both in rows:
        ours, theirs = both["array-api on numpy"], both["torch"]
        terminalreporter.write_line(
            f"{name:12s}  ctcx {ours * 1e3:10.3f} ms  torch {theirs * 1e3:10.3f} ms"
            f"  ratio {theirs / ours:5.2f}"
        )
