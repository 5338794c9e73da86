"""The kernels on arrays of JAX's, with values or without: a call by XLA, in a program of JAX's."""

from __future__ import annotations

import sys
import threading
from functools import lru_cache
from typing import Any

import numpy as np

from ctcx.plugin import Decline
from ctcx_cpu import _native

__all__ = ["Results", "belongs_in_a_program", "call", "register", "weighted"]

Results = tuple[tuple[tuple[int, ...], Any], ...]
"""Shape and dtype of each."""

_TARGET = "ctcx_cpu_2"
"""With the version of arguments and attributes: programs that JAX has kept on disk name it."""

_FRESH_FROM = 2**25
"""Bytes from which on glibc gives memory back to the system as soon as it is free."""


def belongs_in_a_program(logits: Any) -> bool:
    """Return whether XLA should make a call: with a tracer of JAX it must, with an array it may.

    A call by XLA takes less time than one from Python. But it writes to memory of XLA's, which is
    fresh each time if it is huge; from Python it is kept: see :mod:`ctcx_cpu._results`.
    """
    jax = sys.modules.get("jax")
    if jax is None or not isinstance(logits, jax.Array):
        return False
    return isinstance(logits, jax.core.Tracer) or logits.nbytes < _FRESH_FROM


def call(
    operation: str, arrays: tuple[Any, ...], results: Results, **attributes: int
) -> tuple[Any, ...]:
    """Compute an operation of ``ctcx_cpu.h`` in a program.

    Parameters
    ----------
    operation
        Its name.
    arrays
        What it reads, in the order of the handler's arguments.
    results
        Shapes and dtypes of what it writes.
    **attributes
        Integers that belong to the program: the blank, the number of threads, ...

    Returns
    -------
    tuple of arrays
    """
    program = _program(operation, results, tuple(attributes.items()))
    found: tuple[Any, ...] = program(*arrays)
    return found


def weighted(gradient: Any, weights: Any) -> Any:
    """Multiply a gradient (N, T, C) by weights (N,), in their dtype: XLA does so in one pass."""
    return (gradient.astype(weights.dtype) * weights[:, None, None]).astype(gradient.dtype)


@lru_cache(maxsize=256)
def _program(operation: str, results: Results, attributes: tuple[tuple[str, int], ...]) -> Any:
    import jax

    numbers = {name: np.int32(value) for name, value in attributes}

    def program(*arrays: Any) -> Any:
        register()
        shapes = [jax.ShapeDtypeStruct(*result) for result in results]
        call_xla = jax.ffi.ffi_call(_TARGET, shapes, vmap_method="broadcast_all")
        return tuple(call_xla(*arrays, operation=operation, **numbers))

    return jax.jit(program)


_lock = threading.Lock()
_registered = False


def register() -> str:
    """Tell XLA of the handler, once: a name stands for one function. Return the name."""
    global _registered  # noqa: PLW0603 - XLA keeps it for the process
    import jax

    with _lock:
        if _registered:
            return _TARGET
        try:
            jax.ffi.register_ffi_target(_TARGET, _native.xla_handler(), platform="cpu")
        except Exception as error:
            msg = f"JAX {jax.__version__} takes no function of this kind: {error}"
            raise Decline(msg) from error
        _registered = True
        return _TARGET
