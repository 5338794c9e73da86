"""Optax's own tests of its CTC loss, which are in its wheel, run on ``ctcx.compat.optax``."""

import pytest
from absl.testing import absltest
from optax.losses import _classification_test as theirs

from ctcx.compat import optax as compat

NAMES = absltest.TestLoader().getTestCaseNames(theirs.CTCTest)

DIFFERENCES: dict[str, str] = {}
"""Tests that must fail here, each with the reason."""


@pytest.mark.parametrize("name", NAMES)
def test_of_optax(name, monkeypatch):
    calls = []

    def counted(function):
        def ours(*args, **kwargs):
            calls.append(function)
            return function(*args, **kwargs)

        return ours

    for function in (compat.ctc_loss, compat.ctc_loss_with_forward_probs):
        monkeypatch.setattr(theirs._classification, function.__name__, counted(function))
    result = theirs.CTCTest(name).run()
    failed = "".join(trace for _, trace in [*result.failures, *result.errors])
    assert result.testsRun == 1
    assert calls, "the test has called nothing of ctcx"
    assert bool(failed) == (name in DIFFERENCES), failed or DIFFERENCES[name]


def test_there_are_tests():
    assert NAMES
    assert set(DIFFERENCES) <= set(NAMES)
