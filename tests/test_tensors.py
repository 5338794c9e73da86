"""Tensors of PyTorch that are not plain memory: fake, wrapped, lazy, sparse, freed, recorded.

Each has the right answer, or an error that says what to do; and none may end the process, so that
they are tried on the backend that is chosen, too.
"""

from functools import partial

import pytest

from tests.helpers import needed

torch = needed("torch")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch.testing._internal.two_tensor import TwoTensor  # noqa: E402

import ctcx  # noqa: E402
from ctcx.plugin import has_host_memory  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning",
    "ignore:The PyTorch API of (nested|MaskedTensors):UserWarning",
    "ignore:.*(CSR|CSC|BSR).*beta:UserWarning",
    "ignore:.*torch.quantize_per_tensor.*:UserWarning",
)

LOGITS = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([[1, 2], [3, 4]])
FRAMES, COUNTS = torch.tensor([9, 7]), torch.tensor([2, 1])
ARRAYS = (LOGITS, LABELS, FRAMES, COUNTS)
EXPECTED = ctcx.ctc_loss_and_grad(*ARRAYS, backend="array-api")


@pytest.fixture(params=["array-api", None], ids=["core", "auto"])
def backend(request):
    return request.param


def same(loss, expected=EXPECTED.loss):
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


def gradient(loss_of, logits):
    leaf = logits.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss_of(leaf).sum(), leaf)
    return grad


@pytest.fixture
def on_meta():
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


@pytest.mark.usefixtures("on_meta")
@pytest.mark.parametrize("lists", [False, True])
def test_the_default_device_is_not_that_of_the_logits(backend, lists):
    given = (LOGITS, *(a.tolist() for a in ARRAYS[1:])) if lists else ARRAYS
    same(ctcx.ctc_loss(*given, backend=backend))
    result = ctcx.ctc_loss_and_grad(*given, backend=backend)
    same(result.grad, EXPECTED.grad)
    same(gradient(lambda x: ctcx.ctc_loss(x, *given[1:], backend=backend), LOGITS), result.grad)
    assert ctcx.ctc_hvp(*given, vector=LOGITS, backend=backend).device.type == "cpu"


class TestFake:
    @pytest.fixture(autouse=True)
    def mode(self):
        with FakeTensorMode():
            yield

    @pytest.mark.parametrize("lists", [False, True])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    def test_shapes_and_dtypes(self, backend, lists, dtype):
        logits = torch.zeros(2, 9, 5, dtype=dtype)
        rest = ([[1, 2], [3]], [9, 7]) if lists else (torch.zeros(2, 3, dtype=torch.int32),)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        loss = ctcx.ctc_loss(logits, *rest, backend=backend)
        assert (loss.shape, loss.dtype, loss.device.type) == ((2,), wide, "cpu")
        loss, grad, feasible = ctcx.ctc_loss_and_grad(logits, *rest, backend=backend)
        assert (loss.dtype, grad.shape, grad.dtype) == (wide, (2, 9, 5), dtype)
        assert (feasible.shape, feasible.dtype) == ((2,), torch.bool)

    def test_another_device(self, backend):
        logits = torch.zeros(2, 9, 5, device="cuda")
        assert ctcx.ctc_loss(logits, [[1], [2]], backend=backend).device.type == "cuda"

    @pytest.mark.parametrize("reduction", ["sum", "mean", "mean_per_label"])
    def test_backward(self, backend, reduction):
        logits = torch.zeros(5, 9, 4, requires_grad=True)
        loss = ctcx.ctc_loss(
            logits, [[1]] * 9, time_major=True, reduction=reduction, backend=backend
        )
        assert loss.shape == ()
        loss.backward()
        assert logits.grad.shape == logits.shape

    def test_second_derivatives(self, backend):
        logits = torch.zeros(9, 5)
        product = ctcx.ctc_hvp(logits, [1, 2], vector=logits, backend=backend)
        assert product.shape == (9, 5)

    def test_static_facts_are_checked(self):
        with pytest.raises(ctcx.CTCInputError, match="labels must have shape"):
            ctcx.ctc_loss(torch.zeros(2, 9, 5), [[1]])


