"""Turn an implementation and a batch into a call to time, and a way to read its result."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import ctcx
from ctcx._peers import PREPARE, MissingError
from ctcx._plugins.backend import Feature
from ctcx._plugins.registry import registry
from ctcx._plugins.targets import load_target

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctcx._peers import PreparedPeer
    from ctcx._plugins.namespace import Namespace
    from ctcx.bench._implementations.registered import Implementation
    from ctcx.data.batch import Batch

__all__ = ["prepare", "unusable"]

_CPU_KINDS = frozenset({"cpu", "CPU_DEVICE"})


def unusable(implementation: Implementation) -> tuple[str | None, str]:
    """Return why an implementation can't be used here (None if it can), and its device.

    Imports the implementation's library. What a peer lacks is found out when it is first prepared.
    """
    if implementation.kind == "peer":
        return None, "cpu"
    plugins = registry()
    if reason := plugins.namespace_unusable(implementation.library):
        return reason, ""
    library = plugins.namespaces[implementation.library].namespace
    device = str(load_target(library.devices)()[0])
    if implementation.kind == "lower_bound":
        (bound,) = [bound for bound in plugins.lower_bounds if bound.name == implementation.backend]
        return bound.probe(), device
    if reason := plugins.unusable(implementation.backend):
        return reason, device
    backend = plugins.backends[implementation.backend].backend
    if Feature.GRAD not in backend.features:
        return "it computes no gradient", device
    kind = device.partition(":")[0]
    accepted = {"*", kind} & backend.devices or (kind in _CPU_KINDS and "cpu" in backend.devices)
    return (None if accepted else f"it doesn't take arrays on {device}"), device


def prepare(implementation: Implementation, inputs: Batch) -> PreparedPeer:
    """Return ``(call, read)`` as in :mod:`ctcx._peers`.

    Raises MissingError: a peer is not installed.
    """
    if implementation.kind == "peer":
        return PREPARE[implementation.name](inputs)
    library = registry().namespaces[implementation.library].namespace
    device = load_target(library.devices)()[0]
    make = load_target(library.from_numpy)
    arrays = tuple(make(array, None, device) for array in inputs.arrays)
    wait = load_target(library.synchronize) if library.synchronize else None
    if implementation.kind == "lower_bound":
        return _lower_bound_call(implementation, arrays, inputs.blank, wait), _read_nothing

    options: dict[str, Any] = {"blank": inputs.blank, "backend": implementation.backend}

    def both(*arrays: Any) -> tuple[Any, ...]:
        result = ctcx.ctc_loss_and_grad(*arrays, **options)
        return result.loss, result.grad

    if implementation.training:
        both = _TRAINING[implementation.library](partial(ctcx.ctc_loss, **options))

    if implementation.jit:
        both = load_target(library.jit or "")(both)

    def call() -> tuple[Any, ...]:
        result = both(*arrays)
        if wait is not None:
            for array in result:
                wait(array)
        return result

    return call, _reader(library)


def _torch_step(loss_of: Callable[..., Any]) -> Callable[..., tuple[Any, ...]]:
    """Let autograd differentiate the sum of the losses."""

    def step(logits: Any, *rest: Any) -> tuple[Any, ...]:
        leaf = logits.detach().requires_grad_()
        loss = loss_of(leaf, *rest)
        loss.sum().backward()
        return loss.detach(), leaf.grad

    return step


def _jax_step(loss_of: Callable[..., Any]) -> Callable[..., tuple[Any, ...]]:
    """Let JAX differentiate the sum of the losses."""
    import jax

    def total(*arrays: Any) -> tuple[Any, Any]:
        loss = loss_of(*arrays)
        return loss.sum(), loss

    def step(*arrays: Any) -> tuple[Any, ...]:
        (_, loss), grad = jax.value_and_grad(total, has_aux=True)(*arrays)
        return loss, grad

    return step


_TRAINING = {"torch": _torch_step, "jax.numpy": _jax_step}


def _lower_bound_call(
    implementation: Implementation,
    arrays: tuple[Any, ...],
    blank: int,
    wait: Callable[[Any], None] | None,
) -> Callable[[], Any]:
    (bound,) = [bound for bound in registry().lower_bounds if bound.name == implementation.backend]
    function = load_target(bound.function)

    def call() -> Any:
        result = function(*arrays, blank=blank)
        if wait is not None:
            # Its result may be anything; a wait for the logits' device is a wait for it.
            wait(arrays[0])
        return result

    return call


def _reader(library: Namespace) -> Callable[[Any], tuple[Any, Any]]:
    to_numpy = load_target(library.to_numpy)

    def read(result: Any) -> tuple[Any, Any]:
        loss, grad = result
        return np.asarray(to_numpy(loss)), np.asarray(to_numpy(grad))

    return read


def _read_nothing(_: Any) -> tuple[Any, Any]:
    msg = "the result of a lower bound is not looked at"
    raise MissingError(msg)
