"""Time ctcx-cpu's occupancies beside its loss and gradient, calls interleaved, in one thread.

    python -m benchmarks.occupancies [--rounds 20]

Needs ctcx-cpu, and Numba. The least CPU time of each call counts.
"""

from __future__ import annotations

import argparse
import time
from functools import partial

from benchmarks.alignments import full, interleaved
from benchmarks.textbook import problem

SHAPES = {
    "warpctc-28": (64, 150, 28, 40),
    "asr-char": (32, 400, 32, 60),
    "asr-bpe": (16, 500, 1024, 80),
    "warpctc-5k": (64, 150, 5000, 20),
    "long": (1, 20_000, 32, 2_000),
    "long and wide": (1, 8_000, 2_000, 100),
}


def main() -> None:
    """Print milliseconds of loss and gradient, and how many times as long the occupancies take."""
    from ctcx_cpu.kernels import loss_and_grad, occupancies

    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    for name, shape in SHAPES.items():
        x, y = problem(*shape)
        given, options = (x, *full(x, y)), {"blank": 0, "num_threads": 1}
        calls = {
            "loss and gradient": partial(loss_and_grad, *given, **options),
            "classes": partial(occupancies, *given, **options, states=False),
            "states": partial(occupancies, *given, **options, states=True),
        }
        for call in calls.values():
            call()
        least = interleaved(calls, rounds, time.process_time)
        usual = least["loss and gradient"]
        ratios = ", ".join(f"{each} {least[each] / usual:.2f}" for each in ("classes", "states"))
        print(f"{name} {shape}: loss and gradient {1e3 * usual:.2f} ms; times as long: {ratios}")


if __name__ == "__main__":
    main()
