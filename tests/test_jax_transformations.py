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


@pytest.mark.parametrize(
    "mode", [(jax.numpy_dtype_promotion, "strict"), (jax.numpy_rank_promotion, "raise")]
)
def test_alignments_and_decoders_promote_nothing(mode):
    context, how = mode
    logits, labels, frames, counts = map(jax.numpy.asarray, random_problem(0, 2, 9, 5, 2))
    guided = {"boost": {(1, 2): 1.0}, "width": 3, "top": 2}
    with context(how):
        found = (
            ctcx.ctc_align(logits, labels, frames, counts, infeasible="empty").states,
            ctcx.ctc_greedy(logits, frames).labels,
            ctcx.ctc_beam_search(logits, frames, width=3, top=2).starts,
            ctcx.ctc_beam_search(logits, frames, **guided).starts,
        )
    host = [np.asarray(array) for array in (logits, labels, frames, counts)]
    expected = (
        ctcx.ctc_align(*host, infeasible="empty").states,
        ctcx.ctc_greedy(host[0], host[2]).labels,
        ctcx.ctc_beam_search(host[0], host[2], width=3, top=2).starts,
        ctcx.ctc_beam_search(host[0], host[2], **guided).starts,
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_float64_is_refused_where_jax_computes_in_float32():
    with jax.enable_x64(True):
        logits, weight = jax.numpy.zeros((2, 3, 4)), jax.numpy.eye(4)
        loss = ctcx.ctc_loss(logits, [[1], [2]])
        assert loss.dtype == np.float64
    for call in (
        lambda x: ctcx.ctc_loss(x, [[1], [2]]),
        lambda x: ctcx.ctc_loss_and_grad(x, [[1], [2]]),
        lambda x: ctcx.ctc_align(x, [[1], [2]]),
        lambda x: ctcx.ctc_occupancies(x, [[1], [2]]),
        lambda x: ctcx.ctc_sample_paths(x, [[1], [2]], np.full((2, 1, 3), 0.5)),
        ctcx.ctc_greedy,
        ctcx.ctc_beam_search,
        lambda x: ctcx.linear_ctc_loss_and_grad(x, weight, None, [[1], [2]]),
        jax.grad(lambda x: ctcx.ctc_loss(x, [[1], [2]]).sum()),
    ):
        with pytest.raises(ctcx.CTCInputError, match="are float64, but JAX's 64-bit mode is off"):
            call(logits)
