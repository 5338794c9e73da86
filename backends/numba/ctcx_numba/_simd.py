"""Vectors of 64 bytes as Numba values: 16 float32 or int32, 8 float64 or int64.

Numba has no vector type, and LLVM's vectoriser gives up on the recursion: it can't prove that the
dozen rows which a step reads and writes are distinct, and it makes a loop of the remainders. So the
hot loops are written with vectors. LLVM cuts them to what the host has: one register with AVX-512,
two with AVX2, four with Arm's NEON. Nothing here names an instruction.

A vector supports ``+``, ``-`` and ``*`` with a vector or a number of its kind. All else is a
function of this module. Memory is reached through typed pointers (:func:`pointer`), which Numba
neither counts references of nor wraps negative indices for.
"""

from __future__ import annotations

import math
import operator
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model

__all__ = [
    "above",
    "any_positive",
    "bits",
    "constant",
    "exp2_fraction",
    "exponent",
    "fma",
    "gather",
    "greater",
    "highest",
    "lanes",
    "least",
    "load",
    "load_some",
    "lowest",
    "mantissa",
    "most",
    "next_lanes",
    "pointer",
    "pointer_to",
    "power_of_two",
    "precise_total",
    "previous_lanes",
    "rounded",
    "shifted_to_exponent",
    "smaller",
    "splat",
    "store",
    "store_some",
    "take_number",
    "total",
]

_BYTES = 64
_INT32 = ir.IntType(32)
_LLVM: dict[Any, Any] = {
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
    types.int32: _INT32,
    types.int64: ir.IntType(64),
}
_INTEGER = {types.float32: types.int32, types.float64: types.int64}
_REAL = {integer: real for real, integer in _INTEGER.items()}
_FRACTION_BITS = {types.float32: 23, types.float64: 52}
_BIAS = {types.float32: 127, types.float64: 1023}

_EXP2_TERMS = {
    # Minimax in the relative error, which is 3e-9, for a half either side of 0, and exact there.
    types.float32: (
        1.0,
        0.6931471824645996,
        0.24022647738456726,
        0.05550359934568405,
        0.009618505835533142,
        0.0013390807434916496,
        0.00015326471475418657,
    ),
    # Taylor's: the first that is left out is 4e-18 there.
    types.float64: tuple(math.log(2.0) ** k / math.factorial(k) for k in range(14)),
}

# A product may be fused with the sum that it goes into. Nothing else is loosened: reassociation
# would break the rounding by a large constant, and NaN and infinity mean something here.
_LOOSE = ("contract",)


class Vector(types.Type):
    """Type of a vector of one of the four kinds of number."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        self.lanes = _BYTES * 8 // dtype.bitwidth
        super().__init__(name=f"Vector({dtype} x {self.lanes})")

    @property
    def ir(self) -> Any:
        """LLVM's type."""
        return ir.VectorType(_LLVM[self.dtype], self.lanes)

    @property
    def suffix(self) -> str:
        """How LLVM's intrinsics are called for this type."""
        kind = "f" if isinstance(self.dtype, types.Float) else "i"
        return f"v{self.lanes}{kind}{self.dtype.bitwidth}"


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, vector.ir)


# Building blocks for the code below


def _constant(vector: Vector, value: float) -> Any:
    return ir.Constant(vector.ir, [value] * vector.lanes)


def _indices(first: int, lanes: int) -> Any:
    return ir.Constant(ir.VectorType(_INT32, lanes), list(range(first, first + lanes)))


def _spread(builder: Any, vector: Vector, number: Any) -> Any:
    empty = ir.Constant(vector.ir, ir.Undefined)
    first = builder.insert_element(empty, number, ir.Constant(_INT32, 0))
    zeros = ir.Constant(ir.VectorType(_INT32, vector.lanes), [0] * vector.lanes)
    return builder.shuffle_vector(first, empty, zeros)


