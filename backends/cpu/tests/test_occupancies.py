"""Occupancies: those of the textbook recursion, and the softmax less the gradient."""

import numpy as np
import pytest
from ctcx_cpu import kernels

import ctcx
from ctcx.conformance.cases import case
from ctcx.conformance.oracle import occupancies, round_to_dtype

SHAPES = {
    "short": (5, 60, 7, 20),
    "wide": (2, 70, 900, 30),
    "a vector of labels": (3, 50, 40, 16),
    "several spans": (2, 3000, 12, 300),
    "several spans of many classes": (1, 2500, 500, 100),
    "one class": (2, 9, 1, 0),
}


@pytest.mark.parametrize("scale", [2, 60])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", SHAPES)
def test_they_are_those_of_the_textbook(batch, name, dtype, scale):
    x, *rest = batch(*SHAPES[name], scale=scale, dtype=dtype, ragged=True)
    blank = 0 if name == "one class" else 3
    rest[0] = np.where(rest[0] == blank, 0, rest[0])
    found = kernels.occupancies(x, *rest, blank=blank, states=True)
    right = occupancies(round_to_dtype(x, dtype), *rest, blank)
    result = np.float64 if dtype == "float64" else np.float32
    digits = 1e-11 if dtype == "float64" else 1e-5
    for got, expected in zip(found, (right.loss, right.classes, right.states), strict=True):
        assert got.dtype == result
        np.testing.assert_allclose(got, expected, rtol=digits, atol=digits)
    for threads in 1, 2, 5:
        again = kernels.occupancies(x, *rest, blank=blank, states=True, num_threads=threads)
        assert [a.tobytes() for a in again] == [a.tobytes() for a in found]
    alone = kernels.occupancies(x, *rest, blank=blank, states=False)
    assert [a.tobytes() for a in alone] == [a.tobytes() for a in found[:2]]


@pytest.mark.parametrize("frames", [90, 3000])
def test_the_gradient_is_the_softmax_less_the_classes(batch, frames):
    arrays = batch(2, frames, 40, 100 if frames > 90 else 20, scale=1)
    loss, classes = kernels.occupancies(*arrays, blank=0, states=False)
    right, grad = kernels.loss_and_grad(*arrays, blank=0)
    np.testing.assert_array_equal(loss, right)
    softmax = kernels.softmax_only(*arrays, blank=0)
    np.testing.assert_allclose(softmax - classes, grad, atol=1e-6)


@pytest.mark.parametrize("sizes", [(3, 20, 10, 5), (3, 3000, 60, 100)], ids=str)
def test_what_is_wrong_or_impossible(batch, sizes):
    x, labels, frames, counts = batch(*sizes)
    right = kernels.occupancies(x, labels, frames, counts, blank=0, states=True)
    x[1, 3, 2] = np.nan
    frames = np.array([sizes[1], sizes[1] - 2, sizes[3] - 1])
    loss, classes, states = kernels.occupancies(x, labels, frames, counts, blank=0, states=True)
    assert np.isnan(loss[1])
    assert loss[2] == np.inf
    for got, expected in (classes, right[1]), (states, right[2]):
        np.testing.assert_array_equal(got[0], expected[0])
        assert np.isnan(got[1, :-2]).all()
        assert not got[1, -2:].any()
        assert not got[2].any()


def test_in_any_layout_and_library(batch):
    x, *rest = batch(3, 20, 10, 5)
    right = kernels.occupancies(x, *rest, blank=0, states=True)
    turned = x.transpose(1, 0, 2).copy().transpose(1, 0, 2)
    torch = pytest.importorskip("torch")
    for other in turned, x[:, ::-1].copy()[:, ::-1], torch.from_numpy(x):
        got = kernels.occupancies(other, *rest, blank=0, states=True)
        assert all(type(array) is type(other) for array in got)
        for array, expected in zip(got, right, strict=True):
            np.testing.assert_array_equal(array, expected)
    assert kernels.occupancies(turned, *rest, blank=0, states=False)[1].strides == turned.strides
    narrow = torch.from_numpy(x).to(torch.bfloat16)
    loss, classes = kernels.occupancies(narrow, *rest, blank=0, states=False)
    assert loss.dtype == classes.dtype == torch.float32
    expected = kernels.occupancies(narrow.float().numpy(), *rest, blank=0, states=False)
    np.testing.assert_array_equal(classes, expected[1])


def test_ctc_occupancies_takes_this_kernel():
    lines = case("ragged")
    arrays = lines.logits, lines.labels, lines.logit_lengths, lines.label_lengths
    with ctcx.trace() as runs:
        ctcx.ctc_occupancies(*arrays, blank=lines.blank, states=True)
    assert [(run.backend, run.operation) for run in runs] == [("cpu", "occupancies")]
