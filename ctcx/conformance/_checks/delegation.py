"""Whether a backend computes by itself, or calls another one's kernels behind ctcx's back."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ctcx._plugins.backend import Feature
from ctcx._plugins.registry import registry
from ctcx.conformance._checks.registry import check
from ctcx.conformance._failures import CheckFailure, NotApplicable
from ctcx.data.batch import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from ctcx.conformance._subject import Subject

__all__ = ["check_computes_by_itself", "check_delegates", "raise_if_delegated"]


@check()
def check_computes_by_itself(subject: Subject) -> None:
    """No other backend's code runs during a call, publicly or privately.

    Every Python function that is entered meanwhile is looked at, in the thread of the call and in
    those it starts. What is compiled, or runs in a thread from before, isn't seen.
    """
    if subject.has(Feature.DELEGATES):
        msg = "it declares DELEGATES"
        raise NotApplicable(msg)
    if found := _others_code(subject):
        msg = (
            f"while backend {subject.backend!r} computed, code of other backends ran: "
            f"{', '.join(sorted(found)[:3])}. A kernel computes by itself, or its backend declares "
            f"Feature.DELEGATES"
        )
        raise CheckFailure(msg)


@check(requires={Feature.DELEGATES})
def check_delegates(subject: Subject) -> None:
    """A backend that declares DELEGATES does let another backend's kernels compute."""
    if not _others_code(subject):
        msg = (
            f"backend {subject.backend!r} declares Feature.DELEGATES, but no code of another "
            f"backend was seen to run: drop the feature"
        )
        raise CheckFailure(msg)


def _others_code(subject: Subject) -> set[str]:
    """Return the functions of other backends that run while losses are computed."""
    found = set()
    for grad in subject.with_and_without_grad:

        def call(batch: Batch, *, grad: bool = grad) -> None:
            for array in subject.call(subject.inputs(batch), grad=grad, blank=batch.blank):
                subject.numpy(array)  # which is when lazy ones are computed

        found |= _others_code_in(subject, call, frames=10 + grad)
    return found


def raise_if_delegated(subject: Subject, call: Callable[[Batch], object]) -> None:
    """Fail if code of other backends runs during ``call``, which computes an optional operation."""
    if subject.has(Feature.DELEGATES):
        msg = "it declares DELEGATES"
        raise NotApplicable(msg)
    if found := _others_code_in(subject, call):
        msg = f"code of other backends ran: {', '.join(sorted(found)[:3])}"
        raise CheckFailure(msg)


def _others_code_in(
    subject: Subject, call: Callable[[Batch], object], *, frames: int = 10
) -> set[str]:
    """Return the functions of other backends that run during ``call``, with their modules."""
    own = set(map(_package, subject.descriptor.kernels.values()))
    watched = {
        _package(target)
        for entry in registry().backends.values()
        for target in entry.backend.kernels.values()
    } - own
    found: set[str] = set()
    # What is imported on the first call is not what computes.
    call(_batch(frames))
    # Shapes of its own: a function that a library has compiled before isn't entered again.
    batch = _batch(frames + 2)
    with _profiled(watched, found):
        call(batch)
    return found


def _package(target: str) -> str:
    """Return what a kernel's module belongs to: its package, or itself if it is in none."""
    module = target.partition(":")[0]
    return module.rpartition(".")[0] or module


def _batch(num_frames: int) -> Batch:
    rng = np.random.default_rng(num_frames)
    return Batch(
        name="by itself",
        why="While it is computed, every function that is entered is looked at.",
        logits=rng.normal(size=(3, num_frames, 6)),
        labels=rng.integers(1, 6, size=(3, 3)),
        logit_lengths=np.array([num_frames, 7, 9]),
        label_lengths=np.array([3, 1, 2]),
        blank=0,
    )


@contextmanager
def _profiled(watched: set[str], found: set[str]) -> Iterator[None]:
    def look(frame: FrameType, event: str, argument: Any) -> None:  # noqa: ARG001
        if event != "call":
            return
        module = str(frame.f_globals.get("__name__", ""))
        if any(module == name or module.startswith(f"{name}.") for name in watched):
            found.add(f"{module}.{frame.f_code.co_name}")

    before = sys.getprofile()
    threading.setprofile(look)
    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(before)
        threading.setprofile(None)
