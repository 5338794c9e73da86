"""Time, memory and errors of a last linear layer with its loss, beside PyTorch's layer and loss.

    python -m benchmarks.linear_heads [--classes 100000] [--rounds 5] [--threads 1]

Both get tensors of PyTorch, float32, and compute loss and all gradients: ctcx by
linear_ctc_loss_and_grad, PyTorch by linear, log_softmax, ctc_loss and backward(). Times are of
calls that take turns in one process, the least of each; peak memory beyond the inputs is of a
process for each; errors are the largest ones of each gradient beside PyTorch's in float64. Needs
PyTorch.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from functools import partial

import torch

import ctcx

COUNT, FRAMES, FEATURES, LABELS = 2, 250, 128, 30


def problem(classes):
    """Hidden states, weight, bias and labels."""
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(COUNT, FRAMES, FEATURES, generator=random)
    # In place: memory that was freed before would not count as the call's.
    weight = torch.randn(classes, FEATURES, generator=random).mul_(0.2)
    labels = torch.randint(1, classes, (COUNT, LABELS), generator=random)
    return hidden, weight, torch.zeros(classes), labels


def ours(hidden, weight, bias, labels):
    """Gradients by ctcx."""
    return ctcx.linear_ctc_loss_and_grad(hidden, weight, bias, labels)[1:4]


def peers(hidden, weight, bias, labels):
    """Gradients by PyTorch."""
    layer = [array.detach().requires_grad_() for array in (hidden, weight, bias)]
    log_probs = torch.nn.functional.linear(*layer).log_softmax(2).transpose(0, 1)
    lengths = [torch.full((len(labels),), n) for n in (hidden.shape[1], labels.shape[1])]
    loss = torch.nn.functional.ctc_loss(log_probs, labels, *lengths, reduction="sum")
    loss.backward()
    return [array.grad for array in layer]


CALLS = {"ctcx": ours, "torch": peers}


def mebibytes():
    """Most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def times(given, rounds):
    """Least seconds of each."""
    least = dict.fromkeys(CALLS, float("inf"))
    for _ in range(rounds):
        for name, call in CALLS.items():
            start = time.perf_counter()
            call(*given)
            least[name] = min(least[name], time.perf_counter() - start)
    return least


def memory(name, given):
    """Peak of one call beyond what the process had before."""
    CALLS[name](given[0][:, :40], given[1][:40], given[2][:40], given[3].clamp(max=39))
    before = mebibytes()
    CALLS[name](*given)
    return {name: mebibytes() - before}


def errors(given):
    """Largest errors of each gradient."""
    truth = peers(*(array.double() for array in given[:3]), given[3])
    return {
        name: [
            float((found - right).abs().max())
            for found, right in zip(call(*given), truth, strict=True)
        ]
        for name, call in CALLS.items()
    }


def main() -> None:
    """Print the three, and their ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--classes", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", help="what a child process measures", default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.only is not None:
        given = problem(options.classes)
        parts = {"times": partial(times, given, options.rounds), "errors": partial(errors, given)}
        parts |= {name: partial(memory, name, given) for name in CALLS}
        print(json.dumps(parts[options.only]()))
        return

    def child(part):
        command = [sys.executable, "-m", "benchmarks.linear_heads", "--only", part]
        for name in ("classes", "rounds", "threads"):
            command += [f"--{name}", str(getattr(options, name))]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)  # noqa: S603
        return json.loads(done.stdout)

    print(f"N={COUNT} T={FRAMES} D={FEATURES} L={LABELS} C={options.classes}, float32")
    logits = COUNT * FRAMES * options.classes * 4 / 2**20
    print(
        f"logits would take {logits:.0f} MiB, the gradient of the weight takes "
        f"{options.classes * FEATURES * 4 / 2**20:.0f} MiB"
    )
    seconds, peak, wrong = child("times"), child("ctcx") | child("torch"), child("errors")
    for name in CALLS:
        print(
            f"{name}: {seconds[name]:.2f} s, {peak[name]:.0f} MiB, errors of hidden, weight, bias "
            f"{', '.join(f'{error:.1e}' for error in wrong[name])}"
        )
    ratios = [other / own for own, other in zip(wrong["ctcx"], wrong["torch"], strict=True)]
    print(
        f"torch / ctcx: time {seconds['torch'] / seconds['ctcx']:.2f}, memory "
        f"{peak['torch'] / peak['ctcx']:.1f}, errors {', '.join(f'{r:.0f}' for r in ratios)}"
    )


if __name__ == "__main__":
    main()
