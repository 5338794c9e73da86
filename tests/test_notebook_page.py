"""The page that goes through the notebook prints what it says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
_SPEC = importlib.util.spec_from_file_location("executed", DOCS / "_ext" / "executed.py")
executed = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(executed)


@pytest.fixture(scope="module")
def printed():
    return executed.outputs(DOCS / "notebook.md")


def test_every_number_is_the_original_s(printed):
    text = "\n".join(printed)
    # softmax, two of log-softmax, gradient
    assert text.count("largest difference: below 1e-6: True") == 4
    assert "below 1e-6: False" not in text
    assert re.search(r"^softmax here: +\[0\.4753669 +0\.1748777", text, re.MULTILINE)


def test_the_inputs_and_the_states(printed):
    assert printed[0].startswith("logits (1, 5, 4) labels [[0, 1, 0, 1, 3]] of which [4]")
    assert printed[1] == "states: [3, 0, 3, 1, 3, 0, 3, 1, 3] fewest frames: 4\n"


def test_the_logarithm_of_zero(printed):
    assert "log(0) here: -inf" in printed[3]
    assert "stand-in here: -706.8936" in printed[3]
    assert "original:      -706.8936" in printed[3]
    assert "three frames for four labels: [inf] gradient 0.0" in printed[3]


def test_the_two_label_forms(printed):
    assert "from one-hot: [[0, 1, 2, 3]] of which [3] are labels" in printed[4]
    assert "and back: True" in printed[4]


def test_loss_and_gradient_on_every_library(printed):
    told = printed[5]
    libraries = re.findall(r"^(\S+): loss 4\.44874$", told, re.MULTILINE)
    assert {"numpy", "array_api_strict"} <= set(libraries)
    assert told.count("to 1e-6: True") == len(re.findall(r"^[\w.]+: loss", told, re.MULTILINE)) - 1
    assert "original: loss 4.44874" in told


def test_the_random_example_is_refused_with_its_place(printed):
    assert "labels[0, 2] is 4 (sequence 0, position 2): expected 0 to 3" in printed[7]
    assert re.fullmatch(r"\[\d\.\d+\]\n", printed[8])


def test_a_block_that_fails_fails_the_page():
    with pytest.raises(NameError):
        executed.run("nonsense", {})
