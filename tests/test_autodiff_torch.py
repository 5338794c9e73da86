"""Differentiation by PyTorch."""

import numpy as np
import pytest
import torch

import ctcx
from tests.helpers import random_problem

REDUCTIONS = ("none", "sum", "mean", "mean_per_label")
POLICIES = ("inf", "zero")
LABELS = [[1, 2], [3, 3, 1], [2], [1, 1, 1]]
LENGTHS = [6, 5, 0, 4]  # the last two can't be emitted


def tiny_logits(dtype=torch.float64):
    """Four sequences; a masked class, and rubbish past a length."""
    logits = torch.tensor(np.random.default_rng(0).standard_normal((4, 6, 4)))
    logits[0, 2, 3] = -torch.inf
    logits[1, 5:] = torch.nan
    return logits.to(dtype)


def leaf(logits):
    return logits.clone().requires_grad_()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("infeasible", POLICIES)
@pytest.mark.parametrize("time_major", [False, True])
def test_backward_gives_the_gradient(reduction, infeasible, time_major):
    logits = tiny_logits()
    if time_major:
        logits = logits.movedim(0, 1)
    options = {"reduction": reduction, "infeasible": infeasible, "time_major": time_major}
    expected = ctcx.ctc_loss_and_grad(logits, LABELS, LENGTHS, **options)
    x = leaf(logits)
    loss = ctcx.ctc_loss(x, LABELS, LENGTHS, **options)
    loss.sum().backward()
    torch.testing.assert_close(loss.detach(), expected.loss)
    torch.testing.assert_close(x.grad, expected.grad)
    assert bool(torch.isfinite(x.grad).all())


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradcheck(reduction):
    logits = torch.tensor(random_problem(1, 3, 7, 4, 2, dtype=np.float64)[0])

    def loss(x):
        return ctcx.ctc_loss(x, LABELS[:3], [7, 5, 6], reduction=reduction, time_major=False)

    assert torch.autograd.gradcheck(loss, (leaf(logits),))


def test_gradcheck_of_one_sequence():
    logits = torch.tensor(random_problem(1, 1, 7, 4, 2, dtype=np.float64)[0][0])
    assert torch.autograd.gradcheck(lambda x: ctcx.ctc_loss(x, [1, 2]), (leaf(logits),))


def test_each_sequence_is_weighted_by_what_comes_from_above():
    weights = torch.tensor([2.0, -3.0, torch.inf, 5.0], dtype=torch.float64)
    x, plain = leaf(tiny_logits()), ctcx.ctc_loss_and_grad(tiny_logits(), LABELS, LENGTHS)
    ctcx.ctc_loss(x, LABELS, LENGTHS).backward(weights)
    finite = torch.where(plain.feasible, weights, 0.0)
    torch.testing.assert_close(x.grad, plain.grad * finite[:, None, None])


def test_an_infinite_loss_squared_has_the_gradient_0():
    x = leaf(tiny_logits())
    (ctcx.ctc_loss(x, LABELS, LENGTHS) ** 2).sum().backward()
    assert bool(torch.isfinite(x.grad).all())
    assert not x.grad[2:].any()
    assert bool(x.grad[:2].any())


def test_retain_graph():
    x = leaf(tiny_logits())
    loss = ctcx.ctc_loss(x, LABELS, LENGTHS, reduction="sum", infeasible="zero")
    loss.backward(retain_graph=True)
    once = x.grad.clone()
    loss.backward()
    torch.testing.assert_close(x.grad, 2 * once)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_under_autocast(dtype):
    """As in training: half logits, a loss in float32, and a gradient scaled up."""
    linear = torch.nn.Linear(8, 4)
    features = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=dtype):
        logits = linear(features)
        logits.retain_grad()
        loss = ctcx.ctc_loss(logits, LABELS, reduction="sum", infeasible="zero")
    assert logits.dtype == dtype
    assert loss.dtype == torch.float32
    (loss * 256).backward()
    expected = ctcx.ctc_loss_and_grad(logits.detach(), LABELS, infeasible="zero").grad
    assert logits.grad.dtype == dtype
    torch.testing.assert_close(logits.grad, expected * 256)
    assert bool(torch.isfinite(linear.weight.grad).all())


