"""What reaches a kernel is the caller's own memory: no call copies the logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import torch

import ctcx
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


LOOKING = """
from ctcx.plugin import Backend, Feature, hookimpl, load_kernel

seen = []


@hookimpl
def ctcx_backends():
    yield Backend(
        name="looking",
        kernels={name: f"ctcx_looking:{name}" for name in ("loss", "loss_and_grad")},
        namespaces={"*"},
        features={Feature.GRAD, Feature.NONCONTIGUOUS},
    )


def loss(*arrays, blank):
    seen.append(arrays[0])
    return load_kernel("array-api", "loss")(*arrays, blank=blank)


def loss_and_grad(*arrays, blank):
    seen.append(arrays[0])
    return load_kernel("array-api", "loss_and_grad")(*arrays, blank=blank)
"""


@pytest.fixture
def reached(plugins):
    """Call for the addresses of the logits that kernels got."""
    plugins.write("looking", LOOKING)
    plugins.load()
    with ctcx.use_backend("looking"):
        import ctcx_looking

        yield lambda: list(map(address, ctcx_looking.seen))


def test_torch(reached):
    leaf = torch.tensor(LOGITS.transpose(1, 0, 2).copy(), requires_grad=True)
    compat_torch.ctc_loss(leaf, torch.tensor(LABELS), torch.tensor(FRAMES), torch.tensor(LENGTHS))
    concatenated = torch.tensor(LABELS).flatten()
    compat_torch.ctc_loss(leaf, concatenated, tuple(FRAMES.tolist()), (2, 2)).backward()
    assert reached() == [leaf.data_ptr()] * 2


def test_jax(reached):
    x = jnp.asarray(LOGITS)
    optax.ctc_loss(x, *map(jnp.asarray, (PADDINGS[0], LABELS, PADDINGS[1])))
    keras.ctc_loss(jnp.asarray(LABELS), x, jnp.asarray(LENGTHS), jnp.asarray(FRAMES))
    assert reached() == [x.unsafe_buffer_pointer()] * 2


def test_tensorflow(reached):
    x = tf.constant(LOGITS)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tensorflow.ctc_loss(LABELS, x, LENGTHS, FRAMES, logits_time_major=False)
    tape.gradient(loss, x)
    assert reached() == [address(np.asarray(x))]


def test_a_copy_would_be_seen(reached):
    x = jnp.asarray(LOGITS)
    gaps = jnp.asarray(PADDINGS[0][:, ::-1].copy())  # these have to be moved
    optax.ctc_loss(x, gaps, jnp.asarray(LABELS), jnp.asarray(PADDINGS[1]))
    assert len(reached()) == 1
    assert reached() != [x.unsafe_buffer_pointer()]
