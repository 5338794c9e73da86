"""``ctcx bench``: what it measures and refuses, and that no implementation can end a run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import ctcx
from ctcx.bench import (
    DifferentMachinesError,
    Implementation,
    ReportError,
    _report,
    compare_runs,
    html_report,
    load_run,
    markdown_report,
    ratios,
    times,
)
from ctcx.bench._measure import accuracy, duration_estimate, memory, session, worker_process
from ctcx.bench.suite import RecordedClock
from ctcx.bench.workloads import random_inputs, workloads
from ctcx.conformance.oracle import reference
from ctcx.data.batch import Batch
from tests.helpers import needed, posix_only, run_cli

# One worker, so that the long run of the fixture `finished` is made once.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("bench")]

ROOT = Path(ctcx.__file__).parents[1]

# A third party's package: backends that do all that can go wrong, a lower bound and a workload.
PLANTED = """
import os, sys, time
from ctcx.plugin import Backend, Case, Decline, Feature, LowerBound, hookimpl, load_kernel

def right(*arrays, blank):
    print("a library that talks")
    return load_kernel("array-api", "loss_and_grad")(*arrays, blank=blank)

def wrong(*arrays, blank):
    loss, grad = right(*arrays, blank=blank)
    grad[0, 0, 0] += 1e-3
    return loss, grad

def raising(*arrays, blank):
    raise RuntimeError("out of <b>paint</b>")

def aborting(*arrays, blank):
    os.abort()

calls = 0
def late(*arrays, blank):
    global calls
    calls += 1
    if calls > 5:  # in the middle of its turns
        os.abort()
    return right(*arrays, blank=blank)

def hanging(*arrays, blank):
    time.sleep(600)

def sleeping(logits, *arrays, blank):
    if logits.shape[1] == 1:  # the planted case
        time.sleep(600)
    return right(logits, *arrays, blank=blank)

def declining(*arrays, blank):
    raise Decline("not on a weekday")

def loss_only(*arrays, blank):
    return load_kernel("array-api", "loss")(*arrays, blank=blank)

def low(logits, labels, logit_lengths, label_lengths, *, blank):
    return logits + blank

def elsewhere():
    return "needs a machine that nobody has"

def backend(name, **more):
    return Backend(**{
        "name": name,
        "kernels": {"loss_and_grad": f"ctcx_planted:{name}"},
        "features": frozenset({Feature.GRAD}),
        "namespaces": frozenset({"numpy"}),
    } | more)

@hookimpl
def ctcx_backends():
    for name in os.environ["PLANTED"].split():
        yield backend(name)
    yield backend("loss_only", kernels={"loss": "ctcx_planted:loss_only"}, features=frozenset())
    yield backend("elsewhere", kernels={"loss_and_grad": "ctcx_planted:right"}, probe=elsewhere)

@hookimpl
def ctcx_benchmark_lower_bounds():
    yield LowerBound(name="low", function="ctcx_planted:low", backends={"right"})

@hookimpl
def ctcx_conformance_cases():
    yield Case(
        name="planted-case", description="a <i>case</i>", logits=[[[0.0, 0.0]]], labels=[[1]],
        logit_lengths=[1], label_lengths=[1], provenance="by hand",
    )

@hookimpl
def ctcx_runtime_info():
    return {"planted driver": "12.4", "planted folder": "/home/me"}
"""

ALL = "right wrong raising aborting late hanging declining"
NUMPY = ("--library", "numpy", "--peer", "none")
BASE = (*NUMPY, "--baseline", "array-api on numpy")


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The environment of a process in which the plugin is installed."""
    site = tmp_path_factory.mktemp("planted")
    info = site / "ctcx_planted-1.0.dist-info"
    info.mkdir()
    (site / "ctcx_planted.py").write_text(PLANTED)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ctcx-planted\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ctcx.plugins]\nplanted = ctcx_planted\n")
    cache = tmp_path_factory.mktemp("cache")
    # pytest-benchmark measures nothing in a process that pytest-xdist started.
    inherited = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    return inherited | {
        "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]),
        "XDG_CACHE_HOME": str(cache),
        "PLANTED": ALL,
        "CTCX_DISABLE_PLUGINS": "",
    }


def bench(*arguments, env, cwd, **more):
    command = [sys.executable, "-m", "ctcx", "bench", *arguments]
    return subprocess.run(
        command, env=env, cwd=cwd, capture_output=True, text=True, timeout=300, **more
    )


