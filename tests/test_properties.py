"""Properties that hold for any input: shapes, dtypes, lengths, layouts and libraries at random."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ctcx
from ctcx.conformance.oracle import enumerate_paths, reference
from tests.helpers import optional, strict_array, strict_values

torch, jnp = optional("torch"), optional("jax.numpy")

SETTINGS = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
TOLERANCE = {"float16": 2e-3, "float32": 2e-5, "float64": 1e-9}


# (N, T, C, S, blank) for JAX, which compiles for each: empty, small, large, and too few frames.
FEW_SHAPES = (
    *((0, 4, 3, 2, 1), (2, 0, 4, 1, 0), (1, 1, 1, 0, 0), (3, 3, 2, 5, 1), (2, 7, 5, 0, 4)),
    *((1, 5, 6, 3, 2), (3, 9, 3, 4, 0), (2, 12, 6, 5, 5)),
)


@st.composite
def problems(
    draw, max_frames=12, max_classes=6, max_labels=5, dtypes=("float32", "float64"), shapes=None
):
    """A batch with anything that is allowed in it: -inf, junk past lengths, repeats, no labels.

    ``shapes`` are the (N, T, C, S, blank) to choose from.
    """
    if shapes is None:
        n = draw(st.integers(0, 3))
        t = draw(st.integers(0, max_frames))
        c = draw(st.integers(1, max_classes))
        s = draw(st.integers(0, max_labels)) if c > 1 else 0
        blank = draw(st.integers(0, c - 1))
    else:
        n, t, c, s, blank = draw(st.sampled_from(shapes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale = draw(st.sampled_from([0.0, 1.0, 5.0, 60.0]))
    logits = (rng.standard_normal((n, t, c)) * scale).astype(draw(st.sampled_from(dtypes)))
    if draw(st.booleans()):
        logits[rng.random(logits.shape) < 0.1] = -np.inf
    labels = (blank + rng.integers(1, max(2, c), size=(n, s))) % c
    if draw(st.booleans()):  # many repeats
        labels[:, 1:] = np.where(rng.random((n, max(0, s - 1))) < 0.5, labels[:, :1], labels[:, 1:])
    logit_lengths = rng.integers(0, t + 1, size=n)
    label_lengths = rng.integers(0, s + 1, size=n)
    for i in range(n):
        logits[i, logit_lengths[i] :] = rng.choice([np.nan, np.inf, -np.inf, 7.0])
        labels[i, label_lengths[i] :] = rng.integers(-99, 99)
    return logits, labels, logit_lengths, label_lengths, blank


def compute(problem, **options):
    *arrays, blank = problem
    return ctcx.ctc_loss_and_grad(*arrays, blank=blank, backend="array-api", **options)


def assert_agree(result, truth, dtype):
    tolerance = TOLERANCE[str(dtype)]
    loss, grad = np.asarray(result.loss), np.asarray(result.grad)
    finite = np.isfinite(truth.loss)
    np.testing.assert_array_equal(np.isfinite(loss), finite)
    np.testing.assert_array_equal(np.asarray(result.feasible), finite)
    np.testing.assert_allclose(loss[finite], truth.loss[finite], rtol=1e-5, atol=tolerance)
    np.testing.assert_allclose(grad, truth.grad, atol=tolerance)
    assert (loss >= 0).all()


@SETTINGS
@given(problems(dtypes=("float16", "float32", "float64")))
def test_agrees_with_the_recursion_in_double_precision(problem):
    *arrays, blank = problem
    truth = reference(arrays[0].astype(np.float64), *arrays[1:], blank)
    assert_agree(compute(problem), truth, problem[0].dtype)


@SETTINGS
@given(problems(max_frames=5, max_classes=4, max_labels=4))
def test_agrees_with_the_sum_over_all_paths(problem):
    *arrays, blank = problem
    truth = enumerate_paths(arrays[0].astype(np.float64), *arrays[1:], blank)
    assert_agree(compute(problem), truth, problem[0].dtype)


def assert_the_same_on(library, problem, *, time_major):
    """A library's arrays, in that layout, give the numbers of NumPy's."""
    logits, *rest, blank = problem
    expected = compute(problem)
    if library == "jax":
        logits = logits.astype(np.float32)
    moved = np.swapaxes(logits, 0, 1) if time_major else logits
    make = {
        "torch": lambda a: torch.tensor(a),
        "jax": lambda a: jnp.asarray(a),
        "strict": lambda a: strict_array(a, "device2"),
    }[library]
    result = ctcx.ctc_loss_and_grad(
        make(np.ascontiguousarray(moved)), *rest, blank=blank, time_major=time_major
    )
    read = strict_values if library == "strict" else np.asarray
    grad = read(result.grad)
    np.testing.assert_allclose(read(result.loss), expected.loss, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        np.swapaxes(grad, 0, 1) if time_major else grad, expected.grad, atol=2e-5
    )


@pytest.mark.parametrize("library", ["torch", "strict"])
@SETTINGS
@given(problems(), st.booleans())
def test_libraries_and_layouts_agree(library, problem, time_major):
    assert_the_same_on(library, problem, time_major=time_major)


@SETTINGS
@given(problems(shapes=FEW_SHAPES), st.booleans())
def test_jax_and_its_layouts_agree(problem, time_major):
    assert_the_same_on("jax", problem, time_major=time_major)


@SETTINGS
@given(problems(), st.integers(0, 4), st.integers(0, 3))
def test_padding_changes_nothing(problem, more_frames, more_labels):
    logits, labels, *rest, blank = problem
    padded = np.pad(logits, ((0, 0), (0, more_frames), (0, 0)), constant_values=np.nan)
    longer = np.pad(labels, ((0, 0), (0, more_labels)), constant_values=-1)
    expected = compute(problem)
    result = compute((padded, longer, *rest, blank))
    np.testing.assert_allclose(result.loss, expected.loss, rtol=1e-5, atol=1e-6)
    frames = logits.shape[1]
    np.testing.assert_allclose(result.grad[:, :frames], expected.grad, atol=1e-5)
    assert not result.grad[:, frames:].any()


@SETTINGS
@given(problems(), st.randoms(use_true_random=False))
def test_the_order_of_sequences_changes_nothing(problem, random):
    *arrays, blank = problem
    order = list(range(len(arrays[0])))
    random.shuffle(order)
    expected = compute(problem)
    result = compute((*(a[order] for a in arrays), blank))
    np.testing.assert_array_equal(result.loss, expected.loss[order])
    np.testing.assert_array_equal(result.grad, expected.grad[order])


@SETTINGS
@given(problems())
def test_gradients_of_a_frame_add_up_to_nothing(problem):
    grad = compute(problem).grad
    np.testing.assert_allclose(grad.sum(axis=-1), 0, atol=1e-5)


@SETTINGS
@given(problems(), st.sampled_from(["sum", "mean", "mean_per_label"]))
def test_reductions_are_finite_where_infeasible_counts_as_zero(problem, reduction):
    result = compute(problem, reduction=reduction, infeasible="zero")
    assert np.isfinite(result.loss)
    assert np.isfinite(result.grad).all()


@SETTINGS
@given(problems(), st.data())
def test_any_wrong_label_is_found_and_named(problem, data):
    logits, labels, logit_lengths, label_lengths, blank = problem
    used = [(n, i) for n in range(len(labels)) for i in range(label_lengths[n])]
    if not used:
        return
    n, i = data.draw(st.sampled_from(used))
    wrong = data.draw(st.sampled_from([-1, logits.shape[2], blank, 10**6]))
    labels = labels.copy()
    labels[n, i] = wrong
    with pytest.raises(ctcx.CTCInputError) as caught:
        ctcx.ctc_loss(logits, labels, logit_lengths, label_lengths, blank=blank)
    error = caught.value
    facts = (error.argument, error.sequence, error.position, error.value)
    assert facts == ("labels", n, i, wrong)
