"""All plugins, and what they offer: loaded once in a process, on first use.

``CTCX_DISABLE_PLUGINS`` names plugins to leave alone, by entry point or by distribution, separated
by commas; they are not even imported. ``all`` blocks every plugin but the built-in one, which can't
be blocked. ``CTCX_STRICT_PLUGINS=1`` makes a plugin that can't be used an error.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from ctcx._errors import (
    BackendError,
    PluginError,
    UnknownBackendError,
    one_line,
    printable,
    shown,
)
from ctcx._isolation import attempt, attempt_at_once
from ctcx._plugins.backend import Feature
from ctcx._plugins.case import Case
from ctcx._plugins.discovery import DISABLE, Found, load_plugins
from ctcx._plugins.loader import PluginEntry, PluginState, ask, at_most
from ctcx._plugins.lower_bound import LowerBound
from ctcx._plugins.records import (
    PluginRecord,
    PluginStatus,
    RegisteredBackend,
    RegisteredNamespace,
    SkippedDescriptor,
)
from ctcx._plugins.reporting import report, strict, warn
from ctcx._plugins.targets import load_target

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "DISABLE",
    "PluginRecord",
    "PluginStatus",
    "RegisteredBackend",
    "RegisteredNamespace",
    "Registry",
    "SkippedDescriptor",
    "load_kernel",
    "registry",
    "reload",
]


class Registry:
    """Snapshot of the plugins of this process. Made by :func:`registry`.

    Attributes
    ----------
    generation : int
        Different for every registry of a process: what depends on it can be cached by it.
    backends : mapping of str to RegisteredBackend
        By name, only those that can be selected.
    namespaces : mapping of str to RegisteredNamespace
        By name.
    plugins : tuple of PluginRecord
        Every entry point, the built-in one first, with what became of it.
    left_out : tuple of SkippedDescriptor
        Backends and namespaces that were registered and can't be used.
    unreadable : mapping of str to str
        Why the metadata of other distributions could not be read: if they have plugins, they aren't
        known.
    """

    def __init__(self, generation: int, found: Found) -> None:
        drafts = found.drafts
        self.generation = generation
        self.unreadable: Mapping[str, str] = MappingProxyType(found.unreadable)
        self._told: set[tuple[str, ...]] = set()
        self._active = tuple(draft for draft in drafts if draft.status == "active")
        self._lock = threading.RLock()
        self._probed: dict[tuple[type, str], str | None] = {}
        self._broken: dict[tuple[str, str], str] = {}
        self.plugins = tuple(_record(draft) for draft in drafts)
        self.left_out = tuple(part for draft in drafts for part in draft.left_out)
        self.backends: Mapping[str, RegisteredBackend] = MappingProxyType(
            {
                backend.name: RegisteredBackend(backend=backend, **_origin(draft))
                for draft in self._active
                for backend in draft.backends
            }
        )
        self.namespaces: Mapping[str, RegisteredNamespace] = MappingProxyType(
            {
                namespace.name: RegisteredNamespace(namespace=namespace, **_origin(draft))
                for draft in self._active
                for namespace in draft.namespaces
            }
        )

    def unusable(self, name: str) -> str | None:
        """Why a backend can't be used on this machine, by its probe, which is called only once."""
        return self._probe(self.backends[name])

    def namespace_unusable(self, name: str) -> str | None:
        """Why an array library can't be used here, by its probe, which is called only once."""
        return self._probe(self.namespaces[name])

    def _probe(self, entry: RegisteredBackend | RegisteredNamespace) -> str | None:
        key = (type(entry), entry.descriptor.name)
        with self._lock:
            if key not in self._probed:
                self._probed[key] = self.ask(entry, "probe")
            return self._probed[key]

    def broken(self, name: str, operation: str) -> str | None:
        """Why a kernel could not be imported, if that was found out by automatic selection."""
        return self._broken.get((name, operation))

    def mark_broken(self, name: str, operation: str, reason: str) -> bool:
        """Remember that a kernel can't be imported; True the first time."""
        with self._lock:
            known = (name, operation) in self._broken
            self._broken[name, operation] = reason
            return not known

    def ask(
        self,
        entry: RegisteredBackend | RegisteredNamespace,
        attribute: Literal["probe", "accepts"],
        *args: Any,
    ) -> str | None:
        """Call a plugin's ``probe`` or ``accepts``; the answer is always None or a reason.

        An exception, or an answer of another type, is a reason too, and is reported once.
        """
        # A probe may import a heavy library; accepts is asked about each new shape.
        call = attempt if attribute == "probe" else attempt_at_once
        answer, error = call(getattr(entry.descriptor, attribute), *args)
        if error is not None:
            reason = f"its {attribute}() raised {one_line(error)}"
        elif answer is None:
            return None
        elif issubclass(type(answer), str) and (words := printable(answer)):
            return words
        else:
            given = shown(answer)
            reason = f"its {attribute}() returned {given}, which is neither None nor a reason"
        self.report_backend(entry, attribute, reason, error)
        return reason

    def report_backend(
        self,
        entry: RegisteredBackend | RegisteredNamespace,
        about: str,
        reason: str,
        error: BaseException | None,
    ) -> None:
        """Report trouble with one thing that a plugin registered, once for what it is about."""
        message = f"{entry.title} of {entry.provenance}: {reason}.{_silence(entry.plugin)}"
        self._report((entry.title, about), message, error)

    @cached_property
    def lazy_namespaces(self) -> frozenset[str]:
        """Array libraries on which a backend takes whole calls."""
        lazy = (e.backend for e in self.backends.values() if Feature.LAZY in e.backend.features)
        return frozenset(name for backend in lazy for name in backend.namespaces)

    @cached_property
    def cases(self) -> tuple[Case, ...]:
        """Worked examples of all plugins; a plugin whose hook fails is reported and left out."""
        found: list[Case] = []
        for draft, returned in self._ask_all("ctcx_conformance_cases", at_most):
            if all(issubclass(type(case), Case) for case in returned):
                found.extend(returned)
            else:
                self._report_hook(draft, "ctcx_conformance_cases", "gave something that is no Case")
        return tuple(found)

    @cached_property
    def lower_bounds(self) -> tuple[LowerBound, ...]:
        """Lower bounds of all plugins; a hook that fails, or a name taken, is reported."""
        found: dict[str, LowerBound] = {}
        for draft, returned in self._ask_all("ctcx_benchmark_lower_bounds", at_most):
            if not all(issubclass(type(bound), LowerBound) for bound in returned):
                self._report_hook(
                    draft, "ctcx_benchmark_lower_bounds", "gave something that is no LowerBound"
                )
                continue
            for bound in returned:
                if bound.name in found:
                    taken = (
                        f"gave the lower bound {bound.name!r}, whose name is taken: it is left out"
                    )
                    self._report_hook(draft, "ctcx_benchmark_lower_bounds", taken)
                found.setdefault(bound.name, bound)
        return tuple(found.values())

    def runtime_info(self) -> dict[str, str]:
        """Lines for a bug report from all plugins; where keys clash, the later names its source."""
        lines: dict[str, str] = {}
        for draft, returned in self._ask_all("ctcx_runtime_info", _lines):
            for key, value in returned:
                unique = f"{key} ({draft.source.distribution})" if key in lines else key
                lines[unique] = value
        return lines

    def _ask_all(
        self, hook: str, read: Callable[[Any], list[Any]]
    ) -> Iterator[tuple[PluginState, list[Any]]]:
        """Yield each plugin that implements a hook, with the result of ``read`` for its answer."""
        for draft in self._active:
            answer, error = attempt(_answer, draft, hook, read)
            if error is not None:
                self._report_hook(draft, hook, f"raised {one_line(error)}", error)
            elif answer is not None:
                yield draft, answer

    def _report_hook(
        self, draft: PluginState, hook: str, what: str, error: BaseException | None = None
    ) -> None:
        message = f"{_title(draft.source)}: its {hook}() {what}.{_silence(draft.source)}"
        self._report((draft.source.provenance, draft.source.name, hook), message, error)

    def _report(self, key: tuple[str, ...], message: str, error: BaseException | None) -> None:
        if key not in self._told or strict():
            self._told.add(key)
            report(message, error)


