"""`ctcx diagnose` and `ctcx.plot`: what is inside a computation, and where another one errs."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import ctcx
from ctcx import fixtures
from ctcx._diagnosis import (
    MISTAKES,
    QUANTITIES,
    diagnose,
    first_divergence,
    read_answer,
)
from tests.helpers import run_cli

_SPEC = importlib.util.spec_from_file_location(
    "wrong_ctc", Path(__file__).with_name("wrong_ctc.py")
)
wrong_ctc = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(wrong_ctc)

SHORT = [name for name in fixtures.names() if name not in {"long", "confident"}]


def diagnosis_of(*arguments):
    return run_cli("diagnose", *arguments)


@cache
def named(name):
    return fixtures.named(name)[0]


def plain(value):
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value if math.isfinite(value) else str(value)


def said(fixture, mistake=None, variant=0):
    """What an implementation with a mistake says, as it would arrive."""
    document = {k: plain(v) for k, v in wrong_ctc.answer(fixture, mistake, variant).items()}
    return document, read_answer("their.json", document, fixture)


def names_of(fixture, answer, dtype="float64"):
    """The mistakes that one problem tells."""
    return [mistake.name for mistake in diagnose([(fixture, answer)], dtype).mistakes]


# Diagnoses

SHOWN_BY = {
    "blank-at-wrong-end": ("blank-first", "blank-last", "blank-middle", "repeats"),
    "repeat-transition-allowed": ("repeats",),
    "skip-missing": ("returning", "repeats", "blank-middle"),
    "softmax-missing": ("repeats", "blank-last", "exact-fit", "ragged"),
    "softmax-twice": ("repeats", "blank-last", "exact-fit", "ragged"),
    "alpha-end-states": ("repeats", "blank-last", "empty-label"),
    "alpha-start-states": ("repeats", "blank-last", "empty-label"),
    "one-hot-shifted": ("repeats", "blank-last", "ragged"),
    "padding-not-masked": ("padding-junk",),
    "gradient-of-log-probabilities": ("repeats", "blank-last", "padding-junk"),
    "gradient-sign": ("repeats", "blank-last", "padding-junk"),
    "log-zero-leaks": ("infeasible",),
    "nan": ("infeasible",),
}


def test_every_mistake_is_tried():
    assert set(SHOWN_BY) == set(wrong_ctc.MISTAKES) <= {mistake.name for mistake in MISTAKES}


@pytest.mark.parametrize("variant", [0, 1])
@pytest.mark.parametrize(
    ("mistake", "name"), [(m, name) for m, shown in SHOWN_BY.items() for name in shown]
)
def test_a_wrong_implementation_gets_the_name_of_its_own_mistake(mistake, name, variant):
    fixture = named(name)
    _, answer = said(fixture, mistake, variant)
    assert mistake in names_of(fixture, answer)
    assert any(first_divergence(fixture, answer, n, "float64") for n in range(fixture.shape[0]))


@pytest.mark.parametrize("mistake", sorted(SHOWN_BY))
def test_the_loss_alone_is_enough_for_mistakes_in_the_loss(mistake):
    if mistake.startswith("gradient"):
        return
    fixture = named(SHOWN_BY[mistake][0])
    document, _ = said(fixture, mistake)
    answer = read_answer("x", {"loss": document["loss"]}, fixture)
    assert mistake in names_of(fixture, answer)


@pytest.mark.parametrize("name", SHORT)
def test_a_right_implementation_gets_no_name(name):
    fixture = named(name)
    _document, answer = said(fixture)
    assert names_of(fixture, answer) == []
    assert all(
        first_divergence(fixture, answer, n, "float64") is None for n in range(fixture.shape[0])
    )
    # and float32 is enough for float32
    rounded = {k: np.asarray(v, dtype=np.float32).astype(float) for k, v in answer.items()}
    assert names_of(fixture, rounded, "float32") == []


def test_plain_numbers_that_underflow_are_named_where_they_still_have_digits():
    """Around the smallest numbers losses are about right; beyond them there are none."""
    options = fixtures.RandomOptions(count=8, frames=(185, 205), labels=(8, 8), classes=20)
    pairs = [(fixture, said(fixture)[1]) for fixture in fixtures.random(options)]
    losses = np.concatenate([answer["loss"] for _, answer in pairs])
    likely = diagnose(pairs, "float64")
    assert np.isposinf(losses).any()
    assert likely.wrong > np.isposinf(losses).sum()
    assert likely.mistakes[0].name == "underflow"


def test_a_gradient_of_labels_that_cannot_be_emitted_is_a_leak_too():
    fixture = named("infeasible")
    document, _ = said(fixture)
    document["gradient"][1][0][2] = 0.1
    assert names_of(fixture, read_answer("x", document, fixture)) == ["infeasible-gradient"]


def test_what_is_wrong_in_no_known_way_gets_no_name():
    fixture = named("repeats")
    document, _ = said(fixture)
    document["loss"][1] *= 1.01
    answer = read_answer("x", document, fixture)
    assert names_of(fixture, answer) == []
    assert diagnose([(fixture, answer)], "float64").verdict == (
        "unknown mistake: no known one gives these numbers in 1 problem"
    )


# Where it parts


def inside(fixture):
    return {
        name: plain(fixture.arrays[name].tolist())
        for name in ("softmax", "log_softmax", "alpha", "beta", "occupancy", "gradient", "loss")
    }


@pytest.mark.parametrize(
    ("quantity", "cells", "first"),
    [
        ("alpha", [(5, 3), (4, 6), (4, 5)], (4, 5)),
        ("log_softmax", [(5, 3), (4, 2)], (4, 2)),
        ("beta", [(2, 3), (4, 1), (4, 2)], (4, 1)),
        ("occupancy", [(2, 3)], (2, 3)),
        ("gradient", [(7, 0), (1, 4)], (1, 4)),
    ],
)
def test_the_first_cell_is_the_first_in_the_order_of_computation(quantity, cells, first):
    fixture = named("repeats")
    document = inside(fixture)
    for t, column in cells:
        document[quantity][0][t][column] = 0.5
    # what comes later is wrong as well, and is not what is named
    later = QUANTITIES[QUANTITIES.index(quantity) + 1 :]
    for name in later:
        document[name] = plain((-1.0 + np.zeros(np.shape(fixture.arrays[name]))).tolist())
    divergence = first_divergence(fixture, read_answer("x", document, fixture), 0, "float64")
    assert (divergence.quantity, divergence.frame, divergence.column) == (quantity, *first)
    assert divergence.got == 0.5
    column = "class" if quantity in {"gradient", "log_softmax"} else "state"
    assert f"frame {first[0]}, {column} {first[1]}" in str(divergence)


def test_a_mistake_in_the_forward_recursion_shows_in_the_loss_before_the_gradient():
    assert QUANTITIES.index("alpha") < QUANTITIES.index("loss") < QUANTITIES.index("gradient")


def test_a_beta_that_includes_the_emission_is_right_too():
    fixture = named("repeats")
    document = inside(fixture)
    emission = np.take_along_axis(
        fixture.arrays["log_softmax"], fixture.arrays["extended"][:, None, :], axis=2
    )
    document["beta"] = plain((fixture.arrays["beta"] + emission).tolist())
    answer = read_answer("x", document, fixture)
    assert first_divergence(fixture, answer, 0, "float64") is None


def test_a_finite_logarithm_of_zero_is_no_fault_in_itself():
    fixture = named("repeats")
    document = inside(fixture)
    document["alpha"] = [
        [[x if x != "-inf" else -706.89 for x in r] for r in s] for s in document["alpha"]
    ]
    assert first_divergence(fixture, read_answer("x", document, fixture), 0, "float64") is None


def test_a_gradient_past_the_length_is_wrong():
    fixture = named("padding-junk")
    document = inside(fixture)
    document["gradient"][1][7][0] = 0.1
    divergence = first_divergence(fixture, read_answer("x", document, fixture), 1, "float64")
    assert "past the length 6" in str(divergence)


# The best path


def test_the_best_path_is_the_best_of_all(tmp_path):
    options = fixtures.RandomOptions(count=6, frames=(5, 5), labels=(0, 2), classes=3)
    file = tmp_path / "random.json"
    examples = fixtures.random(options)
    fixtures.save(examples, file)
    for fixture in examples:
        (log_softmax,), (labels,) = fixture.arrays["log_softmax"], fixture.arrays["labels"]
        wanted = labels[: fixture.arrays["label_lengths"][0]].tolist()
        document = json.loads(diagnosis_of(f"{file}#{fixture.name}", "--json", "-").stdout)
        paths = np.indices((3,) * 5).reshape(5, -1).T
        scores = {
            tuple(path): log_softmax[np.arange(5), path].sum()
            for path in paths.tolist()
            if spelled(path) == wanted
        }
        best = [document["states"][state] for state in document["best_path"]]
        assert tuple(best) == max(scores, key=scores.get)


def spelled(path):
    return [k for t, k in enumerate(path) if k and (t == 0 or path[t - 1] != k)]


# The command


def test_the_terminal_shows_everything_of_a_small_one():
    done = diagnosis_of("notebook")
    assert done.exit_code == 0
    for word in ("loss 4.4487411", "3:1", "alpha, by state", "occupancy", "best path: 0 1 0 - 1"):
        assert word in done.stdout
    assert "-0.5106" in done.stdout
    assert "(log-probability -5.71834, others are equally good)" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("name", "sequence", "score", "is_unique"),
    [
        ("notebook", 0, -5.718341903143396, False),
        ("repeats", 1, -14.837277425916026, True),
        ("infeasible", 1, "-inf", False),
        ("ragged", 4, 0.0, True),
    ],
)
def test_the_best_path_is_told_with_its_score_and_whether_it_is_the_only_one(
    tmp_path, name, sequence, score, is_unique
):
    page = tmp_path / "page.html"
    done = diagnosis_of(name, "--sequence", sequence, "--json", "-", "--html", page)
    document = json.loads(done.stdout)
    assert document["best_path_score"] in (score, pytest.approx(score))
    assert document["best_path_unique"] == is_unique
    text, data = page_data(page)
    assert float(data["best_path_score"]) == pytest.approx(float(score))
    assert (data["best_path"], data["best_path_unique"]) == (document["best_path"], is_unique)
    assert "others are equally good" in text
    arrays = named(name).arrays
    alignment = arrays["alignment"][sequence]
    assert len(document["best_path"]) == (alignment >= 0).sum()
    assert arrays["alignment_unique"][sequence] == is_unique
    if is_unique:
        assert document["best_path"] == alignment[alignment >= 0].tolist()


def test_a_long_one_is_shown_in_part_and_says_so():
    done = diagnosis_of("long")
    assert "Shown in part" in done.stdout
    assert re.search(r"^\s+499 ", done.stdout, re.MULTILINE)
    assert "\n  250 " not in done.stdout
    assert re.search(r"^\s+250 ", diagnosis_of("long", "--frames", "250:252").stdout, re.MULTILINE)


def test_json_has_all_of_it():
    document = json.loads(diagnosis_of("repeats", "--sequence", 2, "--json", "-").stdout)
    fixture = named("repeats")
    assert document["states"] == [0, 1, 0, 2, 0, 2, 0, 1, 0]
    assert document["alpha"][0][8] == "-inf"
    assert document["loss"] == pytest.approx(fixture.arrays["loss"][2], rel=1e-15)
    assert np.shape(document["gradient"]) == (6, 5)
    assert len(document["best_path"]) == 6


def test_against_says_where_and_why_and_exits_with_1(tmp_path):
    document, _ = said(named("repeats"), "repeat-transition-allowed")
    other = tmp_path / "other.json"
    other.write_text(json.dumps(document))
    done = diagnosis_of("repeats", "--against", other)
    assert done.exit_code == 1
    assert "first wrong number: loss at sequence 0: got " in done.stdout
    assert "likely mistake (repeat-transition-allowed)" in done.stdout
    found = json.loads(diagnosis_of("repeats", "--against", other, "--json", "-").stdout)["against"]
    assert found["mistakes"] == ["repeat-transition-allowed"]
    assert found["verdict"] == "1 of 1 problems match repeat-transition-allowed"
    assert found["divergence"]["quantity"] == "loss"


def test_against_what_is_right_exits_with_0(tmp_path):
    file = tmp_path / "f.json"
    fixtures.save(fixtures.named("repeats", "ragged"), file, time_major=True)
    done = diagnosis_of("ragged", "--against", file, "--dtype", "float64")
    assert done.exit_code == 0, done.output
    assert "right: every number that is given" in done.stdout
    assert diagnosis_of(f"{file}#repeats").exit_code == 0


def page_data(path):
    text = path.read_text()
    return text, json.loads(re.search(r'application/json">(.*?)</script>', text)[1])


def test_the_page_stands_alone_and_marks_the_first_wrong_cell(tmp_path):
    fixture = named("repeats")
    document = inside(fixture)
    document["alpha"][1][2][1] = -1.0
    other, page = tmp_path / "o.json", tmp_path / "p.html"
    other.write_text(json.dumps(document))
    assert diagnosis_of("repeats", "--against", other, "--html", page).exit_code == 1
    text, data = page_data(page)
    assert not re.search(r"""(?:src|href)=|url\(|import |https?://""", text)
    assert data["sequence"] == 1
    assert (data["part"]["quantity"], data["part"]["frame"], data["part"]["column"]) == (
        "alpha",
        2,
        1,
    )
    assert data["other"]["wrong"]["alpha"] == [2 * 7 + 1]
    assert data["best_path"] == fixture.arrays["alignment"][1][: data["frames"]].tolist()


def test_the_page_of_200_frames_and_121_states_is_below_1_mb_with_all_of_another_one(tmp_path):
    options = fixtures.RandomOptions(count=1, frames=(200, 200), labels=(60, 60), seed=3)
    file, page = tmp_path / "f.json", tmp_path / "p.html"
    fixtures.save(fixtures.random(options), file)
    assert diagnosis_of(file, "--against", file, "--html", page).exit_code == 0
    _, data = page_data(page)
    assert (data["frames"], len(data["states"])) == (200, 121)
    assert page.stat().st_size < 1_000_000


def file_of_name(tmp_path, name):
    """Write a file with one fixture of that name."""
    file = tmp_path / "f.json"
    fixtures.save(fixtures.named("notebook"), file)
    document = json.loads(file.read_text())
    document["fixtures"][0]["name"] = name
    file.write_text(json.dumps(document))
    return file


def test_a_name_cannot_end_the_script(tmp_path):
    file, page = file_of_name(tmp_path, "</script><b>&"), tmp_path / "p.html"
    diagnosis_of(file, "--html", page)
    text, data = page_data(page)
    assert data["name"] == "</script><b>&"
    assert text.count("</script>") == 2


def test_half_a_character_in_a_name_is_a_question_mark(tmp_path):
    file, page = file_of_name(tmp_path, "half \ud800"), tmp_path / "p.html"
    command = [sys.executable, "-m", "ctcx", "diagnose", file, "--html", page]
    ran = subprocess.run(command, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "<title>ctcx diagnose: half ?" in page.read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("notbook",), "no fixture 'notbook'"),
        (("nowhere.json",), "nowhere.json: can't be read"),
        (("repeats", "--sequence", 3), "sequence is 3: expected 0 to 2"),
        (("repeats", "--frames", "7:99"), "'7:99' is no range of the 8 frames"),
        (("repeats", "--frames", "x"), "'x' is no range"),
        (("repeats", "--dtype", "int8"), "no dtype 'int8'"),
        (("repeats", "--against", "nowhere.json"), "nowhere.json: can't be read"),
        (("repeats", "--html", "/nowhere/p.html"), "no directory '/nowhere'"),
    ],
)
def test_wrong_arguments(arguments, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = diagnosis_of(*arguments)
    assert done.exit_code == 2
    assert expected in " ".join(done.output.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ([], "is of type list: expected an object"),
        ({}, "has none of softmax"),
        ({"loss": [1.0]}, "loss has the shape (1,): expected (3,)"),
        ({"loss": [1.0, 2.0, "x"]}, "loss[2] is 'x': expected a number"),
        ({"gradient": [[1.0]]}, "gradient has the shape (1, 1): expected (3, 8, 5)"),
        ({"format": "ctcx-fixtures", "fixtures": []}, "has no fixture 'repeats'"),
    ],
)
def test_a_malformed_answer_names_the_place(document, expected):
    with pytest.raises(ctcx.CTCInputError, match=re.escape(expected)):
        read_answer("their.json", document, named("repeats"))


