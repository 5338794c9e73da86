"""All plugins, and what they offer: loaded once in a process, on first use.

``CTCX_DISABLE_PLUGINS`` names plugins to leave alone, by entry point or by distribution, separated
by commas; they are not even imported. ``all`` blocks every plugin but the built-in one, which can't
be blocked. ``CTCX_STRICT_PLUGINS=1`` makes a plugin that can't be used an error.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from ctcx._case import Case
from ctcx._discover import DISABLE, load_plugins
from ctcx._errors import PluginError
from ctcx._floor import Floor
from ctcx._loader import Draft, Source, ask
from ctcx._records import (
    LeftOut,
    PluginRecord,
    PluginStatus,
    RegisteredBackend,
    RegisteredNamespace,
)
from ctcx._trouble import one_line, report, strict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pluggy

__all__ = [
    "DISABLE",
    "LeftOut",
    "PluginRecord",
    "PluginStatus",
    "RegisteredBackend",
    "RegisteredNamespace",
    "Registry",
    "guarded",
    "registry",
    "reload",
    "report_backend",
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
    left_out : tuple of LeftOut
        Backends and namespaces that were registered and can't be used.
    """

    def __init__(
        self, generation: int, manager: pluggy.PluginManager, drafts: Sequence[Draft]
    ) -> None:
        self.generation = generation
        self._manager = manager
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
                self._probed[key] = guarded(entry, "probe")
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

    @cached_property
    def cases(self) -> tuple[Case, ...]:
        """Worked examples of all plugins; a plugin whose hook fails is reported and left out."""
        found: list[Case] = []
        for draft, returned in self._ask_all("ctcx_conformance_cases"):
            if all(isinstance(case, Case) for case in returned):
                found.extend(returned)
            else:
                self._report_hook(draft, "ctcx_conformance_cases", "gave something that is no Case")
        return tuple(found)

    @cached_property
    def floors(self) -> tuple[Floor, ...]:
        """Lower bounds of all plugins; a hook that fails, or a name taken, is reported."""
        found: dict[str, Floor] = {}
        for draft, returned in self._ask_all("ctcx_benchmark_floors"):
            if not all(isinstance(floor, Floor) for floor in returned):
                self._report_hook(draft, "ctcx_benchmark_floors", "gave something that is no Floor")
                continue
            for floor in returned:
                if floor.name in found:
                    taken = f"gave the floor {floor.name!r}, whose name is taken: it is left out"
                    self._report_hook(draft, "ctcx_benchmark_floors", taken)
                found.setdefault(floor.name, floor)
        return tuple(found.values())

    def runtime_info(self) -> dict[str, str]:
        """Lines for a bug report from all plugins; where keys clash, the later names its source."""
        lines: dict[str, str] = {}
        for draft, returned in self._ask_all("ctcx_runtime_info"):
            if not isinstance(returned, Mapping):
                self._report_hook(draft, "ctcx_runtime_info", f"gave {returned!r}, not a mapping")
                continue
            for key, value in returned.items():
                taken = str(key) in lines
                unique = f"{key} ({draft.source.distribution})" if taken else str(key)
                lines[unique] = str(value)
        return lines

    def _ask_all(self, hook: str) -> Iterator[tuple[Draft, Any]]:
        """Answers of those plugins that implement a hook, each asked alone."""
        for draft in self._active:
            try:
                returned = ask(self._manager, draft.plugin, hook)
                # A generator runs, and may raise, only when it is read.
                if returned is not None and not isinstance(returned, Mapping):
                    returned = list(returned)
            except Exception as error:  # noqa: BLE001 - a plugin may raise anything
                self._report_hook(draft, hook, f"raised {one_line(error)}", error)
            else:
                if returned is not None:
                    yield draft, returned

    def _report_hook(
        self, draft: Draft, hook: str, what: str, error: Exception | None = None
    ) -> None:
        report(f"{_title(draft.source)}: its {hook}() {what}.{_silence(draft.source)}", error)


_current: Registry | None = None
_loading = threading.RLock()
_loading_thread: int | None = None
_generations = itertools.count(1)


def registry() -> Registry:
    """The registry of this process; the first call loads all plugins.

    Raises
    ------
    PluginError
        Under ``CTCX_STRICT_PLUGINS=1``, if a plugin can't be used; else each is a warning.
    CTCError
        An environment variable has a value that means nothing.
    """
    return _current if _current is not None else _load(fresh=False)


def reload() -> Registry:
    """Forget all plugins and load them anew, as the environment is now."""
    return _load(fresh=True)


def guarded(
    entry: RegisteredBackend | RegisteredNamespace,
    attribute: Literal["probe", "accepts"],
    *args: Any,
) -> str | None:
    """Call a plugin's ``probe`` or ``accepts``; whatever it does, the answer is None or a reason.

    An exception, or an answer of another type, is a reason too, and is reported.
    """
    error = None
    try:
        answer = getattr(entry.descriptor, attribute)(*args)
    except Exception as raised:  # noqa: BLE001 - a plugin may raise anything
        error = raised
        reason = f"its {attribute}() raised {one_line(raised)}"
    else:
        if answer is None or (isinstance(answer, str) and answer):
            return answer
        reason = f"its {attribute}() returned {answer!r}, which is neither None nor a reason"
    report_backend(entry, reason, error)
    return reason


def report_backend(
    entry: RegisteredBackend | RegisteredNamespace, reason: str, error: Exception | None
) -> None:
    """Report trouble with one thing that a plugin registered."""
    report(f"{entry.title} of {entry.provenance}: {reason}.{_silence(entry.plugin)}", error)


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
            manager, drafts = load_plugins()
        finally:
            _loading_thread = None
        troubled = [draft for draft in drafts if draft.reason and draft.status != "blocked"]
        if troubled and strict():
            report("\n".join(map(_complaint, troubled)), troubled[0].error)
        loaded = Registry(next(_generations), manager, drafts)
        _current = loaded
    # Only now: under -W error a warning raises, and the registry must be whole by then.
    for draft in troubled:
        report(_complaint(draft), draft.error)
    return loaded


def _record(draft: Draft) -> PluginRecord:
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


def _origin(draft: Draft) -> dict[str, str]:
    source = draft.source
    return {
        "plugin": source.name,
        "distribution": source.distribution,
        "version": source.version,
    }


def _complaint(draft: Draft) -> str:
    what = "is used only in part" if draft.status == "active" else f"is left out ({draft.status})"
    return f"{_title(draft.source)} {what}: {draft.reason}.{_silence(draft.source)}"


def _title(source: Source) -> str:
    return f"ctcx plugin {source.name!r} of {source.provenance}"


def _silence(source: Source | str) -> str:
    name = source if isinstance(source, str) else source.name
    return f" Set {DISABLE}={name} to block it and to silence this."
