"""One worked example with what is known about its answer; plugins may contribute their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ctcx._errors import shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray

__all__ = ["Case"]

ArrayLike: TypeAlias = "NDArray[Any] | Sequence[Any]"
"""A NumPy array, or the same numbers in nested sequences: a plugin need not import NumPy."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Case:
    """A batch for the conformance suite and the benchmarks, with its expected answer if known.

    Attributes
    ----------
    name : str
        Short identifier, unique in its plugin.
    description : str
        One line: what is special about it.
    logits : array_like of float, shape (N, T, C)
        Emissions before the softmax: sequences, frames, classes.
    labels : array_like of int, shape (N, S)
        Label sequences, padded on the right.
    logit_lengths : array_like of int, shape (N,)
        Number of frames that count in each sequence.
    label_lengths : array_like of int, shape (N,)
        Number of labels that count in each sequence.
    blank : int
        Class of the blank; a negative one counts from the last class.
    expected_loss : array_like of float, shape (N,), or None
        Negative log likelihood of each sequence in nats; +inf where the labels can't be emitted.
        None: the suite's own oracle computes it.
    expected_grad : array_like of float, shape (N, T, C), or None
        Gradient of the summed loss with respect to the logits. None: as for the loss.
    provenance : str
        Where the numbers come from: a program and its version, a paper, a derivation.

    Examples
    --------
    One frame and one label: the loss is minus the log of the label's probability.

    >>> from ctcx.plugin import Case
    >>> case = Case(
    ...     name="one-frame",
    ...     description="a single frame that must emit the single label",
    ...     logits=[[[0.0, 0.0]]],
    ...     labels=[[1]],
    ...     logit_lengths=[1],
    ...     label_lengths=[1],
    ...     expected_loss=[0.6931471805599453],
    ...     provenance="log 2, by hand",
    ... )
    >>> case.blank
    0
    """

    name: str
    description: str
    logits: ArrayLike
    labels: ArrayLike
    logit_lengths: ArrayLike
    label_lengths: ArrayLike
    blank: int = 0
    expected_loss: ArrayLike | None = None
    expected_grad: ArrayLike | None = None
    provenance: str

    def __post_init__(self) -> None:
        for attribute in ("name", "provenance"):
            value = getattr(self, attribute)
            if not isinstance(value, str) or not value:
                msg = (
                    f"Case {shown(self.name)}: {attribute} must be a non-empty string, "
                    f"got {shown(value)}"
                )
                raise TypeError(msg)
