"""What ctcx has to know of an operation to select a kernel, to call it and to look at its result.

References and checks are named as strings, so that what computes never imports what judges it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ctcx._typing import Array

__all__ = ["Operation", "ResultArray"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultArray:
    """One array that a kernel returns."""

    name: str
    """As error messages say it, and the name of the attribute in the reference's answer."""
    axes: str
    """One letter an axis, for sizes of logits (N, T, C) and labels (N, S), P for 2S + 1 states, K
    for the option ``top`` or that of ``uniforms`` (N, K, T), W for the option ``width``, and L for
    T more labels than ``entries`` have: ``"N"``, ``"NT"``, ..."""
    dtype: Literal["logits", "loss", "int32", "float64"]
    """``"logits"``: theirs. ``"loss"``: float64 for float64 logits, else float32. ``"int32"``,
    ``"float64"``: that one."""
    asked_by: str | None = None
    """The option that asks for it by True; None for one that is always returned."""

    def shape(
        self, logits: Array, labels: Array | None, options: Mapping[str, Any] | None = None
    ) -> tuple[Any, ...]:
        """Its shape for a call of these arrays and options of the kernel."""
        if self.axes == "NTC":
            whole: tuple[Any, ...] = logits.shape
            return whole
        sizes = dict(zip("NTC", logits.shape, strict=True))
        if labels is not None:
            sizes |= {"S": labels.shape[1], "P": 2 * labels.shape[1] + 1}
        if options and "top" in options:
            sizes["K"] = options["top"]
        if options and "uniforms" in options:
            sizes["K"] = options["uniforms"].shape[1]
        if options and "width" in options:
            sizes["W"] = options["width"]
        if options and "entries" in options:
            sizes["L"] = options["entries"][0].shape[2] + sizes["T"]
        return tuple(sizes[axis] for axis in self.axes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """What a kernel computes of logits, labels if it has any, and the lengths of both."""

    name: str
    """The key of :attr:`ctcx.plugin.Backend.kernels`."""
    results: tuple[ResultArray, ...]
    """The arrays that a kernel returns: one as it is, several in a tuple."""
    labels: bool = True
    """Whether a kernel gets labels and their lengths."""
    options: tuple[str, ...] = ()
    """Names of the keyword arguments that a kernel takes after ``blank``."""
    reduced: bool
    """Whether the public function returns the first result alone, reduced."""
    differentiable: bool
    """Whether callers expect to differentiate the result by means of their library."""
    feature: str | None
    """Name of the :class:`ctcx.plugin.Feature` that goes together with a kernel for it, if any."""
    reference: str
    """``"package.module:function"`` of the right answer, with an attribute for each result."""
    checks: tuple[str, ...]
    """Modules of the conformance kit that prove a kernel right, in the order in which they run."""
    on_host: bool = False
    """Whether kernels get arrays of NumPy in float32 or float64, whatever the caller's library."""
    marks_wrong_values: bool = True
    """Whether results for wrong values can be told from those for right ones, so that a kernel may
    be trusted with the checks."""

    def expected(self, options: Mapping[str, Any] | None) -> tuple[ResultArray, ...]:
        """Give the results that a kernel returns with these options."""
        if not self.options or options is None:  # as for the loss, of which each call pays
            return self.results
        return tuple(
            each for each in self.results if each.asked_by is None or options[each.asked_by]
        )

    @property
    def signature(self) -> str:
        """How a kernel is called, and what it returns."""
        names = ", ".join(each.name for each in self.results if each.asked_by is None)
        names += "".join(f"[, {each.name}]" for each in self.results if each.asked_by)
        returned = f"({names})" if len(self.results) > 1 else names
        options = ", ".join(("blank", *self.options))
        arrays = "labels, logit_lengths, label_lengths" if self.labels else "logit_lengths"
        return f"kernel(logits, {arrays}, *, {options}) -> {returned}"
