"""Problems that every framework can take, drawn by Hypothesis; and how to compare the answers."""

import os
from typing import NamedTuple

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from ctcx.conformance.oracle import reference

SETTINGS = settings(
    deadline=None,
    max_examples=int(os.environ.get("CTCX_TEST_EXAMPLES", "60")),
    suppress_health_check=[HealthCheck.too_slow],
)


# (N, T, C, S) for what compiles for each shape: enough of each size, repeats, and no labels at all.
FEW_SHAPES = ((3, 8, 4, 4), (2, 1, 3, 1), (1, 5, 2, 0))


class Problem(NamedTuple):
    logits: np.ndarray  # (N, T, C)
    labels: np.ndarray  # (N, S)
    frames: np.ndarray
    lengths: np.ndarray
    blank: int

    @property
    def feasible(self):
        return self.frames >= self.lengths + [
            np.sum(row[1:length] == row[: max(0, length - 1)])
            for row, length in zip(self.labels, self.lengths, strict=True)
        ]

    def log_probs(self):
        """(T, N, C), as torch takes them."""
        shifted = self.logits - self.logits.max(axis=2, keepdims=True)
        log_probs = shifted - np.log(np.exp(shifted).sum(axis=2, keepdims=True))
        return np.ascontiguousarray(log_probs.transpose(1, 0, 2))

    def weights(self):
        """One factor for each sequence, to see that what comes from above is multiplied in."""
        return np.linspace(0.5, 2.0, len(self.frames)).astype(self.logits.dtype)

    def with_a_frame_a_label(self):
        """As many frames as labels at least, in every sequence."""
        lengths = np.minimum(self.lengths, self.logits.shape[1])
        return self._replace(lengths=lengths, frames=np.maximum(self.frames, lengths))


@st.composite
def problems(
    draw,
    *,
    dtypes=("float32", "float64"),
    blanks=("any",),
    max_frames=10,
    min_labels=0,
    min_length=0,
    shapes=None,
):
    """Ragged batches with repeats, empty and infeasible sequences, and any blank.

    ``shapes`` are the (N, T, C, S) to choose from, for what compiles for each shape.
    """
    if shapes is None:
        count = draw(st.integers(1, 3))
        frames = draw(st.integers(1, max_frames))
        classes = draw(st.integers(2, 6))
        width = draw(st.integers(min_labels, 5))
    else:
        count, frames, classes, width = draw(st.sampled_from(shapes))
    blank = draw(st.integers(0, classes - 1)) if "any" in blanks else draw(st.sampled_from(blanks))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = rng.standard_normal((count, frames, classes)) * draw(st.sampled_from([0, 1, 4]))
    logits = logits.astype(draw(st.sampled_from(dtypes)))
    labels = (blank % classes + rng.integers(1, classes, (count, width))) % classes
    if draw(st.booleans()) and width:
        labels = np.where(rng.random(labels.shape) < 0.5, labels[:, :1], labels)
    return Problem(
        logits,
        labels,
        rng.integers(0, frames + 1, count),
        rng.integers(min(min_length, width), width + 1, count),
        blank,
    )


def assert_same(ours, theirs, dtype="float32"):
    """Losses or gradients mean the same as another library's.

    How far a library's float32 is from the truth depends on the CPU, and is no concern here:
    another meaning costs percents. How exact ctcx is, :func:`assert_right` says.
    """
    tolerance = {"float32": 1e-3, "float64": 1e-10}[np.dtype(dtype).name]
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def assert_right(problem, loss, grad=None, weights=None):
    """Losses (N,) of a problem, and their weighed gradient (N, T, C), are those of the oracle."""
    truth = reference(
        problem.logits, problem.labels, problem.frames, problem.lengths, problem.blank
    )
    tolerance = {"float32": 2e-5, "float64": 1e-10}[problem.logits.dtype.name]
    np.testing.assert_allclose(loss, truth.loss, rtol=tolerance, atol=tolerance)
    if grad is not None:
        weights = np.ones(len(truth.loss)) if weights is None else weights
        expected = truth.grad * weights[:, None, None]
        np.testing.assert_allclose(grad, expected, rtol=tolerance, atol=tolerance)
