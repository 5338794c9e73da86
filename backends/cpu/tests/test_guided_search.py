"""The search that prefers phrases, asks an n-gram model, or goes on where it stopped."""

import dataclasses
import threading

import numpy as np
import pytest
from ctcx_cpu import _native, guided

import ctcx

ARPA = """\\data\\
ngram 1=7
ngram 2=4
ngram 3=1

\\1-grams:
-99 <s> -0.5
-0.6 </s>
-1.5 <unk>
-0.5 a -0.3
-0.7 b
-0.9 ab -0.2
-1.1 ba -0.1

\\2-grams:
-0.2 <s> a -0.1
-0.1 a b -0.3
-0.4 ab ba
-0.3 a a

\\3-grams:
-0.05 <s> a b

\\end\\
"""


@pytest.fixture
def model(tmp_path):
    """Return a function that makes a model of so many classes: of words, or of single tokens."""
    (tmp_path / "small.arpa").write_text(ARPA)

    def make(classes, *, words):
        tokens = ["", "a", "b", *(chr(ord("c") + c) for c in range(classes - 3))]
        return ctcx.NGram.from_arpa(tmp_path / "small.arpa", tokens, "c" if words else None)

    return make


def drawn(count, classes, longest=6, seed=0):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, longest + 1, count)
    phrases = [tuple(rng.integers(1, classes, size).tolist()) for size in sizes]
    return {phrase: float(rng.integers(-2, 9)) / 4 for phrase in phrases}


def search(x, lengths, width, **wishes):
    labels = ctcx.ctc_beam_search(x, lengths, width=width, top=width, exact_scores=False, **wishes)
    return labels.labels, labels.count, labels.beam_log_probs, labels.scores


@pytest.mark.parametrize(
    ("classes", "width", "phrases", "words", "max_classes"),
    [
        (30, 12, 400, None, None),
        (30, 7, 3, True, None),
        (200, 9, 50, False, 20),
        (5, 40, 8, True, 2),
        (30, 300, 400, None, None),  # more candidates than are compared with each other
        (700, 12, 300, None, None),
        (700, 12, 300, False, None),
    ],
)
def test_the_results_of_the_core(classes, width, phrases, words, max_classes, model):
    rng = np.random.default_rng(width)
    x, lengths = rng.normal(size=(3, 40, classes)) * 2, np.array([40, 23, 0])
    wishes = {"boost": drawn(phrases, classes), "label_bonus": 0.25, "max_classes": max_classes}
    if words is not None:
        wishes |= {"lm": model(classes, words=words), "lm_weight": 0.75}
    with ctcx.trace() as runs:
        got = search(x, lengths, width, **wishes)
    assert [(run.backend, run.operation) for run in runs] == [("cpu", "guided_search")]
    right = search(x, lengths, width, backend="array-api", **wishes)
    for found, expected in zip(got[:2], right[:2], strict=True):
        np.testing.assert_array_equal(found, expected)
    for found, expected in zip(got[2:], right[2:], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("classes", "width"), [(4, 1), (32, 100), (200, 100), (700, 300)])
@pytest.mark.parametrize("boost", [{}, {(1, 2): 1.0, (3,): 0.5, (2, 1): -0.25}])
def test_equal_candidates_come_in_the_order_of_the_core(classes, width, boost):
    # More of them than there is room for until the next ones are looked at.
    wishes = {"lengths": np.array([3]), "width": width, "boost": boost, "label_bonus": 0.25}
    x = np.zeros((1, 3, classes))
    got, right = (search(x, backend=name, **wishes) for name in ("cpu", "array-api"))
    np.testing.assert_array_equal(got[0], right[0])
    np.testing.assert_allclose(got[3], right[3], rtol=1e-11)


