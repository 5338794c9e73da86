"""Differentiation by PyTorch."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module

import numpy as np
import pytest

import ctcx
from tests.autodiff_plugin import PLUGIN
from tests.helpers import forget_kernels, needed, random_problem

torch = needed("torch")

# PyTorch warns of what it does itself in forward mode and when its compiler is imported.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")

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


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_every_backward_gives_the_same(reduction, scale):
    """The first one gives the gradient's own memory away."""
    x = leaf(tiny_logits())
    expected = ctcx.ctc_loss_and_grad(tiny_logits(), LABELS, LENGTHS, reduction=reduction).grad
    loss = ctcx.ctc_loss(x, LABELS, LENGTHS, reduction=reduction)
    above = torch.full_like(loss, scale)
    (plain,) = torch.autograd.grad(loss, x, above, retain_graph=True)
    (recorded,) = torch.autograd.grad(loss, x, above, create_graph=True)
    (again,) = torch.autograd.grad(loss, x, above, retain_graph=True)
    (several,) = torch.autograd.grad(
        loss, x, torch.stack([above, 2 * above]), is_grads_batched=True
    )
    for found in (plain, recorded, again, several[0], several[1] / 2):
        torch.testing.assert_close(found, scale * expected)
    assert recorded.requires_grad
    assert plain.data_ptr() != again.data_ptr()


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_derivatives_through_a_checkpoint(scale):
    """It lets a backward look at what was saved no more than once."""
    labels = torch.tensor([[1, 2], [3, 3], [2, 1], [1, 1]])

    def derivatives(wrapped):
        x = leaf(tiny_logits()[[0, 0, 2, 3]])
        loss = wrapped(lambda x: ctcx.ctc_loss(2 * x, labels, reduction="sum"), x)
        back = partial(torch.autograd.grad, loss, x, torch.full_like(loss, scale))
        plain = [*back(retain_graph=True), *back(retain_graph=True)]
        (recorded,) = back(create_graph=True)
        return *plain, recorded, *torch.autograd.grad(recorded.square().sum(), x)

    found = derivatives(partial(torch.utils.checkpoint.checkpoint, use_reentrant=False))
    torch.testing.assert_close(found, derivatives(lambda function, x: function(x)))


@pytest.mark.parametrize("as_tensors", [False, True])
@pytest.mark.parametrize("derivative", ["again", "recorded", "second"])
def test_memory_that_was_freed_before_backward_is_not_read(derivative, as_tensors):
    x = leaf(tiny_logits())
    logits = 1 * x
    labels, lengths = [[1, 2], [3, 3], [2, 1], [1, 1]], [6, 5, 0, 4]
    if as_tensors:
        labels, lengths = torch.tensor(labels), torch.tensor(lengths)
    found = ctcx.ctc_loss(logits, labels, lengths, reduction="sum")
    if derivative == "again":
        found.backward(retain_graph=True)
    if derivative == "second":
        (found,) = torch.autograd.grad(found, x, create_graph=True)
    logits.untyped_storage().resize_(0)
    with pytest.raises(ctcx.CTCError, match="that backward needs again was freed"):
        torch.autograd.grad(found.sum(), x, create_graph=derivative == "recorded")


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_host_arrays_may_change_after_the_call(dtype):
    labels, lengths = np.asarray([[1, 2, 2], [3, 1, 3]], dtype), np.asarray([6, 5], dtype)
    x = leaf(tiny_logits()[[0, 0]])
    loss = ctcx.ctc_loss(x, labels, lengths, reduction="sum")
    labels[:], lengths[:] = 1, 4
    for _ in range(2):
        (found,) = torch.autograd.grad(loss, x, retain_graph=True)
        expected = ctcx.ctc_loss_and_grad(x.detach(), [[1, 2, 2], [3, 1, 3]], [6, 5]).grad
        torch.testing.assert_close(found, expected)


def test_gradients_are_added_to_what_is_there():
    x = leaf(tiny_logits())
    x.grad = torch.ones_like(x)
    seen = []
    x.register_hook(lambda grad: seen.append(grad.clone()) or 2 * grad)
    ctcx.ctc_loss(x, LABELS, LENGTHS, infeasible="zero").sum().backward()
    torch.testing.assert_close(x.grad, 1 + 2 * seen[0])
    torch.testing.assert_close(seen[0], ctcx.ctc_loss_and_grad(tiny_logits(), LABELS, LENGTHS).grad)


