"""What the registry knows: of each plugin, and of each thing that a plugin registered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from ctcx._plugins.backend import Backend
    from ctcx._plugins.namespace import Namespace

__all__ = [
    "PluginRecord",
    "PluginStatus",
    "RegisteredBackend",
    "RegisteredNamespace",
    "SkippedDescriptor",
]

PluginStatus: TypeAlias = Literal["active", "blocked", "failed", "incompatible", "invalid"]
"""active: in use. blocked: by ``CTCX_DISABLE_PLUGINS``, never imported. failed: its code raised.
incompatible: written for another plugin API. invalid: it breaks a rule of the plugin API."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _FromPlugin:
    """Where something comes from: an entry point, and the distribution that declares it."""

    plugin: str
    distribution: str
    version: str

    @property
    def provenance(self) -> str:
        """Distribution and version, such as ``"ctcx-numba 0.2"``."""
        return f"{self.distribution} {self.version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class RegisteredBackend(_FromPlugin):
    """A backend that can be selected by its name."""

    backend: Backend

    @property
    def descriptor(self) -> Backend:
        """The backend: what a namespace has under the same name."""
        return self.backend

    @property
    def title(self) -> str:
        """For messages."""
        return f"backend {self.backend.name!r}"


@dataclass(frozen=True, kw_only=True, slots=True)
class RegisteredNamespace(_FromPlugin):
    """An array library that tests, benchmarks and the command line can handle."""

    namespace: Namespace

    @property
    def descriptor(self) -> Namespace:
        """The namespace: what a backend has under the same name."""
        return self.namespace

    @property
    def title(self) -> str:
        """For messages."""
        return f"namespace {self.namespace.name!r}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SkippedDescriptor(_FromPlugin):
    """A backend or namespace that was registered and can't be used, while its plugin may be."""

    kind: Literal["backend", "namespace"]
    name: str
    status: PluginStatus
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PluginRecord:
    """What became of one entry point of the group ``ctcx.plugins``."""

    name: str
    """Of the entry point."""
    distribution: str
    version: str
    """Of the package that declares it."""
    status: PluginStatus
    """``active``, ``blocked``, ``failed``, ``incompatible`` or ``invalid``."""
    reason: str = ""
    """Why it is not active, or which of its parts were left out; else empty."""
    traceback: str = ""
    """Of the exception, where there was one; else empty."""
    backends: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    """Names of what it registered and can be used."""

    @property
    def provenance(self) -> str:
        """Distribution and version, such as ``"ctcx-numba 0.2"``."""
        return f"{self.distribution} {self.version}"
