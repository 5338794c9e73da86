"""Alignment, occupancies and decoding: every installed backend on NumPy, in one thread.

Run ``python -m pytest benchmarks/test_operations_speed.py``. A group is one operation of one shape.
Beside the alignments stand the textbook's recursion, compiled, and a Python loop over frames, as
tutorials have it; all find the same path. Calls aren't interleaved: on a busy machine compare by
``python -m benchmarks.alignments``.
"""

import os

os.environ["CTCX_NUM_THREADS"] = "1"

import numpy as np
import pytest

import ctcx
from benchmarks.textbook import numpy_viterbi, problem, viterbi

# N, T, C, S
SHAPES = {"batch": (32, 400, 32, 60), "long": (1, 20_000, 32, 2_000)}
QUICK = {"batch": (4, 40, 32, 6), "long": (1, 700, 32, 70)}


def align(x, y, backend):
    return ctcx.ctc_align(x, y, backend=backend).states


def occupancies(x, y, backend):
    return ctcx.ctc_occupancies(x, y, backend=backend).classes


def greedy(x, _, backend):
    return ctcx.ctc_greedy(x, backend=backend).labels


def beam_search(x, _, backend):
    return ctcx.ctc_beam_search(x, width=10, exact_scores=False, backend=backend).labels


CALLS = [
    (operation, shape, backend.name)
    for operation in (align, occupancies, greedy, beam_search)
    for shape in SHAPES
    for backend in ctcx.backends()
    if operation.__name__ in backend.operations and {"numpy", "*"} & backend.namespaces
    if (operation, shape) != (beam_search, "long")  # minutes on the core
]
TEXTBOOK = {"textbook, compiled": viterbi, "loop over NumPy rows": numpy_viterbi}
CALLS += [(align, shape, name) for shape in SHAPES for name in TEXTBOOK]


@pytest.mark.parametrize(("operation", "shape", "who"), CALLS)
def test_operation(benchmark, request, operation, shape, who):
    """A benchmark of a wrong result is worth nothing, so it is compared with the core's first."""
    sizes = (QUICK if request.config.getoption("ctcx_quick") else SHAPES)[shape]
    x, y = problem(*sizes)

    def call():
        return TEXTBOOK[who](x, y)[0] if who in TEXTBOOK else operation(x, y, who)

    right = operation(x, y, "array-api")
    np.testing.assert_allclose(call(), right, atol=1e-5)
    benchmark.group = f"{operation.__name__}: {shape} {sizes}"
    benchmark.extra_info.update(operation=operation.__name__, shape=sizes, who=who)
    benchmark.pedantic(call, rounds=10, warmup_rounds=1)