@pytest.fixture(scope="module")
def finished(planted, tmp_path_factory):
    """A run with everything in it: the process, and the directory with its files."""
    where = tmp_path_factory.mktemp("finished")
    done = bench(
        *BASE,
        *("--workload", "notebook-fixture", "--workload", "planted-case"),
        *("--workload", "scale-N-*", "--patience", "2"),
        env=planted,
        cwd=where,
    )
    assert (where / "ctcx-bench.json").is_file(), done.stderr
    return done, where


@pytest.fixture
def run(finished):
    return load_run(finished[1] / "ctcx-bench.json")


@pytest.fixture
def report(finished):
    return json.loads((finished[1] / "ctcx-bench.json").read_text())


def test_what_is_measured_is_in_the_json_of_pytest_benchmark(report, run):
    assert {"machine_info", "benchmarks", "version", "datetime"} <= set(report)
    assert "node" not in report["machine_info"]
    bench = report["benchmarks"][0]
    assert bench["stats"]["rounds"] == len(bench["stats"]["data"]) >= 3
    for layout in ("alone", "together"):
        for workload in ("notebook-fixture", "planted-case"):
            for who in ("array-api on numpy", "right on numpy", "lower bound low on numpy"):
                assert run.measured[layout, workload, who].median > 0


def test_every_planned_cell_has_a_time_or_a_reason(run):
    assert not set(run.measured) & set(run.missing)
    for name in run.workloads:
        layouts = ("alone",) if name.startswith("scale-") else ("alone", "together")
        for layout in layouts:
            for who in run.implementations:
                cell = (layout, name, who)
                assert cell in run.measured or run.missing[cell].reason


@pytest.mark.parametrize("layout", ["alone", "together"])
@pytest.mark.parametrize(
    ("who", "verdict", "reason"),
    [
        ("wrong", "wrong", "the gradient is off by 0.001"),
        ("raising", "failed", "RuntimeError: out of <b>paint</b>"),
        pytest.param("aborting", "failed", "SIGABRT", marks=posix_only),
        ("hanging", "failed", "gave no answer for 6 s and was ended"),
        ("declining", "skipped", "not on a weekday"),
        ("loss_only", "skipped", "it computes no gradient"),
        ("elsewhere", "skipped", "needs a machine that nobody has"),
    ],
)
def test_what_goes_wrong_is_told_and_gets_no_time(run, layout, who, verdict, reason):
    cell = run.missing[layout, "notebook-fixture", f"{who} on numpy"]
    assert cell.verdict == verdict
    assert reason in cell.reason


@posix_only
@pytest.mark.parametrize("layout", ["alone", "together"])
def test_a_crash_in_the_middle_of_its_turns_costs_only_the_one_that_crashed(run, layout):
    cell = run.missing[layout, "notebook-fixture", "late on numpy"]
    assert cell.verdict == "failed"
    assert "SIGABRT" in cell.reason


def test_who_has_crashed_twice_is_left_out_of_the_rest(run):
    assert (
        "left out after 2 failures" in run.missing["alone", "scale-N-1", "aborting on numpy"].reason
    )


def test_the_exit_code_says_that_somebody_failed(finished):
    done, _ = finished
    assert done.returncode == 1
    assert "Milliseconds, and times as fast as array-api on numpy" in done.stdout
    assert "notebook-fixture, own processes" in done.stderr
    assert "a library that talks" not in done.stdout


def test_a_lower_bound_is_measured_and_told_as_a_multiple(run):
    one = run.measured["alone", "notebook-fixture", "right on numpy"]
    bound = run.measured["alone", "notebook-fixture", "lower bound low on numpy"]
    assert run.bound_multiple(one) == (one.median / bound.median, "lower bound low on numpy")
    core = run.measured["alone", "notebook-fixture", "array-api on numpy"]
    assert run.bound_multiple(core) is None


def test_each_time_has_its_error_memory_and_first_call(run):
    for one in run.measured.values():
        assert one.facts["first"] > 0
        if one.implementation.startswith("lower bound"):
            continue
        assert 0 <= one.facts["loss_rel"] < 1e-6
        assert 0 <= one.facts["grad"] < 2e-5
        assert (one.facts["peak"] is not None) == (
            one.layout == "alone" and sys.platform == "linux"
        )


def test_ratio_rate_and_time_a_cell_are_what_they_say(run):
    one = run.measured["alone", "scale-N-4", "right on numpy"]
    base = run.measured["alone", "scale-N-4", "array-api on numpy"]
    assert run.ratio(one) == base.median / one.median
    assert run.per_cell(one) == one.median / (4 * 200 * 41)
    assert run.rate(one) == 2 * 4 * 4 * 200 * 32 / one.median
    assert run.copy_rate > 1e8


