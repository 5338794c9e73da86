"""Arrays of every library and layout: no copy of what can be read as it is."""

import numpy as np
import pytest
from ctcx_cpu import kernels
from ctcx_cpu._host import on_host, rows

import ctcx
from ctcx.plugin import Decline

LIBRARIES = ["numpy", "torch", "jax"]


def as_array(library, array):
    if library == "torch":
        return pytest.importorskip("torch").from_numpy(array)
    if library == "jax":
        return pytest.importorskip("jax").device_put(array)
    return array


def readable(array):
    return rows(on_host(array))


def address(array):
    return np.asarray(array).__array_interface__["data"][0]


@pytest.mark.parametrize("library", LIBRARIES)
def test_logits_are_read_where_they_are(batch, library):
    logits = as_array(library, batch(3, 20, 10, 5)[0])
    assert address(readable(logits)) == address(logits)


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
        lambda x: (
            np.frombuffer(b"x" + x.tobytes(), dtype=np.uint8)[1:].view(x.dtype).reshape(x.shape)
        ),
    ],
    ids=["classes outside", "every other class", "unaligned"],
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
    assert [run.backend for run in runs] == ["cpu", "cpu"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_tensors_can_be_resized_after_a_call(dtype, requires_grad):
    torch = pytest.importorskip("torch")
    logits = torch.zeros((2, 6, 4), dtype=getattr(torch, dtype), requires_grad=requires_grad)
    labels, lengths = torch.tensor([[1, 2], [3, 3]]), torch.tensor([6, 5])
    ctcx.ctc_loss(logits, labels, lengths, torch.tensor([2, 2]), backend="cpu")
    ctcx.ctc_align(logits, labels, lengths, backend="cpu")
    ctcx.ctc_greedy(logits, lengths, backend="cpu")
    for tensor in (logits, labels, lengths):
        assert tensor.untyped_storage().resizable()


def test_tensors_without_plain_memory_are_declined():
    torch = pytest.importorskip("torch")
    from torch._subclasses.fake_tensor import FakeTensorMode

    plain, freed = torch.randn(2, 6, 4), torch.randn(2, 6, 4)
    freed.untyped_storage().resize_(0)
    with FakeTensorMode():
        fake = torch.randn(2, 6, 4)
    zeros = torch._efficientzerotensor((2, 6, 4))
    for odd in (torch._neg_view(plain), zeros, plain.to("meta"), plain.to_sparse(), fake, freed):
        with pytest.raises(Decline, match="can't be read as plain memory"):
            on_host(odd)
    assert np.array_equal(on_host(plain), plain.tolist())
