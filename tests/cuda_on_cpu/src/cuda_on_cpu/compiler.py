"""CUDA C++ to a shared library, with g++: what stands in for NVRTC.

The fake NVRTC runs this file as a program, on a directory that holds the source, so it may import
nothing but the standard library.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

__all__ = ["FLAGS", "HEADERS", "HOME", "OPTIMISE", "SANITIZERS", "CompileError", "compile_to"]

# What setup.sh has put into the virtual environment.
HOME = Path(sys.executable).parents[1] / "cuda_on_cpu"

FLAGS = ("-std=c++17", "-fPIC", "-pthread", "-w", "-fvisibility=hidden", "-fno-gnu-unique")
HEADERS = HOME / "include"
# NVIDIA's headers, and the folder of CuPy's that they need: CuPy's own options come before it.
FLAGS += (f"-I{HEADERS / 'nvidia'}", "-idirafter", str(HEADERS / "libcudacxx"))
# The old way to find thread-local variables: the header defines the function that it calls.
FLAGS += ("-mtls-dialect=gnu", "-ftls-model=global-dynamic", "-DCUDA_ON_CPU")
OPTIMISE = ("-O1",)
SANITIZERS = {
    "": (),
    "thread": ("-g", "-fno-omit-frame-pointer", "-fsanitize=thread"),
    "address": ("-g", "-fno-omit-frame-pointer", "-fsanitize=address,bounds"),
}

_BOUNDS = r"__launch_bounds__\s*\((?P<bounds>(?:[^()]|\([^()]*\))*)\)"
_KERNEL = re.compile(
    rf'(?P<c>extern\s+"C"\s+)?__global__\s+(?:static\s+)?(?:{_BOUNDS}\s*)?void\s+'
    rf"(?:{_BOUNDS.replace('bounds>', 'later>')}\s*)?(?P<name>\w+)\s*\("
)
_DYNAMIC = re.compile(
    r"extern\s+__shared__\s+(?:__align__\s*\(\s*\w+\s*\)\s*|alignas\s*\(\s*\w+\s*\)\s*)?"
    r"(?P<type>[\w:]+(?:\s+(?:char|short|int|long))*(?:<[^;<>]*>)?)\s+"
    r"(?:__align__\s*\(\s*\w+\s*\)\s*)?(?P<name>\w+)\s*\[\s*\]\s*;"
)
_COMMENT = re.compile(r'//[^\n]*|/\*.*?\*/|("(?:\\.|[^"\\\n])*")', re.DOTALL)


class CompileError(RuntimeError):
    """The source is no valid C++; the message is the compiler's."""


def _without_comments(source: str) -> str:
    """The source with comments as blanks, so that every line and column stays."""

    def blank(match: re.Match[str]) -> str:
        return match[1] or re.sub(r"[^\n]", " ", match[0])

    return _COMMENT.sub(blank, source)


def _inside_c_linkage(source: str, position: int) -> bool:
    """Whether a position is inside of ``extern "C" { ... }``."""
    for opened in re.finditer(r'extern\s+"C"\s*\{', source[:position]):
        depth = 1
        for char in source[opened.end() : position]:
            depth += (char == "{") - (char == "}")
            if depth == 0:
                break
        if depth:
            return True
    return False


def _kernels(source: str) -> dict[str, str]:
    """Kernels with C linkage: name, and what its launch bounds say."""
    found = {}
    for match in _KERNEL.finditer(source):
        if match["c"] or _inside_c_linkage(source, match.start()):
            found[match["name"]] = match["bounds"] or match["later"] or ""
    return found


def _dynamic_shared(source: str) -> str:
    """Let ``extern __shared__`` arrays point to the block's dynamic shared memory."""

    def declare(match: re.Match[str]) -> str:
        before = source[: match.start()]
        if before.count("{") == before.count("}"):  # outside of any function
            return f"static const coc::DynamicShared<{match['type']}> {match['name']};"
        kind, name = match["type"], match["name"]
        return f"{kind}* const {name} = reinterpret_cast<{kind}*>(coc_grid.dynamic_shared);"

    return _DYNAMIC.sub(declare, source)


