"""The few ways in which the kernels are compiled, by name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

__all__ = [
    "ANY_LENGTH",
    "BEST_CLASSES",
    "BEST_PATH",
    "DTYPES",
    "IN_REGISTERS",
    "VARIANTS",
    "Variant",
    "options",
    "source",
]

DTYPES = {"float16": 16, "bfloat16": 116, "float32": 32, "float64": 64}
"""Dtypes of the logits, and the value of the macro LOGITS for each."""

_PARTS = ("numbers", "problem", "softmax")
_LOSS = ("rows", "step", "occupancy")


@dataclass(frozen=True, slots=True)
class Variant:
    """What is compiled together, and how a sequence is laid out over a block."""

    name: str
    """As ``python -m ctcx_cuda warmup`` prints it."""
    parts: tuple[str, ...]
    """Files of the source, after those of all variants."""
    kernels: tuple[str, ...]
    """Their names."""
    pairs: int = 0
    warps: int = 0
    group: int = 0
    """Pairs of states a lane, warps a sequence, frames between two barriers; all 0 where that is
    not fixed when the kernels are compiled."""

    @property
    def slots(self) -> int:
        """Pairs that fit into the registers: a sequence of L labels needs L + 1."""
        left = -(-self.group // self.pairs) if self.warps > 1 else 0
        return self.pairs * self.warps * (32 - left)


def _in_registers(name: str, **layout: int) -> Variant:
    kernels = ("ctc_rows", "ctc_paths", "ctc_gradient")
    return Variant(name, (*_LOSS, "paths", "gradient"), kernels, **layout)


IN_REGISTERS = (
    _in_registers("labels-31", pairs=1, warps=1, group=8),
    _in_registers("labels-143", pairs=1, warps=6, group=8),
    _in_registers("labels-539", pairs=2, warps=9, group=4),
)
"""From the shortest labels to the longest."""

ANY_LENGTH = Variant(
    "any-length", (*_LOSS, "any_length"), ("ctc_rows", "ctc_checkpoints", "ctc_segments")
)

BEST_PATH = Variant("best-path", ("best_path",), ("ctc_spreads", "ctc_best_path"))

BEST_CLASSES = Variant("best-classes", ("best_classes",), ("ctc_best_classes", "ctc_spoil"))

VARIANTS = (*IN_REGISTERS, ANY_LENGTH, BEST_PATH, BEST_CLASSES)


@cache
def source(variant: Variant) -> str:
    """Return the CUDA C++ source, without what the variant doesn't use."""
    folder = resources.files("ctcx_cuda") / "kernels"
    return "\n".join(
        f'#line 1 "{part}.cuh"\n' + (folder / f"{part}.cuh").read_text(encoding="utf-8")
        for part in (*_PARTS, *variant.parts)
    )


def options(variant: Variant, dtype: str) -> tuple[str, ...]:
    """Return the options to compile with; never fast math, which would reorder.

    CuPy adds ``-ftz=true``: subnormal float32 numbers are read and written as 0. They are below
    2^-126, so that what is lost is a summand of 1e-38 of a logit, an exponential or an entry of the
    gradient. float16's subnormal numbers are normal in float32, and are not converted by way of
    subnormal ones.
    """
    return (
        "--std=c++17",
        f"-DLOGITS={DTYPES[dtype]}",
        f"-DPAIRS={variant.pairs}",
        f"-DWARPS={variant.warps}",
        f"-DGROUP={variant.group}",
    )
