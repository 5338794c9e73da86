"""Products of second derivatives with a vector, on NumPy; truth: differences of the gradient."""

import array_api_strict
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ctcx
from ctcx.conformance import oracle
from tests.helpers import STRICT_DEVICES, optional, random_problem, strict_array, strict_values

torch, jnp = optional("torch"), optional("jax.numpy")

REDUCTIONS = ("none", "sum", "mean", "mean_per_label")


def vector_for(logits, seed=9):
    return np.random.default_rng(seed).standard_normal(logits.shape).astype(logits.dtype)


def difference(gradient, logits, vector, step=1e-3):
    """Derivative of the gradient along the vector; the error is of order step**4."""
    at = lambda k: gradient(logits + k * step * vector)
    return (at(-2) - 8 * at(-1) + 8 * at(1) - at(2)) / (12 * step)


@st.composite
def problems(draw):
    """Logits, labels and lengths, with masked classes and infeasible sequences among them."""
    n, t, c, s = (draw(st.integers(*limits)) for limits in ((1, 3), (1, 9), (2, 5), (1, 4)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = rng.standard_normal((n, t, c)) * draw(st.sampled_from([0.5, 2.0, 6.0]))
    if draw(st.booleans()):
        logits[rng.random(logits.shape) < 0.1] = -np.inf
    blank = draw(st.integers(0, c - 1))
    labels = (blank + rng.integers(1, c, (n, s))) % c
    return logits, labels, rng.integers(0, t + 1, n), rng.integers(0, s + 1, n), blank


@settings(max_examples=60, deadline=None)
@given(problems())
def test_against_differences_of_the_oracle_s_gradient(problem):
    logits, *rest, blank = problem
    vector = vector_for(logits)
    product = ctcx.ctc_hvp(logits, *rest, vector=vector, blank=blank)
    gradient = lambda x: oracle.reference(x, *rest, blank).grad
    np.testing.assert_allclose(product, difference(gradient, logits, vector), atol=2e-8)


@settings(max_examples=60, deadline=None)
@given(problems())
def test_it_is_symmetric_and_each_frame_adds_up_to_0(problem):
    logits, *rest, blank = problem
    one, other = vector_for(logits, 1), vector_for(logits, 2)
    of_one = ctcx.ctc_hvp(logits, *rest, vector=one, blank=blank)
    of_other = ctcx.ctc_hvp(logits, *rest, vector=other, blank=blank)
    np.testing.assert_allclose(np.vdot(other, of_one), np.vdot(one, of_other), atol=1e-12)
    np.testing.assert_allclose(of_one.sum(axis=2), 0, atol=1e-13)


@settings(max_examples=30, deadline=None)
@given(problems(), st.floats(-1e3, 1e3))
def test_a_constant_in_a_frame_changes_nothing(problem, constant):
    logits, *rest, blank = problem
    vector = vector_for(logits)
    shifted = vector + constant * vector[:, :, :1]
    product = ctcx.ctc_hvp(logits, *rest, vector=vector, blank=blank)
    again = ctcx.ctc_hvp(logits, *rest, vector=shifted, blank=blank)
    np.testing.assert_allclose(again, product, atol=1e-10)


@pytest.mark.parametrize(("t", "s"), [(200, 60), (3000, 200)])
def test_float32_at_length(t, s):
    logits, *rest = random_problem(3, 2, t, 12, s, dtype=np.float64)
    vector = vector_for(logits)
    expected = ctcx.ctc_hvp(logits, *rest, vector=vector)
    product = ctcx.ctc_hvp(logits.astype(np.float32), *rest, vector=vector.astype(np.float32))
    assert product.dtype == np.float32
    np.testing.assert_allclose(product, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("infeasible", ["inf", "zero"])
def test_reductions_and_policies(reduction, infeasible):
    logits, *rest = random_problem(4, 5, 12, 6, 4, dtype=np.float64)
    rest[1][2] = 0  # one that can't be emitted
    rest[2][2] = 1
    options = {"reduction": reduction, "infeasible": infeasible}
    vector = vector_for(logits)
    product = ctcx.ctc_hvp(logits, *rest, vector=vector, **options)
    gradient = lambda x: ctcx.ctc_loss_and_grad(x, *rest, **options).grad
    np.testing.assert_allclose(product, difference(gradient, logits, vector), atol=1e-9)
    assert not product[2].any()


def test_infeasible_raise():
    with pytest.raises(ctcx.InfeasibleError):
        ctcx.ctc_hvp(np.zeros((1, 1, 3)), [[1, 2]], vector=np.zeros((1, 1, 3)), infeasible="raise")


def test_layouts():
    logits, *rest = random_problem(5, 3, 10, 5, 3, dtype=np.float64)
    vector = vector_for(logits)
    plain = ctcx.ctc_hvp(logits, *rest, vector=vector)
    swapped = ctcx.ctc_hvp(
        logits.swapaxes(0, 1), *rest, vector=vector.swapaxes(0, 1), time_major=True
    )
    np.testing.assert_array_equal(swapped.swapaxes(0, 1), plain)
    labels, frames, count = (part[1] for part in rest)
    single = ctcx.ctc_hvp(logits[1], labels, frames, count, vector=vector[1])
    np.testing.assert_allclose(single, plain[1], atol=1e-13)


def test_what_stands_in_padded_frames_never_matters():
    logits, *rest = random_problem(6, 3, 10, 5, 3, dtype=np.float64)
    vector = vector_for(logits)
    plain = ctcx.ctc_hvp(logits, *rest, vector=vector)
    for n, length in enumerate(rest[1]):
        logits[n, length:] = np.nan
        vector[n, length:] = np.nan
        assert not plain[n, length:].any()
    np.testing.assert_array_equal(ctcx.ctc_hvp(logits, *rest, vector=vector), plain)


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_other_libraries(library):
    convert = torch.tensor if library == "torch" else jnp.asarray
    logits, *rest = random_problem(7, 2, 9, 5, 3)
    vector = vector_for(logits)
    product = ctcx.ctc_hvp(convert(logits), *rest, vector=convert(vector))
    assert type(product) is type(convert(logits))
    np.testing.assert_allclose(product, ctcx.ctc_hvp(logits, *rest, vector=vector), atol=2e-6)


@pytest.mark.parametrize("device", STRICT_DEVICES)
def test_every_strict_device_and_no_value_is_read(device, monkeypatch):
    problem = random_problem(8, 2, 9, 5, 3)
    vector = vector_for(problem[0])
    expected = ctcx.ctc_hvp(*problem, vector=vector)
    arrays = [strict_array(array, device) for array in (*problem, vector)]
    array_type = type(array_api_strict.ones(1))
    with monkeypatch.context() as patch:
        for name in ("__float__", "__bool__", "__int__", "__index__", "__iter__"):
            patch.setattr(array_type, name, _refuse, raising=False)
        product = ctcx.ctc_hvp(*arrays[:4], vector=arrays[4], validate=False)
    assert str(product.device) == str(arrays[0].device)
    np.testing.assert_allclose(strict_values(product), expected, atol=1e-6)


def _refuse(*_):
    raise AssertionError("a value was read")


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        ([[[0.0]]], "vector must be an array of numpy, as the logits are; got list"),
        (
            lambda: torch.zeros(2, 4, 3),
            "vector must be an array of numpy, as the logits are; got torch",
        ),
        (np.zeros((2, 4, 3), dtype=int), "vector must have one of the dtypes .* got int64"),
        (np.zeros((4, 2, 3)), r"shape and layout of the logits, \(2, 4, 3\); got \(4, 2, 3\)"),
    ],
)
def test_a_wrong_vector(vector, message):
    vector = vector() if callable(vector) else vector
    with pytest.raises(ctcx.CTCInputError, match=message) as caught:
        ctcx.ctc_hvp(np.zeros((2, 4, 3)), [[1], [2]], vector=vector)
    assert caught.value.argument == "vector"


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("time_major", [False, True])
def test_wrong_values_in_the_vector(value, time_major):
    vector = np.zeros((2, 4, 3))
    vector[1, 2, 0] = value
    shown = "2, 1, 0" if time_major else "1, 2, 0"
    vector = vector.swapaxes(0, 1) if time_major else vector
    with pytest.raises(ctcx.CTCInputError, match=rf"vector\[{shown}\] is {value}") as caught:
        ctcx.ctc_hvp(np.zeros_like(vector), [[1], [2]], vector=vector, time_major=time_major)
    assert (caught.value.sequence, caught.value.position) == (1, 2)


def test_the_gradient_is_of_the_backend_that_is_asked_for():
    arguments = np.zeros((1, 3, 3)), [[1]]
    with ctcx.trace() as runs:
        ctcx.ctc_hvp(*arguments, vector=np.zeros((1, 3, 3)), backend="array-api")
    assert [run.problem.operation for run in runs] == ["loss_and_grad"]
    with pytest.raises(ctcx.UnknownBackendError):
        ctcx.ctc_hvp(*arguments, vector=np.zeros((1, 3, 3)), backend="nobody")
