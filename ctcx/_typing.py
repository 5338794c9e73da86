"""Types of arrays and array libraries."""

from __future__ import annotations

from typing import Any, TypeAlias

__all__ = ["Array", "ArrayModule"]

# There is no official typing protocol for arrays of the array API standard; the conformance kit
# checks at run time what a type would promise.
Array: TypeAlias = Any
"""An array of any library that conforms to the array API standard."""

ArrayModule: TypeAlias = Any
"""A namespace of the array API standard, as ``array_api_compat.array_namespace`` gives it."""
