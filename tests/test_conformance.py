"""The kit on itself: it passes what is right, and names what is wrong with each wrong kernel."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import ctcx
from ctcx.conformance import BackendConformance, _draws, _plan, _subject, checks, run_conformance
from ctcx.conformance.cases import cases, truth
from ctcx.conformance.oracle import TOLERANCES, enumerate_paths, reference, round_to_dtype
from ctcx.data.batch import Batch
from ctcx.fixtures import read_fixtures
from ctcx.plugin import Case, Feature
from tests.helpers import forget_kernels, needed, reload_plugins, run_cli

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ("pytester",)

GROUP = "ctcx.plugins"
DRAWN = "check_drawn_problems"
REQUIRED = "CTCX_TEST_NAMESPACES"
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def flawed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """The plugin of wrong kernels, and no other one."""
    site = tmp_path_factory.mktemp("flawed")
    info = site / "flawed_kernels-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: flawed-kernels\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nflawed = flawed_kernels\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        patch.syspath_prepend(str(site))
        patch.delenv(REQUIRED, raising=False)
        plugins = reload_plugins()
        assert plugins.plugins[-1].status == "active", plugins.plugins[-1]
        import flawed_kernels

        yield flawed_kernels
        sys.modules.pop("flawed_kernels")
        forget_kernels()
    reload_plugins()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let failing problems be written to a folder of the test."""
    monkeypatch.chdir(tmp_path)


def flaws() -> list[tuple[str, str]]:
    """All wrong kernels, each with the checks that must catch it."""
    sys.path.insert(0, str(HERE))
    try:
        import flawed_kernels
    finally:
        sys.path.remove(str(HERE))
    return [
        (name, check) for name, flaw in flawed_kernels.FLAWS.items() for check in flaw.caught_by
    ]


# The oracle


def random_problem(rng: np.random.Generator) -> tuple[object, ...]:
    classes, frames = int(rng.integers(1, 5)), int(rng.integers(0, 6))
    blank = int(rng.integers(classes))
    others = [k for k in range(classes) if k != blank]
    labels = rng.choice(others, size=(1, int(rng.integers(0, 5)))) if others else np.zeros((1, 0))
    logits = rng.normal(scale=3, size=(1, frames, classes))
    if frames and rng.random() < 0.3:
        masked = rng.random(logits.shape) < 0.3
        masked[..., int(rng.integers(classes))] = False
        logits[masked] = -np.inf
    return logits, labels, [frames], [labels.shape[1]], blank


@pytest.mark.parametrize("seed", range(120))
def test_recursion_agrees_with_enumeration(seed: int) -> None:
    problem = random_problem(np.random.default_rng(seed))
    listed, recursed = enumerate_paths(*problem), reference(*problem)
    np.testing.assert_array_equal(listed.feasible, recursed.feasible)
    np.testing.assert_allclose(recursed.loss, listed.loss, rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(recursed.grad, listed.grad, rtol=0, atol=1e-14)


def test_oracle_by_hand() -> None:
    # Two frames, p(label) = 1/3 and then 3/4: all paths but blank blank emit the label.
    logits = np.log([[[2.0, 1.0], [1.0, 3.0]]])
    result = reference(logits, [[1]], [2], [1], 0)
    assert result.loss[0] == pytest.approx(-math.log(1 - 2 / 3 * 1 / 4), rel=1e-15)
    # Occupancy of the label in frame 0: (1/3) / (5/6).
    assert result.grad[0, 0, 1] == pytest.approx(1 / 3 - 2 / 5, rel=1e-14)


@pytest.mark.skipif(
    np.finfo(np.longdouble).eps >= np.finfo(np.float64).eps, reason="long double is a double here"
)
@pytest.mark.parametrize(("frames", "count"), [(500, 60), (2000, 200)])
def test_oracle_keeps_its_digits(frames: int, count: int) -> None:
    rng = np.random.default_rng(frames)
    logits = rng.normal(scale=2, size=(1, frames, 20))
    labels = rng.integers(1, 20, size=(1, count))
    problem = (logits, labels, [frames], [count], 0)
    double, longer = reference(*problem), reference(*problem, real=np.longdouble)
    np.testing.assert_allclose(double.loss, longer.loss, rtol=1e-14)
    np.testing.assert_allclose(double.grad, longer.grad, rtol=0, atol=1e-11)


def test_enumeration_refuses_too_many_paths() -> None:
    with pytest.raises(ValueError, match="4 classes and 10 frames make 1048576 paths"):
        enumerate_paths(np.zeros((1, 10, 4)), [[1]], [10], [1], 0)


def test_rounding() -> None:
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -1e300, 65519.0, -np.inf, np.nan])
    bfloat16 = round_to_dtype(values, "bfloat16")
    np.testing.assert_array_equal(bfloat16[:3], [1.0, 1.0, 1 + 2**-6])  # ties go to even
    assert np.isfinite(bfloat16[3])
    assert np.isneginf(bfloat16[5])
    assert np.isnan(bfloat16[6])
    for dtype in ("float16", "float32"):
        rounded = round_to_dtype(values, dtype)
        assert rounded[3] == np.finfo(dtype).min
        np.testing.assert_array_equal(rounded, rounded.astype(dtype).astype(float))
    assert round_to_dtype(values, "float64") is values


