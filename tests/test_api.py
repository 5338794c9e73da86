"""The public functions: layouts, lengths, forms of labels, reductions, policies."""

import numpy as np
import pytest

import ctcx
from ctcx.data.bundled import notebook_fixture
from tests.helpers import optional, random_problem

jax, jnp, torch = optional("jax"), optional("jax.numpy"), optional("torch")

PROBLEM = random_problem(0, 4, 20, 6, 5)


@pytest.fixture
def plain():
    return ctcx.ctc_loss_and_grad(*PROBLEM)


def test_the_notebook():
    fixture = notebook_fixture()
    result = ctcx.ctc_loss_and_grad(
        fixture.logits, fixture.labels, fixture.logit_lengths, fixture.label_lengths, blank=-1
    )
    np.testing.assert_allclose(result.loss, fixture.expected_loss, rtol=1e-6)
    np.testing.assert_allclose(result.grad, fixture.expected_grad, atol=1e-6)


def test_loss_is_the_loss_of_loss_and_grad(plain):
    np.testing.assert_allclose(ctcx.ctc_loss(*PROBLEM), plain.loss, rtol=1e-6)


def test_time_major(plain):
    logits, *rest = PROBLEM
    result = ctcx.ctc_loss_and_grad(np.swapaxes(logits, 0, 1), *rest, time_major=True)
    assert result.grad.shape == (20, 4, 6)
    np.testing.assert_array_equal(np.swapaxes(result.grad, 0, 1), plain.grad)


def test_one_sequence(plain):
    logits, labels, logit_lengths, label_lengths = (a[1] for a in PROBLEM)
    result = ctcx.ctc_loss_and_grad(logits, labels, int(logit_lengths), int(label_lengths))
    assert result.loss.shape == result.feasible.shape == ()
    np.testing.assert_allclose(result.loss, plain.loss[1], rtol=1e-6)
    np.testing.assert_allclose(result.grad, plain.grad[1], atol=1e-6)
    from_list = ctcx.ctc_loss(logits, labels[:label_lengths].tolist(), logit_lengths)
    np.testing.assert_allclose(from_list, plain.loss[1], rtol=1e-6)


def test_ragged_lists_bring_their_lengths(plain):
    logits, labels, logit_lengths, label_lengths = PROBLEM
    lists = [row[:n].tolist() for row, n in zip(labels, label_lengths, strict=True)]
    np.testing.assert_allclose(
        ctcx.ctc_loss(logits, lists, logit_lengths.tolist()), plain.loss, rtol=1e-6
    )


def test_negative_blank_counts_from_the_end():
    logits, labels, *lengths = random_problem(1, 2, 9, 5, 3, blank=4)
    np.testing.assert_array_equal(
        ctcx.ctc_loss(logits, labels, *lengths, blank=-1),
        ctcx.ctc_loss(logits, labels, *lengths, blank=4),
    )


def test_lengths_default_to_all():
    logits, labels, *_ = random_problem(2, 2, 12, 5, 3)
    np.testing.assert_array_equal(
        ctcx.ctc_loss(logits, labels), ctcx.ctc_loss(logits, labels, [12, 12], [3, 3])
    )


@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "mean_per_label"])
def test_reductions_and_their_gradients(reduction, plain):
    labels = np.maximum(PROBLEM[3], 1)
    weights = {
        "none": np.ones(4),
        "sum": np.ones(4),
        "mean": np.full(4, 1 / 4),
        "mean_per_label": 1 / (4 * labels),
    }[reduction].astype(np.float32)
    result = ctcx.ctc_loss_and_grad(*PROBLEM, reduction=reduction)
    expected = plain.loss if reduction == "none" else np.sum(plain.loss * weights)
    np.testing.assert_allclose(result.loss, expected, rtol=1e-6)
    np.testing.assert_allclose(result.grad, plain.grad * weights[:, None, None], atol=1e-6)
    assert result.grad.dtype == np.float32
    assert result.feasible.shape == (4,)
    np.testing.assert_allclose(ctcx.ctc_loss(*PROBLEM, reduction=reduction), expected, rtol=1e-6)


def test_the_mean_per_label_is_torchs_mean():
    logits, labels, logit_lengths, label_lengths = (torch.tensor(a) for a in PROBLEM)
    theirs = torch.nn.functional.ctc_loss(
        logits.double().log_softmax(-1).swapaxes(0, 1), labels, logit_lengths, label_lengths
    )
    ours = ctcx.ctc_loss(*PROBLEM, reduction="mean_per_label")
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-6)


@pytest.mark.parametrize("reduction", ["sum", "mean", "mean_per_label"])
def test_no_sequences_reduce_to_nothing(reduction):
    logits = np.zeros((0, 5, 3), dtype=np.float32)
    result = ctcx.ctc_loss_and_grad(logits, [], reduction=reduction)
    assert result.loss == 0
    assert result.grad.shape == (0, 5, 3)


INFEASIBLE = (np.zeros((3, 2, 3), dtype=np.float32), [[1], [1, 1], [2, 1]])


def test_infeasible_is_inf_with_gradient_zero():
    result = ctcx.ctc_loss_and_grad(*INFEASIBLE)
    np.testing.assert_array_equal(result.feasible, [True, False, True])
    assert np.isposinf(result.loss[1])
    assert not result.grad[1].any()


