"""``python -m ctcx_numba warmup``: compile the kernels, so that no later call has to wait."""

from __future__ import annotations

import argparse
import sys
import time

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Compile; exit code 1 if the result can't be kept on disk."""
    parser = argparse.ArgumentParser(prog="python -m ctcx_numba", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    warmup = commands.add_parser("warmup", help="compile all kernels and keep them on disk")
    warmup.add_argument(
        "--dtype",
        choices=("float32", "float64"),
        action="append",
        help="only for this dtype (float16 and bfloat16 compute in float32)",
    )
    options = parser.parse_args(arguments)

    from ctcx_numba._cache import reasons_not_kept
    from ctcx_numba._compiled import cache_folder, compile_all

    begin = time.perf_counter()
    for name in compile_all(tuple(options.dtype or ("float32", "float64"))):
        print(f"{time.perf_counter() - begin:6.1f} s  {name}")
    folder = cache_folder()
    if folder is None:
        print(
            "compiled, but there is no folder to keep the result in: set NUMBA_CACHE_DIR to one "
            "that can be written to",
            file=sys.stderr,
        )
        return 1
    if reasons := reasons_not_kept():
        print(
            f"compiled, but {len(reasons)} of the results can't be kept in {folder}: {reasons[0]}; "
            "make room there, or set NUMBA_CACHE_DIR to another folder",
            file=sys.stderr,
        )
        return 1
    print(f"kept in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