# The cases


def test_cases_are_reproducible_and_explained() -> None:
    first, again = cases(), cases.__wrapped__()
    assert len({batch.name for batch in first}) == len(first)
    for one, other in zip(first, again, strict=True):
        assert one.why.endswith(".")
        assert one.groups
        np.testing.assert_array_equal(one.logits, other.logits)
        np.testing.assert_array_equal(one.labels, other.labels)
        assert not one.logits.flags.writeable


@pytest.mark.parametrize(
    "batch",
    [batch for batch in cases() if batch.groups.isdisjoint({"long", "very-long", "real"})],
    ids=lambda batch: batch.name,
)
def test_cases_are_valid(batch: Batch) -> None:
    used = ~batch.padded_labels()
    assert ((batch.labels >= 0) & (batch.labels < batch.logits.shape[2]))[used].all()
    assert (batch.labels != batch.blank)[used].all()
    assert (batch.logit_lengths <= batch.logits.shape[1]).all()
    right = truth(batch, "float64")
    assert not np.isnan(right.loss).any()
    assert np.isfinite(right.grad).all()
    assert batch.groups.isdisjoint({"infeasible", "limit"}) == right.feasible.all() or (
        "degenerate" in batch.groups
    )
    if batch.expected_loss is not None:
        slack = batch.expected_digits or 1e-13
        np.testing.assert_allclose(right.loss, batch.expected_loss, rtol=slack, atol=slack)
    if batch.expected_grad is not None:
        np.testing.assert_allclose(right.grad, batch.expected_grad, rtol=0, atol=2e-6)


def test_both_oracles_agree_on_the_cases() -> None:
    for batch in cases():
        if "enumerable" in batch.groups:
            recursed = reference(
                batch.logits,
                batch.labels,
                batch.logit_lengths,
                batch.label_lengths,
                batch.blank,
            )
            np.testing.assert_allclose(recursed.grad, truth(batch, "float64").grad, atol=1e-14)


def test_a_plugins_case_becomes_a_batch() -> None:
    given = Case(
        name="mine",
        description="One frame.",
        logits=[[[0.0, 0.0]]],
        labels=[[0]],
        logit_lengths=[1],
        label_lengths=[1],
        blank=-1,
        expected_loss=[math.log(2)],
        provenance="log 2",
    )
    batch = Batch.of_case(given)
    assert batch.shape == (1, 1, 2, 1)
    assert batch.blank == 1
    assert truth(batch, "float64").loss[0] == pytest.approx(math.log(2))


def test_a_batch_must_fit_together() -> None:
    with pytest.raises(ValueError, match="are not a batch"):
        Batch(
            name="bad",
            why="It does not fit.",
            logits=np.zeros((2, 3, 4)),
            labels=np.zeros((1, 1), dtype=int),
            logit_lengths=np.array([3, 3]),
            label_lengths=np.array([1, 1]),
            blank=0,
        )


# The checks


def test_every_check_says_what_it_proves() -> None:
    for name, check in checks().items():
        assert name.endswith(check.function.__name__.removeprefix("check_"))
        assert name.startswith("check_")
        assert check.summary.endswith(".")
        assert len(check.summary) < 120


def test_every_feature_has_a_check() -> None:
    covered = frozenset().union(*(check.requires for check in checks().values()))
    assert covered == frozenset(Feature)


