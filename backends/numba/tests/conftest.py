import numpy as np
import pytest


@pytest.fixture
def batch():
    """Return a function that makes a random batch: logits, labels, logit and label lengths."""

    def make(n, t, c, s, *, scale=2.0, dtype=np.float32, ragged=False, seed=0):
        rng = np.random.default_rng(seed)
        logits = (rng.standard_normal((n, t, c)) * scale).astype(dtype)
        labels = rng.integers(1, c, (n, s))
        frames, counts = np.full(n, t), np.full(n, s)
        if ragged:
            frames, counts = rng.integers(0, t + 1, n), rng.integers(0, s + 1, n)
        return logits, labels, frames, counts

    return make
