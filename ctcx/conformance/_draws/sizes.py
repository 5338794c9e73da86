"""How large drawn problems are: every power of two with its neighbours, and what lies between.

A kernel chooses its way by size, and thresholds are powers of two or lie between them. So sizes are
not left to chance: each *cycle* of problems has all powers of two and their neighbours for each of
the sizes N, T, C and L, and three sizes from each octave between them. Which of them come together
is drawn, within a bound on the work.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ctcx.fixtures._random_fixtures import PortableRandom

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Sizes", "cycle_length", "sizes"]


class Sizes(NamedTuple):
    """Sequences, frames, classes and labels of a problem, and what else it is meant to have."""

    N: int
    T: int
    C: int
    L: int
    aim: str = ""
    """``ragged``: a long batch whose other sequences are much shorter or narrower; ``wrong``:
    confident logits for other labels; ``tight``: just enough frames; ``steady``: long stretches of
    equal frames; empty: nothing special."""

    @property
    def work(self) -> int:
        """A measure of the time that a kernel takes."""
        return self.N * self.T * (self.C + 4 * (2 * self.L + 1))


_SWAPS = 4000
_MOST = {"N": 300, "T": 3000, "C": 20_000, "L": 500}
_LEAST = {"N": 1, "T": 4, "C": 3, "L": 1}
_REST = {"N": (1, 5), "T": (8, 60), "C": (3, 40), "L": (1, 20)}
"""What fills up the columns of a cycle that have fewer special sizes than another one."""

_WORK = (1 << 18, 1 << 20, 1 << 21, 1 << 23)
"""How much work a problem of each cycle may be; the last number holds for all later cycles."""


def _special(name: str, bits: PortableRandom) -> list[int]:
    """Return the sizes that every cycle has: around powers of two, and from between them."""
    least, most = _LEAST[name], _MOST[name]
    found = []
    for k in range(1, most.bit_length()):
        found += [2**k - 1, 2**k, 2**k + 1]
        # An octave is cut into three parts of the same ratio, the last one at the largest size.
        low, high = 2**k + 2, min(2 ** (k + 1) - 2, most)
        parts = 3 if k >= 5 else 1
        for part in range(parts if k >= 3 and low < high else 0):
            a, b = (low * (high / low) ** ((part + side) / parts) for side in (0, 1))
            found.append(bits.integer(int(np.ceil(a)), max(int(np.ceil(a)), int(b))))
    found.append(most)
    return sorted({size for size in found if least <= size <= most})


def _log_uniform(bits: PortableRandom, low: int, high: int) -> int:
    return min(high, int(low * ((high + 1) / low) ** float(bits.uniform(1)[0])))


_LIGHT = (
    Sizes(2, 900, 40, 180, "ragged"),
    Sizes(3, 300, 12, 60, "wrong"),
    Sizes(2, 130, 60, 64, "tight"),
    Sizes(2, 2600, 20, 60, "ragged"),
    Sizes(2, 70, 50, 40, "wrong"),
    Sizes(2, 0, 5, 2),
    Sizes(3, 1, 4, 1),
    Sizes(1, 40, 6, 0),
    Sizes(4, 12, 1, 0),
    Sizes(5, 30, 2, 12),
    Sizes(3, 700, 40, 310, "ragged"),
    Sizes(2, 64, 41, 40, "wrong"),
    Sizes(2, 600, 30, 290, "tight"),
    Sizes(1, 6000, 10, 40, "wrong"),
    Sizes(4, 2500, 21, 20, "steady"),
    Sizes(3, 700, 21, 20, "steady"),
    Sizes(2, 1500, 9, 8, "steady"),
    Sizes(3, 150, 10, 0),
    Sizes(3, 30, 20, 80),
    Sizes(40, 300, 12, 40),
    Sizes(1, 80, 5000, 10),
    Sizes(1, 1600, 2100, 20),
    Sizes(1, 12_000, 6, 12),
)
"""What no cycle is without, whatever else is drawn; later cycles vary the numbers."""


_ENTRIES = 1 << 24
"""How many logits a problem may have."""


def _vary(one: Sizes, cycle: int, bits: PortableRandom) -> Sizes:
    """Return a size of the same kind: near it in the first cycle, from its whole range later."""
    if one.T <= 40:
        return one
    # The first cycle stays at the size that is known to matter, give or take a few.
    spread = 1.05 if cycle == 0 else 3.3
    longest = 3000 if one.aim == "steady" else 20_000
    T, L = (
        min(most, max(least, int(size * spread ** (2 * float(bits.uniform(1)[0]) - 1))))
        for size, least, most in ((one.T, 41, longest), (one.L, 20, 500))
    )
    C = max(L // 8, one.C)
    T = min(T, _ENTRIES // (one.N * C))
    return one._replace(T=T, L=min(L, (T * 4) // 5) if one.L else 0, C=C)


@lru_cache(maxsize=16)
def _cycle(seed: int, cycle: int) -> tuple[Sizes, ...]:
    """Return the sizes of one cycle, those first that cover most between them."""
    bits = PortableRandom(seed, cycle, 1)
    columns = {name: _special(name, bits) for name in "NTCL"}
    # More rows than special sizes: the large ones then meet small ones, and work stays bounded.
    count = max(map(len, columns.values())) * 3 // 2
    for name, column in columns.items():
        column += [_log_uniform(bits, *_REST[name]) for _ in range(count - len(column))]
    table = np.array([columns[name] for name in "NTCL"]).T
    for place in range(4):
        table[:, place] = table[np.argsort(bits.uniform(count), kind="stable"), place]
    _balance(table, _WORK[min(cycle, len(_WORK) - 1)], bits)
    drawn = [Sizes(N, T, C, L) for N, T, C, L in table.tolist()]
    light = [_vary(one, cycle, bits) for one in _LIGHT]
    if cycle:
        # One as large as they get.
        C = _log_uniform(bits, 30, 20_000)
        T = _log_uniform(bits, 8, min(20_000, 2**22 // C))
        N = min(300, max(1, 2 ** (22 + 2 * (cycle > 2)) // (T * C)))
        light.append(Sizes(N, T, C, min(500, max(1, T // 3), max(1, 2**23 // (N * T)))))
    order = _cover(drawn)
    mixed: list[Sizes] = []
    for i, one in enumerate(order):
        mixed += light[i : i + 1]
        mixed.append(one)
    return tuple(mixed)


def _balance(table: NDArray[np.int64], limit: int, bits: PortableRandom) -> None:
    """Swap sizes between problems until few are more work than the limit, or can't be emitted."""

    def over(row: NDArray[np.int64]) -> float:
        N, T, C, L = row.tolist()
        return float(max(0, N * T * (C + 8 * L + 64) - limit) / limit + 20 * max(0, L - T) / T)

    cost = [over(row) for row in table]
    for _ in range(4):
        places = bits.uniform(3, _SWAPS)
        for a, b, column in zip(
            *(places[:2] * len(table)).astype(int), (places[2] * 4).astype(int), strict=True
        ):
            if not cost[a] + cost[b]:
                continue
            table[[a, b], column] = table[[b, a], column]
            after = over(table[a]), over(table[b])
            if sum(after) < cost[a] + cost[b]:
                cost[a], cost[b] = after
            else:
                table[[a, b], column] = table[[b, a], column]


def _cover(drawn: list[Sizes]) -> list[Sizes]:
    """Return the problems in an order in which any first few of them cover many octaves."""

    def octaves(one: Sizes) -> set[tuple[str, int]]:
        return {(name, getattr(one, name).bit_length()) for name in "NTCL"}

    order: list[Sizes] = []
    missing: set[tuple[str, int]] = set()
    left = list(drawn)
    while left:
        if not any(octaves(one) & missing for one in left):
            missing = set().union(*map(octaves, left))
        best = max(left, key=lambda one: len(octaves(one) & missing))
        missing -= octaves(best)
        left.remove(best)
        order.append(best)
    return order


def cycle_length() -> int:
    """Return how many problems a cycle has at first: what a run draws by default."""
    return len(_cycle(0, 0))


def sizes(seed: int, index: int) -> Sizes:
    """Return how large problem ``index`` of a seed is, and what it is meant to have."""
    cycle = 0
    while index >= len(_cycle(seed, cycle)):
        index -= len(_cycle(seed, cycle))
        cycle += 1
    return _cycle(seed, cycle)[index]
