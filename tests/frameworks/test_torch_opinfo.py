"""PyTorch's own tests of its CTC loss, on ``ctcx.compat.torch``: inputs from the installed torch.

``torch.testing._internal`` has the inputs of the operator (an OpInfo) and of the module (a
ModuleInfo), and the generic checks; the loops over them are in PyTorch's repository alone, so they
are written anew here. A deliberate difference from PyTorch is in ``DIFFERENCES``, with its reason;
each must be there, or its test fails.
"""

import copy
import itertools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.testing._internal import composite_compliance
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db
from torch.testing._internal.common_utils import freeze_rng_state
from torch.testing._internal.opinfo.core import SampleInput
from torch.testing._internal.optests import aot_autograd_check, make_fx_check
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils import _pytree as pytree

from ctcx.compat import torch as compat

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

(THEIRS,) = (op for op in op_db if op.name == "nn.functional.ctc_loss")
(MODULE,) = (info for info in module_db if info.module_cls is torch.nn.CTCLoss)

DIFFERENCES = {
    # PyTorch marks these as expected failures; ctcx computes them.
    "second derivatives": "PyTorch has none of the CTC loss; ctcx has",
    "forward mode": "PyTorch has none of the CTC loss; ctcx has",
    "half precision": "PyTorch takes no half precision on the CPU; ctcx computes it in float32",
    "module gradients": "PyTorch skips them for want of a second derivative; ctcx has it",
}


def small(sample):
    """The same for the first frames, sequences and labels, for what takes long."""
    log_probs = sample.input.detach()[:12, :2].clone().requires_grad_()
    targets, frames, counts = sample.args
    pick = lambda lengths, limit: (
        lengths[:2].clamp(max=limit)
        if isinstance(lengths, torch.Tensor)
        else [min(length, limit) for length in lengths[:2]]
    )
    args = (targets[:2, :4], pick(frames, 12), pick(counts, 4))
    return SampleInput(log_probs, args=args, kwargs=sample.kwargs)


def samples(dtype, *, requires_grad=False):
    torch.manual_seed(0)
    return list(THEIRS.sample_inputs("cpu", dtype, requires_grad=requires_grad))


SAMPLES = range(len(samples(torch.float32)))
each_sample = pytest.mark.parametrize("index", SAMPLES)


def ours(log_probs, *args, **kwargs):
    return compat.ctc_loss(log_probs, *args, **kwargs)


@each_sample
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_answers_are_those_of_torch(index, dtype):
    sample = samples(dtype, requires_grad=True)[index]
    given = (*sample.args,)
    loss = ours(sample.input, *given, **sample.kwargs)
    expected = THEIRS.op(sample.input, *given, **sample.kwargs)
    torch.testing.assert_close(loss, expected)
    weights = torch.ones_like(loss)
    # The gradient of PyTorch is that with respect to what went into log_softmax.
    grads = [torch.autograd.grad(each, sample.input, weights)[0] for each in (loss, expected)]
    torch.testing.assert_close(*grads, atol=2e-4 if dtype == torch.float32 else 1e-9, rtol=1e-5)


@each_sample
@pytest.mark.parametrize("form", ["noncontiguous", "no_grad", "inference"])
def test_forms_of_a_sample(index, form):
    sample = samples(torch.float64)[index]
    if form == "noncontiguous":
        other = sample.noncontiguous()
        result = ours(other.input, *other.args, **other.kwargs)
    else:
        with torch.no_grad() if form == "no_grad" else torch.inference_mode():
            result = ours(sample.input, *sample.args, **sample.kwargs)
    torch.testing.assert_close(result, ours(sample.input, *sample.args, **sample.kwargs))


