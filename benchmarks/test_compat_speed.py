"""``ctcx.compat`` and ``ctcx`` beside the originals: loss and gradient, as a training step asks.

Run ``python -m pytest benchmarks/test_compat_speed.py``; needs ``pip install --group peers``. Each
group is one framework and one shape, with the original and ctcx in it; results are compared first.

In TensorFlow's eager mode "knows" is a function that computes nothing, since it knows the result:
what the framework itself takes for a step.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest
import tensorflow as tf
import torch

import ctcx
from ctcx.compat import keras as compat_keras
from ctcx.compat import optax as compat_optax
from ctcx.compat import tensorflow as compat_tensorflow
from ctcx.compat import torch as compat_torch

# N, T, C, L: the size of a test, of pure overhead; and of a small step of training.
SHAPES = {"tiny": (1, 5, 4, 2), "small": (16, 150, 28, 20), "warpctc-28": (64, 150, 28, 40)}
ROUNDS = {"tiny": 500, "small": 50, "warpctc-28": 30}


def on_torch(function, logits, labels, frames, lengths):
    """log_softmax, loss and backward."""
    x = torch.tensor(logits.transpose(1, 0, 2).copy())
    rest = (torch.tensor(labels), torch.tensor(frames), torch.tensor(lengths))

    def call():
        leaf = x.detach().requires_grad_()
        loss = function(leaf.log_softmax(-1), *rest, reduction="sum")
        loss.backward()
        return loss.detach().numpy(), leaf.grad.numpy().transpose(1, 0, 2)

    return call


def on_tensorflow(function, logits, labels, frames, lengths):
    """Eager, with a tape; dense labels."""
    x = tf.constant(logits)

    def call():
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(function(labels, x, lengths, frames, logits_time_major=False))
        return loss.numpy(), tape.gradient(loss, x).numpy()

    return call


def known_to_tensorflow(labels, logits, lengths, frames, logits_time_major):
    """Return loss and gradient, which are computed once."""
    if logits.shape not in KNOWN:
        loss, grad, _ = ctcx.ctc_loss_and_grad(
            logits.numpy(), labels, frames, lengths, time_major=logits_time_major
        )
        KNOWN[logits.shape] = tf.constant(loss), tf.constant(grad)
    loss, grad = KNOWN[logits.shape]
    return tf.custom_gradient(lambda _: (loss, lambda _: grad))(logits)


KNOWN = {}


def on_tensorflow_graph(function, logits, labels, frames, lengths):
    """Compute the same in a ``tf.function``."""
    x = tf.constant(logits)

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(function(labels, x, lengths, frames, logits_time_major=False))
        return loss, tape.gradient(loss, x)

    return lambda: tuple(each.numpy() for each in step(x))


def on_jax(function, logits, labels, frames, lengths):
    """Compiled."""
    frame_padding = jnp.asarray(np.arange(logits.shape[1]) >= frames[:, None], dtype=jnp.float32)
    label_padding = jnp.asarray(np.arange(labels.shape[1]) >= lengths[:, None], dtype=jnp.float32)
    rest = (frame_padding, jnp.asarray(labels), label_padding)
    run = jax.jit(jax.value_and_grad(lambda x: function(x, *rest).sum()))
    x = jnp.asarray(logits)
    return lambda: jax.block_until_ready(run(x))


def torch_by_its_own_name(logits, labels, frames, lengths, reduction):
    """Call the function that ctcx.compat.torch calls in the end."""
    return ctcx.ctc_loss(logits, labels, frames, lengths, time_major=True, reduction=reduction)


def on_jax_with_lengths(function, logits, labels, frames, lengths):
    """Compiled; lengths instead of paddings."""
    rest = tuple(map(jnp.asarray, (labels, frames, lengths)))
    run = jax.jit(jax.value_and_grad(lambda x: function(x, *rest).sum()))
    x = jnp.asarray(logits)
    return lambda: jax.block_until_ready(run(x))


def on_keras(function, logits, labels, frames, lengths):
    """On Keras' backend torch."""
    x = torch.tensor(logits)
    labels, frames, lengths = map(torch.tensor, (labels, frames, lengths))

    def call():
        leaf = x.detach().requires_grad_()
        loss = function(labels, leaf, lengths, frames).sum()
        loss.backward()
        return loss.detach().numpy(), leaf.grad.numpy()

    return call


CALLS = {
    ("torch", "original"): (on_torch, torch.nn.functional.ctc_loss),
    ("torch", "ctcx.compat"): (on_torch, compat_torch.ctc_loss),
    ("torch", "ctcx"): (on_torch, torch_by_its_own_name),
    ("tensorflow", "original"): (on_tensorflow, tf.nn.ctc_loss),
    ("tensorflow", "ctcx.compat"): (on_tensorflow, compat_tensorflow.ctc_loss),
    ("tensorflow", "knows"): (on_tensorflow, known_to_tensorflow),
    ("tf.function", "original"): (on_tensorflow_graph, tf.nn.ctc_loss),
    ("tf.function", "ctcx.compat"): (on_tensorflow_graph, compat_tensorflow.ctc_loss),
    ("optax", "original"): (on_jax, optax.losses.ctc_loss),
    ("optax", "ctcx.compat"): (on_jax, compat_optax.ctc_loss),
    ("optax", "ctcx"): (on_jax_with_lengths, ctcx.ctc_loss),
    ("keras", "original"): (on_keras, keras.ops.ctc_loss),
    ("keras", "ctcx.compat"): (on_keras, compat_keras.ctc_loss),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("framework", "who"), CALLS)
def test_compat(benchmark, framework, shape, who):
    """A benchmark of a wrong result is worth nothing, so the results are compared first."""
    n, t, c, length = SHAPES[shape]
    rng = np.random.default_rng(0)
    problem = (
        rng.standard_normal((n, t, c), dtype=np.float32),
        rng.integers(1, c, (n, length)),
        np.full(n, t),
        np.full(n, length),
    )
    make, function = CALLS[framework, "original"]
    expected = make(function, *problem)()
    make, function = CALLS[framework, who]
    call = make(function, *problem)
    for one, other in zip(call(), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)
    benchmark.group = f"compat: {framework}, {shape}"
    benchmark.extra_info.update(framework=framework, shape=shape, who=who)
    benchmark.pedantic(call, rounds=ROUNDS[shape], warmup_rounds=2)
