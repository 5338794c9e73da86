"""How much longer the first call of a process takes than the second, in CPU time.

``python benchmarks/first_call.py`` starts some processes for each case, and prints the least of
each. Under ``jax.jit`` a function of the same arguments that does next to nothing stands beside
it: JAX traces and compiles that as well. Of decoding outside of ``jax.jit`` the first call is the
first of its shape, after one of another.

Modules are compiled to bytecode already, as an installation leaves them: the first process of all
compiles what isn't, even with ``PYTHONDONTWRITEBYTECODE``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

PROCESSES = 7
SETUP = """
import gc, json, time
import numpy as np
rng = np.random.default_rng(0)
x = rng.standard_normal((4, 60, 97), dtype=np.float32)
y = rng.integers(1, 97, (4, 10), dtype=np.int32)
"""
TORCH = """
import torch
x, y = torch.from_numpy(x).requires_grad_(), torch.from_numpy(y)
(x * 2).sum().backward()
x.grad = None
"""
JAX = """
import jax, jax.numpy as jnp
x, y = jnp.asarray(x), jnp.asarray(y)
jax.block_until_ready(jax.jit(lambda x: x * 2)(x))
"""
GRADIENT = """
function = jax.jit(jax.value_and_grad(LOSS))
call = lambda: jax.block_until_ready(function(x, y))
"""
DECODING = """
import ctcx
DECODE(x[:, :59])
call = lambda: jax.block_until_ready(DECODE(x)[:3])
"""
LOSS = "lambda x, y: ctcx.ctc_loss(x, y, reduction='sum')"
CASES = {
    "NumPy": "call = lambda: ctcx.ctc_loss_and_grad(x, y)",
    "PyTorch, backward": TORCH + "call = lambda: ctcx.ctc_loss(x, y, reduction='sum').backward()",
    "jax.jit, gradient": JAX + GRADIENT.replace("LOSS", LOSS),
    "jax.jit, gradient, without ctcx": JAX
    + GRADIENT.replace("LOSS", "lambda x, y: (x * x).sum() + y.sum()"),
    "JAX, ctc_greedy": JAX + DECODING.replace("DECODE", "ctcx.ctc_greedy"),
    "JAX, ctc_beam_search": JAX + DECODING.replace("DECODE", "ctcx.ctc_beam_search"),
}
# Python's collector runs in the first or in the second, and takes 50 ms where PyTorch is imported.
MEASURE = """
import ctcx
gc.collect()
gc.disable()
times = [time.process_time()]
for _ in range(2):
    call()
    times.append(time.process_time())
print(json.dumps(times))
"""


def measure(case: str) -> tuple[float, float]:
    """Return the first and the second call's milliseconds, in a process of their own."""
    command = [sys.executable, "-c", SETUP + CASES[case] + MEASURE]
    # NumPy's OpenBLAS has threads that spin for a while after its import, and count.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    printed = subprocess.check_output(command, env=environment, text=True)  # noqa: S603
    start, first, second = json.loads(printed)
    return 1e3 * (first - start), 1e3 * (second - first)


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=PROCESSES)
    processes = parser.parse_args().processes
    for case in CASES:
        first, second = map(min, zip(*(measure(case) for _ in range(processes)), strict=True))
        print(f"{case:32} first {first:6.1f} ms, second {second:6.2f} ms")


if __name__ == "__main__":
    main()
