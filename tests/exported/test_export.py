"""What ndonnx exports, onnxruntime computes with the numbers of ctcx on NumPy."""

import re
from pathlib import Path

import numpy as np
import pytest

import ctcx
from ctcx.conformance import run_conformance
from tests.helpers import needed, random_problem

ndx, onnxruntime = needed("ndonnx"), needed("onnxruntime")

NDONNX = """
import ndonnx
import numpy as np
from ctcx.plugin import Namespace, hookimpl


@hookimpl
def ctcx_namespaces():
    targets = {name: f"ctcx_ndonnx:{name}" for name in ("from_numpy", "to_numpy", "devices")}
    yield Namespace(name="ndonnx", distribution="ndonnx", **targets)


def from_numpy(array, dtype=None, device=None):
    return ndonnx.asarray(np.array(array, dtype=dtype))


def to_numpy(array):
    return array.unwrap_numpy()


def devices():
    return ("unknown",)
"""
# Of the kit, as others take minutes: each operation is a graph of its own.
CHECKS = (
    "check_published_numbers",
    "check_gradient_by_enumeration",
    "check_infeasible_policies",
    "check_masked_logits",
)

PAGE = Path(__file__).parents[2] / "docs" / "onnx.md"
SHAPE = (2, 7, 5, 3)


def exported(function, values):
    """Results of ``function`` in a file of ONNX, for inputs of the shapes and dtypes of values."""
    kinds = {"float32": ndx.float32, "int32": ndx.int32, "int64": ndx.int64}
    arguments = [ndx.argument(shape=v.shape, dtype=kinds[v.dtype.name]) for v in values]
    outputs = {str(place): array for place, array in enumerate(function(*arguments))}
    inputs = {f"input {place}": array for place, array in enumerate(arguments)}
    session = onnxruntime.InferenceSession(ndx.build(inputs, outputs).SerializeToString())
    return session.run(None, dict(zip(inputs, values, strict=True)))


def beam_search(x, _, logit_lengths, *rest):
    return ctcx.ctc_beam_search(x[:, :4, :], logit_lengths % 5, width=3, exact_scores=False)


FUNCTIONS = {
    "loss and gradient": ctcx.ctc_loss_and_grad,
    "mean": lambda *arrays: (ctcx.ctc_loss(*arrays, infeasible="zero", reduction="mean"),),
    "alignment": lambda *arrays: ctcx.ctc_align(*arrays, infeasible="empty"),
    "greedy": lambda x, _, logit_lengths, *rest: ctcx.ctc_greedy(x, logit_lengths),
    "beam search": beam_search,
    "occupancies": lambda *arrays: ctcx.ctc_occupancies(*arrays, states=True),
    "entropy": lambda *arrays: (ctcx.ctc_entropy(*arrays),),
}


@pytest.mark.parametrize("integer", [np.int32, np.int64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_exported_file_has_the_same_numbers(name, integer):
    logits, *integers = random_problem(3, *SHAPE)
    values = (logits, *(np.asarray(array, integer) for array in integers))
    values[2][0], values[3][0] = 1, 3  # which no path emits
    expected = FUNCTIONS[name](*values)
    found = exported(FUNCTIONS[name], values)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        here = tuple(map(slice, other.shape))  # without values, decoded labels are as wide as T
        np.testing.assert_allclose(one[here], other, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "width"), [(("batch", 7, 5), 3), ((2, None, 5), 3), ((2, 7, 5), None)]
)
def test_sizes_that_are_not_known_are_refused(shape, width):
    logits = ndx.argument(shape=shape, dtype=ndx.float32)
    labels = ndx.argument(shape=(shape[0], width), dtype=ndx.int64)
    calls = [ctcx.ctc_loss, ctcx.ctc_align, lambda _, labels: ctcx.min_frames(labels)]
    if None in shape or "batch" in shape:
        calls[2:] = [lambda logits, _: ctcx.ctc_greedy(logits)]
    for call in calls:
        with pytest.raises(ctcx.CTCInputError, match=r"must have known sizes; got .*None.*number"):
            call(logits, labels)


@pytest.mark.parametrize("integer", [np.int32, np.int64])
def test_eager_arrays_of_ndonnx(integer):
    logits, *integers = random_problem(4, *SHAPE)
    rest = [np.asarray(array, integer) for array in integers]
    arrays = [ndx.asarray(array) for array in (logits, *rest)]
    assert ctcx.explain(*arrays).problem.device == "unknown"
    result = ctcx.ctc_loss_and_grad(*arrays)
    expected = ctcx.ctc_loss_and_grad(logits, *rest)
    np.testing.assert_allclose(result.loss.unwrap_numpy(), expected.loss, rtol=1e-5)
    np.testing.assert_allclose(result.grad.unwrap_numpy(), expected.grad, atol=1e-6)


def test_checks_of_the_kit_pass_on_eager_arrays_of_ndonnx(plugins):
    # ctcx itself doesn't describe ndonnx, as `ctcx compare` would take hours with it.
    plugins.monkeypatch.delenv("CTCX_TEST_NAMESPACES", raising=False)
    plugins.write("ndonnx", NDONNX)
    plugins.load()
    options = {"namespaces": ["ndonnx"], "dtypes": ["float32"], "checks": CHECKS, "draw": 1}
    report = run_conformance("array-api", **options)
    statuses = {result.check: result.status for result in report.results}
    assert statuses == dict.fromkeys(CHECKS, "passed"), report


def test_the_example_of_the_page_is_so(capsys):
    text = PAGE.read_text(encoding="utf-8")
    ((code, printed),) = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", text, re.DOTALL)
    exec(compile(code, "onnx.md", "exec"), {})
    assert capsys.readouterr().out == printed
