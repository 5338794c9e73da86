"""Time small batches beside PyTorch's own loss, in CPU time, calls interleaved.

    python -m benchmarks.small_calls [--rounds 15]

Needs ctcx-cpu and PyTorch, which computes log-softmax, loss and backward in one thread. A round is
a thousand calls of each; the least counts.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import ctcx
from benchmarks.alignments import interleaved

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS = 1000
NOTEBOOK = np.eye(4, dtype=np.float32)[[[0, 3, 0, 3, 3]]], np.array([[0, 1, 0, 1]]), 3


class Nothing(torch.autograd.Function):
    """Computes nothing, forwards and backwards."""

    @staticmethod
    def forward(ctx: Any, array: torch.Tensor) -> torch.Tensor:
        """Return 0, and keep a gradient."""
        ctx.grad = torch.zeros_like(array)
        return array.new_zeros(())

    @staticmethod
    def backward(ctx: Any, above: torch.Tensor) -> torch.Tensor:  # noqa: ARG004 - PyTorch passes it
        """Return what was kept."""
        return ctx.grad


def many(call: Callable[[], object]) -> None:
    """Make the call often enough for a clock."""
    for _ in range(CALLS):
        call()


def main() -> None:
    """Print microseconds of a call, and how many times as fast as PyTorch it is."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal((4, 60, 97), dtype=np.float32), rng.integers(1, 97, (4, 25)), 0
    for name, (logits, labels, blank) in {"notebook": NOTEBOOK, "(4, 60, 97, 25)": drawn}.items():
        least = interleaved(calls_on(logits, labels, blank), rounds, time.process_time)
        theirs = least["PyTorch"]
        for each, seconds in least.items():
            print(
                f"{name}: {each} {1e6 * seconds / CALLS:.1f} microseconds, {theirs / seconds:.2f}"
            )


def calls_on(logits: np.ndarray, labels: np.ndarray, blank: int) -> dict[str, Callable[[], object]]:
    """Return a thousand calls of each kind on one batch, by name."""
    lengths = np.full(len(logits), logits.shape[1]), np.full(len(logits), labels.shape[1])
    arrays = logits, labels, *lengths
    weights, *rest = map(torch.tensor, arrays)
    weights.requires_grad_()

    def step(loss: Callable[[], torch.Tensor]) -> None:
        weights.grad = None
        loss().backward()

    def theirs() -> torch.Tensor:
        log_probs = weights.log_softmax(-1).transpose(0, 1)
        return torch.nn.functional.ctc_loss(log_probs, *rest, blank=blank, reduction="sum")

    def ours() -> torch.Tensor:
        return ctcx.ctc_loss(weights, *rest, blank=blank, reduction="sum")

    return {
        "PyTorch": partial(many, partial(step, theirs)),
        "nothing on PyTorch": partial(many, partial(step, partial(Nothing.apply, weights))),
        "ctcx on PyTorch": partial(many, partial(step, ours)),
        "ctcx on NumPy": partial(many, partial(ctcx.ctc_loss_and_grad, *arrays, blank=blank)),
        "ctcx on NumPy, loss alone": partial(many, partial(ctcx.ctc_loss, *arrays, blank=blank)),
    }


if __name__ == "__main__":
    main()
