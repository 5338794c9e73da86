"""What to launch for a problem: the variant, the scratch memory, the sizes of the grids.

Static facts only, no CuPy: everything here can be tested anywhere.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ctcx import CTCInputError
from ctcx_cuda.variants import ANY_LENGTH, IN_REGISTERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ctcx_cuda.variants import Variant

__all__ = ["PathPlan", "Plan", "grid", "make_path_plan", "make_plan", "offsets", "scratch_limit"]

_MIB: Final = 1 << 20
_DEFAULT_LIMIT: Final = 256 * _MIB
_ALIGNMENT: Final = 256
_LARGEST_GRID: Final = (1 << 20, 65535)
"""Blocks over frames and over sequences; kernels loop over what is beyond."""
_MOST_WORKERS: Final = 264
"""Blocks that recompute segments at a time: two for each multiprocessor of an H100."""
_MOST_SLICES: Final = 8
"""Slices in a row that take no longer than any_length.cuh does: its frames take about ten times as
long as those of the states in registers, by its instructions and barriers."""
_FULL: Final = 64
"""Sequences that give each multiprocessor of an H100 a block: more slices of these cost nothing."""
_SHARED_MEMORY: Final = 47 * 1024
"""Bytes that any GPU gives a block unasked, less what the kernels take statically."""
_SHIFTS: Final = (5, 6, 7, 8, 9)
"""Log2 of the frames between two checkpoints; the first that leaves room is taken."""
_WARP: Final = 32
_TABLE: Final = 1 << 16
"""Bytes of choices of a sequence that are kept for all frames of a best path."""
_CHOICES: Final = 16
"""Bytes of choices of 32 positions in a frame."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a batch is computed."""

    variant: Variant
    """Which kernels."""
    sequences: int
    """How many at a time; fewer than the batch has only where nothing else fits the limit."""
    sizes: Mapping[str, int]
    """Bytes of each part of the scratch memory, by the name of its field in ``Problem``."""
    shift: int
    segments: int
    """A checkpoint is kept every ``2**shift`` frames; how many there are (1 without any)."""
    shared_states: bool
    """Whether the states of ``ctc_checkpoints`` fit into shared memory."""
    workers: int
    """Blocks of ``ctc_segments``."""

    @property
    def scratch(self) -> int:
        """Bytes of scratch memory."""
        return _end(self.sizes)


@dataclass(frozen=True, slots=True)
class PathPlan:
    """How the best paths of a batch are computed."""

    sequences: int
    sizes: Mapping[str, int]
    """As in :class:`Plan`."""
    span: int
    spans: int
    """Sums are kept before every ``span`` frames; how many such spans there are. One, and all
    choices are kept."""
    width: int
    """Positions (labels, and the blank after the last one) that a sequence can have."""
    units: int
    """Groups of 32 positions whose choices are kept together."""
    threads: int
    """Of a block."""

    @property
    def scratch(self) -> int:
        """Bytes of scratch memory."""
        return _end(self.sizes)


def offsets(sizes: Mapping[str, int]) -> dict[str, int]:
    """Where each part of the scratch memory starts."""
    starts, end = {}, 0
    for name, size in sizes.items():
        starts[name] = end
        end += _aligned(size)
    return starts


