"""``ctcx doctor``: what is here, what can't be used, and why; for a bug report too."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

import ctcx
from ctcx._cli.backends import advice, as_dict
from ctcx._cli.output import (
    activity,
    bullets,
    heading,
    json_text,
    new_table,
    show,
    styled,
    unwarned,
)
from ctcx._dispatch.requested import VARIABLE
from ctcx._errors import printable
from ctcx._isolation import attempt
from ctcx._plugins.loader import devices_of
from ctcx._plugins.registry import DISABLE, registry
from ctcx._plugins.reporting import STRICT, strict
from ctcx.conformance._drawing import DRAW, SEED, THOROUGH
from ctcx.conformance._plan import REQUIRED, SLOW

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from ctcx._dispatch.report import BackendInfo
    from ctcx._plugins.namespace import Namespace
    from ctcx._plugins.records import PluginRecord, SkippedDescriptor

__all__ = ["doctor_command"]

_VARIABLES = (VARIABLE, DISABLE, STRICT, REQUIRED, SLOW, DRAW, SEED, THOROUGH)
_OF_PLUGINS = ("CTCX_NUM_THREADS", "CTCX_CPU_INSTRUCTIONS", "CTCX_CUDA_SCRATCH_MIB")
"""Variables that mean something to the plugins of this project."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Library:
    """An array library as it is found here."""

    name: str
    version: str
    devices: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Diagnosis:
    """All that the doctor has found."""

    versions: dict[str, str]
    plugins: tuple[PluginRecord, ...]
    left_out: tuple[SkippedDescriptor, ...]
    backends: tuple[BackendInfo, ...]
    libraries: tuple[_Library, ...]
    unreadable: dict[str, str]
    environment: dict[str, str]

    @property
    def failures(self) -> tuple[tuple[str, str, str], ...]:
        """Plugins, and parts of them, that are broken: status, what, why."""
        broken = tuple(
            (str(plugin.status), f"plugin {plugin.name}, {plugin.provenance}", plugin.reason)
            for plugin in self.plugins
            if plugin.status not in {"active", "blocked"}
        )
        # The parts of a plugin that is left out as a whole say nothing new.
        active = {(p.name, p.distribution) for p in self.plugins if p.status == "active"}
        parts = tuple(
            (str(part.status), f"{part.kind} {part.name}, {part.provenance}", part.reason)
            for part in self.left_out
            if (part.plugin, part.distribution) in active
        )
        return broken + parts

    @property
    def warnings(self) -> tuple[tuple[str, str, str], ...]:
        """What need not be a fault of a plugin: status, what, why."""
        metadata = tuple(
            ("unreadable", f"metadata of {distribution}", reason)
            for distribution, reason in self.unreadable.items()
        )
        variables = tuple(("unknown", name, _note(name)) for name in self.unknown_variables)
        return metadata + variables

    @property
    def unknown_variables(self) -> list[str]:
        """Variables that look as if they were for ctcx, and mean nothing to it."""
        return [name for name in self.environment if name not in _VARIABLES + _OF_PLUGINS]


def doctor_command(
    *,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, not tables.")] = False,
    strict_plugins: Annotated[
        bool, typer.Option("--strict", help="Exit code 1 if a plugin is broken.")
    ] = False,
) -> None:
    """Show what is here, what is broken, and why.

    Versions, plugins, backends, array libraries with their devices, and settings.

    Exit code 0, whatever it finds; with --strict, or CTCX_STRICT_PLUGINS=1, a broken plugin makes
    it 1.
    """
    environment = {name: os.environ[name] for name in sorted(os.environ) if name[:5] == "CTCX_"}
    demanding = strict_plugins or strict()
    with unwarned(), _lenient(), activity("examining") as tell:
        plugins = registry()
        libraries = []
        for name, entry in plugins.namespaces.items():
            tell(name)
            libraries.append(_examine(entry.namespace, plugins.namespace_unusable(name)))
        found = _Diagnosis(
            versions={"ctcx": ctcx.__version__} | plugins.runtime_info(),
            plugins=plugins.plugins,
            left_out=plugins.left_out,
            backends=ctcx.backends(),
            libraries=tuple(libraries),
            unreadable=dict(plugins.unreadable),
            environment=environment,
        )
    if json:
        typer.echo(json_text(_as_dict(found)))
    else:
        _print(found)
    raise typer.Exit(1 if demanding and found.failures else 0)