def test_the_header_names_machine_versions_and_command(finished, run):
    text = (finished[1] / "ctcx-bench.md").read_text()
    assert run.command in text.replace("\\", "")
    assert run.command.startswith("ctcx bench --library numpy --peer none --workload notebook")
    for fact in ("numpy", "planted driver", "ctcx-planted 1.0", "usable"):
        assert fact in text.replace("\\", "")
    assert "/home/me" not in text  # a report is shown to others
    assert re.search(r"\| date \| \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC \|", text)


class Page(HTMLParser):
    """What a page loads, its text, and its tables."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.tags, self.titles = [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        named = dict(attrs)
        self.loads += [named[key] for key in ("src", "href", "data") if named.get(key)]
        self.titles += tag == "title"


def test_the_page_stands_alone(finished):
    text = (finished[1] / "ctcx-bench.html").read_text()
    page = Page(text)
    assert page.loads
    assert all(link.startswith("#") for link in page.loads)
    assert not re.search(r"@import|url\(|https?://(?!www\.w3\.org/)", text)
    assert "link" not in page.tags
    # Anchors within the page have a target.
    assert {link[1:] for link in page.loads} <= set(re.findall(r'id="(\w+)"', text))


def test_the_page_shows_reasons_as_text(finished):
    text = (finished[1] / "ctcx-bench.html").read_text()
    assert "out of &lt;b&gt;paint&lt;/b&gt;" in text
    assert "a &lt;i&gt;case&lt;/i&gt;" in text
    assert "<b>paint" not in text


def test_each_point_of_a_plot_says_its_numbers(finished, run):
    text = (finished[1] / "ctcx-bench.html").read_text()
    points = re.findall(r'<path[^>]*class="point"[^>]*><title>([^<]*)</title>', text)
    drawn = [one for one in run.measured.values() if one.workload.startswith("scale-N-")]
    assert len(points) == len(drawn) == 4 * 3
    one = run.measured["alone", "scale-N-16", "right on numpy"]
    (tip,) = [p for p in points if p.startswith("right on numpy") and "N = 16," in p]
    assert _report.format.seconds(one.median) in tip
    assert "slope" in tip


def test_the_plots_take_their_colours_from_the_page(finished):
    text = (finished[1] / "ctcx-bench.html").read_text()
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    (plot,) = re.findall(r"<figure>.*?</svg>", text, re.DOTALL)
    assert set(re.findall(r"var\(--(\w+)\)", plot)) >= {"c0", "ink", "rule"}
    defined = set(re.findall(r"--(\w+):", text))
    assert set(re.findall(r"var\(--(\w+)\)", text)) <= defined


def test_reports_can_be_made_again_from_the_json(finished, tmp_path):
    _, where = finished
    result = run_cli("bench", "--report", where / "ctcx-bench.json", "--output", tmp_path / "again")
    assert result.exit_code == 0, result.output
    for suffix in (".md", ".html"):
        again, first = (tmp_path / f"again{suffix}"), where / f"ctcx-bench{suffix}"
        assert again.read_text() == first.read_text()


def test_without_the_baseline_the_ratios_are_to_what_is_there(report, tmp_path):
    def without_torch(data):
        data["ctcx"]["baseline"] = "torch"

    path = changed(report, tmp_path, without_torch)
    run = load_run(path)
    assert run.baseline == "array-api on numpy"
    shown = run_cli("bench", "--report", path, "--output", tmp_path / "again")
    assert "Milliseconds, and times as fast as array-api on numpy" in shown.output
    assert re.search(
        r"array-api on numpy +~?[\d.,]+ \(1\.00\N{MULTIPLICATION SIGN}\)", shown.output
    )


def test_figures_of_a_busy_machine_are_marked(report, tmp_path):
    def idle(data):
        for bench in data["benchmarks"]:
            bench["extra_info"]["facts"]["load"] = 0.5

    def busy(data):
        idle(data)
        for bench in data["benchmarks"]:
            if bench["extra_info"]["implementation"] == "right on numpy":
                bench["extra_info"]["facts"]["load"] = 12.0
        data["ctcx"]["machine"]["usable_cores"] = 2

    text = markdown_report(load_run(changed(report, tmp_path, idle)))
    assert "busy" not in text
    run = load_run(changed(report, tmp_path, busy))
    text = markdown_report(run)
    assert text.splitlines()[4].startswith("The machine was busy: the load was up to 12.0 with 2 ")
    for table in (ratios(run, "alone"), times(run, "alone")):
        for row in table.rows:
            figures = [cell for cell in row[1:] if cell[-1] in "0123456789)"]
            marked = {cell.startswith("~") for cell in figures}
            assert marked == {row[0] == "right on numpy"}


@pytest.mark.parametrize("columns", [40, 60, 100])
def test_nothing_is_cut_at_any_width(finished, tmp_path, columns):
    done = bench(
        "--report",
        str(finished[1] / "ctcx-bench.json"),
        "--output",
        str(tmp_path / "again"),
        env=os.environ | {"COLUMNS": str(columns)},
        cwd=tmp_path,
    )
    assert max(map(len, done.stdout.splitlines())) <= columns
    assert "\N{HORIZONTAL ELLIPSIS}" not in done.stdout
    run = load_run(finished[1] / "ctcx-bench.json")
    seen = "".join(done.stdout.split())
    for layout in run.layouts():
        table = times(run, layout)
        for text in (*table.head, *(cell for row in table.rows for cell in row[1:])):
            assert "".join(text.split()) in seen or columns < 60


def test_the_report_opens_with_a_sentence_and_pictures(report, tmp_path):
    def by_frames(data):
        for one in data["ctcx"]["workloads"]:
            one["sweep"] = one["sweep"] and "T"
        for bench in data["benchmarks"]:
            if bench["extra_info"]["implementation"] == "right on numpy":
                bench["extra_info"]["facts"]["grad"] = 0.02

    run = load_run(changed(report, tmp_path, by_frames))
    opening = html_report(run).partition("<nav")[0].partition("<body>")[2]
    assert "No other implementation was measured" in opening
    error, time_ = opening.split("<figcaption>")[1:]
    assert error.startswith("Error of the gradient by frames")
    assert "right on numpy" in error
    assert "gradient error 2.0e-02" in error
    assert time_.startswith("Time by frames")
    assert "lower bound" not in error


def test_the_first_sentence_is_about_the_fastest(report, tmp_path):
    def as_peer(data):
        for one in data["ctcx"]["implementations"]:
            if one["name"] == "array-api on numpy":
                one["kind"] = "peer"
        for bench in data["benchmarks"]:
            core = bench["extra_info"]["implementation"] == "array-api on numpy"
            bench["stats"]["median"] = 3.0 if core else 1.0

    text = markdown_report(load_run(changed(report, tmp_path, as_peer)))
    assert text.splitlines()[2] == (
        "On 2 of 2 workloads the fastest backend of ctcx is faster than the fastest of the other "
        "implementations: 3.00 to 3.00 times as fast, 3.00 times in the median."
    )

    def on_one_workload(data):
        as_peer(data)
        data["benchmarks"] = [
            bench
            for bench in data["benchmarks"]
            if bench["extra_info"]["workload"] == "notebook-fixture"
        ]

    text = markdown_report(load_run(changed(report, tmp_path, on_one_workload)))
    assert text.splitlines()[2] == (
        "The fastest backend of ctcx is 3.00 times as fast as the fastest of the other "
        "implementations, on the one workload that both computed."
    )


def test_the_report_may_have_another_baseline(finished):
    run = load_run(finished[1] / "ctcx-bench.json", baseline="right on numpy")
    one = run.measured["alone", "notebook-fixture", "right on numpy"]
    assert run.ratio(one) == 1.0
    assert "Times as fast as right on numpy" in markdown_report(run)


def workers_in(directory):
    """Processes of implementations that were started from a directory; Linux tells."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
            if b"ctcx.bench._measure.worker" in command and (entry / "cwd").resolve() == directory:
                found.append(entry.name)
        except OSError:
            continue  # it has ended, or is somebody else's
    return found


