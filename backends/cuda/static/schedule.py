"""Cycles a frame in a static schedule: ``python backends/cuda/static/schedule.py``.

cuxray adds up what each instruction issues and stalls, as the compiler wrote it into the binary.
Waits for memory and for shuffles are left out, so this ranks kernels and says no time.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from ctcx_cuda.variants import IN_REGISTERS, Variant
from static_analysis import compile_cubin, tool

__all__ = ["LIMITS", "cycles_a_frame"]

LIMITS = {"labels-31": 75, "labels-143": 75, "labels-539": 130}
"""The most that alpha or beta may take, for float32 on sm_90."""


def cycles_a_frame(variant: Variant) -> list[float]:
    """Return cycles of alpha's and of beta's loop over groups of frames, the larger first."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        cubin.write_bytes(compile_cubin(variant, "float32", "sm_90"))
        # It would look for a disassembler on the network otherwise.
        path = os.pathsep.join([str(Path(tool("nvdisasm")).parent), os.environ["PATH"]])
        command = [sys.executable, "-m", "cuxray", "sched", str(cubin)]
        result = subprocess.run(
            command, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=True
        )
    part = result.stdout.split("ctc_paths", 1)[1].split("ctc_rows", 1)[0]
    loops = sorted(map(int, re.findall(r"(\d+) issue\+stall", part)), reverse=True)
    return [round(loop / variant.group, 1) for loop in loops[:2]]


if __name__ == "__main__":
    for chosen in IN_REGISTERS:
        print(f"{chosen.name:12}", *cycles_a_frame(chosen), "limit", LIMITS[chosen.name])
