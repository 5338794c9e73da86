"""Kernels without CuPy: compiled by g++, launched on arrays of NumPy."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cuda_on_cpu.compiler import HEADERS, compile_to
from cuda_on_cpu.device import last_failure
from cuda_on_cpu.environment import cache_folder
from cuda_on_cpu.library import library

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Kernel", "KernelError", "Module"]

_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES


class KernelError(RuntimeError):
    """A module can't be loaded, or a launch failed; the message says why."""


class Module:
    """A module of kernels.

    Parameters
    ----------
    source : str
        CUDA C++.
    options : sequence of str
        ``-D`` and ``-I``, as for :class:`cupy.RawModule`.
    name_expressions : sequence of str
        Kernels that are templates, such as ``"alpha<float, 64>"``.
    sanitizer : {"", "thread", "address"}, optional
        What to instrument for; default: the one that this process runs under.

    Raises
    ------
    CompileError
        The compiler refused.
    """

    def __init__(
        self,
        source: str,
        options: Sequence[str] = (),
        name_expressions: Sequence[str] = (),
        sanitizer: str | None = None,
    ) -> None:
        if sanitizer is None:
            sanitizer = os.environ.get("CUDA_ON_CPU_SANITIZE", "")
        self._names = {name: f"expression_{i}" for i, name in enumerate(name_expressions)}
        key = repr((source, tuple(options), tuple(name_expressions), sanitizer, str(HEADERS)))
        path = cache_folder() / "direct" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.so"
        if not path.exists():
            _compile(path, source, list(options), list(name_expressions), sanitizer)
        self._module = ctypes.c_void_p()
        _check(library().cuModuleLoad(ctypes.byref(self._module), str(path).encode()))

    def get_function(self, name: str) -> Kernel:
        """The kernel of this name, or of this name expression."""
        function = ctypes.c_void_p()
        symbol = self._names.get(name, name)
        _check(library().cuModuleGetFunction(ctypes.byref(function), self._module, symbol.encode()))
        return Kernel(function)


class Kernel:
    """A kernel, called as one of CuPy is: with grid, block and arguments."""

    def __init__(self, function: ctypes.c_void_p) -> None:
        self._function = function

    def __call__(
        self,
        grid: Sequence[int],
        block: Sequence[int],
        arguments: Sequence[Any],
        shared_mem: int = 0,
    ) -> None:
        """Launch, and wait.

        Parameters
        ----------
        grid, block : sequence of int
            One to three sizes each.
        arguments : sequence
            NumPy arrays for pointers, None for a null pointer, NumPy scalars of the very type that
            the kernel takes.
        shared_mem : int
            Bytes of dynamic shared memory; more than 48 KiB are asked for by themselves.

        Raises
        ------
        KernelError
            A bad shape, or something that must not happen happened in the kernel.
        """
        import numpy as np

        kept = []
        for argument in arguments:
            if argument is None or isinstance(argument, np.ndarray):
                kept.append(ctypes.c_void_p(None if argument is None else argument.ctypes.data))
            elif isinstance(argument, np.generic):
                kept.append(ctypes.create_string_buffer(argument.tobytes(), argument.itemsize))
            else:
                msg = f"arguments are NumPy arrays and scalars, got {type(argument).__name__}"
                raise TypeError(msg)
        pointers = (ctypes.c_void_p * len(kept))(*map(ctypes.addressof, kept))
        shape = [*grid, *[1] * (3 - len(grid)), *block, *[1] * (3 - len(block))]
        if shared_mem > 48 << 10:
            _check(library().cuFuncSetAttribute(self._function, _MAX_DYNAMIC_SHARED, shared_mem))
        _check(
            library().coc_launch_on_host(
                self._function, (ctypes.c_uint * 6)(*shape), shared_mem, pointers
            )
        )


def _compile(
    path: Path, source: str, options: list[str], expressions: list[str], sanitizer: str
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "module.so"
        compile_to(
            made,
            source,
            options=options,
            expressions=expressions,
            directory=Path(folder),
            sanitizer=sanitizer,
        )
        # Another process may be making the same one: each moves a whole file into place.
        half = path.with_name(f"{path.name}.{os.getpid()}")
        shutil.copy(made, half)
        half.replace(path)


def _check(error: int) -> None:
    if error:
        raise KernelError(last_failure() or f"error {error}")
