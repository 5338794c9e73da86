"""What CuPy reads from the environment, set as Python starts: imported by the ``.pth`` file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from cuda_on_cpu.compiler import HOME

__all__ = ["cache_folder", "prepare"]


def cache_folder() -> Path:
    """Folder for compiled kernels: another one for each sanitizer, header and compiler script.

    CuPy's own cache doesn't know of them, and must never hold what this harness compiles.
    """
    digest = hashlib.sha256()
    for path in sorted((HOME / "include").glob("*.h")):
        digest.update(path.read_bytes())
    digest.update((Path(__file__).parent / "compiler.py").read_bytes())
    sanitizer = os.environ.get("CUDA_ON_CPU_SANITIZE") or "plain"
    return HOME / "cache" / f"{sanitizer}-{digest.hexdigest()[:12]}"


def prepare() -> None:
    """Set the variables, unless they are set."""
    os.environ.setdefault("CUPY_CACHE_DIR", str(cache_folder() / "cupy"))
    # Reductions by CUB are compiled by nvcc into CuPy, for a real GPU.
    os.environ.setdefault("CUPY_ACCELERATORS", "")


prepare()