class TestWrapped:
    def test_each_inner_tensor_is_computed(self, backend):
        two = TwoTensor(LOGITS, 2 * LOGITS)
        wrapped = [TwoTensor(a, a) for a in ARRAYS[1:]]
        for rest in (wrapped, ARRAYS[1:], [a.tolist() for a in ARRAYS[1:]]):
            loss = ctcx.ctc_loss(two, *rest, backend=backend)
            same(loss.a)
            same(loss.b, ctcx.ctc_loss(2 * LOGITS, *ARRAYS[1:], backend="array-api"))

    @pytest.mark.parametrize("place", [1, 2, 3])
    def test_labels_and_lengths(self, backend, place):
        given = list(ARRAYS)
        given[place] = TwoTensor(given[place], given[place])
        same(ctcx.ctc_loss(*given, backend=backend).a)

    def test_gradients(self, backend):
        two = TwoTensor(LOGITS.clone(), LOGITS.clone()).requires_grad_()
        ctcx.ctc_loss(two, *ARRAYS[1:], reduction="sum", backend=backend).backward()
        same(two.grad.a, EXPECTED.grad)

    def test_vmap(self, backend):
        two = TwoTensor(LOGITS, LOGITS)
        loss = torch.func.vmap(lambda x: ctcx.ctc_loss(x, [1, 2], backend=backend))(two)
        same(loss.a, ctcx.ctc_loss(LOGITS, [[1, 2]] * 2, backend="array-api"))

    def test_values_are_checked(self, backend):
        bad = LOGITS.clone()
        bad[1, 2, 3] = torch.nan
        two = TwoTensor(LOGITS, bad)
        with pytest.raises(ctcx.CTCInputError, match=r"logits\[1, 2, 3\] is nan"):
            ctcx.ctc_loss(two, *ARRAYS[1:], backend=backend)
        swapped = TwoTensor(LOGITS.movedim(0, 1), bad.movedim(0, 1))
        with pytest.raises(ctcx.CTCInputError, match=r"logits\[2, 1, 3\] is nan"):
            ctcx.ctc_loss(swapped, *ARRAYS[1:], time_major=True, backend=backend)

    def test_a_class_that_takes_no_operator_it_does_not_know(self, backend):
        class Picky(TwoTensor):
            @classmethod
            def __torch_dispatch__(cls, func, types, args, kwargs):
                if "ctcx" in str(func):
                    raise NotImplementedError("no rule for it")
                return super().__torch_dispatch__(func, types, args, kwargs)

        picky = Picky(LOGITS, LOGITS)
        with pytest.raises(ctcx.BackendError, match=r"type.* Picky.*no rule for it.*plain tensors"):
            ctcx.ctc_loss(picky, *ARRAYS[1:], backend=backend)

    def test_a_mode_sees_one_operator(self, backend):
        from torch.utils._python_dispatch import TorchDispatchMode

        class Listening(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                seen.append(str(func))
                return func(*args, **(kwargs or {}))

        seen = []
        with Listening():
            loss = ctcx.ctc_loss(*ARRAYS, backend=backend)
        same(loss)
        assert [name for name in seen if "ctcx" in name] == ["ctcx.loss.default"]


class OfClass(torch.Tensor):
    pass


def test_a_plain_subclass_is_that_of_the_results(backend):
    given = LOGITS.as_subclass(OfClass)
    loss, grad, _ = ctcx.ctc_loss_and_grad(given, *ARRAYS[1:], backend=backend)
    assert type(loss) is type(grad) is OfClass
    same(loss.as_subclass(torch.Tensor))
    leaf = LOGITS.clone().requires_grad_()
    loss = ctcx.ctc_loss(leaf.as_subclass(OfClass), *ARRAYS[1:], backend=backend)
    assert type(loss) is OfClass
    loss.sum().backward()
    same(leaf.grad, EXPECTED.grad)
    labels = LABELS.as_subclass(OfClass)
    assert type(ctcx.ctc_loss(LOGITS, labels, FRAMES, COUNTS, backend=backend)) is torch.Tensor
    assert type(ctcx.ctc_loss(torch.nn.Parameter(LOGITS), LABELS)) is torch.Tensor


def negative(tensor):
    return torch._neg_view(-tensor)


class TestLazy:
    @pytest.mark.parametrize("place", [0, 1, 2, 3])
    def test_negative_bits(self, backend, place):
        given = list(ARRAYS)
        given[place] = negative(given[place])
        assert given[place].is_neg()
        same(ctcx.ctc_loss(*given, backend=backend))
        same(ctcx.ctc_loss_and_grad(*given, backend=backend).grad, EXPECTED.grad)

    def test_imaginary_parts_of_conjugates(self, backend):
        logits = torch.complex(torch.zeros_like(LOGITS), -LOGITS).conj().imag
        assert logits.is_neg()
        same(ctcx.ctc_loss(logits, *ARRAYS[1:], backend=backend))
        same(
            ctcx.ctc_hvp(logits, LABELS, vector=logits), ctcx.ctc_hvp(LOGITS, LABELS, vector=LOGITS)
        )

    def test_gradients(self, backend):
        grad = gradient(lambda x: ctcx.ctc_loss(negative(x), *ARRAYS[1:], backend=backend), LOGITS)
        same(grad, EXPECTED.grad)

    def test_zeros(self, backend):
        zeros = torch._efficientzerotensor((2, 9, 5))
        expected = ctcx.ctc_loss_and_grad(torch.zeros(2, 9, 5), LABELS, backend="array-api")
        result = ctcx.ctc_loss_and_grad(zeros, LABELS, backend=backend)
        same(result.loss, expected.loss)
        same(result.grad, expected.grad)
        none = torch._efficientzerotensor((2,), dtype=torch.int64)
        same(ctcx.ctc_loss(LOGITS, LABELS, none, none, backend=backend), torch.zeros(2))
        labels = torch._efficientzerotensor((2, 2), dtype=torch.int64)
        with pytest.raises(ctcx.CTCInputError, match=r"labels\[0, 0\] is 0"):
            ctcx.ctc_loss(LOGITS, labels, backend=backend)


PLACES = list(enumerate(["logits", "labels", "logit_lengths", "label_lengths"]))

NOT_DENSE = {
    "sparse": (torch.Tensor.to_sparse, "torch.sparse_coo.*to_dense"),
    "sparse rows": (lambda t: t.reshape(-1, t.shape[-1]).to_sparse_csr(), "sparse_csr.*to_dense"),
    "mkldnn": (lambda t: t.float().to_mkldnn(), "mkldnn.*to_dense"),
    "nested": (lambda t: torch.nested.nested_tensor(list(t)), "nested.*to_padded_tensor"),
    "jagged": (
        lambda t: torch.nested.nested_tensor([*t.reshape(2, -1)], layout=torch.jagged),
        "nested.*to_padded_tensor",
    ),
    "quantized": (
        lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.quint8),
        "quantized.*(dequantize|int_repr)",
    ),
    "masked": (lambda t: torch.masked.masked_tensor(t, t < 9), "MaskedTensor.*to_tensor"),
}