def _call(builder: Any, name: str, result: Any, args: list[Any], **options: Any) -> Any:
    kind = ir.FunctionType(result, [arg.type for arg in args])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, args, **options)


def _address(context: Any, builder: Any, index_type: Any, base: Any, index: Any) -> Any:
    return builder.gep(base, [context.cast(builder, index, index_type, types.intp)])


def _as_vector(builder: Any, vector: Vector, address: Any) -> Any:
    return builder.bitcast(address, vector.ir.as_pointer())


def _align(vector: Vector) -> int:
    return vector.dtype.bitwidth // 8


def _first_lanes(context: Any, builder: Any, vector: Vector, count_type: Any, count: Any) -> Any:
    """Mask of the first ``count`` lanes."""
    lanes = Vector(types.int32) if vector.lanes == 16 else None
    count = context.cast(builder, count, count_type, types.int32)
    wide = ir.VectorType(_INT32, vector.lanes)
    if lanes is not None:
        spread = _spread(builder, lanes, count)
    else:
        empty = ir.Constant(wide, ir.Undefined)
        first = builder.insert_element(empty, count, ir.Constant(_INT32, 0))
        spread = builder.shuffle_vector(first, empty, ir.Constant(wide, [0] * vector.lanes))
    return builder.icmp_signed("<", _indices(0, vector.lanes), spread)


# Arithmetic


