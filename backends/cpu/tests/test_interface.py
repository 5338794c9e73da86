"""The C interface: a header that any compiler takes, and a library that any program can use."""

import ctypes
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import ctcx_cpu
import numpy as np
import pytest
from ctcx_cpu import _native

import ctcx

compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@compiler
@pytest.mark.parametrize("standard", ["c11", "c17"])
def test_the_header_compiles_as_c(tmp_path, standard):
    source = tmp_path / "header.c"
    source.write_text('#include "ctcx_cpu.h"\nint main(void) { return 0; }\n')
    command = ["cc", f"-std={standard}", "-Wall", "-Wextra", "-pedantic", "-Werror"]
    command += ["-I", ctcx_cpu.include_dir(), "-c", source, "-o", tmp_path / "header.o"]
    subprocess.run(command, check=True)


@pytest.mark.skipif(shutil.which("nm") is None, reason="there is no nm")
def test_the_library_has_its_own_symbols_only():
    command = ["nm", "--dynamic", "--defined-only", ctcx_cpu.library_path()]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = {line.split()[-1] for line in listed.splitlines()}
    assert names
    assert all(name.startswith("ctcx_cpu_") for name in names), names
    undefined = ["nm", "--dynamic", "--undefined-only", ctcx_cpu.library_path()]
    needed = subprocess.run(undefined, capture_output=True, text=True, check=True).stdout
    assert "Py" not in needed


def test_a_batch_of_another_version_is_refused():
    library = ctypes.CDLL(str(ctcx_cpu.library_path()))
    library.ctcx_cpu_check.restype = ctypes.c_char_p
    assert b"NULL" in library.ctcx_cpu_check(None)
    empty = ctypes.create_string_buffer(4096)
    assert b"another version" in library.ctcx_cpu_check(empty)
    assert library.ctcx_cpu_compute(empty) == 1
    library.ctcx_cpu_version.restype = ctypes.c_char_p
    assert library.ctcx_cpu_version() == b"1.5"


SOURCE = Path(__file__).parent.parent
PROGRAM = """
#include <stdio.h>
#include "ctcx_cpu.h"
int main(void) {
  float logits[6] = {0, 0, 0, 0, 0, 0}, loss = 0;
  int32_t label = 1, frames = 2, count = 1;
  struct ctcx_cpu_batch batch = {.size = sizeof batch, .major = CTCX_CPU_MAJOR};
  batch.type = CTCX_CPU_FLOAT32;
  batch.sequences = batch.label_positions = 1, batch.frames = 2, batch.classes = 3;
  batch.logits = logits, batch.logits_sequence_stride = 6, batch.logits_frame_stride = 3;
  batch.labels = (struct ctcx_cpu_integers){&label, 4, 0, 1, 1};
  batch.logit_lengths = (struct ctcx_cpu_integers){&frames, 4, 0, 1, 0};
  batch.label_lengths = (struct ctcx_cpu_integers){&count, 4, 0, 1, 0};
  batch.losses = &loss;
  LATER
  const char *wrong = ctcx_cpu_check(&batch);
  int status = ctcx_cpu_compute(&batch);
  printf("%d %.5f %s", status, loss, wrong ? wrong : "");
  return 0;
}
"""


def run_program(folder, headers, library, later=""):
    """Compile a program that computes -log(3 / 9), and return what it prints."""
    (folder / "program.c").write_text(PROGRAM.replace("LATER", later))
    command = ["cc", "-std=c11", folder / "program.c", "-I", headers, "-L", library, "-lctcx_cpu"]
    subprocess.run([*command, f"-Wl,-rpath,{library}", "-o", folder / "program"], check=True)
    return subprocess.run([folder / "program"], capture_output=True, text=True, check=True).stdout


@compiler
@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
@pytest.mark.skipif(sys.platform == "win32", reason="the commands are those of Unix")
def test_minor_versions_take_each_others_batches(tmp_path):
    """Version 1.0 lacks the last fields, and the next minor version may append another one."""
    here, later, first = ctcx_cpu.library_path().parent, tmp_path / "later", tmp_path / "first"
    later.mkdir(), first.mkdir()
    header = (Path(ctcx_cpu.include_dir()) / "ctcx_cpu.h").read_text()
    shortened = re.sub(r"(?ms)  /\* Since 1\.1, for .*?^};", "};", header)
    assert "extra_columns" not in shortened
    (first / "ctcx_cpu.h").write_text(shortened)
    assert run_program(tmp_path, first, here) == "0 1.09861 "
    changed = re.sub(r"(  const void \*gradient_weights;\n)", r"\1  int64_t more;\n", header)
    assert changed != header
    (later / "ctcx_cpu.h").write_text(changed)
    assert run_program(tmp_path, later, here) == "0 1.09861 "
    told = run_program(tmp_path, later, here, "batch.more = 1;")
    assert told == "1 0.00000 the batch has a field that this version doesn't know"

    sources = {*(SOURCE / "src").glob("*.cpp")} - {SOURCE / "src" / "xla.cpp"}
    options = ["-std=c++20", "-O0", "-w", "-fPIC", "-shared", "-pthread", "-I", later]
    options += ["-DCTCX_CPU_VARIANT=baseline"]
    subprocess.run(["c++", *options, *sources, "-o", later / "libctcx_cpu.so"], check=True)
    assert run_program(tmp_path, ctcx_cpu.include_dir(), later) == "0 1.09861 "
    assert run_program(tmp_path, later, later, "batch.more = 1;") == "0 1.09861 "
    too_small = "batch.size = offsetof(struct ctcx_cpu_batch, context);"
    told = run_program(tmp_path, later, later, too_small)
    assert told == "1 0.00000 the batch is of another version of this interface"


