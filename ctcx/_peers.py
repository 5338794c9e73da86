"""Other implementations of CTC, each called in the way that its own users would.

Each ``prepare_*`` takes a batch and returns ``(call, read)``: ``call()`` computes loss and gradient
and returns when they are there; ``read(result)`` gives them as NumPy arrays, loss (N,) and the
gradient of the summed loss (N, T, C) with respect to the logits in their original order. What a
user would do once (upload, turn classes round) is done before.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ctcx.data.batch import Batch

__all__ = ["PEERS", "PREPARE", "MissingError", "PreparedPeer"]

PEERS = {
    "torch": "torch.nn.functional.ctc_loss with log_softmax, and its backward",
    "optax": "optax.ctc_loss, value and gradient under jax.jit",
    "tensorflow-v1": "tf.compat.v1.nn.ctc_loss and its gradient in a tf.function",
    "tensorflow-v2": "tf.nn.ctc_loss with dense labels and its gradient in a tf.function",
    "keras": "keras.ops.ctc_loss and its gradient, compiled where its backend does that",
}
"""Implementations that are no backends of ctcx, and what is called."""

PreparedPeer: TypeAlias = (
    "tuple[Callable[[], Any], Callable[[Any], tuple[NDArray[Any], NDArray[Any]]]]"
)


class MissingError(Exception):
    """The implementation is not installed; the message says what to install."""


def _need(module: str, install: str) -> None:
    if find_spec(module) is None:
        msg = f"{module} is not installed (pip install {install})"
        raise MissingError(msg)


def prepare_torch(inputs: Batch) -> PreparedPeer:
    """``torch.nn.functional.ctc_loss`` takes log-probabilities with time first."""
    _need("torch", "torch")
    import torch

    logits, labels, logit_lengths, label_lengths = map(torch.tensor, inputs.arrays)

    def call() -> Any:
        leaf = logits.detach().requires_grad_()
        log_probs = leaf.log_softmax(-1).swapaxes(0, 1)
        loss = torch.nn.functional.ctc_loss(
            log_probs, labels, logit_lengths, label_lengths, blank=inputs.blank, reduction="none"
        )
        loss.sum().backward()
        return loss.detach(), leaf.grad

    return call, _as_numpy


def prepare_optax(inputs: Batch) -> PreparedPeer:
    """``optax.ctc_loss`` takes paddings in place of lengths."""
    _need("optax", "optax")
    import jax
    import jax.numpy as jnp
    import optax

    frames = np.arange(inputs.logits.shape[1]) >= inputs.logit_lengths[:, None]
    places = np.arange(inputs.labels.shape[1]) >= inputs.label_lengths[:, None]
    logits, paddings, labels, label_paddings = map(
        jnp.asarray,
        (
            inputs.logits,
            frames.astype(np.float32),
            inputs.labels.astype(np.int32),
            places.astype(np.float32),
        ),
    )

    def total(logits: Any, *rest: Any) -> Any:
        loss = optax.ctc_loss(logits, *rest, blank_id=inputs.blank)
        return loss.sum(), loss

    compiled = jax.jit(jax.value_and_grad(total, has_aux=True))

    def call() -> Any:
        (_, loss), grad = compiled(logits, paddings, labels, label_paddings)
        return jax.block_until_ready((loss, grad))

    return call, _as_numpy


def prepare_tensorflow_v1(inputs: Batch) -> PreparedPeer:
    """``tf.compat.v1.nn.ctc_loss`` takes sparse labels, and its blank is the last class."""
    _need("tensorflow", "tensorflow-cpu")
    import tensorflow as tf

    order = np.r_[np.delete(np.arange(inputs.logits.shape[2]), inputs.blank), inputs.blank]
    place = np.argsort(order)
    used = np.arange(inputs.labels.shape[1]) < inputs.label_lengths[:, None]
    labels = tf.SparseTensor(
        indices=np.argwhere(used),
        values=place[inputs.labels[used]].astype(np.int32),
        dense_shape=inputs.labels.shape,
    )
    logits = tf.constant(inputs.logits[:, :, order])
    lengths = tf.constant(inputs.logit_lengths.astype(np.int32))

    def loss_of(logits: Any) -> Any:
        return tf.compat.v1.nn.ctc_loss(
            labels, logits, lengths, time_major=False, ignore_longer_outputs_than_inputs=True
        )

    def read(result: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        loss, grad = _as_numpy(result)
        return loss, grad[:, :, place]

    return _tensorflow_call(loss_of, logits), read


def prepare_tensorflow_v2(inputs: Batch) -> PreparedPeer:
    """``tf.nn.ctc_loss`` with dense labels is TensorFlow's own recursion in the graph."""
    _need("tensorflow", "tensorflow-cpu")
    import tensorflow as tf

    logits = tf.constant(inputs.logits)
    labels, logit_lengths, label_lengths = (
        tf.constant(array.astype(np.int32))
        for array in (inputs.labels, inputs.logit_lengths, inputs.label_lengths)
    )

    def loss_of(logits: Any) -> Any:
        return tf.nn.ctc_loss(
            labels,
            logits,
            label_lengths,
            logit_lengths,
            logits_time_major=False,
            blank_index=inputs.blank,
        )

    return _tensorflow_call(loss_of, logits), _as_numpy


