"""What the compiler makes of the kernels: registers, spills, shared memory, instructions a frame.

Needs no GPU: NVRTC compiles, and NVIDIA's disassembler prints what it made. Both come from PyPI:
``pip install -r backends/cuda/static/requirements.txt``.
Another compiler gives other numbers, so the baseline names its version.

``python backends/cuda/static/static_analysis.py`` prints what differs from the baseline, and fails
if something got worse; ``--update`` writes a new baseline; ``--cubins FOLDER`` keeps the binaries.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from ctcx_cuda.variants import DTYPES, VARIANTS, Variant, options, source

__all__ = [
    "ADDED_BY_CUPY",
    "ARCHITECTURES",
    "BASELINE",
    "SAMPLED",
    "analyse",
    "compile_cubin",
    "complaints",
    "disassembled",
    "survey",
    "tool",
]

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
SAMPLED = "sm_90"
BASELINE = Path(__file__).with_name("baseline.json")
ADDED_BY_CUPY = ("-ftz=true",)
"""Flushes float32's subnormal numbers to 0. It comes last, so nothing before it can undo it."""
FRAME_MARKS = {
    "ctc_best_path": ("BAR", "", 1),
    "ctc_spreads": ("SHFL", ".BFLY", None),
    "ctc_best_classes": ("SHFL", ".BFLY", None),
}
"""What innermost loops over frames of these kernels have, and how many of it a frame. None where an
iteration is a frame: it has the code for up to 128 classes, and for what is left of them."""
TOLERANCE = 1.05
"""A compiler's choice moves instructions a frame by a few in a hundred; the rest is exact."""

_OPCODE = re.compile(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*)")
_LABEL = re.compile(r"\s*(\.L_x_\d+):")
_SECTION = re.compile(r"\s*\.section\s+\.text\.(\S+?),")
_RESOURCES = re.compile(r"Function (\S+):\s*\n\s*(.*)")


def _wheels() -> Path:
    spec = importlib.util.find_spec("nvidia")
    if spec is None or not spec.submodule_search_locations:
        msg = f"NVRTC is not installed; {__doc__}"
        raise ModuleNotFoundError(msg)
    return Path(spec.submodule_search_locations[0])


def _nvrtc() -> ctypes.CDLL:
    return ctypes.CDLL(str(next(_wheels().glob("**/libnvrtc.so.1*"))))


def tool(name: str) -> str:
    """Return the path of one of NVIDIA's programs."""
    return str(next(_wheels().glob(f"**/bin/{name}")))


def compiler_version() -> str:
    """Return NVRTC's version; the disassembler's doesn't change what it prints of a binary."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _nvrtc().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def compile_cubin(variant: Variant, dtype: str, architecture: str) -> bytes:
    """Compile a variant as CuPy would; a compiler's error or warning is raised in its words."""
    nvrtc = _nvrtc()
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), source(variant).encode(), b"ctcx.cu", 0, None, None
    )
    flags = [f"--gpu-architecture={architecture}", *options(variant, dtype), *ADDED_BY_CUPY]
    encoded = (ctypes.c_char_p * len(flags))(*[flag.encode() for flag in flags])
    failed = nvrtc.nvrtcCompileProgram(program, len(flags), encoded)
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    if failed or log.value.strip():
        msg = f"{variant.name}, {dtype}, {architecture}: {log.value.decode()}"
        raise RuntimeError(msg)
    nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
    cubin = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetCUBIN(program, cubin)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return cubin.raw


