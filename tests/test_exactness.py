"""Right to the last digit that the dtype allows, against the independent oracle."""

from functools import cache

import numpy as np
import pytest

import ctcx
from ctcx._core.recursion import Recursion
from ctcx.conformance.oracle import reference
from tests.core_routes import use_route  # noqa: F401 - a fixture
from tests.helpers import random_problem

pytestmark = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@pytest.fixture(params=["as it comes", "never small", "extended exponents"], autouse=True)
def recursion(request, use_route):  # noqa: F811
    """NumPy tries shorter ways first; every test also runs as other libraries do."""
    with ctcx.use_backend(use_route(request.param)):
        yield request.param


GRAD_TOLERANCE = {np.float32: 5e-6, np.float64: 1e-10}
LOSS_TOLERANCE = {np.float32: 1e-6, np.float64: 1e-10}


def check(logits, labels, logit_lengths, label_lengths, blank=0, dtype=np.float32):
    before = [np.copy(a) for a in (logits, labels, logit_lengths, label_lengths)]
    result = ctcx.ctc_loss_and_grad(logits, labels, logit_lengths, label_lengths, blank=blank)
    again = ctcx.ctc_loss_and_grad(logits, labels, logit_lengths, label_lengths, blank=blank)
    for old, new in zip(before, (logits, labels, logit_lengths, label_lengths), strict=True):
        assert old.tobytes() == np.asarray(new).tobytes(), "an input was changed"
    assert result.loss.tobytes() == again.loss.tobytes()
    assert result.grad.tobytes() == again.grad.tobytes()
    truth = reference(logits.astype(np.float64), labels, logit_lengths, label_lengths, blank)
    loss, grad = truth.loss, truth.grad
    assert result.loss.dtype == dtype
    assert result.grad.dtype == dtype
    assert np.all(result.loss >= 0)
    finite = np.isfinite(loss)
    np.testing.assert_array_equal(np.isfinite(result.loss), finite)
    np.testing.assert_allclose(
        result.loss[finite], loss[finite], rtol=LOSS_TOLERANCE[dtype], atol=LOSS_TOLERANCE[dtype]
    )
    np.testing.assert_allclose(result.grad, grad, rtol=0, atol=GRAD_TOLERANCE[dtype])
    return result


@pytest.mark.parametrize("scale", [0.1, 2.0, 30.0, 100.0])
@pytest.mark.parametrize("blank", [0, 3, 5])
def test_random_batches(dtype, scale, blank):
    check(*random_problem(1, 6, 40, 6, 12, scale=scale, blank=blank, dtype=dtype), blank, dtype)


def test_exact_fit_repeats_and_one_frame_too_few(dtype):
    """T = L + repeats exactly leaves one path; a frame fewer leaves none."""
    rng = np.random.default_rng(2)
    labels = np.array([[1, 1, 2, 2, 2], [1, 2, 1, 2, 1], [3, 3, 3, 3, 3]])
    need = ctcx.min_frames(labels)
    np.testing.assert_array_equal(need, [8, 5, 9])
    logits = (rng.standard_normal((3, 9, 4)) * 30).astype(dtype)
    result = check(logits, labels, need, np.full(3, 5), dtype=dtype)
    assert result.feasible.all()
    result = check(logits, labels, need - 1, np.full(3, 5), dtype=dtype)
    assert not result.feasible.any()
    assert not result.grad.any()
    assert np.isposinf(result.loss).all()


@pytest.mark.parametrize(
    "shape", [(0, 5, 3, 2), (2, 0, 3, 2), (2, 5, 3, 0), (1, 1, 2, 1), (3, 7, 1, 0)]
)
def test_degenerate_shapes(dtype, shape):
    n, t, c, s = shape
    logits = np.random.default_rng(3).standard_normal((n, t, c)).astype(dtype)
    labels = np.ones((n, s), dtype=np.int64)
    result = check(logits, labels, np.full(n, t), np.full(n, s), dtype=dtype)
    assert result.grad.shape == logits.shape
    if t == 0 and s == 0:
        np.testing.assert_array_equal(result.loss, np.zeros(n))


