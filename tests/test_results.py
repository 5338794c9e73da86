"""What a kernel returns is looked at before the caller gets it."""

from __future__ import annotations

import traceback

import array_api_strict
import numpy as np
import pytest

import ctcx
from tests.helpers import needed

LOGITS = np.zeros((2, 5, 4), dtype=np.float32)
LABELS = [[1], [2, 3]]

# What is said of the loss (2,), or of the result, of each backend of the plugin.
FORMS = {
    "none": "returned None as loss, expected an array of numpy",
    "list": "returned an object of type list as loss, expected an array of numpy",
    "scalar": "returned an object of type float as loss, expected an array of numpy",
    "shape": r"returned an array of shape \(1,\) as loss, expected \(2,\)",
    "two-axes": r"returned an array of shape \(2, 1\) as loss, expected \(2,\)",
    "dtype": "returned an array of int32 as loss, expected float32",
    "half": "returned an array of float16 as loss, expected float32",
    "complex": "returned an array of complex64 as loss, expected float32",
    "library": "returned an array of array_api_strict as loss, expected one of numpy",
    "masked": "returned an array of the type MaskedArray as loss, expected a plain one",
}
PAIRS = {
    "none": r"returned None, expected a tuple \(loss, grad\)",
    "list": r"returned an object of type list, expected a tuple \(loss, grad\)",
    "bare": r"returned an object of type ndarray, expected a tuple \(loss, grad\)",
    "three": r"returned a tuple of 3, expected a tuple \(loss, grad\)",
    "grad-none": "returned None as grad, expected an array of numpy",
    "grad-shape": r"returned an array of shape \(2, 4, 4\) as grad, expected \(2, 5, 4\)",
    "grad-dtype": "returned an array of int32 as grad, expected float32",
    "grad-library": "returned an array of array_api_strict as grad, expected one of numpy",
    "grad-input": "returned memory of the logits as grad, expected a new array",
}
VALUES = {
    "nan": "a loss of nan for sequence 0",
    "last-nan": "a loss of nan for sequence 1",
    "negative": r"a loss of -0\.001\d* for sequence 1",
    "minus-inf": "a loss of -inf for sequence 0",
}
ENDS = {
    "exits": "raised SystemExit: goodbye",
    "interrupts": "raised KeyboardInterrupt",
    "throws": "raised BaseExceptionGroup: several",
    "unprintable": r"raised Unprintable \(its message can't be printed\)",
}


@pytest.fixture
def garbage(plugins):
    """The fixture plugin 'returns_garbage', loaded."""
    plugins.install("returns_garbage")
    plugins.load()
    return plugins


@pytest.mark.parametrize("checks", ["", "-checks"])
@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.usefixtures("garbage")
def test_a_right_result_reaches_the_caller(dtype, validate, checks):
    logits = LOGITS.astype(dtype)
    options = {"backend": f"right{checks}", "validate": validate}
    loss = ctcx.ctc_loss(logits, LABELS, **options)
    both = ctcx.ctc_loss_and_grad(logits, LABELS, **options)
    assert loss.tolist() == both.loss.tolist() == [1, 1]
    assert both.grad.dtype == dtype
    assert ctcx.ctc_loss(logits[:0], [], **options).shape == (0,)


