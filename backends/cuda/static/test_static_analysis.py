"""Every variant compiles for every architecture, and costs no more than the baseline says."""

import copy
import json

import pytest
from ctcx_cuda.variants import DTYPES, IN_REGISTERS, VARIANTS

from backends.cuda.static.static_analysis import (
    ARCHITECTURES,
    BASELINE,
    SAMPLED,
    compile_cubin,
    complaints,
    disassembled,
    survey,
)

# Looking at one kernel after the other takes all cores, and is done once.
pytestmark = pytest.mark.xdist_group("survey")


@pytest.fixture(scope="module")
def found():
    return survey(sample=True)


@pytest.fixture
def baseline():
    return json.loads(BASELINE.read_text(encoding="utf-8"))


def test_nothing_is_worse_than_the_baseline(found, baseline):
    assert not complaints(found, baseline)


@pytest.mark.thorough
def test_nothing_is_worse_than_the_baseline_in_any_dtype(baseline):
    everything = survey()
    assert everything["kernels"].keys() == baseline["kernels"].keys()
    assert not complaints(everything, baseline)


def test_the_baseline_is_of_everything(found, baseline):
    assert len(baseline["kernels"]) == len(VARIANTS) * len(DTYPES) * len(ARCHITECTURES)
    sample = len(ARCHITECTURES) + len(DTYPES) - 1
    assert len(found["kernels"]) == len(VARIANTS) * sample


@pytest.mark.parametrize("variant", [variant.name for variant in IN_REGISTERS])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_loops_over_frames_are_found(found, variant, architecture):
    numbers = found["kernels"][f"{variant} float32 {architecture}"]["ctc_paths"]
    # Alpha and beta, each in groups of frames and one frame at a time.
    assert len(numbers["instructions a frame"]) == 4


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_loops_over_frames_of_best_paths_and_classes_are_found(found, architecture):
    numbers = found["kernels"][f"best-path float32 {architecture}"]["ctc_best_path"]
    # There with and without choices, and in strips; some compilers make several loops of one.
    assert len(numbers["instructions a frame"]) >= 3
    assert numbers["instructions a frame"][-1] < 60
    for variant, kernel in (("best-path", "ctc_spreads"), ("best-classes", "ctc_best_classes")):
        numbers = found["kernels"][f"{variant} float32 {architecture}"][kernel]
        assert len(numbers["instructions a frame"]) == 1


@pytest.mark.parametrize(
    ("dtype", "architecture"),
    [("float32", architecture) for architecture in ARCHITECTURES]
    + [(dtype, SAMPLED) for dtype in DTYPES if dtype != "float32"],
)
def test_the_gradient_loads_four_logits_before_it_stores(found, dtype, architecture):
    """And the first position of four labels: eight loads in all."""
    for variant in IN_REGISTERS:
        numbers = found["kernels"][f"{variant.name} {dtype} {architecture}"]
        assert numbers["ctc_gradient"]["loads in flight"] >= 8
    numbers = found["kernels"][f"any-length {dtype} {architecture}"]
    assert numbers["ctc_segments"]["loads in flight"] >= 8


def test_a_warning_of_the_compiler_is_an_error(monkeypatch):
    careless = 'extern "C" __global__ void f(int* x) { int unused; x[0] = 1; }'
    monkeypatch.setattr("backends.cuda.static.static_analysis.source", lambda _: careless)
    with pytest.raises(RuntimeError, match="warning #"):
        compile_cubin(VARIANTS[0], "float32", "sm_90")


@pytest.mark.parametrize("dtype", DTYPES)
def test_compiled_as_cupy_does_which_flushes_float32(dtype):
    """float16 must not become a float32 that is flushed: nothing is multiplied by 2^112 after."""
    text = disassembled(compile_cubin(VARIANTS[0], dtype, "sm_90"))
    assert ".FTZ" in text
    assert "5.1922968585" not in text


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("registers", 200, "registers 200"),
        ("shared", 50_000, "shared 50000"),
        ("spills", 1, "1 spills"),
        ("stack", 8, "8 bytes of stack"),
        ("loads in flight", -1, "loads in flight"),
        ("instructions a frame", [99.0, 40.0, 30.0, 30.0], "instructions a frame"),
        ("instructions a frame", [], "instructions a frame"),
    ],
)
def test_what_is_worse_is_named(baseline, key, value, words):
    worse = copy.deepcopy(baseline)
    worse["kernels"]["labels-31 float32 sm_90"]["ctc_paths"][key] = value
    (complaint,) = complaints(worse, baseline)
    assert complaint.startswith("labels-31 float32 sm_90 ctc_paths: ")
    assert words in complaint


def test_another_compiler_is_named(baseline):
    (complaint,) = complaints(baseline | {"NVRTC": "12.0"}, baseline)
    assert "NVRTC 12.0" in complaint
