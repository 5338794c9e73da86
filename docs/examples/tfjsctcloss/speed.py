"""Time loss and gradient: the npm package tfjsctcloss beside ``ctcx.compat.tfjs``.

Run ``npm install`` in this folder, then ``python speed.py``. Prints a line a shape.
"""

import json
import subprocess
import time
from pathlib import Path
from statistics import median

import numpy as np

from ctcx.compat.tfjs import ctc_loss, ctc_loss_gradient

SHAPES = {(1, 5, 4, 2): 50, (16, 150, 28, 20): 3}  # N, T, C, labels: rounds


def problem(count, frames, classes, length):
    """Draw logits, and one-hot labels with blanks behind them."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((count, frames, classes), dtype=np.float32)
    ids = np.full((count, frames), classes - 1)
    ids[:, :length] = rng.integers(0, classes - 1, (count, length))
    return np.eye(classes, dtype=np.float32)[ids], logits


def ours(labels, logits, rounds):
    """Median milliseconds, and the sum of the losses."""
    times = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        total = ctc_loss(labels, logits).sum()
        ctc_loss_gradient(labels, logits)
        times.append(time.perf_counter() - begin)
    return 1e3 * median(times[1:]), total


def theirs(labels, logits, rounds):
    """Ask Node the same."""
    asked = {"labels": labels.tolist(), "logits": logits.tolist(), "rounds": rounds}
    child = subprocess.run(
        ["node", "speed.mjs"],
        input=json.dumps(asked),
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(child.stdout.splitlines()[-1])
    return answer["milliseconds"], answer["total"]


for shape, rounds in SHAPES.items():
    labels, logits = problem(*shape)
    (slow, expected), (fast, total) = (f(labels, logits, rounds) for f in (theirs, ours))
    np.testing.assert_allclose(total, expected, rtol=1e-4)
    print(
        f"{shape}: tfjsctcloss {slow:.3g} ms, ctcx {fast:.3g} ms, {slow / fast:.3g} times as fast"
    )
