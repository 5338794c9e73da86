"""``ctcx.compat.optax`` beside Optax itself, in the same process on the same inputs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ctcx
from ctcx.compat import optax as compat
from tests.frameworks.problems import FEW_SHAPES, SETTINGS, assert_right, assert_same, problems

DTYPES = st.sampled_from([np.float32, np.int32, bool])
LOGITS = jnp.zeros((2, 4, 3))
LABELS, NO_LABEL = jnp.asarray([[1, 2], [1, 1]]), jnp.zeros((2, 2))
ALL, SHORT = jnp.zeros((2, 4)), jnp.asarray([[0, 0, 0, 0], [0, 0, 1, 1.0]])


# Compiled once for each shape, in each of the ways that people call them.
def _total(function, x, weights, *rest, blank_id):
    """Weighed sum of the feasible ones, whose gradient is asked for; and all losses."""
    loss = function(x, *rest, blank_id=blank_id)
    return jnp.sum(jnp.where(loss < 9e4, loss, 0) * weights), loss


EAGER = jax.value_and_grad(partial(_total, compat.ctc_loss), has_aux=True)
OURS = {"grad": EAGER, "jit": jax.jit(EAGER, static_argnames="blank_id")}
PROBS = jax.jit(compat.ctc_loss_with_forward_probs, static_argnames="blank_id")
THEIRS = jax.jit(
    jax.value_and_grad(partial(_total, optax.losses.ctc_loss), has_aux=True),
    static_argnames="blank_id",
)


def paddings(problem, dtype, gaps):
    """Paddings of frames and labels; with gaps, the frames' padding is anywhere."""
    frames = np.arange(problem.logits.shape[1]) >= problem.frames[:, None]
    if gaps:
        rng = np.random.default_rng(0)
        frames = rng.permuted(frames, axis=1)
    labels = np.arange(problem.labels.shape[1]) >= problem.lengths[:, None]
    return frames.astype(dtype), labels.astype(dtype)


@SETTINGS
@given(
    problems(dtypes=("float32",), blanks=(0, 1), shapes=FEW_SHAPES),
    DTYPES,
    st.booleans(),
    st.sampled_from(["jit"] * 7 + ["grad"]),
)
def test_loss_and_gradient_are_those_of_optax(problem, dtype, gaps, way):
    frames, labels = map(jnp.asarray, paddings(problem, dtype, gaps))
    arguments = (jnp.asarray(problem.logits), jnp.asarray(problem.weights()))
    rest = (jnp.asarray(problem.labels), labels)
    (_, ours), our_grad = OURS[way](*arguments, frames, *rest, blank_id=problem.blank)
    # Optax multiplies by paddings, so it needs them as numbers.
    as_numbers = (frames.astype(jnp.float32), rest[0], rest[1].astype(jnp.float32))
    (_, loss), grad = THEIRS(*arguments, *as_numbers, blank_id=problem.blank)
    fine = problem.feasible
    assert_same(np.asarray(ours)[fine], np.asarray(loss)[fine], "float32")
    assert (np.asarray(ours)[~fine] == np.inf).all()
    assert (np.asarray(loss)[~fine] > 9e4).all()
    assert_same(np.asarray(our_grad)[fine], np.asarray(grad)[fine], "float32")
    assert (np.asarray(our_grad)[~fine] == 0).all()
    if not gaps:
        assert_right(problem, ours, our_grad, problem.weights())


@SETTINGS
@given(
    problems(dtypes=("float32",), blanks=(0, 1), shapes=FEW_SHAPES),
    DTYPES,
    st.booleans(),
    st.sampled_from(["jit", "jit", "numpy", ""]),
)
def test_forward_probabilities_are_those_of_optax(problem, dtype, gaps, way):
    frames, labels = paddings(problem, dtype, gaps)
    arguments = (problem.logits, frames, problem.labels, labels)
    function = compat.ctc_loss_with_forward_probs
    if way == "jit":
        function = PROBS
    convert = np.asarray if way == "numpy" else jnp.asarray
    ours = function(*map(convert, arguments), blank_id=problem.blank)
    assert isinstance(ours[1], np.ndarray if way == "numpy" else jax.Array)
    expected = optax.losses.ctc_loss_with_forward_probs(
        problem.logits,
        jnp.asarray(frames, dtype=jnp.float32),
        problem.labels,
        jnp.asarray(labels, dtype=jnp.float32),
        blank_id=problem.blank,
    )
    fine = problem.feasible
    assert_same(np.asarray(ours[0])[fine], np.asarray(expected[0])[fine], "float32")
    for one, other in zip(ours[1:], expected[1:], strict=True):
        assert_same(np.asarray(one), np.asarray(other), "float32")


