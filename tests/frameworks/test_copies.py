"""What reaches a kernel is the caller's own memory: no call copies the logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import torch

from ctcx._dispatch import compute as _compute
from ctcx.compat import keras, optax, tensorflow
from ctcx.compat import torch as compat_torch

FRAMES, LABELS, LENGTHS = np.asarray([5, 4]), np.asarray([[1, 2], [1, 1]]), np.asarray([2, 2])
LOGITS = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)
PADDINGS = np.arange(5) >= FRAMES[:, None], np.zeros((2, 2))


def address(array):
    if isinstance(array, torch.Tensor):
        return array.data_ptr()
    if isinstance(array, jax.Array):
        return array.unsafe_buffer_pointer()
    return array.__array_interface__["data"][0]


@pytest.fixture
def reached(monkeypatch):
    """Addresses of the logits that kernels get."""
    addresses = []
    real = _compute.call

    def call(problem, backend, arrays, *rest):
        addresses.append(address(arrays[0]))
        return real(problem, backend, arrays, *rest)

    monkeypatch.setattr(_compute, "call", call)
    return addresses


def test_torch(reached):
    leaf = torch.tensor(LOGITS.transpose(1, 0, 2).copy(), requires_grad=True)
    compat_torch.ctc_loss(leaf, torch.tensor(LABELS), torch.tensor(FRAMES), torch.tensor(LENGTHS))
    concatenated = torch.tensor(LABELS).flatten()
    compat_torch.ctc_loss(leaf, concatenated, tuple(FRAMES.tolist()), (2, 2)).backward()
    assert reached == [leaf.data_ptr()] * 2


def test_jax(reached):
    x = jnp.asarray(LOGITS)
    optax.ctc_loss(x, *map(jnp.asarray, (PADDINGS[0], LABELS, PADDINGS[1])))
    keras.ctc_loss(jnp.asarray(LABELS), x, jnp.asarray(LENGTHS), jnp.asarray(FRAMES))
    assert reached == [x.unsafe_buffer_pointer()] * 2


def test_tensorflow(reached):
    x = tf.constant(LOGITS)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tensorflow.ctc_loss(LABELS, x, LENGTHS, FRAMES, logits_time_major=False)
    tape.gradient(loss, x)
    assert reached == [address(x.numpy())]


def test_a_copy_would_be_seen(reached):
    x = jnp.asarray(LOGITS)
    gaps = jnp.asarray(PADDINGS[0][:, ::-1].copy())  # these have to be moved
    optax.ctc_loss(x, gaps, jnp.asarray(LABELS), jnp.asarray(PADDINGS[1]))
    assert len(reached) == 1
    assert reached != [x.unsafe_buffer_pointer()]
