"""Find the plugins that are installed, and load those that are not blocked."""

from __future__ import annotations

import os
import re
import sys
from collections import defaultdict
from importlib import metadata
from typing import TYPE_CHECKING, Any, NamedTuple

from ctcx import __version__
from ctcx._environment import split_names
from ctcx._errors import one_line, printable
from ctcx._isolation import attempt_at_once
from ctcx._plugins.loader import PluginEntry, PluginState, load, settle
from ctcx._plugins.reporting import strict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["DISABLE", "Found", "load_plugins"]

GROUP = "ctcx.plugins"
DISABLE = "CTCX_DISABLE_PLUGINS"


class Found(NamedTuple):
    """What is installed: plugins, and what can't be told whether it is one."""

    drafts: list[PluginState]
    """All plugins, the built-in one first."""
    unreadable: dict[str, str]
    """``{distribution: reason}`` of other packages whose metadata can't be read."""


def load_plugins() -> Found:
    """Load all plugins, the built-in one first, and settle which of their descriptors stay."""
    strict()  # a variable with a senseless value is found before any plugin is imported
    blocked = {_normal(name) for name in split_names(os.environ.get(DISABLE, ""))}
    installed = _Installed()
    drafts = [load(PluginEntry("ctcx", "ctcx", __version__, _load_builtin), [])]
    for source in sorted(installed.sources, key=lambda each: (each.name, each.distribution)):
        if blocked & {_normal(source.name), _normal(source.distribution), "all"}:
            drafts.append(PluginState(source, status="blocked", reason=f"blocked by {DISABLE}"))
        else:
            drafts.append(load(source, drafts))
    for kind in ("backends", "namespaces"):
        _drop_duplicates(drafts, kind)
    for draft in drafts:
        settle(draft)
    silenced = (name for name in installed.unreadable if blocked & {_normal(name), "all"})
    for name in list(silenced):
        del installed.unreadable[name]
    return Found(drafts, installed.unreadable)


class _Installed:
    """Entry points of all distributions, each distribution read by itself.

    As ``importlib.metadata.entry_points`` has them, of which one distribution with a malformed file
    makes an exception: of several distributions of one name the first on the path counts.
    """

    def __init__(self) -> None:
        self.sources: list[PluginEntry] = []
        self.unreadable: dict[str, str] = {}
        seen: set[str | None] = {None}
        for distribution in self._distributions():
            key, _ = attempt_at_once(_key, distribution)
            if key is None or key not in seen:
                self._read(distribution)
                seen.add(key)

    def _distributions(self) -> Iterator[metadata.Distribution]:
        """All distributions, whatever one of the finders of ``sys.meta_path`` does."""
        context = metadata.DistributionFinder.Context()
        for finder in list(sys.meta_path):
            found, failed = attempt_at_once(_find, finder, context)
            while failed is None:
                distribution, failed = attempt_at_once(next, found, None)
                if distribution is None:
                    break
                yield distribution
            if failed is not None:
                who = printable(f"what {type(finder).__qualname__} finds")
                self.unreadable[who] = one_line(failed)

    def _read(self, distribution: metadata.Distribution) -> None:
        found, failed = attempt_at_once(
            lambda: tuple(distribution.entry_points.select(group=GROUP))
        )
        if failed is None:
            for entry in found:
                self._add(distribution, printable(entry.name), entry.load)
            return
        text, _ = attempt_at_once(distribution.read_text, "entry_points.txt")
        if isinstance(text, str) and GROUP in text:

            def load() -> object:
                raise failed

            self._add(distribution, _about(distribution)[0], load)
        else:
            self.unreadable[_about(distribution)[0]] = one_line(failed)

    def _add(self, distribution: metadata.Distribution, name: str, load: Any) -> None:
        self.sources.append(PluginEntry(name, *_about(distribution), load))


def _find(finder: object, context: object) -> Iterator[metadata.Distribution]:
    find = getattr(finder, "find_distributions", None)
    return iter(()) if find is None else iter(find(context))


def _key(distribution: metadata.Distribution) -> str | None:
    """Return the name that identifies a distribution, without opening a file."""
    key = getattr(distribution, "_normalized_name", None)
    return key if isinstance(key, str) else None


def _field(distribution: metadata.Distribution, name: str) -> object:
    """Return a field; without a METADATA file this may raise or give None, by Python's version."""
    about: Any = distribution.metadata
    return about.get(name)


def _about(distribution: metadata.Distribution) -> tuple[str, str]:
    """Name and version, as far as they can be read."""
    name, version = (attempt_at_once(_field, distribution, each)[0] for each in ("Name", "Version"))
    if not isinstance(name, str):
        name = attempt_at_once(_key, distribution)[0] or "(unknown distribution)"
    if not isinstance(version, str):
        version = "(unknown version)"
    return printable(name), printable(version)


def _load_builtin() -> object:
    from ctcx._plugins import builtin  # through the same door as any plugin

    return builtin


def _drop_duplicates(drafts: Sequence[PluginState], kind: str) -> None:
    """Leave out what is registered twice: the built-in one wins, between others neither does."""
    owners: dict[str, list[PluginState]] = defaultdict(list)
    for draft in drafts:
        for descriptor in getattr(draft, kind):
            owners[descriptor.name].append(draft)
    for name, claimants in owners.items():
        if len(claimants) == 1:
            continue
        title = f"{kind.removesuffix('s')} {name!r}"
        unique = list({id(draft): draft for draft in claimants}.values())
        if unique[0] is drafts[0]:
            losers, reason = unique[1:], f"{title} is built into ctcx; choose another name"
        elif len(unique) == 1:
            losers, reason = unique, f"{title} is registered twice"
        else:
            who = " and ".join(draft.source.provenance for draft in unique)
            losers, reason = unique, f"{title} is registered by both {who}, so neither is used"
        for draft in losers:
            mine = getattr(draft, kind)
            setattr(draft, kind, [item for item in mine if item.name != name])
            draft.leave_out(next(i for i in mine if i.name == name), "invalid", reason)


def _normal(name: str) -> str:
    """Distribution names are the same whatever their case and separators."""
    return re.sub(r"[-_.]+", "-", name).lower()
