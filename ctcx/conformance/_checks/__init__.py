"""The checks: plain functions, each of which proves one thing about a kernel.

Every check gets a :class:`~ctcx.conformance._subject.Subject` and raises
:class:`~ctcx.conformance.CheckFailure` if the kernel is wrong. Each call of the kernel that a check
makes is also watched: the named backend alone must run, the result must have the right library,
device, dtype and shape, and the inputs must stay as they are.

The modules are imported in the order in which the checks run: when a kernel fails, start at the
top, for later checks build on what earlier ones prove.
"""

from __future__ import annotations

from importlib import import_module

from ctcx._operations import OPERATIONS

__all__: list[str] = []

for _operation in OPERATIONS.values():
    for _module in _operation.checks:
        import_module(_module)
