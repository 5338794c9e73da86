"""Differentiation by JAX."""

import itertools
from importlib import import_module

import numpy as np
import pytest

import ctcx
from tests.autodiff_plugin import PLUGIN
from tests.helpers import needed

jax, jnp = needed("jax"), needed("jax.numpy")
check_grads = needed("jax.test_util").check_grads

LABELS = [[1, 2], [3, 3, 1], [2], [1, 1, 1]]
LENGTHS = [6, 5, 0, 4]  # the last two can't be emitted


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def tiny_logits():
    """Four sequences; a masked class, and rubbish past a length."""
    logits = np.random.default_rng(0).standard_normal((4, 6, 4))
    logits[0, 2, 3] = -np.inf
    logits[1, 5:] = np.nan
    return jnp.asarray(logits)


def finite_logits():
    return jnp.asarray(np.random.default_rng(1).standard_normal((3, 7, 4)))


# Under jit each takes seconds to compile, so not every combination.
@pytest.mark.parametrize(
    ("wrap", "infeasible", "reduction", "time_major"),
    [
        *itertools.product(
            [lambda f: f],
            ["inf", "zero"],
            ["sum", "mean", "mean_per_label"],
            [False, True],
        ),
        (jax.jit, "inf", "sum", False),
        (jax.jit, "zero", "mean_per_label", True),
    ],
)
def test_value_and_grad(wrap, infeasible, reduction, time_major):
    logits = tiny_logits()
    if time_major:
        logits = jnp.moveaxis(logits, 0, 1)
    options = {"reduction": reduction, "infeasible": infeasible, "time_major": time_major}
    expected = ctcx.ctc_loss_and_grad(logits, LABELS, LENGTHS, **options)
    loss = lambda x: ctcx.ctc_loss(x, LABELS, LENGTHS, **options)
    value, grad = wrap(jax.value_and_grad(loss))(logits)
    np.testing.assert_allclose(value, expected.loss, rtol=1e-12)
    np.testing.assert_allclose(grad, expected.grad, atol=1e-12)
    assert np.isfinite(grad).all()


def test_check_grads():
    loss = lambda x: ctcx.ctc_loss(x, LABELS[:3], [7, 5, 6])
    check_grads(loss, (finite_logits(),), order=1, modes=["fwd", "rev"])


def test_one_sequence():
    grad = jax.grad(ctcx.ctc_loss)(finite_logits()[0], [1, 2])
    expected = ctcx.ctc_loss_and_grad(finite_logits()[0], [1, 2]).grad
    np.testing.assert_allclose(grad, expected, atol=1e-12)


def test_an_infinite_loss_squared_has_the_gradient_0():
    grad = jax.grad(lambda x: jnp.sum(ctcx.ctc_loss(x, LABELS, LENGTHS) ** 2))(tiny_logits())
    assert np.isfinite(grad).all()
    assert not grad[2:].any()
    assert grad[:2].any()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision(dtype):
    logits = finite_logits().astype(dtype)
    grad = jax.grad(lambda x: 256 * ctcx.ctc_loss(x, LABELS[:3], reduction="sum"))(logits)
    expected = ctcx.ctc_loss_and_grad(logits, LABELS[:3]).grad
    assert grad.dtype == dtype
    np.testing.assert_allclose(
        grad.astype(jnp.float32), 256 * expected.astype(jnp.float32), rtol=0.01, atol=1e-3
    )


def test_without_jit_values_are_checked_and_any_backend_will_do():
    """Only the outside of the call is traced: the kernel gets arrays."""
    with ctcx.trace() as runs:
        jax.grad(lambda x: ctcx.ctc_loss(x, LABELS[:3], reduction="sum"))(finite_logits())
    assert [(run.problem.operation, run.problem.traced) for run in runs] == [
        ("loss_and_grad", False)
    ]
    bad = finite_logits().at[1, 2, 0].set(jnp.nan)
    with pytest.raises(ctcx.CTCInputError, match=r"logits\[1, 2, 0\] is nan"):
        jax.grad(lambda x: ctcx.ctc_loss(x, LABELS[:3], reduction="sum"))(bad)
    with pytest.raises(ctcx.InfeasibleError, match="2 of 4 sequences: 2, 3"):
        jax.grad(lambda x: ctcx.ctc_loss(x, LABELS, LENGTHS, infeasible="raise").sum())(
            tiny_logits()
        )


def test_infeasible_raise_is_refused_under_jit():
    with pytest.raises(ctcx.CTCInputError, match='while tracing: pass infeasible="inf" or'):
        jax.jit(lambda x: ctcx.ctc_loss(x, LABELS, infeasible="raise"))(tiny_logits())