def test_infeasible_as_zero():
    assert ctcx.ctc_loss(*INFEASIBLE, infeasible="zero")[1] == 0
    reduced = ctcx.ctc_loss_and_grad(*INFEASIBLE, infeasible="zero", reduction="mean")
    assert np.isfinite(reduced.loss)
    assert np.isfinite(reduced.grad).all()


def test_infeasible_as_an_error_names_the_sequences():
    with pytest.raises(
        ctcx.InfeasibleError, match=r"1 of 3 sequences: 1\. Sequence 1 has 2 frames"
    ):
        ctcx.ctc_loss(*INFEASIBLE, infeasible="raise")
    with pytest.raises(ctcx.InfeasibleError) as caught:
        ctcx.ctc_loss_and_grad(*INFEASIBLE, infeasible="raise")
    assert caught.value.sequences == (1,)
    feasible = ctcx.ctc_loss(INFEASIBLE[0][:1], [[1]], infeasible="raise")
    assert np.isfinite(feasible).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_computes_in_float32(dtype):
    logits, *rest = PROBLEM
    dtype = getattr(torch, dtype)
    half = torch.tensor(logits).to(dtype)
    result = ctcx.ctc_loss_and_grad(half, *rest)
    exact = ctcx.ctc_loss_and_grad(half.to(torch.float32), *rest)
    assert result.loss.dtype == torch.float32
    assert result.grad.dtype == dtype
    torch.testing.assert_close(result.loss, exact.loss)
    torch.testing.assert_close(result.grad, exact.grad.to(dtype))


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_results_come_back_in_the_library_of_the_logits(plain, library):
    logits, *rest = PROBLEM
    make = torch.tensor if library == "torch" else jnp.asarray
    result = ctcx.ctc_loss_and_grad(make(logits), *rest)
    assert type(result.loss) is type(make(logits))
    np.testing.assert_allclose(np.asarray(result.grad), plain.grad, atol=1e-6)


def test_under_jax_jit(plain):
    """Values can't be read there: checks of values are skipped, and nothing else changes."""
    jitted = jax.jit(ctcx.ctc_loss_and_grad, static_argnames=("reduction", "infeasible"))
    result = jitted(*(jnp.asarray(a) for a in PROBLEM))
    np.testing.assert_allclose(np.asarray(result.loss), plain.loss, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(result.grad), plain.grad, atol=1e-6)
    with pytest.raises(ctcx.CTCInputError, match="while tracing"):
        jitted(*(jnp.asarray(a) for a in PROBLEM), infeasible="raise")


def test_jit_compiles_long_inputs():
    """An unrolled loop over these frames would take XLA the better part of an hour."""
    logits, *rest = random_problem(3, 1, 1500, 5, 20, ragged=False)
    result = jax.jit(ctcx.ctc_loss_and_grad)(jnp.asarray(logits), *(jnp.asarray(a) for a in rest))
    np.testing.assert_allclose(np.asarray(result.loss), ctcx.ctc_loss(logits, *rest), rtol=1e-6)


def test_read_only_inputs():
    arrays = [np.copy(a) for a in PROBLEM]
    for array in arrays:
        array.flags.writeable = False
    ctcx.ctc_loss_and_grad(*arrays)


def test_not_contiguous_inputs(plain):
    logits, *rest = PROBLEM
    wide = np.zeros((4, 40, 12), dtype=np.float32)
    wide[:, ::2, ::2] = logits
    result = ctcx.ctc_loss_and_grad(wide[:, ::2, ::2], *rest)
    np.testing.assert_array_equal(result.grad, plain.grad)


def test_more_logits_than_indices_can_count_are_declined():
    """JAX has 32-bit indices by default; shapes alone show it, so nothing is allocated."""
    logits = jax.ShapeDtypeStruct((1, 3_000, 1_000_000), np.float32)
    labels = jax.ShapeDtypeStruct((1, 4), np.int32)
    with pytest.raises(ctcx.BackendError, match=r"3000 x 1000000 logits .* \(2147483647\)"):
        jax.eval_shape(ctcx.ctc_loss_and_grad, logits, labels)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_mean_over_many_sequences_of_many_labels_in_half_precision(dtype):
    """2,000 sequences of 40 labels: more labels than float16 has numbers."""
    logits, labels, *lengths = random_problem(0, 2000, 44, 4, 40)
    lengths[0][:], lengths[1][:] = 44, 40
    labels = np.arange(40)[None, :] % 3 + np.ones((2000, 1), dtype=int)
    dtype = getattr(torch, dtype)
    logits = torch.tensor(logits).to(dtype)
    grad = ctcx.ctc_loss_and_grad(
        logits, labels, *lengths, reduction="mean_per_label", backend="array-api"
    ).grad
    expected = ctcx.ctc_loss_and_grad(
        logits.double(), labels, *lengths, reduction="mean_per_label", backend="array-api"
    ).grad
    assert grad.dtype == dtype
    assert expected.abs().max() > 1e-6
    np.testing.assert_allclose(grad.double(), expected, atol=2e-7, rtol=0.02)
