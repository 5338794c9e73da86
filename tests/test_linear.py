"""A linear layer with the loss; truth: loss and gradient of the layer's logits, in float64."""

import tracemalloc

import array_api_strict
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ctcx
from tests.helpers import STRICT_DEVICES, needed, optional, strict_array, strict_values

torch, jax, jnp = optional("torch"), optional("jax"), optional("jax.numpy")

SETTINGS = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
REDUCTIONS = ("none", "sum", "mean", "mean_per_label")


@st.composite
def problems(draw):
    """Anything that is allowed: repeats, junk past lengths, masked classes, too many labels."""
    n, t, d = draw(st.integers(0, 3)), draw(st.integers(0, 9)), draw(st.integers(1, 4))
    c = draw(st.integers(1, 9))
    s = draw(st.integers(0, 4)) if c > 1 else 0
    blank = draw(st.integers(0, c - 1))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale = draw(st.sampled_from([0.0, 1.0, 20.0]))
    hidden, weight = rng.standard_normal((n, t, d)) * scale, rng.standard_normal((c, d))
    bias = rng.standard_normal(c) if draw(st.booleans()) else None
    if bias is not None and draw(st.booleans()):
        bias[rng.random(c) < 0.3] = -np.inf
    labels = (blank + rng.integers(1, max(2, min(c, draw(st.integers(2, 9)))), (n, s))) % c
    logit_lengths, label_lengths = rng.integers(0, t + 1, n), rng.integers(0, s + 1, n)
    for i in range(n):
        hidden[i, logit_lengths[i] :] = rng.choice([np.nan, np.inf, -np.inf, 7.0])
        labels[i, label_lengths[i] :] = rng.integers(-99, 99)
    return hidden, weight, bias, labels, logit_lengths, label_lengths, blank


def random_layer(seed, n=3, t=12, d=5, c=11, s=4, dtype=np.float64):
    """Hidden states, weight, bias, labels with repeats, and lengths; the blank is 2."""
    rng = np.random.default_rng(seed)
    hidden, weight = rng.standard_normal((n, t, d)), rng.standard_normal((c, d))
    labels = rng.integers(3, min(c, 6), (n, s))
    floats = (array.astype(dtype) for array in (hidden, weight, rng.standard_normal(c)))
    return (*floats, labels, np.arange(t - n + 1, t + 1), np.full(n, s))


def through_logits(hidden, weight, bias, labels, logit_lengths, label_lengths, **options):
    """Loss, gradients and feasible, by way of the logits in float64."""
    swap = options.pop("time_major", False)
    x = np.asarray(hidden, np.float64)
    x = x.swapaxes(0, 1) if swap else x
    lengths = np.full(len(x), x.shape[1]) if logit_lengths is None else logit_lengths
    x = np.where((np.arange(x.shape[1]) < lengths[:, None])[:, :, None], x, 0)
    w = np.asarray(weight, np.float64)
    logits = x @ w.T + (0 if bias is None else np.asarray(bias, np.float64))
    found = ctcx.ctc_loss_and_grad(logits, labels, logit_lengths, label_lengths, **options)
    of_hidden, of_weight = found.grad @ w, np.einsum("ntc,ntd->cd", found.grad, x)
    of_hidden = of_hidden.swapaxes(0, 1) if swap else of_hidden
    of_bias = None if bias is None else found.grad.sum((0, 1))
    return ctcx.LinearLossAndGrad(found.loss, of_hidden, of_weight, of_bias, found.feasible)


def assert_agree(result, truth, atol=1e-10, read=np.asarray):
    assert (result.bias is None) == (truth.bias is None)
    np.testing.assert_array_equal(read(result.feasible), truth.feasible)
    np.testing.assert_allclose(read(result.loss), truth.loss, rtol=max(atol, 1e-9), atol=atol)
    for name in ("hidden", "weight", "bias"):
        expected = getattr(truth, name)
        if expected is not None:
            np.testing.assert_allclose(read(getattr(result, name)), expected, atol=atol)