@pytest.mark.parametrize("instructions", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_of_this_processor(instructions):
    code = """
import numpy as np
import ctcx_cpu
import ctcx
from ctcx.conformance.oracle import reference
info = ctcx_cpu.ctcx_runtime_info()
print(info.get("ctcx-cpu instructions") or exit(info["ctcx-cpu can't be used"]))
rng = np.random.default_rng(0)
for n, t, c, s, scale in (3, 40, 5, 12, 2), (2, 200, 70, 60, 30), (1, 300, 700, 20, 100):
    for offset in 0, 1e4:
        x = (rng.standard_normal((n, t, c)) * scale + offset).astype("float32")
        y = rng.integers(1, c, (n, s))
        got = ctcx.ctc_loss_and_grad(x, y, backend="cpu")
        right = reference(x, y, np.full(n, t), np.full(n, s), 0)
        np.testing.assert_allclose(got.loss, right.loss, rtol=1e-6, atol=1e-7 * t)
        np.testing.assert_allclose(got.grad, right.grad, atol=5e-6)
        found, best = (
            ctcx.ctc_occupancies(x, y, states=True, backend=name) for name in ("cpu", "array-api")
        )
        np.testing.assert_allclose(found.states, best.states, atol=5e-6)
        uniforms = rng.random((n, 1, t))
        found, best = (
            ctcx.ctc_sample_paths(x, y, uniforms, backend=name) for name in ("cpu", "array-api")
        )
        assert (found != best).mean() < 0.01
        found = ctcx.ctc_align(x, y, backend="cpu")
        best = ctcx.ctc_align(x, y, backend="array-api")
        np.testing.assert_array_equal(found.states, best.states)
        np.testing.assert_allclose(found.score, best.score, rtol=1e-6, atol=1e-7 * t)
        found, best = (ctcx.ctc_greedy(x, backend=name) for name in ("cpu", "array-api"))
        np.testing.assert_array_equal(found.labels, best.labels)
        np.testing.assert_allclose(found.score, best.score, rtol=1e-6, atol=1e-7 * t)
        found, best = (
            ctcx.ctc_beam_search(np.float64(x), width=9, exact_scores=False, backend=name)
            for name in ("cpu", "array-api")
        )
        np.testing.assert_array_equal(found.labels, best.labels)
        np.testing.assert_allclose(found.log_probs, best.log_probs, rtol=1e-11, atol=1e-11)
"""
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"CTCX_CPU_INSTRUCTIONS": instructions},
        capture_output=True,
        text=True,
        check=False,
    )
    if f"this processor has no {instructions}" in run.stderr:
        pytest.skip(f"this processor has no {instructions}")
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == instructions


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("AVX2", "is 'AVX2', expected one of baseline, avx2, avx512, neon"),
        pytest.param(
            "neon",
            "this processor has no neon; ",
            marks=pytest.mark.skipif(platform.machine() in {"aarch64", "arm64"}, reason="it has"),
        ),
    ],
)
def test_an_instruction_set_that_is_not_there_is_told(asked, told):
    code = """
import warnings
import numpy as np, ctcx
x, y = np.zeros((1, 5, 3), "f4"), [[1]]
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    ctcx.ctc_loss(x, y), ctcx.ctc_loss(x, y)
print([str(one.message) for one in told])
try:
    ctcx.ctc_loss(x, y, backend="cpu")
except ctcx.BackendError as error:
    print(error)
ctcx.show_versions()
"""
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"CTCX_CPU_INSTRUCTIONS": asked, "CTCX_STRICT_PLUGINS": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert [told in line for line in lines[:2]] == [True, True], run.stdout
    assert told in " ".join(" ".join(lines[2:]).split())

    code = """
import ctcx, ctcx_cpu
try:
    ctcx_cpu.check_instructions()
except ctcx.CTCInputError as error:
    print(error.argument, error.value, error)
"""
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"CTCX_CPU_INSTRUCTIONS": asked},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.startswith(f"CTCX_CPU_INSTRUCTIONS {asked} the environment variable")
    assert told in run.stdout


def test_what_arrays_do_not_fit_is_an_error():
    x, y, lengths = np.zeros((2, 5, 4), np.float32), np.ones((2, 2), np.int64), np.full(2, 3)
    losses, grad = np.empty(2, np.float32), np.empty_like(x)
    weights = np.ones(2, np.float32)
    right = [x, y, lengths, lengths, losses, grad, weights, 2, 0, 1]
    _native.compute(*right)
    for place, wrong in (
        (0, x[0]),
        (0, x.transpose(0, 2, 1)),
        (0, x.astype(np.float64)),
        (1, y[:1]),
        (1, y.astype(np.int16)),
        (1, np.empty((2, 2), "V0")),
        (2, lengths[:1]),
        (4, losses[:1]),
        (4, np.empty(2, np.float64)),
        (5, grad[:, :4]),
        (6, weights[:1]),
        (6, np.ones(4, np.float32)[::2]),
        (6, weights.astype(np.float64)),
        (7, 4),
        (8, 4),
        (8, -1),
        (9, -1),
    ):
        arguments = list(right)
        arguments[place] = wrong
        with pytest.raises(ValueError, match=r"\w"):
            _native.compute(*arguments)
    read_only = losses.copy()
    read_only.flags.writeable = False
    with pytest.raises((BufferError, ValueError)):
        _native.compute(x, y, lengths, lengths, read_only, grad, None, 2, 0, 1)


def test_what_arrays_do_not_fit_occupancies_is_an_error():
    x, y, lengths = np.zeros((2, 5, 4), np.float32), np.ones((2, 2), np.int64), np.full(2, 3)
    losses, classes, states = (np.empty(s, np.float32) for s in ((2,), (2, 5, 4), (2, 5, 5)))
    right = [x, y, lengths, lengths, losses, classes, states, 2, 0, 1]
    _native.occupancies(*right)
    for place, wrong in (
        (0, x[0]),
        (1, y[:1]),
        (1, y[:, :1]),
        (4, losses[:1]),
        (4, losses.astype(np.float64)),
        (5, classes[:, :4]),
        (5, classes.transpose(0, 2, 1)),
        (5, classes.astype(np.float64)),
        (6, states[:, :, :4]),
        (6, np.empty((5, 5, 2), np.float32).T),
        (6, states.astype(np.float64)),
        (7, 4),
        (8, 4),
        (9, -1),
    ):
        arguments = list(right)
        arguments[place] = wrong
        with pytest.raises(ValueError, match=r"\w"):
            _native.occupancies(*arguments)
    with pytest.raises(TypeError, match="classes must not be None"):
        _native.occupancies(x, y, lengths, lengths, losses, None, states, 2, 0, 1)