def test_a_file_of_several_needs_a_name(tmp_path):
    file = tmp_path / "f.json"
    fixtures.save(fixtures.named("repeats", "ragged"), file)
    assert "has 2 fixtures: expected" in diagnosis_of(file).output
    assert "has no fixture 'x'" in diagnosis_of(f"{file}#x").output


# Figures


@pytest.fixture
def plot():
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    from ctcx import plot

    yield plot
    plt.close("all")


@pytest.mark.parametrize("name", ["repeats", "long", "infeasible", "empty-label"])
def test_figures_show_the_numbers(plot, name):
    fixture = named(name)
    occupancy = fixture.arrays["occupancy"][0][: fixture.arrays["logit_lengths"][0]]
    (image,) = plot.lattice(fixture).axes[0].images
    width = 2 * fixture.arrays["label_lengths"][0] + 1
    np.testing.assert_allclose(image.get_array(), occupancy[:, :width].T, atol=1e-12)
    (image,) = plot.gradient(fixture).axes[0].images
    frames = fixture.arrays["logit_lengths"][0]
    np.testing.assert_allclose(
        image.get_array(), fixture.arrays["gradient"][0, :frames].T, atol=1e-12
    )
    lines = plot.occupancy(fixture).axes[0].lines
    np.testing.assert_allclose(sum(line.get_ydata() for line in lines), 1.0, atol=1e-9)


def test_figures_go_where_they_are_put(plot):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2)
    assert plot.lattice(named("repeats"), 1, ax=axes[1]) is figure


def test_figures_refuse_what_they_cannot_show(plot, monkeypatch):
    with pytest.raises(ctcx.CTCInputError, match="sequence is 9: expected 0 to 2"):
        plot.lattice(named("repeats"), 9)
    with pytest.raises(ctcx.CTCInputError, match="has no frames to plot"):
        plot.gradient(named("ragged"), 4)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ctcx.CTCInputError, match=r'pip install "ctcx\[plot\]"'):
        plot.occupancy(named("repeats"))
