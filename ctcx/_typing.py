"""Types of arrays and array libraries."""

from __future__ import annotations

from typing import Any, TypeAlias, TypeVar

__all__ = ["DTYPES", "HALF_DTYPES", "Array", "ArrayModule", "ArrayT"]

# There is no official typing protocol for arrays of the array API standard; the conformance kit
# checks at run time what a type would promise.
Array: TypeAlias = Any
"""An array of any library that conforms to the array API standard."""

ArrayT = TypeVar("ArrayT")
"""The type of the logits of a call, which its results have too.

Their dtype is the same but in half precision, where losses are float32.
"""

ArrayModule: TypeAlias = Any
"""A namespace of the array API standard, as ``array_api_compat.array_namespace`` gives it."""

DTYPES = ("float32", "float64", "float16", "bfloat16")
"""The dtypes of logits, everywhere in this order."""

HALF_DTYPES = frozenset({"float16", "bfloat16"})
"""Those of them that a kernel computes in float32."""
