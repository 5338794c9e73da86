"""Which backends were asked for by name, and by whom.

The first that speaks wins: the argument ``backend=``, :func:`use_backend`, the environment variable
``CTCX_BACKEND`` (names separated by commas, in order of preference).
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from ctcx._dispatch.decision import Candidate, table
from ctcx._dispatch.selection import choose, in_order, without_backend
from ctcx._environment import env_text, split_names
from ctcx._errors import CTCInputError, UnknownBackendError
from ctcx._nesting import preferred
from ctcx._plugins.registry import registry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ctcx._dispatch.decision import Source
    from ctcx._plugins.backend import Problem
    from ctcx._plugins.registry import Registry

__all__ = ["SPEAKERS", "VARIABLE", "asked_for", "check_known", "check_type", "use_backend"]

VARIABLE = "CTCX_BACKEND"

SPEAKERS = {
    "argument": "the argument backend=",
    "use_backend": "use_backend()",
    VARIABLE: f"the environment variable {VARIABLE}",
}
"""What each source of names is called in messages."""


@contextmanager
def use_backend(name: str, /, *more: str) -> Iterator[None]:
    """Compute with the named backends only, inside the ``with`` block.

    The first of them that can take a call computes it; if none can, that is an error. The
    ``backend=`` argument of a call goes before; an inner block replaces an outer one. It holds for
    the current thread or task only.

    Parameters
    ----------
    name, *more
        Names of backends, in order of preference.

    Raises
    ------
    UnknownBackendError
        On entry, if no plugin registered a backend of that name.

    Examples
    --------
    >>> import ctcx
    >>> import numpy as np
    >>> with ctcx.use_backend("array-api"), ctcx.trace() as runs:
    ...     loss = ctcx.ctc_loss(np.zeros((1, 2)), [1])
    >>> [run.backend for run in runs]
    ['array-api']
    """
    names = (name, *more)
    for each in names:
        check_type(each)
    check_known(registry(), names, "use_backend")
    token = preferred.set(names)
    try:
        yield
    finally:
        preferred.reset(token)


def asked_for(backend: str | None) -> tuple[tuple[str, ...], Source]:
    """Return the requested names and their source; no names for automatic selection."""
    if backend is not None:
        return (backend,), "argument"
    if (preference := preferred.get()) is not None:
        return preference, "use_backend" if preference else "auto"
    if names := split_names(env_text(VARIABLE) or ""):
        return names, "CTCX_BACKEND"
    return (), "auto"


def check_type(backend: object) -> None:
    """Refuse what can't be the name of a backend."""
    if backend is not None and not isinstance(backend, str):
        msg = f"backend must be the name of a backend, got {type(backend).__name__}"
        raise CTCInputError(msg, argument="backend", value=backend)


def check_known(
    plugins: Registry, names: Sequence[str], source: Source, problem: Problem | None = None
) -> None:
    """Refuse names that no plugin registered, with what is known of them.

    Raises
    ------
    UnknownBackendError
        The message says who gave the name, which names there are, and which plugin might have
        offered it but could not be used.
    """
    for name in names:
        if name in plugins.backends:
            continue
        from difflib import get_close_matches

        known = sorted(plugins.backends)
        close = get_close_matches(name, known, n=1)
        if problem is None:
            words, rows = "There are:", _overview(plugins)
        else:
            words = "Without a name, the choice would be:"
            rows = choose(problem, plugins, thorough=True).candidates
        msg = (
            f"{SPEAKERS[source]} names the backend {name!r}, which no usable plugin registered; "
            f"known: {', '.join(known)}."
            f"{f' Did you mean {close[0]!r}?' if close else ''}"
            f"{_would_have_offered(plugins, name)}\n{words}\n{table(rows)}"
        )
        raise UnknownBackendError(msg)


def _would_have_offered(plugins: Registry, name: str) -> str:
    """Describe the state of a plugin that, by its names, would have offered this backend."""
    for part in plugins.left_out:
        if part.kind == "backend" and part.name == name:
            return f" It was left out: {part.reason}."
    for plugin in plugins.plugins:
        its_names = {plugin.name, plugin.distribution, plugin.distribution.removeprefix("ctcx-")}
        if plugin.status != "active" and name in its_names:
            return (
                f" The plugin {plugin.name!r} of {plugin.provenance} was left out "
                f"({plugin.status}): {plugin.reason}."
            )
    return ""


def _overview(plugins: Registry) -> tuple[Candidate, ...]:
    """All backends, without a problem to judge them by."""
    usable = (
        Candidate(
            name=entry.backend.name,
            provenance=entry.provenance,
            status="opt-in" if entry.backend.opt_in else "available",
        )
        for entry in in_order(plugins)
    )
    return (*usable, *without_backend(plugins))
