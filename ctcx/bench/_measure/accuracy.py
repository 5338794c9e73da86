"""The right answer to each workload in float64, kept on disk, and how far a result is from it.

The answer comes from :func:`ctcx._reference.oracle.reference`, which shares no code with any
kernel and takes up to a minute for long sequences. What is kept is small: the losses, and the
gradient at the blank and the labels. At all other classes the gradient is the softmax. A run
expands it once for each workload, into files that all processes map into their memory.
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

from ctcx._errors import CTCError
from ctcx._files import read_arrays
from ctcx._reference.tolerances import TOLERANCES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctcx.bench._implementations.registered import Kind
    from ctcx.data.batch import Batch

__all__ = [
    "PEER_GRAD",
    "PEER_LOSS_REL",
    "Errors",
    "WorkloadReference",
    "cache_directory",
    "errors",
    "known_truth",
    "wrong",
]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WorkloadReference:
    """The right answer in float64."""

    loss: NDArray[np.float64]
    """(N,): in nats, +inf where the labels can't be emitted."""
    grad: NDArray[np.float64]
    """(N, T, C): of each loss with respect to the logits."""

    def save(self, directory: Path) -> None:
        """Write it to files, for :meth:`load` in another process."""
        np.save(directory / "loss.npy", self.loss)
        np.save(directory / "grad.npy", self.grad)

    @classmethod
    def load(cls, directory: Path) -> WorkloadReference:
        """Map what :meth:`save` has written; what is not looked at is not read."""
        loss, grad = (np.load(directory / name, mmap_mode="r") for name in ("loss.npy", "grad.npy"))
        return cls(loss=loss, grad=grad)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Kept:
    """Losses, and the columns of the gradient that are not the softmax.

    ``classes`` (N, U) are the blank and the labels of each sequence, once each, filled up with -1;
    ``columns`` (N, T, U) the gradient there.
    """

    loss: NDArray[np.float64]
    classes: NDArray[np.int64]
    columns: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Errors:
    """How far a result is from the truth."""

    loss_rel: float
    """Largest relative error of a loss; absolute below 1 nat."""
    loss_abs: float
    """Largest error of a loss, in nats."""
    loss_excess: float
    """Largest error of a loss, as a multiple of what the conformance kit allows in float32."""
    largest_loss: float
    """Largest finite loss of the truth, in nats."""
    grad: float
    """Largest error of an entry of the gradient, which lies in [-1, 1]."""

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


def known_truth(inputs: Batch, directory: Path) -> WorkloadReference:
    """Return the truth; what takes long is read from the directory, or computed and put there."""
    path = directory / f"{_digest(inputs)}.npz"
    if not path.is_file():
        kept = _compute(inputs)
        directory.mkdir(parents=True, exist_ok=True)
        # Renamed at the end, so that no other process ever reads half a file.
        with tempfile.NamedTemporaryFile(dir=directory, suffix=".part", delete=False) as part:
            np.savez(part, loss=kept.loss, classes=kept.classes, columns=kept.columns)
        Path(part.name).replace(path)
    try:
        with path.open("rb") as file:
            kept = _Kept(**read_arrays(file)[0])
    except (OSError, ValueError, TypeError) as error:  # the last one: it has other arrays
        msg = f"{path}, where a right answer is kept, can't be read ({error}): delete it"
        raise CTCError(msg) from None
    grad = np.zeros(inputs.logits.shape)
    for n in range(len(grad)):
        _expand(inputs, kept, n, grad[n])
    return WorkloadReference(loss=kept.loss, grad=grad)


def errors(inputs: Batch, truth: WorkloadReference, loss: Any, grad: Any) -> Errors:
    """Compare losses (N,) and a gradient (N, T, C) with the truth, entry by entry.

    Errors are NaN where the result has NaN.

    Raises ValueError: a shape is wrong.
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
    for got, expected in zip(grad, truth.grad, strict=True):  # all at once would double the memory
        if (distances := np.abs(got - expected)).size:
            worst = float(np.maximum(worst, distances.max()))  # keeps a NaN
    return Errors(
        loss_rel=float((distance / size).max(initial=0.0)),
        loss_abs=float(distance.max(initial=0.0)),
        loss_excess=float((distance / allowed).max(initial=0.0)),
        largest_loss=float(finite.max(initial=0.0)),
        grad=worst,
    )


def _expand(inputs: Batch, kept: _Kept, n: int, grad: NDArray[np.float64]) -> None:
    """Write the gradient of one sequence, shape (T, C), over zeros."""
    frames = int(inputs.logit_lengths[n])
    if not frames or not np.isfinite(kept.loss[n]):
        return
    logits = inputs.logits[n, :frames].astype(np.float64)
    np.exp(logits - logits.max(axis=-1, keepdims=True), out=grad[:frames])
    grad[:frames] /= grad[:frames].sum(axis=-1, keepdims=True)
    used = kept.classes[n] >= 0
    grad[:frames, kept.classes[n][used]] = kept.columns[n, :frames][:, used]


def _compute(inputs: Batch) -> _Kept:
    from ctcx._reference.oracle import reference

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
        logits, labels, frames, counts = (array[one] for array in inputs.arrays)
        right = reference(logits, labels, frames, counts, inputs.blank)
        loss[n] = right.loss[0]
        classes[n, : len(used)] = used
        columns[n, :, : len(used)] = right.grad[0][:, used]
    return _Kept(loss=loss, classes=classes, columns=columns)


def _digest(inputs: Batch) -> str:
    """Return a name that changes with the input and with the code that the truth comes from."""
    from ctcx._reference import oracle

    digest = hashlib.sha256(inspect.getsource(oracle).encode())
    digest.update(inspect.getsource(sys.modules[__name__]).encode())
    digest.update(repr((inputs.logits.shape, inputs.labels.shape, inputs.blank)).encode())
    for array in inputs.arrays:
        digest.update(array.data)
    return digest.hexdigest()[:32]


PEER_LOSS_REL = 1e-3
"""Of the loss of a peer: more is no rounding, it is another function."""


PEER_GRAD = 2e-2
"""Of the gradient of a peer where rounding can't explain more."""


def wrong(kind: Kind, errors: Errors) -> str | None:
    """Return what is wrong with the result of an implementation; None if its time counts.

    A backend must be as exact as the conformance kit demands in float32. A peer is measured as it
    is, with its error beside its time: it is wrong only if it computes something else. Where a peer
    subtracts numbers of the size of the loss, each of them rounded to ``eps * loss``, the gradient
    can be off by thousands of those: up to a whole probability for thousands of nats.
    """
    if kind == "peer":
        grad_allowed = min(2.0, PEER_GRAD * max(1.0, errors.largest_loss / 500.0))
        loss_fine = errors.loss_rel <= PEER_LOSS_REL
    else:
        grad_allowed = TOLERANCES["float32"].grad
        loss_fine = errors.loss_excess <= 1.0
    reasons = []
    # Written so that a NaN is wrong.
    if not loss_fine:
        reasons.append(f"a loss is off by {errors.loss_abs:.2g} nats, {errors.loss_rel:.2g} of it")
    if not errors.grad <= grad_allowed:
        reasons.append(f"the gradient is off by {errors.grad:.2g}, more than {grad_allowed:.2g}")
    return f"wrong result: {' and '.join(reasons)}" if reasons else None
