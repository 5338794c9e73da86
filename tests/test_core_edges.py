"""The core at the edges: offsets, the limit, NaN, values out of range, widths, on every library."""

import array_api_strict
import numpy as np
import pytest

import ctcx
from ctcx.conformance.oracle import reference
from ctcx.plugin import load_kernel
from tests.core_routes import use_route  # noqa: F401 - a fixture
from tests.helpers import needed, random_problem

LIMIT = 1.8e8
GRAD = {"float64": 1e-10, "float32": 5e-6}


class Library:
    """Arrays of a library, and the core on them."""

    def __init__(self, name, backend="array-api"):
        self.name, self.backend = name, backend
        if name == "torch":
            self.array = needed("torch").from_numpy
        elif name == "jax":
            self.array = needed("jax").numpy.asarray
        else:
            self.array = array_api_strict.asarray if name == "strict" else np.asarray

    def loss_and_grad(self, logits, *rest, **options):
        rest = tuple(each if each is None else self.array(np.asarray(each)) for each in rest)
        logits = self.array(logits)
        result = ctcx.ctc_loss_and_grad(logits, *rest, backend=self.backend, **options)
        alone = ctcx.ctc_loss(logits, *rest, backend=self.backend, **options)
        result = type(result)(*map(np.asarray, result))
        np.testing.assert_allclose(np.asarray(alone), result.loss, rtol=1e-6, atol=1e-5)
        return result


STRICT = pytest.param("strict", marks=pytest.mark.slow)


@pytest.fixture(params=["numpy", "never small", "extended exponents", "torch", STRICT])
def library(request, use_route):  # noqa: F811
    """Libraries that compute at once, with all routes on NumPy."""
    return Library(request.param, use_route(request.param))


KNOWN = {}


def truth_of(*arrays):
    """The right answer in extended precision, computed once for all libraries and routes."""
    key = tuple((array.shape, array.tobytes()) for array in arrays)
    if key not in KNOWN:
        KNOWN[key] = reference(*arrays, 0, real=np.longdouble)
    return KNOWN[key]


def check(library, logits, labels, logit_lengths=None, label_lengths=None):
    """Against the oracle, with the limit applied."""
    count, frames, _ = logits.shape
    labels = np.asarray(labels)
    logit_lengths = np.full(count, frames) if logit_lengths is None else logit_lengths
    label_lengths = np.full(count, labels.shape[1]) if label_lengths is None else label_lengths
    truth = truth_of(logits.astype(np.float64), labels, logit_lengths, label_lengths)
    beyond = truth.loss > LIMIT
    result = library.loss_and_grad(logits, labels, logit_lengths, label_lengths)
    loss = np.where(beyond, np.inf, truth.loss)
    rtol, atol = (1e-10, 1e-12) if logits.dtype == np.float64 else (2e-6, 1.25e-7)
    np.testing.assert_allclose(result.loss, loss, rtol=rtol, atol=atol * max(16, frames))
    np.testing.assert_array_equal(result.feasible, np.isfinite(loss))
    grad = np.where(beyond[:, None, None], 0.0, truth.grad)
    np.testing.assert_allclose(result.grad, grad, rtol=0, atol=GRAD[logits.dtype.name])
    return result


DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@DTYPES
@pytest.mark.parametrize("frames", [8, 40])
@pytest.mark.parametrize("value", [3e38, -3e38, 1e30, -1e30, 12345.678, "smallest", "largest"])
def test_rows_of_one_value(library, dtype, frames, value):
    limits = np.finfo(dtype)
    number = {"smallest": limits.min, "largest": limits.max}.get(value, value)
    labels = [[1, 2, 3]]
    flat = library.loss_and_grad(np.zeros((1, frames, 4), dtype=dtype), labels)
    result = library.loss_and_grad(np.full((1, frames, 4), number, dtype=dtype), labels)
    np.testing.assert_allclose(result.loss, flat.loss, rtol=1e-6)
    np.testing.assert_allclose(result.grad, flat.grad, atol=1e-7)


