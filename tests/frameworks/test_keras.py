"""``ctcx.compat.keras`` beside Keras itself, on all of its backends, each in its own process."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings

from ctcx.conformance.oracle import reference
from tests.frameworks.problems import FEW_SHAPES, assert_right, assert_same, problems

BACKENDS = ("tensorflow", "torch", "jax", "numpy")


def drawn(count):
    """Problems as Hypothesis draws them, the same each time."""
    seen = []

    @settings(database=None, derandomize=True, deadline=None, max_examples=count)
    @given(problems(dtypes=("float32",), shapes=FEW_SHAPES[:2], blanks=(0, 1)))
    def take(problem):
        seen.append(problem)

    take()
    return seen


PROBLEMS = drawn(40)


# One process asks for all tests of a backend.
@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in BACKENDS],
)
def said(request):
    """What a process with that backend says."""
    asked = [
        {name: np.asarray(value).tolist() for name, value in problem._asdict().items()}
        for problem in PROBLEMS
    ]
    done = subprocess.run(
        [sys.executable, "-m", "tests.frameworks.keras_child"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        env=os.environ | {"KERAS_BACKEND": request.param, "TF_CPP_MIN_LOG_LEVEL": "3"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["backend"] == request.param
    return answer


def numbers(values):
    assert isinstance(values, list), values
    return np.asarray([float(value) for value in values])


def test_the_loss_is_the_same_on_all_backends_and_is_that_of_keras(said):
    compared = 0
    for problem, answer in zip(PROBLEMS, said["answers"], strict=True):
        ours, fine = numbers(answer["ours"]), problem.feasible
        assert_right(problem, ours)
        if isinstance(answer["theirs"], list):
            theirs = numbers(answer["theirs"])
            assert_same(ours[fine], theirs[fine])
            compared += int(fine.sum())
    assert compared > 20


def test_the_loss_class_is_that_of_keras(said):
    for ours, theirs in said["class"].values():
        assert_same(numbers(ours), numbers(theirs))


def test_a_model_trains_to_the_same_losses(said):
    if said["backend"] == "numpy":
        assert "training" not in said
        return
    ours, theirs = said["training"]
    assert_same(ours, theirs)
    assert ours[-1] < ours[0]


def test_the_loss_class_can_be_saved_and_takes_symbolic_tensors(said):
    assert said["config"] == "x"
    assert said["symbolic"] == [None]


def test_zeros_among_labels_count_as_for_keras_where_that_is_asked_for(said):
    ours, again, theirs = map(numbers, said["strict"])
    assert_same(ours, theirs)
    np.testing.assert_array_equal(again, ours)


def test_sizes_are_checked_and_known(said):
    for answer, argument in zip(said["ranks"], ("y_true", "y_pred", "y_true"), strict=True):
        assert answer.startswith(f"CTCInputError: {argument} must have shape")
    assert said["static"] == [7]
    expected = (
        "y_true must be an array or a tensor; got a list",
        "y_true must not be a masked array",
        "y_true must be integers",
        "y_true must be integers",
        "y_pred must not be a masked array",
    )
    for answer, message in zip(said["kinds"], expected, strict=True):
        assert answer.startswith(f"CTCInputError: {message}")


def test_a_ragged_tensor_of_labels(said):
    if said["backend"] != "tensorflow":
        assert said["ragged"] is None
        return
    ours, padded, function = said["ragged"]
    np.testing.assert_array_equal(numbers(ours), numbers(padded))
    assert "pass target.to_tensor(), and target.row_lengths()" in function


def test_batches_whose_sizes_are_known_only_when_they_are_there(said):
    if said["backend"] != "tensorflow":
        assert said["padded"] is None
        return
    ours, strict, theirs = said["padded"]
    assert_same(ours, theirs)
    assert_same(strict, theirs)


def test_no_labels_and_no_sequences(said):
    no_labels, *no_sequences = said["of_no_size"]
    np.testing.assert_allclose(numbers(no_labels), 4 * np.log(3), rtol=1e-6)
    assert no_sequences == [[], []]


def test_tensors_of_labels_that_are_no_integers(said):
    if said["backend"] not in {"tensorflow", "numpy"}:
        return  # their values aren't looked at before they are turned into integers
    for answer in said["fractions"]:
        assert answer.startswith("CTCInputError: y_true must be integers"), answer


def test_decoding_is_that_of_keras(said):
    """With beams as wide as there are prefixes, so that both are exact."""
    *same, _ = said["decode"]
    for ours, theirs in same:
        assert ours[0] == theirs[0]
        np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-5, atol=1e-5)
        assert ours[2] == theirs[2]


def test_decoding_knows_its_shapes_and_refuses_what_cannot_be(said):
    assert said["decode_symbolic"] == [[[2, None, 6], "int32"], [[None, 2], "float32"]]
    expected = (
        "strategy must be one of 'greedy', 'beam_search'; got 'best'",
        "top_paths is 200, but a beam of beam_width 100 has no more results",
        "mask_index=3 is out of range for 3 classes",
    )
    for answer, message in zip(said["decode_wrong"], expected, strict=True):
        assert answer.startswith(f"CTCInputError: {message}"), answer


# Each of these is a row of the table on the page "Coming from Keras":
# what is passed | what Keras does | what ctcx does.


def test_difference_infeasible(said):
    """Labels that no path emits | about 708 on TensorFlow, +inf on PyTorch, about 100,000 on JAX
    and NumPy | +inf on all, gradient 0"""
    low, high = {"tensorflow": (700, 900), "torch": (np.inf, np.inf)}.get(
        said["backend"], (9e4, 2e5)
    )
    found = 0
    for problem, answer in zip(PROBLEMS, said["answers"], strict=True):
        if isinstance(answer["theirs"], list):
            wrong = ~problem.feasible
            theirs = numbers(answer["theirs"])[wrong]
            assert ((low <= theirs) & (theirs <= high)).all()
            assert (numbers(answer["ours"])[wrong] == np.inf).all()
            found += int(wrong.sum())
    assert found > 3


def test_difference_interior_zero(said):
    """A 0 between labels, in `losses.CTC` | the last label is left out, silently | an error that
    names it, where values can be read; with `strict_compat=True` as Keras"""
    ours, theirs = said["interior"]
    assert ours.startswith("CTCInputError: target[0, 1] is 0")
    # The blank that is left in counts as one more blank.
    kept = reference(np.zeros((1, 4, 3)), np.asarray([[1, 0]]), [4], [2], 0)
    assert_same(numbers(theirs), kept.loss)


def test_difference_half(said):
    """`dtype="float16"`, also by `set_floatx` | labels are rounded to half: 4097 is 4096; the loss
    too | computed in float32, and a float32 loss"""
    logits = np.random.default_rng(0).standard_normal((1, 6, 4200)).astype(np.float32)
    right = reference(logits, np.asarray([[4097, 4099]]), [6], [2], 0).loss
    for dtype, (loss, kind) in said["half"].items():
        np.testing.assert_allclose(numbers(loss), right, rtol=2e-6, err_msg=dtype)
        assert kind == "float32"


def test_difference_negative_mask(said):
    """A negative `mask_index` of `ctc_decode` | from the end on TensorFlow; elsewhere wrong labels
    | from the end on all"""
    (ours, _, _), (theirs, _, _) = said["decode"][-1]
    assert (ours == theirs) == (said["backend"] == "tensorflow")
    assert all(label != 2 for row in ours[0] for label in row)  # the blank, -2 of 4 classes
