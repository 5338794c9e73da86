"""What is run: which checks, on which library, device and dtype; and what isn't, and why."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np

from ctcx._arrays.facts import describe
from ctcx._environment import split_names
from ctcx._errors import CTCError, UnknownBackendError
from ctcx._plugins.loader import devices_of
from ctcx._plugins.registry import registry
from ctcx._typing import DTYPES
from ctcx.conformance import _checks  # noqa: F401 - registers the checks
from ctcx.conformance._checks.registry import Check, registered_checks
from ctcx.conformance._drawing import Drawing
from ctcx.conformance._subject import Subject

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from ctcx._plugins.backend import Backend
    from ctcx._plugins.namespace import Namespace

__all__ = ["REQUIRED", "CheckPlan", "Expectations", "PlannedCheck", "make_plan"]

SLOW = "CTCX_TEST_SLOW"
REQUIRED = "CTCX_TEST_NAMESPACES"
_EXPECTATION = re.compile(r"(?P<check>\w+)(?:\[(?P<where>[^\]]+)\])?\Z")


@dataclass(frozen=True, kw_only=True)
class PlannedCheck:
    """One check to run on one subject."""

    check: Check
    """The check."""
    subject: Subject
    """What it is run on."""
    excuse: str | None = None
    """Why it isn't run; None if it is."""

    @property
    def id(self) -> str:
        """Name in reports: check, library, device, dtype."""
        return f"{self.check.name}-{self.subject}"


@dataclass(kw_only=True)
class CheckPlan:
    """All that one run of the kit is about."""

    backend: str
    """Name of the backend under test."""
    items: list[PlannedCheck] = field(default_factory=list)
    """Checks in order, with the reasons of those that are left out."""
    not_run: dict[str, str] = field(default_factory=dict)
    """Whole libraries, devices and dtypes that are left out, with the reason."""
    problems: list[str] = field(default_factory=list)
    """What is wrong with the run itself: a required library is missing, nothing is left to run."""


class Expectations:
    """Failures that are known: ``{"check_x": reason}`` or ``{"check_x[torch-*-float32]": reason}``.

    A name alone means that the check fails wherever it is run; in brackets stands a pattern of
    ``library-device-dtype``.

    Raises ValueError: a key that names no check, or no reason.
    """

    def __init__(self, given: Mapping[str, str]) -> None:
        self._rules: list[tuple[str, str, str]] = []
        known = registered_checks()
        for key, reason in given.items():
            match = _EXPECTATION.match(key)
            if match is None or match["check"] not in known:
                msg = f"expected_failures names {key!r}, which is no check; {_known(known)}"
                raise ValueError(msg)
            if not reason or not isinstance(reason, str):
                msg = f"expected_failures[{key!r}] must say why, got {reason!r}"
                raise ValueError(msg)
            self._rules.append((match["check"], match["where"] or "*", reason))

    def reason(self, item: PlannedCheck) -> str | None:
        """Return why this item is expected to fail; None if it isn't."""
        for check, where, reason in self._rules:
            if check == item.check.name and fnmatchcase(str(item.subject), where):
                return reason
        return None


def make_plan(
    backend: str,
    *,
    namespaces: Collection[str] | None = None,
    devices: Collection[str] | None = None,
    dtypes: Collection[str] | None = None,
    checks: Collection[str] | None = None,
    slow: bool = False,
    drawing: Drawing | None = None,
) -> CheckPlan:
    """Decide what is run on a backend, out of what it declares and is there.

    Names restrict that; checks that take a minute are run only if ``slow``.

    Raises UnknownBackendError: no plugin registered the backend. ValueError: a library, device,
    dtype or check that doesn't exist, or that the backend doesn't declare.
    """
    plugins = registry()
    if backend not in plugins.backends:
        failed = [f"{p.name} ({p.status}: {p.reason})" for p in plugins.plugins if p.reason]
        msg = (
            f"no plugin registered a backend {backend!r}; known are "
            f"{', '.join(sorted(plugins.backends))}"
        )
        msg += f". Plugins with trouble: {'; '.join(failed)}" if failed else ""
        raise UnknownBackendError(msg)
    described = plugins.backends[backend].backend
    chosen = _chosen_checks(checks)
    _check_known("dtype", dtypes, DTYPES)
    plan = CheckPlan(backend=backend)
    seen_devices: set[str] = set()
    if reason := plugins.unusable(backend):
        plan.not_run[backend] = f"it can't be used on this machine: {reason}"
    for library in _libraries(described, namespaces, plan):
        for device in _devices(described, library, seen_devices, plan):
            if devices is not None and device not in devices:
                continue
            for dtype in _dtypes(described, library, device, dtypes, plan):
                for one in chosen:
                    subject = Subject(
                        backend=backend,
                        namespace=library.name,
                        device=device,
                        dtype=dtype,
                        drawing=drawing or Drawing(),
                    )
                    excuse = one.excuse(described, library, dtype, slow=slow)
                    plan.items.append(PlannedCheck(check=one, subject=subject, excuse=excuse))
    _check_known("device", devices, seen_devices)
    if not any(item.excuse is None for item in plan.items):
        reasons = "; ".join(f"{what}: {why}" for what, why in plan.not_run.items())
        plan.problems.append(
            f"no check of backend {backend!r} could be run{f' ({reasons})' if reasons else ''}"
        )
    return plan