def test_forward_probabilities_can_be_differentiated():
    def mass(x, function):
        return jnp.sum(function(x, SHORT, LABELS, NO_LABEL)[1][-1, 0])

    ours = jax.grad(mass)(LOGITS, compat.ctc_loss_with_forward_probs)
    theirs = jax.grad(mass)(LOGITS, optax.losses.ctc_loss_with_forward_probs)
    assert_same(ours, theirs)


def test_paddings_that_are_known_while_the_logits_are_traced():
    expected = optax.losses.ctc_loss(LOGITS, SHORT, LABELS[:, :1], NO_LABEL[:, :1])
    run = jax.jit(lambda x: compat.ctc_loss(x, SHORT, LABELS[:, :1], NO_LABEL[:, :1]))
    assert_same(run(LOGITS), expected)


def test_vmap():
    x = jax.random.normal(jax.random.key(0), (3, 2, 4, 3))
    ours = jax.vmap(lambda x: compat.ctc_loss(x, ALL, LABELS, NO_LABEL))(x)
    theirs = jax.vmap(lambda x: optax.losses.ctc_loss(x, ALL, LABELS, NO_LABEL))(x)
    assert_same(ours, theirs)


# Each of these is a row of the table on the page "Coming from Optax":
# what is passed | what Optax does | what ctcx does.


def test_difference_infeasible():
    """Labels that no path emits | about 100,000, a gradient that means nothing | +inf, gradient
    0"""
    loss = optax.losses.ctc_loss(LOGITS, SHORT, LABELS, NO_LABEL)
    assert 99_000 < loss[1] < 101_000
    grad = jax.grad(lambda x: optax.losses.ctc_loss(x, SHORT, LABELS, NO_LABEL)[1])(LOGITS)
    assert jnp.abs(grad).max() > 0.1
    for call in (compat.ctc_loss, jax.jit(compat.ctc_loss)):
        assert call(LOGITS, SHORT, LABELS, NO_LABEL)[1] == jnp.inf
        grad = jax.grad(lambda x, f=call: jnp.sum(f(x, SHORT, LABELS, NO_LABEL)))(LOGITS)
        assert (grad[1] == 0).all()
        assert jnp.isfinite(grad).all()


def test_difference_masked_class():
    """A logit of -inf, for any class | NaN | right"""
    masked = jnp.concatenate([LOGITS, jnp.full((2, 4, 1), -jnp.inf)], axis=2)
    assert jnp.isnan(optax.losses.ctc_loss(masked, ALL, LABELS, NO_LABEL)).any()
    assert_same(
        compat.ctc_loss(masked, ALL, LABELS, NO_LABEL),
        optax.losses.ctc_loss(LOGITS, ALL, LABELS, NO_LABEL),
    )


def test_difference_padding():
    """NaN in padded frames | NaN | never matters"""
    x = LOGITS.at[1, 2:].set(jnp.nan)
    assert jnp.isnan(optax.losses.ctc_loss(x, SHORT, LABELS[:, :1], NO_LABEL[:, :1])).any()
    for call in (compat.ctc_loss, jax.jit(compat.ctc_loss)):
        assert_same(
            call(x, SHORT, LABELS[:, :1], NO_LABEL[:, :1]),
            optax.losses.ctc_loss(LOGITS, SHORT, LABELS[:, :1], NO_LABEL[:, :1]),
        )