@SETTINGS
@given(problems(), st.sampled_from(REDUCTIONS), st.sampled_from(["inf", "zero"]), st.booleans())
def test_agrees_with_the_loss_of_the_logits(problem, reduction, infeasible, time_major):
    hidden, *rest, blank = problem
    options = {"reduction": reduction, "infeasible": infeasible, "time_major": time_major}
    given_hidden = hidden.swapaxes(0, 1) if time_major else hidden
    truth = through_logits(given_hidden, *rest, blank=blank, **options)
    for chunk in (None, 1, 4):
        result = ctcx.linear_ctc_loss_and_grad(
            given_hidden, *rest, blank=blank, chunk=chunk, **options
        )
        assert_agree(result, truth)


@pytest.mark.parametrize("library", ["torch", "strict"])
@SETTINGS
@given(problems(), st.sampled_from([1, 3, 4, 100]))
def test_libraries_agree(library, problem, chunk):
    *arrays, labels, logit_lengths, label_lengths, blank = problem
    make = {
        "torch": lambda a: torch.tensor(a),
        "strict": lambda a: strict_array(a, "device2"),
    }[library]
    rest = (labels, logit_lengths, label_lengths)
    truth = through_logits(*arrays, *rest, blank=blank)
    moved = [None if a is None else make(a) for a in arrays]
    result = ctcx.linear_ctc_loss_and_grad(*moved, *rest, blank=blank, chunk=chunk)
    read = strict_values if library == "strict" else np.asarray
    assert_agree(result, truth, 1e-10, read)


# On a device without 64-bit integers, sorting with array_api_strict gives some.
@pytest.mark.parametrize("device", [name for name in STRICT_DEVICES if name != "no_x64"])
def test_the_array_api_alone_on_any_device(device):
    arrays = random_layer(1, dtype=np.float32)
    moved = [strict_array(a, device) for a in arrays]
    result = ctcx.linear_ctc_loss_and_grad(*moved, blank=2, chunk=4)
    assert result.weight.dtype == array_api_strict.float32
    assert_agree(result, through_logits(*arrays, blank=2), 1e-4, strict_values)


def test_against_finite_differences_of_the_loss():
    hidden, weight, bias, *rest = random_layer(2)
    result = ctcx.linear_ctc_loss_and_grad(hidden, weight, bias, *rest, blank=2, reduction="sum")
    rng, step = np.random.default_rng(0), 1e-5
    for place, grad in enumerate((result.hidden, result.weight, result.bias)):
        direction = rng.standard_normal(grad.shape)
        losses = []
        for sign in (1, -1):
            moved = [hidden, weight, bias]
            moved[place] = moved[place] + sign * step * direction
            losses.append(ctcx.linear_ctc_loss_and_grad(*moved, *rest, blank=2).loss.sum())
        slope = (losses[0] - losses[1]) / (2 * step)
        np.testing.assert_allclose(np.vdot(grad, direction), slope, rtol=1e-7)


def test_one_sequence():
    hidden, *layer, labels, frames, count = random_layer(3)
    batch = ctcx.linear_ctc_loss_and_grad(hidden[1:2], *layer, labels[1:2], frames[1:2], blank=2)
    one = ctcx.linear_ctc_loss_and_grad(hidden[1], *layer, labels[1], frames[1], count[1], blank=2)
    assert one.loss.shape == one.feasible.shape == ()
    np.testing.assert_array_equal(one.hidden, batch.hidden[0])
    np.testing.assert_array_equal(one.weight, batch.weight)


@pytest.mark.parametrize(("n", "t", "c", "s"), [(0, 4, 3, 2), (2, 0, 3, 0), (2, 3, 1, 0)])
def test_empty_batches_sequences_and_labels(n, t, c, s):
    hidden, weight = np.ones((n, t, 2), np.float32), np.ones((c, 2), np.float32)
    result = ctcx.linear_ctc_loss_and_grad(hidden, weight, None, np.ones((n, s), int))
    assert result.loss.tolist() == [0.0] * n
    assert not result.hidden.any()
    assert not result.weight.any()


