"""What is compiled already, where it is kept, and how to compile all of it ahead of time."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ctcx_numba import _entries
from ctcx_numba._cache import Cache, damaged_files
from ctcx_numba._jit import SOURCES

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["announce", "cache_folder", "compile_all", "damaged", "variants_on_disk"]

logger = logging.getLogger("ctcx_numba")

_announced: set[str] = set()
_lock = threading.Lock()


def cache_folder() -> Path | None:
    """Return where compiled kernels are kept; None if there is no folder to write to."""
    path = _entries.sequences.stats.cache_path
    return Path(path) if path else None


def variants_on_disk() -> int:
    """Count the dtypes (float32, float64) that the kernels of these sources are on disk for."""
    cache = _entries.sequences._cache  # noqa: SLF001 - see _jit
    return cache.variants() if isinstance(cache, Cache) else 0


def damaged() -> list[Path]:
    """Files of these sources on disk that are damaged."""
    folder = cache_folder()
    return list(damaged_files(folder, SOURCES)) if folder else []


def announce(dtype: str) -> None:
    """Log, once a process and dtype, if the call that follows has to compile first."""
    if dtype in _announced:
        return
    with _lock:
        if dtype in _announced:
            return
        _announced.add(dtype)
    if not variants_on_disk():
        logger.info(
            "compiling the CPU kernels for %s, which takes some seconds; %s",
            dtype,
            f"they are kept in {cache_folder()}" if cache_folder() else "they can't be kept",
        )


def compile_all(dtypes: tuple[str, ...] = ("float32", "float64")) -> Iterator[str]:
    """Compile every entry for the dtypes, and yield each one's name when it is done.

    Parameters
    ----------
    dtypes
        ``"float32"``, ``"float64"``.
    """
    from ctcx_numba import kernels
    from ctcx_numba._handlers import handler

    few = np.array([[1, 2]]), np.array([9]), np.array([2])
    for dtype in dtypes:
        logits = np.zeros((1, 9, 4), dtype=dtype)
        kernels.loss_and_grad(logits, *few, blank=0, num_threads=1)
        yield f"{dtype}: whole sequences"
        kernels.softmax_only(logits, *few, blank=0, num_threads=1)
        yield f"{dtype}: softmax"
        # One long and wide sequence, with a probability that is taken apart.
        logits = np.zeros((1, 3000, 300), dtype=dtype)
        logits[0, 0, 1:] = -2000
        lengths = np.array([3000]), np.array([2])
        kernels.loss_and_grad(logits, few[0], *lengths, blank=0, num_threads=3)
        yield f"{dtype}: one sequence on several threads"
        handler(dtype)
        yield f"{dtype}: for programs of JAX"
