"""How functions are compiled: the one place that knows Numba's options, also the private ones."""

from __future__ import annotations

import hashlib
import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llvmlite import binding
from numba import cfunc, njit

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["callback", "entry", "inlined", "part"]

logger = logging.getLogger("ctcx_numba")

_COMMON: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def _digest_of_sources() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


_SOURCES = _digest_of_sources()


def entry(function: Callable[..., Any]) -> Any:
    """Compile a function that Python calls, and keep the result on disk where that is possible."""
    return _kept(njit, function)


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
        result = _kept(partial(cfunc, signature), function)
        if symbol is not None:
            binding.add_symbol(symbol, result.address)
        return result

    return compiled


def _kept(compiler: Callable[..., Any], function: Callable[..., Any]) -> Any:
    """Compile and keep.

    Numba's cache notices changes of the file that a function is in, but not of those whose
    functions it calls. It names its files after the function; so the name gets a digest of all
    sources.
    """
    function.__qualname__ += f"_{_SOURCES}"
    try:
        return compiler(cache=True, **_COMMON)(function)
    except RuntimeError as error:  # there is no folder that Numba could write to
        logger.info("compiled kernels can't be kept on disk: %s", error)
        return compiler(**_COMMON)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Compile into its callers, whatever LLVM thinks of its size."""
    try:
        return njit(forceinline=True, **_COMMON)(function)  # private: a later Numba may drop it
    except (KeyError, TypeError, ValueError):
        return njit(**_COMMON)(function)


part = njit(**_COMMON)