_DEFINE = re.compile(r"(?:-D|--define-macro=)\s*(\w+(?:\([^)]*\))?)(?:=(.*))?$")
_INCLUDE = re.compile(r"(?:-I|--include-path=)\s*(.+)$")


def _defines(options: list[str]) -> str:
    """``-D`` options as lines, after the harness's own header, which they must not change."""
    found = filter(None, map(_DEFINE.match, options))
    return "".join(
        f"#define {match[1]} {'1' if match[2] is None else match[2]}\n" for match in found
    )


def _includes(options: list[str]) -> list[str]:
    return [f"-I{match[1]}" for match in filter(None, map(_INCLUDE.match, options))]


def _compiler() -> list[str]:
    return [os.environ.get("CXX", "g++"), *FLAGS]


def _active_kernels(source: str, defines: str, includes: list[str], directory: Path) -> set[str]:
    """Names of the kernels that the preprocessor leaves in, with those that it makes."""
    path = directory / "preprocess.cpp"
    path.write_text(f"#define __CUDA_ON_CPU__ 1\n{defines}{source}", encoding="utf-8")
    command = [*_compiler(), "-E", *includes, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise CompileError(result.stderr)
    # NVIDIA's headers define __global__ away as they are included, so the names alone must do.
    return set(re.findall(r"\w+", result.stdout))


def compile_to(
    output: Path,
    source: str,
    *,
    options: list[str],
    expressions: list[str],
    directory: Path,
    name: str = "kernel.cu",
    sanitizer: str = "",
) -> str:
    """Compile a module.

    Parameters
    ----------
    output : Path
        The library to write.
    source : str
        CUDA C++.
    options : list of str
        NVRTC's; ``-D`` and ``-I`` count, the others are ignored.
    expressions : list of str
        Name expressions; the i-th kernel is exported as ``expression_i``.
    directory : Path
        For intermediate files; a folder ``headers`` in it is searched for includes.
    name : str
        What the source is called in messages.
    sanitizer : {"", "thread", "address"}
        What to instrument for.

    Returns
    -------
    str
        What the compiler said.

    Raises
    ------
    CompileError
        The compiler refused.
    """
    plain = _without_comments(source)
    includes = [f"-I{directory / 'headers'}", *_includes(options)]
    defines = _defines(options)
    kernels = _kernels(plain)
    if "#if" in plain.replace(" ", "") and kernels:
        active = _active_kernels(plain, defines, includes, directory)
        kernels = {kernel: bounds for kernel, bounds in kernels.items() if kernel in active}
    exports = [
        f"COC_EXPORT({kernel}, coc::max_threads({bounds}), {kernel})\n"
        for kernel, bounds in kernels.items()
    ]
    exports += [
        f"COC_EXPORT(expression_{index}, coc::max_threads(), {expression})\n"
        for index, expression in enumerate(expressions)
    ]
    path = directory / "module.cpp"
    text = f'{defines}#line 1 "{name}"\n{_dynamic_shared(plain)}\n#line 1 "exports"\n'
    path.write_text(text + "".join(exports), encoding="utf-8")
    command = [
        *_compiler(),
        *OPTIMISE,
        *SANITIZERS[sanitizer],
        *("-include", str(HEADERS / "cuda_on_cpu.h")),
        *includes,
        *("-shared", str(path), "-o", str(output)),
        str(HOME / "libcuda.so.1"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    log = result.stdout + result.stderr
    if result.returncode:
        raise CompileError(log)
    return log


def _main(directory: Path) -> int:
    """Do what the fake NVRTC asks for in a directory."""
    lines = {
        part: (directory / part).read_text(encoding="utf-8").splitlines()
        for part in ("options", "expressions")
    }
    try:
        log = compile_to(
            directory / "module.so",
            (directory / "source.cu").read_text(encoding="utf-8"),
            options=lines["options"],
            expressions=lines["expressions"],
            directory=directory,
            name=(directory / "name").read_text(encoding="utf-8"),
            sanitizer=os.environ.get("CUDA_ON_CPU_SANITIZE", ""),
        )
    except CompileError as error:
        log = str(error)
        return 1
    finally:
        (directory / "log").write_text(log, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1])))