@pytest.mark.parametrize("kind", NOT_DENSE)
@pytest.mark.parametrize(("place", "argument"), PLACES)
def test_other_layouts_are_refused(backend, kind, place, argument):
    convert, message = NOT_DENSE[kind]
    given = list(ARRAYS)
    given[place] = convert(given[place])
    with pytest.raises(ctcx.CTCInputError, match=f"{argument} is .*{message}") as caught:
        ctcx.ctc_loss(*given, backend=backend)
    assert caught.value.argument == argument
    with pytest.raises(ctcx.CTCInputError, match=f"{argument} is .*{message}"):
        ctcx.ctc_hvp(*given, vector=LOGITS, backend=backend)


@pytest.mark.parametrize("kind", NOT_DENSE)
def test_other_layouts_are_refused_by_decoders(kind):
    convert, message = NOT_DENSE[kind]
    for decode in (
        ctcx.ctc_greedy,
        ctcx.ctc_beam_search,
        partial(ctcx.ctc_beam_search, boost={1: 2}),
    ):
        with pytest.raises(ctcx.CTCInputError, match=f"logits is .*{message}"):
            decode(convert(LOGITS))


def test_fake_tensors_beside_others_are_refused_by_all_operators():
    fake, uniforms = (
        FakeTensorMode().from_tensor(LOGITS),
        torch.full((*LOGITS.shape[:1], 1, 9), 0.5),
    )
    for call in (
        lambda: ctcx.ctc_loss(fake, LABELS),
        lambda: ctcx.ctc_loss_and_grad(fake, LABELS),
        lambda: ctcx.ctc_align(fake, LABELS),
        lambda: ctcx.ctc_occupancies(fake, LABELS),
        lambda: ctcx.ctc_sample_paths(fake, LABELS, uniforms),
        lambda: ctcx.ctc_greedy(fake, FRAMES),
        lambda: ctcx.ctc_beam_search(fake, FRAMES),
    ):
        with pytest.raises(ctcx.BackendError, match=r"can't take the operator ctcx::.*FakeTensor"):
            call()


def freed(tensor):
    copy = tensor.clone()
    copy.untyped_storage().resize_(0)
    return copy


def cut(tensor):
    behind = torch.cat([tensor, tensor])[tensor.shape[0] :]
    behind.untyped_storage().resize_(tensor.nbytes)
    return behind


def cut_strided(tensor):
    part = torch.stack([tensor, tensor], dim=-1)[..., 1]
    part.untyped_storage().resize_(tensor.nbytes)
    return part


@pytest.mark.parametrize("free", [freed, cut, cut_strided])
@pytest.mark.parametrize(("place", "argument"), PLACES)
def test_freed_memory_is_not_read(backend, free, place, argument):
    given = list(ARRAYS)
    given[place] = free(given[place])
    with pytest.raises(ctcx.CTCInputError, match=f"{argument} .* storage was freed"):
        ctcx.ctc_loss(*given, backend=backend)


