"""Time alignments beside the textbook's recursion, calls interleaved, one thread each.

    python -m benchmarks.alignments [--rounds 20]

Needs Numba, and ctcx-cpu for its figures. The least CPU time of each call counts: compare times of
one run only. Then a batch is shared out, by ctcx-cpu to two threads and by the caller to two
processes: that is wall time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import ctcx
from benchmarks.textbook import numpy_viterbi, problem, viterbi
from ctcx.plugin import load_kernel

if TYPE_CHECKING:
    from collections.abc import Callable


def kernels() -> dict[str, Callable[..., Any]]:
    """Functions of logits, labels and a number of threads that find states (N, T)."""
    core = load_kernel("array-api", "align")

    found: dict[str, Callable[..., Any]] = {
        "textbook, compiled": lambda x, y, *_: viterbi(x, y)[0],
        "loop over NumPy rows": lambda x, y, *_: numpy_viterbi(x, y)[0],
        "core on NumPy": lambda x, y, *_: core(x, *full(x, y), blank=0, extra=None, ends=(0, 0))[0],
    }
    if any(one.name == "cpu" and one.status == "available" for one in ctcx.backends()):
        from ctcx_cpu.kernels import align

        def on_cpu(x: Any, y: Any, threads: int = 1) -> Any:
            more = {"blank": 0, "extra": None, "ends": (0, 0), "num_threads": threads}
            return align(x, *full(x, y), **more)[0]

        found["ctcx-cpu"] = on_cpu
    return found


def full(x: Any, y: Any) -> tuple[Any, Any, Any]:
    """Labels, and lengths of which all counts."""
    return y, np.full(len(x), x.shape[1]), np.full(len(y), y.shape[1])


def work(pipe: Any, shape: tuple[int, int, int, int]) -> None:
    """Align half a batch each time that it is asked for."""
    align, given = kernels()["ctcx-cpu"], problem(*shape)
    align(*given)
    pipe.send(None)
    while pipe.recv():
        align(*given)
        pipe.send(None)


def compare_threads(shape: tuple[int, int, int, int], rounds: int) -> None:
    """Print what two threads reach of the speed of two processes."""
    n, *rest = shape
    context, pipes, workers = multiprocessing.get_context("spawn"), [], []
    for _ in range(2):
        ours, theirs = context.Pipe()
        worker = context.Process(target=work, args=(theirs, (n // 2, *rest)), daemon=True)
        worker.start()
        pipes.append(ours), workers.append(worker)
        ours.recv()
    align, given = kernels()["ctcx-cpu"], problem(*shape)

    def in_processes() -> None:
        for pipe in pipes:
            pipe.send(1)
        for pipe in pipes:
            pipe.recv()

    calls = {
        "one thread": partial(align, *given),
        "two threads": partial(align, *given, 2),
        "two processes": in_processes,
    }
    least = interleaved(calls, rounds, time.perf_counter)
    for pipe, worker in zip(pipes, workers, strict=True):
        pipe.send(0)
        worker.join()
    print(f"\n{shape}: " + ", ".join(f"{name} {1e3 * t:.1f} ms" for name, t in least.items()))
    print(f"two threads: {least['two processes'] / least['two threads']:.2f} of two processes")


def interleaved(
    calls: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Return the least time of each call by a clock."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = clock()
            call()
            times[name].append(clock() - start)
    return {name: min(of_one) for name, of_one in times.items()}


def main() -> None:
    """Print milliseconds, and how many times as long as the fastest each takes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    for shape in (32, 400, 32, 60), (1, 20_000, 32, 2_000):
        x, y = problem(*shape)
        calls = {name: partial(kernel, x, y) for name, kernel in kernels().items()}
        right = calls["core on NumPy"]()
        for name, call in calls.items():
            if (call() != right).any():
                msg = f"{name} finds another path"
                raise SystemExit(msg)
        least = interleaved(calls, rounds, time.process_time)
        print(shape)
        for name, duration in sorted(least.items(), key=lambda item: item[1]):
            print(f"  {name:22} {1e3 * duration:9.2f} ms {duration / min(least.values()):8.1f}")
    if "ctcx-cpu" in kernels():
        compare_threads((512, 400, 32, 60), rounds)


if __name__ == "__main__":
    main()