@pytest.mark.parametrize("reduction", ["mean", "mean_per_label"])
@pytest.mark.usefixtures("garbage")
def test_a_gradient_may_be_read_only(reduction):
    logits = LOGITS + 1
    result = ctcx.ctc_loss_and_grad(logits, LABELS, backend="read-only", reduction=reduction)
    assert result.grad.shape == logits.shape


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize("way", FORMS)
@pytest.mark.usefixtures("garbage")
def test_a_loss_of_a_wrong_form_is_an_error_that_names_the_plugin(way, validate):
    with pytest.raises(ctcx.KernelError, match=FORMS[way]) as caught:
        ctcx.ctc_loss(LOGITS, LABELS, backend=way, validate=validate)
    error = caught.value
    assert isinstance(error, RuntimeError)
    assert (error.backend, error.operation) == (way, "loss")
    assert error.provenance == "ctcx-returns-garbage 0.7"
    assert f"backend {way!r} of ctcx-returns-garbage 0.7, operation loss: its kernel" in str(error)
    assert "report it to its authors (https://example.org/garbage)" in str(error)


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize("way", PAIRS)
@pytest.mark.usefixtures("garbage")
def test_a_pair_of_a_wrong_form_is_an_error(way, validate):
    with pytest.raises(ctcx.KernelError, match=PAIRS[way]) as caught:
        ctcx.ctc_loss_and_grad(LOGITS, LABELS, backend=way, validate=validate)
    assert caught.value.operation == "loss_and_grad"


@pytest.mark.parametrize("way", [way for way in FORMS if way not in PAIRS])
@pytest.mark.usefixtures("garbage")
def test_the_loss_of_a_pair_is_looked_at_too(way):
    with pytest.raises(ctcx.KernelError, match=FORMS[way]):
        ctcx.ctc_loss_and_grad(LOGITS, LABELS, backend=way)


@pytest.mark.parametrize("way", [*FORMS, *PAIRS, *VALUES])
@pytest.mark.usefixtures("garbage")
def test_a_kernel_that_was_right_before_is_looked_at_again(way):
    """The form of a call, and so whose kernel it is, is remembered; the result never is."""
    arrays = np.array([[1, 0], [2, 3]]), np.array([5, 4]), np.array([1, 2])
    marked = LOGITS.copy()
    marked[0, 0, 0] = 7  # the plugin is right where logits begin with it
    for operation, messages in (
        (ctcx.ctc_loss, FORMS | VALUES),
        (ctcx.ctc_loss_and_grad, FORMS | PAIRS | VALUES),
    ):
        if way not in messages:
            continue
        for _ in range(2):
            operation(marked, *arrays, backend=way)
        with pytest.raises(ctcx.KernelError, match=messages[way]):
            operation(LOGITS, *arrays, backend=way)


@pytest.mark.usefixtures("garbage")
def test_a_loss_in_half_precision_is_an_error():
    with pytest.raises(ctcx.KernelError, match="an array of float16 as loss, expected float32"):
        ctcx.ctc_loss(LOGITS.astype("float16"), LABELS, backend="half")
    with pytest.raises(ctcx.KernelError, match="an array of float16 as loss, expected float64"):
        ctcx.ctc_loss(LOGITS.astype("float64"), LABELS, backend="half")


@pytest.mark.parametrize("operation", [ctcx.ctc_loss, ctcx.ctc_loss_and_grad])
@pytest.mark.parametrize("checks", ["", "-checks"])
@pytest.mark.parametrize("way", VALUES)
@pytest.mark.usefixtures("garbage")
def test_nan_and_negative_losses_are_errors_where_values_are_checked(way, checks, operation):
    message = f"returned {VALUES[way]}, whose values passed all checks"
    with pytest.raises(ctcx.KernelError, match=message) as caught:
        operation(LOGITS, LABELS, backend=way + checks)
    assert caught.value.backend == way + checks
    result = operation(LOGITS, LABELS, backend=way + checks, validate=False)
    loss = result.loss if operation is ctcx.ctc_loss_and_grad else result
    assert not (loss >= 0).all()


@pytest.mark.parametrize("way", VALUES)
@pytest.mark.usefixtures("garbage")
def test_a_fault_of_the_input_is_reported_before_one_of_the_kernel(way):
    for backend in (way, f"{way}-checks"):
        with pytest.raises(ctcx.CTCInputError, match=r"labels\[0, 0\] is 7"):
            ctcx.ctc_loss(LOGITS, [[7], [2]], backend=backend)


