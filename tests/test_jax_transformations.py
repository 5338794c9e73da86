"""On the core: arrays with values in each way that JAX calls a function; programs of any size."""

import itertools
from importlib import import_module

import numpy as np
import pytest

import ctcx
from tests.helpers import needed, random_problem

jax = needed("jax")
needed("jax.export")
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


def exported(function, dims, count=4):
    """A function of logits, labels and lengths, through ``jax.export`` and back."""
    rows, frames, classes, width = jax.export.symbolic_shape(dims)
    shapes = [(rows, frames, classes), (rows, width), (rows,), (rows,)][:count]
    kinds = ("float32", "int32", "int32", "int32")
    arguments = [jax.ShapeDtypeStruct(*pair) for pair in zip(shapes, kinds, strict=False)]
    return jax.export.deserialize(jax.export.export(jax.jit(function))(*arguments).serialize())


def mean_and_gradient(logits, *rest):
    loss = lambda x: ctcx.ctc_loss(x, *rest, reduction="mean_per_label")
    return jax.value_and_grad(loss)(logits)


def without_lengths(logits, labels):
    return tuple(ctcx.ctc_loss_and_grad(logits, labels, reduction="mean"))[:2]


def second(logits, *rest):
    return ctcx.ctc_hvp(logits, *rest, vector=logits * 2)


@pytest.mark.parametrize(
    ("function", "count", "in_numpy"),
    [
        (
            mean_and_gradient,
            4,
            lambda *a: tuple(ctcx.ctc_loss_and_grad(*a, reduction="mean_per_label"))[:2],
        ),
        pytest.param(without_lengths, 2, without_lengths, marks=pytest.mark.slow),
        pytest.param(second, 4, second, marks=pytest.mark.slow),
        pytest.param(ctcx.ctc_loss, 4, ctcx.ctc_loss, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    "dims", ["n, t, 5, 4", *(pytest.param(d, marks=pytest.mark.slow) for d in ("n, t, c, s",))]
)
def test_export_with_sizes_that_are_undecided(function, count, in_numpy, dims):
    program = exported(function, dims, count)
    for rows, frames in ((1, 1), (2, 9), (3, 40)):
        logits, *integers = random_problem(0, rows, frames, 5, 4)
        arrays = (logits, *(array.astype("int32") for array in integers))[:count]
        compare = lambda one, other: np.testing.assert_allclose(one, other, rtol=2e-6, atol=5e-6)
        jax.tree.map(compare, program.call(*arrays), in_numpy(*arrays))


def test_a_blank_counted_from_the_end_of_classes_that_are_undecided():
    with pytest.raises(ctcx.CTCInputError, match="blank=-1 counts from the end"):
        exported(lambda *a: ctcx.ctc_loss(*a, blank=-1), "n, t, c, s")
