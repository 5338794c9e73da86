"""How many cores this process may use, by affinity and by the quota of its control group."""

import os
import subprocess
import sys
import threading

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


LARGE = np.random.default_rng(0).standard_normal((8, 100, 2000), dtype=np.float32)


def gradient_on(cores, monkeypatch):
    monkeypatch.setattr(_cores, "_cores", cores)
    labels = np.ones((8, 3), dtype=int)
    return ctcx.ctc_loss_and_grad(LARGE, labels, backend="array-api").grad


@pytest.mark.parametrize("at_most", [0, 1, 2])
def test_numpy_runs_on_the_usable_cores(monkeypatch, at_most):
    """Blocks of the gradient run on as many threads, or on those that the system gives."""
    expected = gradient_on(1, monkeypatch)
    started, before = [], threading.active_count()
    start = threading.Thread.start

    def counted(thread):
        if len(started) == at_most:
            msg = "can't start new thread"
            raise RuntimeError(msg)
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", counted)
    np.testing.assert_array_equal(gradient_on(1, monkeypatch), expected)
    assert not started
    np.testing.assert_array_equal(gradient_on(3, monkeypatch), expected)
    assert len(started) == at_most  # with this one there are three, if there may be
    assert threading.active_count() == before


@pytest.mark.parametrize("cores", [1, 3])
def test_an_error_on_a_thread_is_the_callers(monkeypatch, cores):
    def fails(*_arguments):
        msg = "no memory for a block"
        raise MemoryError(msg)

    monkeypatch.setattr("ctcx._core.kernels.gradient_rows", fails)
    before = threading.active_count()
    with pytest.raises(MemoryError, match="no memory for a block"):
        gradient_on(cores, monkeypatch)
    assert threading.active_count() == before


def test_a_large_batch_is_computed_while_python_ends():
    """No thread can be started any more then."""
    code = """if True:
    import atexit, threading
    import numpy as np
    import ctcx

    logits, labels = np.zeros((8, 100, 2000), np.float32), np.ones((8, 3), int)
    call = lambda: ctcx.ctc_loss_and_grad(logits, labels, backend="array-api").grad
    expected = call()
    atexit.register(lambda: print(np.array_equal(call(), expected)))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True\n", "")