@pytest.mark.usefixtures("garbage")
def test_the_result_is_looked_at_on_every_device():
    """array_api_strict stands for all libraries whose arrays need not be in the host's memory."""
    device = array_api_strict.Device("device1")
    logits = array_api_strict.asarray(LOGITS, device=device)
    with pytest.raises(ctcx.KernelError, match="on device2 as loss, expected device1"):
        ctcx.ctc_loss(logits, LABELS, backend="device")
    with pytest.raises(ctcx.KernelError, match="an array of numpy as loss, expected one of array"):
        ctcx.ctc_loss(logits, LABELS, backend="library")
    logits = array_api_strict.asarray(LOGITS)
    for way in ("last-nan", "negative"):
        with pytest.raises(ctcx.KernelError, match=VALUES[way]):
            ctcx.ctc_loss(logits, LABELS, backend=way)


@pytest.mark.usefixtures("garbage")
def test_results_of_torch():
    torch = needed("torch")
    logits = torch.tensor(LOGITS)
    with pytest.raises(ctcx.KernelError, match=r"shape \(1,\) as loss, expected \(2,\)"):
        ctcx.ctc_loss(logits, LABELS, backend="shape")
    for way, what in {
        "wants-gradient": "a tensor that requires a gradient",
        "lazy": "a tensor with a lazy negative bit",
    }.items():
        with pytest.raises(ctcx.KernelError, match=f"returned {what} as loss, expected a plain"):
            ctcx.ctc_loss(logits, LABELS, backend=way)
    with pytest.raises(ctcx.KernelError, match="an array of numpy as grad, expected one of torch"):
        ctcx.ctc_loss(logits.requires_grad_(), LABELS, backend="grad-library")
    with pytest.raises(ctcx.KernelError, match=VALUES["negative"]):
        ctcx.ctc_loss(logits, LABELS, backend="negative")
    with pytest.raises(ctcx.KernelError, match="an array of int32 as loss, expected float32"):
        ctcx.ctc_loss(torch.zeros((2, 5, 4), device="meta"), LABELS, backend="dtype")


@pytest.mark.usefixtures("garbage")
def test_results_of_jax_while_it_traces_too():
    jax = needed("jax")
    logits = jax.numpy.asarray(LOGITS)

    def loss(backend):
        return lambda x: ctcx.ctc_loss(x, LABELS, backend=backend, reduction="sum")

    for transformed in (lambda f: f, jax.jit, jax.grad, jax.vmap):
        x = logits[None] if transformed is jax.vmap else logits
        with pytest.raises(ctcx.KernelError, match=r"expected one of jax\.numpy"):
            transformed(loss("grad-library" if transformed is jax.grad else "library"))(x)
    with pytest.raises(ctcx.KernelError, match="an array of int32 as loss, expected float32"):
        jax.jit(loss("dtype"))(logits)
    with pytest.raises(ctcx.KernelError, match=VALUES["nan"]):
        loss("nan")(logits)
    assert np.isnan(jax.jit(loss("nan"))(logits))  # a tracer's values can't be read


@pytest.mark.parametrize("way", ENDS)
@pytest.mark.usefixtures("garbage")
def test_a_kernel_can_not_end_the_process(way):
    with pytest.raises(ctcx.KernelError, match=ENDS[way]) as caught:
        ctcx.ctc_loss(LOGITS, LABELS, backend=way)
    assert caught.value.backend == way
    assert not isinstance(caught.value.__cause__, Exception)


RAISES = """
from ctcx.plugin import Backend, hookimpl
class Awkward({base}):
    {members}
@hookimpl
def ctcx_backends():
    yield Backend(name='raises', kernels={{'loss': 'ctcx_raises:loss'}}, namespaces={{'numpy'}})
def loss(*_, blank):
    raise Awkward('words')
"""
EXITS = "= property(lambda self: exit())"


