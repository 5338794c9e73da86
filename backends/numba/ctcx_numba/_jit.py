"""How functions are compiled: the one place that knows Numba's options, also the private ones."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llvmlite import binding
from numba import njit
from numba.core import sigutils
from numba.core.ccallback import CFunc

from ctcx_numba._cache import Cache, say_once

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SOURCES", "callback", "entry", "inlined", "part"]

_COMMON: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def _digest_of_sources() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


SOURCES = _digest_of_sources()
"""Part of the names of files of compiled code."""


def entry(function: Callable[..., Any]) -> Any:
    """Compile a function that Python calls, and keep the result on disk where that is possible."""
    cache = _cache_of(function)
    result = njit(**_COMMON)(function)
    if cache is not None:
        result._cache = cache  # noqa: SLF001 - as Numba's cache=True does, with a class of ours
    return result


def callback(signature: str, *, symbol: str | None = None) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function that C calls, at once, and keep the result on disk as for :func:`entry`.

    Parameters
    ----------
    signature
        As Numba writes it, such as ``"intp(intp)"``.
    symbol
        Name by which other compiled functions find it in this process.
    """

    def compiled(function: Callable[..., Any]) -> Any:
        cache = _cache_of(function)
        result = CFunc(function, sigutils.normalize_signature(signature), {}, _COMMON)
        if cache is not None:
            result._cache = cache  # noqa: SLF001 - as above
        result.compile()
        if symbol is not None:
            binding.add_symbol(symbol, result.address)
        return result

    return compiled


def _cache_of(function: Callable[..., Any]) -> Cache | None:
    """Where to keep what is compiled; None if there is no folder for it.

    Numba's cache notices changes of the file that a function is in, but not of those whose
    functions it calls. It names its files after the function; so the name gets a digest of all
    sources.
    """
    function.__qualname__ += f"_{SOURCES}"
    try:
        return Cache(function)
    except (RuntimeError, OSError) as error:  # there is no folder that Numba could write to
        say_once(
            "not kept",
            f"compiled kernels can't be kept on disk ({error}): each process compiles them anew; "
            "set NUMBA_CACHE_DIR to a folder that can be written to",
        )
        return None


def inlined(function: Callable[..., Any]) -> Any:
    """Compile into its callers, whatever LLVM thinks of its size."""
    try:
        return njit(forceinline=True, **_COMMON)(function)  # private: a later Numba may drop it
    except (KeyError, TypeError, ValueError):
        return njit(**_COMMON)(function)


part = njit(**_COMMON)
