"""Problems for the tests: whole arrays, and the same in chunks."""

import dask
import dask.array as da
import numpy as np

N, T, C, S = 23, 14, 6, 4


def problem(seed=0, dtype=np.float32):
    """Give logits, labels, logit_lengths and label_lengths, some of them infeasible."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((N, T, C)).astype(dtype)
    labels = rng.integers(1, C, (N, S))
    logit_lengths = rng.integers(6, T + 1, N)
    logit_lengths[[3, 20]] = 1
    return logits, labels, logit_lengths, rng.integers(0, S + 1, N)


def in_chunks(arrays, *chunks):
    """Give dask arrays with these chunks along the sequences, of one array each."""
    return tuple(
        da.from_array(array, chunks=(size, *[-1] * (array.ndim - 1)))
        for array, size in zip(arrays, chunks, strict=True)
    )


def of_unknown_chunks(array):
    """Give the same array, of whose chunks dask doesn't know the sizes."""
    kept = array.map_blocks(lambda block: np.ones(len(block), bool), drop_axis=(1, 2), dtype=bool)
    return array[kept]


def computed(result, scheduler="synchronous"):
    """Give all parts of a result in a tuple."""
    parts = tuple(result) if isinstance(result, tuple) else (result,)
    return dask.compute(*parts, scheduler=scheduler)


def check_same(lazy, expected, scheduler="synchronous"):
    """Compare with a result for whole arrays, which may be narrower in its last axis."""
    lazy = lazy if isinstance(lazy, tuple) else (lazy,)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for part, found, right in zip(lazy, computed(lazy, scheduler), expected, strict=True):
        assert isinstance(part, da.Array)
        assert (part.dtype, found.dtype) == (right.dtype, right.dtype)
        assert np.array_equal(part.shape, found.shape) or np.isnan(part.shape).any()
        same = np.s_[...] if found.shape == right.shape else np.s_[..., : right.shape[-1]]
        tolerance = 1e-3 if right.dtype == np.float16 else 1e-5
        np.testing.assert_allclose(found[same], right, rtol=tolerance, atol=tolerance)
        assert found[same].shape == right.shape
        assert (np.delete(found, same[-1], axis=-1) <= 0).all() if same != np.s_[...] else True
