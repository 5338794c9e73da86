"""Forms of labels."""

import numpy as np
import pytest

import ctcx
from tests.helpers import STRICT_DEVICES, optional, strict_array, strict_values

torch = optional("torch")


def test_min_frames():
    labels = np.array([[1, 1, 2, 9], [1, 2, 1, 2], [5, 5, 5, 5]])
    np.testing.assert_array_equal(ctcx.min_frames(labels, [3, 4, 4]), [4, 4, 7])
    np.testing.assert_array_equal(ctcx.min_frames([[1, 1], [], [3]]), [3, 0, 1])
    assert ctcx.min_frames([2, 2]) == 3
    assert ctcx.min_frames(np.array([2, 2, 2]), 2) == 3


def test_min_frames_of_tensors_are_tensors():
    assert isinstance(ctcx.min_frames(torch.tensor([[1, 1]])), torch.Tensor)


def test_min_frames_is_where_a_loss_becomes_finite():
    labels = [[1, 1, 2], [1, 2, 3]]
    logits = np.zeros((2, 4, 4), dtype=np.float32)
    np.testing.assert_array_equal(
        ctcx.ctc_loss_and_grad(logits, labels, ctcx.min_frames(labels)).feasible, [True, True]
    )
    np.testing.assert_array_equal(
        ctcx.ctc_loss_and_grad(logits, labels, ctcx.min_frames(labels) - 1).feasible,
        [False, False],
    )


def test_one_hot_there_and_back():
    labels = np.array([[0, 1, 3, 0], [2, 2, 0, 0]])
    lengths = np.array([3, 2])
    one_hot = ctcx.labels_to_one_hot(labels, lengths, num_classes=5, num_frames=6, blank=-1)
    assert one_hot.shape == (2, 6, 5)
    np.testing.assert_array_equal(one_hot.sum(axis=-1), np.ones((2, 6)))
    back, back_lengths = ctcx.labels_from_one_hot(one_hot, blank=-1)
    np.testing.assert_array_equal(back_lengths, lengths)
    for n, length in enumerate(lengths):
        np.testing.assert_array_equal(back[n, :length], labels[n, :length])
        assert (back[n, length:] == 4).all()


def test_blanks_and_zero_rows_may_stand_anywhere():
    """The TensorFlow.js form strips all blanks, wherever they are."""
    one_hot = np.eye(4, dtype=np.float32)[[3, 1, 3, 0, 0, 3]]
    one_hot[4] = 0
    labels, length = ctcx.labels_from_one_hot(one_hot, blank=3)
    assert length == 2
    np.testing.assert_array_equal(labels[:2], [1, 0])


@pytest.mark.parametrize("device", STRICT_DEVICES)
def test_one_hot_on_strict_devices(device):
    one_hot = strict_array(np.eye(4, dtype=np.float32)[[[0, 3, 1], [3, 3, 2]]], device)
    labels, lengths = ctcx.labels_from_one_hot(one_hot, blank=3)
    np.testing.assert_array_equal(strict_values(labels), [[0, 1, 3], [2, 3, 3]])
    np.testing.assert_array_equal(strict_values(lengths), [2, 1])
    back = ctcx.labels_to_one_hot(labels, lengths, num_classes=4, num_frames=3, blank=3)
    assert back.device == one_hot.device
    np.testing.assert_array_equal(strict_values(ctcx.min_frames(labels, lengths)), [2, 1])


@pytest.mark.parametrize("rows", [0, 3])
def test_no_sequences_or_no_rows(rows):
    labels, lengths = ctcx.labels_from_one_hot(np.zeros((2 - rows // 2, rows, 4)), blank=0)
    assert labels.shape == (2 - rows // 2, rows)
    assert not lengths.any()


def test_the_loss_of_one_hot_labels_is_that_of_indices():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((2, 6, 4), dtype=np.float32)
    one_hot = np.eye(4, dtype=np.float32)[[[0, 1, 3, 3, 3, 3], [2, 3, 2, 3, 3, 3]]]
    labels, lengths = ctcx.labels_from_one_hot(one_hot, blank=-1)
    np.testing.assert_allclose(
        ctcx.ctc_loss(logits, labels, label_lengths=lengths, blank=-1),
        ctcx.ctc_loss(logits, [[0, 1], [2, 2]], blank=-1),
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ctcx.min_frames(np.array([[1.0]])), "integer dtype, got float64"),
        (lambda: ctcx.min_frames(np.zeros((1, 1, 1), int)), r"got \(1, 1, 1\)"),
        (lambda: ctcx.labels_from_one_hot([[1, 0]], blank=0), "got list"),
        (lambda: ctcx.labels_from_one_hot(np.eye(3), blank=3), "blank=3 is out of range"),
        (
            lambda: ctcx.labels_to_one_hot([[1, 5]], num_classes=4, num_frames=4, blank=0),
            r"labels\[0, 1\] is 5 .*: expected 0 to 3",
        ),
        (
            lambda: ctcx.labels_to_one_hot([[1, 2, 3]], num_classes=4, num_frames=2, blank=0),
            "3 labels and only 2 frames",
        ),
    ],
)
def test_wrong_input_says_what_is_wrong(call, message):
    with pytest.raises(ctcx.CTCInputError, match=message):
        call()
