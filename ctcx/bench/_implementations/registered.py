"""Who is measured: backends on array libraries, other implementations, and lower bounds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ctcx._peers import PEERS
from ctcx._plugins.backend import Feature

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from ctcx._plugins.registry import Registry

__all__ = [
    "TEST_ONLY_LIBRARY",
    "Implementation",
    "Kind",
    "backend_implementations",
    "lower_bounds",
    "peers",
]

Kind: TypeAlias = Literal["backend", "peer", "lower_bound"]
"""backend: a backend of ctcx on one array library. peer: another implementation. lower_bound: a
lower bound that a plugin registered."""

TEST_ONLY_LIBRARY = "array_api_strict"

_DIFFERENTIATES = frozenset({"torch", "jax.numpy"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Implementation:
    """One that computes loss and gradient, or a lower bound for that.

    Attributes
    ----------
    name
        Unique in a run, for people.
    kind
        ``backend``, ``peer`` (another library) or ``lower_bound``.
    about
        What it is, in one line.
    backend, library
        Names in the registry; empty for peers, and the backend for lower bounds.
    jit
        Whether the call is compiled by the library.
    training
        Whether the library differentiates the loss, as in a training step, instead of a call of
        :func:`ctcx.ctc_loss_and_grad`.
    bound_of
        For a lower bound: names of the backends whose time is divided by it.
    """

    name: str
    kind: Kind
    about: str = ""
    backend: str = ""
    library: str = ""
    jit: bool = False
    training: bool = False
    bound_of: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, from which :meth:`from_dict` makes the same again."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Implementation:
        """Return what :meth:`as_dict` was called on."""
        return cls(**(data | {"bound_of": tuple(data["bound_of"])}))


def backend_implementations(
    plugins: Registry,
    *,
    backends: Collection[str] | None = None,
    libraries: Collection[str] | None = None,
) -> Iterator[Implementation]:
    """Yield each backend on each array library that it takes, in each way of calling it.

    Again under the library's jit, and as the loss of a training step where the library
    differentiates (under jit if it has one).

    What can't be used here is yielded too: whether it can is found out in a process of its own.
    :data:`TEST_ONLY_LIBRARY` is yielded only if ``libraries`` name it.
    """
    for entry in plugins.backends.values():
        backend = entry.backend
        if backends is not None and backend.name not in backends:
            continue
        for library in plugins.namespaces.values():
            name = library.namespace.name
            asked = name != TEST_ONLY_LIBRARY if libraries is None else name in libraries
            if not asked or not {"*", name} & backend.namespaces:
                continue
            about = f"{backend.summary or 'a backend'} ({entry.provenance})"
            common = {"kind": "backend", "backend": backend.name, "library": name, "about": about}
            jit = bool(library.namespace.jit) and Feature.TRACEABLE in backend.features
            ways: list[tuple[str, dict[str, Any]]] = [("", {})]
            if jit:
                ways.append((", jit", {"jit": True}))
            if name in _DIFFERENTIATES:
                ways.append((", training step", {"jit": jit, "training": True}))
            for suffix, way in ways:
                yield Implementation(
                    name=f"{backend.name} on {name}{suffix}",
                    **common,  # type: ignore[arg-type]
                    **way,
                )


def lower_bounds(
    plugins: Registry,
    *,
    backends: Collection[str] | None = None,
    libraries: Collection[str] | None = None,
) -> Iterator[Implementation]:
    """Yield the lower bounds of the backends that take part, on each library that one takes."""
    for bound in plugins.lower_bounds:
        if backends is not None and bound.backends and not bound.backends & set(backends):
            continue
        # In the order of the backends' libraries: the first one's line stands for all in a sweep.
        order = list(plugins.namespaces)
        for library in sorted(
            bound.namespaces,
            key=lambda name: (name not in order, order.index(name) if name in order else 0, name),
        ):
            if libraries is None or library in libraries:
                yield Implementation(
                    name=f"lower bound {bound.name} on {library}",
                    kind="lower_bound",
                    about=bound.summary,
                    backend=bound.name,
                    library=library,
                    bound_of=tuple(sorted(bound.backends)),
                )


def peers(only: Collection[str] | None = None) -> Iterator[Implementation]:
    """Yield the other implementations, or some of them, whether they are installed or not."""
    for name, about in PEERS.items():
        if only is None or name in only:
            yield Implementation(name=name, kind="peer", about=about)
