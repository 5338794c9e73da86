"""The core on CuPy: right, never waiting for the device, and few launches a frame.

test_kit.py is the whole kit; this is what it can't see.
"""

import cuda_on_cpu
import cupy
import numpy as np
import pytest

import ctcx
from tests.helpers import random_problem

LAUNCHES_A_FRAME = 10
LAUNCHES_BESIDES = 250


def on_device(problem):
    return tuple(cupy.asarray(array) for array in problem)


def counted_call(problem, **options):
    """Counters of a call, after one that compiles its kernels."""
    ctcx.ctc_loss_and_grad(*problem, backend="array-api", **options)
    with cuda_on_cpu.counting() as counted:
        ctcx.ctc_loss_and_grad(*problem, backend="array-api", **options)
    return counted


@pytest.mark.parametrize("reduction", ["none", "mean_per_label"])
@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(dtype, marks=pytest.mark.xdist_group(dtype.__name__))
        for dtype in (np.float32, np.float64, np.float16)
    ],
)
def test_without_validation_nothing_is_read_and_nothing_waits(dtype, reduction):
    problem = on_device(random_problem(0, 3, 20, 7, 5, dtype=dtype))
    counted = counted_call(problem, validate=False, reduction=reduction)
    assert (counted.device_to_host, counted.synchronisations) == (0, 0)


def test_labels_of_the_host_are_uploaded_and_nothing_is_read():
    logits, labels, logit_lengths, label_lengths = random_problem(0, 3, 20, 7, 5)
    problem = (cupy.asarray(logits), labels, logit_lengths, label_lengths)
    counted = counted_call(problem, validate=False)
    assert (counted.device_to_host, counted.synchronisations) == (0, 0)
    counted = counted_call(problem, validate=True)
    assert counted.device_to_host <= 2
    assert counted.synchronisations <= 2


@pytest.mark.parametrize("time_major", [False, True])
def test_validation_reads_whether_the_input_is_right_and_whether_the_losses_are(time_major):
    logits, *rest = on_device(random_problem(0, 3, 20, 7, 5))
    if time_major:
        logits = cupy.swapaxes(logits, 0, 1)
    counted = counted_call((logits, *rest), validate=True, time_major=time_major)
    assert counted.device_to_host <= 2
    assert counted.synchronisations <= 2


def test_wrong_input_is_located():
    logits, labels, logit_lengths, label_lengths = on_device(random_problem(0, 3, 20, 7, 5))
    label_lengths[...] = 2
    labels[1, 1] = 99
    with pytest.raises(ctcx.CTCInputError, match=r"labels\[1, 1\] is 99") as caught:
        ctcx.ctc_loss(logits, labels, logit_lengths, label_lengths)
    assert (caught.value.sequence, caught.value.position) == (1, 1)


def test_launches_a_frame():
    short, long = (
        counted_call(on_device(random_problem(0, 3, frames, 7, 5, ragged=False)), validate=False)
        for frames in (64, 256)
    )
    per_frame = (long.launches - short.launches) / (256 - 64)
    assert per_frame <= LAUNCHES_A_FRAME
    assert long.launches <= LAUNCHES_BESIDES + LAUNCHES_A_FRAME * 256


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
def test_the_order_of_threads_changes_no_bit(order):
    problem = on_device(random_problem(1, 2, 18, 6, 4))
    expected = ctcx.ctc_loss_and_grad(*problem)
    with cuda_on_cpu.thread_order(order, seed=3):
        got = ctcx.ctc_loss_and_grad(*problem)
    assert got.loss.get().tobytes() == expected.loss.get().tobytes()
    assert got.grad.get().tobytes() == expected.grad.get().tobytes()


def test_results_stay_on_the_device_and_agree_with_numpy():
    problem = random_problem(2, 4, 40, 9, 8)
    expected = ctcx.ctc_loss_and_grad(*problem)
    got = ctcx.ctc_loss_and_grad(*on_device(problem))
    assert all(isinstance(array, cupy.ndarray) for array in got)
    np.testing.assert_allclose(got.loss.get(), expected.loss, rtol=1e-6)
    np.testing.assert_allclose(got.grad.get(), expected.grad, atol=2e-6)