@contextmanager
def _lenient() -> Iterator[None]:
    """Leave strictness off for a while: who asks what is wrong wants all of it, not the first."""
    value = os.environ.pop(STRICT, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[STRICT] = value


def _examine(library: Namespace, reason: str | None) -> _Library:
    version = _version(library, importable=reason is None)
    if reason:
        return _Library(name=library.name, version=version, reason=reason)
    devices, reason = devices_of(library)
    return _Library(name=library.name, version=version, devices=devices, reason=reason or "")


def _version(library: Namespace, *, importable: bool) -> str:
    """Return a library's version: what it says itself, which a build under another name has too."""
    top = library.name.partition(".")[0]
    if importable or top in sys.modules:
        version, error = attempt(lambda: printable(str(import_module(top).__version__)))
        if error is None:
            return str(version)
    version, error = attempt(metadata.version, library.distribution)
    return "-" if error is not None else printable(str(version))


def _as_dict(found: _Diagnosis) -> dict[str, Any]:
    return {
        "schema": "ctcx-doctor/1",
        "versions": found.versions,
        "plugins": [asdict(plugin) for plugin in found.plugins],
        "left_out": [asdict(part) for part in found.left_out],
        "backends": [as_dict(info) for info in found.backends],
        "libraries": [asdict(library) for library in found.libraries],
        "unreadable": found.unreadable,
        "environment": found.environment,
        "failures": [
            {"status": status, "what": what, "reason": why} for status, what, why in found.failures
        ],
    }


def _print(found: _Diagnosis) -> None:
    show(_verdict(found))
    versions = new_table("what", "version")
    for what, version in found.versions.items():
        versions.add_row(what, version)
    show(heading("Versions"), versions)

    plugins = new_table("plugin", "from", "status", "backends", "libraries", "reason")
    for plugin in found.plugins:
        plugins.add_row(
            plugin.name,
            plugin.provenance,
            styled(plugin.status),
            ", ".join(plugin.backends) or "-",
            ", ".join(plugin.namespaces) or "-",
            plugin.reason,
        )
    show(heading("Plugins"), plugins)

    backends = new_table("backend", "from", "status", "reason")
    for info in found.backends:
        backends.add_row(info.name, info.provenance, styled(info.status), info.reason)
    show(heading("Backends, in the order in which they are tried"), backends)
    for line in advice(found.backends):
        show(Text(line))

    libraries = new_table("library", "version", "status", "devices, or why it can't be used")
    for library in found.libraries:
        libraries.add_row(
            library.name,
            library.version,
            styled("unusable" if library.reason else "available"),
            library.reason or ", ".join(library.devices),
        )
    show(heading("Array libraries"), libraries)

    show(heading("Environment"))
    if not found.environment:
        show(Text(f"none of {', '.join(_VARIABLES)} is set"))
        return
    variables = new_table("variable", "value", "note")
    for name, value in found.environment.items():
        variables.add_row(name, value, _note(name))
    show(variables)


def _verdict(found: _Diagnosis) -> RenderableType:
    problems = [*found.failures, *found.warnings]
    usable = sum(not library.reason for library in found.libraries)
    ready = sum(info.status != "unusable" for info in found.backends)
    counted = (
        f"{ready} of {len(found.backends)} backends and {usable} of {len(found.libraries)} array "
        f"libraries can be used here"
    )
    if not problems:
        return Text(f"No plugin is broken. {counted[0].upper()}{counted[1:]}.")
    things = "1 thing needs" if len(problems) == 1 else f"{len(problems)} things need"
    show(Text(f"{things} attention; {counted}.", style="bold red"))
    return bullets(problems)


def _note(name: str) -> str:
    if name in _VARIABLES:
        return ""
    if name in _OF_PLUGINS:
        return "for kernels"
    close = get_close_matches(name, _VARIABLES + _OF_PLUGINS, n=1)
    return "means nothing to ctcx" + (f"; is it {close[0]}?" if close else "")