@pytest.fixture
def answers_ctrl_c():
    """Processes started now answer to SIGINT, also where this one ignores it.

    A shell starts what runs in its background with SIGINT ignored, and that is inherited.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@posix_only
@pytest.mark.usefixtures("answers_ctrl_c")
def test_ctrl_c_keeps_what_was_measured(planted, tmp_path):
    some = ["--workload", "notebook-fixture", "--workload", "planted-case", "--output", "cut"]
    chosen = ["--backend", "array-api", "--backend", "sleeping"]
    with subprocess.Popen(
        [sys.executable, "-m", "ctcx", "bench", "--quick", *BASE, *chosen, *some],
        env=planted | {"PLANTED": "sleeping"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        for line in process.stderr:
            if "planted-case" in line:
                break
        time.sleep(1.0)
        if sys.platform == "linux":
            assert workers_in(tmp_path.resolve())
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, rest = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert "interrupted" in rest
    run = load_run(tmp_path / "cut.json")
    assert ("alone", "notebook-fixture", "array-api on numpy") in run.measured
    assert ("alone", "notebook-fixture", "sleeping on numpy") in run.measured
    cell = run.missing["alone", "planted-case", "array-api on numpy"]
    assert "the run was ended before" in cell.reason
    assert "the run was ended before" in (tmp_path / "cut.html").read_text()
    assert workers_in(tmp_path.resolve()) == []


def test_a_time_limit_keeps_what_was_measured(planted, tmp_path):
    env = planted | {"PLANTED": "sleeping"}
    some = ("--workload", "notebook-fixture", "--workload", "planted-case")
    some += ("--workload", "scale-T-50", "--max-seconds", "15", "--quick")
    begin = time.monotonic()
    done = bench(*BASE, *some, env=env, cwd=tmp_path)
    assert time.monotonic() - begin < 60
    run = load_run(tmp_path / "ctcx-bench.json")
    assert ("alone", "notebook-fixture", "sleeping on numpy") in run.measured
    cut = run.missing["alone", "planted-case", "sleeping on numpy"]
    assert cut.reason == "cut off: the time set by --max-seconds was over"
    late = run.missing["alone", "scale-T-50", "array-api on numpy"]
    assert late.reason == "not measured: the time set by --max-seconds was over"
    assert done.returncode == 0


def test_without_any_time_there_is_no_report(planted, tmp_path):
    done = bench(
        *("--quick", *BASE, "--workload", "notebook-fixture", "--max-seconds", "0"),
        env=planted,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "nothing was measured" in done.stderr
    assert "--max-seconds was over" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--backend", "nonsense"], "names the backend 'nonsense'"),
        (["--library", "nonsense"], "no plugin describes the array library 'nonsense'"),
        (["--workload", "nonsense-*"], "there is no workload 'nonsense-*'; there are notebook-"),
        (["--peer", "nonsense"], "there is no peer 'nonsense'; there are torch"),
        (["--baseline", "nonsense"], "there is no implementation for --baseline 'nonsense'"),
        (["--max-seconds", "-1"], "--max-seconds"),
        (["--output", "/nowhere/at/all"], "is no name for files in a directory that exists"),
        (["--report", "/nowhere/a.json"], "can't read /nowhere/a.json"),
        (["--diff", "/nowhere/a.json", "b"], "can't read /nowhere/a.json"),
    ],
)
def test_what_is_not_there_is_told_before_anything_is_measured(arguments, told):
    result = run_cli("bench", *arguments, env={"COLUMNS": "4000"})
    assert result.exit_code == 2
    assert told in " ".join(result.output.split())


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr("ctcx._cli.bench.find_spec", lambda name: None)
    result = run_cli("bench", "--quick")
    assert result.exit_code == 2
    assert 'pip install "ctcx[bench]"' in result.output
    assert "vl-convert-python" in result.output


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is no JSON"),
        ("[]", "is no result of ctcx bench"),
        ('{"benchmarks": []}', "is no result of ctcx bench"),
        ('{"benchmarks": [], "ctcx": {"schema": "ctcx-bench/9"}}', "has the form 'ctcx-bench/9'"),
        ('{"benchmarks": [], "ctcx": {"schema": "ctcx-bench/2"}}', "is damaged: KeyError"),
    ],
)
def test_a_file_that_is_no_run_is_refused(tmp_path, text, told):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ReportError, match=re.escape(told)):
        load_run(path)


def changed(report, tmp_path, change):
    """The same run once more, after a change."""
    again = json.loads(json.dumps(report))
    change(again)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(again))
    return path


def scaled(who, factor):
    def change(report):
        for bench in report["benchmarks"]:
            if bench["extra_info"]["implementation"] == who:
                for key in ("median", "q1", "q3"):
                    bench["stats"][key] *= factor

    return change


def test_a_run_does_not_differ_from_itself(finished):
    path = str(finished[1] / "ctcx-bench.json")
    result = run_cli("bench", "--diff", path, path)
    assert result.exit_code == 0
    assert "0 changes" in result.output


@pytest.mark.parametrize(("factor", "kind", "code"), [(50.0, "slower", 1), (0.02, "faster", 0)])
def test_a_change_of_speed_is_told(finished, report, tmp_path, factor, kind, code):
    old = finished[1] / "ctcx-bench.json"
    new = changed(report, tmp_path, scaled("right on numpy", factor))
    changes = compare_runs(load_run(old), load_run(new)).changes
    assert {one.key[2] for one in changes} == {"right on numpy"}
    assert {one.kind for one in changes} == {kind}
    assert len(changes) == sum(key[2] == "right on numpy" for key in load_run(old).measured)
    assert all("50.0 times as" in one.note for one in changes)
    result = run_cli("bench", "--diff", str(old), str(new))
    assert result.exit_code == code
    assert kind in result.output


def test_a_change_within_the_quartiles_is_noise(report, tmp_path):
    def wide(data):
        for bench in data["benchmarks"]:
            bench["stats"] |= {"median": 1.0, "q1": 0.8, "q3": 1.3}

    old = load_run(changed(report, tmp_path, wide))
    one = ("alone", "notebook-fixture", "right on numpy")
    for median, expected in ((1.2, 0), (1.6, 1)):

        def moved(data, median=median):
            wide(data)
            for bench in data["benchmarks"]:
                info = bench["extra_info"]
                if (info["layout"], info["workload"], info["implementation"]) == one:
                    bench["stats"] |= {"median": median, "q1": median - 0.2, "q3": median + 0.2}

        new = load_run(changed(report, tmp_path, moved))
        assert len(compare_runs(old, new).changes) == expected


def test_a_move_that_unchanged_programs_make_too_is_noise(report, tmp_path):
    def as_peer(data):
        """The core plays torch: the same version in both runs."""
        for one in data["ctcx"]["implementations"]:
            if one["name"] == "array-api on numpy":
                one |= {"name": "torch", "kind": "peer"}
        for bench in data["benchmarks"]:
            info = bench["extra_info"]
            if info["implementation"] == "array-api on numpy":
                info["implementation"] = "torch"
            bench["stats"] |= {"median": 1.0, "q1": 1.0, "q3": 1.0}
        data["ctcx"]["baseline"] = "torch"

    def drifted(data):
        as_peer(data)
        for bench in data["benchmarks"]:
            who = bench["extra_info"]["implementation"]
            factor = {"torch": 1.2, "right on numpy": 1.15}.get(who, 1.6)
            for key in ("median", "q1", "q3"):
                bench["stats"][key] *= factor

    old = load_run(changed(report, tmp_path, as_peer))
    changes = compare_runs(old, load_run(changed(report, tmp_path, drifted)))
    assert changes.drift == pytest.approx(0.2)
    assert {one.key[2] for one in changes.changes} == {"lower bound low on numpy"}
    assert "20%" in changes.summary()


def test_what_got_lost_or_less_exact_is_told(finished, report, tmp_path):
    def worse(data):
        gone = data["benchmarks"].pop(0)["extra_info"]
        data["ctcx"]["missing"].append(
            {key: gone[key] for key in ("layout", "workload", "implementation")}
            | {"verdict": "wrong", "reason": "wrong result", "facts": {}}
        )
        data["benchmarks"][0]["extra_info"]["facts"] |= {"grad": 1e-5, "peak": 9e9}

    old = load_run(finished[1] / "ctcx-bench.json")
    changes = compare_runs(old, load_run(changed(report, tmp_path, worse))).changes
    kinds = {one.kind: one for one in changes}
    assert set(kinds) == {"gone", "error", "memory"}
    assert kinds["gone"].new == "wrong"
    assert kinds["gone"].bad
    assert kinds["error"].bad
    assert "gradient" in kinds["error"].note
    assert "9 GB" in kinds["memory"].new


def test_runs_of_different_machines_are_not_compared_unless_told(finished, report, tmp_path):
    def elsewhere(data):
        data["ctcx"]["machine"]["cpu"] = "Another CPU"

    old = finished[1] / "ctcx-bench.json"
    new = changed(report, tmp_path, elsewhere)
    with pytest.raises(DifferentMachinesError, match="Another CPU"):
        compare_runs(load_run(old), load_run(new))
    command = ["bench", "--diff", str(old), str(new)]
    refused = run_cli(*command)
    assert refused.exit_code == 2
    assert "different machines" in " ".join(refused.output.split())
    assert run_cli(*command, "--different-machines").exit_code == 0


# Parts


def test_a_child_imports_its_own_library_only():
    child = worker_process.WorkerProcess([Implementation(name="torch", kind="peer")])
    try:
        before = set(child.ask("facts", timeout=60)["modules"])
    finally:
        child.end()
    assert "numpy" in before
    assert not before & {"torch", "jax", "tensorflow", "keras", "pytest", "numba"}


@posix_only
def test_a_child_that_ends_says_how():
    child = worker_process.WorkerProcess(())
    child.ask("release", timeout=60)
    child.end()
    with pytest.raises(worker_process.WorkerError, match="SIGKILL"):
        child.ask("release", timeout=60)


def test_an_order_that_fails_is_no_end():
    child = worker_process.WorkerProcess(())
    try:
        answer = child.ask(
            "turn", timeout=60, implementation="x", rounds=1, iterations=1, rest=False
        )
        assert answer["verdict"] == "failed"
        assert child.ask("release", timeout=60) == {}
    finally:
        child.end()


def ragged():
    rng = np.random.default_rng(5)
    return Batch(
        logits=rng.standard_normal((3, 12, 6), dtype=np.float32),
        labels=np.array([[1, 2, 2, 3], [4, 5, 9, 9], [1, 1, 1, 1]]),
        logit_lengths=np.array([12, 7, 4]),
        label_lengths=np.array([4, 2, 4]),
        blank=0,
    )


def test_the_truth_is_kept_and_the_errors_are_against_it(tmp_path):
    inputs = ragged()
    accuracy.known_truth(inputs, tmp_path / "new" / "directory")
    (path,) = (tmp_path / "new" / "directory").iterdir()
    stamp = path.stat().st_mtime_ns
    accuracy.known_truth(inputs, path.parent).save(tmp_path)
    assert path.stat().st_mtime_ns == stamp
    whole = path.read_bytes()
    for damaged in (whole[:100], b"", b"PK\x03\x04"):
        path.write_bytes(damaged)
        with pytest.raises(
            ctcx.CTCError, match=rf"{path.name}, .* can't be read \(.+\): delete it"
        ):
            accuracy.known_truth(inputs, path.parent)
    truth = accuracy.WorkloadReference.load(tmp_path)
    right = reference(
        inputs.logits, inputs.labels, inputs.logit_lengths, inputs.label_lengths, inputs.blank
    )
    assert np.isinf(truth.loss[2])  # repeats need more frames than there are
    found = accuracy.errors(inputs, truth, right.loss, right.grad)
    assert found.loss_abs == 0
    assert found.grad < 1e-15
    assert accuracy.wrong("backend", found) is None
    for n, t, c in ((0, 3, 0), (1, 2, 5), (1, 9, 1)):  # a blank, no label of its own, padding
        grad = right.grad.copy()
        grad[n, t, c] += 0.25
        assert accuracy.errors(inputs, truth, right.loss, grad).grad == pytest.approx(0.25)
    loss = right.loss * [1, 1.01, 1]
    assert accuracy.errors(inputs, truth, loss, right.grad).loss_rel == pytest.approx(0.01)
    for bad in (np.nan, np.inf):
        found = accuracy.errors(inputs, truth, right.loss, np.full_like(right.grad, bad))
        assert "gradient" in accuracy.wrong("backend", found)
        assert "gradient" in accuracy.wrong("peer", found)
    finite = np.where(np.isinf(right.loss), 1e5, right.loss)
    assert "loss" in accuracy.wrong("peer", accuracy.errors(inputs, truth, finite, right.grad))
    with pytest.raises(ValueError, match="the gradient has shape"):
        accuracy.errors(inputs, truth, right.loss, right.grad[:, :-1])


def test_inputs_are_written_and_read(tmp_path):
    inputs = ragged()
    inputs.save(tmp_path / "x.npz")
    again = Batch.load(tmp_path / "x.npz")
    assert again.blank == 0
    assert again.cells == inputs.cells == 12 * 9 + 7 * 5 + 4 * 9
    for name in ("logits", "labels", "logit_lengths", "label_lengths"):
        np.testing.assert_array_equal(getattr(again, name), getattr(inputs, name))


def test_random_inputs_have_no_equal_neighbours():
    inputs = random_inputs(8, 50, 4, 20)
    assert (inputs.labels[:, 1:] != inputs.labels[:, :-1]).all()
    assert inputs.labels.min() >= 1
    assert inputs.labels.max() <= 3


def test_workloads_of_published_benchmarks_and_all_sweeps_are_there():
    known = workloads()
    assert {"notebook-fixture", "ocr-lines", "warpctc-28", "ocr-zh", "long"} <= set(known)
    assert {one.sweep for one in known.values()} == {None, "T", "N", "C", "L"}
    for one in known.values():
        if one.sweep is not None and one.size <= 256:
            inputs = one.make()
            sizes = dict(zip("NTCL", (*inputs.logits.shape, inputs.labels.shape[1]), strict=True))
            assert sizes[one.sweep] == one.size


def test_a_slope_is_the_exponent_of_a_power():
    sizes = [10, 40, 160, 640]
    exact = _report.slopes.fit(sizes, [3.0 * size**1.5 for size in sizes])
    assert exact.exponent == pytest.approx(1.5)
    assert exact.factor == pytest.approx(3.0)
    assert exact.error == pytest.approx(0.0, abs=1e-9)
    noisy = _report.slopes.fit(
        sizes, [3.0 * size**1.5 * f for size, f in zip(sizes, (1, 1.2, 0.9, 1), strict=True)]
    )
    x = np.log(sizes)
    expected = np.polyfit(
        x,
        np.log([3 * s**1.5 * f for s, f in zip(sizes, (1, 1.2, 0.9, 1), strict=True)]),
        1,
        cov=True,
    )
    assert noisy.exponent == pytest.approx(expected[0][0])
    assert noisy.error == pytest.approx(expected[1][0, 0] ** 0.5)
    assert _report.slopes.fit([1, 2], [1, 2]) is None


def test_a_pace_foresees_from_what_is_alike():
    size_of = duration_estimate.WorkloadSize
    pace = duration_estimate.DurationEstimate()
    assert pace.foresee(size_of(name="x", cells=10, traffic=10)) is None
    pace.saw(size_of(name="tiny", cells=10, traffic=10), 1.0)
    pace.saw(size_of(name="middle", cells=1000, traffic=1000), 2.0)
    assert pace.foresee(size_of(name="x", cells=4000, traffic=1000)) == (8.0, "middle")
    assert pace.foresee(size_of(name="x", cells=20, traffic=10)) == (0.04, "middle")
    assert pace.foresee(size_of(name="x", cells=10**6, traffic=10)) is None


def test_the_clock_plays_back_what_was_measured():
    clock = RecordedClock()
    clock.load([0.3, 0.6], 3)
    seen = []
    for _ in range(2):
        begin = clock()
        for _ in range(3):
            clock.call()
        seen.append(clock() - begin)
    assert seen == pytest.approx([0.3, 0.6])
    clock.call()
    assert clock() == pytest.approx(0.9)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process reset its peak")
def test_peak_memory_is_what_a_call_takes():
    def call():
        return np.ones(2**23).sum() + np.ones(2**23).sum()

    assert 60e6 < memory.peak_growth(call) < 90e6  # one array at a time
    assert memory.peak_growth(lambda: None) < 5e6


def test_the_speed_of_a_copy_is_measured():
    assert memory.copy_rate(2**20) > 1e6


@pytest.mark.parametrize(
    ("value", "text"), [(1.5, "1.50"), (0.01234, "0.0123"), (12345.6, "12,346"), (0, "0")]
)
def test_numbers_have_three_digits(value, text):
    assert _report.format.three(value) == text


def test_times_have_a_unit():
    assert [_report.format.seconds(t) for t in (2.0, 0.0305, 4.2e-5, 3e-9)] == [
        "2.00 s",
        "30.5 ms",
        "42.0 µs",
        "3.00 ns",
    ]


def test_a_report_without_sweeps_has_no_plots(finished, report, tmp_path):
    def single(data):
        data["benchmarks"] = [
            b for b in data["benchmarks"] if not b["extra_info"]["workload"].startswith("scale")
        ]

    text = html_report(load_run(changed(report, tmp_path, single)))
    assert "<figure>" not in text
    assert "#scaling" not in text


def excluded(**options):
    one = session.Session(session.SessionOptions(**options))
    listed = one.as_dict()["excluded"]
    one.close()
    assert all(one["reason"] for one in listed)
    return {(one["implementation"], one["where"]) for one in listed}


def test_who_takes_no_part_is_listed():
    full = excluded()
    assert ("array-api on array_api_strict", "all") in full
    assert ("keras", "sweeps") in full
    assert ("keras", "all") not in full
    assert not any(who.endswith("on numpy") for who, _ in full)
    assert {("keras", "all"), ("array-api on jax.numpy", "all")} <= excluded(quick=True)
    asked = excluded(libraries=("array_api_strict",))
    assert not any("array_api_strict" in who for who, _ in asked)


@pytest.mark.parametrize("library", ["torch", "jax.numpy"])
def test_a_training_step_is_timed_and_checked_beside_the_plain_call(library, tmp_path):
    needed(library)
    plain = {"torch": "array-api on torch", "jax.numpy": "array-api on jax.numpy, jit"}[library]
    step = f"array-api on {library}, training step"
    who = ("--backend", "array-api", "--library", library, "--peer", "none", "--baseline", step)
    env = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    env |= {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path)}
    done = bench(*who, "--quick", "--workload", "notebook-fixture", env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = load_run(tmp_path / "ctcx-bench.json")
    for name in (plain, step):
        one = run.measured["alone", "notebook-fixture", name]
        assert one.facts["grad"] < 1e-5
