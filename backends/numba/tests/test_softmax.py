import numpy as np
import pytest
from ctcx_numba._simd import pointer
from ctcx_numba._softmax import LOG2_E, softmax_rows
from numba import njit


@njit
def rows(x, g, sums):
    return softmax_rows(
        pointer(x), x.shape[1], pointer(g), g.shape[1], len(x), x.shape[1], pointer(sums), 2
    )


def softmax(x):
    g, sums = np.empty_like(x), np.full(2 * len(x), np.nan)
    return g, sums.reshape(-1, 2), rows(x, g, sums)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e6, 1e30])
@pytest.mark.parametrize("classes", [1, 2, 15, 16, 17, 31, 32, 33, 64, 65, 100, 1000])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_rows_are_right(kind, classes, scale):
    x = (np.random.default_rng(0).standard_normal((7, classes)) * scale).astype(kind)
    x[1] += kind(scale) * 5
    x[2, 1:] = -np.inf
    g, sums, excess = softmax(x)
    exact = np.exp(x.astype(np.longdouble) - x.max(axis=1, keepdims=True))
    exact /= exact.sum(axis=1, keepdims=True)
    assert np.abs(g - exact).max() <= 4 * np.finfo(kind).eps
    assert abs(excess) <= len(x) * np.finfo(kind).eps
    if scale <= 30:  # what the rows were divided by brings the logits back
        m, inverse = sums.T[..., None]
        from_sums = np.exp2(x.astype(np.longdouble) * LOG2_E - m) * inverse
        np.testing.assert_allclose(
            from_sums.astype(float), exact.astype(float), rtol=50 * np.finfo(kind).eps, atol=1e-300
        )


@pytest.mark.parametrize("classes", [1, 5, 32, 33, 200])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("wrong", ["nan", "a NaN with other bits", "inf", "all nan", "nan masked"])
def test_nan_and_inf_are_noticed_wherever_they_stand(kind, classes, wrong):
    for place in range(classes):
        x = np.zeros((3, classes), dtype=kind)
        x[1, place] = np.inf if wrong == "inf" else np.nan
        if wrong == "a NaN with other bits":
            x.view(np.int32 if kind is np.float32 else np.int64)[1, place] |= 1
        elif wrong == "all nan":
            x[1] = np.nan
        elif wrong == "nan masked":
            x[1] = -np.inf
            x[1, place] = np.nan
        assert not np.isfinite(softmax(x)[2])


@pytest.mark.parametrize("classes", [3, 33, 200])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_excess_of_rows_is_the_same_in_any_order(kind, classes):
    x = np.random.default_rng(1).standard_normal((500, classes)).astype(kind)
    each = [softmax(x[i : i + 1])[2] for i in range(len(x))]
    assert any(each)
    assert sum(each) == sum(reversed(each)) == softmax(x)[2]


@pytest.mark.parametrize("classes", [1, 5, 32, 33, 200])
def test_a_row_of_masks_is_zero(classes):
    x = np.zeros((3, classes), dtype=np.float32)
    x[1] = -np.inf
    g, sums, excess = softmax(x)
    assert not g[1].any()
    assert sums[1].tolist() == [0, 0]
    assert np.isfinite(excess)
