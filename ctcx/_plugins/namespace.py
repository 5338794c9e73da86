"""The descriptor of an array library."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctcx._errors import shown
from ctcx._plugins.fields import (
    always_usable,
    check_api,
    check_callable,
    check_line,
    check_names,
)
from ctcx._plugins.targets import check_target

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

__all__ = ["Namespace"]


_NAMESPACE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*\Z")


@dataclass(frozen=True, kw_only=True, slots=True)
class Namespace:
    """How to work with one array library from outside: for tests, benchmarks and the command line.

    The computation itself never needs this; it uses the array API. The one exception is ``loop``.

    Attributes
    ----------
    name
        As in :attr:`Problem.namespace`: the import name of the library's array namespace.
    distribution
        Name of the package that installs it, for versions and advice (``"torch"``).
    from_numpy
        ``"package.module:function"``; ``function(array, dtype, device)`` makes an array of the
        library from a NumPy array (None for dtype or device: the library's default).
    to_numpy
        ``"package.module:function"``; ``function(array)`` gives a NumPy array.
    devices
        ``"package.module:function"``; ``function()`` gives the devices usable here, by the names
        that ``from_numpy`` takes.
    probe
        None if the library can be used here, else why not. May import the library.
    synchronize
        ``"package.module:function"``; ``function(array)`` returns when ``array`` is computed. None
        for libraries that compute at once.
    jit
        ``"package.module:function"``; ``function(callable)`` compiles it. None if there is none.
    loop
        ``"package.module:object"``, a :class:`ctcx._core.loops.base.Loop` for the core to loop over
        frames with, for libraries that trace and compile. None for a loop in Python.
    dtypes
        Names of the dtypes of logits that the library has.
    api
        As in :class:`Backend`.
    """

    name: str
    distribution: str
    from_numpy: str
    to_numpy: str
    devices: str
    probe: Callable[[], str | None] = always_usable
    synchronize: str | None = None
    jit: str | None = None
    loop: str | None = None
    dtypes: AbstractSet[str] = frozenset({"float32", "float64"})
    api: tuple[int, int] = (2, 0)

    def __post_init__(self) -> None:
        name: object = self.name
        if not isinstance(name, str) or not _NAMESPACE.match(name):
            msg = f"Namespace: name must be the import name of a module, got {shown(name)}"
            raise TypeError(msg)
        where = f"Namespace {name!r}"
        check_line(where, self, "distribution")
        for attribute in ("from_numpy", "to_numpy", "devices"):
            check_target(f"{where}: {attribute}", getattr(self, attribute))
        for attribute in ("synchronize", "jit", "loop"):
            if getattr(self, attribute) is not None:
                check_target(f"{where}: {attribute}", getattr(self, attribute))
        check_callable(where, self, "probe")
        check_names(where, self, "dtypes")
        check_api(where, self.api)
