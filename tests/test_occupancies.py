"""Occupancies, entropy and sampled paths as callers see them, on all libraries."""

import itertools
import math
import runpy
from collections import Counter
from pathlib import Path

import array_api_strict
import numpy as np
import pytest

import ctcx
from ctcx.conformance.oracle import enumerate_posterior, occupancies, sample_paths
from tests.helpers import optional, random_problem, to_lists

torch, jax, jnp = optional("torch"), optional("jax"), optional("jax.numpy")
ROOT = Path(__file__).parents[1]
DEVICE = array_api_strict.Device("device1")
LIBRARIES = {
    "numpy": lambda a: a,
    "torch": lambda a: torch.tensor(a),
    "jax": lambda a: jnp.asarray(a),
    "strict": lambda a: array_api_strict.asarray(a, device=DEVICE),
}
LENGTHS = {"logit_lengths": np.array([9, 5, 9, 2]), "label_lengths": np.array([3, 0, 2, 3])}
LABELS = np.array([[1, 2, 2], [1, 1, 1], [3, 1, 0], [1, 2, 3]])  # the last one is infeasible
LOGITS = np.random.default_rng(0).normal(size=(4, 9, 4), scale=2.0)


def as_numpy(array):
    return np.asarray(to_lists(array))


def by_class_paths(logits, labels):
    """Loss, occupancies of classes and entropy, by all paths of classes and by states."""
    frames, classes = logits.shape
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    scores, occupancy = [], np.zeros(logits.shape)
    for path in itertools.product(range(classes), repeat=frames):
        if [k for k, _ in itertools.groupby(path) if k] == labels:
            scores.append(sum(log_probs[t, k] for t, k in enumerate(path)))
            occupancy[np.arange(frames), path] += math.exp(scores[-1])
    total = math.fsum(map(math.exp, scores))
    probabilities = [math.exp(score) / total for score in scores]
    return -math.log(total), occupancy / total, -math.fsum(p * math.log(p) for p in probabilities)