def test_what_arrays_do_not_fit_sampled_paths_is_an_error():
    x, y, lengths = np.zeros((2, 5, 4), np.float32), np.ones((2, 2), np.int64), np.full(2, 3)
    uniforms, states = np.zeros((2, 6, 5), np.float32), np.empty((2, 6, 5), np.int32)
    right = [x, y, lengths, lengths, uniforms, states, 2, 0, 1]
    _native.sample_paths(*right)
    for place, wrong in (
        (0, x[0]),
        (1, y[:1]),
        (4, uniforms[:1]),
        (4, uniforms[:, :, :4]),
        (4, uniforms[:, ::2]),
        (4, uniforms.astype(np.float16)),
        (5, states[:, :5]),
        (5, states.astype(np.int64)),
        (5, np.empty((5, 6, 2), np.int32).T),
        (6, 4),
        (7, 4),
        (8, -1),
    ):
        arguments = list(right)
        arguments[place] = wrong
        with pytest.raises(ValueError, match=r"\w"):
            _native.sample_paths(*arguments)


def test_what_arrays_do_not_fit_an_alignment_is_an_error():
    x, y, lengths = np.zeros((2, 5, 4), np.float32), np.ones((2, 2), np.int64), np.full(2, 3)
    extra, states = np.zeros((2, 5, 1), np.float32), np.empty((2, 5), np.int32)
    log_probs = np.empty((2, 5), np.float32)
    right = [x, y, lengths, lengths, extra, states, log_probs, 2, 0, 4, 0, 1]
    _native.align(*right)
    assert states.tolist() == [[-1] * 5] * 2  # "1 1 ?" and lengths of 3: out of range
    for place, wrong in (
        (0, x.transpose(0, 2, 1)),
        (1, y[:1]),
        (4, extra[:, :4]),
        (4, extra.astype(np.float64)),
        (5, states[:1]),
        (5, states.astype(np.int64)),
        (5, np.empty((5, 2), np.int32).T),
        (6, log_probs[:, :4]),
        (6, log_probs.astype(np.float64)),
        (7, 4),
        (8, 4),
        (9, 5),
        (10, -1),
        (11, -1),
    ):
        arguments = list(right)
        arguments[place] = wrong
        with pytest.raises(ValueError, match=r"\w"):
            _native.align(*arguments)
    with pytest.raises(TypeError, match="states must not be None"):
        _native.align(x, y, lengths, lengths, None, None, log_probs, 2, 0, 0, 0, 1)


def test_what_arrays_do_not_fit_decoding_is_an_error():
    x, lengths, classes = np.zeros((2, 5, 4), np.float32), np.full(2, 3), np.empty((2, 5), np.int32)
    log_probs, labels = np.empty((2, 5), np.float32), np.empty((2, 3, 5), np.int32)
    greedy = [x, lengths, classes, log_probs, 2, 0, 1]
    beam_search = [x, lengths, labels, np.empty((2, 3), np.float32), 2, 0, 8, 3, 0, 1]
    wrong_arrays = [
        (0, x.transpose(0, 2, 1)),
        (0, x[0]),
        (1, lengths[:1]),
        (1, lengths.astype(np.int16)),
        (2, labels[:1]),
        (2, labels[:, :, :4]),
        (2, labels[:, :2]),
        (2, classes[:1]),
        (2, classes.astype(np.int64)),
        (2, labels.astype(np.int64)),
        (2, np.empty((5, 2), np.int32).T),
        (3, log_probs[:, :4]),
        (3, log_probs.astype(np.float64)),
        (3, np.empty((2, 3))),
        (4, 4),
        (5, 4),
        (5, -1),
    ]
    for function, right, wrong_numbers in (
        (_native.greedy, greedy, [(6, -1)]),
        (_native.beam_search, beam_search, [(6, 0), (6, 2), (7, 0), (8, -1), (9, -1)]),
    ):
        function(*right)
        for place, wrong in wrong_arrays + wrong_numbers:
            arguments = list(right)
            arguments[place] = wrong
            with pytest.raises(ValueError, match=r"\w"):
                function(*arguments)
        with pytest.raises(TypeError, match="decoded must not be None"):
            function(*right[:2], None, *right[3:])
        with pytest.raises(TypeError, match="takes"):
            function(*right, 1)
    assert classes.tolist() == [[0, 0, 0, -1, -1]] * 2


def phrases(labels=(1, 2, 3), lengths=(2, 1), weights=(1.0, -2.0)):
    return _native.phrases(np.array(labels, np.int32), np.array(lengths), np.array(weights))


WORDS = b"<s></s><unk>ab", np.array([3, 7, 12, 13, 14])
TOKENS = b"_abc", np.array([1, 2, 3, 4])
SIZES = np.array([1, 1, 1, 1, 1, 2], np.int32)
GRAMS = np.array([0, 1, 2, 3, 4, 0, 3], np.int32)


def ngrams(
    words=WORDS,
    tokens=TOKENS,
    sizes=SIZES,
    grams=GRAMS,
    log_probs=(-1.0,) * 6,
    separator=-1,
    order=2,
):
    numbers = np.array(log_probs), np.zeros(len(log_probs))
    return _native.ngrams(*words, *tokens, sizes, grams, *numbers, separator, order)


