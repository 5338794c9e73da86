"""What of this machine decides how fast the kernels are, in lines for people."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ctcx.plugin import usable_cores
from ctcx_numba._memory import has_huge_pages
from ctcx_numba._threads import VARIABLE, number_of_threads

__all__ = ["runtime_info"]

_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def runtime_info() -> dict[str, str]:
    """Lines for ``ctcx doctor`` and the header of a benchmark, which leaves out the folder."""
    from ctcx_numba._compiled import cache_folder

    folder = cache_folder()
    return {
        "ctcx-numba threads": _threads(),
        "ctcx-numba kernels": _kernels(),
        **({"ctcx-numba folder": str(folder)} if folder else {}),
        "huge pages": _huge_pages(),
    }


def _threads() -> str:
    try:
        threads = number_of_threads()
    except ValueError as error:
        return str(error)
    source = f" (by {VARIABLE})" if os.environ.get(VARIABLE, "").strip() else ""
    return f"{threads}{source}; {usable_cores()} cores may be used"


def _kernels() -> str:
    from ctcx_numba._compiled import cache_folder, damaged, variants_on_disk

    if cache_folder() is None:
        return "compiled anew in each process: no folder to keep them in (set NUMBA_CACHE_DIR)"
    if files := damaged():
        return (
            f"{len(files)} damaged files, such as {files[0]}: compiled anew when they are needed; "
            "`python -m ctcx_numba warmup` does it now"
        )
    count = variants_on_disk()
    if count == 2:
        return "compiled"
    return f"compiled for {count} of 2 dtypes: `python -m ctcx_numba warmup` does the rest"


def _huge_pages(setting: Path = _HUGE_PAGES) -> str:
    slow = "gradients of many classes take up to five times as long"
    if not has_huge_pages():
        return f"this system has none to ask for: {slow}"
    try:
        chosen = re.search(r"\[(\w+)\]", setting.read_text(encoding="ascii"))
    except OSError:
        return "unknown"
    state = chosen[1] if chosen else "unknown"
    return f"off ({setting} says never): {slow}" if state == "never" else f"on ({state})"