def _answer(draft: PluginState, hook: str, read: Callable[[Any], list[Any]]) -> list[Any] | None:
    answer = ask(draft, hook)
    return None if answer is None else read(answer)


def _lines(answer: Any) -> list[tuple[str, str]]:
    """Lines for a bug report, as they can be printed."""
    if not isinstance(answer, Mapping):
        msg = f"it gave {shown(answer)}, not a mapping"
        raise TypeError(msg)
    return [(printable(str(key)), printable(str(value))) for key, value in at_most(answer.items())]


_current: Registry | None = None
_loading = threading.RLock()
_loading_thread: int | None = None
_generations = itertools.count(1)


def registry() -> Registry:
    """Return the registry of this process; the first call loads all plugins.

    Raises PluginError: under ``CTCX_STRICT_PLUGINS=1``, if a plugin can't be used; else each is a
    warning. CTCError: an environment variable has a value that means nothing.
    """
    return _current if _current is not None else _load(fresh=False)


def reload() -> Registry:
    """Forget all plugins and load them anew, as the environment is now."""
    return _load(fresh=True)


def load_kernel(backend: str, operation: str) -> Callable[..., Any]:
    """Return the kernel of a backend, for a kernel that delegates or is to be called directly.

    Nothing checks the arguments and the result of a kernel that is called directly.

    Parameters
    ----------
    backend : str
        Name of a registered backend, such as ``"array-api"`` for the core.
    operation : str
        What the kernel computes, such as ``"loss_and_grad"``; :class:`Backend` lists the arguments.

    Returns
    -------
    callable
        As the backend registered it.

    Raises
    ------
    UnknownBackendError
        No usable plugin registered the backend.
    BackendError
        It has no kernel for this operation.
    ImportError
        The kernel can't be imported.

    Examples
    --------
    >>> import numpy as np
    >>> from ctcx.plugin import load_kernel
    >>> loss = load_kernel("array-api", "loss")
    >>> one = np.ones(1, dtype=int)
    >>> loss(np.zeros((1, 1, 2)), one[:, None], one, one, blank=0).round(4)
    array([0.6931])
    """
    backends = registry().backends
    if backend not in backends:
        msg = f"no usable plugin registered the backend {backend!r}; known: {', '.join(backends)}"
        raise UnknownBackendError(msg)
    kernels = backends[backend].backend.kernels
    if operation not in kernels:
        msg = f"backend {backend!r} has no kernel for {operation!r}; it has: {', '.join(kernels)}"
        raise BackendError(msg)
    kernel: Callable[..., Any] = load_target(kernels[operation])
    return kernel


