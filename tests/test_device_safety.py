"""The core reads no values and makes no array on the wrong device: proved without a GPU."""

import array_api_strict
import numpy as np
import pytest

import ctcx
from ctcx.plugin import load_kernel
from tests.helpers import STRICT_DEVICES, optional, random_problem, strict_array, strict_values

torch = optional("torch")

LOSS = load_kernel("array-api", "loss")
LOSS_AND_GRAD = load_kernel("array-api", "loss_and_grad")
READERS = ("__float__", "__bool__", "__int__", "__index__", "__iter__", "__complex__")


@pytest.fixture
def no_reading(monkeypatch):
    """Make reading a value of a strict array an error."""
    array_type = type(array_api_strict.ones(1))

    def refuse(self, *_):
        msg = "a value was read"
        raise AssertionError(msg)

    for name in READERS:
        monkeypatch.setattr(array_type, name, refuse, raising=False)


@pytest.fixture
def strictest():
    """No boolean indexing, no data-dependent shapes, no extensions."""
    array_api_strict.set_array_api_strict_flags(
        api_version="2024.12",
        boolean_indexing=False,
        data_dependent_shapes=False,
        enabled_extensions=(),
    )
    yield
    array_api_strict.reset_array_api_strict_flags()


def arrays_on(device, dtype):
    logits, labels, logit_lengths, label_lengths = random_problem(0, 3, 21, 7, 5, dtype=dtype)
    logits[0, int(logit_lengths[0]) :] = np.nan
    return tuple(
        strict_array(a, device) for a in (logits, labels, logit_lengths, label_lengths)
    ), logits


@pytest.mark.usefixtures("strictest")
@pytest.mark.parametrize(
    ("device", "dtype"),
    [(device, np.float32) for device in STRICT_DEVICES]
    + [(device, np.float64) for device in STRICT_DEVICES if not device.startswith("no_")],
)
def test_core_on_every_strict_device_with_the_strictest_flags(device, dtype):
    arrays, _ = arrays_on(device, dtype)
    loss, grad = LOSS_AND_GRAD(*arrays, blank=0)
    only_loss = LOSS(*arrays, blank=0)
    problem = random_problem(0, 3, 21, 7, 5, dtype=dtype)
    expected = ctcx.ctc_loss_and_grad(*problem, backend="array-api")
    for result in (loss, grad, only_loss):
        assert str(result.device) == str(arrays[0].device)
    np.testing.assert_allclose(strict_values(loss), expected.loss, rtol=1e-6)
    np.testing.assert_allclose(strict_values(only_loss), expected.loss, rtol=1e-6)
    np.testing.assert_allclose(strict_values(grad), expected.grad, atol=1e-6)


@pytest.mark.usefixtures("no_reading", "strictest")
@pytest.mark.parametrize("device", ["device1", "no_x64"])
def test_core_reads_no_value(device):
    arrays, _ = arrays_on(device, np.float32)
    LOSS_AND_GRAD(*arrays, blank=0)
    LOSS(*arrays, blank=0)


@pytest.mark.usefixtures("no_reading")
def test_a_call_without_validation_reads_no_value():
    arrays, _ = arrays_on("device1", np.float32)
    ctcx.ctc_loss_and_grad(*arrays, validate=False, reduction="mean")
    ctcx.ctc_loss(*arrays, validate=False, reduction="mean_per_label", infeasible="zero")


@pytest.mark.usefixtures("no_reading")
def test_the_guard_can_fail():
    with pytest.raises(AssertionError, match="a value was read"):
        bool(array_api_strict.ones(()))
    arrays, _ = arrays_on("device1", np.float32)
    with pytest.raises(AssertionError, match="a value was read"):
        ctcx.ctc_loss(*arrays, validate=True)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_torch_meta_device(dtype):
    """Meta tensors have no values, and mixing devices fails; shapes and dtypes come out right."""
    dtype = getattr(torch, dtype)
    logits = torch.zeros((3, 21, 7), dtype=dtype, device="meta")
    result = ctcx.ctc_loss_and_grad(logits, [[1, 2], [3], []], reduction="mean_per_label")
    assert result.grad.shape == logits.shape
    assert result.grad.dtype == dtype
    assert {t.device.type for t in result} == {"meta"}
    assert result.loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
