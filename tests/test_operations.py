"""What ctcx knows of an operation is one descriptor: all else reads it."""

import dataclasses
from importlib import import_module
from pkgutil import resolve_name

import numpy as np
import pytest

import ctcx
from ctcx import _dispatch, _operations
from ctcx.plugin import Backend


@pytest.mark.parametrize("operation", _operations.OPERATIONS.values(), ids=str)
def test_the_reference_has_every_result_and_the_checks_are_there(operation):
    logits = np.zeros((1, 3, 4))
    one = np.array([1])
    labels = np.array([[1]]) if operation.labels else None
    arrays = (labels, np.array([3]), one) if operation.labels else (np.array([3]),)
    options = {"width": 3, "top": 2, "max_classes": None}
    options["uniforms"] = np.zeros((1, 2, 3))
    options |= {"phrases": (((1,), 1.0),), "model": None, "model_weight": 1.0, "label_bonus": 0.0}
    options["entries"] = (np.full((1, 3, 0), -1), *np.array([[[0.0, -np.inf, -np.inf]]] * 3))
    given = {name: options[name] for name in operation.options if name in options}
    answer = resolve_name(operation.reference)(logits, *arrays, 0, **given)
    for result in operation.results:
        assert getattr(answer, result.name).shape == result.shape(logits, labels, given)
    for module in operation.checks:
        import_module(module)


def test_the_contract_of_kernels_states_each_signature():
    for operation in _operations.OPERATIONS.values():
        assert operation.signature in " ".join(Backend.__doc__.split())


@pytest.fixture
def entropy(monkeypatch):
    """An operation of the future, of which the rest of ctcx has never heard."""
    descriptor = dataclasses.replace(
        _operations.OPERATIONS["loss_and_grad"],
        name="entropy",
        results=(
            _operations.ResultArray(name="loss", axes="N", dtype="loss"),
            _operations.ResultArray(name="entropy", axes="NT", dtype="logits"),
            _operations.ResultArray(name="starts", axes="NS", dtype="int32"),
        ),
        options=("temperature",),
        feature=None,
    )
    monkeypatch.setitem(_operations.OPERATIONS, "entropy", descriptor)
    return descriptor


def test_a_new_operation_needs_a_descriptor_only(entropy: _operations.Operation):
    kernels = {"entropy": "mine:entropy"}
    with pytest.raises(ValueError, match="unknown operations"):
        Backend(name="mine", kernels={"perplexity": "mine:x"}, namespaces={"numpy"})
    assert Backend(name="mine", kernels=kernels, namespaces={"numpy"})
    logits = np.zeros((1, 3, 4), dtype=np.float32)
    decision = ctcx.explain(logits, [[1]], operation="entropy")
    assert (
        "has no kernel for entropy, only for align, beam_search, greedy, guided_search, loss, "
        "loss_and_grad, occupancies, sample_paths" in str(decision)
    )
    assert entropy.signature.endswith("blank, temperature) -> (loss, entropy, starts)")


def test_results_are_looked_at_as_the_descriptor_says(entropy: _operations.Operation):
    logits = np.zeros((2, 3, 4), dtype=np.float16)
    arrays = (logits, np.ones((2, 5), dtype=np.int64))
    known = ctcx.explain(*arrays)
    decision = dataclasses.replace(
        known, problem=dataclasses.replace(known.problem, operation=entropy.name)
    )
    loss, right = np.zeros(2, dtype=np.float32), np.zeros((2, 3), dtype=np.float16)
    starts = np.zeros((2, 5), dtype=np.int32)
    _dispatch.results.check_form((loss, right, starts), arrays, decision, {})
    with pytest.raises(ctcx.KernelError, match=r"expected a tuple \(loss, entropy, starts\)"):
        _dispatch.results.check_form(loss, arrays, decision, {})
    with pytest.raises(ctcx.KernelError, match=r"shape \(2,\) as entropy, expected \(2, 3\)"):
        _dispatch.results.check_form((loss, right[:, 0], starts), arrays, decision, {})
    with pytest.raises(ctcx.KernelError, match="array of float32 as entropy, expected float16"):
        _dispatch.results.check_form((loss, right.astype(np.float32), starts), arrays, decision, {})
    with pytest.raises(ctcx.KernelError, match="array of float16 as loss, expected float32"):
        _dispatch.results.check_form((loss.astype(np.float16), right, starts), arrays, decision, {})
    with pytest.raises(ctcx.KernelError, match=r"shape \(2, 3\) as starts, expected \(2, 5\)"):
        _dispatch.results.check_form((loss, right, starts[:, :3]), arrays, decision, {})
    with pytest.raises(ctcx.KernelError, match="array of int64 as starts, expected int32"):
        _dispatch.results.check_form((loss, right, starts.astype(np.int64)), arrays, decision, {})
