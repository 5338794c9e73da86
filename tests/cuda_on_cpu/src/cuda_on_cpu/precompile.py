"""Compile the header that every kernel includes, once: ``python -m cuda_on_cpu.precompile``."""

from __future__ import annotations

import subprocess

from cuda_on_cpu.compiler import FLAGS, HEADERS, OPTIMISE

header = HEADERS / "cuda_on_cpu.h"
command = ["g++", *FLAGS, *OPTIMISE, "-x", "c++-header", header, "-o", f"{header}.gch"]
subprocess.run(command, check=True)
