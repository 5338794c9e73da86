"""Right answers in float64, by code of their own that shares nothing with any kernel.

The kit judges kernels by them, and so may the tests of a plugin. There are two ways to each answer:
``enumerate_...`` tries all paths, straight from the definition of CTC, for tiny problems only; the
other is a recursion for problems of any length. All take NumPy arrays or lists.

>>> from ctcx.conformance import oracle
>>> answer = oracle.reference([[[0.0, 0.0], [0.0, 0.0]]], [[1]], [2], [1], blank=0)
>>> round(float(answer.loss[0]), 6)
0.287682
"""

from __future__ import annotations

from ctcx._reference.best_path import BestPaths, best_paths, enumerate_best_paths
from ctcx._reference.decoding import (
    BestClasses,
    PrefixBeams,
    best_classes,
    enumerate_labels,
    log_softmax,
    merged,
    prefix_beams,
)
from ctcx._reference.oracle import (
    LARGEST_LOSS,
    ReferenceAnswer,
    enumerate_paths,
    reference,
    round_to_dtype,
    within_limit,
)
from ctcx._reference.posterior import (
    Posterior,
    SampledPaths,
    enumerate_posterior,
    occupancies,
    sample_paths,
)
from ctcx._reference.tolerances import TOLERANCES, Tolerance

__all__ = [
    "LARGEST_LOSS",
    "TOLERANCES",
    "BestClasses",
    "BestPaths",
    "Posterior",
    "PrefixBeams",
    "ReferenceAnswer",
    "SampledPaths",
    "Tolerance",
    "best_classes",
    "best_paths",
    "enumerate_best_paths",
    "enumerate_labels",
    "enumerate_paths",
    "enumerate_posterior",
    "log_softmax",
    "merged",
    "occupancies",
    "prefix_beams",
    "reference",
    "round_to_dtype",
    "sample_paths",
    "within_limit",
]
