"""The register of checks: what each needs, and in which order they run."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ctcx._operations import OPERATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from ctcx._plugins.backend import Backend, Feature
    from ctcx._plugins.namespace import Namespace
    from ctcx.conformance._subject import Subject

    CheckFunction: TypeAlias = Callable[[Subject], None]

__all__ = ["Check", "check", "registered_checks"]

_HALF = ("float16", "bfloat16")


@dataclass(frozen=True, eq=False, kw_only=True)
class Check:
    """One check of the kit.

    Attributes
    ----------
    name : str
        Of the function if it has none of its own, ``check_...``.
    function : callable
        Takes a subject; returns if all is well.
    operations : frozenset of str
        It is run on backends that offer a kernel for any of these.
    requires : frozenset of Feature
        It is run on backends that declare all of these.
    dtypes : frozenset of str
        Of the logits that it is for.
    jit : bool
        Whether it needs a library that compiles.
    slow : bool
        Run only when asked for.
    provisional : bool
        New in this version of the kit: reported, but does not yet fail the run.
    """

    name: str
    function: CheckFunction
    operations: frozenset[str]
    requires: frozenset[Feature]
    dtypes: frozenset[str]
    jit: bool
    slow: bool
    provisional: bool

    @property
    def summary(self) -> str:
        """What it checks, in a sentence, for people."""
        return " ".join((inspect.getdoc(self.function) or "").split("\n\n")[0].split())

    def excuse(
        self, backend: Backend, namespace: Namespace, dtype: str, *, slow: bool
    ) -> str | None:
        """Return why it isn't run on this backend, library and dtype; None if it is."""
        if not self.operations & backend.kernels.keys():
            return f"{backend.name} offers no kernel for {' or '.join(sorted(self.operations))}"
        if missing := self.requires - backend.features:
            names = ", ".join(sorted(feature.name for feature in missing))
            return f"{backend.name} doesn't declare {names}"
        if dtype not in self.dtypes:
            return f"not for {dtype}"
        on_host = all(OPERATIONS[operation].on_host for operation in self.operations)
        if on_host and (namespace.name != "numpy" or dtype in _HALF):
            return "its kernels get float32 or float64 of NumPy, with which it is run"
        if self.jit and namespace.jit is None:
            return f"{namespace.name} has no jit"
        if self.slow and not slow:
            return "it takes long: --slow or CTCX_TEST_SLOW=1 runs it"
        return None


_CHECKS: dict[str, Check] = {}


def check(
    *,
    operation: str | None = None,
    name: str | None = None,
    requires: Collection[Feature] = (),
    dtypes: Collection[str] = ("float32", "float64", *_HALF),
    jit: bool = False,
    slow: bool = False,
    provisional: bool = False,
) -> Callable[[CheckFunction], CheckFunction]:
    """Register a function as a check, of the loss if no operation is named; see :class:`Check`."""

    def register(function: CheckFunction) -> CheckFunction:
        known_as = name or function.__name__
        _CHECKS[known_as] = Check(
            name=known_as,
            function=function,
            operations=frozenset([operation] if operation else ["loss", "loss_and_grad"]),
            requires=frozenset(requires),
            dtypes=frozenset(dtypes),
            jit=jit,
            slow=slow,
            provisional=provisional,
        )
        return function

    return register


def registered_checks() -> dict[str, Check]:
    """Return the checks registered so far by name, in the order that they run."""
    return dict(_CHECKS)