def prepare_keras(inputs: Batch) -> PreparedPeer:
    """``keras.ops.ctc_loss`` on Keras's configured backend, else on the first that is there."""
    _need("keras", "keras")
    if "KERAS_BACKEND" not in os.environ:
        there = [name for name in ("tensorflow", "jax", "torch") if find_spec(name)]
        if not there:
            msg = "keras has no backend: none of tensorflow, jax and torch is installed"
            raise MissingError(msg)
        os.environ["KERAS_BACKEND"] = there[0]
    import keras

    logits = keras.ops.convert_to_tensor(inputs.logits.copy())  # a read-only array warns
    labels, label_lengths, logit_lengths = (
        keras.ops.convert_to_tensor(array.astype(np.int32))
        for array in (inputs.labels, inputs.label_lengths, inputs.logit_lengths)
    )

    def loss_of(logits: Any) -> Any:
        return keras.ops.ctc_loss(
            labels, logits, label_lengths, logit_lengths, mask_index=inputs.blank
        )

    name = keras.backend.backend()
    if name == "tensorflow":
        return _tensorflow_call(loss_of, logits), _as_numpy
    if name == "jax":
        return _jax_call(loss_of, logits), _as_numpy
    if name == "torch":
        return _torch_call(loss_of, logits), _as_numpy
    msg = f"keras runs on {name!r}, which gives no gradients"
    raise MissingError(msg)


PREPARE: dict[str, Callable[[Batch], PreparedPeer]] = {
    "torch": prepare_torch,
    "optax": prepare_optax,
    "tensorflow-v1": prepare_tensorflow_v1,
    "tensorflow-v2": prepare_tensorflow_v2,
    "keras": prepare_keras,
}
"""By the name in :data:`PEERS`."""


def _tensorflow_call(loss_of: Callable[[Any], Any], logits: Any) -> Callable[[], Any]:
    import tensorflow as tf

    def eager(logits: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = loss_of(logits)
        return loss, tape.gradient(loss, logits)

    both = tf.function(eager)

    def call() -> Any:
        loss, grad = both(logits)
        # On a GPU a tensor may be there before its values are; .numpy() of the loss waits.
        loss.numpy()
        return loss, grad

    return call


def _jax_call(loss_of: Callable[[Any], Any], logits: Any) -> Callable[[], Any]:
    import jax

    def total(logits: Any) -> Any:
        loss = loss_of(logits)
        return loss.sum(), loss

    compiled = jax.jit(jax.value_and_grad(total, has_aux=True))

    def call() -> Any:
        (_, loss), grad = compiled(logits)
        return jax.block_until_ready((loss, grad))

    return call


def _torch_call(loss_of: Callable[[Any], Any], logits: Any) -> Callable[[], Any]:
    def call() -> Any:
        leaf = logits.detach().requires_grad_()
        loss = loss_of(leaf)
        loss.sum().backward()
        return loss.detach(), leaf.grad

    return call


def _as_numpy(result: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    loss, grad = result
    return np.asarray(loss), np.asarray(grad)
