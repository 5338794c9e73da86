"""Memory and C functions by their addresses, for compiled code that C calls."""

from __future__ import annotations

import mmap
import os
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from ctcx_numba._jit import part
from ctcx_numba._simd import pointer, pointer_to

__all__ = [
    "add",
    "allocate",
    "ask_for_huge_pages",
    "call_at",
    "free",
    "function_named",
    "half_words",
    "integers_at",
    "keep",
    "like",
    "numbers_at",
    "words",
    "yield_processor",
]

allocate = types.ExternalFunction("malloc", types.intp(types.uintp))
free = types.ExternalFunction("free", types.void(types.intp))
yield_processor = types.ExternalFunction(
    "SwitchToThread" if os.name == "nt" else "sched_yield", types.int32()
)

_HUGE_PAGE = 2**21
_ADVICE = getattr(mmap, "MADV_HUGEPAGE", None)
_advise = types.ExternalFunction("madvise", types.int32(types.intp, types.uintp, types.int32))

if _ADVICE is None:

    @part
    def ask_for_huge_pages(address, size):
        """Do nothing: this system has none that a program could ask for."""

else:

    @part
    def ask_for_huge_pages(address, size):
        """Ask the system to map memory that nobody has used yet in huge pages.

        Else it maps and zeroes page by page, on first touch, which for a large result takes longer
        than computing it.
        """
        first = (address + _HUGE_PAGE - 1) // _HUGE_PAGE * _HUGE_PAGE
        last = (address + size) // _HUGE_PAGE * _HUGE_PAGE
        if last > first:
            _advise(first, last - first, _ADVICE)


@intrinsic
def words(_: Any, address: Any) -> Any:
    """Pointer to the int64 at an address."""

    def emit(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.IntType(64).as_pointer())

    return types.CPointer(types.int64)(types.intp), emit


@intrinsic
def half_words(_: Any, address: Any) -> Any:
    """Pointer to the int32 at an address."""

    def emit(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.IntType(32).as_pointer())

    return types.CPointer(types.int32)(types.intp), emit


@intrinsic
def add(_: Any, counter: Any, number: Any) -> Any:
    """Value of an int64 in memory, which is ``number`` more afterwards.

    What other threads did before it is seen after it, unlike with
    :func:`ctcx_numba._simd.take_number`.
    """

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        more = context.cast(builder, args[1], sig.args[1], types.int64)
        return builder.atomic_rmw("add", args[0], more, "seq_cst")

    return types.int64(counter, number), emit


@intrinsic
def call_at(_: Any, address: Any, argument: Any) -> Any:
    """Call the C function at an address, which takes an address and returns one."""

    def emit(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        word = ir.IntType(64)
        kind = ir.FunctionType(word, [word]).as_pointer()
        return builder.call(builder.inttoptr(args[0], kind), [args[1]])

    return types.intp(types.intp, types.intp), emit


@intrinsic
def keep(_: Any, arrays: Any) -> Any:
    """Do nothing. An array is freed after its last use; an address of it is no use."""

    def emit(context: Any, _builder: Any, _sig: Any, _args: Any) -> Any:
        return context.get_dummy_value()

    return types.none(arrays), emit


def function_named(symbol: str) -> Any:
    """Define a function: the address of the C function of that name.

    Code that is kept on disk must not hold the address itself.
    """

    def define(_: Any) -> Any:
        def emit(_context: Any, builder: Any, _sig: Any, _args: Any) -> Any:
            kind = ir.FunctionType(ir.IntType(64), [ir.IntType(64)])
            function = cgutils.get_or_insert_function(builder.module, kind, symbol)
            return builder.ptrtoint(function, ir.IntType(64))

        return types.intp(), emit

    define.__name__ = symbol
    return intrinsic(define)


@part
def like(kind):
    """Pointer to numbers of a dtype; to no memory that there is."""
    return pointer(np.empty(1, kind))


@part
def numbers_at(address, shape, kind):
    """Array of that shape and dtype at an address."""
    return carray(pointer_to(address, like(kind)), shape)


@part
def integers_at(address, size, shape, steps):
    """Copy, as int64, of integers of ``size`` bytes, 4 or 8, at an address.

    ``shape`` is of two axes, and ``steps`` the elements from one to the next along each. Each is
    read once.
    """
    narrow, wide = half_words(address), words(address)
    array = np.empty(shape, np.int64)
    for n in range(shape[0]):
        for i in range(shape[1]):
            at = n * steps[0] + i * steps[1]
            array[n, i] = narrow[at] if size == 4 else wide[at]
    return array
