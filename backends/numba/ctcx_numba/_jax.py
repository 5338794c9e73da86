"""The kernels on JAX's arrays, with values or without: a call of XLA's, in a program of JAX's."""

from __future__ import annotations

import sys
import threading
from functools import cache, partial
from typing import Any

import numpy as np

from ctcx.plugin import Decline
from ctcx_numba._compiled import announce

__all__ = ["belongs_in_a_program", "call", "is_jax"]

_VERSION = 1
"""Of arguments and attributes. Programs that JAX has kept on disk name what they call."""

_FRESH_FROM = 2**25
"""Bytes from which on glibc gives memory back to the system as soon as it is free."""


def is_jax(array: Any) -> bool:
    """Whether it is an array of JAX, or stands for one."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(array, jax.Array)


def belongs_in_a_program(logits: Any, *others: Any) -> bool:
    """Whether XLA should compute the gradient: while JAX traces it must; else if it isn't huge.

    A call of XLA's takes less time than one from Python. But it writes to memory of XLA's, which is
    fresh each time if it is huge; from Python it is kept: see :mod:`ctcx_numba._memory`.
    """
    tracer = sys.modules["jax"].core.Tracer
    arrays = (logits, *others)
    return any(isinstance(x, tracer) for x in arrays) or logits.nbytes < _FRESH_FROM


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
    """Loss (N,), or loss and gradient (N, T, C): as :mod:`ctcx_numba.kernels`."""
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
    labels: Any,
    logit_lengths: Any,
    label_lengths: Any,
) -> Any:
    import jax

    labels, logit_lengths, label_lengths = (
        each if each.dtype in (np.int32, np.int64) else each.astype(np.int32)
        for each in (labels, logit_lengths, label_lengths)
    )
    dtype = "float64" if logits.dtype == np.float64 else "float32"
    shapes = [logits.shape[:1], logits.shape] if gradient else [logits.shape[:1]]
    results = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    loss, *grad = jax.ffi.ffi_call(_target(dtype), results, vmap_method="broadcast_all")(
        logits.astype(dtype),
        labels,
        logit_lengths,
        label_lengths,
        blank=np.int32(blank),
        threads=np.int32(threads),
    )
    return (loss, grad[0].astype(logits.dtype)) if gradient else loss


def _target(dtype: str) -> str:
    """Tell XLA of the handler; returns what XLA calls it."""
    name = f"ctcx_numba_{_VERSION}_{dtype}"
    with _lock:  # a name stands for one function, once and for all
        if dtype not in _known:
            _known[dtype] = _registered(name, dtype)
    return name


_known: dict[str, Any] = {}
_lock = threading.Lock()


def _registered(name: str, dtype: str) -> Any:
    import jax

    from ctcx_numba._handlers import handler

    announce(dtype)
    function = handler(dtype)
    try:
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(function), platform="cpu")
    except Exception as error:
        msg = f"JAX {jax.__version__} takes no function of this kind: {error}"
        raise Decline(msg) from error
    return function  # whose code lives as long as it does
