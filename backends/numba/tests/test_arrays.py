"""Arrays of every library and layout: no copy of what can be read as it is."""

import numpy as np
import pytest
from ctcx_numba import _batch, _jax, kernels
from ctcx_numba._arrays import like_given, readable

import ctcx
from ctcx.plugin import Decline

LIBRARIES = ["numpy", "torch", "jax"]


def as_array(library, array):
    if library == "torch":
        return pytest.importorskip("torch").from_numpy(array)
    if library == "jax":
        return pytest.importorskip("jax").device_put(array)
    return array


def address(array):
    return np.asarray(array).__array_interface__["data"][0]


@pytest.mark.parametrize("library", LIBRARIES)
def test_logits_are_read_where_they_are(batch, library):
    logits = as_array(library, batch(3, 20, 10, 5)[0])
    assert address(readable(logits)) == address(logits)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_gradient_is_not_copied(batch, library, monkeypatch):
    """It is given away as the memory that it was computed in."""
    jobs = []
    monkeypatch.setattr(_jax, "_FRESH_FROM", 0)  # as if it was huge

    class Seen(_batch.Job):
        def compute(self):
            jobs.append(self)
            super().compute()

    monkeypatch.setattr(kernels, "Job", Seen)
    logits, labels, *lengths = batch(30, 200, 64, 5)  # large enough for memory of our own
    result = ctcx.ctc_loss_and_grad(as_array(library, logits), labels, *lengths, backend="numba")
    assert type(result.grad) is type(as_array(library, logits))
    assert address(result.grad) == address(jobs[0].grad)


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_memory_held_is_cast_to_half_precision_without_a_warning(library):
    """The gradient of a sequence that failed validation is never written."""
    given = as_array(library, np.zeros((1, 1, 3), dtype=np.float16))
    held = np.asarray([[[1e30, np.nan, 0.5]]], dtype=np.float32)
    result = np.asarray(like_given(held, given, dtype=given.dtype))
    np.testing.assert_array_equal(result[0, 0, 1:], np.asarray([np.nan, 0.5], dtype=np.float16))


@pytest.mark.parametrize(
    "turned",
    [
        lambda x: x.transpose(1, 0, 2).copy().transpose(1, 0, 2),
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: np.concatenate([x, x], axis=2)[:, :, : x.shape[2]],
        lambda x: x[:, ::-1].copy()[:, ::-1],
    ],
    ids=["time-major", "every other frame", "some classes", "backwards"],
)
def test_strides_are_followed_without_a_copy(batch, turned):
    x, *rest = batch(3, 20, 10, 5)
    other = turned(x)
    assert not other.flags.c_contiguous
    assert address(readable(other)) == address(other)
    expected = kernels.loss_and_grad(x, *rest, blank=0)
    got = kernels.loss_and_grad(other, *rest, blank=0)
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])


@pytest.mark.parametrize(
    "turned",
    [
        lambda x: x.transpose(0, 2, 1).copy().transpose(0, 2, 1),
        lambda x: np.repeat(x, 2, axis=2)[:, :, ::2],
        lambda x: x.astype(x.dtype.newbyteorder()),
        lambda x: (
            np.frombuffer(b"x" + x.tobytes(), dtype=np.uint8)[1:].view(x.dtype).reshape(x.shape)
        ),
    ],
    ids=["classes outside", "every other class", "other byte order", "unaligned"],
)
def test_what_rows_cannot_be_read_of_is_copied(batch, turned):
    x, *rest = batch(3, 20, 10, 5)
    expected = kernels.loss_and_grad(x, *rest, blank=0)
    got = kernels.loss_and_grad(turned(x), *rest, blank=0)
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])
    assert got[1].dtype == turned(x).dtype


def test_one_row_for_all_frames(batch):
    x, *rest = batch(3, 20, 10, 5)
    same = np.broadcast_to(x[:1, :1], x.shape)
    expected = kernels.loss_and_grad(same.copy(), *rest, blank=0)
    got = kernels.loss_and_grad(same, *rest, blank=0)
    np.testing.assert_array_equal(got[1], expected[1])


@pytest.mark.parametrize("library", LIBRARIES)
def test_it_is_chosen_for_host_arrays(batch, library):
    logits, labels, *lengths = batch(3, 20, 10, 5)
    with ctcx.trace() as runs:
        ctcx.ctc_loss_and_grad(as_array(library, logits), labels, *lengths)
        ctcx.ctc_loss(as_array(library, logits), labels, *lengths)
    assert [run.backend for run in runs] == ["numba", "numba"]


ARRANGED = {
    "as they are": lambda a: a,
    "turned round": lambda a: a[..., ::-1].copy()[..., ::-1],
    "every other": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "of an outer axis": lambda a: np.moveaxis(np.moveaxis(a, -1, 0).copy(), 0, -1),
    "read only": lambda a: np.broadcast_to(a, a.shape),
}