def test_nothing_is_recorded_unless_a_gradient_is_asked_for():
    x = leaf(tiny_logits())
    with torch.no_grad(), ctcx.trace() as runs:
        assert not ctcx.ctc_loss(x, LABELS, LENGTHS).requires_grad
    assert not ctcx.ctc_loss(x.detach(), LABELS, LENGTHS).requires_grad
    assert [run.problem.operation for run in runs] == ["loss"]
    with torch.inference_mode():
        assert not ctcx.ctc_loss(x, LABELS, LENGTHS).requires_grad


def test_loss_and_grad_returns_constants():
    result = ctcx.ctc_loss_and_grad(leaf(tiny_logits()), LABELS, LENGTHS)
    assert not result.loss.requires_grad
    assert not result.grad.requires_grad


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
        lambda x: x.flip(2).flip(2),
        lambda x: torch.stack([x, x], dim=3)[..., 0],
        lambda x: x[:1].expand(4, -1, -1),
        lambda x: x[:, :1].expand(-1, 6, -1),
    ],
    ids=["transposed", "flipped", "strided", "expanded sequences", "expanded frames"],
)
def test_views(view):
    x = leaf(torch.nan_to_num(tiny_logits(), neginf=-3.0))
    given = view(x)
    plain = ctcx.ctc_loss_and_grad(given.detach().clone(), LABELS, infeasible="zero")
    ctcx.ctc_loss(given, LABELS, infeasible="zero", reduction="sum").backward()
    (expected,) = torch.autograd.grad(given, x, plain.grad)
    torch.testing.assert_close(x.grad, expected)


def test_bad_values_are_reported():
    logits = tiny_logits()
    logits[1, 2, 0] = torch.nan
    with pytest.raises(ctcx.CTCInputError, match=r"logits\[1, 2, 0\] is nan"):
        ctcx.ctc_loss(leaf(logits), LABELS, LENGTHS)
    with pytest.raises(ctcx.InfeasibleError, match="2 of 4 sequences: 2, 3"):
        ctcx.ctc_loss(leaf(tiny_logits()), LABELS, LENGTHS, infeasible="raise")


class TestFunctorch:
    labels = torch.tensor([[1, 2], [3, 1], [2, 2]])

    @pytest.fixture
    def logits(self):
        generator = torch.Generator().manual_seed(1)
        return torch.randn((5, 3, 7, 4), dtype=torch.float64, generator=generator)

    def test_vmap_over_batches(self, logits):
        batched = torch.func.vmap(lambda x: ctcx.ctc_loss(x, self.labels))(logits)
        torch.testing.assert_close(
            batched, torch.stack([ctcx.ctc_loss(x, self.labels) for x in logits])
        )

    @pytest.mark.parametrize("axis", [0, 1])
    def test_vmap_over_sequences_with_their_labels(self, logits, axis):
        batched = torch.func.vmap(ctcx.ctc_loss, in_dims=(axis, 0))(
            logits[0].movedim(0, axis), self.labels
        )
        torch.testing.assert_close(batched, ctcx.ctc_loss(logits[0], self.labels))

    def test_vmap_over_labels_alone(self, logits):
        batched = torch.func.vmap(ctcx.ctc_loss, in_dims=(None, 0))(logits[0, 0], self.labels)
        expected = ctcx.ctc_loss(logits[0, :1].expand(3, -1, -1), self.labels)
        torch.testing.assert_close(batched, expected)

    def test_vmap_runs_one_kernel_for_all(self, logits):
        with ctcx.trace() as runs:
            torch.func.vmap(lambda x: ctcx.ctc_loss(x, self.labels))(logits)
        assert [run.problem.N for run in runs] == [15]

    def test_vmap_of_loss_and_grad(self, logits):
        result = torch.func.vmap(lambda x: ctcx.ctc_loss_and_grad(x, self.labels))(logits)
        expected = [ctcx.ctc_loss_and_grad(x, self.labels) for x in logits]
        torch.testing.assert_close(result.grad, torch.stack([e.grad for e in expected]))
        torch.testing.assert_close(result.feasible, torch.stack([e.feasible for e in expected]))

    def test_gradients_for_each_sequence(self, logits):
        per_sequence = torch.func.vmap(torch.func.grad(ctcx.ctc_loss))(logits[0], self.labels)
        expected = ctcx.ctc_loss_and_grad(logits[0], self.labels).grad
        torch.testing.assert_close(per_sequence, expected)