def test_every_dtype_has_tolerances() -> None:
    assert set(TOLERANCES) == {"float16", "bfloat16", "float32", "float64"}


@pytest.mark.slow
def test_the_right_kernel_passes_everything(
    flawed: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctcx.conformance._checks.calls._PATIENCE", 1.0)
    report = run_conformance("right", dtypes=["float32"])
    assert report.passed, report.summary()
    assert report.counts["passed"] > 50
    assert "PASSED" in report.summary()
    assert not [r for r in report.results if r.status == "skipped" and "accepts" in r.message]


def test_compiled_calls_that_a_kernel_does_not_take_are_skipped(flawed: object) -> None:
    needed("jax")
    compiled = {name for name, check in checks().items() if check.jit}
    report = run_conformance("no-jax", checks=compiled)
    assert {result.check for result in report.results} == compiled
    for result in report.results:
        assert result.status == "skipped", result
        assert "takes no arrays of JAX" in result.message


@pytest.mark.slow
@pytest.mark.parametrize(("name", "check"), flaws())
def test_each_flaw_is_caught(
    flawed: object, name: str, check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # How small a drawn problem gets is the matter of another test.
    monkeypatch.setattr("ctcx.conformance._checks.drawn_problems._TRIES", 2)
    flaw = flawed.FLAWS[name]
    for library in flaw.namespaces:
        needed(library)
    device, dtype = flaw.on
    devices = None if device is None else [device]
    report = run_conformance(name, devices=devices, dtypes=[dtype], checks=[check], explain=False)
    result = report.results[0]
    assert result.status in {"failed", "error"}, report.summary()
    assert report.passed == result.provisional
    assert report.summary().startswith("PASSED" if result.provisional else "FAILED")
    assert result.message in report.summary()


@pytest.mark.parametrize(
    ("name", "check", "says"),
    [
        ("repeats-skip", "check_loss_by_enumeration", r"case 'repeats': .* losses are wrong"),
        ("repeats-skip", "check_loss_by_enumeration", r"sequence 0 \(a a, just enough frames\)"),
        ("no-blank-gradient", "check_gradient", r"at frame \d+, class \d+ \(the blank\): got "),
        ("stand-in-for-inf", "check_infeasible", r"got 100000.0, expected inf"),
        ("silent-fallback", "check_loss", r"what ran was: array-api \(loss\) then silent-fallback"),
        ("mutates-logits", "check_loss", r"changed its input 'logits'"),
        ("mutates-labels", "check_padding_content", r"changed its input 'labels'"),
        ("pins-tensors", "check_loss", r"after the kernel, its input 'logits' can't be resized"),
        ("float64-loss", "check_loss", r"returned an array of float64 as loss, expected float32"),
        # The same fault in all cases is told once.
        ("float64-loss", "check_loss", r"^cases 'notebook', .* and \d+ more: [^\n]*float64[^\n]*$"),
        ("nan-counts-as-hopeless", "check_unchecked_logits", r"'inf'\": .*: got inf, expected nan"),
        ("column-loss", "check_loss", r"returned an array of shape \(1, 1\) as loss"),
        ("crashes", "check_loss", r"NotImplementedError: not written yet"),
        ("crashes", "check_loss", r"in case 'notebook', which is about"),
        ("declines", "check_takes_what_it_declares", r"turns down the ordinary case .*not today"),
        (
            "padding-not-zero",
            "check_gradient_past_length",
            r"past the length \d+\): got 9\.99.*e-10",
        ),
        ("nan-loss", "check_never_nan", r"returned a loss of nan for sequence 1"),
        ("below-zero", "check_never_negative", r"returned a loss of -\d"),
    ],
)
def test_messages_say_what_is_wrong(flawed: object, name: str, check: str, says: str) -> None:
    for library in flawed.FLAWS[name].namespaces:
        needed(library)
    report = run_conformance(name, dtypes=["float32"], checks=[check], explain=False)
    with pytest.raises(AssertionError, match=f"(?s){says}"):
        raise AssertionError(report.results[0].message)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("repeats-skip", "problems match repeat-transition-allowed. Equal labels are let follow"),
        ("log-prob-gradient", "problems match gradient-of-log-probabilities"),
        ("right", None),
    ],
)
def test_compare_names_the_mistake_of_a_backend(flawed: object, name: str, says: str) -> None:
    only = ("--input", "ocr-lines", "--input", "notebook", "--peer", "none", "--json", "-")
    ended = run_cli("compare", "--backend", name, "--library", "numpy", *only)
    told = [row["reason"] for row in json.loads(ended.stdout)["rows"] if row["verdict"] != "ok"]
    assert ended.exit_code == bool(says)
    if says is None:
        assert not told
        return
    assert says in told[0]
    assert re.search(r"First wrong number of the fixture '\S+': (loss|gradient) at seq", told[0])
    assert f"`ctcx conformance {name} --library numpy`" in told[0]


