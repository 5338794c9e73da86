"""Numbers for people: three digits and a unit."""

from __future__ import annotations

import math

__all__ = ["count", "error", "seconds", "size", "three"]

_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (0.0, "ns"))
_SIZES = ((1e9, "GB"), (1e6, "MB"), (0.0, "kB"))


def three(value: float) -> str:
    """Return a number with three significant digits, without an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def seconds(value: float | None) -> str:
    """Return a time."""
    if value is None:
        return "-"
    least, unit = next(pair for pair in _TIMES if value >= pair[0])
    return f"{three(value / (least or 1e-9))} {unit}"


def size(value: float | None) -> str:
    """Return a number of bytes."""
    if value is None:
        return "-"
    least, unit = next(pair for pair in _SIZES if value >= pair[0])
    return f"{value / (least or 1e3):.3g} {unit}"


def error(value: float | None) -> str:
    """Return an error, of which the size matters."""
    return "-" if value is None else "0" if value == 0 else f"{value:.1e}"


def count(number: int, what: str) -> str:
    """Return ``3 cells``, or ``1 cell``."""
    return f"{number:,} {what}{'s' * (number != 1)}"
