"""Random problems, some with values that are not allowed, and what is wrong with the answers."""

import sys

import numpy as np
from ctcx_numba import compiled, kernels

from ctcx.conformance.oracle import reference, within_limit

BAD_INTEGERS = (-1, 2**31 - 1, 2**62, -(2**62))


def draw(rng):
    """Return a batch, its blank, and which of its sequences have something that is not allowed."""
    n, t, c, s = rng.integers(1, 5), rng.integers(0, 41), rng.integers(1, 70), rng.integers(0, 21)
    logits = rng.standard_normal((n, t, c)) * rng.choice([0.0, 1.0, 10.0, 300.0, 1e4])
    logits[rng.random(logits.shape) < rng.choice([0.0, 0.1, 0.8])] = -np.inf
    if rng.random() < 0.2:
        logits += 10.0 ** rng.integers(0, 9)
    blank = int(rng.integers(c))
    labels = rng.integers(0, c, (n, s))
    labels[labels == blank] = (blank + 1) % c
    if rng.random() < 0.3 and s:
        labels[:] = labels[:, :1]
    frames = rng.integers(0, t + 1, n)
    counts = rng.integers(0, s + 1, n) if c > 1 else np.zeros(n, np.int64)
    logits = logits.astype(rng.choice(["float32", "float64"]))
    return (logits, labels, frames, counts), blank


def spoil(batch, blank, rng):
    """Return the batch with one thing wrong in one sequence, and that sequence or None."""
    logits, labels, frames, counts = (a.copy() for a in batch)
    n, what = int(rng.integers(len(frames))), rng.integers(4)
    if what == 0 and frames[n]:
        at = rng.integers(frames[n]), rng.integers(logits.shape[2])
        logits[(n, *at)] = rng.choice([np.nan, np.inf])
    elif what == 1 and counts[n]:
        labels[n, rng.integers(counts[n])] = rng.choice([*BAD_INTEGERS, logits.shape[2], blank])
    elif what == 2:
        frames[n] = rng.choice([*BAD_INTEGERS, logits.shape[1] + 1])
    elif what == 3:
        counts[n] = rng.choice([*BAD_INTEGERS, labels.shape[1] + 1])
    else:
        n = None
    return (logits, labels, frames, counts), n


def laid_out(logits, rng):
    """Return the same logits, lying in memory in some other way, and read-only."""
    layout = rng.integers(4)
    if layout == 1:
        logits = np.ascontiguousarray(logits.transpose(1, 0, 2)).transpose(1, 0, 2)
    elif layout == 2:
        logits = np.repeat(logits, 2, axis=2)[:, :, ::2]
    elif layout == 3:
        logits = logits[:, ::-1].copy()[:, ::-1]
    logits.flags.writeable = False
    return logits


def check(batch, blank, rng):
    """Compare with the oracle: the batch as it is, and with something wrong."""
    right = within_limit(reference(*batch, blank))
    single = batch[0].dtype == np.float32
    for (logits, *rest), wrong in ((batch, None), spoil(batch, blank, rng)):
        given = laid_out(logits, rng), *rest
        losses, grad = kernels.loss_and_grad(*given, blank=blank)
        alone = kernels.loss(*given, blank=blank)
        np.testing.assert_array_equal(alone, losses)
        expected_loss, expected_grad = right.loss.copy(), right.grad.copy()
        if wrong is not None:
            length = given[2][wrong]
            length = length if 0 <= length <= grad.shape[1] else grad.shape[1]
            expected_loss[wrong], expected_grad[wrong, :length] = np.nan, np.nan
            expected_grad[wrong, length:] = 0
        np.testing.assert_allclose(
            losses, expected_loss, rtol=1e-7 if single else 1e-13, atol=grad.shape[1] * 1e-15
        )
        np.testing.assert_allclose(grad, expected_grad, rtol=0, atol=3e-7 if single else 1e-11)


def check_many(count, seed):
    rng = np.random.default_rng(seed)
    for problem in range(count):
        compiled.MOST_STATES = (2**17, 0)[problem % 2]  # in one block, or in several
        kernels._WORTH_A_THREAD = (200_000, 1000)[problem // 2 % 2]
        check(*draw(rng), rng)


if __name__ == "__main__":
    check_many(300, seed=1)
    # An overrun is found: memory for fewer labels than there are.
    integers = np.ones((1, 40), np.int64), np.array([50]), np.array([40])
    small, kernel = compiled.scratch_for(50, 3, 5), compiled.compiled_for("float32")
    rows, order = np.zeros((50, 5), np.float32), np.zeros(1, np.int64)
    try:
        kernel(rows, 50, 50, 1, *integers, 0, order, small, np.empty(1), rows.copy())
    except IndexError as error:
        sys.stdout.write(f"found: {error}")
