"""Time the operations on one GPU, in milliseconds, beside other libraries."""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from problems import SMALL, make_full

import ctcx

# sequences, frames, classes, labels
WORKLOADS = {
    "notebook": (1, 5, 4, 4),
    "warpctc-28": (64, 150, 28, 40),
    "asr-char": (32, 400, 32, 60),
    "asr-bpe": (16, 500, 1024, 80),
    "warpctc-5k": (64, 150, 5000, 20),
    "ocr-zh": (64, 100, 6000, 20),
    "big-batch": (256, 400, 1024, 60),
    "long": (1, 20000, 32, 2000),
}
CUDNN_LABELS = 255
PATHS = {"infeasible": "empty", "validate": False}  # nothing is read back


def cupy_calls(logits, labels):
    """Loss and gradient, alignment and greedy decoding of CuPy arrays, by name."""
    import cupy

    arrays = cupy.asarray(logits), cupy.asarray(labels)
    wait = cupy.cuda.Device().synchronize
    calls = {
        "ctcx on cupy": lambda: ctcx.ctc_loss_and_grad(*arrays, validate=False),
        "ctcx on cupy, align": lambda: ctcx.ctc_align(*arrays, **PATHS),
        "ctcx on cupy, greedy": lambda: ctcx.ctc_greedy(arrays[0], validate=False),
    }
    return calls, wait


def torch_calls(logits, labels):
    """Loss and gradient of PyTorch tensors, by name, and a softmax, which is the floor."""
    import torch
    from torch.nn.functional import ctc_loss, log_softmax

    x, y = torch.tensor(logits, device="cuda"), torch.tensor(labels, device="cuda")
    frames, counts = (torch.full((len(labels),), a.shape[1]) for a in (logits, labels))
    leaf, time_major = x.clone().requires_grad_(), x.transpose(0, 1).contiguous().requires_grad_()
    flat = torch.tensor(labels, dtype=torch.int32).flatten()

    def training_step():
        leaf.grad = None
        ctcx.ctc_loss(leaf, y, reduction="sum").backward()

    def native():
        time_major.grad = None
        with torch.backends.cudnn.flags(enabled=False):
            log_probs = log_softmax(time_major, -1)
            ctc_loss(log_probs, y, frames.cuda(), counts.cuda(), reduction="sum").backward()

    def cudnn():
        time_major.grad = None
        log_probs = log_softmax(time_major, -1)
        ctc_loss(log_probs, flat, frames.int(), counts.int(), reduction="sum").backward()

    calls = {
        "ctcx on torch": lambda: ctcx.ctc_loss_and_grad(x, y, validate=False),
        "ctcx on torch, checked": lambda: ctcx.ctc_loss_and_grad(x, y),
        "ctcx on torch, backward": training_step,
        "ctcx on torch, align": lambda: ctcx.ctc_align(x, y, **PATHS),
        "ctcx on torch, greedy": lambda: ctcx.ctc_greedy(x, validate=False),
        "torch": native,
        "torch, cudnn": cudnn,
        "torch, softmax alone": lambda: torch.softmax(x, -1),
    }
    if labels.shape[1] > CUDNN_LABELS:
        del calls["torch, cudnn"]
    return calls, torch.cuda.synchronize


def jax_calls(logits, labels):
    """Loss and gradient under jax.jit, by name."""
    import jax
    import jax.numpy as jnp
    import optax

    if jax.default_backend() != "gpu":
        msg = f"JAX computes on {jax.default_backend()} here"
        raise RuntimeError(msg)
    x, y = jnp.asarray(logits), jnp.asarray(labels)
    no_padding = jnp.zeros(x.shape[:2]), jnp.zeros(y.shape)
    ours = jax.jit(jax.value_and_grad(lambda a: ctcx.ctc_loss(a, y).sum()))
    theirs = jax.jit(
        jax.value_and_grad(lambda a: optax.ctc_loss(a, no_padding[0], y, no_padding[1]).sum())
    )
    calls = {"ctcx under jax.jit": ours, "optax under jax.jit": theirs}
    waiting = {name: lambda f=f: jax.block_until_ready(f(x)) for name, f in calls.items()}
    return waiting, lambda: None


def milliseconds(call, wait):
    """Median of the times of a call, but for the first; the device is waited for after each."""
    times = []
    begin = time.perf_counter()
    while len(times) < 6 or (time.perf_counter() - begin < 1 and len(times) < 200):
        start = time.perf_counter()
        call()
        wait()
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:])) * 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="FILE", help="write the times here, too")
    parser.add_argument("--jax", action="store_true", help="JAX instead of CuPy and PyTorch")
    parser.add_argument("--few", action="store_true", help="two small workloads only")
    arguments = parser.parse_args()
    workloads = {str(sizes): sizes for sizes in SMALL} if arguments.few else WORKLOADS
    measured = {}
    for workload, sizes in workloads.items():
        times = measured[workload] = {}
        for library in [jax_calls] if arguments.jax else [cupy_calls, torch_calls]:
            try:
                calls, wait = library(*make_full(*sizes))
            except Exception as failure:  # noqa: BLE001 - the other library is of interest too
                print(f"{workload}: {library.__name__}: {type(failure).__name__}: {failure}")
                continue
            for name, call in calls.items():
                try:
                    times[name] = milliseconds(call, wait)
                except Exception as failure:  # noqa: BLE001
                    print(f"{workload}: {name}: {type(failure).__name__}: {failure}")
        print(f"{workload}:", ", ".join(f"{name} {ms:.4g} ms" for name, ms in times.items()))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(measured, indent=1), encoding="utf-8")
    if not any(measured.values()):
        sys.exit("nothing could be measured")


if __name__ == "__main__":
    main()
