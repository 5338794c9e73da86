"""The stable plugin API: all that a kernel plugin imports from ctcx.

See :class:`Backend` for the contract of a kernel, and :mod:`ctcx.plugin.hookspecs` for the hooks.
Versioned apart from the package, by :data:`API_VERSION`: within a major version, fields with
defaults and new hooks may be added and nothing is removed.
"""

from __future__ import annotations

import pluggy

from ctcx._arrays.facts import has_host_memory
from ctcx._cores import usable_cores
from ctcx._environment import env_text
from ctcx._nesting import nested_call
from ctcx._operations import OPERATIONS as _DESCRIPTORS
from ctcx._plugins import hookspecs
from ctcx._plugins.backend import API_VERSION, Backend, Decline, Feature, Problem
from ctcx._plugins.case import Case
from ctcx._plugins.lower_bound import LowerBound
from ctcx._plugins.namespace import Namespace
from ctcx._plugins.registry import load_kernel

__all__ = [
    "API_VERSION",
    "OPERATIONS",
    "Backend",
    "Case",
    "Decline",
    "Feature",
    "LowerBound",
    "Namespace",
    "Problem",
    "env_text",
    "has_host_memory",
    "hookimpl",
    "hookspecs",
    "load_kernel",
    "nested_call",
    "usable_cores",
]

OPERATIONS: tuple[str, ...] = tuple(_DESCRIPTORS)
"""Names of the operations that a backend may have kernels for."""

hookimpl = pluggy.HookimplMarker("ctcx")
"""Marks a function of a plugin as the implementation of the hook of the same name."""