def test_what_is_no_phrase_and_no_model_is_an_error():
    phrases(), phrases((), (), ()), ngrams(), ngrams(separator=0)
    wrong_phrases = [
        {"labels": (1, 2)},
        {"labels": (1, 2, 3, 1)},
        {"labels": (1, 2, -1)},
        {"labels": (1, 2, 2**31 - 1)},
        {"lengths": (3, 0)},
        {"lengths": (4, -1)},
        {"lengths": (2**62, 2**62)},
        {"lengths": (3,)},
        {"weights": (1.0, np.nan)},
        {"weights": (1.0, np.inf)},
        {"weights": (1, 2)[:1]},
        {"weights": np.float32([1, 2])},
    ]
    wrong_ngrams = [
        {"words": (WORDS[0], WORDS[1][:-1])},  # a gram has the last one
        {"words": (WORDS[0], np.array([3, 7, 12, 14, 13]))},
        {"words": (WORDS[0], np.array([3, 7, 12, 13, 99]))},
        {"words": (WORDS[0], np.array([-3, 7, 12, 13, 14]))},
        {"words": (WORDS[0].replace(b"<s>", b"<x>"), WORDS[1])},
        {"words": (WORDS[0].replace(b"b", b"a"), WORDS[1])},  # twice
        {"tokens": (b"", np.zeros(0, np.int64))},
        {"tokens": (b"", np.array([1, 2, 3, 4]))},
        {"sizes": SIZES[:-1]},
        {"sizes": np.array([1, 1, 1, 1, 0, 3], np.int32)},
        {"sizes": np.array([1, 1, 1, 1, 4, -1], np.int32)},
        {"sizes": SIZES.astype(np.int64)},
        {"grams": np.array([0, 1, 2, 3, 5, 0, 3], np.int32)},
        {"grams": np.array([0, 1, 2, 3, -1, 0, 3], np.int32)},
        {"grams": np.array([0, 1, 2, 3, 3, 0, 3], np.int32)},  # "b" has none of its own
        {"log_probs": (-1.0,) * 5},
        {"log_probs": (np.nan,) * 6},
        {"order": 1},
        {"order": 0},
        {"separator": 4},
        {"separator": -2},
    ]
    for function, wrong in (phrases, wrong_phrases), (ngrams, wrong_ngrams):
        for arguments in wrong:
            with pytest.raises(ValueError, match=r"\w"):
                function(**arguments)


def test_what_does_not_fit_a_guided_search_is_an_error():
    x, lengths = np.zeros((2, 5, 4), np.float32), np.full(2, 3)
    entries, numbers = np.full((2, 3, 1), -1, np.int32), np.full((3, 2, 3), -np.inf)
    numbers[0, :, 0] = numbers[2] = 0
    labels, found = np.empty((2, 3, 6), np.int32), np.empty((4, 2, 3))
    right = [x, lengths, entries, numbers, labels, found, 2, 0, 0, phrases(), ngrams(), 0.5, 0.1, 1]
    _native.guided_search(*right)
    assert np.isfinite(found[1]).all()  # three frames, and three labels that can be said
    for place, wrong in (
        (0, x.transpose(0, 2, 1)),
        (1, lengths[:1]),
        (2, entries[:, :2]),
        (2, entries[:, :0]),
        (2, entries.astype(np.int64)),
        (3, numbers[:2]),
        (3, numbers.astype(np.float32)),
        (4, labels[:, :, :5]),
        (4, np.empty((6, 3, 2), np.int32).T),
        (5, found[:3]),
        (6, 4),
        (7, 4),
        (8, -1),
        (9, phrases((1, 2, 4))),  # of four classes
        (9, right[10]),
        (10, ngrams(tokens=(b"_ab", np.array([1, 2, 3])))),
        (10, right[9]),
        (11, -0.5),
        (11, np.nan),
        (12, np.inf),
        (13, -1),
    ):
        arguments = list(right)
        arguments[place] = wrong
        with pytest.raises(ValueError, match=r"\w"):
            _native.guided_search(*arguments)
    # Entries that can't be spoil their own sequence.
    for place, index, wrong in (
        (3, (0, 0, 0), np.nan),
        (3, (1, 0, 0), 2.0),
        (3, (2, 0, 0), np.inf),
        (2, (0, 0, 0), 4),
        (2, (0, 0, 0), -2),
        (2, (0, 0, 0), 0),
        (3, (1, 0, 1), -1.0),  # the same prefix twice
        (3, (1, 0, 2), -1.0),  # after a place that is free
    ):
        arguments = list(right)
        arguments[place] = right[place].copy()
        arguments[place][index] = wrong
        found[...] = 0
        _native.guided_search(*arguments)
        assert (labels[0] == -1).all(), (place, index, wrong)
        assert np.isnan(found[:, 0]).all()
        assert np.isfinite(found[1, 1]).all()
    # Of an overflow there is no result, and no harm.
    arguments = list(right)
    arguments[9] = phrases(weights=(1e308, -1e308))
    arguments[12] = 1e308
    _native.guided_search(*arguments)


DECODING = """
#include <math.h>
#include <stdio.h>
#include "ctcx_cpu.h"
int main(void) {
  /* The best path is "blank blank", the best labels are "1". */
  const double probabilities[2][3] = {{.5, .4, .1}, {.5, .4, .1}};
  double logits[2][3], class_log_probs[2], log_probs[2];
  int64_t frames = 2;
  int32_t classes[2], labels[2][2];
  for (int t = 0; t < 2; t++)
    for (int c = 0; c < 3; c++) logits[t][c] = log(probabilities[t][c]) + t;
  struct ctcx_cpu_batch batch = {.size = sizeof batch, .major = CTCX_CPU_MAJOR};
  batch.type = CTCX_CPU_FLOAT64;
  batch.sequences = 1, batch.frames = 2, batch.classes = 3;
  batch.logits = logits, batch.logits_frame_stride = 3;
  batch.logit_lengths = (struct ctcx_cpu_integers){&frames, 8, 0, 1, 0};
  printf("%s\\n", ctcx_cpu_check_greedy(&batch));
  batch.decoded = classes, batch.decoded_log_probs = class_log_probs;
  if (ctcx_cpu_greedy(&batch)) return 1;
  for (int t = 0; t < 2; t++) printf("%d %.2f\\n", classes[t], exp(class_log_probs[t]));
  printf("%s\\n", ctcx_cpu_check_beam_search(&batch));
  batch.width = 4, batch.top = 2;
  batch.decoded = labels[0], batch.decoded_log_probs = log_probs;
  if (ctcx_cpu_beam_search(&batch)) return 1;
  for (int i = 0; i < 2; i++)
    printf("%d %d %.2f\\n", labels[i][0], labels[i][1], exp(log_probs[i]));
  return 0;
}
"""


