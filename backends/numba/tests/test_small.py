"""Small calls go through one compiled function: with the same bits, and only as arrays allow."""

import numpy as np
import pytest
from ctcx_numba import _batch, _small, kernels

torch = pytest.importorskip("torch")

SIZES = [(1, 5, 4, 2), (3, 6, 4, 0), (2, 9, 1, 0), (6, 30, 20, 9)]


def at_length(arrays, gradient):
    """What the other way gives."""
    job = _batch.Job(*arrays, 0, 1, gradient=gradient)
    job.compute()
    return job.losses, job.grad


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("library", ["numpy", "torch", "torch, time-major"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_same_bits(batch, sizes, library, dtype):
    arrays = batch(*sizes, dtype=dtype, ragged=True)
    given = arrays
    if library != "numpy":
        given = tuple(map(torch.from_numpy, arrays))
    if library == "torch, time-major":
        given = (given[0].transpose(0, 1).contiguous().transpose(0, 1), *given[1:])
    for gradient in (True, False):
        expected = at_length(arrays, gradient)
        got = _small.compute(*given, 0, gradient=gradient)
        np.testing.assert_array_equal(got[0], expected[0])
        assert type(got[0]) is type(given[0])
        if gradient:
            np.testing.assert_array_equal(got[1], expected[1])
            if library != "numpy":
                assert got[1].stride() == given[0].stride()
        else:
            assert got[1] is None


@pytest.mark.parametrize("sizes", [(0, 5, 4, 2), (2, 0, 4, 2)], ids=str)
def test_nothing_to_compute(batch, sizes):
    arrays = batch(*sizes)
    got, expected = _small.compute(*arrays, 0, gradient=True), at_length(arrays, True)
    np.testing.assert_array_equal(got[0], expected[0])
    assert got[1].shape == expected[1].shape


@pytest.mark.parametrize("wrong", ["label", "blank", "frames", "count", "nan"])
def test_what_is_wrong_makes_nan_of_its_sequence_only(batch, wrong):
    x, labels, frames, counts = batch(3, 20, 10, 5)
    expected = at_length((x, labels, frames, counts), False)[0]
    if wrong == "nan":
        x[1, 3, 2] = np.nan
    elif wrong == "frames":
        frames[1] = 21
    elif wrong == "count":
        counts[1] = -1
    else:
        labels[1, 0] = {"label": 10, "blank": 0}[wrong]
    loss = _small.compute(x, labels, frames, counts, 0, gradient=False)[0]
    np.testing.assert_array_equal(np.delete(loss, 1), np.delete(expected, 1))
    assert np.isnan(loss[1])


OTHERS = {
    "large": lambda x, *rest: (np.zeros((3, 200, 500), np.float32), *rest),
    "long": lambda x, *rest: (np.zeros((3, 4000, 4), np.float32), *rest),
    "half": lambda x, *rest: (x.astype(np.float16), *rest),
    "swapped bytes": lambda x, *rest: (x.astype(x.dtype.newbyteorder()), *rest),
    "every other frame": lambda x, *rest: (x[:, ::2], *rest),
    "every other class": lambda x, *rest: (x[:, :, ::2], *rest),
    "int16": lambda x, labels, *rest: (x, labels.astype(np.int16), *rest),
    "swapped bytes of labels": lambda x, labels, *rest: (x, labels.astype(">i8"), *rest),
    "unaligned labels": lambda x, labels, *rest: (
        x,
        np.frombuffer(b"x" + labels.tobytes(), dtype=np.uint8)[1:].view(int).reshape(labels.shape),
        *rest,
    ),
    "unaligned": lambda x, *rest: (
        np.frombuffer(b"x" + x.tobytes(), dtype=np.uint8)[1:].view(x.dtype).reshape(x.shape),
        *rest,
    ),
    "torch, classes outside": lambda x, *rest: (
        torch.from_numpy(x).transpose(1, 2).contiguous().transpose(1, 2),
        *map(torch.from_numpy, rest),
    ),
    "torch, bfloat16": lambda x, *rest: (
        torch.from_numpy(x).bfloat16(),
        *map(torch.from_numpy, rest),
    ),
    "torch, negative bit": lambda x, *rest: (
        torch.complex(torch.zeros(x.shape), torch.from_numpy(-x)).conj().imag,
        *map(torch.from_numpy, rest),
    ),
}


@pytest.mark.parametrize("other", OTHERS)
def test_other_arrays_are_left_to_the_other_way(batch, other):
    arrays = OTHERS[other](*batch(3, 20, 10, 5))
    assert _small.compute(*arrays, 0, gradient=True) is None


def test_one_row_for_all_frames_of_torch(batch):
    x, *rest = batch(3, 20, 10, 5)
    same = torch.from_numpy(x)[:1, :1].expand(3, 20, 10)
    integers = tuple(map(torch.from_numpy, rest))
    got = kernels.loss_and_grad(same, *integers, blank=0)
    expected = kernels.loss_and_grad(same.clone(), *integers, blank=0)
    np.testing.assert_array_equal(got[1], expected[1])


@pytest.mark.parametrize("value", [0, -1, True, 1.5])
def test_a_wrong_number_of_threads_is_refused_here_too(batch, value):
    with pytest.raises(ValueError, match="num_threads"):
        kernels.loss(*batch(1, 5, 4, 2), blank=0, num_threads=value)
