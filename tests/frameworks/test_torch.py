"""``ctcx.compat.torch`` beside torch itself, in the same process on the same inputs."""

import itertools
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812 - everybody calls it so

import ctcx
from ctcx.compat import torch as compat
from tests.frameworks.problems import SETTINGS, assert_right, assert_same, problems

UNIFORM = torch.full((4, 2, 3), 1 / 3).log()
TARGETS, FRAMES, LENGTHS = torch.tensor([[1, 2], [1, 1]]), (4, 4), (2, 2)


def forms(problem, layout, integers, as_tuples):
    """Targets and lengths in one of the ways that torch takes them."""
    targets = torch.tensor(problem.labels, dtype=integers)
    if layout == "concatenated":
        rows = [row[:n] for row, n in zip(targets, problem.lengths, strict=True)]
        targets = torch.cat(rows)
    lengths = (problem.frames.tolist(), problem.lengths.tolist())
    return targets, *(tuple(n) if as_tuples else torch.tensor(n) for n in lengths)


def answer(function, log_probs, *arguments, weights=None, **options):
    """Loss and gradient, the latter through ``log_softmax`` as in a training step."""
    leaf = log_probs.clone().requires_grad_()
    loss = function(leaf.log_softmax(-1), *arguments, **options)
    (loss if weights is None or not loss.ndim else (loss * weights).sum()).backward()
    return loss.detach().numpy(), leaf.grad.numpy()


@SETTINGS
@given(
    problems(),
    st.sampled_from(["padded", "concatenated"]),
    st.sampled_from([torch.int32, torch.int64]),
    st.booleans(),
    st.sampled_from(["none", "mean", "sum"]),
)
def test_loss_and_gradient_are_those_of_torch(problem, layout, integers, as_tuples, reduction):
    arguments = forms(problem, layout, integers, as_tuples)
    options = {"blank": problem.blank, "reduction": reduction, "zero_infinity": True}
    logits = torch.tensor(problem.logits.transpose(1, 0, 2))
    weights = torch.tensor(problem.weights()) if reduction == "none" else None
    ours = answer(compat.ctc_loss, logits, *arguments, **options, weights=weights)
    theirs = answer(F.ctc_loss, logits, *arguments, **options, weights=weights)
    for one, other in zip(ours, theirs, strict=True):
        assert_same(one, other, problem.logits.dtype)
    if reduction == "none":
        loss = np.where(problem.feasible, ours[0], np.inf)
        assert_right(problem, loss, ours[1].transpose(1, 0, 2), problem.weights())


@SETTINGS
@given(problems(), st.sampled_from(["none", "mean", "sum"]))
def test_infinite_losses_are_those_of_torch(problem, reduction):
    arguments = forms(problem, "padded", torch.int64, as_tuples=False)
    log_probs = torch.tensor(problem.log_probs())
    options = {"blank": problem.blank, "reduction": reduction}
    ours = compat.ctc_loss(log_probs, *arguments, **options)
    assert_same(ours, F.ctc_loss(log_probs, *arguments, **options), problem.logits.dtype)
    if reduction == "none":
        assert_right(problem, ours)


@SETTINGS
@given(problems(), st.booleans(), st.sampled_from(["none", "mean", "sum"]))
def test_one_sequence_without_a_batch_axis(problem, as_tuples, reduction):
    log_probs = torch.tensor(problem.log_probs()[:, 0])
    targets = torch.tensor(problem.labels[0, : problem.lengths[0]])
    lengths = int(problem.frames[0]), int(problem.lengths[0])
    given = [(n,) if as_tuples else torch.tensor(n) for n in lengths]
    options = {"blank": problem.blank, "reduction": reduction, "zero_infinity": True}
    ours = compat.ctc_loss(log_probs, targets, *given, **options)
    theirs = F.ctc_loss(log_probs, targets, *given, **options)
    assert ours.shape == theirs.shape == ()
    assert_same(ours, theirs, problem.logits.dtype)


@SETTINGS
@given(problems(), st.sampled_from(["padded", "concatenated"]))
def test_numpy_arrays_give_the_same_as_tensors(problem, layout):
    targets, *lengths = forms(problem, layout, torch.int64, as_tuples=True)
    log_probs = problem.log_probs()
    ours = compat.ctc_loss(log_probs, targets.numpy(), *lengths, blank=problem.blank)
    assert isinstance(ours, (np.ndarray, np.floating))
    theirs = F.ctc_loss(torch.tensor(log_probs), targets, *lengths, blank=problem.blank)
    assert_same(ours, theirs, problem.logits.dtype)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("zero_infinity", [False, True])
