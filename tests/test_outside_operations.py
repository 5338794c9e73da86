"""`ctcx conformance --operation`: programs that align and decode, right ones and wrong ones."""

from __future__ import annotations

import itertools
import json
import math
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ctcx
from ctcx import conformance
from ctcx.conformance._external import (
    OPERATIONS,
    Asked,
    SaidBeam,
    ScoredLabels,
    beam_fault,
    judges,
    problem_id,
    problem_line,
    problems,
    problems_of,
)
from ctcx.conformance.oracle import enumerate_labels
from tests import porters, wrong_decoders
from tests.helpers import run_cli
from tests.test_outside import EXAMPLES, node

CHILD = [sys.executable, wrong_decoders.__file__]
# The program that looks at all paths is slow on what is long, and loses digits on what is certain.
LEFT_OUT = {"occupancies": {"long", "confident"}, "entropy": {"long", "confident"}}


def command(*arguments):
    return run_cli("conformance", *arguments)


def asked(operation):
    """Problems as a program gets them."""
    for fixture in problems_of(operation):
        if fixture.name not in LEFT_OUT.get(operation, ()):
            line = problem_line(fixture, operation)
            yield fixture, json.loads(line.replace('"-inf"', "-Infinity"))


def judged(operation, answer, dtype="float32"):
    """What is said of all answers, without a process between."""
    judge = judges([operation], dtype)[operation]
    said = [judge.judge(fixture, answer(problem)) for fixture, problem in asked(operation)]
    return said, judge.findings(None)


