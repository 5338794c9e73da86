"""The one batch with a known answer: of the package's data, the kit and the benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ctcx._files import read_arrays
from ctcx._reference.oracle import round_to_dtype

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ctcx._plugins.case import Case

    Integers: TypeAlias = NDArray[np.int64]
    Arrays: TypeAlias = tuple[NDArray[Any], Integers, Integers, Integers]

__all__ = ["Batch"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """A batch for the CTC loss, with what is known about it; its arrays are read-only."""

    logits: NDArray[Any]
    """(N, T, C): unnormalised. The conformance kit, whose batches are float64, rounds them to each
    dtype under test; a mask written as the most negative float64 becomes the most negative value of
    that dtype."""
    labels: NDArray[np.int64]
    """(N, S): labels, padded on the right."""
    logit_lengths: NDArray[np.int64]
    label_lengths: NDArray[np.int64]
    """(N,): how many frames and labels count."""
    blank: int
    """The blank class, in ``range(C)``; a negative one that is given counts from the last class."""
    name: str = ""
    """Short identifier."""
    why: str = ""
    """One sentence: what this batch is for."""
    sequences: tuple[str, ...] = ()
    """What each sequence is, for messages; may be empty."""
    expected_loss: NDArray[np.float64] | None = None
    """(N,): loss that is known without an oracle: published, or from a closed form."""
    expected_grad: NDArray[np.float64] | None = None
    """(N, T, C): the same for the gradient of the summed loss."""
    expected_digits: float = 0.0
    """How far the expected numbers may be off themselves (published ones are rounded)."""
    provenance: str = ""
    """Where the numbers come from, and under which licence."""
    groups: frozenset[str] = frozenset()
    """Which checks of the kit use it; see :func:`ctcx.conformance.cases.cases`."""

    def __post_init__(self) -> None:
        logits = np.asarray(self.logits)
        dtypes: dict[str, Any] = {
            "logits": np.float32 if logits.dtype == np.float32 else np.float64
        }
        dtypes |= dict.fromkeys(("labels", "logit_lengths", "label_lengths"), np.int64)
        dtypes |= dict.fromkeys(("expected_loss", "expected_grad"), np.float64)
        for name, dtype in dtypes.items():
            if (values := getattr(self, name)) is not None:
                array = np.asarray(values, dtype=dtype, order="C").view()
                array.flags.writeable = False
                object.__setattr__(self, name, array)
        shapes = (self.labels.shape[:1], self.logit_lengths.shape, self.label_lengths.shape)
        if logits.ndim != 3 or self.labels.ndim != 2 or set(shapes) != {logits.shape[:1]}:
            msg = (
                f"case {self.name!r}: logits {logits.shape}, labels {self.labels.shape}, lengths "
                f"{self.logit_lengths.shape} and {self.label_lengths.shape} are not a batch"
            )
            raise ValueError(msg)
        classes = logits.shape[2]
        if not -classes <= self.blank < classes:
            msg = f"case {self.name!r}: blank {self.blank} is none of {classes} classes"
            raise ValueError(msg)
        object.__setattr__(self, "blank", self.blank % classes)

    @classmethod
    def of_case(cls, case: Case, dtype: Any = np.float64) -> Batch:
        """Return a plugin's case with its logits in a dtype."""
        return cls(
            name=case.name,
            why=case.description,
            logits=np.asarray(case.logits, dtype=dtype),
            labels=case.labels,  # type: ignore[arg-type] # arrays are made of lists below
            logit_lengths=case.logit_lengths,  # type: ignore[arg-type]
            label_lengths=case.label_lengths,  # type: ignore[arg-type]
            blank=case.blank,
            expected_loss=case.expected_loss,  # type: ignore[arg-type]
            expected_grad=case.expected_grad,  # type: ignore[arg-type]
            # Nothing says with how many digits they were printed; float32 has seven.
            expected_digits=1e-5,
            provenance=case.provenance,
        )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Sequences, frames, classes and width of the labels: (N, T, C, S)."""
        num_sequences, num_frames, num_classes = self.logits.shape
        return num_sequences, num_frames, num_classes, self.labels.shape[1]

    @property
    def arrays(self) -> Arrays:
        """Logits, labels and their lengths, in the order that the public functions take."""
        return self.logits, self.labels, self.logit_lengths, self.label_lengths

    @property
    def cells(self) -> int:
        """Cells of the lattice: frames times 2 L + 1 states, over all sequences."""
        return int((self.logit_lengths * (2 * self.label_lengths + 1)).sum())

    @property
    def traffic(self) -> int:
        """Bytes that no kernel can avoid: the logits read once, the gradient written once."""
        return 2 * self.logits.nbytes

    def save(self, path: Path) -> None:
        """Write the arrays and the blank to a file, for :meth:`load` in another process."""
        np.savez(path, *self.arrays, self.blank)

    @classmethod
    def load(cls, path: Path) -> Batch:
        """Read what :meth:`save` has written."""
        with path.open("rb") as file:
            arrays, _ = read_arrays(file)
        logits, labels, frames, counts, blank = arrays.values()
        return cls(
            logits=logits,
            labels=labels,
            logit_lengths=frames,
            label_lengths=counts,
            blank=int(blank),
        )

    def rounded(self, dtype: str) -> tuple[Any, ...]:
        """Return what a reference computes of: the arrays, logits rounded, and the blank."""
        logits = round_to_dtype(self.logits.astype(np.float64, copy=False), dtype)
        return logits, *self.arrays[1:], self.blank

    def label(self, n: int) -> str:
        """Return what messages call sequence ``n``."""
        return f"sequence {n} ({self.sequences[n]})" if n < len(self.sequences) else f"sequence {n}"

    def padded_frames(self) -> NDArray[np.bool_]:
        """Return which frames are past their sequence's length, shape (N, T)."""
        return np.arange(self.logits.shape[1])[None, :] >= self.logit_lengths[:, None]

    def padded_labels(self) -> NDArray[np.bool_]:
        """Return which labels are past their sequence's length, shape (N, S)."""
        return np.arange(self.labels.shape[1])[None, :] >= self.label_lengths[:, None]
