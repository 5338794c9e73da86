"""The process of one implementation, or of all: it answers each order, a line of JSON, in one.

Run as ``python -m ctcx.bench._measure.worker IMPLEMENTATIONS``. It ends when its standard input
does, so it never outlives the one that gives the orders. Standard error gets what libraries print.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctcx._errors import BackendRejectedError, one_line
from ctcx._peers import MissingError
from ctcx.bench._implementations.registered import Implementation
from ctcx.bench._measure.accuracy import WorkloadReference, errors, wrong
from ctcx.bench._measure.memory import copy_rate, peak_growth
from ctcx.bench._measure.timed_call import prepare, unusable
from ctcx.data.batch import Batch

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Worker", "main"]

_SHORT = 1e-3
"""A round takes at least so many seconds: calls shorter than that are repeated in it."""

_REST = 2e-3
_LONGEST_REST = 0.5


class Worker:
    """The work of one process for one implementation, or for all of them."""

    def __init__(self, implementations: list[Implementation]) -> None:
        self._implementations = {one.name: one for one in implementations}
        self._devices: dict[str, str] = {}
        self._calls: dict[str, Callable[[], Any]] = {}

    def prepare(self, implementation: str, inputs: str, truth: str, memory: bool) -> dict[str, Any]:  # noqa: FBT001 - a field of the order
        """Call once, check the result, and find out how long a call takes.

        Returns
        -------
        dict
            Either ``reason``, and ``verdict``: ``"skipped"`` (if ``everywhere``, then so with every
            batch), ``"failed"`` or ``"wrong"``; or
            ``first`` and ``steady`` in seconds, ``iterations`` in a round, ``durations`` of rounds,
            ``peak`` in bytes.
        """
        one = self._implementations[implementation]
        batch = Batch.load(Path(inputs))
        try:
            reason, self._devices[implementation] = unusable(one)
            if reason:
                return {"verdict": "skipped", "reason": reason, "everywhere": True}
            begin = time.perf_counter()
            call, read = prepare(one, batch)
            ready = time.perf_counter()
            result = call()
            first = time.perf_counter() - ready
        except MissingError as error:
            return {"verdict": "skipped", "reason": str(error), "everywhere": True}
        except BackendRejectedError as error:
            return {"verdict": "skipped", "reason": str(error).partition("\n")[0]}
        except Exception as error:  # noqa: BLE001 - a kernel may raise anything
            return {"verdict": "failed", "reason": one_line(error)}
        answer: dict[str, Any] = {"first": first, "upload": ready - begin}
        if one.kind != "lower_bound":
            try:
                found = errors(batch, WorkloadReference.load(Path(truth)), *read(result))
            except Exception as error:  # noqa: BLE001 - a result may be anything
                return {"verdict": "wrong", "reason": one_line(error)}
            answer |= found.as_dict()
            if reason := wrong(one.kind, found):
                return answer | {"verdict": "wrong", "reason": reason}
        del result, batch
        try:
            begin = time.perf_counter()
            growth = peak_growth(call)
            second = time.perf_counter() - begin
            # The second call may still allocate or compile; a third is cheap where it matters.
            steady = second if second > 1.0 else _timed(call, 1)
            iterations = min(1000, max(1, math.ceil(_SHORT / max(steady, 1e-7))))
            # The first round, in case that there is no time for more.
            durations = [steady] if iterations == 1 else [_timed(call, iterations)]
        except Exception as error:  # noqa: BLE001 - a kernel may raise anything
            return {"verdict": "failed", "reason": one_line(error)}
        self._calls[implementation] = call
        on_cpu = self._devices.get(implementation, "cpu").lower().startswith("cpu")
        return answer | {
            "steady": steady,
            "iterations": iterations,
            "durations": durations,
            "peak": growth if memory and on_cpu else None,
            "device": self._devices.get(implementation, "cpu"),
        }

    def turn(self, implementation: str, rounds: int, iterations: int, rest: bool) -> dict[str, Any]:  # noqa: FBT001 - a field of the order
        """Time some rounds; then, if asked, wait until this process has come to rest."""
        call = self._calls[implementation]
        gc.collect()  # once a turn: it takes long where large libraries are loaded
        try:
            durations = [_timed(call, iterations) for _ in range(rounds)]
        except Exception as error:  # noqa: BLE001 - a kernel may raise anything
            del self._calls[implementation]
            return {"verdict": "failed", "reason": one_line(error)}
        if rest:
            _come_to_rest()
        return {"durations": durations}

    def release(self) -> dict[str, Any]:
        """Forget the batch."""
        self._calls.clear()
        gc.collect()
        return {}

    def copy(self) -> dict[str, Any]:
        """Measure how fast this machine copies, in bytes a second."""
        return {"rate": copy_rate()}

    def facts(self) -> dict[str, Any]:
        """Tell what runs here: versions and threads, as plugins and libraries say."""
        from ctcx._plugins.registry import registry

        lines = registry().runtime_info()
        if torch := sys.modules.get("torch"):
            lines["torch threads"] = str(torch.get_num_threads())
        return {"lines": lines, "modules": sorted({m.partition(".")[0] for m in sys.modules})}


def _timed(call: Callable[[], Any], iterations: int) -> float:
    """Return the seconds that so many calls take together."""
    gc.disable()
    try:
        begin = time.perf_counter()
        for _ in range(iterations):
            call()
        return time.perf_counter() - begin
    finally:
        gc.enable()


def _come_to_rest() -> None:
    """Wait until no thread of this process computes.

    Threads that wait for their next work by spinning would cost the next implementation a core.
    """
    end = time.perf_counter() + _LONGEST_REST
    while time.perf_counter() < end:
        used = time.process_time()
        begin = time.perf_counter()
        time.sleep(_REST)
        if time.process_time() - used < 0.2 * (time.perf_counter() - begin):
            return


def main() -> None:
    """Answer orders until there are no more."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    faulthandler.enable()
    worker = Worker([Implementation.from_dict(one) for one in json.loads(sys.argv[1])])
    answers.write("{}\n")  # ready
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = getattr(worker, order.pop("do"))(**order)
        except Exception as error:  # noqa: BLE001 - the next order may still be possible
            answer = {"verdict": "failed", "reason": one_line(error)}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