@pytest.mark.parametrize(
    ("name", "mistakes"),
    [
        ("repeats-skip", ("repeat-transition-allowed",)),
        ("log-prob-gradient", ("gradient-of-log-probabilities",)),
        ("mutates-logits", ()),  # its numbers are right
    ],
)
def test_a_failing_backend_is_told_its_mistake(
    flawed: object, name: str, mistakes: tuple[str, ...]
) -> None:
    only = {"dtypes": ["float32"], "checks": ["check_loss", "check_gradient"]}
    report = run_conformance(name, namespaces=["numpy"], **only)
    assert not report.passed
    assert report.mistakes == mistakes
    asked = [part for dtype in only["dtypes"] for part in ("--dtype", dtype)]
    asked += [part for check in only["checks"] for part in ("--check", check)]
    ended = run_cli("conformance", name, "--library", "numpy", *asked)
    assert ended.exit_code == 1
    if not mistakes:
        assert report.verdict == report.explanation == report.example == ""
        assert "One example" not in ended.stdout
        return
    assert f"problems match {mistakes[0]}" in report.verdict
    assert re.match(r"the fixture '\S+': (loss|gradient) at sequence \d", report.example)
    shown = " ".join(ended.stdout.split())
    for said in (
        report.verdict,
        report.explanation,
        report.example,
        report.results[1].message[:40],
    ):
        assert " ".join(said.split()) in shown


def test_a_modest_kernel_is_checked_for_what_it_declares(flawed: object) -> None:
    report = run_conformance("modest")
    assert report.passed, report.summary()
    by_name = {result.check: result for result in report.results}
    assert by_name["check_rejects_what_it_does_not_declare"].status == "passed"
    assert by_name["check_gradient"].message == "modest doesn't declare GRAD"
    # It says itself that it takes no long sequences: known, and shown, but no failure.
    assert by_name["check_long_sequences"].status == "skipped"
    assert "up to 500 frames, got 2000" in by_name["check_long_sequences"].message
    assert by_name["check_deterministic"].status == "skipped"


def test_the_core_passes_on_numpy() -> None:
    some = ["check_loss", "check_gradient", "check_align", "check_greedy", "check_beam_search"]
    report = run_conformance("array-api", namespaces=["numpy"], checks=some)
    assert report.passed, report.summary()
    assert report.counts == {"passed": 15}  # of three dtypes


def test_a_backend_that_delegates_says_so(flawed: object) -> None:
    only = ["check_computes_by_itself", "check_delegates", "check_loss"]
    status = {
        name: [one.status for one in run_conformance(name, dtypes=["float32"], checks=only).results]
        for name in ("right", "delegating", "delegates-nothing")
    }
    assert status == {
        "right": ["passed", "skipped", "passed"],
        "delegating": ["skipped", "passed", "passed"],
        "delegates-nothing": ["skipped", "failed", "passed"],
    }


# Drawn problems


def test_draws_depend_on_seed_and_index_alone() -> None:
    first = [_draws.draw(7, index) for index in range(20)]
    _draws.draw.cache_clear()
    for index in reversed(range(20)):
        again, before = _draws.draw(7, index), first[index]
        assert again.form == before.form
        assert again.batch.name == before.batch.name == f"drawn-7-{index}"
        for name in ("logits", "labels", "logit_lengths", "label_lengths"):
            np.testing.assert_array_equal(getattr(again.batch, name), getattr(before.batch, name))
    assert any(
        not np.array_equal(_draws.draw(8, index).batch.logits, first[index].batch.logits)
        for index in range(20)
    )


