"""The kernels on arrays of JAX's, with values or without: a call by XLA, in a program of JAX's."""

from __future__ import annotations

import sys
import threading
from functools import cache, partial
from typing import Any

import numpy as np

from ctcx.plugin import Decline
from ctcx_cpu import _native

__all__ = ["belongs_in_a_program", "call", "is_jax"]

_TARGET = "ctcx_cpu_1"
"""With the version of arguments and attributes: programs that JAX has kept on disk name it."""

_FRESH_FROM = 2**25
"""Bytes from which on glibc gives memory back to the system as soon as it is free."""


def is_jax(array: Any) -> bool:
    """Return whether it is an array of JAX, or stands for one."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(array, jax.Array)


def belongs_in_a_program(logits: Any) -> bool:
    """Return whether XLA should make the call: while JAX traces it must; else if it isn't huge.

    A call by XLA takes less time than one from Python. But it writes to memory of XLA's, which is
    fresh each time if it is huge; from Python it is kept: see :mod:`ctcx_cpu._results`.
    """
    jax = sys.modules["jax"]
    return isinstance(logits, jax.core.Tracer) or logits.nbytes < _FRESH_FROM


def call(
    logits: Any,
    labels: Any,
    logit_lengths: Any,
    label_lengths: Any,
    *,
    blank: int,
    num_threads: int,
    gradient: bool,
) -> Any:
    """Compute the loss (N,), or loss and gradient (N, T, C): as :mod:`ctcx_cpu.kernels`."""
    program = _program(blank, num_threads, gradient)
    return program(logits, labels, logit_lengths, label_lengths)


@cache
def _program(blank: int, threads: int, gradient: bool) -> Any:  # noqa: FBT001 - part of the key
    import jax

    return jax.jit(partial(_call, blank, threads, gradient))


def _call(
    blank: int,
    threads: int,
    gradient: bool,  # noqa: FBT001 - bound above
    logits: Any,
    *integers: Any,
) -> Any:
    import jax

    _register()
    losses = jax.ShapeDtypeStruct(
        logits.shape[:1], np.float64 if logits.dtype == np.float64 else np.float32
    )
    shapes = [losses, jax.ShapeDtypeStruct(logits.shape, logits.dtype)] if gradient else [losses]
    results = jax.ffi.ffi_call(_TARGET, shapes, vmap_method="broadcast_all")(
        logits, *integers, blank=np.int32(blank), threads=np.int32(threads)
    )
    return tuple(results) if gradient else results[0]


_lock = threading.Lock()
_registered = False


def _register() -> None:
    """Tell XLA of the handler, once: a name stands for one function."""
    global _registered  # noqa: PLW0603 - XLA keeps it for the process
    import jax

    with _lock:
        if _registered:
            return
        try:
            jax.ffi.register_ffi_target(_TARGET, _native.xla_handler(), platform="cpu")
        except Exception as error:
            msg = f"JAX {jax.__version__} takes no function of this kind: {error}"
            raise Decline(msg) from error
        _registered = True
