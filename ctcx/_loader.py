"""Load plugins one by one, each on its own: whatever one of them does, the others go on.

pluggy isolates nothing (one plugin that fails to import, or one hook that raises, ends the whole
call), so each entry point is imported, registered, checked and asked here inside its own ``try``.
"""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from ctcx import _hookspecs
from ctcx._descriptors import API_VERSION, Backend, Namespace
from ctcx._records import LeftOut
from ctcx._trouble import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctcx._records import PluginStatus

__all__ = ["Draft", "Source", "ask", "load", "new_manager", "settle"]

HOOKS: tuple[str, ...] = tuple(_hookspecs.__all__)
_UNKNOWN_FIELD = re.compile(r"(Backend|Namespace)\.__init__\(\) got an unexpected keyword argument")


@dataclass(frozen=True, slots=True)
class Source:
    """An entry point that has not been imported yet."""

    name: str
    distribution: str
    version: str
    load: Callable[[], object]

    @property
    def key(self) -> str:
        """Unique name for pluggy: two distributions may name their entry points alike."""
        return f"{self.distribution}:{self.name}"

    @property
    def provenance(self) -> str:
        """Distribution and version, such as ``"ctcx-numba 0.2"``."""
        return f"{self.distribution} {self.version}"


@dataclass(slots=True)
class Draft:
    """What is known of one plugin while all of them are being loaded."""

    source: Source
    status: PluginStatus = "active"
    reason: str = ""
    error: Exception | None = None
    plugin: object = None
    backends: list[Backend] = field(default_factory=list)
    namespaces: list[Namespace] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def leave_out(self, descriptor: Backend | Namespace, status: PluginStatus, reason: str) -> None:
        """Remember that one descriptor can't be used, and why; the plugin's others stay."""
        self.left_out.append(
            LeftOut(
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
        return "".join(traceback.format_exception(self.error)) if self.error else ""


class _RuleError(Exception):
    """The plugin breaks a rule; the message says which."""


def new_manager() -> pluggy.PluginManager:
    """Plugin manager that knows the hooks of ctcx and has no plugins."""
    manager = pluggy.PluginManager("ctcx")
    manager.add_hookspecs(_hookspecs)
    return manager


def load(manager: pluggy.PluginManager, source: Source) -> Draft:
    """Import and register one plugin and collect its descriptors; never raises an `Exception`."""
    draft = Draft(source)
    try:
        draft.plugin = source.load()
        manager.register(draft.plugin, name=source.key)
        _check_hooks(manager, draft.plugin)
        draft.backends = _collect(manager, draft, "ctcx_backends", Backend)
        draft.namespaces = _collect(manager, draft, "ctcx_namespaces", Namespace)
    except _RuleError as refused:
        _fail(manager, draft, "invalid", str(refused))
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything; it is recorded
        draft.error = error
        status, reason = _judge(error)
        _fail(manager, draft, status, reason)
    return draft


def settle(manager: pluggy.PluginManager, draft: Draft) -> None:
    """Decide the status of a plugin some of whose descriptors had to be left out."""
    if not draft.left_out:
        return
    reason = "; ".join(dict.fromkeys(part.reason for part in draft.left_out))
    if draft.backends or draft.namespaces:
        draft.reason = f"left out in part: {reason}"
    else:
        _fail(manager, draft, draft.left_out[0].status, reason)


def ask(manager: pluggy.PluginManager, plugin: object, hook: str) -> Any:
    """Call one hook of one plugin alone; None if it doesn't implement it.

    Raises
    ------
    Exception
        Whatever the plugin raises.
    """
    others = [other for _, other in manager.list_name_plugin() if other is not plugin]
    results = manager.subset_hook_caller(hook, remove_plugins=others)()
    return results[0] if results else None


def _check_hooks(manager: pluggy.PluginManager, plugin: object) -> None:
    """Refuse hooks that don't exist, functions that look like hooks, and plugins without any."""
    callers = manager.get_hookcallers(plugin) or []
    for caller in callers:
        optional = any(i.optionalhook for i in caller.get_hookimpls() if i.plugin is plugin)
        if not caller.has_spec() and not optional:
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
        what = "module" if isinstance(plugin, ModuleType) else "object"
        msg = f"its {what} implements no hook of ctcx; the hooks are {', '.join(HOOKS)}"
        raise _RuleError(msg)


def _collect(manager: pluggy.PluginManager, draft: Draft, hook: str, kind: type) -> list[Any]:
    """Descriptors that one hook returns, those for another plugin API left out."""
    callers = manager.get_hookcallers(draft.plugin) or []
    if hook not in {caller.name for caller in callers}:
        return []
    returned = ask(manager, draft.plugin, hook)
    if returned is None or isinstance(returned, (str, kind)):
        msg = f"{hook}() returned {returned!r}; it must return or yield {kind.__name__} descriptors"
        raise _RuleError(msg)
    kept = []
    for item in returned:
        if not isinstance(item, kind):
            msg = f"{hook}() gave {item!r}, which is no ctcx.plugin.{kind.__name__}"
            raise _RuleError(msg)
        found: Any = item
        if why := _incompatible(found.api, draft.source):
            draft.leave_out(found, "incompatible", f"{kind.__name__} {found.name!r}: {why}")
        else:
            kept.append(found)
    return kept


def _incompatible(api: object, source: Source) -> str | None:
    """Why a descriptor of this plugin API version can't be used; None if it can."""
    match api:
        case (int(major), int(minor)):
            pass
        case _:
            return f"api must be two integers (major, minor), got {api!r}"
    host = ".".join(map(str, API_VERSION))
    if (major, minor) > API_VERSION:
        return (
            f"it is written for plugin API {major}.{minor} and this ctcx has {host}: upgrade ctcx"
        )
    if major < API_VERSION[0]:
        return (
            f"it is written for plugin API {major}.{minor} and this ctcx has {host}: "
            f"the plugin needs an update, upgrade {source.distribution}"
        )
    return None


def _judge(error: Exception) -> tuple[PluginStatus, str]:
    """Tell broken plugin code from a descriptor, or a hook's signature, that breaks a rule."""
    reason = one_line(error)
    if isinstance(error, pluggy.PluginValidationError):
        return "invalid", " ".join(str(error).split())
    if isinstance(error, TypeError) and _UNKNOWN_FIELD.search(reason):
        host = ".".join(map(str, API_VERSION))
        return "invalid", f"{reason}; if a later plugin API than {host} has it, upgrade ctcx"
    if _raised_in(error) in {"ctcx._descriptors", "pluggy._manager"}:
        return "invalid", reason
    return "failed", reason


def _raised_in(error: Exception) -> str:
    """Name of the module whose code raised the error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))


def _fail(manager: pluggy.PluginManager, draft: Draft, status: PluginStatus, reason: str) -> None:
    """Take a plugin out again."""
    draft.status, draft.reason = status, reason
    draft.backends, draft.namespaces = [], []
    if manager.get_plugin(draft.source.key) is not None:
        manager.unregister(name=draft.source.key)
