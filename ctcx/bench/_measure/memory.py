"""How much memory a call needs at its peak, and how fast this machine copies."""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ctcx._cores import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["copy_rate", "peak_growth"]

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def peak_growth(call: Callable[[], object]) -> int | None:
    """Return by how many bytes the resident memory of this process grows at the peak of a call.

    On Linux the kernel's own high-water mark, set back before the call. Elsewhere the mark can't be
    set back, so the growth is known only if the call exceeds all before it; else None.
    """
    gc.collect()
    _give_back()
    if _reset_mark():
        before = _from_status("VmRSS")
        call()
        return max(0, _from_status("VmHWM") - before)
    mark = _highest_ever()
    call()
    after = _highest_ever()
    return None if mark is None or after is None or after <= mark else after - mark


def _give_back() -> None:
    """Return freed memory to the system, where the C library can be told to (glibc).

    What the allocator keeps after an earlier call would not show as growth.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return


def _reset_mark() -> bool:
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return _STATUS.is_file()


def _from_status(field: str) -> int:
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    msg = f"{_STATUS} has no line {field}"
    raise RuntimeError(msg)


def _highest_ever() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    units = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * units


def copy_rate(size: int = 2**28) -> float:
    """Return the bytes a second, read and written, of a large copy: the best of five.

    With one thread, and with one for each core that may be used; the faster of both counts.
    ``size`` is in bytes, and well above any cache.
    """
    source = np.ones(size, dtype=np.uint8)
    target = np.empty_like(source)
    best = 0.0
    for threads in {1, usable_cores()}:
        parts = list(
            zip(np.array_split(target, threads), np.array_split(source, threads), strict=True)
        )
        with ThreadPoolExecutor(threads) as pool:
            for _ in range(5):
                begin = time.perf_counter()
                list(pool.map(lambda pair: np.copyto(*pair), parts))
                best = max(best, 2 * size / (time.perf_counter() - begin))
    return best