@compiler
def test_decoding_from_c(tmp_path):
    lines = compiled(tmp_path, DECODING)
    assert lines[0] == "decoded or decoded_log_probs are NULL"
    assert lines[1:3] == ["0 0.50", "0 0.50"]
    assert lines[3] == "width must be from 1 to 2^31 - 1"
    assert lines[4:] == ["1 -1 0.56", "-1 -1 0.25"]


GUIDED = """
#include <math.h>
#include <stdio.h>
#include "ctcx_cpu.h"
int main(void) {
  /* "2" is half as probable as "1", but prefers itself. Each frame is a chunk of its own. */
  const double logits[2][3] = {{log(.5), log(.3), log(.2)}, {log(.5), log(.3), log(.2)}};
  const int32_t phrase[] = {2, 1}, sizes[] = {1, 1, 1, 1}, grams[] = {0, 1, 2, 3};
  const int64_t phrase_lengths[] = {1, 1}, ends[] = {3, 7, 12, 13}, tokens_end[] = {1, 2, 3};
  const double weights[] = {1, -1}, log_probs[] = {-99, -1, -2, -3}, back_offs[] = {0, 0, 0, 0};
  const struct ctcx_cpu_strings words = {"<s></s><unk>a", ends, 4}, tokens = {"_ab", tokens_end, 3};
  const int64_t frames = 1;
  int32_t labels[2][3 * 2];
  double numbers[2][4][3];
  struct ctcx_cpu_batch batch = {.size = sizeof batch, .major = CTCX_CPU_MAJOR};
  batch.type = CTCX_CPU_FLOAT64;
  batch.sequences = 1, batch.frames = 1, batch.classes = 3;
  batch.logits_frame_stride = 3;
  batch.logit_lengths = (struct ctcx_cpu_integers){&frames, 8, 0, 1, 0};
  batch.logits = logits;
  printf("%s\\n", ctcx_cpu_check_guided_search(&batch));
  batch.width = 3;
  printf("%s\\n", ctcx_cpu_check_guided_search(&batch));
  batch.phrases = ctcx_cpu_phrases_new(phrase, phrase_lengths, weights, 2);
  batch.ngrams = ctcx_cpu_ngrams_new(&words, &tokens, -1, 1, sizes, grams, log_probs, back_offs, 4);
  if (!batch.phrases || !batch.ngrams) return 1;
  const struct ctcx_cpu_strings no_text = {NULL, ends, 4}, no_ends = {"_ab", NULL, 3};
#define LACK(place, array) (i == place ? NULL : (array)) /* each in turn is missing */
  for (int i = 0; i < 3; i++)
    if (ctcx_cpu_phrases_new(LACK(0, phrase), LACK(1, phrase_lengths), LACK(2, weights), 2))
      return 3;
  for (int i = 0; i < 6; i++)
    if (ctcx_cpu_ngrams_new(LACK(0, &words), LACK(1, &tokens), -1, 1, LACK(2, sizes),
                            LACK(3, grams), LACK(4, log_probs), LACK(5, back_offs), 4))
      return 4;
  if (ctcx_cpu_ngrams_new(&no_text, &tokens, -1, 1, sizes, grams, log_probs, back_offs, 4) ||
      ctcx_cpu_ngrams_new(&words, &no_ends, -1, 1, sizes, grams, log_probs, back_offs, 4))
    return 4;
  batch.ngrams_weight = 0.25;
  for (int t = 0; t < 2; t++) {
    batch.logits = logits[t];
    batch.decoded = labels[t], batch.result_numbers = numbers[t][0];
    if (ctcx_cpu_guided_search(&batch)) return 2;
    batch.entry_labels = labels[t], batch.entry_positions = t + 1;
    batch.entry_numbers = numbers[t][0];
  }
  for (int i = 0; i < 3; i++) {
    const double log_prob = log(exp(numbers[1][0][i]) + exp(numbers[1][1][i]));
    printf("%d %d %.2f %.2f %.2f\\n", labels[1][2 * i], labels[1][2 * i + 1], exp(log_prob),
           numbers[1][2][i], numbers[1][3][i]);
  }
  ctcx_cpu_phrases_free((struct ctcx_cpu_phrases *)batch.phrases);
  ctcx_cpu_ngrams_free((struct ctcx_cpu_ngrams *)batch.ngrams);
  ctcx_cpu_phrases_free(NULL), ctcx_cpu_ngrams_free(NULL);
  return 0;
}
"""


@compiler
def test_a_guided_search_in_chunks_from_c(tmp_path):
    lines = compiled(tmp_path, GUIDED)
    assert lines[:2] == ["width must be from 1 to 2^31 - 1", "result_numbers are NULL"]
    # "2" adds 1 - 2 / 4, "1" -1 - 3 / 4, and the end -1 / 4.
    assert lines[2:] == ["2 -1 0.24 0.50 0.25", "-1 -1 0.25 0.00 -0.25", "1 -1 0.39 -1.75 -2.00"]


def compiled(tmp_path, program):
    """Compile a program with the library; return the lines that it prints."""
    (tmp_path / "program.c").write_text(program)
    folder = ctcx_cpu.library_path().parent
    command = ["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", tmp_path / "program.c", "-lm"]
    command += ["-I", ctcx_cpu.include_dir(), "-L", folder, "-lctcx_cpu", f"-Wl,-rpath,{folder}"]
    subprocess.run([*command, "-o", tmp_path / "program"], check=True)
    run = subprocess.run([tmp_path / "program"], capture_output=True, text=True, check=True)
    return run.stdout.splitlines()