def test_two_threads_go_back_through_one_graph():
    x = leaf(tiny_logits())
    loss = ctcx.ctc_loss(x, LABELS, LENGTHS, infeasible="zero").sum()
    back = lambda scale: torch.autograd.grad(loss * scale, x, retain_graph=True)[0]
    expected = back(1.0)
    with ThreadPoolExecutor(4) as pool:
        for scale, found in enumerate(pool.map(back, map(float, range(40)))):
            torch.testing.assert_close(found, scale * expected)


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

    @pytest.mark.parametrize("is_leaf", [False, True])
    @pytest.mark.parametrize("name", ["loss", "loss_and_grad", "entropy", "hvp", "greedy"])
    def test_tensors_from_outside_of_a_transformation_are_constants_there(
        self, logits, name, is_leaf
    ):
        x = logits[0].requires_grad_(is_leaf)
        function = {
            "loss": lambda: ctcx.ctc_loss(x, self.labels),
            "loss_and_grad": lambda: ctcx.ctc_loss_and_grad(x, self.labels).grad.abs(),
            "entropy": lambda: ctcx.ctc_entropy(x, self.labels),
            "hvp": lambda: ctcx.ctc_hvp(x, self.labels, vector=x).abs(),
            "greedy": lambda: ctcx.ctc_greedy(x).score,
        }[name]
        times, two = lambda factor: function().sum() * factor, torch.tensor(2.0)
        expected = function().sum()
        for found in (
            torch.func.grad(times)(two),
            torch.func.vmap(times)(torch.ones(3))[1],
            torch.func.jvp(times, (two,), (torch.tensor(1.0),))[1],
            torch.func.vmap(torch.func.grad(times))(torch.ones(3))[2],
            torch.func.functionalize(times)(torch.tensor(1.0)),
        ):
            torch.testing.assert_close(found, expected, check_dtype=False)
            assert found.requires_grad == expected.requires_grad
            if expected.requires_grad:
                (slope,) = torch.autograd.grad(found, x)
                torch.testing.assert_close(slope, torch.autograd.grad(function().sum(), x)[0])

    def test_gradients_for_each_sequence(self, logits):
        per_sequence = torch.func.vmap(torch.func.grad(ctcx.ctc_loss))(logits[0], self.labels)
        expected = ctcx.ctc_loss_and_grad(logits[0], self.labels).grad
        torch.testing.assert_close(per_sequence, expected)


