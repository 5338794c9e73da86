"""Load plugins one by one, each on its own: whatever one of them does, the others go on.

pluggy isolates nothing (one plugin that fails to import, or one hook that raises, ends the whole
call), so each entry point is imported, registered, checked and asked here inside its own ``try``.
"""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass, field, fields
from itertools import islice
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from ctcx._errors import one_line, printable, shown
from ctcx._isolation import attempt
from ctcx._plugins import hookspecs
from ctcx._plugins.backend import API_VERSION, Backend
from ctcx._plugins.fields import check_name
from ctcx._plugins.namespace import Namespace
from ctcx._plugins.records import SkippedDescriptor
from ctcx._plugins.targets import check_target, load_target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ctcx._plugins.records import PluginStatus

__all__ = ["PluginEntry", "PluginState", "ask", "at_most", "load", "settle"]

# Their code raises where a plugin describes something that can't be.
_DESCRIPTORS = frozenset(of.__module__ for of in (Backend, Namespace, check_name, check_target))
HOOKS: tuple[str, ...] = tuple(hookspecs.__all__)
LIMIT = 1000
"""So many things a hook may return: a generator that never ends is found out."""
_UNKNOWN_FIELD = re.compile(r"(Backend|Namespace)\.__init__\(\) got an unexpected keyword argument")


@dataclass(frozen=True, slots=True)
class PluginEntry:
    """An entry point that has not been imported yet."""

    name: str
    distribution: str
    version: str
    load: Callable[[], object]

    @property
    def provenance(self) -> str:
        """Distribution and version, such as ``"ctcx-numba 0.2"``."""
        return f"{self.distribution} {self.version}"


@dataclass(slots=True)
class PluginState:
    """What is known of one plugin while all of them are being loaded."""

    source: PluginEntry
    status: PluginStatus = "active"
    reason: str = ""
    error: BaseException | None = None
    plugin: object = None
    manager: pluggy.PluginManager | None = None
    backends: list[Backend] = field(default_factory=list)
    namespaces: list[Namespace] = field(default_factory=list)
    left_out: list[SkippedDescriptor] = field(default_factory=list)

    def leave_out(self, descriptor: Backend | Namespace, status: PluginStatus, reason: str) -> None:
        """Remember that one descriptor can't be used, and why; the plugin's others stay."""
        self.left_out.append(
            SkippedDescriptor(
                plugin=self.source.name,
                distribution=self.source.distribution,
                version=self.source.version,
                kind="backend" if isinstance(descriptor, Backend) else "namespace",
                name=descriptor.name,
                status=status,
                reason=reason,
            )
        )

    @property
    def traceback(self) -> str:
        """Traceback of what went wrong; empty if nothing raised."""
        if self.error is None:
            return ""
        lines, failed = attempt(traceback.format_exception, self.error)
        return one_line(self.error) if failed else "".join(lines)


class _RuleError(Exception):
    """The plugin breaks a rule; the message says which."""


def load(source: PluginEntry, loaded: Sequence[PluginState]) -> PluginState:
    """Import and register one plugin and collect its descriptors; it raises nothing of a plugin's.

    ``loaded`` are those that came before.
    """
    draft = PluginState(source)
    _, error = attempt(_register, draft, loaded)
    if error is not None:
        draft.error = None if type(error) is _RuleError else error
        verdict, failed = attempt(_judge, error)
        draft.status, draft.reason = ("failed", one_line(error)) if failed else verdict
        draft.backends, draft.namespaces = [], []
    return draft


def settle(draft: PluginState) -> None:
    """Decide the status of a plugin some of whose descriptors had to be left out."""
    if not draft.left_out:
        return
    draft.reason = "; ".join(dict.fromkeys(part.reason for part in draft.left_out))
    if draft.backends or draft.namespaces:
        draft.reason = f"left out in part: {draft.reason}"
    else:
        draft.status = draft.left_out[0].status


def ask(draft: PluginState, hook: str) -> Any:
    """Call one hook of a plugin; None if it doesn't implement it.

    Raises BaseException: whatever the plugin raises.
    """
    assert draft.manager is not None  # noqa: S101 - it has been loaded
    results = getattr(draft.manager.hook, hook)()
    return results[0] if results else None


def devices_of(library: Namespace) -> tuple[tuple[str, ...], str | None]:
    """Names of the devices that an array library's plugin finds, or why they can't be told."""
    found, error = attempt(lambda: at_most(load_target(library.devices)()))
    if error is not None:
        return (), one_line(error)
    if not found or not all(issubclass(type(name), str) for name in found):
        return (), f"its devices() gave {shown(found)}, expected names of devices"
    return tuple(map(printable, found)), None