def _register(operation: Any, real: str, integer: str) -> None:
    """Give vectors an operator: with a vector, or with a number, which goes to all lanes."""

    @infer_global(operation)
    class _Signature(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:  # noqa: ARG002 - the protocol
            if len(args) == 2 and isinstance(args[0], Vector):
                if args[0] == args[1]:
                    return signature(args[0], *args)
                if isinstance(args[1], types.Number):
                    return signature(args[0], args[0], args[0].dtype)
            return None

    def emit(builder: Any, vector: Vector, left: Any, right: Any) -> Any:
        if isinstance(vector.dtype, types.Float):
            return getattr(builder, real)(left, right, flags=_LOOSE)
        return getattr(builder, integer)(left, right)

    @lower_builtin(operation, Vector, Vector)
    def _both(_: Any, builder: Any, sig: Any, args: Any) -> Any:
        return emit(builder, sig.return_type, *args)

    @lower_builtin(operation, Vector, types.Number)
    def _with_number(_: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = sig.return_type
        return emit(builder, vector, args[0], _spread(builder, vector, args[1]))


_register(operator.add, "fadd", "add")
_register(operator.sub, "fsub", "sub")
_register(operator.mul, "fmul", "mul")


@intrinsic
def fma(_: Any, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c``, rounded once where the host can."""

    def emit(_: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _call(builder, f"llvm.fmuladd.{sig.return_type.suffix}", sig.return_type.ir, [*args])

    return a(a, b, c), emit


def _choice(comparison: str, name: str) -> Any:
    def define(_: Any, a: Any, b: Any) -> Any:
        def emit(_: Any, builder: Any, sig: Any, args: Any) -> Any:
            vector = sig.return_type
            if isinstance(vector.dtype, types.Float):
                chosen = builder.fcmp_ordered(comparison, *args)
            else:
                chosen = builder.icmp_signed(comparison, *args)
            return builder.select(chosen, *args)

        return a(a, b), emit

    define.__name__ = name
    define.__doc__ = f"The {name} of each pair of lanes; the second where one is NaN."
    return intrinsic(define)


greater = _choice(">", "greater")
smaller = _choice("<", "smaller")


# Making vectors, and reducing them


def constant(*, single: float, double: float, doc: str) -> Any:
    """Define a function ``f(like)``: a constant in all lanes, of the kind of vector or pointer."""

    def define(_: Any, like: Any) -> Any:
        vector = Vector(like.dtype)
        value = single if vector.dtype in {types.float32, types.int32} else double

        def emit(_context: Any, _builder: Any, _sig: Any, _args: Any) -> Any:
            return _constant(vector, value)

        return vector(like), emit

    define.__doc__ = doc
    return intrinsic(define)


@intrinsic
def exp2_fraction(_: Any, f: Any) -> Any:
    """``2**f`` for f in [-0.5, 0.5], by a polynomial: the last digit may be the next one."""

    def emit(_: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = sig.return_type
        terms = [_constant(vector, term) for term in _EXP2_TERMS[vector.dtype]]
        result = terms[-1]
        for term in terms[-2::-1]:
            name = f"llvm.fmuladd.{vector.suffix}"
            result = _call(builder, name, vector.ir, [result, args[0], term])
        return result

    return f(f), emit


@intrinsic
def splat(_: Any, base: Any, number: Any) -> Any:
    """Vector of what ``base`` points to, with ``number`` in all lanes."""
    vector = Vector(base.dtype)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value = context.cast(builder, args[1], sig.args[1], vector.dtype)
        return _spread(builder, vector, value)

    return vector(base, number), emit


@intrinsic
def lanes(_: Any, base: Any) -> Any:
    """Return how many numbers of what ``base`` points to make a vector."""

    def emit(_context: Any, _builder: Any, sig: Any, _args: Any) -> Any:
        return ir.Constant(ir.IntType(64), Vector(sig.args[0].dtype).lanes)

    return types.intp(base), emit


def _reduction(operation: str, start: float | None, flags: tuple[str, ...], doc: str) -> Any:
    def define(_: Any, vector: Any) -> Any:
        def emit(_: Any, builder: Any, sig: Any, args: Any) -> Any:
            number = _LLVM[sig.return_type]
            name = f"llvm.vector.reduce.{operation}.{sig.args[0].suffix}"
            first = [] if start is None else [ir.Constant(number, start)]
            return _call(builder, name, number, [*first, *args], fastmath=flags)

        return vector.dtype(vector), emit

    define.__doc__ = doc
    return intrinsic(define)


# The order of this sum is the host's choice, but the same in every call.
total = _reduction("fadd", -0.0, ("reassoc",), "Sum of the lanes.")


@intrinsic
def precise_total(_: Any, vector: Any) -> Any:
    """Sum of the lanes as a float64, added up as float64."""

    def emit(_: Any, builder: Any, sig: Any, args: Any) -> Any:
        wide = ir.VectorType(ir.DoubleType(), sig.args[0].lanes)
        values = args[0] if args[0].type == wide else builder.fpext(args[0], wide)
        name = f"llvm.vector.reduce.fadd.v{wide.count}f64"
        start = ir.Constant(ir.DoubleType(), -0.0)
        return _call(builder, name, ir.DoubleType(), [start, values], fastmath=("reassoc",))

    return types.float64(vector), emit


@intrinsic
def rounded(_: Any, base: Any, number: Any) -> Any:
    """Round a float64 to the kind of numbers that ``base`` points to, but return a float64."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = sig.args[0].dtype
        value = context.cast(builder, args[1], sig.args[1], kind)
        return context.cast(builder, value, kind, types.float64)

    return types.float64(base, number), emit


def _extreme(comparison: str, doc: str) -> Any:
    """Halve the vector until one lane is left: defined for NaN too, and no slower."""

    def define(_: Any, vector: Any) -> Any:
        def emit(_: Any, builder: Any, sig: Any, args: Any) -> Any:
            value, count = args[0], sig.args[0].lanes
            while count > 1:
                count //= 2
                halves = [
                    builder.shuffle_vector(value, value, _indices(first, count))
                    for first in (0, count)
                ]
                chosen = builder.fcmp_ordered(comparison, *halves)
                value = builder.select(chosen, *halves)
            return builder.extract_element(value, ir.Constant(_INT32, 0))

        return vector.dtype(vector), emit

    define.__doc__ = doc
    return intrinsic(define)


highest = _extreme(">", "Largest lane of reals; any number if a lane is NaN.")
lowest = _extreme("<", "Smallest lane of reals; any number if a lane is NaN.")
most = _reduction("smax", None, (), "Largest lane of integers.")
least = _reduction("smin", None, (), "Smallest lane of integers.")


@intrinsic
def any_positive(_: Any, vector: Any) -> Any:
    """Whether a lane of reals is above 0."""

    def emit(_: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = sig.args[0]
        positive = builder.fcmp_ordered(">", args[0], _constant(kind, 0.0))
        mask = builder.bitcast(positive, ir.IntType(kind.lanes))
        return builder.icmp_unsigned("!=", mask, ir.Constant(ir.IntType(kind.lanes), 0))

    return types.boolean(vector), emit


def _neighbours(shift: int, doc: str) -> Any:
    def define(_: Any, left: Any, right: Any) -> Any:
        def emit(_: Any, builder: Any, sig: Any, args: Any) -> Any:
            count = sig.return_type.lanes
            first = count - 1 if shift < 0 else 1
            return builder.shuffle_vector(*args, _indices(first, count))

        return left(left, right), emit

    define.__doc__ = doc
    return intrinsic(define)


previous_lanes = _neighbours(-1, "Last lane of the first vector, all but the last of the second.")
next_lanes = _neighbours(1, "All but the first lane of the first vector, first of the second.")


# Memory


@intrinsic
def pointer(_: Any, array: Any) -> Any:
    """Where an array begins. The array must outlive it."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.make_array(sig.args[0])(context, builder, args[0]).data

    return types.CPointer(array.dtype)(array), emit


@intrinsic
def pointer_to(_: Any, address: Any, like: Any) -> Any:
    """Pointer to an address in memory, to what ``like`` points to."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(sig.return_type))

    return like(address, like), emit


@intrinsic
def take_number(_: Any, counter: Any) -> Any:
    """Value of an integer in memory, which is 1 more afterwards: each caller gets another one."""

    def emit(_: Any, builder: Any, sig: Any, args: Any) -> Any:
        one = ir.Constant(_LLVM[sig.return_type], 1)
        return builder.atomic_rmw("add", args[0], one, "monotonic")

    return counter.dtype(counter), emit


@intrinsic
def above(_: Any, base: Any, index: Any) -> Any:
    """Pointer to ``base[index]``."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _address(context, builder, sig.args[1], *args)

    return base(base, index), emit


@intrinsic
def load(_: Any, base: Any, index: Any) -> Any:
    """Vector at ``base[index]`` and what follows."""
    vector = Vector(base.dtype)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address = _address(context, builder, sig.args[1], *args)
        return builder.load(_as_vector(builder, vector, address), align=_align(vector))

    return vector(base, index), emit


@intrinsic
def store(_: Any, base: Any, index: Any, value: Any) -> Any:
    """Write a vector to ``base[index]`` and what follows."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = sig.args[2]
        address = _address(context, builder, sig.args[1], *args[:2])
        builder.store(args[2], _as_vector(builder, vector, address), align=_align(vector))
        return context.get_dummy_value()

    return types.none(base, index, value), emit


@intrinsic
def load_some(_: Any, base: Any, index: Any, count: Any, rest: Any) -> Any:
    """Like :func:`load` for the first ``count`` lanes; the others are those of ``rest``."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = sig.return_type
        address = _as_vector(builder, vector, _address(context, builder, sig.args[1], *args[:2]))
        mask = _first_lanes(context, builder, vector, sig.args[2], args[2])
        align = ir.Constant(_INT32, _align(vector))
        name = f"llvm.masked.load.{vector.suffix}.p0"
        return _call(builder, name, vector.ir, [address, align, mask, args[3]])

    return rest(base, index, count, rest), emit


@intrinsic
def store_some(_: Any, base: Any, index: Any, count: Any, value: Any) -> Any:
    """Like :func:`store`, the first ``count`` lanes only."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = sig.args[3]
        address = _as_vector(builder, vector, _address(context, builder, sig.args[1], *args[:2]))
        mask = _first_lanes(context, builder, vector, sig.args[2], args[2])
        align = ir.Constant(_INT32, _align(vector))
        name = f"llvm.masked.store.{vector.suffix}.p0"
        _call(builder, name, ir.VoidType(), [args[3], address, align, mask])
        return context.get_dummy_value()

    return types.none(base, index, count, value), emit


@intrinsic
def gather(_: Any, base: Any, indices: Any, first: Any) -> Any:
    """Vector of ``base[indices[first]]``, ``base[indices[first + 1]]``, and so on."""
    vector = Vector(base.dtype)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        # Loads one by one: on the CPUs that were measured, twice as fast as a gather.
        at = _address(context, builder, sig.args[2], args[1], args[2])
        result = ir.Constant(vector.ir, ir.Undefined)
        for lane in range(vector.lanes):
            where = ir.Constant(_INT32, lane)
            index = builder.sext(builder.load(builder.gep(at, [where])), ir.IntType(64))
            value = builder.load(builder.gep(args[0], [index]))
            result = builder.insert_element(result, value, where)
        return result

    return vector(base, indices, first), emit


# Numbers taken apart: value = mantissa * 2**exponent


@intrinsic
def bits(_: Any, vector: Any) -> Any:
    """Integers of the same bits."""
    integers = Vector(_INTEGER[vector.dtype])

    def emit(_: Any, builder: Any, _sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], integers.ir)

    return integers(vector), emit


@intrinsic
def exponent(_: Any, vector: Any) -> Any:
    """Exponents of positive numbers, plus the bias; 0 for 0."""
    integers = Vector(_INTEGER[vector.dtype])

    def emit(_: Any, builder: Any, sig: Any, args: Any) -> Any:
        whole = builder.bitcast(args[0], integers.ir)
        shift = _constant(integers, _FRACTION_BITS[sig.args[0].dtype])
        return builder.lshr(whole, shift)

    return integers(vector), emit


@intrinsic
def mantissa(_: Any, vector: Any) -> Any:
    """Mantissas of positive numbers, in [1, 2); 1 for 0."""

    def emit(_: Any, builder: Any, sig: Any, args: Any) -> Any:
        real = sig.return_type
        integers = Vector(_INTEGER[real.dtype])
        fraction = _FRACTION_BITS[real.dtype]
        whole = builder.bitcast(args[0], integers.ir)
        kept = builder.and_(whole, _constant(integers, (1 << fraction) - 1))
        one = _constant(integers, _BIAS[real.dtype] << fraction)
        return builder.bitcast(builder.or_(kept, one), real.ir)

    return vector(vector), emit


@intrinsic
def power_of_two(_: Any, biased: Any) -> Any:
    """``2**(biased - bias)``; 0 where ``biased`` is 0 or less."""
    real = Vector(_REAL[biased.dtype])

    def emit(_: Any, builder: Any, sig: Any, args: Any) -> Any:
        integers = sig.args[0]
        zero = _constant(integers, 0)
        positive = _call(builder, f"llvm.smax.{integers.suffix}", integers.ir, [args[0], zero])
        shifted = builder.shl(positive, _constant(integers, _FRACTION_BITS[real.dtype]))
        return builder.bitcast(shifted, real.ir)

    return real(biased), emit


@intrinsic
def shifted_to_exponent(_: Any, vector: Any) -> Any:
    """Number whose exponent field holds the lowest bits of each lane; the rest is 0."""

    def emit(_: Any, builder: Any, sig: Any, args: Any) -> Any:
        real = sig.return_type
        integers = Vector(_INTEGER[real.dtype])
        whole = builder.bitcast(args[0], integers.ir)
        shift = _constant(integers, _FRACTION_BITS[real.dtype])
        return builder.bitcast(builder.shl(whole, shift), real.ir)

    return vector(vector), emit