@pytest.mark.parametrize("seed", [0, 7, 12345])
def test_a_cycle_has_all_sizes_around_powers_of_two_and_some_from_each_part_of_an_octave(
    seed: int,
) -> None:
    drawn = [_draws.sizes(seed, index) for index in range(_draws.cycle_length())]
    for name, most in (("N", 300), ("T", 3000), ("C", 20_000), ("L", 500)):
        here = {getattr(one, name) for one in drawn}
        for k in range(3, most.bit_length()):
            assert {2**k - 1, 2**k, 2**k + 1} <= here
            if k >= 5:
                # An eighth of the range of sizes is never left out between powers of two.
                high = min(2 ** (k + 1), most)
                inside = [size for size in here if 2**k + 1 < size < high - 1]
                assert len(inside) >= 2 or high - 2**k < 2**k // 2, (name, k, inside)
    assert any(one.T * one.L > 131_000 and one.aim == "ragged" for one in drawn)
    assert max(one.T for one in drawn) > 3000
    assert all(one.N * one.T * one.C <= 2**24 for one in drawn)


def test_later_cycles_reach_the_largest_sizes() -> None:
    later = [_draws.sizes(7, index) for index in range(_draws.cycle_length(), 900)]
    assert max(one.T for one in later) > 10_000
    assert max(one.N * one.T * one.C for one in later) > 2**21
    assert all(one.N * one.T * one.C <= 2**24 for one in later)


@pytest.mark.xdist_group("drawn problems")  # which keep the right answers
def test_drawn_problems_are_valid_and_of_every_kind() -> None:
    layouts, dtypes, kinds = set(), set(), set()
    for index in range(_draws.cycle_length()):
        problem = _draws.draw(0, index)
        batch = problem.batch
        layouts.add(problem.form.layout)
        dtypes |= {problem.form.labels, problem.form.lengths}
        used = ~batch.padded_labels()
        assert ((batch.labels >= 0) & (batch.labels < batch.shape[2]))[used].all()
        assert (batch.labels != batch.blank)[used].all()
        assert ((batch.logit_lengths >= 0) & (batch.logit_lengths <= batch.shape[1])).all()
        assert ((batch.label_lengths >= 0) & (batch.label_lengths <= batch.shape[3])).all()
        inside = batch.logits[~batch.padded_frames()]
        assert not (np.isnan(inside) | np.isposinf(inside)).any()
        past = batch.logits[batch.padded_frames()]
        answer = _draws.problem.right_answer(batch, "float32")
        assert not np.isnan(answer.loss).any()
        kinds |= {
            name
            for name, found in {
                "infeasible": not answer.feasible.all(),
                "masked": np.isneginf(inside).any(),
                "large": (np.abs(inside[np.isfinite(inside)]) > 1e8).any(),
                "junk": not np.isfinite(past).all(),
                "no labels": (batch.label_lengths == 0).any(),
                "no frames": (batch.logit_lengths == 0).any(),
                "blank last": batch.blank == batch.shape[2] - 1,
                "certain": (answer.loss[answer.feasible] < 1e-3).any(),
            }.items()
            if found
        }
    assert layouts == set(_draws.problem.LAYOUTS)
    assert dtypes == {"int32", "int64"}
    assert len(kinds) == 8, kinds


def test_tiny_draws_agree_with_enumeration() -> None:
    tiny = 0
    for index in range(60):
        batch = _draws.draw(11, index, _draws.Sizes(4, 5, 4, 3), 1).batch
        arrays = (batch.logits, batch.labels, batch.logit_lengths, batch.label_lengths, batch.blank)
        listed, recursed = enumerate_paths(*arrays), reference(*arrays)
        np.testing.assert_array_equal(listed.feasible, recursed.feasible)
        np.testing.assert_allclose(recursed.loss, listed.loss, rtol=1e-13, atol=1e-13)
        np.testing.assert_allclose(recursed.grad, listed.grad, rtol=0, atol=1e-13)
        tiny += int(listed.feasible.sum())
    assert tiny > 100