@pytest.mark.parametrize("labels", [[], [1], [1, 1], [3, 1, 2], [1, 2, 1, 2], [1, 1, 1]])
def test_they_are_sums_over_all_class_paths(labels):
    logits = np.random.default_rng(1).normal(size=(5, 4), scale=1.5)
    loss, classes, entropy = by_class_paths(logits, labels)
    found = ctcx.ctc_occupancies(logits, labels, states=True)
    assert float(found.loss) == pytest.approx(loss, abs=1e-12)
    np.testing.assert_allclose(found.classes, classes, rtol=0, atol=1e-12)
    assert float(ctcx.ctc_entropy(logits, labels)) == pytest.approx(entropy, abs=1e-12)
    symbols = [0] * (2 * len(labels) + 1)
    symbols[1::2] = labels
    by_state = np.zeros(classes.shape)
    for state, symbol in enumerate(symbols):
        by_state[:, symbol] += found.states[:, state]
    np.testing.assert_allclose(by_state, classes, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_the_two_references_agree(seed):
    rng = np.random.default_rng(seed)
    frames, count = int(rng.integers(0, 6)), int(rng.integers(0, 4))
    logits = rng.normal(size=(1, frames, 4), scale=2.0)
    logits[rng.random(logits.shape) < 0.1] = -np.inf
    problem = (logits, rng.integers(1, 4, size=(1, count)), [frames], [count], 0)
    found, listed = occupancies(*problem), enumerate_posterior(*problem)
    for name in ("loss", "classes", "states", "entropy"):
        ours, theirs = getattr(found, name), getattr(listed, name)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_they_are_right_by_the_oracle_where_problems_are_large(dtype):
    logits, labels, frames, counts = random_problem(5, 6, 300, 12, 40, dtype=dtype)
    truth = occupancies(logits, labels, frames, counts, 0)
    found = ctcx.ctc_occupancies(logits, labels, frames, counts, states=True)
    close = 1e-10 if dtype == "float64" else 5e-6
    np.testing.assert_allclose(found.classes, truth.classes, rtol=0, atol=close)
    np.testing.assert_allclose(found.states, truth.states, rtol=0, atol=close)
    entropy = ctcx.ctc_entropy(logits, labels, frames, counts)
    scale = np.where(np.isfinite(truth.loss), truth.loss, 0) + 1
    assert (
        np.abs(entropy - truth.entropy) <= (1e-12 if dtype == "float64" else 2e-6) * scale
    ).all()


@pytest.mark.parametrize("library", LIBRARIES)
def test_all_libraries_give_the_same_with_padding_and_what_is_infeasible(library):
    make = LIBRARIES[library]
    dirty = np.where(
        np.arange(9)[:, None] < LENGTHS["logit_lengths"][:, None, None], LOGITS, np.nan
    )
    logits = make(dirty.astype(np.float32))
    found = ctcx.ctc_occupancies(logits, LABELS, **LENGTHS, states=True)
    arrays = (LOGITS, LABELS, *LENGTHS.values(), 0)
    truth = enumerate_posterior(*arrays)
    np.testing.assert_allclose(as_numpy(found.classes), truth.classes, rtol=0, atol=5e-6)
    np.testing.assert_allclose(as_numpy(found.states), truth.states, rtol=0, atol=5e-6)
    assert as_numpy(found.feasible).tolist() == [True, True, True, False]
    assert as_numpy(found.loss)[3] == np.inf
    entropy = as_numpy(ctcx.ctc_entropy(logits, LABELS, **LENGTHS))
    np.testing.assert_allclose(entropy, truth.entropy, rtol=0, atol=5e-5)
    assert entropy[3] == 0
    uniforms = np.random.default_rng(2).random((4, 6, 9), dtype=np.float32)
    states = as_numpy(ctcx.ctc_sample_paths(logits, LABELS, make(uniforms), **LENGTHS))
    right = sample_paths(*arrays, uniforms=uniforms)
    assert right.margin.min() > 1e-5
    np.testing.assert_array_equal(states, right.states)
    assert (states[3] == -1).all()


@pytest.mark.parametrize("library", LIBRARIES)
def test_one_sequence_drops_the_batch_axis(library):
    make = LIBRARIES[library]
    logits = make(LOGITS[0].astype(np.float32))
    found = ctcx.ctc_occupancies(logits, [1, 2], states=True)
    assert [array.shape for array in found] == [(9, 4), (9, 5), (), ()]
    assert ctcx.ctc_entropy(logits, [1, 2]).shape == ()
    uniforms = make(np.zeros((3, 9), dtype=np.float32))
    assert ctcx.ctc_sample_paths(logits, [1, 2], uniforms).shape == (3, 9)
    assert ctcx.ctc_occupancies(logits, []).states is None
    assert float(ctcx.ctc_entropy(logits, [])) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_entropy_counts_no_class_that_no_path_can_afford(library):
    """A fill of finfo.min: beside an infeasible sequence the core leaves it 1e-35 of occupancy."""
    fill = np.finfo(np.float32).min
    forced = [[0, 0, 0], [fill, 0, 0], [0, 0, 0]]  # equal labels, and no blank between them
    other = [[2.25, 1.25, -3], [1.25, 0.75, -2.5], [fill, -2, 1.75]]
    logits = LIBRARIES[library](np.asarray([forced, other], dtype=np.float32))
    entropy = as_numpy(ctcx.ctc_entropy(logits, [[2, 2], [2, 1]]))
    *_, truth = by_class_paths(np.maximum(np.float64(other), -300), [2, 1])
    np.testing.assert_allclose(entropy, [0, truth], rtol=0, atol=1e-5)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_entropy_of_a_single_path_is_zero_and_not_minus_zero(library):
    make = LIBRARIES[library]
    for logits, labels in (([], []), ([[0, -np.inf]], []), ([[0, -np.inf], [-np.inf, 0]], [1])):
        made = make(np.asarray(logits, dtype=np.float32).reshape(-1, 2))
        assert str(float(ctcx.ctc_entropy(made, labels))) == "0.0"


def test_time_major_is_about_logits_and_classes_only():
    turned = LOGITS.transpose(1, 0, 2)
    one = ctcx.ctc_occupancies(LOGITS, LABELS, **LENGTHS, states=True)
    other = ctcx.ctc_occupancies(turned, LABELS, **LENGTHS, states=True, time_major=True)
    np.testing.assert_array_equal(other.classes.transpose(1, 0, 2), one.classes)
    np.testing.assert_array_equal(other.states, one.states)
    uniforms = np.random.default_rng(3).random((4, 2, 9))
    np.testing.assert_array_equal(
        ctcx.ctc_sample_paths(turned, LABELS, uniforms, **LENGTHS, time_major=True),
        ctcx.ctc_sample_paths(LOGITS, LABELS, uniforms, **LENGTHS),
    )
    np.testing.assert_array_equal(
        ctcx.ctc_entropy(turned, LABELS, **LENGTHS, time_major=True),
        ctcx.ctc_entropy(LOGITS, LABELS, **LENGTHS),
    )


def test_empty_shapes():
    nothing = ctcx.ctc_occupancies(np.zeros((0, 3, 2)), np.zeros((0, 1), int), states=True)
    assert [array.shape for array in nothing] == [(0, 3, 2), (0, 3, 3), (0,), (0,)]
    no_frames = ctcx.ctc_occupancies(np.zeros((2, 0, 2)), [[], [1]])
    assert no_frames.feasible.tolist() == [True, False]
    assert ctcx.ctc_entropy(np.zeros((2, 0, 2)), [[], [1]]).tolist() == [0, 0]
    for shape in ((2, 0, 3), (2, 4, 0)):
        logits = np.zeros((2, shape[2], 2))
        assert ctcx.ctc_sample_paths(logits, [[], [1]], np.zeros(shape)).shape == shape


def test_half_precision_is_computed_in_float32():
    half = LOGITS.astype(np.float16)
    found = ctcx.ctc_occupancies(half, LABELS, **LENGTHS, states=True)
    assert {found.classes.dtype, found.states.dtype, found.loss.dtype} == {np.dtype("float32")}
    exact = occupancies(half.astype(float), LABELS, *LENGTHS.values(), 0)
    np.testing.assert_allclose(found.classes, exact.classes, rtol=0, atol=5e-6)
    entropy = ctcx.ctc_entropy(half, LABELS, **LENGTHS)
    assert entropy.dtype == np.float32
    np.testing.assert_allclose(entropy, exact.entropy, rtol=0, atol=5e-5)


def test_frequencies_of_sampled_paths_are_their_probabilities():
    logits = np.random.default_rng(5).normal(size=(1, 5, 3), scale=1.2)
    for labels in ([1, 2, 2], [1, 2]):
        probabilities = enumerate_posterior(logits, [labels], [5], [len(labels)], 0).paths[0]
        draws = 40_000
        uniforms = np.random.default_rng(6).random((draws, 5))
        counts = Counter(map(tuple, ctcx.ctc_sample_paths(logits[0], labels, uniforms).tolist()))
        assert set(counts) <= set(probabilities)
        common = [path for path, p in probabilities.items() if p * draws >= 5]
        statistic = sum(
            (counts[path] - probabilities[path] * draws) ** 2 / (probabilities[path] * draws)
            for path in common
        )
        # Chi-square with that many degrees of freedom is above this once in 10,000 draws.
        freedom = max(1, len(common) - 1)
        bound = freedom * (1 - 2 / (9 * freedom) + 3.72 * math.sqrt(2 / (9 * freedom))) ** 3
        assert statistic < bound


def test_the_order_of_choices():
    equal = np.zeros((6, 3))
    lowest, highest = np.zeros((1, 6)), np.full((1, 6), 1 - 2**-24)
    assert ctcx.ctc_sample_paths(equal, [1, 2], lowest).tolist() == [[1, 3, 3, 3, 3, 3]]
    assert ctcx.ctc_sample_paths(equal, [1, 2], highest).tolist() == [[0, 0, 0, 1, 3, 4]]
    # Of 3 frames with one label there are 6 paths, of which 3 end in the label.
    for number, end in ((0.49, 1), (0.51, 2)):
        states = ctcx.ctc_sample_paths(np.zeros((3, 2)), [1], np.array([[0.0, 0.0, number]]))
        assert int(states[0, 2]) == end


def differences(function, logits, step=1e-5):
    slopes = np.zeros(logits.shape)
    for index in np.ndindex(*logits.shape):
        up, down = logits.copy(), logits.copy()
        up[index] += step
        down[index] -= step
        slopes[index] = (function(up) - function(down)) / (2 * step)
    return slopes


WEIGHTS = np.array([1.0, 2.0, -0.5, 3.0])


def weighted(logits):
    return float((WEIGHTS * ctcx.ctc_entropy(logits, LABELS, **LENGTHS)).sum())


@pytest.mark.parametrize("reached", ["backward", "func", "compiled", "gradcheck"])
def test_pytorch_differentiates_the_entropy(reached):
    labels = torch.tensor(LABELS)
    lengths = {name: torch.tensor(given) for name, given in LENGTHS.items()}
    logits, weights = torch.tensor(LOGITS, requires_grad=True), torch.tensor(WEIGHTS)

    def function(x):
        return (weights * ctcx.ctc_entropy(x, labels, **lengths)).sum()

    if reached == "gradcheck":
        assert torch.autograd.gradcheck(function, logits)
        return
    if reached == "func":
        grad = torch.func.grad(function)(logits.detach())
    else:
        if reached == "compiled":
            function = torch.compile(function, fullgraph=True, backend="aot_eager")
        (grad,) = torch.autograd.grad(function(logits), logits)
    np.testing.assert_allclose(grad, differences(weighted, LOGITS), rtol=0, atol=1e-8)


def test_masked_classes_and_nan_padding_leave_the_gradient_finite():
    logits = LOGITS.copy()
    logits[:, :, 3] = -np.inf
    logits[1, 5:] = np.nan
    tensor = torch.tensor(logits, requires_grad=True)
    entropy = ctcx.ctc_entropy(tensor, LABELS, **LENGTHS)
    assert torch.isfinite(entropy).all()
    entropy.sum().backward()
    assert torch.isfinite(tensor.grad).all()
    assert (tensor.grad[1, 5:] == 0).all()
    x = jnp.asarray(logits, dtype=jnp.float32)
    grad = jax.grad(lambda x: ctcx.ctc_entropy(x, LABELS, **LENGTHS).sum())(x)
    np.testing.assert_allclose(grad, tensor.grad, rtol=0, atol=1e-5)


def test_jax_differentiates_the_entropy_and_compiles_all_three():
    logits, weights = jnp.asarray(LOGITS, dtype=jnp.float32), jnp.asarray(WEIGHTS, jnp.float32)

    def function(x):
        return (weights * ctcx.ctc_entropy(x, LABELS, **LENGTHS)).sum()

    expected = differences(weighted, LOGITS)
    for grad in (jax.grad(function), jax.jit(jax.grad(function))):
        np.testing.assert_allclose(grad(logits), expected, rtol=0, atol=1e-5)
    uniforms = jnp.asarray(np.random.default_rng(2).random((4, 3, 9)), dtype=jnp.float32)

    def both(x, u):
        found = ctcx.ctc_occupancies(x, LABELS, **LENGTHS, states=True)
        return found, ctcx.ctc_sample_paths(x, LABELS, u, **LENGTHS)

    found, states = jax.jit(both)(logits, uniforms)
    eager, eager_states = both(logits, uniforms)
    np.testing.assert_allclose(found.classes, eager.classes, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(states, eager_states)
    assert not jax.grad(lambda x: both(x, uniforms)[0].classes.sum())(logits).any()


@pytest.mark.parametrize("how", ["compiled", "vmap", "fake"])
def test_pytorch_sees_operators(how):
    logits, labels = torch.tensor(LOGITS), torch.tensor(LABELS)
    lengths = [torch.tensor(given) for given in LENGTHS.values()]
    uniforms = torch.rand((4, 3, 9), generator=torch.Generator().manual_seed(0))

    def function(x, u):
        found = ctcx.ctc_occupancies(x, labels, *lengths, states=True)
        entropy = ctcx.ctc_entropy(x, labels, *lengths)
        return found.classes, found.states, ctcx.ctc_sample_paths(x, labels, u, *lengths), entropy

    expected = function(logits, uniforms)
    if how == "compiled":
        found = torch.compile(function, fullgraph=True, backend="aot_eager")(logits, uniforms)
    elif how == "vmap":
        twice = torch.func.vmap(function)(torch.stack([logits] * 2), torch.stack([uniforms] * 2))
        found = [array[1] for array in twice]
    else:
        from torch._subclasses.fake_tensor import FakeTensorMode

        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fake = function(mode.from_tensor(logits), mode.from_tensor(uniforms))
        assert [(a.shape, a.dtype) for a in fake] == [(a.shape, a.dtype) for a in expected]
        return
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_the_entropy_is_computed_by_any_backend_and_the_others_by_one_that_offers_them():
    with ctcx.trace() as runs:
        ctcx.ctc_entropy(LOGITS, LABELS, **LENGTHS)
        ctcx.ctc_occupancies(LOGITS, LABELS, **LENGTHS)
        ctcx.ctc_sample_paths(LOGITS, LABELS, np.zeros((4, 1, 9)), **LENGTHS)
    assert [run.operation for run in runs] == ["loss_and_grad", "occupancies", "sample_paths"]
    assert ctcx.explain(LOGITS, LABELS, operation="occupancies").selected


GOOD = np.zeros((4, 2, 9))
BAD_UNIFORMS = {
    "a list": (GOOD.tolist(), "must be an array of numpy, as the logits are; got list"),
    "another library": (lambda: torch.zeros(4, 2, 9), "must be an array of numpy"),
    "integers": (GOOD.astype(int), "one of the dtypes float32, float64; got int64"),
    "half": (GOOD.astype(np.float16), "one of the dtypes float32, float64; got float16"),
    "no axis K": (GOOD[:, 0], r"\(N, K, T\), with N = 4 and T = 9.*got \(4, 9\)"),
    "other frames": (GOOD[:, :, :8], r"got \(4, 2, 8\)"),
    "other sequences": (GOOD[:3], r"got \(3, 2, 9\)"),
}


@pytest.mark.parametrize("kind", BAD_UNIFORMS)
def test_wrong_uniforms(kind):
    uniforms, message = BAD_UNIFORMS[kind]
    uniforms = uniforms() if callable(uniforms) else uniforms
    with pytest.raises(ctcx.CTCInputError, match=message) as caught:
        ctcx.ctc_sample_paths(LOGITS, LABELS, uniforms, **LENGTHS)
    assert caught.value.argument == "uniforms"


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("value", [1.0, -0.001, math.nan, math.inf])
def test_numbers_out_of_range(library, value):
    make = LIBRARIES[library]
    uniforms = GOOD.astype(np.float32)
    uniforms[1, 1, 4] = value
    logits = make(LOGITS.astype(np.float32))
    message = r"uniforms\[1, 1, 4\] is .*sequence 1, frame 4.*not including, 1"
    with pytest.raises(ctcx.CTCInputError, match=message) as caught:
        ctcx.ctc_sample_paths(logits, LABELS, make(uniforms), **LENGTHS)
    assert (caught.value.sequence, caught.value.position) == (1, 4)
    uniforms[1, 1, 4], uniforms[1, 1, 5] = 0.0, value  # past the length
    ctcx.ctc_sample_paths(logits, LABELS, make(uniforms), **LENGTHS)


def test_many_draws_for_one_output_are_mapped_over():
    uniforms = np.random.default_rng(0).random((3, 2, 9), dtype=np.float32)
    logits, labels = LOGITS[0].astype(np.float32), LABELS[0]
    expected = [ctcx.ctc_sample_paths(logits, labels, each).tolist() for each in uniforms]
    x = jnp.asarray(logits)
    found = jax.vmap(lambda u: ctcx.ctc_sample_paths(x, labels, u))(jnp.asarray(uniforms))
    assert found.tolist() == expected
    x = torch.tensor(logits)
    found = torch.func.vmap(lambda u: ctcx.ctc_sample_paths(x, labels, u))(torch.tensor(uniforms))
    assert found.tolist() == expected


def test_one_sequence_is_named_without_its_number():
    with pytest.raises(ctcx.CTCInputError, match=r"uniforms\[0, 3\] is 2.0"):
        ctcx.ctc_sample_paths(LOGITS[0], [1], np.array([[0, 0, 0, 2.0, 0, 0, 0, 0, 0]]))
    with pytest.raises(ctcx.CTCInputError, match=r"shape \(K, T\), with T = 9"):
        ctcx.ctc_sample_paths(LOGITS[0], [1], np.zeros((1, 2, 9)))


@pytest.mark.parametrize("option", ["time_major", "validate"])
def test_wrong_options(option):
    calls = (ctcx.ctc_occupancies, ctcx.ctc_entropy)
    for call in (*calls, lambda x, y, **given: ctcx.ctc_sample_paths(x, y, GOOD, **given)):
        with pytest.raises(ctcx.CTCInputError, match=f"{option} must be True or False"):
            call(LOGITS, LABELS, **{option: 1})
    with pytest.raises(ctcx.CTCInputError, match="states must be True or False"):
        ctcx.ctc_occupancies(LOGITS, LABELS, states="yes")


def test_long_sequences_keep_their_digits():
    logits, labels, frames, counts = random_problem(9, 2, 4000, 8, 300, dtype="float32")
    truth = occupancies(logits, labels, frames, counts, 0)
    found = ctcx.ctc_occupancies(logits, labels, frames, counts, states=True)
    np.testing.assert_allclose(found.states, truth.states, rtol=0, atol=5e-6)
    uniforms = np.random.default_rng(0).random((2, 3, 4000))
    right = sample_paths(logits, labels, frames, counts, 0, uniforms=uniforms)
    states = ctcx.ctc_sample_paths(logits, labels, uniforms, frames, counts)
    same = (states == right.states).all(axis=2)
    assert same[right.margin > 1e-5].all()


def test_the_example_runs(capsys):
    runpy.run_path(str(ROOT / "docs" / "examples" / "sample_lines.py"), run_name="__main__")
    assert "'red balloon': about 2.0 paths" in capsys.readouterr().out