def test_the_module(reduction, zero_infinity):
    options = {"blank": 2, "reduction": reduction, "zero_infinity": zero_infinity}
    ours, theirs = compat.CTCLoss(**options), torch.nn.CTCLoss(**options)
    assert isinstance(ours, torch.nn.Module)
    arguments = (UNIFORM, torch.tensor([[1, 0], [1, 1]]), (4, 2), LENGTHS)
    assert_same(ours(*arguments), theirs(*arguments))
    again = pickle.loads(pickle.dumps(ours))
    torch.testing.assert_close(again(*arguments), ours(*arguments))
    assert repr(reduction) in repr(ours)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.uint8])
def test_other_integers_that_torch_takes(dtype):
    arguments = (UNIFORM, TARGETS.to(dtype), FRAMES, LENGTHS)
    assert_same(compat.ctc_loss(*arguments), F.ctc_loss(*arguments))


def test_the_two_kinds_of_lengths_may_be_mixed():
    mixed = [(4, 4), torch.tensor([4, 4])], [(2, 2), torch.tensor([2, 2])]
    losses = {float(compat.ctc_loss(UNIFORM, TARGETS, *both)) for both in itertools.product(*mixed)}
    assert len(losses) == 1


MIXED = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
WAYS = {
    "tensors": (TARGETS, torch.tensor([4, 4]), torch.tensor([2, 1])),
    "tuples": (TARGETS, (4, 4), (2, 1)),
    "lists": (TARGETS, [4, 4], [2, 1]),
    "concatenated": (torch.tensor([1, 2, 1]), torch.tensor([4, 4]), torch.tensor([2, 1])),
    "concatenated, tuples": (torch.tensor([1, 2, 1]), (4, 4), (2, 1)),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("way", WAYS)
def test_compile_in_one_graph(way):
    torch.compiler.reset()
    loss = lambda x: compat.ctc_loss(x.log_softmax(-1), *WAYS[way])
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    ours, theirs = (MIXED.clone().requires_grad_() for _ in range(2))
    value, expected = compiled(ours), F.ctc_loss(theirs.log_softmax(-1), *WAYS[way])
    torch.testing.assert_close(value, expected)
    value.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_the_module_in_programs():
    module, given = compat.CTCLoss(reduction="none"), (MIXED, *WAYS["tensors"])
    expected = torch.nn.CTCLoss(reduction="none")(*given)
    assert isinstance(module, (torch.nn.CTCLoss, torch.nn.modules.loss._Loss))
    for program in (
        torch.jit.script(module),
        torch.jit.trace(module, given),
        torch.fx.symbolic_trace(module),
        torch.func.functionalize(module),
    ):
        torch.testing.assert_close(program(*given), expected)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_lengths_of_one_sequence_in_any_shape(shape):
    lengths = torch.full(shape, 4), torch.full(shape, 2)
    arguments = (MIXED[:, :1], TARGETS[:1], *lengths)
    torch.testing.assert_close(compat.ctc_loss(*arguments), F.ctc_loss(*arguments))


def test_a_subclass_comes_back_as_from_torch():
    class Mine(torch.Tensor):
        pass

    arguments = (MIXED.as_subclass(Mine), *WAYS["tuples"])
    assert type(compat.ctc_loss(*arguments)) is type(F.ctc_loss(*arguments)) is Mine


WRONG = {
    "rank": ((MIXED[None], *WAYS["tuples"]), {}),
    "frames": ((MIXED, TARGETS, (5, 4), (2, 1)), {}),
    "labels": ((MIXED, TARGETS, (4, 4), (3, 1)), {}),
    "sequences": ((MIXED, TARGETS, (4,), (2, 1)), {}),
    "concatenated": ((MIXED, torch.tensor([1, 2]), (4, 4), (2, 1)), {}),
    "float lengths": ((MIXED, TARGETS, torch.tensor([4.0, 4.0]), torch.tensor([2, 1])), {}),
    "a float": ((MIXED, TARGETS, (4.0, 4.0), (2, 1)), {}),
    "no lengths": ((MIXED, TARGETS, None, (2, 1)), {}),
    "a list of targets": ((MIXED, TARGETS.tolist(), (4, 4), (2, 1)), {}),
    "blank": ((MIXED, *WAYS["tuples"]), {"blank": 3}),
    "blank as a float": ((MIXED, *WAYS["tuples"]), {"blank": 1.0}),
    "reduction": ((MIXED, *WAYS["tuples"]), {"reduction": "most"}),
    "zero_infinity": ((MIXED, *WAYS["tuples"]), {"zero_infinity": "no"}),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_are_of_the_classes_of_torch_too(name):
    arguments, options = WRONG[name]
    with pytest.raises((RuntimeError, TypeError, ValueError)) as theirs:
        F.ctc_loss(*arguments, **options)
    with pytest.raises(ctcx.CTCInputError) as ours:
        compat.ctc_loss(*arguments, **options)
    assert isinstance(ours.value, theirs.type)


def test_difference_calling_the_node():
    """`loss.grad_fn(weights)`, as an old ESPnet calls it | the gradient | an error, see below"""
    for function in (F.ctc_loss, compat.ctc_loss):
        leaf = MIXED.clone().requires_grad_()
        loss = function(leaf, *WAYS["tuples"], reduction="none")
        if function is F.ctc_loss:
            assert loss.grad_fn(torch.ones_like(loss)).shape == MIXED.shape
        else:
            with pytest.raises(TypeError, match="not callable"):
                loss.grad_fn(torch.ones_like(loss))


# Each of these is a row of the table on the page "Coming from PyTorch":
# what is passed | what torch does | what ctcx does.


def test_difference_infeasible():
    """Labels that no path emits, `zero_infinity=False` | loss inf, gradient NaN in every frame of
    that sequence | loss inf, gradient 0"""
    arguments = (TARGETS, (4, 2), LENGTHS)
    loss, grad = answer(F.ctc_loss, UNIFORM, *arguments, reduction="none", weights=torch.ones(2))
    assert np.isinf(loss[1])
    assert np.isnan(grad[:2, 1]).all()
    loss, grad = answer(
        compat.ctc_loss, UNIFORM, *arguments, reduction="none", weights=torch.ones(2)
    )
    assert np.isinf(loss[1])
    assert (grad[:, 1] == 0).all()
    assert np.isfinite(grad).all()


def test_difference_masked_class():
    """A log probability of -inf for a class that no label uses | loss right, gradient NaN | both
    right"""
    logits = torch.zeros(4, 2, 4)
    logits[..., 3] = -torch.inf
    *_, theirs = answer(F.ctc_loss, logits, TARGETS, FRAMES, LENGTHS)
    assert np.isnan(theirs).any()
    loss, ours = answer(compat.ctc_loss, logits, TARGETS, FRAMES, LENGTHS)
    without, expected = answer(F.ctc_loss, logits[..., :3], TARGETS, FRAMES, LENGTHS)
    assert_same(loss, without)
    assert_same(ours[..., :3], expected)
    assert (ours[..., 3] == 0).all()


def test_difference_out_of_range():
    """A target that is negative or not a class | reads memory outside the array | an error that
    names it"""
    # torch itself is not called: what it reads, and whether it survives, is undefined.
    for wrong in (3, -1):
        with pytest.raises(ctcx.CTCInputError, match=rf"targets\[1, 1\] is {wrong} "):
            compat.ctc_loss(UNIFORM, torch.tensor([[1, 2], [1, wrong]]), FRAMES, LENGTHS)


def test_difference_blank_among_targets():
    """The blank among the targets | an extra blank state, silently | an error that names it"""
    targets = torch.tensor([[1, 2], [0, 1]])
    assert torch.isfinite(F.ctc_loss(UNIFORM, targets, FRAMES, LENGTHS))
    with pytest.raises(ctcx.CTCInputError, match=r"targets\[1, 0\] is 0 .*the blank"):
        compat.ctc_loss(UNIFORM, targets, FRAMES, LENGTHS)


def test_difference_not_normalised():
    """`log_probs` that are no log probabilities, such as logits | a wrong, maybe negative loss |
    the loss of their softmax"""
    logits = UNIFORM + 5
    assert F.ctc_loss(logits, TARGETS, FRAMES, LENGTHS) < 0
    ours = compat.ctc_loss(logits, TARGETS, FRAMES, LENGTHS)
    assert_same(ours, F.ctc_loss(UNIFORM, TARGETS, FRAMES, LENGTHS))


def test_difference_half():
    """float16 and bfloat16 on the CPU | not implemented | computed in float32, and a float32
    loss"""
    for dtype in (torch.float16, torch.bfloat16):
        half = UNIFORM.to(dtype)
        with pytest.raises(RuntimeError, match="not implemented"):
            F.ctc_loss(half, TARGETS, FRAMES, LENGTHS)
        ours = compat.ctc_loss(half, TARGETS, FRAMES, LENGTHS)
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, compat.ctc_loss(half.float(), TARGETS, FRAMES, LENGTHS))


def test_difference_negative_blank():
    """A negative `blank` | an error | counted from the end"""
    targets = torch.tensor([[0, 1], [1, 1]])
    with pytest.raises(RuntimeError, match="blank must be in label range"):
        F.ctc_loss(UNIFORM, targets, FRAMES, LENGTHS, blank=-1)
    ours = compat.ctc_loss(UNIFORM, targets, FRAMES, LENGTHS, blank=-1)
    assert_same(ours, F.ctc_loss(UNIFORM, targets, FRAMES, LENGTHS, blank=2))


def test_difference_float_targets():
    """Targets of a floating dtype | accepted | an error"""
    floats = TARGETS.float()
    assert torch.isfinite(F.ctc_loss(UNIFORM, floats, FRAMES, LENGTHS))
    with pytest.raises(ctcx.CTCInputError, match=r"targets must have an integer dtype.*float32"):
        compat.ctc_loss(UNIFORM, floats, FRAMES, LENGTHS)


def test_difference_mixed_lengths():
    """One of the lengths a tuple, the other a tensor | an error | accepted"""
    with pytest.raises(TypeError):
        F.ctc_loss(UNIFORM, TARGETS, FRAMES, torch.tensor(LENGTHS))
    compat.ctc_loss(UNIFORM, TARGETS, FRAMES, torch.tensor(LENGTHS))


def test_difference_no_sequences():
    """A batch of 0 sequences | an error | no losses; 0 for `"sum"` and `"mean"`"""
    nothing = (torch.zeros(4, 0, 3), torch.zeros(0, 2, dtype=torch.int64), (), ())
    with pytest.raises(RuntimeError, match="must not be empty"):
        F.ctc_loss(*nothing)
    assert compat.ctc_loss(*nothing) == 0
    assert compat.ctc_loss(*nothing, reduction="none").shape == (0,)


def test_difference_nan_inside():
    """NaN inside a sequence | a loss of NaN | an error that names frame and class"""
    log_probs = UNIFORM.clone()
    log_probs[1, 0, 2] = torch.nan
    assert torch.isnan(F.ctc_loss(log_probs, TARGETS, FRAMES, LENGTHS))
    with pytest.raises(ctcx.CTCInputError, match=r"log_probs\[1, 0, 2\] is nan .*frame 1, class 2"):
        compat.ctc_loss(log_probs, TARGETS, FRAMES, LENGTHS)


def test_difference_long_float32():
    """5,000 frames in float32 | gradient off by more than 0.01, of entries that are at most 1 |
    off by less than 0.0001"""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(5000, 1, 32, generator=generator)
    targets = torch.randint(1, 32, (1, 500), generator=generator)
    arguments = (targets, (5000,), (500,))
    _, truth = answer(F.ctc_loss, logits.double(), *arguments, reduction="sum")
    for function, within in ((F.ctc_loss, None), (compat.ctc_loss, 1e-4)):
        _, grad = answer(function, logits, *arguments, reduction="sum")
        error = np.abs(grad - truth).max()
        assert error > 1e-2 if within is None else error < within


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_second_derivatives_which_torch_does_not_have(reduction):
    leaf = torch.randn(6, 2, 3, dtype=torch.float64, generator=torch.manual_seed(0))
    leaf.requires_grad_()
    loss = lambda x, function=compat.ctc_loss: function(
        x.log_softmax(-1), TARGETS, (6, 5), LENGTHS, reduction=reduction
    )
    assert torch.autograd.gradgradcheck(loss, (leaf,))
    (grad,) = torch.autograd.grad(loss(leaf, F.ctc_loss).sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="not implemented"):
        grad.sum().backward()