def test_a_failure_is_made_smaller_written_and_replayed(flawed: object, tmp_path: Path) -> None:
    only = {"dtypes": ["float32"], "namespaces": ["numpy"]}
    name = "wrong-from-100-to-200-classes"
    messages = []
    for _ in range(2):
        report = run_conformance(name, **only, checks=[DRAWN], draw=40, failures=tmp_path / "found")
        messages.append(report.results[0].message)
    assert messages[0] == messages[1]
    assert "made smaller: 1 sequences, 1 frames, 101 classes, 0 labels" in messages[0]
    (path,) = (tmp_path / "found").iterdir()
    command = shlex.split(messages[0].split("to replay it: ")[1].splitlines()[0])
    assert command[:3] == ["ctcx", "conformance", name]
    assert command[3:5] == ["--replay", str(path)]
    result = run_cli(*command[1:])
    assert result.exit_code == (0 if checks()[DRAWN].provisional else 1)
    assert "losses are wrong" in result.output
    # The right kernel gets it right, and the file is a fixture like others.
    assert run_conformance("right", **only, replay=path).passed
    (fixture,) = read_fixtures(path)
    assert fixture.replay["frames"] == 1
    # Drawn problems are known by name too.
    other = messages[0].split(", made smaller")[0].splitlines()[-1]
    assert re.fullmatch(r"drawn-0-\d+", other)
    report = run_conformance(name, **only, replay=other, failures=tmp_path / "again")
    assert report.results[0].status == "failed"


def test_a_replay_keeps_form_padding_and_extremes(flawed: object, tmp_path: Path) -> None:
    batch = _draws.draw(0, 0).batch
    logits = np.zeros((2, 6, 4))
    logits[0, 0] = [1e30, -np.inf, 1e30, -1e9]
    logits[0, 3:] = logits[1, 2:] = np.nan
    batch = Batch(
        name="by-hand",
        why="It has all that a file must keep.",
        logits=logits,
        labels=np.array([[1, 2, -(2**31)], [3, -(2**31), -(2**31)]]),
        logit_lengths=np.array([3, 2]),
        label_lengths=np.array([2, 1]),
        blank=0,
    )
    form = _draws.problem.Form("time-major", "int32", "int64", strided=True, negative_blank=True)
    subject = _subject.Subject(
        backend="right",
        namespace="numpy",
        device="cpu",
        dtype="float32",
        drawing=_draws.Drawing(folder=str(tmp_path)),
    )
    path = _draws.write_problem(subject, _draws.DrawnProblem(batch=batch, form=form), "By hand.")
    again = _draws.read_problem(str(path))
    assert again.form == form
    np.testing.assert_array_equal(again.batch.labels, batch.labels)
    np.testing.assert_array_equal(again.batch.logits, round_to_dtype(batch.logits, "float32"))
    assert not _draws.faults_of(subject, again)


def test_the_command_that_replays_is_kept_while_a_problem_is_computed(flawed: object) -> None:
    crumb = Path(tempfile.gettempdir()) / f"ctcx-conformance-{os.getpid()}.txt"
    seen = []

    def look(result: object, _: object) -> object:
        seen.append(crumb.read_text())
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            flawed, "loss", partial(flawed.run, kernel=flawed.Kernel(), grad=False, after=look)
        )
        forget_kernels()
        run_conformance("right", dtypes=["float32"], checks=[DRAWN], draw=3)
    forget_kernels()
    assert seen[0].startswith("ctcx conformance right --replay drawn-0-0 --library numpy")
    assert not crumb.exists()


