"""PyTorch tensors: the kernels get their addresses and strides; nothing is copied.

There is no CUDA build of PyTorch for the harness, whose device memory is the host's: CPU tensors
stand in for CUDA tensors, and only the look-up of the current stream is replaced.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ctcx_cuda import kernels, paths
from torch._subclasses import FakeTensorMode

import ctcx
from backends.cuda.tests.problems import problem
from ctcx.conformance.oracle import best_classes, best_paths
from ctcx.plugin import Decline


@pytest.fixture(autouse=True)
def null_stream(monkeypatch):
    asked = []

    def current_stream(index):
        asked.append(index)
        return SimpleNamespace(cuda_stream=0)

    monkeypatch.setattr(torch.cuda, "current_stream", current_stream)
    return asked


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("frames_first", [False, True])
def test_tensors(dtype, frames_first, gpu_counters):
    logits, *rest = problem("labels-31")
    tensor = torch.tensor(logits, dtype=getattr(torch, dtype))
    if frames_first:
        tensor = tensor.transpose(0, 1).contiguous().transpose(0, 1)
    kept = tensor.clone()
    rest = [torch.tensor(array) for array in rest]
    kernels.loss_and_grad(tensor, *rest, blank=0)
    with gpu_counters() as counted:
        loss, grad = kernels.loss_and_grad(tensor, *rest, blank=0)
    assert counted.launches == 3
    assert counted.host_to_device == counted.device_to_host == counted.synchronisations == 0
    assert torch.equal(tensor, kept)
    assert grad.dtype == tensor.dtype
    assert grad.stride() == tensor.stride()
    assert loss.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    wanted = ctcx.ctc_loss_and_grad(tensor.double().numpy(), *[array.numpy() for array in rest])
    # Half a unit in the last place of a number in [0.5, 1], on top of float32's error.
    loose = {"float16": 2.6e-4, "bfloat16": 2e-3, "float32": 2e-6, "float64": 1e-11}[dtype]
    np.testing.assert_allclose(grad.double().numpy(), wanted.grad, rtol=0, atol=loose)
    np.testing.assert_allclose(loss.numpy(), wanted.loss, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_best_paths_and_classes_of_tensors(dtype, gpu_counters):
    logits, *rest = problem("labels-31")
    tensor = torch.tensor(np.round(logits * 4) / 4, dtype=getattr(torch, dtype))
    arrays = [torch.tensor(array) for array in rest]
    extra = torch.full((*tensor.shape[:2], 1), -1.5, dtype=getattr(torch, dtype)).to(
        torch.float64 if dtype == "float64" else torch.float32
    )
    with gpu_counters() as counted:
        states, log_probs = paths.align(tensor, *arrays, blank=0, extra=extra, ends=(9, 0))
    assert counted.launches == 2
    assert counted.host_to_device == counted.device_to_host == counted.synchronisations == 0
    assert states.dtype == torch.int32
    assert log_probs.dtype == extra.dtype
    classes, of_classes = paths.greedy(tensor, arrays[1], blank=0)
    said = best_classes(tensor.double().numpy(), rest[1], 0)
    np.testing.assert_array_equal(classes.numpy(), said.classes)
    np.testing.assert_allclose(of_classes.numpy(), said.log_probs, rtol=1e-6, atol=1e-6)
    right = best_paths(tensor.double().numpy(), *rest, 0, extra=extra.numpy(), ends=(9, 0))
    np.testing.assert_array_equal(states.numpy(), right.states)
    np.testing.assert_allclose(log_probs.numpy(), right.log_probs, rtol=1e-6, atol=1e-6)


def test_halves_are_rounded_to_nearest_even():
    logits, *rest = problem("labels-31", sequences=1, classes=40)
    rest = [torch.tensor(array) for array in rest]
    for dtype in (torch.float16, torch.bfloat16):
        tensor = torch.tensor(logits * 4).to(dtype)  # small probabilities, subnormal in float16
        _, single = kernels.loss_and_grad(tensor.float(), *rest, blank=0)
        _, half = kernels.loss_and_grad(tensor, *rest, blank=0)
        assert torch.equal(half, single.to(dtype))
        assert (single != 0).all()


def test_on_the_stream_of_the_tensor(null_stream):
    arrays = [torch.tensor(array) for array in problem("labels-31")]
    kernels.loss_and_grad(*arrays, blank=0)
    assert set(null_stream) == {arrays[0].device.index}


def declined(tensor):
    """Return why the kernels decline a tensor, in the place of the logits or of the labels."""
    arrays = [torch.tensor(array) for array in problem("labels-31")]
    arrays[tensor.ndim == 2] = tensor
    with pytest.raises(Decline) as reason:
        kernels.loss_and_grad(*arrays, blank=0)
    return str(reason.value)


def fake():
    return FakeTensorMode().from_tensor(torch.zeros(2, 29, 9))


def zeros_without_memory():
    return torch._efficientzerotensor((2, 29, 9))


def negated_lazily():
    return torch.zeros(2, 29, 9, dtype=torch.complex64).conj().imag


def functional():
    return torch._to_functional_tensor(torch.zeros(2, 29, 9))


def freed():
    tensor = torch.zeros(2, 29, 9)
    tensor.untyped_storage().resize_(0)
    return tensor


def cut():
    tensor = torch.zeros(2, 29, 9)
    tensor.untyped_storage().resize_(2 * 29 * 9 * 4 - 4)
    return tensor


def cut_labels():
    tensor = torch.zeros(2, 12, dtype=torch.int32)
    tensor.untyped_storage().resize_(4)
    return tensor


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (fake, "Python"),
        (lambda: torch.zeros(2, 29, 9, device="meta"), "Meta"),
        (zeros_without_memory, "ZeroTensor"),
        (negated_lazily, "Negative"),
        (functional, "Functionalize"),
        (lambda: torch.zeros(2, 29, 9).to_sparse(), "Sparse"),
        (freed, "storage"),
        (cut, "storage"),
        (cut_labels, "storage"),
    ],
)
def test_tensors_without_memory_of_their_own_are_declined(make, words):
    assert words in declined(make())


def test_tensors_under_a_dispatch_mode_are_declined():
    arrays = [torch.tensor(array) for array in problem("labels-31")]
    with FakeTensorMode(), pytest.raises(Decline, match="dispatch mode"):
        kernels.loss(*arrays, blank=0)


@pytest.mark.parametrize("kind", [torch.int32, torch.int64])
def test_views_and_parameters_are_read_where_they_lie(kind):
    logits, *rest = (torch.tensor(array) for array in problem("labels-31"))
    plain = kernels.loss(logits, *rest, blank=0)
    rest = [torch.stack([array.to(kind)] * 2, dim=-1)[..., 1] for array in rest]
    wide = torch.nn.Parameter(torch.stack([logits, logits + 1], dim=-1))
    assert torch.equal(kernels.loss(wide.detach()[..., 0], *rest, blank=0), plain)