@pytest.mark.parametrize(
    ("function", "how"), wrong_decoders.RIGHT, ids=lambda one: getattr(one, "__name__", one)
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_right_programs_pass_whichever_of_equal_results_they_give(function, how, dtype):
    said, findings = judged(
        function.__name__, lambda problem: wrong_decoders.answer(problem, how), dtype
    )
    assert {status for status, _ in said} == {"passed"}, said
    assert findings == {}
    lacks_score = how == "no score"
    assert all(("no score" in message) == lacks_score for _, message in said)


@pytest.mark.parametrize(
    ("function", "how", "name"),
    [
        pytest.param(*key, name, id=f"{key[0].__name__}: {key[1]}")
        for key, name in wrong_decoders.NAMES.items()
    ],
)
def test_a_mistake_is_named_over_all_problems_or_said_to_be_unknown(function, how, name):
    said, findings = judged(function.__name__, lambda problem: wrong_decoders.answer(problem, how))
    assert "failed" in {status for status, _ in said}
    assert findings["mistakes"] == (() if name is None else (name,)), findings["verdict"]
    if name is None:
        assert findings["verdict"].startswith("unknown mistake: no known one gives these numbers")
    else:
        assert findings["verdict"] == f"{len(said)} of {len(said)} problems match {name}"
        assert findings["explanation"]


class Both(str):
    """Two mistakes, for a program that asks whether its mistake is one or the other."""

    __slots__ = ("parts",)

    def __new__(cls, *parts):
        both = super().__new__(cls, " and ".join(parts))
        both.parts = parts
        return both

    def __eq__(self, other):
        return other in self.parts

    def __ne__(self, other):
        return other not in self.parts

    def __hash__(self):
        return 0

    def startswith(self, prefix):
        return any(part.startswith(prefix) for part in self.parts)


@pytest.mark.slow
@pytest.mark.parametrize("function", wrong_decoders.OPERATIONS, ids=lambda one: one.__name__)
def test_a_program_with_two_mistakes_is_told_one_of_them_or_none(function):
    names = {how: name for (f, how), name in wrong_decoders.NAMES.items() if f is function}
    named = 0
    pairs = list(itertools.combinations(names, 2))
    for one, other in pairs[:: 1 + len(pairs) // 30]:
        both = Both(one, other)
        _, findings = judged(
            function.__name__, lambda problem, how=both: wrong_decoders.answer(problem, how)
        )
        assert set(findings.get("mistakes", ())) <= {names[one], names[other]}, (one, other)
        named += bool(findings.get("mistakes"))
    assert named


def test_every_mistake_is_one_that_a_program_makes():
    made = {(f.__name__, name) for (f, _), name in wrong_decoders.NAMES.items() if name}
    there = {(o.name, mistake.name) for o in OPERATIONS.values() for mistake, _ in o.mistakes}
    assert made == there


@pytest.mark.parametrize(
    ("operation", "change", "expected"),
    [
        ("align", {"states": [[0, 1]]}, "states has the length 1: expected"),
        ("align", {"states": 3}, "states is '3': expected a list"),
        ("align", {"states": None, "classes": None}, "neither 'states' nor 'classes'"),
        ("align", {"score": ["x"]}, "score[0] is 'x': expected a number"),
        ("align", {"score": [None, 1, 1]}, "write the strings 'inf', '-inf', 'nan'"),
        ("align", {"score": ["nan", 0, 0]}, "sequence 0: score: got nan, expected -16"),
        ("greedy", {"labels": [[1], [2], ["a"]]}, "labels[2][0] is 'a': expected an integer"),
        ("beam_search", {"log_probs": [[0.0]]}, "log_probs[0] has the length 1: expected 8"),
        ("guided_search", {"scores": [[0.0]] * 5}, "scores[0] has the length 1: expected 8"),
        ("guided_search", {"scores": None}, "the answer has no 'scores'"),
        ("entropy", {"entropy": [1.0]}, "entropy has the length 1: expected 3"),
        ("occupancies", {"classes": [[[0.0]]] * 3}, "classes has the shape (3, 1, 1): expected"),
    ],
)
def test_what_is_no_answer_is_told_where(operation, change, expected):
    fixture, problem = next(
        pair for pair in asked(operation) if pair[0].name in {"repeats", "small-0", "phrases"}
    )
    right = wrong_decoders.answer(problem, "")
    status, message = judges([operation], "float32")[operation].judge(fixture, right | change)
    assert status == "failed"
    assert expected in message


@pytest.mark.parametrize(
    ("operation", "change", "expected"),
    [
        ("align", {"states": [0, 0, 1, 3, 3, 4, 5, 7]}, "states: 3 at frame 3 can't follow 1"),
        ("align", {"states": [0, 1, 2, 3, 3, 4, 5, 5]}, "a path from 0 to 5 of 8 lacks labels"),
        (
            "align",
            {"states": [0, 1, 2, 3, 3, 4, 5, 9]},
            "states: got 9 at frame 7, expected 0 to 8",
        ),
        ("align", {"states": [0, 1]}, "states: there are 2, expected 8, one for a frame"),
        ("align", {"classes": [0, 1, 1, 1, 1, 2, 0, 2]}, "says the labels [1, 2, 2], expected [1,"),
        ("greedy", {"labels": [3, 3]}, "labels: got [3, 3], expected ["),
    ],
)
def test_a_wrong_path_says_what_is_wrong_with_it(operation, change, expected):
    fixture, problem = next(pair for pair in asked(operation) if pair[0].name == "repeats")
    document = wrong_decoders.answer(problem, "says classes" if "classes" in change else "")
    for name, row in change.items():
        document[name][0] = row
    _, message = judges([operation], "float32")[operation].judge(fixture, document)
    assert f"sequence 0: {expected}" in message or expected in message.splitlines()[1]


def test_problems_say_whether_the_best_result_is_the_only_one_and_lines_of_the_loss_stay():
    (notebook, *_) = problems()
    line = json.loads(problem_line(notebook, "align"))
    assert (line["protocol"], line["operation"], line["id"]) == (2, "align", "align:notebook")
    assert line["unique"] == [False]
    old = json.loads(problem_line(notebook))
    assert (old["protocol"], old["id"]) == (1, "notebook")
    assert "operation" not in old
    beam = json.loads(problem_line(problems_of("beam_search")[0], "beam_search"))
    assert (beam["width"], beam["top"]) == (256, 8)
    guided = json.loads(problem_line(problems_of("guided_search")[-1], "guided_search"))
    assert (guided["protocol"], guided["lm_weight"], guided["label_bonus"]) == (3, 0.5, 1.25)
    assert guided["phrases"] == [[0, 1, -1], [1, 2, -1], [1, 1, 0]]
    for fixture in (*problems_of("beam_search"), *problems_of("guided_search")):
        _, frames, classes, _ = fixture.shape
        prefixes = enumerate_labels(np.zeros((frames, classes)), fixture.blank)
        assert len(prefixes) <= beam["width"]


def test_the_right_results_of_a_beam_search_are_those_of_all_paths():
    for fixture in problems_of("beam_search"):
        for n in range(fixture.shape[0]):
            one = Asked(fixture, n)
            every = enumerate_labels(one.logits, fixture.blank)
            ranked = sorted(every.items(), key=lambda pair: -pair[1])
            right = SaidBeam([ScoredLabels(y, math.log(p), math.log(p)) for y, p in ranked[:8]])
            assert beam_fault(one, right, "float64") is None
            if len(ranked) > 1 and ranked[0][1] > ranked[1][1] * 1.01:
                turned = SaidBeam([right.results[1], right.results[0], *right.results[2:]])
                assert beam_fault(one, turned, "float64").startswith("result 0: got [")
            assert beam_fault(one, SaidBeam(right.results[1:]), "float64") is not None


def test_a_program_of_the_loss_is_not_asked_further_and_does_not_fail():
    child = [sys.executable, porters.__file__, "textbook", ""]
    report = conformance.run_command(
        child, operations=["all"], only=["repeats", "small-0", "guided"], time_limit=60
    )
    assert report.passed, report.summary()
    assert [(one.check, one.device) for one in report.results] == [("repeats", "-")]
    assert set(report.not_run) == set(OPERATIONS)
    assert all(why.startswith("not offered: ") for why in report.not_run.values())
    alone = conformance.run_command(child, operations=["align"], only=["repeats"], time_limit=60)
    assert not alone.passed
    assert alone.problems == ("no problem was answered",)


def test_the_command_names_mistakes_of_each_operation(tmp_path):
    words = shlex.join([*CHILD, "blank is last"])
    file = tmp_path / "report.json"
    names = ("repeats", "blank-last", "blank-first", "blank-middle")
    some = [part for name in names for part in ("--check", name)]
    asked_for = ("--operation", "align", "--operation", "greedy")
    place = ("--time-limit", 60, "--json", file, "--failures", tmp_path / "wrong ones")
    done = command("--command", words, *asked_for, *some, *place)
    assert done.exit_code == 1
    assert done.output.count("align:blank-first") == 1
    looks = re.findall(r"^look at it: (ctcx .*)$", done.stdout, re.MULTILINE)
    for operation, look in zip(("align", "greedy"), looks, strict=True):
        problem = Path(shlex.split(look)[2])
        assert problem.name.startswith(f"{operation}-")
        answer = json.loads(Path(str(problem).replace(".fixture.", ".answer.")).read_text())
        assert answer["id"].startswith(f"{operation}:")
        assert run_cli(*shlex.split(look)[1:]).exit_code == 0
    assert "align: 4 of 4 problems match blank-at-wrong-end" in done.stdout
    assert "greedy: 4 of 4 problems match blank-at-wrong-end" in done.stdout
    report = json.loads(file.read_text())
    assert report["provenance"] == "protocol 3"
    assert report["counts"] == {"passed": 2, "failed": 6}
    assert {one["device"] for one in report["results"]} == {"align", "greedy"}


def test_unsupported_operations_and_problems_are_told_apart(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import json, sys\n"
        f"sys.path.insert(0, {str(Path(wrong_decoders.__file__).parent)!r})\n"
        "import wrong_decoders\n"
        "for line in sys.stdin:\n"
        "    problem = json.loads(line)\n"
        "    answer = {'unsupported': 'no such thing'}\n"
        "    if problem['operation'] == 'greedy' and problem['blank'] == 0:\n"
        "        answer = wrong_decoders.answer(problem, '')\n"
        "    print(json.dumps({'id': problem['id']} | answer), flush=True)\n"
    )
    report = conformance.run_command(
        [sys.executable, str(program)],
        operations=["align", "greedy"],
        only=["repeats", "blank-last"],
        time_limit=60,
    )
    assert report.passed, report.summary()
    assert report.not_run == {"align": "not offered: the program doesn't support it: no such thing"}
    assert [(one.check, one.status) for one in report.results] == [
        ("repeats", "passed"),
        ("blank-last", "skipped"),
    ]


def test_operations_by_files(tmp_path):
    operations = ("align", "beam_search", "greedy")
    folder = tmp_path / "suite"
    done = command("--export", folder, *(x for name in operations for x in ("--operation", name)))
    assert done.exit_code == 0
    with (folder / "problems.ndjson").open() as given, (folder / "answers.ndjson").open("w") as out:
        subprocess.run([*CHILD, ""], stdin=given, stdout=out, check=True)
    report = conformance.check_answers(folder)
    assert report.passed, report.summary()
    assert report.counts["passed"] == sum(len(problems_of(name)) for name in operations)
    names = [one.name for one in ctcx.fixtures.read_fixtures(folder / "fixtures.json")]
    assert names == [one.name for one in problems_of("greedy")]
    lines = (folder / "answers.ndjson").read_text().splitlines()
    kept = [line for line in lines if '"align:' not in line and "greedy:repeats" not in line]
    (folder / "answers.ndjson").write_text("\n".join(kept))
    report = conformance.check_answers(folder)
    assert report.not_run == {"align": "not offered: answers.ndjson has no answer for it"}
    assert [one.check for one in report.results if one.bad] == ["repeats"]


@pytest.mark.slow
def test_the_javascript_example_decodes_greedily_and_says_what_it_lacks():
    report = conformance.run_command(
        node(EXAMPLES / "node" / "plain.mjs"), operations=["all"], dtype="float64"
    )
    assert report.passed, report.summary()
    assert {one.device for one in report.results} == {"-", "greedy"}
    assert report.not_run["align"].endswith("doesn't support it: there is no align here")


def test_the_guided_search_without_any_package_passes():
    report = conformance.run_command(
        [sys.executable, str(EXAMPLES / "guided_search.py")],
        operations=["guided_search"],
        dtype="float64",
        time_limit=60,
    )
    assert report.passed, report.summary()
    assert report.counts == {"passed": 5}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("--command", "true", "--operation", "viterbi"),
            "no operation 'viterbi': expected one of",
        ),
        (("--export", "x", "--operation", "x"), "no operation 'x': expected one of loss, align"),
        (("array-api", "--operation", "align"), "only --command and --export have operations"),
        (
            ("--command", "true", "--operation", "beam_search", "--check", "repeats"),
            "no problem 'repeats': expected one of small-0,",
        ),
    ],
)
def test_wrong_arguments(arguments, expected):
    done = command(*arguments)
    assert done.exit_code == 2, done.output
    assert re.sub(r"\W+", "", expected) in re.sub(r"\W+", "", done.output)


def test_ids_are_those_of_one_problem_each():
    every = [problem_id(one, name) for name in ("loss", *OPERATIONS) for one in problems_of(name)]
    assert len(set(every)) == len(every)
