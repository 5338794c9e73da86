"""Calls inside of calls: a kernel that hands parts of a batch to the public functions.

The parts are numbered as in the whole batch, and the backend that was asked for by name is not
asked for again.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["among", "nested_call", "numbered", "preferred"]

preferred: ContextVar[tuple[str, ...] | None] = ContextVar("ctcx_use_backend", default=None)
"""Backends that are asked for: None if the environment decides, () for the automatic choice."""

_first: ContextVar[int | None] = ContextVar("ctcx_first_sequence", default=None)


def numbered(sequence: int) -> int:
    """Give the number that errors call a sequence of this call by."""
    return sequence + (_first.get() or 0)


def among(count: int) -> str:
    """Say which sequences a call looks at: all there are, or those of a part of a batch."""
    first = _first.get()
    if first is None or count == 1:
        return f"{count} sequences"
    return f"the {count} sequences from {first} to {first + count - 1}"


@contextmanager
def nested_call(*, first: int = 0, backends: tuple[str, ...] | None = None) -> Iterator[None]:
    """Call ctcx from a kernel that takes a batch apart, or in another thread or process for it.

    Parameters
    ----------
    first : int
        The number, in the whole batch, of the first sequence of the calls in the ``with`` block:
        errors name sequences by their numbers in the whole batch.
    backends : tuple of str, optional
        Only these compute, in order of preference; () for the automatic choice. None leaves it to
        ``CTCX_BACKEND``. :func:`ctcx.use_backend` blocks around have no say.

    Raises
    ------
    ValueError
        ``first`` is below 0.

    Examples
    --------
    >>> import ctcx
    >>> import numpy as np
    >>> from ctcx.plugin import nested_call
    >>> with nested_call(first=1000):
    ...     ctcx.ctc_loss(np.zeros((2, 3, 4)), [[1], [9]])
    Traceback (most recent call last):
    ...
    ctcx._errors.CTCInputError: labels[1001, 0] is 9 (sequence 1001, position 0): expected 0 to 3...
    """
    if first < 0:
        msg = f"first must be the number of a sequence, got {first}"
        raise ValueError(msg)
    tokens = _first.set(first), preferred.set(backends)
    try:
        yield
    finally:
        _first.reset(tokens[0])
        preferred.reset(tokens[1])
