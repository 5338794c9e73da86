"""Batches for both scripts."""

import numpy as np

# sequences, frames, classes, labels
SMALL = [(3, 20, 7, 5), (5, 60, 29, 24)]
SIZES = [
    (1, 5, 4, 4),
    *SMALL,
    (64, 150, 28, 40),
    (8, 300, 500, 31),
    (8, 300, 500, 32),
    (6, 500, 90, 143),
    (4, 900, 60, 300),
    (2, 1500, 40, 539),
    (2, 2500, 40, 800),
    (4, 120, 20000, 20),
    (300, 30, 11, 6),
]


def make_ragged(sequences, frames, classes, labels):
    """Return logits in float64, labels and the lengths of both; some labels don't fit."""
    rng = np.random.default_rng(11)
    logits = rng.standard_normal((sequences, frames, classes)) * 3
    targets = rng.integers(1, classes, (sequences, labels))
    label_lengths = rng.integers(0, labels + 1, sequences)
    logit_lengths = rng.integers(frames // 2, frames + 1, sequences)
    label_lengths[0], logit_lengths[0] = labels, frames
    return logits, targets, logit_lengths, label_lengths


def make_full(sequences, frames, classes, labels):
    """Return logits in float32, and labels no two of which are equal neighbours."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((sequences, frames, classes), dtype=np.float32) * 2
    targets = rng.integers(1, classes, (sequences, labels))
    for i in range(1, labels):
        again = targets[:, i] == targets[:, i - 1]
        targets[again, i] = targets[again, i] % (classes - 1) + 1
    return logits, targets
