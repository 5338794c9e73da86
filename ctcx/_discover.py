"""Find the plugins that are installed, and load those that are not blocked."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from typing import TYPE_CHECKING

from ctcx import __version__
from ctcx._env import split_names
from ctcx._loader import Draft, Source, load, new_manager, settle
from ctcx._trouble import strict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from importlib.metadata import EntryPoint

    import pluggy

__all__ = ["DISABLE", "load_plugins"]

GROUP = "ctcx.plugins"
DISABLE = "CTCX_DISABLE_PLUGINS"


def load_plugins() -> tuple[pluggy.PluginManager, list[Draft]]:
    """Load all plugins, the built-in one first, and settle which of their descriptors stay."""
    manager = new_manager()
    strict()  # a variable with a senseless value is found before any plugin is imported
    blocked = {_normal(name) for name in split_names(os.environ.get(DISABLE, ""))}
    drafts: list[Draft] = []
    for source in _sources():
        names = {_normal(source.name), _normal(source.distribution), "all"}
        if drafts and blocked & names:  # the first one is the built-in one
            drafts.append(Draft(source, status="blocked", reason=f"blocked by {DISABLE}"))
        else:
            drafts.append(load(manager, source))
    for kind in ("backends", "namespaces"):
        _drop_duplicates(drafts, kind)
    for draft in drafts:
        settle(manager, draft)
    return manager, drafts


def _sources() -> Iterator[Source]:
    """The built-in plugin, then all entry points by name."""
    from importlib import metadata  # slow to import

    yield Source("ctcx", "ctcx", __version__, _load_builtin)
    found = [_source(entry) for entry in metadata.entry_points(group=GROUP)]
    yield from sorted(found, key=lambda source: (source.name, source.distribution))


def _source(entry: EntryPoint) -> Source:
    try:
        distribution = str(entry.dist.name)  # type: ignore[union-attr]
        version = str(entry.dist.version)  # type: ignore[union-attr]
    except Exception:  # noqa: BLE001 - damaged metadata of somebody else's package
        distribution, version = "(unknown distribution)", "(unknown version)"
    return Source(entry.name, distribution, version, entry.load)


def _load_builtin() -> object:
    from ctcx import _builtin  # through the same door as any plugin

    return _builtin


def _drop_duplicates(drafts: Sequence[Draft], kind: str) -> None:
    """Leave out what is registered twice: the built-in one wins, between others nobody does."""
    owners: dict[str, list[Draft]] = defaultdict(list)
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