@compiler
def test_results_in_place_of_the_logits_are_refused(tmp_path):
    folder, headers = ctcx_cpu.library_path().parent, ctcx_cpu.include_dir()
    gradient = "batch.gradient = logits, batch.gradient_frame_stride = 3;"
    told = run_program(tmp_path, headers, folder, gradient)
    assert told == "1 0.00000 gradient must not be the logits' memory"
    occupancies = "batch.class_occupancies = logits; puts(ctcx_cpu_check_occupancies(&batch));"
    told = run_program(tmp_path, headers, folder, occupancies)
    assert told.startswith("class_occupancies must not be the logits' memory\n")


@pytest.mark.skipif(sys.platform == "win32", reason="the functions are those of Unix")
def test_the_library_stays_loaded_for_its_threads():
    code = f"""
import _ctypes, ctypes, os
path = {str(ctcx_cpu.library_path())!r}
_ctypes.dlclose(ctypes.CDLL(path)._handle)
ctypes.CDLL(path, mode=os.RTLD_NOW | os.RTLD_NOLOAD)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# One frame of memory stands for all. Its size in bytes, times the frames of half a sequence, with
# what else they need, is 2^64.
TOO_LARGE = """
#include <stdio.h>
#include <stdlib.h>
#include "ctcx_cpu.h"
int main(void) {
  const int64_t classes = (1 << 24) - 6, frames = (int64_t)1 << 39, none = 0;
  float loss;
  struct ctcx_cpu_batch batch = {.size = sizeof batch, .major = CTCX_CPU_MAJOR};
  batch.type = CTCX_CPU_FLOAT16;
  batch.sequences = 1, batch.frames = frames, batch.classes = classes;
  batch.logits = calloc(classes, 2), batch.gradient = calloc(classes, 2), batch.losses = &loss;
  batch.labels = (struct ctcx_cpu_integers){&none, 8, 0, 0, 0};
  batch.logit_lengths = (struct ctcx_cpu_integers){&frames, 8, 0, 0, 0};
  batch.label_lengths = (struct ctcx_cpu_integers){&none, 8, 0, 0, 0};
  printf("%d %d\\n", ctcx_cpu_check(&batch) == NULL, ctcx_cpu_compute(&batch));
  return 0;
}
"""


@compiler
def test_scratch_memory_of_more_bytes_than_can_be_counted(tmp_path):
    assert compiled(tmp_path, TOO_LARGE) == ["1 2"]  # no memory


# A batch of many sequences, all of which are the same memory.
MANY = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <malloc.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
#include "ctcx_cpu.h"
enum { SEQUENCES = 200000, FRAMES = 9, CLASSES = 40 };
static float logits[FRAMES * CLASSES], losses[SEQUENCES];
static const int32_t label = 1, frames = FRAMES, count = 1;
static struct ctcx_cpu_batch many(int64_t sequences, int32_t threads) {
  struct ctcx_cpu_batch batch = {.size = sizeof batch, .major = CTCX_CPU_MAJOR};
  batch.type = CTCX_CPU_FLOAT32;
  batch.sequences = sequences, batch.frames = FRAMES, batch.classes = CLASSES;
  batch.logits = logits, batch.logits_frame_stride = CLASSES;
  batch.label_positions = 1, batch.labels = (struct ctcx_cpu_integers){&label, 4, 0, 0, 1};
  batch.logit_lengths = (struct ctcx_cpu_integers){&frames, 4, 0, 0, 0};
  batch.label_lengths = (struct ctcx_cpu_integers){&count, 4, 0, 0, 0};
  batch.losses = losses, batch.threads = threads;
  return batch;
}
"""

ENDED = """
static int end(void *context) {
  END;
  return context != NULL;
}
static void *call(void *batch) {
  ctcx_cpu_compute(batch);
  pthread_testcancel();
  return batch;
}
int main(void) {
  void *ended = ENDED;
  pthread_t thread;
  void *result;
  struct ctcx_cpu_batch batch = many(SEQUENCES, 3);
  batch.interrupted = end, batch.context = ended;
  if (pthread_create(&thread, NULL, call, &batch) || pthread_join(thread, &result)) return 1;
  printf("%s\\n", result == ended ? "ended" : "returned");
  batch.interrupted = NULL;
  printf("%d\\n", ctcx_cpu_compute(&batch));
  return 0;
}
"""


linux = pytest.mark.skipif(sys.platform != "linux", reason="tried with the functions of Linux")


@compiler
@linux
@pytest.mark.parametrize(
    ("end", "result"),
    [
        ("pthread_exit(context)", "losses"),
        ("pthread_cancel(pthread_self())", "PTHREAD_CANCELED"),  # it waits for others meanwhile
    ],
)
def test_a_thread_may_end_while_it_is_asked_about_an_interruption(tmp_path, end, result):
    """As Python ends a thread that wants its lock while the interpreter shuts down."""
    program = ENDED.replace("END;", f"{end};").replace("= ENDED;", f"= {result};")
    assert compiled(tmp_path, MANY + program) == ["ended", "0"]


# The first sequence seems to take the longest, but ends early. Another thread has the other one.
LEFT_ALONE = """
static volatile float log_probs[2];
static int stop(void *context) { return context == NULL && isnan(log_probs[0]); }
int main(void) {
  enum { T = 20000, C = 32, EARLY = 4000 };
  float *x = malloc(2 * T * C * sizeof *x);
  for (int i = 0; i < 2 * T * C; i++) x[i] = i * 2654435761u % 1000 * 0.003f;
  x[EARLY * C] = NAN;
  const int32_t lengths[2] = {T, T - 1};
  struct ctcx_cpu_batch batch = many(2, 2);
  batch.frames = T, batch.classes = C;
  batch.logits = x, batch.logits_sequence_stride = T * C, batch.logits_frame_stride = C;
  batch.logit_lengths = (struct ctcx_cpu_integers){lengths, 4, 0, 1, 0};
  batch.decoded = malloc(2 * T * 4), batch.decoded_log_probs = (float *)log_probs;
  batch.width = 200, batch.top = 1, batch.interrupted = stop;
  printf("%d\\n", ctcx_cpu_beam_search(&batch));
  return 0;
}
"""


@compiler
@linux
def test_a_call_that_waits_for_another_thread_is_interrupted(tmp_path):
    assert compiled(tmp_path, MANY + LEFT_ALONE) == ["3"]


