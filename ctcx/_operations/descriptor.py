"""What ctcx has to know of an operation to select a kernel, to call it and to look at its result.

References and checks are named as strings, so that what computes never imports what judges it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Operation", "Result"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One array that a kernel returns.

    Attributes
    ----------
    name
        As error messages say it, and the name of the attribute in the reference's answer.
    axes
        How many axes of the logits (N, T, C) it has: (N,), (N, T) or (N, T, C).
    dtype
        ``"logits"``: theirs. ``"loss"``: float64 for float64 logits, else float32.
    """

    name: str
    axes: int
    dtype: Literal["logits", "loss"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """What a kernel computes of logits, labels and their lengths.

    Attributes
    ----------
    name
        The key of :attr:`ctcx.plugin.Backend.kernels`.
    results
        The arrays that a kernel returns: one as it is, several in a tuple. The first one is the
        loss, which says whether values were right and labels feasible.
    reduced
        Whether the public function returns the loss alone, reduced.
    differentiable
        Whether callers expect to differentiate the result by means of their library.
    feature
        Name of the :class:`ctcx.plugin.Feature` that goes together with a kernel for it, if any.
    reference
        ``"package.module:function"`` of the right answer, with an attribute for each result.
    checks
        Modules of the conformance kit that prove a kernel right, in the order in which they run.
    """

    name: str
    results: tuple[Result, ...]
    reduced: bool
    differentiable: bool
    feature: str | None
    reference: str
    checks: tuple[str, ...]

    @property
    def signature(self) -> str:
        """How a kernel is called, and what it returns."""
        names = ", ".join(result.name for result in self.results)
        returned = f"({names})" if len(self.results) > 1 else names
        return f"kernel(logits, labels, logit_lengths, label_lengths, *, blank) -> {returned}"
