"""Small problems for every variant of the kernels."""

import numpy as np

# A width of labels for each variant, by name.
WIDTHS = {"labels-31": 12, "labels-143": 60, "labels-539": 150, "any-length": 560}


def short_problem(variant, dtype="float32", *, sequences=2):
    """Return as :func:`problem`, of the same width and variant, but with few frames and labels."""
    logits, labels, logit_lengths, label_lengths = problem(variant, dtype, sequences=sequences)
    logit_lengths = 29 - np.arange(sequences)
    return logits[:, :30], labels, logit_lengths, np.minimum(label_lengths, 7)


def problem(variant, dtype="float32", *, sequences=2, classes=9, seed=0, slack=5):
    """Return logits, labels and both lengths: ragged, with repeats, one sequence without labels."""
    width = WIDTHS[variant]
    rng = np.random.default_rng(seed)
    frames = 2 * width + slack
    logits = rng.normal(scale=2, size=(sequences, frames, classes)).astype(dtype)
    labels = rng.integers(1, classes, size=(sequences, width))
    label_lengths = width - np.arange(sequences) * (width // max(1, sequences))
    logit_lengths = frames - 3 * np.arange(sequences)
    return logits, labels, logit_lengths, label_lengths