@each_sample
def test_gradcheck(index):
    sample = small(samples(torch.float64)[index])
    loss = lambda x: THEIRS.gradcheck_wrapper(ours, x, *sample.args, **sample.kwargs)
    options = {"check_batched_grad": THEIRS.check_batched_grad, "fast_mode": True}
    assert torch.autograd.gradcheck(loss, (sample.input,), **options)
    assert torch.autograd.gradcheck(loss, (sample.input,), check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(loss, (sample.input,), **options)


@each_sample
def test_fake_tensors(index):
    sample = samples(torch.float32, requires_grad=True)[index]
    real = ours(sample.input, *sample.args, **sample.kwargs)
    with FakeTensorMode() as mode:
        fake = lambda x: mode.from_tensor(x) if isinstance(x, torch.Tensor) else x
        log_probs, *args = pytree.tree_map(fake, (sample.input, *sample.args))
        result = ours(log_probs, *args, **sample.kwargs)
        assert isinstance(result, FakeTensor)
        assert (result.shape, result.dtype, result.device) == (real.shape, real.dtype, real.device)
        (grad,) = torch.autograd.grad(result.sum(), log_probs)
        assert grad.shape == sample.input.shape


@each_sample
def test_composite_compliance(index):
    sample = samples(torch.float32, requires_grad=True)[index]
    lists = [isinstance(arg, list) for arg in sample.args]
    if any(lists):  # a list becomes a tensor without a subclass, which PyTorch's check refuses
        return
    check = composite_compliance.check_with_mode
    check(ours, (sample.input, *sample.args), sample.kwargs, torch.testing.assert_close)


@each_sample
@pytest.mark.parametrize("dynamic", [False, True])
def test_aot_autograd(index, dynamic):
    sample = small(samples(torch.float64)[index])
    given = (sample.input, *sample.args)
    aot_autograd_check(ours, given, sample.kwargs, dynamic=dynamic)


@each_sample
@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_make_fx(index, mode):
    sample = small(samples(torch.float64)[index])
    given = (sample.input.detach(), *sample.args)
    make_fx_check(ours, given, sample.kwargs, tracing_mode=mode)


@each_sample
def test_vmap(index):
    sample = small(samples(torch.float64)[index])
    batch = torch.stack([sample.input.detach(), sample.input.detach().flip(0)])
    loss = lambda x: ours(x, *sample.args, **sample.kwargs)
    expected = torch.stack([loss(x) for x in batch])
    torch.testing.assert_close(torch.func.vmap(loss)(batch), expected)


@each_sample
def test_wrapper_subclasses(index):
    sample = samples(torch.float32)[index]
    wrap = lambda x: TwoTensor(x, x.clone()) if isinstance(x, torch.Tensor) else x
    result = ours(*map(wrap, (sample.input, *sample.args)), **sample.kwargs)
    torch.testing.assert_close(result.b, ours(sample.input, *sample.args, **sample.kwargs))


@each_sample
def test_zero_tensors(index):
    sample = small(samples(torch.float32)[index])
    zeros = torch._efficientzerotensor(sample.input.shape)
    result = ours(zeros, *sample.args, **sample.kwargs)
    expected = ours(torch.zeros(sample.input.shape), *sample.args, **sample.kwargs)
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_difference_half_precision(dtype):
    assert dtype not in THEIRS.dtypes
    assert DIFFERENCES["half precision"]
    sample = samples(torch.float32)[0]
    assert ours(sample.input.to(dtype), *sample.args, **sample.kwargs).dtype == torch.float32


def test_the_differences_in_derivatives_are_still_ones():
    """When PyTorch has these, the entries must go."""
    assert DIFFERENCES["second derivatives"]
    assert DIFFERENCES["forward mode"]
    assert not THEIRS.supports_forward_ad
    sample = small(samples(torch.float64)[0])
    loss = lambda x: THEIRS.gradcheck_wrapper(THEIRS.op, x, *sample.args, **sample.kwargs)
    with pytest.raises(RuntimeError, match="not implemented"):
        torch.autograd.gradgradcheck(loss, (sample.input,), fast_mode=True)


def module_inputs(dtype, *, requires_grad=False):
    torch.manual_seed(0)
    return MODULE.module_inputs_func(
        MODULE, "cpu", dtype, requires_grad=requires_grad, training=True
    )


MODULE_INPUTS = [case.desc for case in module_inputs(torch.float32)]


@pytest.mark.parametrize("index", range(len(MODULE_INPUTS)), ids=MODULE_INPUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
class TestModule:
    @pytest.fixture
    def case(self, index, dtype):
        return module_inputs(dtype, requires_grad=True)[index]

    @pytest.fixture
    def module(self, case):
        constructor = case.constructor_input
        return compat.CTCLoss(*constructor.args, **constructor.kwargs)

    def test_forward_and_reference(self, index, dtype, module):
        case = module_inputs(dtype)[index]
        given = case.forward_input
        with freeze_rng_state():
            loss = module(*given.args, **given.kwargs)
        # A loop in Python over frames and labels, which comes with the inputs.
        expected = case.reference_fn(module, *given.args, **given.kwargs)
        torch.testing.assert_close(loss, expected.to(loss.dtype), rtol=1e-4, atol=1e-5)

    def test_gradient(self, case, module):
        assert DIFFERENCES["module gradients"]
        theirs = torch.nn.CTCLoss(**case.constructor_input.kwargs)
        log_probs, *rest = case.forward_input.args
        grads = []
        for each in (module, theirs):
            loss = each(log_probs, *rest)
            grads.append(torch.autograd.grad(loss.sum(), log_probs, retain_graph=True)[0])
        torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)

    def test_repr_copy_and_jit(self, case, module):
        assert str(module)
        again = copy.deepcopy(module)
        given = case.forward_input.args
        torch.testing.assert_close(again(*given), module(*given))
        if all(isinstance(arg, torch.Tensor) for arg in given):
            torch.testing.assert_close(torch.jit.script(module)(*given), module(*given))


def test_there_are_samples_of_each_kind():
    kinds = {
        (s.kwargs["reduction"], s.kwargs["zero_infinity"], type(s.args[1]))
        for s in samples(torch.float32)
    }
    assert set(itertools.product(["none", "mean", "sum"], [False, True])) == {k[:2] for k in kinds}
    assert {k[2] for k in kinds} == {list, torch.Tensor}
    assert len(MODULE_INPUTS) >= 40
