"""Errors that cross processes, and calls that a kernel makes for parts of a batch."""

import pickle

import numpy as np
import pytest

import ctcx
from ctcx.plugin import nested_call

LOGITS = np.zeros((3, 4, 5), dtype=np.float32)
LABELS = np.array([[1, 2], [3, 4], [2, 2]])


def caught(**arguments):
    given = {"logits": LOGITS, "labels": LABELS} | arguments
    with pytest.raises(ctcx.CTCError) as found:
        ctcx.ctc_loss(**given)
    return found.value


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"labels": [[1], [9], [2]]}, ctcx.CTCInputError),
        ({"labels": [[1], [2], [2] * 3], "infeasible": "raise"}, ctcx.InfeasibleError),
        ({"backend": "no-such"}, ctcx.UnknownBackendError),
    ],
)
def test_errors_can_be_pickled_with_all_that_they_say(arguments, kind):
    error = caught(**arguments)
    error.add_note("a note")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (str(again), vars(again)) == (str(error), vars(error))


def test_a_kernel_error_can_be_pickled():
    error = ctcx.KernelError("wrong", backend="one", provenance="one 0.1", operation="loss")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.backend, again.operation) == ("wrong", "one", "loss")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"labels": [[1], [9], [2]]}, "labels[1001, 0] is 9 (sequence 1001, position 0)"),
        ({"logit_lengths": [4, 5, 4]}, "logit_lengths[1001] is 5"),
        ({"logits": LOGITS * [[[1]], [[np.nan]], [[1]]]}, "logits[1001, 0, 0] is nan (sequence"),
        (
            {"labels": [[1], [2] * 4, [1]], "infeasible": "raise"},
            "of 1 of the 3 sequences from 1000 to 1002: 1001. Se",
        ),
    ],
)
def test_errors_of_nested_calls_number_sequences_as_in_the_whole_batch(arguments, words):
    with nested_call(first=1000):
        error = caught(**arguments)
    assert words in str(error)
    assert error.sequence == 1001


def test_a_first_sequence_has_a_number():
    with pytest.raises(ValueError, match="got -1"), nested_call(first=-1):
        pass


def test_backends_of_nested_calls_replace_those_asked_for_around_them(monkeypatch):
    monkeypatch.setenv("CTCX_BACKEND", "no-such")
    with nested_call(backends=()):
        assert ctcx.explain(LOGITS, LABELS).source == "auto"
    with nested_call(backends=("array-api",)):
        assert ctcx.explain(LOGITS, LABELS).selected.backend.name == "array-api"
    with ctcx.use_backend("array-api"), nested_call(), pytest.raises(ctcx.UnknownBackendError):
        ctcx.ctc_loss(LOGITS, LABELS)