WAITED_FOR = """
int main(void) {
  struct ctcx_cpu_batch batch = many(SEQUENCES, 2);
  ctcx_cpu_compute(&batch);
  sigset_t signals;
  int taken = 0;
  sigemptyset(&signals), sigaddset(&signals, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &signals, NULL);
  kill(getpid(), SIGUSR1);
  sigwait(&signals, &taken);
  printf("%s\\n", taken == SIGUSR1 ? "taken" : "another");
  return 0;
}
"""


@compiler
@linux
def test_threads_of_the_library_take_no_signals(tmp_path):
    assert compiled(tmp_path, MANY + WAITED_FOR) == ["taken"]


TWO_LONG = """
/* All frames are the same memory. */
static struct ctcx_cpu_batch two_long(const int64_t *length) {
  struct ctcx_cpu_batch batch = many(2, 2);
  batch.frames = *length, batch.classes = 2000;
  batch.logits = calloc(batch.classes, 4), batch.logits_frame_stride = 0;
  batch.logit_lengths = (struct ctcx_cpu_integers){length, 8, 0, 0, 0};
  return batch;
}
"""

# Not by `interrupted`, but at any time; the copy of the call returns in the child.
FORKING_HANDLER = """
static volatile pid_t child = -1;
static void handle(int signal) { child = signal ? fork() : -1; }
int main(void) {
  const int64_t length = 200000;
  struct ctcx_cpu_batch batch = two_long(&length);
  batch.threads = 3;
  if (ctcx_cpu_compute(&batch)) return 1;
  const float right = losses[0];
  memset(losses, 0, sizeof losses);
  const struct itimerval soon = {.it_value.tv_usec = 30000};
  signal(SIGALRM, handle), setitimer(ITIMER_REAL, &soon, NULL);
  const int status = ctcx_cpu_compute(&batch), is_right = losses[0] == right && losses[1] == right;
  while (child < 0) usleep(1000);
  if (child == 0) return status == CTCX_CPU_INTERRUPTED || (!status && is_right) ? 0 : 2;
  int ended;
  waitpid(child, &ended, 0);
  printf("%d %d %x\\n", status, is_right, ended);
  return 0;
}
"""


@compiler
@linux
def test_a_signal_handler_may_fork_at_any_time(tmp_path):
    assert compiled(tmp_path, MANY + TWO_LONG + FORKING_HANDLER) == ["0 1 0"]


FORKED_AT_FIRST = """
char *getenv(const char *name) {
  if (strcmp(name, "CTCX_CPU_INSTRUCTIONS") == 0) usleep(300000);
  return NULL;
}
static void *call(void *batch) { return ctcx_cpu_compute(batch) ? batch : NULL; }
int main(void) {
  struct ctcx_cpu_batch batch = many(10, 1);
  pthread_t thread;
  int ended;
  if (pthread_create(&thread, NULL, call, &batch)) return 1;
  usleep(100000);
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    _exit(ctcx_cpu_compute(&batch));
  }
  waitpid(child, &ended, 0);
  printf("%x\\n", ended);
  return pthread_join(thread, NULL);
}
"""


@compiler
@linux
def test_a_fork_while_the_first_call_chooses_instructions(tmp_path):
    assert compiled(tmp_path, MANY + FORKED_AT_FIRST) == ["0"]


BUSY = """
static volatile int done;
static int is_done(void *context) { return context == NULL && done; }
static void *call(void *batch) { return (void *)(intptr_t)ctcx_cpu_compute(batch); }
int main(void) {
  const int64_t length = 20000000, wrong = -1, frames = 6000;
  struct ctcx_cpu_batch batch = two_long(&length), small = two_long(&wrong);
  batch.interrupted = is_done;
  pthread_t thread;
  void *status;
  if (pthread_create(&thread, NULL, call, &batch)) return 1;
  usleep(300000);
  small.frames = frames;
  small.decoded = malloc(2 * frames * 4), small.decoded_log_probs = malloc(2 * frames * 4);
  ctcx_cpu_greedy(&small);
  const size_t before = mallinfo2().uordblks;
  for (int i = 0; i < 20000; i++) ctcx_cpu_greedy(&small);
  const size_t more = mallinfo2().uordblks - before;
  done = 1;
  pthread_join(thread, &status);
  printf("%ld %s\\n", (long)(intptr_t)status, more < 1000000 ? "little" : "much");
  return 0;
}
"""


@compiler
@linux
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc counts its memory")
def test_calls_leave_no_memory_behind_while_all_threads_are_busy(tmp_path):
    assert compiled(tmp_path, MANY + TWO_LONG + BUSY) == ["3 little"]


# From the k-th allocation on all fail, each time in a child without threads as yet.
NO_MEMORY = """
static long left = -1;
static int fails(void) { return left >= 0 && __sync_fetch_and_sub(&left, 1) <= 1 && (left = 1); }
void *malloc(size_t size) {
  void *(*next)(size_t) = (void *(*)(size_t))dlsym(RTLD_NEXT, "malloc");
  return fails() ? NULL : next(size);
}
void *aligned_alloc(size_t alignment, size_t size) {
  void *(*next)(size_t, size_t) = (void *(*)(size_t, size_t))dlsym(RTLD_NEXT, "aligned_alloc");
  return fails() ? NULL : next(alignment, size);
}
int main(void) {
  int refused = 0;
  for (long k = 1; k <= 80; k++) {
    const pid_t child = fork();
    if (child == 0) {
      struct ctcx_cpu_batch batch = many(900, 4);
      left = k;
      const int status = ctcx_cpu_compute(&batch);
      left = -1;
      usleep(2000);
      _exit(ctcx_cpu_compute(&batch) ? 9 : status);
    }
    int status;
    waitpid(child, &status, 0);
    refused += WIFEXITED(status) && WEXITSTATUS(status) == CTCX_CPU_NO_MEMORY;
  }
  printf("%d\\n", refused);
  return 0;
}
"""


@compiler
@linux
def test_allocations_that_fail_at_any_point(tmp_path):
    assert compiled(tmp_path, MANY + NO_MEMORY) == ["80"]


