"""The names that people type for backends and array libraries."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

import typer

from ctcx import _peers
from ctcx._dispatch.requested import check_known
from ctcx._plugins.registry import registry

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "BACKENDS",
    "LIBRARIES",
    "PEERS",
    "known_backends",
    "known_libraries",
    "known_peers",
    "library_name",
]

BACKENDS = typer.Option("--backend", metavar="NAME", help="Only this backend; may be repeated.")
"""For :func:`known_backends`."""

LIBRARIES = typer.Option(
    "--library", metavar="NAME", help="Only this array library; may be repeated."
)
"""For :func:`known_libraries`."""

PEERS = typer.Option(
    "--peer",
    metavar="NAME",
    help=f"Only this other implementation ({', '.join(_peers.PEERS)}), or none; may be repeated.",
)
"""For :func:`known_peers`."""


def library_name(name: str) -> str | None:
    """Return the registered name of an array library; None if no plugin registered it.

    ``jax`` stands for ``jax.numpy``, and ``array-api-strict`` for ``array_api_strict``.
    """
    known = registry().namespaces
    if name in known:
        return name
    for full, entry in known.items():
        if name in {entry.namespace.distribution, full.partition(".")[0]}:
            return full
    return None


def known_libraries(given: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return registered names for those given; None, for all, if none is.

    Raises typer.BadParameter: no plugin registered it.
    """
    if not given:
        return None
    return tuple(map(_known_library, given))


def _known_library(given: str) -> str:
    if name := library_name(given):
        return name
    known = list(registry().namespaces)
    close = get_close_matches(given, known, n=1)
    msg = f"no plugin describes the array library {given!r}; known: {', '.join(known)}." + (
        f" Did you mean {close[0]!r}?" if close else ""
    )
    raise typer.BadParameter(msg, param_hint="--library")


def known_backends(given: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the names given; None, for all, if none is.

    Raises UnknownBackendError: no plugin registered it.
    """
    if not given:
        return None
    check_known(registry(), given, "argument")
    return tuple(given)


def known_peers(given: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the names given, nothing for ``none``; None, for all, if none is given.

    Raises typer.BadParameter: there is no such implementation.
    """
    if not given:
        return None
    for name in given:
        if name not in _peers.PEERS and name != "none":
            known = ", ".join((*_peers.PEERS, "none"))
            msg = f"{name!r} is no other implementation; known: {known}"
            raise typer.BadParameter(msg, param_hint="--peer")
    return tuple(name for name in given if name != "none")
