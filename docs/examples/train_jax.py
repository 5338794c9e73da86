"""Train a small convolutional network with Optax' CTC loss and with ctcx's: change one import.

Run ``python docs/examples/train_jax.py``. It prints the loss of both along the way, then trains
both on batches in which one sequence has too few frames for its labels.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from strokes import CLASSES, FRAMES, batch

from ctcx.compat.optax import ctc_loss


def network(weights, features):
    """From features (N, T, 4) to logits (N, T, C): three convolutions over time."""
    for layer, (kernel, bias) in enumerate(weights):
        features = jax.lax.conv_general_dilated(
            features, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
        )
        features = features + bias
        features = features if layer == len(weights) - 1 else jax.nn.relu(features)
    return features


def initial(key):
    """Weights of the network."""
    sizes = ((7, 4, 32), (5, 32, 32), (1, 32, CLASSES))
    keys = jax.random.split(key, len(sizes))
    return [
        (jax.random.normal(k, size) / (size[0] * size[1]) ** 0.5, jnp.zeros(size[2]))
        for k, size in zip(keys, sizes, strict=True)
    ]


def train(loss_function, steps=200, *, infeasible=0, seed=0):
    """Loss of each step; the same weights and batches for the same seed."""
    optimizer = optax.adam(0.01)

    def mean(weights, features, frame_padding, labels, label_padding):
        losses = loss_function(network(weights, features), frame_padding, labels, label_padding)
        feasible = losses < 9e4  # Optax has 100,000 for what can't be, ctcx infinity
        return jnp.sum(jnp.where(feasible, losses, 0.0)) / jnp.sum(feasible), losses

    @jax.jit
    def step(weights, state, *arguments):
        (loss, losses), grads = jax.value_and_grad(mean, has_aux=True)(weights, *arguments)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(weights, updates), state, loss, losses

    weights = initial(jax.random.key(seed))
    state, rng, curve = optimizer.init(weights), np.random.default_rng(seed), []
    for _ in range(steps):
        features, labels, frames, lengths = batch(rng, 8, infeasible=infeasible)
        frame_padding = (np.arange(FRAMES) >= frames[:, None]).astype(np.float32)
        label_padding = (np.arange(labels.shape[1]) >= lengths[:, None]).astype(np.float32)
        weights, state, loss, losses = step(
            weights, state, features, frame_padding, jnp.asarray(labels), label_padding
        )
        curve.append(float(loss))
    return curve, np.asarray(losses)


def main():
    (theirs, _), (ours, _) = map(train, (optax.losses.ctc_loss, ctc_loss))
    print("step   optax    ctcx")
    for step in (0, 24, 49, 99, 199):
        print(f"{step + 1:4d} {theirs[step]:7.3f} {ours[step]:7.3f}")
    print("The loss of a sequence with too few frames:")
    short = partial(train, steps=10, infeasible=1)
    print(f"optax {short(optax.losses.ctc_loss)[1][-1]:.1f}, ctcx {short(ctc_loss)[1][-1]}")


if __name__ == "__main__":
    main()