@pytest.mark.parametrize("method", ["__str__", "__repr__"])
@pytest.mark.parametrize(
    "does", ["exit()", "exec('raise KeyboardInterrupt')", "1 / 0", "7", "''.join(self)"]
)
def test_what_can_not_be_printed_is_a_kernel_error(plugins, method, does):
    """The code that catches an exception logs it, and so must not be ended by it."""
    members = f"def {method}(self): return {does}"
    plugins.write("raises", RAISES.format(base="ValueError", members=members))
    plugins.load()
    with pytest.raises(ctcx.KernelError, match="its kernel raised Awkward") as caught:
        ctcx.ctc_loss(LOGITS, LABELS, backend="raises")
    assert type(caught.value.__cause__).__name__ == "Awkward"
    assert "Awkward" in "".join(traceback.format_exception(caught.value))


def test_a_result_that_can_not_be_looked_at_is_a_kernel_error(plugins):
    plugins.write(
        "odd",
        """
from ctcx.plugin import Backend, hookimpl
import numpy as np
class Odd(np.ndarray):
    @property
    def dtype(self): raise SystemExit(5)
def kernel(logits, *_, **__): return np.zeros(len(logits), np.float32).view(Odd)
@hookimpl
def ctcx_backends():
    return [Backend(name="odd", kernels={"loss": "ctcx_odd:kernel"}, namespaces={"numpy"})]
""",
    )
    plugins.load()
    with pytest.raises(ctcx.KernelError, match="can't be looked at: SystemExit: 5") as caught:
        ctcx.ctc_loss(LOGITS, LABELS, backend="odd")
    assert "ctcx-odd" in str(caught.value)


@pytest.mark.parametrize("base", ["ValueError", "BaseException"])
@pytest.mark.parametrize(
    "members",
    [
        f"__class__ {EXITS}",
        f"__traceback__ {EXITS}",
        f"__context__ {EXITS}",
        f"__notes__ {EXITS}",
        "def add_note(self, note): exit()",
    ],
)
def test_no_attribute_of_an_exception_can_end_the_process(plugins, base, members):
    plugins.write("raises", RAISES.format(base=base, members=members))
    plugins.load()
    expected = "words" if base == "ValueError" else "its kernel raised Awkward: words"
    words = ""
    try:  # pytest.raises() looks at such attributes itself
        ctcx.ctc_loss(LOGITS, LABELS, backend="raises")
    except BaseException as error:  # noqa: BLE001
        words = str(error)
    assert expected in words


def test_a_result_is_not_replaced_by_another_backends(plugins):
    code = (
        "from ctcx.plugin import Backend, hookimpl\n"
        "@hookimpl\n"
        "def ctcx_backends():\n"
        "    yield Backend(name='first', kernels={'loss': 'ctcx_first:loss'},\n"
        "        namespaces={'numpy'}, priority=9, opt_in=False)\n"
        "def loss(logits, labels, logit_lengths, label_lengths, *, blank):\n"
        "    return logits\n"
    )
    plugins.write("first", code)
    plugins.load()
    with pytest.raises(ctcx.KernelError, match="backend 'first' of ctcx-first"):
        ctcx.ctc_loss(LOGITS, LABELS)


def test_a_kernel_may_return_a_named_tuple(plugins):
    plugins.write(
        "named",
        """
from typing import NamedTuple, Any
from ctcx.plugin import Backend, Feature, hookimpl, load_kernel

class Pair(NamedTuple):
    loss: Any
    grad: Any

def pair(*arrays, blank):
    return Pair(*load_kernel("array-api", "loss_and_grad")(*arrays, blank=blank))

@hookimpl
def ctcx_backends():
    yield Backend(
        name="named", kernels={"loss_and_grad": "ctcx_named:pair"}, namespaces={"numpy"},
        features={Feature.GRAD}
    )
""",
    )
    plugins.load()
    arrays = LOGITS, np.array([[1, 0], [2, 3]]), np.array([5, 4]), np.array([1, 2])
    expected = ctcx.ctc_loss_and_grad(*arrays, backend="array-api")
    for _ in range(2):
        found = ctcx.ctc_loss_and_grad(*arrays, backend="named")
        np.testing.assert_array_equal(found.grad, expected.grad)