@pytest.mark.parametrize("frames", [8, 40])
@pytest.mark.parametrize("labels", [[[]], [[3]], [[2, 3]]])
def test_differences_that_overflow(library, labels, frames):
    logits = np.tile(np.array([3.4e38, -3.4e38, 0, 1], dtype=np.float32), (1, frames, 1))
    labels = np.array(labels, dtype=np.int64)
    result = library.loss_and_grad(logits, labels)
    assert result.loss == (np.inf if labels.size else 0)
    assert not result.grad.any()


@DTYPES
@pytest.mark.parametrize("frames", [20, 90])
@pytest.mark.parametrize("whole", [1.0, 64.0, 2.0**12])
def test_a_constant_for_each_frame_changes_nothing(library, dtype, frames, whole):
    """Exactly nothing, where the sums are exact."""
    rng = np.random.default_rng(3)
    grid = 2.0**-3 if dtype == np.float32 else 2.0**-20
    logits = np.round(rng.standard_normal((2, frames, 6)) * 4 / grid) * grid
    shifted = logits + rng.integers(-8, 9, size=(2, frames, 1)) * 8.0 * whole
    labels = rng.integers(1, 6, size=(2, 5))
    plain = library.loss_and_grad(logits.astype(dtype), labels)
    moved = library.loss_and_grad(shifted.astype(dtype), labels)
    np.testing.assert_allclose(moved.loss, plain.loss, rtol=4e-7 if dtype == np.float32 else 1e-14)
    np.testing.assert_allclose(moved.grad, plain.grad, atol=3e-7 if dtype == np.float32 else 1e-13)


@pytest.mark.parametrize(
    ("dtype", "offset"),
    [("float64", 1e7), ("float64", 1e9), ("float64", -1e12), ("float32", 1e5), ("float32", -3e6)],
)
def test_large_offsets_are_as_exact_as_the_inputs(library, dtype, offset):
    rng = np.random.default_rng(4)
    for frames in (20, 300):
        logits = (rng.standard_normal((2, frames, 8)) * 3 + offset).astype(dtype)
        check(library, logits, rng.integers(1, 8, (2, 9)))


@pytest.mark.parametrize(
    "library", ["numpy", "never small", "extended exponents", "torch"], indirect=True
)
@pytest.mark.parametrize("scale", [8.0, 1000.0, 10_000.0])
def test_half_precision_is_rounded_once(library, scale):
    rng = np.random.default_rng(5)
    logits = (rng.standard_normal((2, 60, 8)) * scale).astype(np.float16)
    labels = rng.integers(1, 8, (2, 9))
    wide = library.loss_and_grad(logits.astype(np.float32), labels)
    result = library.loss_and_grad(logits, labels)
    np.testing.assert_allclose(result.loss, wide.loss, rtol=1e-6)
    np.testing.assert_allclose(result.grad, wide.grad.astype(np.float16), rtol=1e-3, atol=1e-6)


def up_to_the_limit(frames, total, late):
    """All of the loss is paid by the only path that is left at the end, evenly or in one half.

    Label 5 isn't in the transcript, so whatever emits it is lost; ``late`` makes states of the
    transcript that lead nowhere far better than the path in the first half.
    """
    rng = np.random.default_rng(6)
    logits = rng.standard_normal((1, frames, 6))
    if late:
        half = frames // 2
        logits[:, :half, 5] += total / half
        logits[:, half:, 5] += 3.0
    else:
        logits[:, :, 5] += total / frames
    return logits


TOTALS = [1e3, 3e7, 1.79e8, 1.81e8]