def _end(sizes: Mapping[str, int]) -> int:
    return sum(map(_aligned, sizes.values()))


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def grid(frames: int, sequences: int, *, lists: bool = False) -> tuple[int, int]:
    """Return the grid of a kernel that takes 4 frames of a sequence a block.

    ``lists`` adds a block a sequence, which groups its labels.
    """
    across, down = _LARGEST_GRID
    return min(-(-frames // 4), across) + lists, min(sequences, down)


def scratch_limit() -> int:
    """Return the limit in bytes: 256 MiB, or what ``CTCX_CUDA_SCRATCH_MIB`` says.

    Raises CTCInputError: the variable is set, and is no whole number above 0.
    """
    text = os.environ.get("CTCX_CUDA_SCRATCH_MIB")
    if text is None:
        return _DEFAULT_LIMIT
    if not text.isascii() or not text.isdigit() or len(text) > 18 or int(text) == 0:
        msg = (
            f"the environment variable CTCX_CUDA_SCRATCH_MIB must be a whole number of MiB above "
            f"0, got {text!r}"
        )
        raise CTCInputError(msg, argument="CTCX_CUDA_SCRATCH_MIB", value=text)
    return int(text) * _MIB


def make_plan(N: int, T: int, C: int, S: int, *, real: int, grad: bool, limit: int) -> Plan:
    """Choose for a batch of N >= 1 sequences, T frames, C classes and labels of width S.

    Numbers have ``real`` bytes, 4 or 8. The plan stays within ``limit`` bytes of scratch memory; a
    single sequence that needs more gets it.
    """
    fitting = [variant for variant in IN_REGISTERS if variant.slots > S]
    if fitting:
        sliced = _in_slices(fitting[0], N, T, C, S, real=real, grad=grad, limit=limit)
        if sliced:
            return sliced
    sequences = N
    while True:
        for shift in _SHIFTS:
            plan = any_length_plan(
                sequences, T, C, S, real=real, grad=grad, shift=shift, limit=limit
            )
            if plan.scratch <= limit and plan.workers >= min(sequences * plan.segments, 32):
                return plan
        if plan.scratch <= limit or sequences == 1:
            return plan
        sequences = -(-sequences // 2)


def make_path_plan(N: int, T: int, S: int, *, real: int, limit: int, threads: int) -> PathPlan:
    """Choose for the best paths of a batch, as :func:`make_plan` does for losses.

    A block has at most so many threads: a multiple of 32, at least 96.
    """
    # More labels than frames can't be emitted, so they need no room.
    width = min(S, T) + 1
    units = -(-width // _WARP)
    block = min(threads, units * _WARP)
    span = max(T, 1)
    if width > threads or span * units * _CHOICES > _TABLE:
        # On the way back each thread has a position: of a span, of the last state, and up to 31
        # more, since the first one is a multiple of 32.
        span = min(span, 2 * math.isqrt(T), threads - 2 * _WARP)
        units = min(units, (span + _WARP - 1) // _WARP + 1)
    spans = -(-max(T, 1) // span)

    def sizes(sequences: int) -> dict[str, int]:
        each = {"spreads": T * 2 * real, "choices": span * units * _CHOICES}
        if spans > 1:
            each["kept"] = spans * width * 16
        if width > threads:
            each["strips"] = 3 * width * 8
        return {name: sequences * size for name, size in each.items()}

    sequences = N
    if (whole := _end(sizes(N))) > limit:
        sequences = max(1, N * limit // whole - 1)
        sequences = -(-N // -(-N // sequences))  # slices of equal size
    return PathPlan(sequences, sizes(sequences), span, spans, width, units, block)


def _common(N: int, T: int, C: int, S: int, *, real: int, grad: bool) -> dict[str, int]:
    sizes = {"rows": N * T * 2 * real}
    if grad:
        sizes |= {"next": N * S * 4, "first": N * C * 4}
    return sizes


def _in_slices(
    variant: Variant, N: int, T: int, C: int, S: int, *, real: int, grad: bool, limit: int
) -> Plan | None:
    """Return the plan with the fewest slices of equal size; None if they would be too many."""
    slices, sequences = 1, N
    while True:
        plan = _in_registers(variant, sequences, T, C, S, real=real, grad=grad)
        if plan.scratch <= limit:
            return plan
        # What scratch memory there is is nearly proportional to the sequences.
        slices = max(slices + 1, -(-N * plan.scratch // (sequences * limit)))
        sequences = -(-N // slices)
        if slices > N or (slices > _MOST_SLICES and sequences < _FULL):
            return None


def _in_registers(
    variant: Variant, N: int, T: int, C: int, S: int, *, real: int, grad: bool
) -> Plan:
    slots = variant.slots
    sizes = _common(N, T, C, S, real=real, grad=grad)
    sizes["emitted"] = (N * T + 2 * variant.group) * (slots + 2) * 2 * real
    if grad:
        sizes["paths"] = 2 * N * T * slots * 4 * real
    return Plan(variant, N, sizes, 0, 1, shared_states=False, workers=0)


def any_length_plan(
    N: int, T: int, C: int, S: int, *, real: int, grad: bool, shift: int, limit: int
) -> Plan:
    row = (S + 1) * 4 * real
    segment = 1 << shift
    segments = max(1, -(-T // segment))
    shared = 2 * row <= _SHARED_MEMORY
    sizes = _common(N, T, C, S, real=real, grad=grad)
    states = 0 if shared else (2 if grad else 1) * N * 2 * row
    if not grad:
        sizes["work"] = states
        return Plan(ANY_LENGTH, N, sizes, shift, segments, shared_states=shared, workers=0)
    sizes["paths"] = 2 * N * segments * row
    each = (segment + 3) * row + S * real
    room = limit - sum(sizes.values()) - (len(sizes) + 2) * _ALIGNMENT
    workers = max(1, min(N * segments, _MOST_WORKERS, room // each))
    sizes["work"] = max(states, workers * (segment + 3) * row)
    sizes["sums"] = workers * S * real
    return Plan(ANY_LENGTH, N, sizes, shift, segments, shared_states=shared, workers=workers)
