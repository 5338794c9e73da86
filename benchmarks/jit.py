"""Time the core's loss and gradient under jax.jit beside Optax's, calls interleaved, on one core.

    python -m benchmarks.jit [--rounds 50]

Needs JAX and Optax. Of the CPU time of each call, the least and the median count: compare times of
one run only. The error is the largest of a gradient's entries, beside PyTorch's in float64.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPES = {
    "warpctc-28": (64, 150, 28, 40),
    "asr-char": (32, 400, 32, 60),
    "small": (4, 60, 97, 25),
}


def calls() -> dict[str, Callable[..., Any]]:
    """Functions of logits and labels that give loss and gradient."""
    import jax
    import jax.numpy as jnp
    import optax

    import ctcx

    def core(x: Any, y: Any) -> Any:
        return ctcx.ctc_loss(x, y, reduction="sum", backend="array-api")

    def other(x: Any, y: Any) -> Any:
        no_frame, no_label = jnp.zeros(x.shape[:2], x.dtype), jnp.zeros(y.shape, x.dtype)
        return optax.ctc_loss(x, no_frame, y, no_label).sum()

    return {
        "optax": jax.jit(jax.value_and_grad(other)),
        "core": jax.jit(jax.value_and_grad(core)),
    }


def exact(x: Any, y: Any) -> Any:
    """Gradient in float64."""
    import torch

    logits = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    lengths = (torch.full((len(x),), size) for size in (x.shape[1], y.shape[1]))
    log_probs = logits.log_softmax(2).transpose(0, 1)
    labels = torch.tensor(y, dtype=torch.int64)
    torch.nn.functional.ctc_loss(log_probs, labels, *lengths, reduction="sum").backward()
    return logits.grad.numpy()


def main() -> None:
    """Print milliseconds, how many times as fast as Optax, and errors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50)
    rounds = parser.parse_args().rounds
    if hasattr(os, "sched_setaffinity"):  # before XLA starts its threads
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import jax

    rng = np.random.default_rng(0)
    for name, (n, t, c, length) in SHAPES.items():
        x = rng.standard_normal((n, t, c), dtype=np.float32)
        y = rng.integers(1, c, (n, length), dtype=np.int32)
        expected, given = exact(x, y), (jax.numpy.asarray(x), jax.numpy.asarray(y))
        functions = calls()
        errors = {
            each: abs(np.asarray(function(*given)[1]) - expected).max()
            for each, function in functions.items()
        }
        times: dict[str, list[float]] = {each: [] for each in functions}
        for _ in range(rounds):
            for each, function in functions.items():
                start = time.process_time()
                jax.block_until_ready(function(*given))
                times[each].append(time.process_time() - start)
        print(f"{name} {(n, t, c, length)}")
        for each, found in times.items():
            least, median = (
                f"{1e3 * of(found):.3f} ms ({of(times['optax']) / of(found):.2f} times as fast)"
                for of in (min, statistics.median)
            )
            print(f"  {each:6} least {least}, median {median}, error {errors[each]:.1e}")


if __name__ == "__main__":
    main()
