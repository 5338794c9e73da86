"""The named workloads: shapes from published CTC benchmarks and from real uses."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["WORKLOADS", "Workload", "make"]


class Workload(NamedTuple):
    """Sequences, frames, classes (blank included), labels a sequence; and where it comes from."""

    N: int
    T: int
    C: int
    L: int
    origin: str


WORKLOADS = {
    "notebook": Workload(1, 5, 4, 4, "the size of the notebook's fixture: pure overhead"),
    "warpctc-28": Workload(64, 150, 28, 40, "warp-ctc's published benchmark, small alphabet"),
    "warpctc-5k": Workload(64, 150, 5000, 20, "warp-ctc's published benchmark, large alphabet"),
    "asr-char": Workload(32, 400, 32, 60, "speech, characters"),
    "asr-bpe": Workload(16, 500, 1024, 80, "speech, word pieces"),
    "ocr-zh": Workload(64, 100, 6000, 20, "text lines, Chinese characters"),
    "long": Workload(1, 20_000, 32, 2_000, "an audio book in one piece"),
}


def make(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Logits, labels, logit lengths, label lengths: scale 2, float32, blank 0, no equal neighbours.

    The same on every machine.
    """
    n, t, c, length, _ = WORKLOADS[name]
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((n, t, c), dtype=np.float32) * 2
    labels = rng.integers(1, c, (n, length))
    for i in range(1, length):
        same = labels[:, i] == labels[:, i - 1]
        labels[same, i] = 1 + labels[same, i] % (c - 1)
    return logits, labels, np.full(n, t), np.full(n, length)