def _load(*, fresh: bool) -> Registry:
    global _current, _loading_thread  # noqa: PLW0603 - the one process-wide registry
    if _loading_thread == threading.get_ident():
        msg = "ctcx's plugins are being loaded: a plugin may only register while it is imported"
        raise PluginError(msg)
    with _loading:
        if _current is not None and not fresh:
            return _current
        _loading_thread = threading.get_ident()
        try:
            found = load_plugins()
        finally:
            _loading_thread = None
        troubled = [draft for draft in found.drafts if draft.reason and draft.status != "blocked"]
        if troubled and strict():
            report("\n".join(map(_complaint, troubled)), troubled[0].error)
        loaded = Registry(next(_generations), found)
        _current = loaded
    # Only now: under -W error a warning raises, and the registry must be whole by then.
    for draft in troubled:
        report(_complaint(draft), draft.error)
    for distribution, reason in loaded.unreadable.items():  # no plugin's fault, as far as is known
        warn(
            f"the metadata of {distribution} can't be read ({reason}): if it has plugins of ctcx, "
            f"they are left out. Install it anew or remove it.{_silence(distribution)}"
        )
    return loaded


def _record(draft: PluginState) -> PluginRecord:
    return PluginRecord(
        name=draft.source.name,
        distribution=draft.source.distribution,
        version=draft.source.version,
        status=draft.status,
        reason=draft.reason,
        traceback=draft.traceback,
        backends=tuple(backend.name for backend in draft.backends),
        namespaces=tuple(namespace.name for namespace in draft.namespaces),
    )


def _origin(draft: PluginState) -> dict[str, str]:
    source = draft.source
    return {
        "plugin": source.name,
        "distribution": source.distribution,
        "version": source.version,
    }


def _complaint(draft: PluginState) -> str:
    what = "is used only in part" if draft.status == "active" else f"is left out ({draft.status})"
    return f"{_title(draft.source)} {what}: {draft.reason}.{_silence(draft.source)}"


def _title(source: PluginEntry) -> str:
    return f"ctcx plugin {source.name!r} of {source.provenance}"


def _silence(source: PluginEntry | str) -> str:
    name = source if isinstance(source, str) else source.name
    return f" Set {DISABLE}={name} to block it and to silence this."