class TestSecondDerivatives:
    @pytest.mark.parametrize("reduction", REDUCTIONS)
    @pytest.mark.parametrize("infeasible", POLICIES)
    @pytest.mark.parametrize("time_major", [False, True])
    def test_double_backward_gives_the_product(self, reduction, infeasible, time_major):
        logits = tiny_logits()
        if time_major:
            logits = logits.movedim(0, 1)
        options = {"reduction": reduction, "infeasible": infeasible, "time_major": time_major}
        x, generator = leaf(logits), torch.Generator().manual_seed(2)
        vector = torch.randn(x.shape, dtype=x.dtype, generator=generator)
        loss = ctcx.ctc_loss(x, LABELS, LENGTHS, **options).sum()
        (grad,) = torch.autograd.grad(loss, x, create_graph=True)
        (product,) = torch.autograd.grad(grad, x, vector)
        expected = ctcx.ctc_hvp(logits, LABELS, LENGTHS, vector=vector, **options)
        torch.testing.assert_close(product, expected)
        assert bool(torch.isfinite(product).all())

    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_gradgradcheck_and_forward_mode(self, reduction):
        logits = torch.tensor(random_problem(1, 3, 5, 4, 2, dtype=np.float64)[0])
        loss = lambda x: ctcx.ctc_loss(x, LABELS[:3], [5, 5, 4], reduction=reduction)
        assert torch.autograd.gradgradcheck(loss, (leaf(logits),))
        assert torch.autograd.gradcheck(loss, (leaf(logits),), check_forward_ad=True)

    def test_the_whole_matrix(self):
        logits = tiny_logits()[0]
        loss = lambda x: ctcx.ctc_loss(x, [1, 2])
        matrix = torch.func.hessian(loss)(logits)
        flat = matrix.reshape(logits.numel(), -1)
        torch.testing.assert_close(flat, flat.T)
        torch.testing.assert_close(torch.autograd.functional.hessian(loss, logits), matrix)
        vector = torch.randn_like(logits)
        product = ctcx.ctc_hvp(logits, [1, 2], vector=vector)
        torch.testing.assert_close((flat @ vector.flatten()).reshape(logits.shape), product)

    def test_vmap(self):
        generator = torch.Generator().manual_seed(1)
        logits, vectors = torch.randn((2, 5, 3, 7, 4), dtype=torch.float64, generator=generator)
        product = torch.func.vmap(lambda x, v: ctcx.ctc_hvp(x, LABELS[:3], vector=v))
        expected = [
            ctcx.ctc_hvp(x, LABELS[:3], vector=v) for x, v in zip(logits, vectors, strict=True)
        ]
        torch.testing.assert_close(product(logits, vectors), torch.stack(expected))

    def test_a_product_is_differentiable_in_the_vector(self):
        logits = tiny_logits()
        vector, weights = torch.randn((2, *logits.shape), dtype=logits.dtype)
        vector.requires_grad_()
        product = ctcx.ctc_hvp(logits, LABELS, LENGTHS, vector=vector)
        (grad,) = torch.autograd.grad(product, vector, weights)
        expected = ctcx.ctc_hvp(logits, LABELS, LENGTHS, vector=weights)
        torch.testing.assert_close(grad, expected)

    @pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
    def test_the_whole_matrix_vectorized(self, strategy):
        logits = tiny_logits()[0]
        loss = lambda x: ctcx.ctc_loss(x, [1, 2])
        matrix = torch.autograd.functional.hessian(
            loss, logits, vectorize=True, outer_jacobian_strategy=strategy
        )
        torch.testing.assert_close(matrix, torch.func.hessian(loss)(logits))

    def test_batched_gradcheck(self):
        logits = torch.tensor(random_problem(1, 3, 5, 4, 2, dtype=np.float64)[0])
        loss = lambda x: ctcx.ctc_loss(x, LABELS[:3])
        assert torch.autograd.gradcheck(
            loss,
            (leaf(logits),),
            check_batched_grad=True,
            check_forward_ad=True,
            check_batched_forward_grad=True,
        )
        assert torch.autograd.gradgradcheck(loss, (leaf(logits),), check_batched_grad=True)

    @pytest.mark.parametrize("outer", [torch.func.jacfwd, torch.func.jacrev])
    @pytest.mark.parametrize("inner", [torch.func.jacfwd, torch.func.jacrev])
    def test_modes_in_one_another(self, outer, inner):
        logits = tiny_logits()[:2, :5]
        loss = lambda x: ctcx.ctc_loss(x, LABELS[:2], reduction="mean_per_label")
        expected = torch.func.hessian(loss)(logits)
        torch.testing.assert_close(outer(inner(loss))(logits), expected)
        third = torch.func.jacfwd(outer(inner(loss)))
        with pytest.raises(NotImplementedError, match="no third derivatives"):
            third(logits)

    def test_a_product_in_a_compiled_function_is_not_traced(self):
        """The recursion over frames would be unrolled, and compiled anew for each length."""
        logits, vector = torch.randn((2, 3, 60, 4), dtype=torch.float64)
        function = lambda x, v: ctcx.ctc_hvp(2 * x, LABELS[:3], vector=v, reduction="mean") + 1
        graphs = []
        compiled = torch.compile(
            function, backend=lambda graph, _: graphs.append(graph) or graph.forward
        )
        torch.testing.assert_close(compiled(logits, vector), function(logits, vector))
        assert 1 <= len(graphs) <= 3, "what is before it and after it"

    @pytest.mark.parametrize("create_graph", [False, True])
    @pytest.mark.parametrize("reduction", ["sum", "mean"])
    @pytest.mark.parametrize("function", ["hvp", "vhp"])
    def test_products_of_torch_autograd_functional(self, function, reduction, create_graph):
        logits, vector = tiny_logits(), torch.randn_like(tiny_logits())
        options = {"reduction": reduction, "infeasible": "zero"}
        loss = lambda x: ctcx.ctc_loss(x, LABELS, LENGTHS, **options)
        multiply = getattr(torch.autograd.functional, function)
        value, product = multiply(loss, logits, vector, create_graph=create_graph)
        torch.testing.assert_close(value.detach(), loss(logits))
        expected = ctcx.ctc_hvp(logits, LABELS, LENGTHS, vector=vector, **options)
        torch.testing.assert_close(product.detach(), expected)

    @pytest.mark.parametrize("by", ["logits", "what they are made of", "all", "all but the vector"])
    @pytest.mark.parametrize("is_leaf", [True, False])
    def test_a_product_by_its_vector_and_a_third_derivative(self, is_leaf, by):
        x = leaf(tiny_logits())
        logits = x if is_leaf else x * 1
        vector = torch.randn_like(x).requires_grad_()
        total = ctcx.ctc_loss(logits, LABELS, LENGTHS, infeasible="zero").sum()
        (grad,) = torch.autograd.grad(total, logits, create_graph=True)
        (product,) = torch.autograd.grad(grad, logits, vector, create_graph=True)
        (again,) = torch.autograd.grad(product, vector, torch.ones_like(x), retain_graph=True)
        ones = torch.ones_like(x)
        expected = ctcx.ctc_hvp(x.detach(), LABELS, LENGTHS, vector=ones, infeasible="zero")
        torch.testing.assert_close(again, expected)
        wanted = {"logits": [logits], "what they are made of": [x], "all": [vector, x]}
        go_back = partial(torch.autograd.grad, product.sum(), wanted.get(by))
        if by == "all but the vector":
            go_back = partial(product.sum().backward, inputs=[x])
        with pytest.raises(NotImplementedError, match="no third derivatives"):
            go_back()

    def test_third_derivatives_are_refused(self):
        x = leaf(tiny_logits())
        for _ in range(2):
            total = ctcx.ctc_loss(x, LABELS, LENGTHS, infeasible="zero").sum()
            (grad,) = torch.autograd.grad(total, x, create_graph=True)
            (grad,) = torch.autograd.grad((grad**2).sum(), x, create_graph=True)
        with pytest.raises(NotImplementedError, match="no third derivatives"):
            grad.sum().backward()


