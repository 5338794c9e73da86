"""Keep what was found out about calls, up to a number of them, without locks.

A lock that a call holds is still held in a signal handler that interrupts the call, and in a child
process that another thread forks meanwhile. There the next call would wait for ever. A dictionary
needs none if each change of it is one step.
"""

from __future__ import annotations

from typing import TypeVar

__all__ = ["remember"]

K = TypeVar("K")
V = TypeVar("V")


def remember(known: dict[K, V], key: K, value: V, *, most: int) -> None:
    """Add an entry, and forget all others if there are as many as may be.

    Shapes change from batch to batch: without a bound the dictionary would grow for ever.
    """
    if len(known) >= most:
        known.clear()
    known[key] = value