def test_no_frames_and_no_labels_cost_nothing(dtype):
    logits = np.zeros((2, 0, 3), dtype=dtype)
    result = ctcx.ctc_loss_and_grad(logits, [[], [1]])
    np.testing.assert_array_equal(result.loss, [0, np.inf])


def test_masked_classes(dtype):
    """-inf logits: an unused class, the blank in some frames, all but one class, a needed class."""
    rng = np.random.default_rng(4)
    logits = rng.standard_normal((5, 12, 5)).astype(dtype)
    labels = np.tile([1, 2, 2], (5, 1))
    logits[0, :, 4] = -np.inf
    logits[1, ::3, 0] = -np.inf
    logits[2, 4, :] = -np.inf
    logits[2, 4, 0] = 1.0
    logits[3, :, 2] = -np.inf
    logits[4, :, 3:] = np.finfo(dtype).min
    result = check(logits, labels, np.full(5, 12), np.full(5, 3), dtype=dtype)
    np.testing.assert_array_equal(result.feasible, [True, True, True, False, True])


def test_what_stands_past_the_lengths_changes_no_bit(dtype):
    logits, labels, logit_lengths, label_lengths = random_problem(5, 4, 20, 6, 5, dtype=dtype)
    clean = check(logits, labels, logit_lengths, label_lengths, dtype=dtype)
    for n in range(4):
        logits[n, logit_lengths[n] :] = [np.nan, np.inf, -np.inf, 1e30, 0, np.nan]
        labels[n, label_lengths[n] :] = -(10**12)
    dirty = check(logits, labels, logit_lengths, label_lengths, dtype=dtype)
    assert clean.loss.tobytes() == dirty.loss.tobytes()
    assert clean.grad.tobytes() == dirty.grad.tobytes()


@pytest.mark.parametrize("offset", [1e3, 1e5, -1e6])
def test_a_large_shared_offset(dtype, offset):
    """It is taken off: summed over the frames it would be beyond what float32 counts exactly."""
    logits, *rest = random_problem(6, 2, 600, 8, 60, dtype=dtype)
    check((logits + offset).astype(dtype), *rest, dtype=dtype)


@pytest.mark.parametrize("scale", [1e6, 1e8, 1e29])
def test_never_nan_however_large(dtype, scale):
    """Beyond the documented limit digits are lost, and nothing worse happens."""
    problem = random_problem(9, 2, 300, 5, 40, scale=scale, dtype=dtype)
    result = ctcx.ctc_loss_and_grad(*problem)
    assert (result.loss >= 0).all()
    assert (np.abs(result.grad) <= 1 + 1e-6).all()


@cache
def twenty_thousand_frames():
    """Return a problem in float32, and its loss and gradient."""
    problem = random_problem(7, 1, 20_000, 32, 500, dtype=np.float32, ragged=False)
    return problem, reference(problem[0].astype(np.float64), *problem[1:], 0)


@pytest.mark.slow
@pytest.mark.xdist_group("twenty thousand frames")  # whose truth takes long
@pytest.mark.parametrize(
    "recursion",
    [
        "as it comes",
        pytest.param("never small", marks=pytest.mark.thorough),
        pytest.param("extended exponents", marks=pytest.mark.thorough),
    ],
    indirect=True,
)
def test_twenty_thousand_frames(dtype):
    """Where float32 implementations with unnormalised log-probabilities are off by 1 and more."""
    (logits, labels, *_), truth = twenty_thousand_frames()
    result = ctcx.ctc_loss_and_grad(logits.astype(dtype), labels)
    np.testing.assert_allclose(result.loss, truth.loss, rtol=LOSS_TOLERANCE[dtype])
    assert np.abs(result.grad - truth.grad).max() < GRAD_TOLERANCE[dtype] * (
        1 if dtype == np.float32 else 10
    )


