"""How many cores this process may use, by affinity and by the quota of its control group."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import ctcx
from ctcx import _cores
from ctcx.plugin import usable_cores


@pytest.mark.parametrize(
    ("files", "group", "expected"),
    [
        ({"cpu.max": "150000 100000"}, "0::/", [2]),
        ({"cpu.max": "max 100000"}, "0::/", []),
        ({"a/b/cpu.max": "100000 100000", "a/cpu.max": "400000 100000"}, "0::/a/b", [1, 4]),
        (
            {"cpu/x/cpu.cfs_quota_us": "200000", "cpu/x/cpu.cfs_period_us": "100000"},
            "4:cpu,cpuacct:/x",
            [2],
        ),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu:/", []),
        ({"cpu.max": "nonsense"}, "nonsense", []),
        ({"cpu.max": "100000 0"}, "0::/", []),
        ({}, None, []),
    ],
)
def test_quotas_of_control_groups(tmp_path, files, group, expected):
    for name, text in files.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if group is not None:
        (tmp_path / "cgroup").write_text(group + "\n")
    assert list(_cores._quotas(tmp_path / "fs", tmp_path / "cgroup")) == expected


@pytest.mark.parametrize(("quota", "expected"), [("50000", 1), ("150000", 2), ("max", 3)])
def test_a_quota_and_the_affinity_both_limit(tmp_path, monkeypatch, quota, expected):
    (tmp_path / "cpu.max").write_text(f"{quota} 100000")
    monkeypatch.setattr(_cores, "_CGROUP", tmp_path)
    monkeypatch.setattr(_cores, "_OWN_GROUP", tmp_path / "none")
    monkeypatch.setattr(_cores, "_cores", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    assert usable_cores() == expected
    (tmp_path / "cpu.max").write_text("max 100000")
    assert usable_cores() == expected, "it is told once a process"


def test_numpy_runs_on_the_usable_cores(monkeypatch):
    """Blocks of the gradient run on as many threads."""
    asked = []
    start = ThreadPoolExecutor.__init__

    def noted(pool, threads, **options):
        asked.append(threads)
        start(pool, threads, **options)

    monkeypatch.setattr(ThreadPoolExecutor, "__init__", noted)
    logits = np.zeros((8, 100, 2000), dtype=np.float32)
    for cores, expected in ((1, []), (3, [3])):
        monkeypatch.setattr(_cores, "_cores", cores)
        asked.clear()
        ctcx.ctc_loss_and_grad(logits, np.ones((8, 3), dtype=int), backend="array-api")
        assert asked == expected