@pytest.mark.xdist_group("up to the limit")  # one process knows what is right for all libraries
@pytest.mark.parametrize(
    "library", ["numpy", "never small", "extended exponents", "torch"], indirect=True
)
@DTYPES
@pytest.mark.parametrize("frames", [6, 40, 1500])
@pytest.mark.parametrize("total", TOTALS)
@pytest.mark.parametrize("late", [False, True])
def test_up_to_the_limit(library, dtype, frames, total, late):
    """Each alone: where values are read, they choose the route of a whole batch."""
    check(library, up_to_the_limit(frames, total, late).astype(dtype), [[1, 2, 1, 3]])


@pytest.mark.parametrize("library", ["numpy", STRICT], indirect=True)
@DTYPES
@pytest.mark.parametrize("frames", [6, 40, 1500])
def test_up_to_the_limit_in_one_batch(library, dtype, frames):
    problems = [up_to_the_limit(frames, total, late) for total in TOTALS for late in (False, True)]
    check(library, np.concatenate(problems).astype(dtype), [[1, 2, 1, 3]] * len(problems))


@pytest.mark.parametrize("total", [1e3, 3e7, 1.79e8, 1.81e8])
def test_the_only_path_is_far_below_the_best_state_at_first(library, total):
    """The first label is sure in the first half, but all frames there are needed by others."""
    frames = 40
    labels = np.arange(1, frames + 1)[None, :]
    rng = np.random.default_rng(7)
    logits = rng.standard_normal((1, frames, frames + 1))
    logits[:, : frames // 2, 1] += total / (frames // 2 - 1)
    check(library, logits.astype(np.float32), labels)


@pytest.mark.parametrize("frames", [9, 50])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("infeasible", ["inf", "zero"])
def test_unchecked_nan_reaches_its_own_sequence_only(library, frames, wrong, infeasible):
    logits, labels, _, _ = random_problem(8, 4, frames, 6, 3, ragged=False)
    lengths, label_lengths = np.array([frames, frames - 3, frames, 2]), np.array([3, 3, 3, 3])
    logits[0, frames - 1, 2] = wrong
    logits[1, frames - 4, 5] = wrong
    logits[3, 0, 0] = wrong  # which has too few frames
    logits[1, frames - 3 :] = np.nan
    logits[3, 2:] = np.inf
    clean = np.where(np.isfinite(logits), logits, 0).astype(np.float32)
    expected = library.loss_and_grad(clean, labels, lengths, label_lengths)
    result = library.loss_and_grad(
        logits, labels, lengths, label_lengths, validate=False, infeasible=infeasible
    )
    np.testing.assert_array_equal(np.isnan(result.loss), [True, True, False, True])
    np.testing.assert_array_equal(result.loss[2], expected.loss[2])
    np.testing.assert_allclose(result.grad[2], expected.grad[2], atol=1e-7)
    for n in (0, 1, 3):
        assert np.isnan(result.grad[n, : lengths[n]]).all()
        assert not result.grad[n, lengths[n] :].any()


@pytest.mark.parametrize("frames", [9, 50])
def test_unchecked_labels_and_lengths_out_of_range_are_nan(library, frames):
    logits, labels, _, _ = random_problem(9, 6, frames, 6, 3, ragged=False)
    labels[0, 1], labels[1, 2] = 6, -1
    labels[5, 2] = 10**6  # past its length
    logit_lengths = np.array([frames, frames, frames + 1, -2, frames, frames])
    label_lengths = np.array([3, 3, 3, 3, 4, 2])
    result = library.loss_and_grad(logits, labels, logit_lengths, label_lengths, validate=False)
    np.testing.assert_array_equal(np.isnan(result.loss), [True] * 5 + [False])
    right = library.loss_and_grad(logits[5:], labels[5:, :2])
    np.testing.assert_allclose(result.loss[5:], right.loss, rtol=1e-6)
    np.testing.assert_allclose(result.grad[5:], right.grad, atol=1e-6)
    for n in range(5):
        assert np.isnan(result.grad[n, : max(0, min(frames, logit_lengths[n]))]).all()


@pytest.mark.parametrize("kinds", [("int32", "int64", "int32"), ("int64", "int32", "int64")])
def test_integers_of_either_width_in_any_strides(library, kinds):
    logits, labels, lengths, label_lengths = random_problem(10, 3, 50, 6, 7)
    expected = library.loss_and_grad(logits, labels, lengths, label_lengths)
    mixed = []
    for array, kind in zip((labels, lengths, label_lengths), kinds, strict=True):
        wide = np.repeat(array.astype(kind), 2, axis=-1)
        strided = library.array(wide)[..., ::2]
        np.testing.assert_array_equal(np.asarray(strided), array)
        mixed.append(strided)
    loss_and_grad = load_kernel(library.backend, "loss_and_grad")
    loss, grad = loss_and_grad(library.array(logits), *mixed, blank=0)
    np.testing.assert_array_equal(np.asarray(loss), expected.loss)
    np.testing.assert_array_equal(np.asarray(grad), expected.grad)


def test_labels_masked_by_minus_inf_make_a_small_problem_infeasible():
    logits = np.zeros((3, 8, 4), dtype=np.float32)
    logits[1, :, 2] = -np.inf
    logits[2, 3, :] = -np.inf
    result = ctcx.ctc_loss_and_grad(logits, [[1, 2]] * 3, backend="array-api")
    np.testing.assert_array_equal(result.feasible, [True, False, False])
    np.testing.assert_array_equal(result.loss[1:], [np.inf, np.inf])
    assert not result.grad[1:].any()


@pytest.mark.xdist_group("wide labels")
@pytest.mark.parametrize("width", [300, 600])
def test_wide_labels_are_sorted_by_class(library, width):
    """Across the width from which on they are sorted instead of compared."""
    frames = width + 40
    rng = np.random.default_rng(11)
    logits = rng.standard_normal((1, frames, 5)).astype(np.float32)
    labels = 1 + np.arange(width)[None, :] % 4
    check(library, logits, labels)


def test_memory_does_not_grow_with_the_square_of_the_width_of_labels():
    import tracemalloc

    logits = np.zeros((2, 40, 5), dtype=np.float32)
    wide = np.ones((2, 30_000), dtype=int)
    expected = ctcx.ctc_loss_and_grad(logits, wide[:, :1], backend="array-api")
    tracemalloc.start()
    result = ctcx.ctc_loss_and_grad(logits, wide, None, [1, 1], backend="array-api")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(result.loss, expected.loss)
    np.testing.assert_array_equal(result.grad, expected.grad)
    assert peak < 20e6


def test_wide_padding_where_values_are_not_read():
    """Memory is in proportion to the width, and so is time: some 10 arrays of it for each frame."""
    xp = array_api_strict
    logits = xp.zeros((2, 6, 5), dtype=xp.float32)
    wide = xp.ones((2, 30_000), dtype=xp.int64)
    lengths = xp.asarray([1, 1])
    result = ctcx.ctc_loss_and_grad(logits, wide, None, lengths, backend="array-api")
    expected = ctcx.ctc_loss_and_grad(logits, wide[:, :1], backend="array-api")
    np.testing.assert_allclose(np.asarray(result.loss), np.asarray(expected.loss), rtol=1e-6)
    np.testing.assert_allclose(np.asarray(result.grad), np.asarray(expected.grad), atol=1e-6)


def test_bfloat16_above_the_limit_by_the_denominator_alone():
    needed("jax")  # which comes with ml_dtypes
    ml_dtypes = needed("ml_dtypes")
    logits = np.zeros((1, 200, 4), dtype=ml_dtypes.bfloat16)
    logits[..., 3] = 1e6
    result = ctcx.ctc_loss_and_grad(logits, [[1, 2]], backend="array-api")
    assert np.isposinf(result.loss).all()
    assert not result.feasible.any()
    assert result.grad.dtype == logits.dtype
    assert not result.grad.any()


def test_no_warning_from_padding_in_half_precision():
    needed("jax")  # which comes with ml_dtypes
    ml_dtypes = needed("ml_dtypes")
    logits = np.zeros((2, 40, 5), dtype=ml_dtypes.bfloat16)
    logits[1, 20:] = np.nan
    for frames in (9, 40):
        result = ctcx.ctc_loss_and_grad(
            logits[:, :frames], [[1, 2]] * 2, [frames, 5], backend="array-api"
        )
        assert result.feasible.all()
        assert not np.isnan(result.grad.astype(np.float32)).any()


def test_under_a_trace():
    """JAX compiles once for this shape: the same edges as above."""
    library, frames = Library("jax"), 40
    rng = np.random.default_rng(12)
    noise = rng.standard_normal((1, frames, 6)).astype(np.float32)
    labels = np.array([[1, 2, 1, 3]])
    plain = check(library, noise, labels)
    for value in (1e5, 1e30, -1e30, 3e38, np.finfo(np.float32).max, np.finfo(np.float32).min):
        check(library, np.full_like(noise, value), labels)
    for total in (1e3, 3e7, 1.79e8, 1.81e8):
        logits = noise.copy()
        logits[:, :, 5] += total / frames
        check(library, logits, labels)
    overflow = np.tile(np.array([3.4e38, -3.4e38, 0, 1, 0, 0], dtype=np.float32), (1, frames, 1))
    assert np.isinf(library.loss_and_grad(overflow, labels).loss)
    bad = noise.copy()
    bad[0, 30, 2] = np.nan
    result = library.loss_and_grad(bad, labels, [35], [4], validate=False)
    assert np.isnan(result.loss).all()
    assert np.isnan(result.grad[0, :35]).all()
    assert not result.grad[0, 35:].any()
    result = library.loss_and_grad(bad, labels, [30], [4], validate=False)
    assert np.isfinite(result.loss).all()
    for wrong in ([[1, 2, 6, 3]], [[1, -1, 1, 3]]):
        result = library.loss_and_grad(noise, wrong, validate=False)
        assert np.isnan(result.loss).all()
        assert np.isnan(result.grad).all()
    for lengths in (([41], [4]), ([-1], [4]), ([40], [5]), ([40], [-1])):
        assert np.isnan(library.loss_and_grad(noise, labels, *lengths, validate=False).loss).all()
    assert np.isfinite(plain.loss).all()


@pytest.mark.parametrize("scale", [1.0, 300.0, 1e38])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_errors_that_numpy_is_told_to_raise_are_no_matter(scale, dtype):
    """A probability too small for any float is 0, and no error."""
    logits, labels, frames, counts = random_problem(0, 3, 12, 5, 3)
    with np.errstate(over="ignore"):
        logits = np.clip((logits * scale).astype(dtype), np.finfo(dtype).min, np.finfo(dtype).max)
    logits[0, frames[0] :] = np.nan
    rest = labels, frames, counts
    calls = {
        "loss": lambda: ctcx.ctc_loss(logits, *rest),
        "loss_and_grad": lambda: tuple(ctcx.ctc_loss_and_grad(logits, *rest)),
        "align": lambda: tuple(ctcx.ctc_align(logits, *rest, infeasible="empty")),
        "occupancies": lambda: tuple(ctcx.ctc_occupancies(logits, *rest, states=True)),
        "entropy": lambda: ctcx.ctc_entropy(logits, *rest),
        "greedy": lambda: tuple(ctcx.ctc_greedy(logits, frames)),
        "beam": lambda: tuple(ctcx.ctc_beam_search(logits, frames, width=3, top=2)),
        "guided": lambda: tuple(ctcx.ctc_beam_search(logits, frames, width=3, boost={(1, 2): 1.0})),
        "hvp": lambda: ctcx.ctc_hvp(logits, *rest, vector=np.ones_like(logits)),
    }
    for name, call in calls.items():
        expected = call()
        with np.errstate(all="raise"):
            found = call()
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=name)
