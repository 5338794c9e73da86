"""`ctcx fixtures`: what it writes is right, the same everywhere, and refused when it is broken."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import shutil
import subprocess
from importlib.resources import files

import numpy as np
import pytest

import ctcx
from ctcx import conformance, fixtures
from ctcx.conformance.oracle import (
    enumerate_best_paths,
    enumerate_labels,
    enumerate_posterior,
    reference,
)
from tests import wrong_decoders
from tests.helpers import run_cli

RANDOM = ("--random", "20", "--frames", "5:40", "--classes", "6", "--seed", "7")


def command(*arguments):
    return run_cli("fixtures", *arguments)


def written(path, *arguments):
    done = command(*arguments, "--out", path)
    assert done.exit_code == 0, done.output
    return path


@pytest.fixture(scope="module")
def everything():
    return fixtures.named()


@pytest.fixture(scope="module")
def three_fixtures(tmp_path_factory):
    path = tmp_path_factory.mktemp("three") / "f.json"
    return written(path, "repeats", "infeasible", "guided").read_bytes()


@pytest.fixture
def document(three_fixtures):
    return json.loads(three_fixtures)


# Whoever changes these on purpose raises the version of the files, or explains it in CHANGELOG.md.
SUMS = {
    (
        "repeats",
        "confident",
        "masked-class",
        "guided",
    ): "4a8c44ea348d1934191a036fd69eb8c62e7a7fc80a2f97a164dac32e248db5fb",
    RANDOM: "ccc0175a56085853d93ea30bd05b95a0070e8fcdf315464a8e2520b875f6446b",
    (
        *RANDOM,
        "--distribution",
        "confident",
        "--time-major",
    ): "89d5fdb2f1b0227059effee0c9ab69788a2826152fba7c3b2a3a7950d500fd52",
    (
        *RANDOM,
        "--distribution",
        "uniform",
        "--dtype",
        "float16",
        "--format",
        "npz",
    ): "4fedfeb4a00504002167734391c6ad89b9e10aa6000b027c999b85681d9b891e",
    (
        *RANDOM,
        "--format",
        "typescript",
    ): "82ffd145587676e58f3d5dd8103c67409a4a2fe075548099ab9de91dcbe69d3d",
    (
        "notebook",
        *RANDOM,
        "--beam",
        "8",
    ): "5610cd77cedab87ae3e984207190dde8f3e0fdb585079aa6d4baa647e923c30e",
    (*RANDOM, "--format", "c"): "135b2d9ef4b1e9b9a18fcf8948d9f50d0948b6d05eabef59e6f59fb7451ac950",
}


@pytest.mark.parametrize("arguments", SUMS, ids=" ".join)
def test_the_same_command_writes_the_same_bytes_on_every_machine(arguments, tmp_path):
    whole = written(tmp_path / "file", *arguments).read_bytes()
    assert hashlib.sha256(whole).hexdigest() == SUMS[arguments]


def test_another_seed_gives_another_file(tmp_path):
    one, other = (
        written(tmp_path / seed, "--random", 2, "--frames", 5, "--seed", seed).read_bytes()
        for seed in "78"
    )
    assert one != other


def test_a_random_example_does_not_depend_on_how_many_there_are():
    few, many = (
        fixtures.random(fixtures.RandomOptions(count=n, frames=(3, 30), seed=1)) for n in (3, 230)
    )
    for a, b in zip(few, many, strict=False):
        assert all((a.arrays[name] == b.arrays[name]).all() for name in fixtures.ARRAYS)


def test_processes_of_their_own_write_what_one_would(tmp_path, monkeypatch):
    arguments = ("--random", 210, "--frames", 4, "--classes", 3)
    many = written(tmp_path / "many", *arguments).read_bytes()
    monkeypatch.setattr("ctcx.fixtures._parallel.usable_cores", lambda: 1)
    assert written(tmp_path / "one", *arguments).read_bytes() == many


def test_the_numbers_agree_with_the_oracle(everything):
    for fixture in everything:
        arrays = fixture.arrays
        truth = reference(
            arrays["logits"],
            arrays["labels"],
            arrays["logit_lengths"],
            arrays["label_lengths"],
            fixture.blank,
        )
        np.testing.assert_allclose(arrays["loss"], truth.loss, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(arrays["gradient"], truth.grad, rtol=0, atol=1e-11)
        assert (arrays["feasible"] == truth.feasible).all()


def test_the_notebook_has_the_numbers_that_it_printed(everything):
    notebook = everything[0]
    np.testing.assert_allclose(notebook.arrays["loss"], notebook.published["loss"], rtol=1e-6)
    np.testing.assert_allclose(
        notebook.arrays["gradient"], notebook.published["gradient"], rtol=0, atol=1e-6
    )


def test_alpha_beta_and_occupancy_are_what_the_page_says(everything):
    for fixture in everything:
        arrays = fixture.arrays
        for n, loss in enumerate(arrays["loss"]):
            frames = arrays["logit_lengths"][n]
            width = 2 * arrays["label_lengths"][n] + 1
            joint = (arrays["alpha"] + arrays["beta"])[n, :frames, :width]
            with np.errstate(over="ignore"):
                likelihood = np.logaddexp.reduce(joint, axis=1) if frames else np.zeros(0)
            if loss == math.inf:
                assert (likelihood == -math.inf).all()
                assert not arrays["occupancy"][n].any()
                continue
            np.testing.assert_allclose(likelihood, -loss, rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(
                arrays["occupancy"][n, :frames, :width],
                np.exp(joint - likelihood[:, None]),
                atol=1e-11,
            )
            assert not arrays["occupancy"][n, frames:].any()


def small(everything, largest):
    """Sequences that have few paths: fixture, index, frames, and the arguments of a reference."""
    for fixture in everything:
        a = fixture.arrays
        for n, (frames, count) in enumerate(
            zip(a["logit_lengths"], a["label_lengths"], strict=True)
        ):
            if fixture.shape[2] ** int(frames) <= largest:
                inputs = (a["logits"][[n], :frames], a["labels"][[n], :count], [frames], [count])
                yield fixture, n, frames, (*inputs, fixture.blank)


def test_alignment_occupancies_and_entropy_are_those_of_all_paths(everything):
    seen = 0
    for fixture, n, frames, inputs in small(everything, 80_000):
        got = {
            name: fixture.arrays[name][n] for name, axes in fixtures.ARRAYS.items() if "N" in axes
        }
        best, posterior = enumerate_best_paths(*inputs), enumerate_posterior(*inputs)
        assert got["alignment"][:frames].tolist() == best.states[0].tolist()
        assert (got["alignment"][frames:] == -1).all()
        assert got["alignment_score"] == pytest.approx(best.score[0], rel=1e-12, abs=1e-12)
        assert got["class_occupancy"][:frames] == pytest.approx(posterior.classes[0], abs=1e-12)
        assert got["entropy"] == pytest.approx(posterior.entropy[0], abs=1e-12)
        ranked = sorted(posterior.paths[0].values(), reverse=True)
        if len(ranked) > 1:
            assert got["alignment_unique"] == (math.log(ranked[0] / ranked[1]) > 1e-6)
        seen += 1
    assert seen > 20


def test_exact_beams_are_the_most_probable_of_all_labels(everything):
    seen = 0
    for fixture, n, _, (logits, *_, blank) in small(everything, 20_000):
        ranked = sorted(enumerate_labels(logits[0], blank).items(), key=lambda pair: -pair[1])[:3]
        labels, log_probs = (fixture.arrays[f"beam_{name}"][n] for name in ("labels", "log_probs"))
        expected = [math.log(p) for _, p in ranked] + [-math.inf] * (3 - len(ranked))
        if not fixture.arrays["beam_exact"][n]:
            continue
        assert log_probs == pytest.approx(expected, rel=1e-12)
        for k, (said, probability) in enumerate(ranked):
            found = tuple(labels[k][labels[k] >= 0].tolist())
            assert found == said or dict(ranked)[found] == pytest.approx(probability, rel=1e-12)
        seen += 1
    assert seen > 15


def test_guided_results_have_the_largest_scores_of_all_labels(everything, tmp_path):
    guided = [one for one in everything if one.guide is not None]
    assert len(guided) == 5
    lines, _ = conformance.export_problems(tmp_path, ["guided_search"])
    problems = {
        problem["id"]: problem for problem in map(json.loads, lines.read_text().splitlines())
    }
    for fixture in guided:
        problem = problems[f"guided_search:{fixture.name}"]
        for n, frames in enumerate(problem["logit_lengths"]):
            every = enumerate_labels(fixture.arrays["logits"][n, :frames], fixture.blank)
            of_labels = wrong_decoders.bonuses(problem)
            scores = {y: math.log(p) + of_labels(y, frames) for y, p in every.items()}
            best = sorted(scores, key=lambda y: -scores[y])[:3]
            rows = fixture.arrays["guided_labels"][n]
            assert [tuple(row[row >= 0].tolist()) for row in rows] == best
            assert fixture.arrays["guided_scores"][n] == pytest.approx([scores[y] for y in best])
            log_probs = [math.log(every[y]) for y in best]
            assert fixture.arrays["guided_log_probs"][n] == pytest.approx(log_probs)


def test_greedy_labels_are_those_of_the_best_classes(everything):
    for fixture in everything:
        for n, frames in enumerate(fixture.arrays["logit_lengths"]):
            log_probs = fixture.arrays["log_softmax"][n, :frames]
            said = [k for k, _ in itertools.groupby(log_probs.argmax(axis=1)) if k != fixture.blank]
            labels = fixture.arrays["greedy_labels"][n]
            assert labels[labels >= 0].tolist() == said
            score = log_probs.max(axis=1).sum()
            assert fixture.arrays["greedy_score"][n] == pytest.approx(score, rel=1e-12)
            ranked = np.sort(log_probs, axis=1)
            alone = bool((ranked[:, -1] - ranked[:, -2] > 1e-6).all())
            assert fixture.arrays["greedy_unique"][n] == alone


def test_the_notebook_has_equally_good_paths_and_labels(everything):
    arrays = everything[0].arrays
    assert not arrays["alignment_unique"][0]
    assert arrays["beam_log_probs"][0, 0] == arrays["beam_log_probs"][0, 1]


def test_random_examples_have_a_beam_search_if_one_is_asked_for():
    options = {"count": 2, "frames": (4, 6), "classes": 3}
    (without, _), (with_one, _) = (
        fixtures.random(fixtures.RandomOptions(**options, beam_width=width)) for width in (0, 5)
    )
    assert (without.beam_width, without.arrays["beam_log_probs"].shape) == (0, (1, 0))
    assert (with_one.beam_width, with_one.arrays["beam_log_probs"].shape) == (5, (1, 3))


@pytest.mark.parametrize("width", [1, 2, 3])
def test_a_narrow_beam_has_as_many_results_as_prefixes(width, tmp_path):
    file = tmp_path / "narrow.json"
    sizes = ("--frames", "3:9", "--classes", "4", "--beam", width)
    written = run_cli("fixtures", "--random", 6, *sizes, "--out", file)
    assert written.exit_code == 0, written.output
    for fixture in fixtures.read_fixtures(file):
        assert fixture.beam_width == width
        there = fixture.arrays["beam_log_probs"] > -np.inf
        assert there[0].tolist() == [k < width for k in range(3)]
        assert (fixture.arrays["beam_labels"][~there] == -1).all()
    checked = run_cli("fixtures", "--check", file)
    assert checked.exit_code == 0, checked.output


def test_random_examples_have_a_guided_search_if_one_is_asked_for(tmp_path):
    options = {"count": 4, "frames": (3, 5), "classes": 3, "blank": -1, "seed": 1}
    plain, guided = (
        fixtures.random(fixtures.RandomOptions(**options, guided=asked)) for asked in (False, True)
    )
    for one, other in zip(plain, guided, strict=True):
        np.testing.assert_array_equal(one.arrays["logits"], other.arrays["logits"])
        assert one.guide is None
        assert other.guide.phrases
        assert (other.arrays["guided_scores"][0, :2] > -np.inf).all()
    assert {bool(one.guide.ngrams) for one in guided} == {False, True}
    # A reader computes nothing again; a check does.
    fixtures.save(guided, tmp_path / "guided.json")
    assert len(fixtures.check_file(tmp_path / "guided.json")) == 4
    with pytest.raises(ctcx.CTCInputError, match="20 frames and 3 classes is among more than"):
        fixtures.RandomOptions(count=1, frames=(2, 20), classes=3, guided=True)


@pytest.mark.parametrize(("form", "version"), [("json", 1), ("npz", 1), ("json", 2)])
def test_an_old_file_is_read_and_completed(tmp_path, everything, form, version):
    file = tmp_path / f"new.{form}"
    new = [one for one in everything if one.name in {"notebook", "infeasible", "ragged"}]
    fixtures.save(new, file, form, time_major=True)
    later = {*fixtures.ARRAYS} - {*old_names(version)}
    assert len(later) == (19 if version == 1 else 8)
    old = tmp_path / f"old.{form}"
    if form == "json":
        document = json.loads(file.read_bytes())
        as_version(version, document, later)
        old.write_text(json.dumps(document))
    else:
        with np.load(file) as stored:
            arrays = {k: v for k, v in stored.items() if k.partition("/")[2] not in later}
        document = json.loads(str(arrays["manifest"]))
        as_version(version, document, later)
        np.savez(old, **arrays | {"manifest": np.array(json.dumps(document))})
    for one, other in zip(fixtures.check_file(old), new, strict=True):
        assert one.beam_width == (0 if version == 1 else 16)
        for name, axes in fixtures.ARRAYS.items():
            if version > 1 or ("K" not in axes and name != "beam_exact"):
                assert (one.arrays[name] == other.arrays[name]).all()


def old_names(version):
    text = (files("ctcx.fixtures") / f"schema-{version}.json").read_text()
    return json.loads(text)["properties"]["fixtures"]["items"]["required"]


def as_version(version, document, later):
    document["version"] = version
    facts = {"lm_weight", "label_bonus"} | ({"beam_width"} if version == 1 else set())
    for entry in document["fixtures"]:
        for name in (later | facts) & entry.keys():
            del entry[name]


def test_every_array_has_the_axes_that_are_documented(everything):
    for fixture in everything:
        n, t, c, width = fixture.shape
        sizes = {"N": n, "T": t, "C": c, "L": width, "R": max(t, width), "S": 2 * width + 1}
        (num_phrases, longest), (num_ngrams, order) = (
            fixture.arrays[name].shape for name in ("phrases", "ngrams")
        )
        sizes |= {"M": t, "K": 3, "J": 0 if fixture.guide is None else 3}
        sizes |= {"P": num_phrases, "Q": longest, "G": num_ngrams, "O": order}
        for name, axes in fixtures.ARRAYS.items():
            assert fixture.arrays[name].shape == tuple(sizes[axis] for axis in axes)


def test_one_hot_and_index_labels_say_the_same(everything):
    for fixture in everything:
        labels, lengths = ctcx.labels_from_one_hot(fixture.arrays["one_hot"], blank=fixture.blank)
        assert (lengths == fixture.arrays["label_lengths"]).all()
        for n, length in enumerate(lengths):
            assert (labels[n, :length] == fixture.arrays["labels"][n, :length]).all()


def test_padding_junk_is_junk(everything):
    (fixture,) = [f for f in everything if f.name == "padding-junk"]
    assert fixture.arrays["logits"][1, 6:].min() == 50
    assert fixture.arrays["labels"][3, 0] == 2
    assert not fixture.arrays["gradient"][1, 6:].any()


@pytest.mark.parametrize("distribution", ["normal", "uniform", "confident"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_random_logits_are_exact_in_the_dtype_that_is_asked_for(dtype, distribution):
    options = fixtures.RandomOptions(count=5, dtype=dtype, distribution=distribution, blank=-1)
    for fixture in fixtures.random(options):
        assert dtype in fixture.tolerances
        assert fixture.blank == 31
        assert fixture.arrays["feasible"].all()


def test_confident_examples_are_confident():
    loss = {
        d: np.mean(
            [
                f.arrays["loss"][0] / f.shape[1]
                for f in fixtures.random(fixtures.RandomOptions(count=9, distribution=d))
            ]
        )
        for d in ("normal", "confident")
    }
    assert loss["confident"] < 0.1
    assert loss["normal"] > 1


def test_normal_numbers_are_normal():
    options = fixtures.RandomOptions(
        count=1, frames=(200, 200), labels=(0, 0), classes=200, scale=1.0, dtype="float64"
    )
    (fixture,) = fixtures.random(options)
    drawn = fixture.arrays["logits"]
    assert drawn.size == 40_000
    assert abs(drawn.mean()) < 0.02
    assert abs(drawn.std() - 1) < 0.02
    assert abs((np.abs(drawn) < 1.959964).mean() - 0.95) < 0.005


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0, 340.0])
def test_exponential_and_logarithm_are_right_to_the_last_digits(scale):
    options = fixtures.RandomOptions(
        count=1, frames=(200, 200), labels=(0, 0), classes=2, distribution="uniform", scale=scale
    )
    (fixture,) = fixtures.random(options)
    logits = fixture.arrays["logits"][0].astype(np.longdouble)
    above = logits - logits.max(axis=1, keepdims=True)
    total = np.exp(above).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(fixture.arrays["softmax"][0], np.exp(above) / total, rtol=7e-16)
    np.testing.assert_allclose(
        fixture.arrays["log_softmax"][0], above - np.log(total), rtol=4.5e-16, atol=1.2e-16
    )


def test_a_number_that_two_ways_do_not_agree_on_is_not_written(tmp_path, monkeypatch):
    compute = ctcx.ctc_loss_and_grad

    def wrong(*arrays, **options):
        loss, gradient, feasible = compute(*arrays, **options)
        gradient[0, 1, 2] += 1e-9
        return loss, gradient, feasible

    monkeypatch.setattr(ctcx, "ctc_loss_and_grad", wrong)
    done = command("notebook", "--out", tmp_path / "f.json")
    assert isinstance(done.exception, RuntimeError)
    assert "fixture 'notebook', gradient[0, 1, 2]" in str(done.exception)
    assert list(tmp_path.iterdir()) == []


# Files


@pytest.mark.parametrize(
    ("form", "time_major"),
    [
        pytest.param("json", False, marks=pytest.mark.slow),
        ("npz", True),
        pytest.param("safetensors", False, marks=pytest.mark.slow),
    ],
)
def test_files_come_back_to_the_last_bit(tmp_path, everything, form, time_major):
    path = tmp_path / f"f.{form}"
    fixtures.save(everything, path, form, time_major=time_major)
    for got, expected in zip(fixtures.check_file(path), everything, strict=True):
        assert (got.name, got.blank, got.dtype) == (expected.name, expected.blank, expected.dtype)
        for name in fixtures.ARRAYS:
            assert (got.arrays[name] == expected.arrays[name]).all()
            assert got.arrays[name].shape == expected.arrays[name].shape


def test_json_is_as_its_schema_says_and_the_schema_can_say_no(tmp_path):
    import jsonschema

    validator = jsonschema.Draft202012Validator(fixtures.schema())
    validator.check_schema(fixtures.schema())
    for options in ((), ("ragged", "--time-major")):
        document = json.loads(written(tmp_path / "f.json", *options).read_bytes())
        validator.validate(document)
    document["fixtures"][0]["loss"][0] = "infinite"
    assert not validator.is_valid(document)


def test_the_command_prints_the_schema():
    assert json.loads(command("--schema").stdout) == fixtures.schema()


def test_time_major_puts_frames_first(tmp_path):
    by_layout = {
        layout: json.loads(written(tmp_path / layout, "ragged", *option).read_bytes())
        for layout, option in (("batch-major", ()), ("time-major", ("--time-major",)))
    }
    batch, time = (by_layout[key]["fixtures"][0] for key in ("batch-major", "time-major"))
    for name, axes in fixtures.ARRAYS.items():
        if "T" in axes:
            assert time[name][3][0] == batch[name][0][3]
        elif "R" not in axes:  # rows of one-hot labels go like frames
            assert time[name] == batch[name]
    assert [by_layout[key]["layout"] for key in by_layout] == list(by_layout)


@pytest.mark.slow
def test_a_c_compiler_takes_the_header(tmp_path):
    written(tmp_path / "fixtures.h", "--format", "c")
    (tmp_path / "main.c").write_text(
        '#include "fixtures.h"\n#include <stdio.h>\n'
        "int main(void) { for (int i = 0; i < ctcx_fixture_count; i++) "
        'printf("%s %.17g\\n", ctcx_fixtures[i].name, ctcx_fixtures[i].loss[0]); return 0; }\n'
    )
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "the tests of the C header need a C compiler: install gcc"
    strict = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    subprocess.run([compiler, *strict, "main.c", "-o", "main", "-lm"], cwd=tmp_path, check=True)
    lines = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True).stdout
    told = dict(line.split() for line in lines.splitlines())
    assert told.keys() == fixtures.names().keys()
    assert float(told["notebook"]) == fixtures.named("notebook")[0].arrays["loss"][0]


def test_the_typescript_module_has_types_and_no_strings_for_infinity(tmp_path):
    text = written(tmp_path / "f.ts", "infeasible", "--format", "typescript").read_text()
    assert "export interface CtcFixture" in text
    assert "  log_softmax: number[][][];" in text
    assert '"inf"' not in text.partition('"logits":')[2]
    assert "Infinity" in text


def test_named_fixtures_say_what_they_catch():
    done = command("--list")
    in_one_line = " ".join(done.stdout.split())  # wherever the terminal wraps it
    for name, about in fixtures.names().items():
        assert f"{name}\n" in done.stdout
        assert about in in_one_line


# Bad input


def refused(*arguments):
    done = command(*arguments)
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    return " ".join(done.output.replace("│", " ").split())


def test_an_unknown_fixture_is_named_with_those_there_are(tmp_path):
    told = refused("repeat", "--out", tmp_path / "f")
    assert "no fixture 'repeat'" in told
    assert "did you mean 'repeats'?" in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--random", 1, "--frames", "9:3"), "frames is (9, 3): expected 1 <= least <= most"),
        (("--random", 1, "--frames", "a:3"), "'a:3' is no range"),
        (("--random", 1, "--classes", 1), "classes is 1: expected at least 2"),
        (("--random", 1, "--dtype", "float8"), "dtype is 'float8': expected one of"),
        (("--random", 1, "--distribution", "odd"), "distribution is 'odd': expected one of"),
        (("--random", 1, "--blank", 32), "blank is 32: expected -32 to 31"),
        (("--random", 1, "--seed", -1), "seed is -1: expected at least 0"),
        (
            ("--random", 1, "--classes", 10**20),
            "expected at least 2, the blank and a label, and at",
        ),
        (("--random", 1, "--frames", 10**20), "<= most <= 2147483647"),
        (("--random", 1, "--labels", f"1:{10**20}"), "<= most <= 2147483647"),
        (("--random", 0), "greater than or equal to 1"),
        (("--format", "xml"), "no format 'xml'"),
        (("--check", "/nowhere/f.json"), "/nowhere/f.json: can't be read"),
    ],
)
def test_a_wrong_option_says_what_was_expected(arguments, expected):
    assert expected in refused(*arguments)


def test_a_directory_that_is_not_there(tmp_path):
    assert "no directory" in refused("notebook", "--out", tmp_path / "a" / "f.json")


def at(document, *path):
    for key in path[:-1]:
        document = document[key]
    return document, path[-1]


NOT_THERE = object()


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("format",), "other", "format is 'other': expected 'ctcx-fixtures'"),
        (("version",), 4, "version is 4: expected 1 to 3"),
        (("layout",), "odd", "layout is 'odd': expected 'batch-major' or 'time-major'"),
        (("layout",), {}, "layout is {}: expected 'batch-major' or 'time-major'"),
        (("fixtures",), 3, "fixtures is 3: expected a list"),
        (("fixtures", 1), 3, "fixtures[1] is 3: expected an object"),
        (("fixtures", 1, "name"), "repeats", "fixtures[1].name is 'repeats', as before"),
        (("fixtures", 0, "loss"), NOT_THERE, "fixtures[0] (repeats).loss is missing"),
        (
            ("fixtures", 0, "blank"),
            "0",
            "(repeats).blank is '0': expected type int",
        ),
        (("fixtures", 0, "blank"), 5, "(repeats).blank is 5: expected 0 to 4"),
        (("fixtures", 0, "dtype"), "int", "(repeats).dtype is 'int': expected one of"),
        (("fixtures", 0, "logits", 1, 2, 3), "x", "logits[1][2][3] is 'x': expected a number"),
        (("fixtures", 0, "logits", 1, 2, 3), "nan", "frame 2, class 3 is nan: expected -inf"),
        (("fixtures", 0, "logits", 1, 2), [1.0], "logits[1][2] has the length 1: expected 5"),
        (("fixtures", 0, "loss"), [1.0], "loss has the shape (1,): expected 3 on its axis 0"),
        (("fixtures", 0, "loss"), [[1.0]] * 3, "loss has 2 axes: expected 1"),
        (("fixtures", 0, "labels", 0, 1), 0, "labels[0][1] is 0: expected 0 to 4, and not the"),
        (("fixtures", 0, "labels", 0, 1), 5, "labels[0][1] is 5: expected 0 to 4"),
        (("fixtures", 0, "labels", 0, 1), 1.5, "labels[0][1] is 1.5: expected an integer"),
        (("fixtures", 0, "label_lengths", 2), 9, "label_lengths[2] is 9: expected 0 to 4"),
        (("fixtures", 0, "beam_width"), NOT_THERE, "(repeats).beam_width is missing"),
        (("fixtures", 0, "beam_width"), -1, "(repeats).beam_width is -1: expected at least 0"),
        (("fixtures", 0, "lm_weight"), "1", "(repeats).lm_weight is '1': expected type float"),
        (("fixtures", 0, "lm_weight"), 10**400, "lm_weight[0] is 1000000"),
        (("fixtures", 2, "lm_weight"), -1, "lm_weight is -1.0: expected a finite number, at least"),
        (("fixtures", 2, "label_bonus"), math.nan, "label_bonus is nan: expected a finite number"),
        (("fixtures", 2, "phrases", 0, 1), 3, "phrases[0][1] is 3: expected 0 to 3, and not the"),
        (("fixtures", 2, "phrases", 0, 0), -1, "phrases[0] is [-1, 1, -1]: expected labels, and"),
        (("fixtures", 2, "phrases", 0), [1, 2, -1], "phrases[1] is [1, 2], as before: expected"),
        (
            ("fixtures", 2, "phrase_weights", 0),
            "inf",
            "phrase_weights[0] is inf: expected a finite",
        ),
        (("fixtures", 2, "ngrams", 2), [4, 4, 5], "ngrams[2] is [4, 4, 5]: expected the beginning"),
        (("fixtures", 2, "ngrams", 2), [2, 0, 2], "(guided).ngrams lacks [0]: expected every"),
        (("fixtures", 0, "entropy"), NOT_THERE, "fixtures[0] (repeats).entropy is missing"),
        (("fixtures", 0, "alignment", 1, 2), 1.5, "alignment[1][2] is 1.5: expected an integer"),
        (("fixtures", 0, "greedy_unique", 1), 1, "greedy_unique[1] is 1: expected true or false"),
        (("fixtures", 0, "feasible", 2), 1, "feasible[2] is 1: expected true or false"),
        (("fixtures", 0, "one_hot", 1, 2), [0, 1, 0, 1, 0], "one_hot[1][2] has 2 ones: expected"),
        (("fixtures", 0, "one_hot", 1, 2), [0] * 5, "one_hot[1][2] has no ones: expected exactly"),
        (("fixtures", 0, "one_hot", 1, 2), [0, 2, 0, 0, 0], "one_hot[1][2] has other numbers"),
        (("fixtures", 0, "one_hot", 1, 2), [0, 1, 0, 0, 0], "one_hot[1][2] is class 1: expected"),
    ],
)
def test_a_malformed_file_names_the_place(tmp_path, document, path, value, expected):
    holder, key = at(document, *path)
    if value is NOT_THERE:
        del holder[key]
    else:
        holder[key] = value
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(document))
    with pytest.raises(ctcx.CTCInputError) as caught:
        fixtures.read_fixtures(file)
    assert f"{file}: " in str(caught.value)
    assert expected in str(caught.value)


INPUTS = {"logits", "logit_lengths", "labels", "label_lengths", "one_hot"}
GUIDE = {"phrases", "phrase_weights", "ngrams", "ngram_log_probs", "ngram_back_offs"}


@pytest.mark.parametrize("name", [name for name in fixtures.ARRAYS if name not in INPUTS | GUIDE])
def test_a_wrong_number_in_a_file_is_found(tmp_path, document, name):
    holder = document["fixtures"][2 if "guided" in name else 0]
    document["fixtures"], fixture, key = [holder], holder["name"], name
    while isinstance(holder[key], list):
        holder, key = holder[key], 0
    was = holder[key]
    holder[key] = not was if isinstance(was, bool) else was + 1 if isinstance(was, int) else -0.123
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(document))
    assert f"{fixture}.{name}[0]" in refused("--check", file)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("f.json", b'{"format": ', "line 1, column 12: not JSON"),
        ("f.json", b"\xff\xfe", "not JSON"),
        ("f.json", b"[" * 100_000, "not JSON"),
        ("f.json", b"[]", "format is []"),
        ("f.json", b'{"version": ' + b"1" * 5000 + b"}", "not JSON"),
        ("f.npz", b"PK nonsense", "not an NPZ file"),
        ("f.npz", b"\x93NUMPY\x01\x00\x02\x00{\n", "not an NPZ file"),  # an array, cut off
        ("f.safetensors", b"12345678 nonsense", "not a safetensors file"),
    ],
)
def test_a_file_that_is_something_else(tmp_path, name, content, expected):
    file = tmp_path / name
    file.write_bytes(content)
    assert expected in refused("--check", file)


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("jsonschema", ("--check", "f.json")),
        ("safetensors", ("notebook", "--format", "safetensors")),
    ],
)
def test_a_missing_package_is_named_with_the_extra(tmp_path, monkeypatch, module, arguments):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "f.json", "notebook")
    for name in (module, f"{module}.numpy"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    told = refused(*arguments)
    assert f"needs the package {module}: pip install" in told
    assert "ctcx[fixtures]" in told
    assert [path.name for path in tmp_path.iterdir()] == ["f.json"]


def test_what_was_there_stays_when_writing_fails(tmp_path):
    file = tmp_path / "f"
    file.write_bytes(b"before")

    def then_interrupted():
        yield from fixtures.named("notebook")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fixtures.save(then_interrupted(), file)
    assert file.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [file]