def test_how_many_are_drawn(flawed: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def counts(**options: object) -> dict[str, int]:
        plan = _plan.make_plan("right", checks=[DRAWN], drawing=_draws.Drawing(**options))
        return {item.subject.dtype: _draws.how_many(item.subject) for item in plan.items}

    assert counts() == {"float32": _draws.cycle_length(), "float64": _draws.cycle_length() // 2}
    assert counts(count=30) == {"float32": 30, "float64": 30}
    assert counts(thorough=True)["float32"] > 2000
    with pytest.raises(ValueError, match="count of drawn problems is -1"):
        _draws.Drawing(count=-1)

    class TestRight(BackendConformance):
        backend = "right"
        draw = 12
        seed = 3

    (drawing,) = {item.subject.drawing for item in TestRight._plan().items}
    assert drawing == _draws.Drawing(count=12, seed=3)
    del TestRight._made
    monkeypatch.setenv("CTCX_TEST_DRAW", "5")
    monkeypatch.setenv("CTCX_TEST_SEED", "9")
    monkeypatch.setenv("CTCX_TEST_THOROUGH", "1")
    plan = TestRight._plan()
    assert {item.subject.drawing for item in plan.items} == {
        _draws.Drawing(count=5, seed=9, thorough=True)
    }
    slow = next(item for item in plan.items if item.check.name == "check_very_long_sequences")
    assert slow.excuse is None
    del TestRight._made
    monkeypatch.setenv("CTCX_TEST_DRAW", "many")
    with pytest.raises(ctcx.CTCError, match="CTCX_TEST_DRAW='many' is no whole number"):
        TestRight._plan()


# The runner


def test_report_as_json(flawed: object) -> None:
    seen = []
    report = run_conformance(
        "right", dtypes=["float64"], checks=["check_loss", "check_traced"], progress=seen.append
    )
    data = json.loads(report.to_json())
    assert data["passed"] is True
    assert data["counts"] == {"passed": 1, "skipped": 1}
    assert data["versions"]["numpy"] == np.__version__
    assert [r["check"] for r in data["results"]] == [r.check for r in seen]
    assert data["results"][1]["message"] == "right doesn't declare TRACEABLE"


def test_unknown_names_are_errors(flawed: object) -> None:
    with pytest.raises(ctcx.UnknownBackendError, match="'rihgt'"):
        run_conformance("rihgt")
    for wrong in (
        {"checks": ["check_lots"]},
        {"namespaces": ["numpyy"]},
        {"namespaces": ["torch"]},
        {"devices": ["cuda:7"]},
        {"dtypes": ["float8"]},
        {"expected_failures": {"check_lots": "why"}},
        {"expected_failures": {"check_loss": ""}},
    ):
        with pytest.raises(ValueError, match=r"check_lots|numpyy|torch|cuda:7|float8|must say why"):
            run_conformance("right", **wrong)


def test_nothing_run_is_a_failure(flawed: object) -> None:
    for name, options, says in (
        ("only-absent", {}, "no_such_arrays is not installed"),
        ("no-machine", {}, "this machine has no such processor"),
        ("right", {"checks": ["check_traced"]}, "no check of backend 'right' could be run"),
        ("modest", {"checks": ["check_long_sequences"]}, "every check of backend 'modest'"),
    ):
        report = run_conformance(name, **options)
        assert not report.passed
        assert report.problems
        assert says in report.summary()


def test_expected_failures_are_strict(flawed: object) -> None:
    only = {"dtypes": ["float32"], "checks": ["check_infeasible", "check_loss_by_enumeration"]}
    report = run_conformance(
        "stand-in-for-inf",
        **only,
        expected_failures={
            "check_infeasible": "gives 1e5",
            "check_loss_by_enumeration[numpy-*-float32]": "the same",
        },
    )
    assert report.passed, report.summary()
    assert report.counts == {"expected-failure": 2}
    assert "gives 1e5" in report.summary()
    report = run_conformance("right", **only, expected_failures={"check_infeasible": "gives 1e5"})
    assert not report.passed
    assert "it passes, but is listed in expected_failures: gives 1e5" in report.summary()


def test_a_missing_library_is_named(flawed: object, monkeypatch: pytest.MonkeyPatch) -> None:
    report = run_conformance("absent-library", checks=["check_loss"])
    assert report.passed
    assert "not run: no_such_arrays: no_such_arrays is not installed" in report.summary()
    monkeypatch.setenv(REQUIRED, "numpy, no_such_arrays")
    report = run_conformance("absent-library", checks=["check_loss"])
    assert not report.passed
    assert "requires 'no_such_arrays'" in report.summary()
    # One that the backend doesn't declare is none of its business.
    assert run_conformance("right", checks=["check_loss"]).passed
    monkeypatch.setenv(REQUIRED, "numpy,numpyy")
    with pytest.raises(ctcx.CTCError, match=f"{REQUIRED} names numpyy"):
        run_conformance("right", checks=["check_loss"])


def test_five_strict_devices_and_no_meta() -> None:
    plan = _plan.make_plan("array-api", namespaces=["array_api_strict"])
    devices = {item.subject.device for item in plan.items}
    assert devices == {"CPU_DEVICE", "device1", "device2", "no_float64", "no_x64"}
    assert "array_api_strict-no_float64-float64" in plan.not_run


def test_works_without_pytest() -> None:
    code = (
        "import sys; sys.modules['pytest'] = None\n"
        "from ctcx.conformance import run_conformance, BackendConformance, KIT_VERSION\n"
        "only = {'namespaces': ['numpy'], 'checks': ['check_published_numbers']}\n"
        "r = run_conformance('array-api', **only)\n"
        "assert r.passed, r.summary()\n"
        "print(sorted({'torch', 'jax', 'array_api_strict'} & set(sys.modules)))"
    )
    root = str(Path(ctcx.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={"PYTHONPATH": root, "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


# The suite for pytest

THREE_LINES = """
from ctcx.conformance import BackendConformance
class TestMine(BackendConformance):
    backend = "{backend}"
"""


def run_suite(pytester: pytest.Pytester, text: str, *options: str) -> pytest.RunResult:
    pytester.makepyfile(text)
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", "-ra", *options)


@pytest.mark.slow
def test_three_lines_are_enough(flawed: object, pytester: pytest.Pytester) -> None:
    # What each check finds of this kernel is the matter of another test.
    quick = "float64 and not drawn and not real and not guided"
    result = run_suite(pytester, THREE_LINES.format(backend="right"), "-k", quick)
    outcomes = result.parseoutcomes()
    assert outcomes.pop("passed") > 50
    assert set(outcomes) <= {"skipped", "deselected"}


def test_suite_reports_the_check(flawed: object, pytester: pytest.Pytester) -> None:
    text = THREE_LINES.format(backend="repeats-skip")
    result = run_suite(pytester, text, "-k", "check_loss_by_enumeration and float64")
    result.assert_outcomes(failed=1, deselected=result.parseoutcomes()["deselected"])
    result.stdout.fnmatch_lines(
        ["*check_loss_by_enumeration: On tiny problems*", "*case 'repeats':*losses are wrong*"]
    )


def test_suite_with_expected_failures(flawed: object, pytester: pytest.Pytester) -> None:
    text = THREE_LINES.format(backend="stand-in-for-inf") + (
        '    dtypes = ["float32"]\n'
        '    expected_failures = {"check_infeasible": "gives 1e5", "check_loss": "1e5 again",'
        '"check_published_numbers": "not true"}\n'
    )
    wanted = "check_infeasible-numpy or check_loss-numpy or check_published_numbers"
    result = run_suite(pytester, text, "-k", wanted)
    outcomes = result.parseoutcomes()
    assert outcomes["xfailed"] == 2
    assert outcomes["failed"] == 1
    result.stdout.fnmatch_lines(["*passes, but is listed in expected_failures: not true*"])


def test_suite_with_an_unknown_expected_failure(flawed: object, pytester: pytest.Pytester) -> None:
    text = THREE_LINES.format(backend="right") + '    expected_failures = {"check_all": "x"}\n'
    result = run_suite(pytester, text, "-k", "set_up")
    assert result.parseoutcomes()["failed"] == 1
    result.stdout.fnmatch_lines(["*expected_failures names 'check_all', which is no check*"])


def test_suite_skips_a_missing_library_by_name(flawed: object, pytester: pytest.Pytester) -> None:
    text = THREE_LINES.format(backend="absent-library")
    result = run_suite(pytester, text, "-k", "set_up or left-out or check_published")
    assert result.parseoutcomes()["passed"] == 2
    result.stdout.fnmatch_lines(["SKIPPED*no_such_arrays is not installed*"])


def test_suite_fails_without_a_required_library(
    flawed: object, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(REQUIRED, "no_such_arrays")
    result = run_suite(pytester, THREE_LINES.format(backend="absent-library"), "-k", "set_up")
    assert result.parseoutcomes()["failed"] == 1
    result.stdout.fnmatch_lines([f"*{REQUIRED} requires 'no_such_arrays'*"])


def test_suite_fails_with_nothing_to_run(flawed: object, pytester: pytest.Pytester) -> None:
    result = run_suite(pytester, THREE_LINES.format(backend="only-absent"))
    assert result.parseoutcomes()["failed"] == 1
    result.stdout.fnmatch_lines(["*no check of backend 'only-absent' could be run*"])


def test_suite_for_an_unknown_backend(flawed: object, pytester: pytest.Pytester) -> None:
    result = run_suite(pytester, THREE_LINES.format(backend="nobody"))
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*no plugin registered a backend 'nobody'*"])


def test_suite_needs_a_backend() -> None:
    from ctcx.conformance import BackendConformance

    with pytest.raises(TypeError, match=r'TestMine must say .* backend = "mine"'):
        type("TestMine", (BackendConformance,), {})
