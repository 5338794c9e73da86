"""A lower bound for the time of a kernel, which its author measures beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctcx._plugins.fields import (
    always_usable,
    check_callable,
    check_line,
    check_name,
    check_names,
    freeze,
)
from ctcx._plugins.targets import check_target

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LowerBound"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LowerBound:
    """Work that a kernel can't do without, as a function of its own: what is left to gain above it.

    For example the same kernel writing the softmax and nothing else, or a pass that reads the
    logits and writes an array of their size. Benchmarks time it like a kernel and show each
    backend's time as a multiple of it. Its result is not looked at, so it is never ranked with the
    kernels.

    Attributes
    ----------
    name
        Unique; lower-case letters, digits, ``-`` and ``_``.
    function
        ``"package.module:function"``, imported on first use. It is called as a kernel is,
        ``function(logits, labels, logit_lengths, label_lengths, blank=blank)``, with arrays of the
        library and no checks before it, and may return anything.
    backends
        Names of the backends whose time is divided by it; one of none is shown by itself.
    namespaces
        Names of the array libraries whose arrays it takes.
    probe
        None if it can be used on this machine, else why not.
    summary
        What it does, in one line.

    Raises
    ------
    TypeError, ValueError
        A field of the wrong type, with its name and value.

    Examples
    --------
    >>> from ctcx.plugin import LowerBound
    >>> LowerBound(
    ...     name="mine-softmax",
    ...     function="my_package.kernels:softmax_only",
    ...     backends={"mine"},
    ...     namespaces={"numpy"},
    ... ).backends
    frozenset({'mine'})
    """

    name: str
    function: str
    backends: frozenset[str] = frozenset()
    namespaces: frozenset[str] = frozenset({"numpy"})
    probe: Callable[[], str | None] = always_usable
    summary: str = ""

    def __post_init__(self) -> None:
        check_name("LowerBound", self.name)
        where = f"LowerBound {self.name!r}"
        check_target(f"{where}: function", self.function)
        freeze(where, self, "backends")
        check_names(where, self, "namespaces")
        check_callable(where, self, "probe")
        check_line(where, self, "summary")
