"""The right answer to each workload in float64, kept on disk, and how far a result is from it.

The answer comes from :func:`ctcx.conformance.oracle.reference`, which shares no code with any
kernel and takes up to a minute for long sequences. What is kept is small: the losses, and the
gradient at the blank and the labels. At all other classes the gradient is the softmax.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctcx.conformance._compare import TOLERANCES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctcx.bench._workloads import Inputs

__all__ = ["Errors", "Truth", "cache_directory", "errors", "known_truth", "load_truth"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Truth:
    """Losses, and the columns of the gradient that are not the softmax.

    Attributes
    ----------
    loss : ndarray of float64, shape (N,)
        In nats, +inf where the labels can't be emitted.
    classes : ndarray of int64, shape (N, U)
        The blank and the labels of each sequence, once each; -1 fills up.
    columns : ndarray of float64, shape (N, T, U)
        The gradient there.
    """

    loss: NDArray[np.float64]
    classes: NDArray[np.int64]
    columns: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Errors:
    """How far a result is from the truth.

    Attributes
    ----------
    loss_rel : float
        Largest relative error of a loss; absolute below 1 nat.
    loss_abs : float
        Largest error of a loss, in nats.
    loss_excess : float
        Largest error of a loss, as a multiple of what the conformance kit allows in float32.
    largest_loss : float
        Largest finite loss of the truth, in nats.
    grad : float
        Largest error of an entry of the gradient, which lies in [-1, 1].
    """

    loss_rel: float
    loss_abs: float
    loss_excess: float
    largest_loss: float
    grad: float

    def as_dict(self) -> dict[str, float]:
        """Return plain data."""
        return asdict(self)


def cache_directory() -> Path:
    """Return where truths are kept between runs: this user's cache directory."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME", "") or str(Path.home() / ".cache")
    return Path(base) / "ctcx" / "bench"


def known_truth(inputs: Inputs, directory: Path) -> Path:
    """Return the file with the truth; if there is none in the directory, compute and write it.

    Parameters
    ----------
    inputs
        The batch.
    directory
        Made if it doesn't exist.
    """
    path = directory / f"{_digest(inputs)}.npz"
    if path.is_file():
        return path
    truth = _compute(inputs)
    directory.mkdir(parents=True, exist_ok=True)
    # Renamed at the end, so that no other process ever reads half a file.
    with tempfile.NamedTemporaryFile(dir=directory, suffix=".part", delete=False) as part:
        np.savez(part, loss=truth.loss, classes=truth.classes, columns=truth.columns)
    Path(part.name).replace(path)
    return path


def load_truth(path: Path) -> Truth:
    """Read what :func:`known_truth` has written."""
    with np.load(path, allow_pickle=False) as stored:
        return Truth(loss=stored["loss"], classes=stored["classes"], columns=stored["columns"])


def errors(inputs: Inputs, truth: Truth, loss: Any, grad: Any) -> Errors:
    """Compare a result with the truth, entry by entry.

    Parameters
    ----------
    inputs, truth
        What was computed, and the right answer.
    loss : array_like, shape (N,)
        Of each sequence.
    grad : array_like, shape (N, T, C)
        Of the sum of the losses with respect to the logits.

    Returns
    -------
    Errors
        NaN where the result has NaN.

    Raises
    ------
    ValueError
        A shape is wrong.
    """
    loss, grad = np.asarray(loss, dtype=np.float64), np.asarray(grad)
    for what, got, wanted in (
        ("loss", loss.shape, truth.loss.shape),
        ("gradient", grad.shape, inputs.logits.shape),
    ):
        if got != wanted:
            msg = f"the {what} has shape {got}, expected {wanted}"
            raise ValueError(msg)
    with np.errstate(invalid="ignore"):
        distance = np.where(loss == truth.loss, 0.0, np.abs(loss - truth.loss))
        finite = np.where(np.isfinite(truth.loss), np.abs(truth.loss), 0.0)
        allowed = TOLERANCES["float32"].loss(truth.loss, inputs.logit_lengths)
        size = np.maximum(finite, 1.0)
    worst = 0.0
    for n in range(len(loss)):
        # One sequence at a time: a whole gradient in float64 can be large.
        expected = _expected_grad(inputs, truth, n)
        if (size_of_one := np.abs(grad[n] - expected)).size:
            worst = float(np.maximum(worst, size_of_one.max()))  # keeps a NaN
    return Errors(
        loss_rel=float((distance / size).max(initial=0.0)),
        loss_abs=float(distance.max(initial=0.0)),
        loss_excess=float((distance / allowed).max(initial=0.0)),
        largest_loss=float(finite.max(initial=0.0)),
        grad=worst,
    )


def _expected_grad(inputs: Inputs, truth: Truth, n: int) -> NDArray[np.float64]:
    expected = np.zeros(inputs.logits.shape[1:])
    frames = int(inputs.logit_lengths[n])
    if np.isfinite(truth.loss[n]) and frames:
        logits = inputs.logits[n, :frames].astype(np.float64)
        np.exp(logits - logits.max(axis=-1, keepdims=True), out=expected[:frames])
        expected[:frames] /= expected[:frames].sum(axis=-1, keepdims=True)
        used = truth.classes[n] >= 0
        expected[:frames, truth.classes[n][used]] = truth.columns[n, :frames][:, used]
    return expected


def _compute(inputs: Inputs) -> Truth:
    from ctcx.conformance.oracle import reference

    count = len(inputs.logits)
    spelled = [
        np.unique([inputs.blank, *row[:length].tolist()])
        for row, length in zip(inputs.labels, inputs.label_lengths, strict=True)
    ]
    width = max(map(len, spelled), default=0)
    classes = np.full((count, width), -1)
    columns = np.zeros((count, inputs.logits.shape[1], width))
    loss = np.zeros(count)
    for n, used in enumerate(spelled):
        one = slice(n, n + 1)
        right = reference(
            inputs.logits[one],
            inputs.labels[one],
            inputs.logit_lengths[one],
            inputs.label_lengths[one],
            inputs.blank,
        )
        loss[n] = right.loss[0]
        classes[n, : len(used)] = used
        columns[n, :, : len(used)] = right.grad[0][:, used]
    return Truth(loss=loss, classes=classes, columns=columns)


def _digest(inputs: Inputs) -> str:
    """Return a name that changes with the input and with the code that the truth comes from."""
    from ctcx.conformance import oracle

    digest = hashlib.sha256(inspect.getsource(oracle).encode())
    digest.update(inspect.getsource(sys.modules[__name__]).encode())
    digest.update(repr((inputs.logits.shape, inputs.labels.shape, inputs.blank)).encode())
    for array in (inputs.logits, inputs.labels, inputs.logit_lengths, inputs.label_lengths):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:32]
