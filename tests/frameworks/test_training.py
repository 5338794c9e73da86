"""The training examples: the same curve with either loss, and no NaN where a sequence can't be."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import optax
import pytest
import torch

from ctcx.compat import optax as compat_optax
from ctcx.compat import torch as compat_torch

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def load(name):
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield load
    sys.modules.pop("strokes", None)


def test_torch(example):
    train = example("train_torch").train
    theirs = train(torch.nn.functional.ctc_loss, 100)
    ours = train(compat_torch.ctc_loss, 100)
    # Rounding grows by training: the same at first, and close to the end.
    np.testing.assert_allclose(ours[:50], theirs[:50], rtol=1e-2)
    np.testing.assert_allclose(np.mean(ours[-20:]), np.mean(theirs[-20:]), rtol=0.1)
    assert np.mean(ours[-20:]) < ours[0] / 3
    assert np.isnan(train(torch.nn.functional.ctc_loss, 5, infeasible=1)).any()
    assert np.isfinite(train(compat_torch.ctc_loss, 10, infeasible=1)).all()


def test_jax(example):
    train = example("train_jax").train
    theirs, _ = train(optax.losses.ctc_loss)
    ours, _ = train(compat_optax.ctc_loss)
    np.testing.assert_allclose(ours[:50], theirs[:50], rtol=1e-2)
    np.testing.assert_allclose(np.mean(ours[-20:]), np.mean(theirs[-20:]), rtol=0.1)
    assert np.mean(ours[-20:]) < ours[0] / 5
    curve, losses = train(compat_optax.ctc_loss, 20, infeasible=1)
    assert np.isfinite(curve).all()
    assert losses[-1] == np.inf


@pytest.mark.parametrize("name", ["train_torch", "train_jax"])
def test_main_prints(example, name, capsys, monkeypatch):
    module = example(name)
    short = module.train

    def few(loss, steps=3, **options):
        curve = short(loss, min(steps, 3), **options)
        if name == "train_torch":
            return curve * 100
        return curve[0] * 100, curve[1]

    monkeypatch.setattr(module, "train", few)
    module.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["step", name.removeprefix("train_").replace("jax", "optax"), "ctcx"]
    assert len(lines) == 8