def _shown(cubin: bytes, program: str, option: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [tool(program), option, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def disassembled(cubin: bytes) -> str:
    """Return a binary's instructions, as text."""
    return _shown(cubin, "nvdisasm", "-c")


def analyse(cubin: bytes) -> dict[str, dict[str, Any]]:
    """Return each kernel's resources, and instructions a frame where its loop can be told."""
    resources = _shown(cubin, "cuobjdump", "--dump-resource-usage")
    code, labels = _parse(disassembled(cubin))
    found = {}
    for kernel, line in _RESOURCES.findall(resources):
        used = {key: int(value) for key, value in re.findall(r"(REG|STACK|SHARED):(\d+)", line)}
        spills = sum(name.startswith(("LDL", "STL")) for name, _ in code[kernel])
        found[kernel] = {
            "registers": used["REG"],
            "stack": used["STACK"],
            "shared": used["SHARED"],
            "spills": spills,
        }
        if a_frame := _instructions_a_frame(kernel, code[kernel], labels[kernel]):
            found[kernel]["instructions a frame"] = a_frame
        if in_flight := _loads_in_flight(code[kernel], labels[kernel]):
            found[kernel]["loads in flight"] = in_flight
    return found


def _parse(text: str) -> tuple[dict[str, list[tuple[str, str]]], dict[str, dict[str, int]]]:
    """Return instructions, and the labels' places among them, by kernel."""
    code: dict[str, list[tuple[str, str]]] = {}
    labels: dict[str, dict[str, int]] = {}
    kernel = ""
    for line in text.splitlines():
        if section := _SECTION.match(line):
            kernel = section[1]
            code[kernel], labels[kernel] = [], {}
        elif label := _LABEL.match(line):
            labels[kernel][label[1]] = len(code[kernel])
        elif kernel and (opcode := _OPCODE.match(line)):
            code[kernel].append((opcode[1], opcode[2]))
    return code, labels


def _loops(code: list[tuple[str, str]], labels: dict[str, int]) -> list[tuple[int, int]]:
    """Return the first and last instruction of each loop: what a branch leads back to."""
    loops = []
    for end, (name, argument) in enumerate(code):
        target = re.search(r"`\((\.L_x_\d+)\)", argument)
        if name.startswith("BRA") and target and labels.get(target[1], end) < end:
            loops.append((labels[target[1]], end))
    return loops


def _instructions_a_frame(
    kernel: str, code: list[tuple[str, str]], labels: dict[str, int]
) -> list[float]:
    """Return it for each loop over frames, the longest first.

    Such a loop has two shuffles a frame (of a mantissa and an exponent, upwards) and writes or
    reads global memory. To divide by them makes the number independent of unrolling. Loops of the
    kernels in ``FRAME_MARKS`` are told by something else.
    """
    start, part, a_frame = FRAME_MARKS.get(kernel, ("SHFL", ".UP", 2))
    found = {}
    for begin, end in _loops(code, labels):
        names = [name for name, _ in code[begin : end + 1]]
        if marks := sum(name.startswith(start) and part in name for name in names):
            found[begin, end] = round(len(names) * (a_frame / marks if a_frame else 1), 1)
    if kernel in FRAME_MARKS:
        found = {
            (begin, end): number
            for (begin, end), number in found.items()
            if not any(o != (begin, end) and begin <= o[0] and o[1] <= end for o in found)
        }
    numbers = sorted(found.values(), reverse=True)
    # Without marks to count, the others are jumps back within an iteration.
    return numbers if a_frame else numbers[:1]


def _loads_in_flight(code: list[tuple[str, str]], labels: dict[str, int]) -> int:
    """Return how many loads a thread has under way before it stores, in its best innermost loop.

    The instructions are counted from the head of the loop to its first store to global memory.
    """
    loops, most = _loops(code, labels), 0
    for begin, end in loops:
        if any((b, e) != (begin, end) and begin <= b and e <= end for b, e in loops):
            continue
        names = [name for name, _ in code[begin : end + 1]]
        stores = [i for i, name in enumerate(names) if name.startswith("STG")]
        if stores:
            most = max(most, sum(name.startswith("LDG") for name in names[: stores[0]]))
    return most


def _one(job: tuple[Variant, str, str, str]) -> tuple[str, dict[str, Any]]:
    variant, dtype, architecture, folder = job
    cubin = compile_cubin(variant, dtype, architecture)
    if folder:
        (Path(folder) / f"{variant.name}-{dtype}-{architecture}.cubin").write_bytes(cubin)
    return f"{variant.name} {dtype} {architecture}", analyse(cubin)


def survey(folder: str = "", *, sample: bool = False) -> dict[str, Any]:
    """Compile every variant for every dtype and architecture, and look at each kernel.

    A sample has float32 for every architecture, and the other dtypes for ``SAMPLED`` alone.
    """
    jobs = [
        (variant, dtype, architecture, folder)
        for variant in VARIANTS
        for dtype in DTYPES
        for architecture in ARCHITECTURES
        if not sample or dtype == "float32" or architecture == SAMPLED
    ]
    with ProcessPoolExecutor() as pool:
        return {"NVRTC": compiler_version(), "kernels": dict(pool.map(_one, jobs))}


def complaints(found: dict[str, Any], baseline: dict[str, Any]) -> list[str]:
    """Return what is worse than the baseline, or can't be compared with it."""
    if found["NVRTC"] != baseline["NVRTC"]:
        return [f"NVRTC {found['NVRTC']} compiled, the baseline is of {baseline['NVRTC']}"]
    worse = []
    if new := found["kernels"].keys() - baseline["kernels"].keys():
        worse.append(f"the baseline has no {', no '.join(sorted(new))}")
    for which, kernels in found["kernels"].items():
        known = baseline["kernels"].get(which, {})
        if kernels.keys() != known.keys():
            worse.append(f"{which}: kernels {sorted(kernels)}, in the baseline {sorted(known)}")
        for kernel, numbers in kernels.items():
            worse += _compare(f"{which} {kernel}", numbers, known.get(kernel, {}))
    return worse


def _compare(where: str, numbers: dict[str, Any], old: dict[str, Any]) -> list[str]:
    worse = []
    if numbers["spills"] or numbers["stack"]:
        worse.append(
            f"{where}: {numbers['spills']} spills, {numbers['stack']} bytes of stack; expected none"
        )
    worse += [
        f"{where}: {key} {numbers[key]}, in the baseline {old.get(key)}"
        for key in ("registers", "shared")
        if numbers[key] > old.get(key, 0)
    ]
    if numbers.get("loads in flight", 0) < old.get("loads in flight", 0):
        now, before = (n.get("loads in flight", 0) for n in (numbers, old))
        worse.append(f"{where}: loads in flight {now}, in the baseline {before}")
    before, now = (n.get("instructions a frame", []) for n in (old, numbers))
    if len(before) != len(now) or any(b > TOLERANCE * a for a, b in zip(before, now, strict=True)):
        worse.append(f"{where}: instructions a frame {now}, in the baseline {before}")
    return worse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true", help="write a new baseline")
    parser.add_argument("--cubins", default="", help="folder to keep the binaries in")
    arguments = parser.parse_args()
    found = survey(arguments.cubins)
    if arguments.update:
        BASELINE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return 0
    worse = complaints(found, json.loads(BASELINE.read_text(encoding="utf-8")))
    print("\n".join(worse) or f"{len(found['kernels'])} binaries as in the baseline or better")
    return bool(worse)


if __name__ == "__main__":
    sys.exit(main())