def test_classes_of_several_sequences_add_up():
    """The same label in each sequence, and twice in a row in one of them."""
    hidden, weight, bias, *_ = random_layer(4, n=5)
    labels = np.array([[7, 7, 3, 7], [7, 3, 7, 3], [3, 3, 3, 3], [7, 7, 7, 7], [3, 7, 7, 3]])
    truth = through_logits(hidden, weight, bias, labels, None, None, blank=2)
    assert_agree(ctcx.linear_ctc_loss_and_grad(hidden, weight, bias, labels, blank=2), truth)


def test_gradients_of_other_classes_are_exact_where_the_own_ones_have_almost_all_probability():
    """Taken off a sum, the power of a label would leave nothing of those of the other classes."""
    hidden, weight, bias, labels, *lengths = random_layer(5, c=200, dtype=np.float32)
    bias[2:6] += 40  # exp(40) is 2e17: float32 has 7 digits, float64 16
    bias = np.float32(bias)
    truth = through_logits(hidden, weight, bias, labels, *lengths, blank=2)
    result = ctcx.linear_ctc_loss_and_grad(hidden, weight, bias, labels, *lengths, blank=2)
    others = np.ones(200, bool)
    others[2:6] = False
    np.testing.assert_allclose(result.bias[others], truth.bias[others], rtol=1e-4)
    np.testing.assert_allclose(result.weight[others], truth.weight[others], rtol=1e-3, atol=1e-20)


@pytest.mark.parametrize("backend", ["array-api"])
def test_float32_with_many_classes_and_frames(backend):
    rng = np.random.default_rng(6)
    hidden = rng.standard_normal((2, 250, 64)).astype(np.float32)
    weight = (0.3 * rng.standard_normal((5000, 64))).astype(np.float32)
    bias, labels = np.zeros(5000, np.float32), rng.integers(1, 5000, (2, 30))
    truth = through_logits(hidden, weight, bias, labels, None, None)
    with ctcx.trace() as calls:
        result = ctcx.linear_ctc_loss_and_grad(hidden, weight, bias, labels, backend=backend)
    assert [call.backend for call in calls] == [backend]
    assert result.weight.dtype == np.float32
    np.testing.assert_allclose(result.loss, truth.loss, rtol=1e-6)
    for name in ("hidden", "weight", "bias"):
        found, expected = getattr(result, name), getattr(truth, name)
        np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


def test_half_precision_goes_through_float32():
    arrays = random_layer(7, dtype=np.float16)
    wide = [a.astype(np.float32) for a in arrays[:3]]
    result = ctcx.linear_ctc_loss_and_grad(*arrays, blank=2)
    expected = ctcx.linear_ctc_loss_and_grad(*wide, *arrays[3:], blank=2)
    np.testing.assert_array_equal(result.loss, expected.loss)
    for name in ("hidden", "weight", "bias"):
        assert getattr(result, name).dtype == np.float16
        np.testing.assert_array_equal(getattr(result, name), np.float16(getattr(expected, name)))


def test_dtypes_may_differ():
    hidden, weight, bias, *rest = random_layer(8)
    result = ctcx.linear_ctc_loss_and_grad(np.float16(hidden), weight, np.float32(bias), *rest)
    dtypes = [result.loss.dtype, result.hidden.dtype, result.weight.dtype, result.bias.dtype]
    assert dtypes == [np.float64, np.float16, np.float64, np.float32]


def test_memory_holds_no_logits_of_all_frames_and_classes():
    rng = np.random.default_rng(9)
    n, t, c, d = 2, 200, 20_000, 16
    hidden = rng.standard_normal((n, t, d)).astype(np.float32)
    weight = rng.standard_normal((c, d)).astype(np.float32)
    labels = rng.integers(1, c, (n, 20))
    ctcx.linear_ctc_loss_and_grad(hidden[:, :9], weight[:9], None, [[1], [2]])  # imports
    tracemalloc.start()
    try:
        result = ctcx.linear_ctc_loss_and_grad(hidden, weight, None, labels, chunk=500)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    logits = 4 * n * t * c
    assert peak - result.weight.nbytes - result.hidden.nbytes < logits / 5


