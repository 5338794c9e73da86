"""Compile the kernels ahead of time: ``python -m ctcx_cuda warmup``.

CuPy keeps what it compiles in its own cache (``CUPY_CACHE_DIR``, by default in the home folder),
for the GPU at hand and its own version.
"""

from __future__ import annotations

import argparse
import sys
import time

from ctcx_cuda import STATUS
from ctcx_cuda._probe import probe
from ctcx_cuda.variants import DTYPES, VARIANTS

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m ctcx_cuda", description=f"CUDA kernels for ctcx, {STATUS}."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    warmup = commands.add_parser("warmup", help="compile the kernels into CuPy's cache")
    warmup.add_argument(
        "--dtype",
        choices=[*DTYPES],
        action="append",
        help="of the logits; may be given several times (default: all of them)",
    )
    given = parser.parse_args(arguments)
    if reason := probe():
        print(f"ctcx-cuda can't be used here: {reason}", file=sys.stderr)
        return 1
    _warm_up(given.dtype or [*DTYPES])
    return 0


def _warm_up(dtypes: list[str]) -> None:
    from ctcx_cuda.launch import module

    for variant in VARIANTS:
        for dtype in dtypes:
            begin = time.perf_counter()
            for kernel in variant.kernels:
                module(variant, dtype).get_function(kernel)
            print(f"{variant.name:12} {dtype:9} {time.perf_counter() - begin:6.2f} s")


if __name__ == "__main__":
    sys.exit(main())