@pytest.mark.parametrize("arranged", ARRANGED)
@pytest.mark.parametrize("kinds", [("i4", "i8", "i8"), ("i8", "i4", "i8"), ("i4", "i4", "i4")])
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("sizes", [(3, 20, 10, 5), (30, 90, 64, 5), (2, 3000, 40, 100)], ids=str)
def test_integers_of_both_sizes_in_any_strides(batch, sizes, library, kinds, arranged):
    x, *rest = batch(*sizes, ragged=True)
    expected = kernels.loss_and_grad(x, *rest, blank=0, num_threads=1)
    given = [ARRANGED[arranged](a).astype(k, copy=False) for a, k in zip(rest, kinds, strict=True)]
    given = [ARRANGED[arranged](a) for a in given]
    if library == "torch" and arranged in {"turned round", "read only"}:
        given = [a.copy() for a in given]  # it has no negative strides, and warns of the others
    arrays = [as_array(library, a) for a in (x, *given)]
    got = kernels.loss_and_grad(*arrays, blank=0, num_threads=2)
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])


@pytest.mark.parametrize("value", [2**32 + 1, -(2**32) + 1, 2**62])
@pytest.mark.parametrize("which", [1, 2, 3])
def test_a_large_integer_is_not_cut_to_a_small_one(batch, which, value):
    arrays = list(batch(3, 20, 10, 5))
    arrays[which].reshape(-1)[0] = value
    losses = kernels.loss(*arrays, blank=0)
    assert np.isnan(losses[0])
    assert np.isfinite(losses[1:]).all()


def unaligned(array):
    memory = np.zeros(array.nbytes + 1, dtype=np.uint8)
    view = memory[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    assert not view.flags.aligned
    return view


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "change",
    [
        unaligned,
        read_only,
        np.asfortranarray,
        lambda a: np.repeat(a[::-1], 2, axis=0)[::-2],
        lambda a: a.view(np.recarray),
        lambda a: a.astype(a.dtype.newbyteorder()) if a.dtype.kind == "i" else a,
    ],
    ids=["unaligned", "read-only", "Fortran order", "strides", "subclass", "byte order"],
)
@pytest.mark.parametrize("size", [(2, 9, 5, 3), (3, 200, 40, 30)])
def test_the_same_values_in_another_kind_of_array(batch, change, size):
    arrays = batch(*size)
    expected = ctcx.ctc_loss_and_grad(*arrays, backend="numba")
    result = ctcx.ctc_loss_and_grad(*map(change, arrays), backend="numba")
    np.testing.assert_array_equal(result.loss, expected.loss)
    np.testing.assert_array_equal(result.grad, expected.grad)


def test_an_array_of_one_number_that_is_spread_is_read_as_such():
    spread_out = np.broadcast_to(np.float32(2), (2, 7, 4))
    whole = np.full((2, 7, 4), 2, dtype=np.float32)
    result = ctcx.ctc_loss_and_grad(
        spread_out, np.broadcast_to(1, (2, 3)), np.broadcast_to(6, 2), backend="numba"
    )
    expected = ctcx.ctc_loss_and_grad(whole, np.ones((2, 3), int), [6, 6], backend="numba")
    np.testing.assert_array_equal(result.loss, expected.loss)
    np.testing.assert_array_equal(result.grad, expected.grad)


def without_memory(torch, kind, given):
    if kind == "zeros without memory":
        return torch._efficientzerotensor(given.shape, dtype=given.dtype)
    if kind == "freed":
        tensor = given.clone()
        tensor.untyped_storage().resize_(0)
        return tensor
    if kind == "a negative to be computed":
        return torch._neg_view(given)
    if kind == "fake":
        from torch._subclasses.fake_tensor import FakeTensorMode

        return FakeTensorMode().from_tensor(given)
    from torch.testing._internal.two_tensor import TwoTensor

    return TwoTensor(given, given)


@pytest.mark.parametrize("which", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "kind",
    ["zeros without memory", "freed", "a negative to be computed", "fake", "a tensor of two"],
)
@pytest.mark.parametrize("sizes", [(3, 20, 10, 5), (40, 90, 64, 5)], ids=str)
def test_a_tensor_without_memory_of_its_own_is_declined(batch, sizes, kind, which):
    """The front end takes care of them; a kernel that got one would read where nothing is."""
    torch = pytest.importorskip("torch")
    arrays = [torch.from_numpy(a) for a in batch(*sizes)]
    arrays[which] = without_memory(torch, kind, arrays[which])
    for kernel in (kernels.loss, kernels.loss_and_grad):
        with pytest.raises(Decline, match="not in memory of its own"):
            kernel(*arrays, blank=0)


@pytest.mark.parametrize("sizes", [(3, 20, 10, 5), (40, 90, 64, 5)], ids=str)
def test_results_are_on_the_cpu_whatever_the_default_device(batch, sizes):
    torch = pytest.importorskip("torch")
    arrays = [torch.from_numpy(a) for a in batch(*sizes)]
    expected = kernels.loss_and_grad(*arrays, blank=0)
    torch.set_default_device("meta")
    try:
        got = kernels.loss_and_grad(*arrays, blank=0)
        through = ctcx.ctc_loss_and_grad(*arrays, backend="numba")
    finally:
        torch.set_default_device(None)
    for result in (got, through):
        np.testing.assert_array_equal(result[0], expected[0])
        np.testing.assert_array_equal(result[1], expected[1])