def test_infeasible_sequences_are_named():
    hidden, weight, bias, *_ = random_layer(10)
    with pytest.raises(ctcx.InfeasibleError, match="2 labels: they need at least 3 frames") as info:
        ctcx.linear_ctc_loss_and_grad(
            hidden, weight, bias, [[5], [4, 4], [3]], [2, 2, 2], infeasible="raise"
        )
    assert info.value.sequences == (1,)


HIDDEN, WEIGHT, BIAS = np.zeros((2, 5, 3)), np.zeros((4, 3)), np.zeros(4)
WITH_NAN = np.where(np.arange(30).reshape(2, 5, 3) == 19, np.nan, 0)
WRONG = {
    "no array": ({"hidden": [[1.0]]}, "hidden", "hidden must be an array of NumPy"),
    "integers": ({"hidden": np.zeros((2, 5, 3), int)}, "hidden", "hidden must have one of"),
    "one axis": ({"hidden": np.zeros(3)}, "hidden", r"hidden must have shape \(N, T, D\)"),
    "no features": ({"hidden": np.zeros((2, 5, 0))}, "hidden", "D of at least 1"),
    "weight turned": ({"weight": WEIGHT.T}, "weight", r"shape \(C, 3\).*pass its transpose"),
    "weight missing": ({"weight": None}, "weight", "weight must be an array of numpy, as hidden"),
    "no classes": ({"weight": np.zeros((0, 3))}, "weight", r"got \(0, 3\)"),
    "bias": ({"bias": np.zeros(3)}, "bias", r"bias must have shape \(4,\)"),
    "labels": ({"labels": np.ones((3, 1), int)}, "labels", r"to go with hidden \(N, T, D\)"),
    "label": ({"labels": [[1], [4]]}, "labels", r"labels\[1, 0\] is 4 .*class of the 4"),
    "blank": ({"labels": [[1], [0]]}, "labels", r"labels\[1, 0\] is 0 .*that is the blank"),
    "blank out of range": ({"blank": 4}, "blank", "out of range for 4 classes"),
    "lengths": ({"logit_lengths": [6, 5]}, "logit_lengths", r"logit_lengths\[0\] is 6"),
    "hidden NaN": ({"hidden": WITH_NAN}, "hidden", r"hidden\[1, 1, 1\] is nan .*in the 5 frames"),
    "weight inf": ({"weight": WEIGHT + np.inf}, "weight", r"weight\[0, 0\] is inf"),
    "bias NaN": ({"bias": np.array([0, 0, np.nan, 0])}, "bias", r"bias\[2\] is nan.*-inf for a"),
    "overflow": ({"hidden": HIDDEN + 1e200, "weight": WEIGHT + 1e200}, "hidden", "beyond the rang"),
    "chunk": ({"chunk": 0}, "chunk", "chunk must be a positive int"),
    "chunk bool": ({"chunk": True}, "chunk", "chunk must be a positive int"),
    "reduction": ({"reduction": "all"}, "reduction", "reduction must be one of"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_refused(name):
    changed, argument, words = WRONG[name]
    call = {"hidden": HIDDEN, "weight": WEIGHT, "bias": BIAS, "labels": [[1], [2]]} | changed
    with pytest.raises(ctcx.CTCInputError, match=words) as info:
        ctcx.linear_ctc_loss_and_grad(**call)
    assert info.value.argument == argument


def test_time_major_errors_name_the_place_as_the_caller_wrote_it():
    with pytest.raises(ctcx.CTCInputError, match=r"hidden\[1, 1, 1\] is nan \(sequence 1, frame 1"):
        ctcx.linear_ctc_loss_and_grad(
            WITH_NAN.swapaxes(0, 1), WEIGHT, BIAS, [[1], [2]], time_major=True
        )


def test_another_library_s_weight_is_refused():
    needed("torch")
    with pytest.raises(ctcx.CTCInputError, match=r"of numpy, as hidden is; got torch"):
        ctcx.linear_ctc_loss_and_grad(HIDDEN, torch.zeros((4, 3)), None, [[1], [2]])


def test_unchecked_nonsense_crashes_nothing():
    result = ctcx.linear_ctc_loss_and_grad(
        HIDDEN, WEIGHT, BIAS, [[99], [-99]], validate=False, reduction="sum"
    )
    assert result.weight.shape == WEIGHT.shape


def tensors(*arrays):
    return [torch.tensor(array, requires_grad=True) for array in arrays]


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_torch_gradcheck(reduction):
    hidden, weight, bias, *rest = random_layer(11, t=7, c=7)
    rest[1][0] = 3  # which no path emits
    options = {"reduction": reduction, "infeasible": "zero", "blank": 2, "chunk": 3}

    def loss(*layer):
        return ctcx.linear_ctc_loss_and_grad(*layer, *rest, **options).loss

    assert torch.autograd.gradcheck(loss, tensors(hidden, weight, bias), fast_mode=True)
    assert torch.autograd.gradcheck(
        lambda h, w: loss(h.transpose(0, 1), w, None),
        tensors(hidden.swapaxes(0, 1), weight),
        fast_mode=True,
    )


def test_torch_gradients_are_those_that_are_returned_and_once_differentiable():
    *layer, labels, frames, count = random_layer(12)
    layer = tensors(*layer)
    result = ctcx.linear_ctc_loss_and_grad(*layer, labels, frames, count, blank=2, reduction="mean")
    found = torch.autograd.grad(result.loss, layer, create_graph=True)
    for one, other in zip(found, result[1:4], strict=True):
        assert not other.requires_grad
        torch.testing.assert_close(one.detach(), other)
    scale = torch.ones((), requires_grad=True, dtype=torch.float64)
    loss = scale * ctcx.linear_ctc_loss_and_grad(*layer, labels, frames, count, blank=2).loss.sum()
    (once,) = torch.autograd.grad(loss, layer[0], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        once.sum().backward()


def test_torch_module_is_a_linear_layer_with_its_loss():
    needed("torch")
    hidden, weight, bias, *rest = random_layer(13)
    module = ctcx.LinearCTCLoss(5, 11, blank=2, reduction="sum", chunk=4, dtype=torch.float64)
    layer = torch.nn.Linear(5, 11, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))
    module.load_state_dict(layer.state_dict())
    x = torch.tensor(hidden)
    torch.testing.assert_close(module.logits(x), layer(x))
    loss = module(x, *rest)
    loss.backward()
    truth = through_logits(hidden, weight, bias, *rest, blank=2, reduction="sum")
    np.testing.assert_allclose(loss.item(), truth.loss)
    np.testing.assert_allclose(module.weight.grad, truth.weight, atol=1e-10)
    np.testing.assert_allclose(module.bias.grad, truth.bias, atol=1e-10)
    assert "blank=2" in repr(module)
    assert "chunk=4" in repr(module)


def test_torch_module_refuses_wrong_options_at_once():
    needed("torch")
    with pytest.raises(ctcx.CTCInputError, match="blank=11 is out of range for 11 classes"):
        ctcx.LinearCTCLoss(5, 11, blank=11)
    with pytest.raises(ctcx.CTCInputError, match="reduction must be one of"):
        ctcx.LinearCTCLoss(5, 11, reduction="average")


def test_torch_autocast_changes_nothing():
    *layer, labels, frames, count = random_layer(14, dtype=np.float32)
    expected = ctcx.linear_ctc_loss_and_grad(*layer, labels, frames, count, blank=2)
    layer = tensors(*layer)
    with torch.autocast("cpu", torch.bfloat16):
        result = ctcx.linear_ctc_loss_and_grad(*layer, labels, frames, count, blank=2)
        result.loss.sum().backward()
    np.testing.assert_allclose(result.weight, expected.weight, atol=1e-5)
    np.testing.assert_allclose(layer[1].grad, expected.weight, atol=1e-5)


def test_torch_bfloat16():
    *layer, labels, frames, count = random_layer(15)
    layer = [torch.tensor(a, dtype=torch.bfloat16) for a in layer]
    result = ctcx.linear_ctc_loss_and_grad(*layer, labels, frames, count, blank=2)
    wide = [a.double().numpy() for a in layer]
    assert result.loss.dtype == torch.float32
    assert result.weight.dtype == torch.bfloat16
    truth = through_logits(*wide, labels, frames, count, blank=2)
    np.testing.assert_allclose(result.weight.float(), truth.weight, rtol=1e-2, atol=1e-2)


def test_torch_func_is_refused_with_what_to_do():
    needed("torch")
    loss = lambda h: ctcx.linear_ctc_loss_and_grad(h, WEIGHT_T, None, [[1], [2]]).loss.sum()
    WEIGHT_T = torch.zeros((4, 3), dtype=torch.float64)
    with pytest.raises(ctcx.CTCInputError, match=r"Call ctcx\.ctc_loss on logits"):
        torch.func.grad(loss)(torch.tensor(HIDDEN))


def test_torch_compile_leaves_it_as_it_is():
    needed("torch")
    module = ctcx.LinearCTCLoss(3, 4)
    x, labels = torch.randn(2, 5, 3), torch.tensor([[1], [2]])
    compiled = torch.compile(lambda x: module(x + 1, labels), backend="eager")
    torch.testing.assert_close(compiled(x), module(x + 1, labels))
    call = lambda x: ctcx.linear_ctc_loss_and_grad(x + 1, module.weight, None, labels).hidden
    torch.testing.assert_close(torch.compile(call, backend="eager")(x), call(x))


@pytest.mark.parametrize(
    ("compiled", "reduction"), [*((False, name) for name in REDUCTIONS), (True, "none")]
)
def test_jax_grad(compiled, reduction):
    needed("jax")
    hidden, weight, bias, *rest = random_layer(16, dtype=np.float32)
    rest[1][0] = 2  # which no path emits
    weights = np.float32([0.5, -2.0, 3.0]) if reduction == "none" else np.float32(3.0)
    options = {"reduction": reduction, "infeasible": "zero", "blank": 2}

    def loss(*layer):
        found = ctcx.linear_ctc_loss_and_grad(*layer, *rest, **options, chunk=4).loss
        return jnp.sum(found * weights)

    function = jax.value_and_grad(loss, (0, 1, 2))
    value, found = (jax.jit(function) if compiled else function)(hidden, weight, bias)
    wide = [np.float64(a) for a in (hidden, weight, bias)]
    x = wide[0] * (np.arange(12) < rest[1][:, None])[:, :, None]
    truth = ctcx.ctc_loss_and_grad(x @ wide[1].T + wide[2], *rest, **options)
    np.testing.assert_allclose(value, np.sum(truth.loss * weights), rtol=1e-5)
    scale = weights[:, None, None] if reduction == "none" else weights
    grad = truth.grad * scale
    np.testing.assert_allclose(found[0], grad @ wide[1], atol=2e-5)
    np.testing.assert_allclose(found[1], np.einsum("ntc,ntd->cd", grad, x), atol=2e-5)
    np.testing.assert_allclose(found[2], grad.sum((0, 1)), atol=2e-5)


def test_jax_jit_of_gradients_and_checks_of_values_outside_of_it():
    needed("jax")
    arrays = random_layer(17, dtype=np.float32)
    call = lambda *arrays: ctcx.linear_ctc_loss_and_grad(*arrays, blank=2)
    result = jax.jit(call)(*map(jnp.asarray, arrays))
    assert_agree(result, through_logits(*arrays, blank=2), 1e-4)
    bad = jnp.asarray(arrays[0]).at[1, 2, 3].set(jnp.nan)
    with pytest.raises(ctcx.CTCInputError, match=r"hidden\[1, 2, 3\] is nan"):
        jax.grad(lambda hidden: call(hidden, *map(jnp.asarray, arrays[1:])).loss.sum())(bad)