def test_difference_out_of_range():
    """A label that is negative or not a class | a label that costs nothing: too small a loss | an
    error that names it, where values can be read"""
    labels = LABELS.at[1, 1].set(9)
    assert jnp.isfinite(optax.losses.ctc_loss(LOGITS, ALL, labels, NO_LABEL)).all()
    with pytest.raises(ctcx.CTCInputError, match=r"labels\[1, 1\] is 9 "):
        compat.ctc_loss(LOGITS, ALL, labels, NO_LABEL)


def test_difference_blank_among_labels():
    """The blank among the labels | an extra blank, silently | an error that names it, where values
    can be read"""
    labels = LABELS.at[1, 1].set(0)
    assert jnp.isfinite(optax.losses.ctc_loss(LOGITS, ALL, labels, NO_LABEL)).all()
    with pytest.raises(ctcx.CTCInputError, match=r"labels\[1, 1\] is 0 .*the blank \(blank_id=0\)"):
        compat.ctc_loss(LOGITS, ALL, labels, NO_LABEL)


def test_difference_negative_blank():
    """A negative `blank_id` | a TypeError about shapes | counted from the end"""
    labels = jnp.asarray([[1, 0], [1, 1]])
    with pytest.raises(TypeError):
        optax.losses.ctc_loss(LOGITS, ALL, labels, NO_LABEL, blank_id=-1)
    assert_same(
        compat.ctc_loss(LOGITS, ALL, labels, NO_LABEL, blank_id=-1),
        optax.losses.ctc_loss(LOGITS, ALL, labels, NO_LABEL, blank_id=2),
    )


def test_difference_float_labels():
    """Labels of a floating dtype | accepted | an error"""
    floats = LABELS.astype(jnp.float32)
    with pytest.warns(DeprecationWarning, match="."):  # of JAX
        assert jnp.isfinite(optax.losses.ctc_loss(LOGITS, ALL, floats, NO_LABEL)).all()
    with pytest.raises(ctcx.CTCInputError, match="labels must have an integer dtype"):
        compat.ctc_loss(LOGITS, ALL, floats, NO_LABEL)


def test_difference_half_padding():
    """Paddings other than 0 and 1 | a mixture of both | an error, where values can be read"""
    assert jnp.isfinite(optax.losses.ctc_loss(LOGITS, ALL + 0.5, LABELS, NO_LABEL)).all()
    with pytest.raises(ctcx.CTCInputError, match="logit_paddings must be 0 or 1 everywhere"):
        compat.ctc_loss(LOGITS, ALL + 0.5, LABELS, NO_LABEL)


def test_difference_label_gap():
    """Padding before a label | the wrong labels, silently | an error, where values can be read"""
    gap = jnp.asarray([[0, 0], [1, 0]])
    theirs = optax.losses.ctc_loss(LOGITS, ALL, LABELS, gap)
    np.testing.assert_array_equal(
        theirs, optax.losses.ctc_loss(LOGITS, ALL, LABELS, jnp.asarray([[0, 0], [0, 1]]))
    )
    with pytest.raises(ctcx.CTCInputError, match="label_paddings must have its ones after"):
        compat.ctc_loss(LOGITS, ALL, LABELS, gap)


def test_difference_negative_loss():
    """A confident model in float32 | a loss may be below 0 | never"""
    # Whether one of Optax is below 0 is a matter of its rounding, so of the CPU.
    x = np.random.default_rng(0).standard_normal((64, 6, 4)) + 20 * np.eye(4)[[1, 1, 0, 2, 2, 0]]
    labels, none = jnp.asarray([[1, 2]] * 64), jnp.zeros((64, 2))
    arguments = (jnp.asarray(x, dtype=jnp.float32), jnp.zeros((64, 6)), labels, none)
    assert_same(compat.ctc_loss(*arguments), optax.losses.ctc_loss(*arguments))
    assert (compat.ctc_loss(*arguments) >= 0).all()


def test_difference_numpy():
    """NumPy arrays | JAX arrays | NumPy arrays"""
    arguments = tuple(map(np.asarray, (LOGITS, ALL, LABELS, NO_LABEL)))
    assert isinstance(optax.losses.ctc_loss(*arguments), jax.Array)
    assert isinstance(compat.ctc_loss(*arguments), np.ndarray)