@pytest.mark.slow
def test_confident_and_long(dtype):
    """Scale 100 over 3,000 frames: the likeliest path has a likelihood of about exp(-400,000)."""
    check(
        *random_problem(8, 1, 3_000, 32, 300, scale=100.0, dtype=dtype, ragged=False), dtype=dtype
    )


def test_what_plain_probabilities_lose_is_computed_again(dtype, recursion, monkeypatch):
    """A model that is sure one frame too late: the only path is far below the best state."""
    tried = []
    original = Recursion.second_half

    def spy(*args, **options):
        tried.append("extended exponents")
        return original(*args, **options)

    monkeypatch.setattr(Recursion, "second_half", spy)
    labels = np.arange(1, 61)[None, :]
    logits = np.zeros((1, 60, 61), dtype=dtype)
    logits[0, np.arange(1, 60), labels[0, :-1]] = 30.0
    lengths = np.array([60])
    check(logits, labels, lengths, lengths, dtype=dtype)
    assert tried == ["extended exponents"] * 2

    tried.clear()
    check(logits / 30, labels, lengths, lengths, dtype=dtype)
    assert bool(tried) == (recursion == "extended exponents")


def test_what_underflows_in_a_small_problem_is_computed_again(dtype, recursion, monkeypatch):
    """Sure by 100 nats and one frame too late: the only path has a likelihood of about e**-800."""
    labels = np.arange(1, 9)[None, :]
    logits = np.zeros((1, 8, 9), dtype=dtype)
    logits[0, np.arange(1, 8), labels[0, :-1]] = 100.0
    lengths = np.array([8])
    solved = []
    original = Recursion.small

    def spy(call):
        solved.append((solution := original(call)) is not None)
        return solution

    monkeypatch.setattr(Recursion, "small", spy)
    check(logits, labels, lengths, lengths, dtype=dtype)
    assert solved == [False] * 2
    check(logits / 100, labels, lengths, lengths, dtype=dtype)
    assert solved[2:] == [recursion == "as it comes"] * 2


@pytest.mark.parametrize(("confidence", "loss"), [(14.0, 842.2014), (12.0, 714.2150)])
def test_what_underflows_where_the_directions_meet(dtype, confidence, loss):
    """Sure of the last label in the first half and of the first one in the second half."""
    labels = np.arange(1, 41)[None, :]
    logits = np.zeros((1, 64, 41), dtype=dtype)
    logits[0, :32, 40] = confidence
    logits[0, 32:, 1] = confidence
    result = check(logits, labels, np.array([64]), np.array([40]), dtype=dtype)
    assert result.feasible.all()
    np.testing.assert_allclose(result.loss, loss, rtol=1e-6)


@pytest.mark.parametrize("seed", [1, 16, 40, 52, 53])
def test_confident_logits_and_labels_that_hardly_fit(dtype, seed):
    rng = np.random.default_rng(seed)
    count, classes = int(rng.integers(30, 64)), int(rng.integers(5, 60))
    logits = (rng.standard_normal((1, 64, classes)) * 8).astype(dtype)
    labels = rng.integers(1, classes, size=(1, count))
    check(logits, labels, np.array([64]), np.array([count]), dtype=dtype)


@pytest.mark.parametrize(
    "seed", [40, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(41, 60))]
)
def test_sure_of_one_class_for_a_while_and_then_of_another(dtype, seed):
    """In any order, so that the path lies far below the best state for hundreds of frames."""
    rng = np.random.default_rng(seed)
    frames = int(rng.integers(33, 160))
    count = int(rng.integers(frames // 4, frames))
    confidence = float(rng.choice([8, 12, 14, 20, 40, 100, 300]))
    logits = np.zeros((1, frames, count + 1), dtype=dtype)
    frame = 0
    while frame < frames:
        until = frame + int(rng.integers(1, 40))
        logits[0, frame:until, rng.integers(0, count + 1)] = confidence
        frame = until
    labels = np.arange(1, count + 1)[None, :]
    check(logits, labels, np.array([frames]), np.array([count]), dtype=dtype)
