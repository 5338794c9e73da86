"""How a check ends other than by passing."""

from __future__ import annotations

__all__ = ["CheckFailure", "NotApplicable"]


class CheckFailure(AssertionError):  # noqa: N818 - a verdict on a kernel
    """The kernel is wrong; the message says in which case, where, and by how much.

    It carries everything itself, so it reads the same with and without pytest.
    """


class NotApplicable(Exception):  # noqa: N818 - not an error
    """The check has nothing to look at here; the message says why. Not a failure."""
