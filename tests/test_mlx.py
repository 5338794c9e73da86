"""The core on arrays of MLX, what MLX makes of it, and the example of docs/mlx.md."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import ctcx
from ctcx.conformance import BackendConformance
from tests.helpers import needed, random_problem

mx = needed("mlx.core")

PAGE = Path(__file__).parents[1] / "docs" / "mlx.md"


@pytest.fixture(autouse=True)
def _core():
    with ctcx.use_backend("array-api"):
        yield


class TestCoreOnMlx(BackendConformance):
    backend = "array-api"
    namespaces = ("mlx.core",)
    dtypes = ("float32",)
    draw = 4


def problem(shape=(3, 12, 6, 4)):
    """Logits of MLX, the same of NumPy, and the rest of a call."""
    logits, *rest = random_problem(5, *shape)
    return mx.array(logits), logits, rest


def assert_close(array, expected, atol=2e-6):
    assert isinstance(array, mx.array)
    np.testing.assert_allclose(np.asarray(array), expected, atol=atol, rtol=1e-5)


@pytest.mark.parametrize("reduction", ["none", "mean", "mean_per_label"])
def test_gradients_of_mlx_are_those_of_ctcx(reduction):
    x, host, rest = problem()
    expected = ctcx.ctc_loss_and_grad(host, *rest, reduction=reduction)

    def loss(x):
        return mx.sum(ctcx.ctc_loss(x, *rest, reduction=reduction))

    value, grad = mx.value_and_grad(loss)(x * 1.0)  # which isn't computed yet
    assert_close(value, expected.loss.sum())
    assert_close(grad, expected.grad)
    slopes = mx.jvp(loss, [x], [x])[1]
    assert_close(slopes[0], (expected.grad * host).sum(), atol=1e-4)


def test_of_an_infeasible_sequence_the_gradient_is_zero():
    x = mx.zeros((2, 2, 3))
    grad = mx.grad(lambda x: mx.sum(ctcx.ctc_loss(x, [[1, 1], [1, 2]])))(x)
    assert not grad[0].any()
    assert grad[1].any()


def test_second_derivatives_of_mlx_and_no_third_ones():
    x, host, rest = problem()
    v = np.random.default_rng(1).standard_normal(host.shape).astype(np.float32)
    vector = mx.array(v)
    product = ctcx.ctc_hvp(host, *rest, vector=v)
    assert_close(ctcx.ctc_hvp(x, *rest, vector=vector), product)

    def slope(x):
        return mx.sum(mx.grad(lambda x: mx.sum(ctcx.ctc_loss(x, *rest)))(x) * vector)

    assert_close(mx.grad(slope)(x), product)
    slope_of_call = lambda x: mx.sum(ctcx.ctc_loss_and_grad(x, *rest).grad * vector)
    assert_close(mx.grad(slope_of_call)(x), product)
    gradient = mx.grad(lambda x: mx.sum(ctcx.ctc_loss(x, *rest)))
    assert_close(mx.jvp(gradient, [x], [vector])[1][0], product)
    with pytest.raises(NotImplementedError, match="no third derivatives"):
        mx.grad(lambda x: mx.sum(mx.grad(slope)(x)))(x)


def test_mlx_differentiates_entropies_as_differences_do():
    logits, *rest = random_problem(8, 2, 8, 5, 3, dtype=np.float64)
    logits[0, 1, 2] = -np.inf
    v = np.random.default_rng(3).standard_normal(logits.shape)
    entropy = lambda x: ctcx.ctc_entropy(x, *rest)
    x = mx.array(logits, dtype=mx.float64)
    grad = np.asarray(mx.grad(lambda x: mx.sum(entropy(x)))(x))
    up, down = (entropy(logits + step * v) for step in (1e-6, -1e-6))
    np.testing.assert_allclose((grad * v).sum((1, 2)), (up - down) / 2e-6, atol=1e-5)


@pytest.mark.parametrize("has_bias", [True, False])
def test_mlx_differentiates_linear_heads(has_bias):
    _, _, rest = problem()
    rng = np.random.default_rng(4)
    hidden, weight, bias = (
        mx.array(rng.standard_normal(shape).astype(np.float32)) for shape in ((3, 12, 7), (6, 7), 6)
    )
    arrays = [hidden, weight, bias] if has_bias else [hidden, weight]

    def head(*arrays):
        return ctcx.linear_ctc_loss_and_grad(*(*arrays, None)[:3], *rest)

    numbers = tuple(range(len(arrays)))
    grads = mx.grad(lambda *arrays: mx.sum(head(*arrays).loss), argnums=numbers)(*arrays)
    plain = lambda h, w, b=0.0: mx.sum(ctcx.ctc_loss(h @ w.T + b, *rest))
    for grad, expected in zip(grads, mx.grad(plain, argnums=numbers)(*arrays), strict=True):
        assert_close(grad, np.asarray(expected), atol=1e-5)


def test_vmap_makes_one_batch_of_batches():
    x, host, (labels, *lengths) = problem()
    rest = tuple(map(mx.array, (labels, *lengths)))
    loss = lambda x: ctcx.ctc_loss(x, *rest)
    several = mx.stack([x, 2 * x], axis=2)  # (N, T, 2, C)
    expected = [ctcx.ctc_loss_and_grad(k * host, labels, *lengths) for k in (1, 2)]
    assert_close(mx.vmap(loss, in_axes=2)(several), np.stack([e.loss for e in expected]))
    grads = mx.vmap(mx.grad(lambda x: mx.sum(loss(x))), in_axes=2)(several)
    assert_close(grads, np.stack([e.grad for e in expected]))
    around = mx.grad(lambda x: mx.sum(mx.vmap(loss, in_axes=2)(x)))(several)
    assert_close(around, np.stack([e.grad for e in expected], axis=2))


def test_what_mlx_traces_computes_the_same(tmp_path):
    # mx.compile traces likewise, but then runs a C++ compiler for half a minute.
    x, host, rest = problem((2, 5, 4, 2))

    def results(x):
        occupancies = ctcx.ctc_occupancies(x, *rest)
        path = ctcx.ctc_align(x, *rest, infeasible="empty")
        return [occupancies.loss, occupancies.classes, path.states, path.score]

    mx.export_function(str(tmp_path / "f"), results, x)
    found = mx.import_function(str(tmp_path / "f"))(x)
    for array, expected in zip(found, results(host), strict=True):
        assert_close(array, expected)
    with pytest.raises(ctcx.CTCInputError, match="while tracing"):
        mx.compile(lambda x: ctcx.ctc_loss(x, *rest, infeasible="raise"))(x)


def test_decoding_alignment_and_occupancies_agree_with_numpy():
    x, host, rest = problem((3, 9, 5, 3))
    u = np.random.default_rng(2).random((3, 2, 9), dtype=np.float32)
    calls = {
        "align": lambda x, _: ctcx.ctc_align(x, *rest, infeasible="empty"),
        "occupancies": lambda x, _: ctcx.ctc_occupancies(x, *rest, states=True),
        "entropy": lambda x, _: (ctcx.ctc_entropy(x, *rest),),
        "greedy": lambda x, _: ctcx.ctc_greedy(x, rest[1]),
        "beams": lambda x, _: ctcx.ctc_beam_search(x, rest[1], width=4, top=2),
        "paths": lambda x, make: (ctcx.ctc_sample_paths(x, rest[0], make(u), *rest[1:]),),
    }
    for name, call in calls.items():
        for found, expected in zip(call(x, mx.array), call(host, np.asarray), strict=True):
            if name == "beams":  # is as wide as it must be
                assert found.shape == expected.shape
            assert_close(found, expected, atol=1e-5)


def test_float64_is_not_of_float32():
    # mx.exp of float64 has the accuracy of float32, and mx.from_dlpack returns float32.
    logits, *rest = random_problem(6, 2, 40, 8, 5, dtype=np.float64)
    found = ctcx.ctc_loss_and_grad(mx.array(logits, dtype=mx.float64), *rest)
    expected = ctcx.ctc_loss_and_grad(logits, *rest)
    np.testing.assert_allclose(np.asarray(found.loss), expected.loss, rtol=1e-13)
    np.testing.assert_allclose(np.asarray(found.grad), expected.grad, atol=1e-13)


def test_memory_under_grad_is_not_that_of_all_that_was_computed():
    x, _, rest = problem((2, 1500, 4, 3))
    grad = mx.grad(lambda x: mx.sum(ctcx.ctc_loss(x, *rest)))
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(grad(x))
    # Some 50 arrays of every second frame, of 32 bytes, were 2.4 MB.
    assert mx.get_peak_memory() - before < 1_600_000


def test_wrong_values_are_named():
    x, _, (labels, *_) = problem()
    call = partial(ctcx.ctc_loss, logit_lengths=[12] * 3, label_lengths=[4] * 3)
    bad = mx.array(x)
    bad[1, 2, 3] = float("nan")
    for logits, given, words in (
        (bad, labels, r"logits\[1, 2, 3\] is nan"),
        (x, mx.full((3, 4), 6), r"labels\[0, 0\] is 6"),
        (x, mx.zeros((3, 4)), "integer dtype"),
        (x, np.zeros((3, 4), np.int64), "that is the blank"),
        (x.astype(mx.int32), labels, "one of the dtypes"),
    ):
        with pytest.raises(ctcx.CTCInputError, match=words):
            call(logits, given)
    with pytest.raises(ctcx.CTCInputError, match=r"logits\[1, 2, 3\] is nan"):
        mx.grad(lambda x: mx.sum(call(x, labels)))(bad)
    with pytest.raises(ctcx.CTCInputError, match=r"of mlx\.core, but the logits are of numpy"):
        ctcx.ctc_loss(np.zeros((3, 12, 6), np.float32), mx.array(labels))


def test_an_error_of_the_callers_own_graph_stays_one():
    logits = mx.linalg.inv(mx.zeros((1, 3, 3)), stream=mx.cpu)
    with pytest.raises((ValueError, RuntimeError), match=r"(?i)inver|lu"):
        ctcx.ctc_loss(logits, [[1]])


def test_the_examples_of_the_page_are_so(capsys):
    text = PAGE.read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", text, re.DOTALL)
    assert examples
    for code, printed in examples:
        exec(compile(code, "mlx.md", "exec"), {})
        assert capsys.readouterr().out == printed
