"""Arrays with values in every way in which JAX calls a function, on the core."""

import itertools
from importlib import import_module

import pytest

from tests.helpers import needed

needed("jax")
table = import_module("tests.jax_transformations")

OPERATIONS = list(table.expected())
QUICK = {
    ("jit", table.gradient),
    ("scan", table.loss),
    ("checkpoint", table.loss_of_lists),
    ("jit of cond", table.loss),
    ("shard_map", table.loss),
    ("ensure_compile_time_eval", table.gradient),
    ("vmap", table.gradient),
    ("strict dtype promotion", table.gradient),
    ("debug_nans", table.gradient),
}
# XLA takes a second or more to compile each one.
ALL = [
    pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow)
    for pair in itertools.product(table.TRANSFORMATIONS, OPERATIONS)
]


@pytest.mark.parametrize(("transformation", "operation"), ALL)
def test_arrays_with_values(transformation, operation):
    table.check(transformation, operation, "array-api")