def test_views_of_larger_storages_are_fine(backend):
    frames = torch.stack([LOGITS, LOGITS], dim=1)[:, 1]
    labels = torch.cat([LABELS, LABELS], dim=1)[:, 2:]
    same(ctcx.ctc_loss(frames, labels, FRAMES, COUNTS, backend=backend))
    nothing = torch.zeros(0, 9, 5)
    assert ctcx.ctc_loss(nothing, torch.zeros(0, 2, dtype=torch.int64)).shape == (0,)


class TestRecorded:
    """What a program computes that was recorded once, on other logits."""

    other = 2 * LOGITS

    @pytest.fixture
    def loss_of(self, backend):
        return lambda x, y: ctcx.ctc_loss(x, y, [9, 7], [2, 1], backend=backend)

    def test_functionalize(self, loss_of):
        same(torch.func.functionalize(loss_of)(LOGITS, LABELS))
        batches = torch.stack([LOGITS, self.other])
        over = torch.func.vmap(loss_of, in_dims=(0, None))
        same(torch.func.functionalize(over)(batches, LABELS), over(batches, LABELS))
        grad = gradient(lambda x: torch.func.functionalize(loss_of)(x, LABELS), LOGITS)
        same(grad, EXPECTED.grad)

    def test_functionalize_and_grad_say_what_to_do(self, loss_of):
        grad = torch.func.grad(lambda x: loss_of(x, LABELS).sum())
        with pytest.raises(ctcx.BackendError, match=r"differentiate with torch\.autograd"):
            torch.func.functionalize(grad)(LOGITS)

    @pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
    def test_make_fx(self, loss_of, mode):
        program = make_fx(loss_of, tracing_mode=mode)(LOGITS, LABELS)
        targets = [str(node.target) for node in program.graph.nodes]
        assert "ctcx.loss.default" in targets
        same(program(self.other, LABELS), loss_of(self.other, LABELS))

    @pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
    def test_make_fx_of_a_gradient(self, loss_of, mode):
        grad = torch.func.grad(lambda x, y: loss_of(x, y).sum())
        program = make_fx(grad, tracing_mode=mode)(LOGITS, LABELS)
        same(program(self.other, LABELS), grad(self.other, LABELS))

    def test_make_fx_of_vmap(self, loss_of):
        over = torch.func.vmap(loss_of, in_dims=(0, None))
        program = make_fx(over)(torch.stack([LOGITS, LOGITS]), LABELS)
        batches = torch.stack([LOGITS, self.other])
        same(program(batches, LABELS), over(batches, LABELS))

    def test_jit_trace(self, loss_of):
        program = torch.jit.trace(loss_of, (LOGITS, LABELS))
        assert "ctcx::ctc_loss" in str(program.graph)
        same(program(self.other, LABELS), loss_of(self.other, LABELS))
        traced = gradient(lambda x: program(x, LABELS), self.other)
        same(traced, gradient(lambda x: loss_of(x, LABELS), self.other))

    def test_jit_trace_of_lists_and_gradients(self, backend):
        both = lambda x: tuple(
            ctcx.ctc_loss_and_grad(x, [[1, 2], [3]], time_major=True, backend=backend)
        )
        swapped = LOGITS.movedim(0, 1)
        program = torch.jit.trace(both, (swapped,))
        for one, other in zip(program(2 * swapped), both(2 * swapped), strict=True):
            torch.testing.assert_close(one, other)

    def test_a_traced_program_checks_values(self, loss_of):
        program = torch.jit.trace(loss_of, (LOGITS, LABELS))
        with pytest.raises(RuntimeError, match=r"labels\[1, 0\] is 9"):
            program(LOGITS, torch.tensor([[1, 2], [9, 4]]))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: LOGITS, True),
        (lambda: LOGITS.numpy(), True),
        (lambda: LOGITS.movedim(0, 1), True),
        (lambda: torch.nn.Parameter(LOGITS), True),
        (lambda: LOGITS.as_subclass(OfClass), True),
        (lambda: LOGITS.to("meta"), False),
        (lambda: negative(LOGITS), False),
        (lambda: torch._efficientzerotensor((2, 3)), False),
        (lambda: TwoTensor(LOGITS, LOGITS), False),
        (lambda: freed(LOGITS), False),
        (lambda: LOGITS.to_sparse(), False),
        (lambda: FakeTensorMode().from_tensor(LOGITS), False),
        (lambda: [1.0], False),
    ],
)
def test_has_host_memory(make, expected):
    assert has_host_memory(make()) is expected
