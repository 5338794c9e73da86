"""Turn a contestant and a batch into a call that can be timed, and a way to read its result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import ctcx
from ctcx._plugins.backend import Feature
from ctcx._plugins.registry import registry
from ctcx._plugins.targets import load_target
from ctcx.bench._implementations.peers import PREPARE, MissingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctcx._plugins.namespace import Namespace
    from ctcx.bench._implementations.peers import Prepared
    from ctcx.bench._implementations.registered import Contestant
    from ctcx.bench.workloads import Inputs

__all__ = ["prepare", "unusable"]

_CPU_KINDS = frozenset({"cpu", "CPU_DEVICE"})


def unusable(contestant: Contestant) -> tuple[str | None, str]:
    """Return why a contestant can't be used here (None if it can), and its device.

    Imports the contestant's library. What a peer lacks is found out when it is first prepared.
    """
    if contestant.kind == "peer":
        return None, "cpu"
    plugins = registry()
    if reason := plugins.namespace_unusable(contestant.library):
        return reason, ""
    library = plugins.namespaces[contestant.library].namespace
    device = str(load_target(library.devices)()[0])
    if contestant.kind == "lower_bound":
        (bound,) = [bound for bound in plugins.lower_bounds if bound.name == contestant.backend]
        return bound.probe(), device
    if reason := plugins.unusable(contestant.backend):
        return reason, device
    backend = plugins.backends[contestant.backend].backend
    if Feature.GRAD not in backend.features:
        return "it computes no gradient", device
    kind = device.partition(":")[0]
    accepted = {"*", kind} & backend.devices or (kind in _CPU_KINDS and "cpu" in backend.devices)
    return (None if accepted else f"it doesn't take arrays on {device}"), device


def prepare(contestant: Contestant, inputs: Inputs) -> Prepared:
    """Return ``(call, read)`` as in :mod:`ctcx.bench._implementations.peers`.

    Raises
    ------
    MissingError
        A peer is not installed.
    """
    if contestant.kind == "peer":
        return PREPARE[contestant.name](inputs)
    library = registry().namespaces[contestant.library].namespace
    device = load_target(library.devices)()[0]
    make = load_target(library.from_numpy)
    arrays = tuple(
        make(array, None, device)
        for array in (inputs.logits, inputs.labels, inputs.logit_lengths, inputs.label_lengths)
    )
    wait = load_target(library.synchronize) if library.synchronize else None
    if contestant.kind == "lower_bound":
        return _lower_bound_call(contestant, arrays, inputs.blank, wait), _read_nothing

    def both(*arrays: Any) -> tuple[Any, ...]:
        result = ctcx.ctc_loss_and_grad(*arrays, blank=inputs.blank, backend=contestant.backend)
        return result.loss, result.grad

    if contestant.jit:
        both = load_target(library.jit or "")(both)

    def call() -> tuple[Any, ...]:
        result = both(*arrays)
        if wait is not None:
            for array in result:
                wait(array)
        return result

    return call, _reader(library)


def _lower_bound_call(
    contestant: Contestant,
    arrays: tuple[Any, ...],
    blank: int,
    wait: Callable[[Any], None] | None,
) -> Callable[[], Any]:
    (bound,) = [bound for bound in registry().lower_bounds if bound.name == contestant.backend]
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