class TestOverAPlugin:
    @pytest.fixture
    def plugin(self, plugins):
        plugins.write("remembering", PLUGIN)
        plugins.load()
        return import_module("ctcx_remembering")

    def test_its_kernel_gives_the_gradient(self, plugin):
        x = leaf(tiny_logits())
        loss = ctcx.ctc_loss(x, LABELS, LENGTHS, backend="remembering", reduction="sum")
        loss.backward()
        ((arrays, (_, grad)),) = plugin.calls
        assert not arrays[0].requires_grad
        torch.testing.assert_close(x.grad, grad)

    @pytest.mark.parametrize("time_major", [False, True])
    def test_the_logits_are_not_copied(self, plugin, monkeypatch, time_major):
        x = leaf(torch.randn(4, 6, 4))
        results = [ctcx.ctc_loss_and_grad(x, LABELS, time_major=False)[:2]]
        gradient = results[0][1].data_ptr()
        given = x.movedim(0, 1) if time_major else x
        kernel = lambda *arrays, blank: plugin.calls.append(arrays) or results.pop()
        monkeypatch.setattr(plugin, "loss_and_grad", kernel)
        forget_kernels()
        options = {"backend": "remembering", "time_major": time_major, "infeasible": "zero"}
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
            loss = ctcx.ctc_loss(given, LABELS, **options).sum()
        large = {t.data_ptr() for t in saved if t.numel() == x.numel()}
        assert large == {x.data_ptr()}
        ((logits, *_),) = plugin.calls
        assert logits.data_ptr() == x.data_ptr()
        loss.backward()
        # The gradient that comes out is the very one that the kernel returned.
        assert x.grad.data_ptr() == gradient

    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_a_gradient_of_one_number(self, plugin, monkeypatch, reduction):
        zeros = torch.zeros(1, 1, 1).expand(4, 6, 4)
        kernel = lambda *_, blank: (torch.ones(4), zeros)
        monkeypatch.setattr(plugin, "loss_and_grad", kernel)
        forget_kernels()
        x = leaf(torch.randn(4, 6, 4))
        options = {"backend": "remembering", "reduction": reduction}
        (2 * ctcx.ctc_loss(x, LABELS, **options).sum()).backward()
        assert not x.grad.any()
        assert not ctcx.ctc_loss_and_grad(x, LABELS, **options).grad.any()