ALIGNMENT = """
#include <math.h>
#include <stdio.h>
#include "ctcx_cpu.h"
int main(void) {
  const double probabilities[4][3] = {{.8, .1, .1}, {.1, .8, .1}, {.1, .3, .6}, {.7, .1, .2}};
  double logits[4][3], log_probs[4];
  int64_t labels[2] = {1, 2}, frames = 4, count = 2;
  int32_t states[4];
  for (int t = 0; t < 4; t++)
    for (int c = 0; c < 3; c++) logits[t][c] = log(probabilities[t][c]) + t;
  struct ctcx_cpu_batch batch = {.size = sizeof batch, .major = CTCX_CPU_MAJOR};
  batch.type = CTCX_CPU_FLOAT64;
  batch.sequences = 1, batch.frames = 4, batch.classes = 3, batch.label_positions = 2;
  batch.logits = logits, batch.logits_frame_stride = 3;
  batch.labels = (struct ctcx_cpu_integers){labels, 8, 0, 2, 1};
  batch.logit_lengths = (struct ctcx_cpu_integers){&frames, 8, 0, 1, 0};
  batch.label_lengths = (struct ctcx_cpu_integers){&count, 8, 0, 1, 0};
  printf("%s\\n", ctcx_cpu_check_align(&batch));
  batch.states = states, batch.log_probs = log_probs;
  if (ctcx_cpu_align(&batch)) return 1;
  for (int t = 0; t < 4; t++) printf("%d %.2f\\n", states[t], exp(log_probs[t]));
  return 0;
}
"""


OCCUPANCIES = """
#include <math.h>
#include <stdio.h>
#include "ctcx_cpu.h"
int main(void) {
  /* Of "1" in two frames: "1 1", "1 blank" and "blank 1", with probabilities of .04, .1 and .1. */
  const double probabilities[2][3] = {{.5, .2, .3}, {.5, .2, .3}};
  double logits[2][3], loss, classes[2][3], states[2][3];
  int64_t label = 1, frames = 2, count = 1;
  for (int t = 0; t < 2; t++)
    for (int c = 0; c < 3; c++) logits[t][c] = log(probabilities[t][c]) + t;
  struct ctcx_cpu_batch batch = {.size = sizeof batch, .major = CTCX_CPU_MAJOR};
  batch.type = CTCX_CPU_FLOAT64;
  batch.sequences = 1, batch.frames = 2, batch.classes = 3, batch.label_positions = 1;
  batch.logits = logits, batch.logits_frame_stride = 3;
  batch.labels = (struct ctcx_cpu_integers){&label, 8, 0, 1, 1};
  batch.logit_lengths = (struct ctcx_cpu_integers){&frames, 8, 0, 1, 0};
  batch.label_lengths = (struct ctcx_cpu_integers){&count, 8, 0, 1, 0};
  batch.losses = &loss;
  printf("%s\\n", ctcx_cpu_check_occupancies(&batch));
  batch.class_occupancies = classes, batch.class_occupancies_frame_stride = 3;
  batch.state_occupancies = states;
  if (ctcx_cpu_occupancies(&batch)) return 1;
  printf("%.2f\\n", exp(-loss));
  for (int t = 0; t < 2; t++)
    printf("%.3f %.3f %.0f %.3f %.3f %.3f\\n", classes[t][0], classes[t][1], classes[t][2],
           states[t][0], states[t][1], states[t][2]);
  const float uniforms[3][2] = {{0, 0}, {.5, .5}, {.9, 0}};
  int32_t drawn[3][2];
  batch.uniforms = uniforms, batch.uniform_bytes = sizeof(float), batch.paths = 3;
  printf("%s\\n", ctcx_cpu_check_sample_paths(&batch));
  batch.states = drawn[0];
  if (ctcx_cpu_sample_paths(&batch)) return 1;
  for (int k = 0; k < 3; k++) printf("%d %d\\n", drawn[k][0], drawn[k][1]);
  return 0;
}
"""


@compiler
def test_occupancies_and_sampled_paths_from_c(tmp_path):
    assert compiled(tmp_path, OCCUPANCIES) == [
        "class_occupancies are NULL",
        "0.24",
        "0.417 0.583 0 0.417 0.583 0.000",
        "0.417 0.583 0 0.000 0.583 0.417",
        "uniforms or states are NULL",
        "1 1",
        "0 1",
        "0 1",
    ]


@compiler
def test_an_alignment_from_c(tmp_path):
    expected = ["states or log_probs are NULL", "0 0.80", "1 0.80", "3 0.60", "4 0.70"]
    assert compiled(tmp_path, ALIGNMENT) == expected


def test_the_limit_of_a_loss():
    x = np.zeros((2, 1, 2), np.float32)
    x[0, 0, 1], x[1, 0, 1] = -1.79e8, -1.81e8
    result = ctcx.ctc_loss_and_grad(x, [[1], [1]], backend="cpu")
    assert result.loss[0] == np.float32(1.79e8)
    assert result.loss[1] == np.inf
    assert result.feasible.tolist() == [True, False]
    assert not result.grad[1].any()


@compiler
def test_the_example_in_c_computes_the_numbers_of_the_notebook(tmp_path):
    example = Path(__file__).parents[3] / "docs" / "examples" / "c_library" / "notebook.c"
    folder = ctcx_cpu.library_path().parent
    program = tmp_path / "notebook"
    command = ["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", example, "-o", program]
    command += ["-I", ctcx_cpu.include_dir(), "-L", folder, "-lctcx_cpu", f"-Wl,-rpath,{folder}"]
    subprocess.run(command, check=True)
    printed = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    numbers = np.array(printed.split(), dtype=np.float64)
    published = json.loads((Path(ctcx.__file__).parent / "data" / "notebook.json").read_text())
    np.testing.assert_allclose(numbers[0], published["fixture"]["loss"][0], rtol=1e-6)
    gradient = np.ravel(published["fixture"]["gradient"])
    np.testing.assert_allclose(numbers[1:], gradient, atol=1e-6)