def at_most(things: Iterable[Any]) -> list[Any]:
    """Return the items that a hook returned, as a list.

    Raises ValueError: there are more than a thousand.
    """
    found = list(islice(things, LIMIT + 1))
    if len(found) > LIMIT:
        msg = f"it gave more than {LIMIT:,} things"
        raise ValueError(msg)
    return found


def _register(draft: PluginState, loaded: Sequence[PluginState]) -> None:
    draft.plugin = draft.source.load()
    for other in loaded:
        if other.plugin is draft.plugin and other.manager is not None:
            msg = f"its {_form(draft.plugin)} is already registered by {other.source.provenance}"
            raise _RuleError(msg)
    # One manager a plugin: with a shared one, an object of one plugin that can't be compared, for
    # example, breaks the registration of the next.
    manager = pluggy.PluginManager("ctcx")
    manager.add_hookspecs(hookspecs)
    manager.register(draft.plugin, name=draft.source.name)
    _check_hooks(manager, draft.plugin)
    draft.manager = manager
    draft.backends = _collect(draft, "ctcx_backends", Backend)
    draft.namespaces = _collect(draft, "ctcx_namespaces", Namespace)


def _check_hooks(manager: pluggy.PluginManager, plugin: object) -> None:
    """Refuse hooks that don't exist, functions that look like hooks, and plugins without any."""
    callers = manager.get_hookcallers(plugin) or []
    for caller in callers:
        optional = any(i.optionalhook for i in caller.get_hookimpls() if i.plugin is plugin)
        if not caller.has_spec() and not optional:
            from difflib import get_close_matches

            close = get_close_matches(caller.name, HOOKS, n=1, cutoff=0.75)
            hint = f"did you mean {close[0]!r}?" if close else f"the hooks are {', '.join(HOOKS)}"
            msg = f"it implements the unknown hook {caller.name!r}: {hint}"
            raise _RuleError(msg)
    for hook in HOOKS:
        looks_like_one = callable(getattr(plugin, hook, None))
        if looks_like_one and manager.parse_hookimpl_opts(plugin, hook) is None:
            msg = f"its function {hook!r} is not marked with @ctcx.plugin.hookimpl"
            raise _RuleError(msg)
    if not callers:
        msg = f"its {_form(plugin)} implements no hook of ctcx; the hooks are {', '.join(HOOKS)}"
        raise _RuleError(msg)


def _form(plugin: object) -> str:
    return "module" if isinstance(plugin, ModuleType) else "object"


def _collect(draft: PluginState, hook: str, kind: type) -> list[Any]:
    """Descriptors that one hook returns, those for another plugin API left out."""
    assert draft.manager is not None  # noqa: S101 - it has been registered
    callers = draft.manager.get_hookcallers(draft.plugin) or []
    if hook not in {caller.name for caller in callers}:
        return []
    returned = ask(draft, hook)
    if returned is None or isinstance(returned, (str, kind)):
        msg = (
            f"{hook}() returned {shown(returned)}; it must return or yield {kind.__name__} "
            f"descriptors"
        )
        raise _RuleError(msg)
    kept = []
    for item in at_most(returned):
        if not isinstance(item, kind):
            msg = f"{hook}() gave {shown(item)}, which is no ctcx.plugin.{kind.__name__}"
            raise _RuleError(msg)
        # A copy, checked again: the plugin may have changed its own, or may do so later.
        found: Any = kind(**{f.name: getattr(item, f.name) for f in fields(kind)})
        if why := _incompatible(found.api, draft.source):
            draft.leave_out(found, "incompatible", f"{kind.__name__} {found.name!r}: {why}")
        else:
            kept.append(found)
    return kept


def _incompatible(api: tuple[int, int], source: PluginEntry) -> str | None:
    """Why a descriptor of this plugin API version can't be used; None if it can."""
    theirs, host = (".".join(map(str, version)) for version in (api, API_VERSION))
    written = f"it is written for plugin API {theirs} and this ctcx has {host}: "
    if api > API_VERSION:
        return f"{written}upgrade ctcx"
    if api[0] < API_VERSION[0]:
        return f"{written}the plugin needs an update, upgrade {source.distribution}"
    return None


def _judge(error: BaseException) -> tuple[PluginStatus, str]:
    """Tell broken plugin code from a descriptor, or a hook's signature, that breaks a rule."""
    if isinstance(error, (_RuleError, pluggy.PluginValidationError)):
        return "invalid", printable(str(error))
    reason = one_line(error)
    if isinstance(error, TypeError) and _UNKNOWN_FIELD.search(reason):
        host = ".".join(map(str, API_VERSION))
        return "invalid", f"{reason}; if a later plugin API than {host} has it, upgrade ctcx"
    return "invalid" if _raised_in(error) in _DESCRIPTORS else "failed", reason


def _raised_in(error: BaseException) -> object:
    """Name of the module whose code raised the error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return None if trace is None else trace.tb_frame.f_globals.get("__name__")