def _chosen_checks(names: Collection[str] | None) -> list[Check]:
    known = registered_checks()
    if names is None:
        return list(known.values())
    if unknown := sorted(set(names) - set(known)):
        msg = f"there is no check {', '.join(unknown)}; {_known(known)}"
        raise ValueError(msg)
    return [one for name, one in known.items() if name in names]


def _known(checks: Collection[str]) -> str:
    return f"the checks are {', '.join(checks)}"


def _check_known(kind: str, names: Collection[str] | None, known: Collection[str]) -> None:
    if unknown := sorted(set(names or ()) - set(known)):
        msg = f"there is no {kind} {', '.join(unknown)} here; there are {', '.join(sorted(known))}"
        raise ValueError(msg)


def _libraries(
    backend: Backend, only: Collection[str] | None, plan: CheckPlan
) -> Iterator[Namespace]:
    """Yield the libraries that the backend declares and that are there."""
    known = registry().namespaces
    _check_known("array library", only, known)
    required = _required()
    lazy = registry().lazy_namespaces
    for name in sorted(backend.namespaces - {"*"} - set(known)):
        plan.not_run[name] = "no plugin registers this array library, so nothing can make arrays"
    for name, entry in known.items():
        every = () if name in lazy else ("*",)  # calls on those aren't computed step by step
        if backend.namespaces.isdisjoint((name, *every)):
            if only is not None and name in only:
                msg = f"backend {backend.name!r} doesn't declare the array library {name!r}"
                raise ValueError(msg)
            continue
        if only is not None and name not in only:
            continue
        if reason := registry().namespace_unusable(name):
            plan.not_run[name] = reason
            if name in required:
                plan.problems.append(f"{REQUIRED} requires {name!r}, but {reason}")
        elif backend.name not in plan.not_run:
            yield entry.namespace


def _required() -> tuple[str, ...]:
    """Return the libraries that must not be missing.

    Raises CTCError: the variable names a library that no plugin registered.
    """
    names = split_names(os.environ.get(REQUIRED, ""))
    known = registry().namespaces
    if unknown := sorted(set(names) - set(known)):
        msg = (
            f"the environment variable {REQUIRED} names {', '.join(unknown)}; the array libraries "
            f"are {', '.join(known)}"
        )
        raise CTCError(msg)
    return names


def _devices(
    backend: Backend, library: Namespace, seen: set[str], plan: CheckPlan
) -> Iterator[str]:
    """Yield the library's devices of the kinds that the backend declares."""
    devices, reason = devices_of(library)
    if reason is not None:
        plan.not_run[library.name] = reason
        if library.name in _required():
            plan.problems.append(f"{REQUIRED} requires {library.name!r}, but {reason}")
    for device in devices:
        seen.add(device)
        if {device.partition(":")[0], "*"} & backend.devices:
            yield device
        else:
            kinds = ", ".join(sorted(backend.devices))
            plan.not_run[f"{library.name}-{device}"] = f"the backend declares devices {kinds}"


def _dtypes(
    backend: Backend,
    library: Namespace,
    device: str,
    only: Collection[str] | None,
    plan: CheckPlan,
) -> Iterator[str]:
    """Yield the declared dtypes that the library has on this device."""
    for dtype in DTYPES:
        if dtype not in backend.dtypes or (only is not None and dtype not in only):
            continue
        if dtype not in library.dtypes:
            plan.not_run[f"{library.name}-{dtype}"] = f"{library.name} has no {dtype}"
            continue
        where = f"{library.name}-{device}-{dtype}"
        subject = Subject(backend=backend.name, namespace=library.name, device=device, dtype=dtype)
        try:
            made = describe(subject.logits(np.zeros((1, 1, 1)))).dtype
        except (TypeError, ValueError) as error:
            plan.not_run[where] = str(error)
            continue
        if made != dtype:
            plan.not_run[where] = f"{library.name} makes {made} of it on {device}"
            continue
        yield dtype