@pytest.mark.parametrize(("classes", "width"), [(4, 1), (17, 17), (200, 17)])
def test_large_weights_that_cancel_each_other_hide_no_candidate(classes, width):
    # The weights add up to exactly 0, so nothing shows which they are.
    plain = {"boost": {(1,): 0.0}}
    large = {"boost": {(label,): 1e9 for label in range(1, classes)}, "label_bonus": -1e9}
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, (300, 6, classes)).astype(float)
    x[150:] += rng.integers(0, 9, x[150:].shape) * 4e-9  # nearly equal
    expected, got = (search(x, None, width, backend="cpu", **one) for one in (plain, large))
    for found, one in zip(got, expected, strict=True):
        assert found.tobytes() == one.tobytes()


def test_what_is_remembered_of_phrases_changes_no_bit():
    x, lengths = np.random.default_rng(0).normal(size=(2, 50, 25)), np.array([50, 31])
    guided._phrases.cache_clear()
    first, again = (search(x, lengths, 9, boost=drawn(300, 25)) for _ in range(2))
    for found, expected in zip(again, first, strict=True):
        assert found.tobytes() == expected.tobytes()


def test_phrases_serve_few_classes_and_many():
    # The compiled phrases are the same for all, with a row of classes for each state or without.
    boost = drawn(60, 12)
    for classes in (20, 150, 12, 150):
        x = np.random.default_rng(classes).normal(size=(2, 30, classes)) * 2
        wishes = {"lengths": np.array([30, 17]), "width": 8, "boost": boost}
        got, right = (search(x, backend=name, **wishes) for name in ("cpu", "array-api"))
        for found, expected in zip(got, right, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


def test_threads_and_simultaneous_calls_change_no_bit(monkeypatch, model):
    rng = np.random.default_rng(0)
    x, lengths = rng.normal(size=(24, 60, 20)).astype(np.float32), rng.integers(0, 61, 24)
    wishes = {"boost": drawn(200, 20), "lm": model(20, words=False), "lm_weight": 0.5}
    found = []

    def call():
        found.append(search(x, lengths, 10, **wishes))

    for threads in "1", "2", "5":
        monkeypatch.setenv("CTCX_NUM_THREADS", threads)
        call()
    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 7
    assert {tuple(part.tobytes() for part in result) for result in found} == {
        tuple(part.tobytes() for part in found[0])
    }


@pytest.mark.parametrize("backend", ["cpu", "array-api"])
def test_a_state_that_has_a_prefix_twice_is_refused(backend):
    x = np.random.default_rng(0).normal(size=(1, 4, 3))
    wishes = {"width": 3, "boost": {(1, 2): 0.5}, "exact_scores": False, "backend": backend}
    state = ctcx.ctc_beam_search(x, state=ctcx.BeamState(), **wishes).state
    labels, lengths = state.labels.copy(), state.lengths.copy()
    labels[0, 1], lengths[0, 1] = labels[0, 0], lengths[0, 0]
    twice = dataclasses.replace(state, labels=labels, lengths=lengths)
    with pytest.raises(ctcx.CTCInputError, match="what a search leaves behind"):
        ctcx.ctc_beam_search(x, state=twice, **wishes)


def test_a_context_of_100_000_words_does_not_overflow_the_stack():
    order = 100_000
    sizes, grams = np.array([1, 1, 1, 1, order], np.int32), np.full(4 + order, 3, np.int32)
    grams[:4] = range(4)
    log_probs, back_offs = np.array([-99, -1, -2, -0.5, -0.25]), np.zeros(5)
    words = b"<s></s><unk>a", np.array([3, 7, 12, 13])
    tokens = b"_a", np.array([1, 2])
    model = _native.ngrams(*words, *tokens, sizes, grams, log_probs, back_offs, -1, order)
    labels = np.ones((1, 1, order - 1), np.int32)
    logits = np.log([[[1e-9, 1 - 1e-9]]])
    found, numbers = np.empty((1, 1, order), np.int32), np.empty((4, 1, 1))
    before = np.array([0.0, -np.inf, 0.0]).reshape(3, 1, 1)
    arrays = logits, np.array([1]), labels, before, found, numbers
    _native.guided_search(*arrays, 3, 0, 0, None, model, 1.0, 0.0, 1)
    assert (found == 1).all()
    assert numbers[2:].ravel().tolist() == [-0.25, -1.25]