def test_vmap_of_sequences_with_their_labels():
    labels = jnp.asarray([[1, 2], [3, 1], [2, 2]])
    expected = ctcx.ctc_loss_and_grad(finite_logits(), labels)
    loss, grad = jax.vmap(jax.value_and_grad(ctcx.ctc_loss))(finite_logits(), labels)
    np.testing.assert_allclose(loss, expected.loss, rtol=1e-12)
    np.testing.assert_allclose(grad, expected.grad, atol=1e-12)


def test_vmap_of_labels_alone():
    labels = jnp.asarray([[1, 2], [3, 1]])
    logits = finite_logits()[:1]
    loss = jax.vmap(ctcx.ctc_loss, in_axes=(None, 0))(logits[0], labels)
    expected = ctcx.ctc_loss(jnp.concatenate([logits, logits]), labels)
    np.testing.assert_allclose(loss, expected, rtol=1e-12)


@pytest.mark.parametrize("reduction", ["sum", "mean_per_label"])
def test_second_derivatives_in_both_modes(reduction):
    logits = tiny_logits()
    vector = jnp.asarray(np.random.default_rng(2).standard_normal(logits.shape))
    options = {"reduction": reduction, "infeasible": "zero"}
    grad = jax.grad(lambda x: ctcx.ctc_loss(x, LABELS, LENGTHS, **options))
    product = ctcx.ctc_hvp(logits, LABELS, LENGTHS, vector=vector, **options)
    _, forward_over_reverse = jax.jvp(grad, (logits,), (vector,))
    reverse_over_reverse = jax.grad(lambda x: jnp.vdot(grad(x), vector))(logits)
    np.testing.assert_allclose(forward_over_reverse, product, atol=1e-14)
    np.testing.assert_allclose(reverse_over_reverse, product, atol=1e-14)
    assert np.isfinite(product).all()
    # The differences are of finite logits: nothing can be added to what is masked.
    step = 1e-3
    at = lambda k: np.asarray(grad(logits + k * step * vector))
    differences = (at(-2) - 8 * at(-1) + 8 * at(1) - at(2)) / (12 * step)
    np.testing.assert_allclose(product, differences, atol=1e-9)


def test_check_grads_of_second_order():
    logits = finite_logits()[:, :4]
    loss = lambda x: ctcx.ctc_loss(x, [[1, 2], [3, 1], [2]], [4, 3, 4])
    check_grads(loss, (logits,), order=2, modes=["fwd", "rev"], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.thorough
def test_the_whole_matrix_under_jit():
    logits = finite_logits()[0, :4]
    matrix = jax.jit(jax.hessian(lambda x: ctcx.ctc_loss(x, [1, 2])))(logits)
    flat = np.asarray(matrix).reshape(logits.size, logits.size)
    np.testing.assert_allclose(flat, flat.T, atol=1e-15)
    np.testing.assert_allclose(matrix.sum(axis=1), 0, atol=1e-15)
    product = ctcx.ctc_hvp(logits, [1, 2], vector=jnp.ones_like(logits).at[0, 0].set(2))
    np.testing.assert_allclose(product.ravel(), flat[:, 0], atol=1e-14)


def test_third_derivatives_are_refused():
    loss = lambda x: ctcx.ctc_loss(x, [1, 2])
    with pytest.raises(NotImplementedError, match="no third derivatives"):
        jax.jvp(jax.hessian(loss), (finite_logits()[0],), (finite_logits()[1],))


@pytest.fixture
def plugin(plugins):
    plugins.write("remembering", PLUGIN)
    plugins.load()
    return import_module("ctcx_remembering")


def test_a_plugin_that_cannot_be_traced_gives_the_gradient(plugin):
    """It gets the caller's own buffer, and is refused where there are only tracers."""
    logits = finite_logits()
    loss = lambda x: ctcx.ctc_loss(x, LABELS[:3], reduction="sum", backend="remembering")
    grad = jax.grad(loss)(logits)
    ((arrays, (_, given)),) = plugin.calls
    assert arrays[0].unsafe_buffer_pointer() == logits.unsafe_buffer_pointer()
    np.testing.assert_array_equal(grad, given)
    with pytest.raises(ctcx.BackendRejectedError, match="rejected"):
        jax.jit(jax.grad(loss))(logits)


@pytest.mark.slow
@pytest.mark.thorough
def test_hessians_of_many_entries():
    """More than 2**15 numbers at once, where XLA's fusions differ."""
    frames, classes = 13, 7
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.standard_normal((2, frames, classes)), dtype="float32")
    labels = rng.integers(1, classes, (2, 3))

    def loss(x):
        return ctcx.ctc_loss(x, labels, reduction="sum", backend="array-api")

    size = logits.size
    forward = jax.jacfwd(jax.grad(loss))(logits).reshape(size, size)
    backward = jax.jacrev(jax.grad(loss))(logits).reshape(size, size)
    np.testing.assert_allclose(forward, backward, atol=1e-6)
    np.testing.assert_allclose(forward, forward.T, atol=1e-6)