class TestCompiling:
    labels = torch.tensor([[1, 2, 0], [3, 3, 1], [2, 0, 0], [1, 1, 1]])
    label_lengths = torch.tensor([2, 3, 1, 3])

    @pytest.fixture(autouse=True)
    def fresh(self):
        torch.compiler.reset()
        yield
        torch.compiler.reset()

    @pytest.mark.parametrize("reduction", REDUCTIONS)
    @pytest.mark.parametrize("time_major", [False, True])
    def test_compile_in_one_graph(self, reduction, time_major):
        def loss(x, labels, label_lengths):
            return ctcx.ctc_loss(
                x * 2,
                labels,
                LENGTHS,
                label_lengths,
                reduction=reduction,
                time_major=time_major,
                infeasible="zero",
            )

        logits = tiny_logits().movedim(0, 1) if time_major else tiny_logits()
        x, y = leaf(logits), leaf(logits)
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        with ctcx.trace() as runs:
            result = compiled(x, self.labels, self.label_lengths)
        assert [run.problem.operation for run in runs] == ["loss_and_grad"]
        expected = loss(y, self.labels, self.label_lengths)
        torch.testing.assert_close(result, expected)
        result.sum().backward()
        expected.sum().backward()
        torch.testing.assert_close(x.grad, y.grad)

    def test_compile_with_lists_one_sequence_and_no_gradient(self):
        loss = torch.compile(
            lambda x: (ctcx.ctc_loss(x, LABELS, LENGTHS), ctcx.ctc_loss(x[0], [1, 2])),
            fullgraph=True,
            backend="aot_eager",
        )
        with torch.no_grad(), ctcx.trace() as runs:
            batch, single = loss(tiny_logits())
        assert {run.problem.operation for run in runs} == {"loss"}
        torch.testing.assert_close(batch, ctcx.ctc_loss(tiny_logits(), LABELS, LENGTHS))
        torch.testing.assert_close(single, batch[0])

    @pytest.mark.parametrize("reduction", ["none", "mean_per_label"])
    def test_compile_loss_and_grad(self, reduction):
        both = lambda x: ctcx.ctc_loss_and_grad(x, LABELS, LENGTHS, reduction=reduction)
        result = torch.compile(both, fullgraph=True, backend="aot_eager")(tiny_logits())
        for one, other in zip(result, both(tiny_logits()), strict=True):
            torch.testing.assert_close(one, other)

    def test_compile_vmap(self):
        logits = torch.randn((2, 3, 7, 4), dtype=torch.float64)
        loss = torch.func.vmap(lambda x: ctcx.ctc_loss(x, TestFunctorch.labels))
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(logits), loss(logits))

    def test_values_are_checked_when_it_runs(self):
        loss = torch.compile(lambda x: ctcx.ctc_loss(x, LABELS), fullgraph=True, backend="eager")
        with pytest.raises(ctcx.CTCInputError, match=r"logits\[1, 5, 0\] is nan"):
            loss(tiny_logits())

    @pytest.mark.slow
    def test_compile_to_machine_code(self):
        x, y = leaf(tiny_logits()), leaf(tiny_logits())
        loss = lambda x: ctcx.ctc_loss(x.tanh() * 2, LABELS, LENGTHS, infeasible="zero").sum()
        torch.compile(loss, fullgraph=True)(x).backward()
        loss(y).backward()
        torch.testing.assert_close(x.grad[0], y.grad[0])

    @pytest.mark.parametrize("strict", [False, True])
    def test_export_with_a_batch_of_any_size(self, strict):
        class Model(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.linear = torch.nn.Linear(3, 4)

            def forward(self, x, labels, label_lengths):
                logits = self.linear(x)
                return ctcx.ctc_loss(logits, labels, None, label_lengths, reduction="mean")

        model, features = Model(), torch.randn(4, 6, 3)
        inputs = (features, self.labels, self.label_lengths)
        n = torch.export.Dim("n", min=2, max=100)
        shapes = ({0: n}, {0: n}, {0: n})
        program = torch.export.export(model, inputs, strict=strict, dynamic_shapes=shapes)
        exported = program.module()
        few = tuple(part[:3] for part in inputs)
        torch.testing.assert_close(exported(*few), model(*few))
        exported(*few).backward()
        model(*few).backward()
        grads = {name: p.grad for name, p in exported.named_parameters()}
        torch.testing.assert_close(grads["linear.weight"], model.linear.weight.grad)

    def test_the_operators_keep_their_promises(self):
        arrays = (leaf(tiny_logits()), self.labels, torch.tensor(LENGTHS), self.label_lengths)
        rest = (0, "inf", None, True, "NTC")
        checks = ("test_schema", "test_autograd_registration", "test_faketensor")
        for operator in (torch.ops.ctcx.loss.default, torch.ops.ctcx.loss_and_grad.default):
            torch.library.opcheck(operator, (*arrays, *rest), test_utils=checks)

    def test_a_second_derivative_through_the_operator(self):
        x = leaf(tiny_logits())
        arrays = (self.labels, torch.tensor(LENGTHS), self.label_lengths)
        loss, _ = torch.ops.ctcx.loss_and_grad(x, *arrays, 0, "inf", None, True, "NTC")
        (grad,) = torch.autograd.grad(loss[:2].sum(), x, create_graph=True)
        vector = torch.randn_like(grad)
        (product,) = torch.autograd.grad(grad, x, vector)
        expected = ctcx.ctc_hvp(x.detach(), *arrays, vector=vector)
        torch.testing.assert_close(product, expected)


def test_labels_on_another_device_raise_alike_under_compile():
    labels = torch.ones(1, 2, dtype=torch.int64, device="meta")
    with pytest.raises(ctcx.CTCInputError) as eager:
        ctcx.ctc_loss(torch.zeros(1, 5, 4), labels)
    compiled = torch.compile(ctcx.ctc_loss, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="labels is on device meta") as raised:
        compiled(torch.zeros(1, 5, 4), labels)
    assert str(eager.value) in str(raised.value)


@pytest.mark.filterwarnings("ignore::UserWarning:torch")  # what Dynamo finds in other packages
class TestBesideTheGraph:
    """Where ``torch.compile`` can't record a call, it must neither look into ctcx nor change it."""

    labels = torch.tensor([[1, 2], [3, 3]])

    @pytest.fixture(autouse=True)
    def fresh(self):
        torch.compiler.reset()
        yield
        torch.compiler.reset()

    def loss(self, x):
        return ctcx.ctc_loss(x, self.labels, [6, 5]).sum()

    def entropy(self, x):
        return ctcx.ctc_entropy(x, self.labels, [6, 5]).sum()

    def head(self, x):
        return ctcx.linear_ctc_loss_and_grad(x, torch.eye(4), None, self.labels, [6, 5]).loss.sum()

    @pytest.mark.parametrize("name", ["loss", "entropy"])
    @pytest.mark.parametrize("backend", ["eager", "aot_eager"])
    def test_transformations_of_a_compiled_function(self, name, backend):
        function = getattr(self, name)
        compiled = torch.compile(function, backend=backend)
        x, v = torch.randn(2, 2, 6, 4)
        expected = torch.func.jvp(function, (x,), (v,))
        torch.testing.assert_close(torch.func.jvp(compiled, (x,), (v,)), expected)
        batch = torch.randn(3, 2, 6, 4)
        torch.testing.assert_close(
            torch.func.vmap(compiled)(batch), torch.func.vmap(function)(batch)
        )

    @pytest.mark.parametrize("name", ["loss", "entropy"])
    @pytest.mark.parametrize("backend", ["eager", "aot_eager"])
    def test_forward_mode_keeps_its_tangents(self, name, backend):
        forward_ad = torch.autograd.forward_ad
        function = getattr(self, name)
        x, v = torch.randn(2, 2, 6, 4)
        along = lambda x: torch.func.jvp(function, (x,), (v,))[1]
        expected = along(x)
        assert expected.abs() > 1e-3
        compiled = torch.compile(function, backend=backend)
        torch.testing.assert_close(torch.compile(along, backend=backend)(x), expected)
        compiled(x)  # and the graph that there is now isn't used for dual tensors
        with forward_ad.dual_level():
            result = compiled(forward_ad.make_dual(x, v))
            torch.testing.assert_close(forward_ad.unpack_dual(result).tangent, expected)
            lengths = torch.tensor([6, 5]), torch.tensor([2, 2])
            arguments = (self.labels, *lengths, 0, "inf", None, True, "NTC")
            assert ctcx.compat.torch.CTCLoss()  # which registers the operators
            with pytest.raises(NotImplementedError, match="no derivative in forward mode"):
                torch.ops.ctcx.loss(forward_ad.make_dual(x, v), *arguments)

    @pytest.mark.parametrize("name", ["loss", "entropy", "head"])
    def test_compiled_autograd(self, name):
        from torch._dynamo import compiled_autograd

        x, y = leaf(torch.ones(2, 6, 4)), leaf(torch.ones(2, 6, 4))
        head = ctcx.LinearCTCLoss(4, 4, reduction="sum")
        function = getattr(self, name) if name != "head" else (lambda x: head(x, self.labels))
        with compiled_autograd._enable(torch.compile(backend="eager")):
            function(x).backward()
        function(y).backward()
        torch.testing.assert_close(x.grad, y.grad)

    def test_arrays_of_numpy(self):
        x = np.random.default_rng(0).standard_normal((2, 6, 4))
        labels, uniforms = self.labels.numpy(), np.full((2, 1, 6), 0.5)
        for function in (
            lambda x: ctcx.ctc_loss(x, labels),
            lambda x: ctcx.ctc_loss_and_grad(x, labels).grad,
            lambda x: ctcx.ctc_align(x, labels).states,
            lambda x: ctcx.ctc_occupancies(x, labels).classes,
            lambda x: ctcx.ctc_entropy(x, labels),
            lambda x: ctcx.ctc_sample_paths(x, labels, uniforms),
            lambda x: ctcx.ctc_greedy(x).score,
            lambda x: ctcx.ctc_beam_search(logits=x).log_probs,
            lambda x: ctcx.ctc_hvp(x, labels, vector=x),
            lambda x: ctcx.linear_ctc_loss_and_grad(x, np.eye(4), None, labels).hidden,
        ):
            found = torch.compile(function, backend="eager")(x)
            assert isinstance(found, np.ndarray)
            np.testing.assert_array_equal(found, function(x))

    def test_arrays_of_numpy_while_a_model_is_exported(self):
        x, losses = np.zeros((1, 4, 3)), []

        class Model(torch.nn.Module):
            def forward(self, y):
                losses.append(ctcx.ctc_loss(x, [[1]]))
                return y + 1

        torch.export.export(Model(), (torch.ones(2),), strict=False)
        np.testing.assert_array_equal(losses[0], ctcx.ctc_loss(x, [[1]]))

    def test_errors_and_explanations_of_calls_of_other_sizes(self):
        compiled = torch.compile(partial(ctcx.ctc_loss, blank=7), backend="eager")
        explained = torch.compile(lambda x, y: str(ctcx.explain(x, y)), backend="eager")
        for frames in (4, 5, 6):  # of which the second makes sizes symbols
            x = torch.zeros(2, frames, 4)
            with pytest.raises(ctcx.CTCInputError, match="blank=7 is out of range"):
                compiled(x, self.labels)
            assert explained(x, self.labels) == str(ctcx.explain(x, self.labels))

    @pytest.mark.parametrize(
        ("labels", "lengths"),
        [
            ([[True, 2], [3]], None),
            ([torch.tensor([True]), [3]], None),
            ([[torch.tensor(True)], [3]], None),
            ([{1, 2}, [3]], None),
            ([{1: 2}, [3]], None),
            ([[1], [3]], [True, 4]),
            ([[1], [3]], torch.tensor([[6], [5]])),
            ([[1], [3]], torch.tensor([[6, 5]])),
            ([[1]], torch.tensor(6)),
            ([[1]], 6),
        ],
    )
    @pytest.mark.parametrize("fullgraph", [False, True])
    def test_what_is_no_list_of_integers_is_refused_as_ever(self, labels, lengths, fullgraph):
        x = torch.zeros(len(labels), 6, 4)
        function = lambda x: ctcx.ctc_loss(x, labels, lengths)
        with pytest.raises(ctcx.CTCInputError):
            function(x)
        compiled = torch.compile(function, backend="eager", fullgraph=fullgraph)
        with pytest.raises(Exception, match=r"CTCInputError|expected an int|must "):
            compiled(x)

    @pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "uint32", "uint64"])
    def test_lengths_of_all_integer_dtypes(self, dtype):
        lengths = torch.tensor([2, 1]).to(getattr(torch, dtype))
        function = lambda x: ctcx.ctc_loss(
            x, self.labels, None, lengths, reduction="mean_per_label"
        )
        compiled = torch.compile(function, backend="eager", fullgraph=True)
        x = torch.randn(2, 6, 4)
        torch.testing.assert_close(compiled(x), function(x))
