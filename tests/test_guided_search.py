"""Beam search in chunks, with phrases and with a language model, against searches by definition."""

import math
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import array_api_strict
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ctcx
from ctcx.conformance.oracle import enumerate_labels, log_softmax, prefix_beams
from tests.helpers import optional, to_lists

torch, jax, jnp = optional("torch"), optional("jax"), optional("jax.numpy")
LIBRARIES = {
    "numpy": lambda a: a,
    "torch": lambda a: torch.tensor(a),
    "jax": lambda a: jnp.asarray(a),
    "strict": lambda a: array_api_strict.asarray(a, device=array_api_strict.Device("device1")),
}


class Bigrams:
    """A model of pairs of labels, with random numbers; None is the beginning and the end."""

    def __init__(self, classes, seed, forbidden=()):
        rng = np.random.default_rng(seed)
        self.table = -rng.exponential(size=(classes + 1, classes + 1))
        for pair in forbidden:
            self.table[pair] = -np.inf
        self.classes = classes
        self.asked = 0

    def start(self):
        return self.classes

    def score(self, state, label):
        self.asked += 1
        return float(self.table[state, label]), label

    def finish(self, state):
        return float(self.table[state, self.classes])

    def of(self, labels, *, ended=True):
        found, state = 0.0, self.start()
        for label in labels:
            log_prob, state = self.score(state, label)
            found += log_prob
        return found + (self.finish(state) if ended else 0.0)


def boost_of(labels, boost, *, ended=True):
    """Add up the largest weight of each label in phrases; before the end, unfinished ones too."""
    weights = [[] for _ in labels]
    for phrase, weight in boost.items():
        for first in range(len(labels)):
            part = labels[first : first + len(phrase)]
            whole = len(part) == len(phrase)
            if part == phrase[: len(part)] and (whole or not ended):
                for place in range(first, first + len(part)):
                    weights[place].append(weight)
    return sum(max(each) for each in weights if each)


def textbook(logits, *, width, bonus, blank=0, max_classes=None):
    """Return (labels, log_prob) of the results of a search with dictionaries, the best first."""
    beam = {(): (0.0, -math.inf)}
    for row in log_softmax(np.asarray(logits, dtype=float)).tolist():
        found = {}

        def add(prefix, blank_part, label_part, found=found):
            parts = found.get(prefix, (-math.inf, -math.inf))
            found[prefix] = (
                np.logaddexp(parts[0], blank_part),
                np.logaddexp(parts[1], label_part),
            )

        order = sorted((c for c in range(len(row)) if c != blank), key=lambda c: -row[c])
        for prefix, (ends_blank, ends_label) in beam.items():
            total = np.logaddexp(ends_blank, ends_label)
            add(prefix, total + row[blank], -math.inf)
            if prefix:
                add(prefix, -math.inf, ends_label + row[prefix[-1]])
        for rank, c in enumerate(order):
            for prefix, (ends_blank, ends_label) in beam.items():
                total = np.logaddexp(ends_blank, ends_label)
                longer = (*prefix, c)
                if longer in beam or max_classes is None or rank < max_classes:
                    came = ends_blank if prefix[-1:] == (c,) else total
                    add(longer, -math.inf, came + row[c])
        scores = {one: np.logaddexp(*found[one]) + bonus(one, ended=False) for one in found}
        best = sorted((one for one in found if scores[one] > -math.inf), key=lambda y: -scores[y])
        beam = {one: found[one] for one in best[:width]}
    ended = [(y, float(np.logaddexp(*parts))) for y, parts in beam.items()]
    ended = [one for one in ended if one[1] + bonus(one[0]) > -math.inf]
    return sorted(ended, key=lambda one: -(one[1] + bonus(one[0])))


def results(found, n):
    """Return labels, beam's log-probability and score of each result of a sequence."""
    return [
        (
            tuple(to_lists(found.labels[n, k, : int(found.lengths[n, k])])),
            float(found.beam_log_probs[n, k]),
            float(found.scores[n, k]),
        )
        for k in range(int(found.count[n]))
    ]


def wishes(seed, classes, blank, *, with_model):
    """Return a boost of short, overlapping phrases, and a model."""
    rng = np.random.default_rng([seed, 1])
    labels = [c for c in range(classes) if c != blank]
    boost = {
        tuple(rng.choice(labels, size=rng.integers(1, 5)).tolist()): float(rng.normal(1.0))
        for _ in range(rng.integers(1, 7))
    }
    lm = Bigrams(classes, seed, forbidden=[(labels[0], labels[1])]) if with_model else None

    def bonus(y, *, ended=True):
        return boost_of(y, boost, ended=ended) + (
            0.7 * lm.of(y, ended=ended) + 0.3 * len(y) if lm else 0.0
        )

    given = {"boost": boost}
    if lm:
        given |= {"lm": lm, "lm_weight": 0.7, "label_bonus": 0.3}
    return given, bonus


@pytest.mark.parametrize("with_model", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_with_room_for_all_prefixes_the_best_of_all_labels_are_found(seed, with_model):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(2, 5, 3), scale=1.5)
    given_wishes, bonus = wishes(seed, 3, 1, with_model=with_model)
    found = ctcx.ctc_beam_search(logits, [5, 4], width=80, top=80, blank=1, **given_wishes)
    for n, length in enumerate((5, 4)):
        truth = {
            y: (math.log(p), math.log(p) + bonus(y))
            for y, p in enumerate_labels(logits[n, :length], 1).items()
            if bonus(y) > -math.inf
        }
        got = results(found, n)
        assert {y for y, _, _ in got} == truth.keys()
        for k, (y, log_prob, score) in enumerate(got):
            assert log_prob == pytest.approx(truth[y][0], abs=1e-9)
            assert score == pytest.approx(truth[y][1], abs=1e-9)
            assert float(found.log_probs[n, k]) == pytest.approx(truth[y][0], abs=1e-6)
        assert found.scores[n, : len(got)].tolist() == sorted(
            found.scores[n, : len(got)].tolist(), reverse=True
        )
        assert (found.scores[n, len(got) :] == -np.inf).all()


@pytest.mark.parametrize("with_model", [False, True])
@pytest.mark.parametrize(("width", "max_classes"), [(1, None), (2, None), (5, None), (5, 2)])
def test_a_narrow_beam_is_that_of_a_textbook(width, max_classes, with_model):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        logits = rng.normal(size=(1, 25, 6), scale=rng.uniform(0.5, 3))
        given_wishes, bonus = wishes(seed, 6, 2, with_model=with_model)
        sizes = {"width": width, "max_classes": max_classes, "blank": 2}
        found = ctcx.ctc_beam_search(logits, top=width, exact_scores=False, **sizes, **given_wishes)
        truth = textbook(logits[0], bonus=bonus, **sizes)
        got = results(found, 0)
        assert [y for y, _, _ in got] == [y for y, _ in truth]
        for (y, log_prob, score), (_, right) in zip(got, truth, strict=True):
            assert log_prob == pytest.approx(right, abs=1e-9)
            assert score == pytest.approx(right + bonus(y), abs=1e-9)


@pytest.mark.parametrize("coarse", [False, True])
def test_no_label_of_many_is_left_out_that_can_be_in_the_beam(coarse):
    for seed in range(12):
        rng = np.random.default_rng([seed, 3])
        logits = rng.normal(size=(1, 9, 70), scale=rng.uniform(0.2, 2))
        # Equal columns are equal as computed, whatever is done with them.
        logits = logits[:, :, rng.integers(0, 9, size=70)] if coarse else logits
        # Sums of these aren't rounded, so ties are ties.
        weights = np.round(rng.normal(1, 2, size=40)) / 2 if seed % 2 else np.full(40, 0.5)
        boost = {
            tuple(rng.integers(1, 70 if k % 2 else 6, size=rng.integers(1, 4)).tolist()): float(w)
            for k, w in enumerate(weights)
        }

        def bonus(y, *, ended=True, boost=boost):
            return boost_of(y, boost, ended=ended)

        found = ctcx.ctc_beam_search(logits, width=3, top=3, exact_scores=False, boost=boost)
        truth = textbook(logits[0], width=3, bonus=bonus)
        assert [y for y, _, _ in results(found, 0)] == [y for y, _ in truth]
        scores = [log_prob + bonus(y) for y, log_prob in truth]
        np.testing.assert_allclose(found.scores[0, : len(scores)], scores, atol=1e-9)


def test_labels_whose_phrases_are_avoided_do_not_outnumber_others():
    said = [0.3, 0.3, 0.25]
    probabilities = np.full((2, 40), 1e-9)
    probabilities[0, 1], probabilities[1, 2:5] = 1.0, said
    probabilities[1, 5:] = 0.15 / 35
    boost = {(1, 2): -10.0, (1, 3): -10.0}
    found = ctcx.ctc_beam_search(np.log(probabilities), width=1, boost=boost)
    assert found.labels.tolist() == [[1, 4]]


def test_without_wishes_it_is_the_search_of_the_kernels():
    rng = np.random.default_rng(1)
    for classes, scale in ((6, 1.0), (40, 0.5), (40, 4.0)):
        logits = rng.normal(size=(3, 30, classes), scale=scale)
        lengths = [30, 0, 17]
        sizes = {"width": 6, "top": 6, "blank": 2}
        truth = prefix_beams(logits, lengths, **sizes)
        found = ctcx.ctc_beam_search(
            logits, lengths, exact_scores=False, state=ctcx.BeamState(), **sizes
        )
        width = found.labels.shape[2]
        np.testing.assert_array_equal(found.labels, truth.labels[:, :, :width])
        np.testing.assert_allclose(found.log_probs, truth.log_probs, atol=1e-9)
        assert found.scores.tolist() == found.log_probs.tolist()


def test_equal_candidates_have_the_order_of_the_kernels():
    found = ctcx.ctc_beam_search(
        np.zeros((1, 4)), width=9, top=4, blank=1, exact_scores=False, state=ctcx.BeamState()
    )
    assert found.labels.tolist() == [[-1], [0], [2], [3]]
    many = ctcx.ctc_beam_search(
        np.zeros((1, 40)), width=3, top=3, blank=1, exact_scores=False, state=ctcx.BeamState()
    )
    assert many.labels.tolist() == [[-1], [0], [2]]


def test_large_weights_that_cancel_each_other_hide_no_candidate():
    options = {"boost": {(1,): 1e9, (2,): 1e9}, "label_bonus": -1e9, "width": 1}
    for first in np.linspace(-3.0, -1.0, 20):
        # In the second frame label 2 is a little better than 1 once more.
        logits = np.array([[-100.0, 0.0, first], [-100.0, 0.0, 2e-8]])
        found = ctcx.ctc_beam_search(logits, exact_scores=False, backend="array-api", **options)
        assert found.labels.tolist() == [[1, 2]]


def in_chunks(logits, lengths, sizes, **options):
    """Decode (N, T, C) in chunks of these sizes; lengths count from the first frame of all."""
    state, first = ctcx.BeamState(), 0
    for size in sizes:
        chunk = logits[:, first : first + size]
        inside = np.clip(np.asarray(lengths) - first, 0, size)
        found = ctcx.ctc_beam_search(
            chunk, inside.tolist(), exact_scores=False, state=state, **options
        )
        state, first = pickle.loads(pickle.dumps(found.state)), first + size
    return found


def assert_same(one, other):
    for name in ("labels", "lengths", "log_probs", "beam_log_probs", "scores", "count", "starts"):
        mine, theirs = (np.asarray(to_lists(getattr(each, name))) for each in (one, other))
        assert mine.tobytes() == theirs.tobytes(), name


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.lists(st.integers(0, 9), min_size=1, max_size=6),
    st.integers(1, 7),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, 2]),
)
def test_chunks_of_any_size_give_exactly_what_the_whole_gives(
    seed, sizes, width, guided, coarse, max_classes
):
    rng = np.random.default_rng(seed)
    frames = sum(sizes)
    logits = rng.normal(size=(2, frames, 5), scale=2.0)
    logits = np.round(logits) if coarse else logits  # ties
    lengths = [frames, int(rng.integers(0, frames + 1))]
    options = {"width": width, "top": width, "blank": 1, "max_classes": max_classes}
    if guided:
        options |= wishes(seed, 5, 1, with_model=True)[0]
    whole = in_chunks(logits, lengths, [frames], **options)
    assert_same(in_chunks(logits, lengths, sizes, **options), whole)


@pytest.mark.parametrize("library", LIBRARIES)
def test_each_library_gets_its_own_arrays_and_can_go_on_with_anothers_state(library):
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(2, 12, 5)).astype(np.float32)
    options = {"width": 4, "top": 2, "exact_scores": False, "boost": {(1, 2): 1.0}}
    whole = ctcx.ctc_beam_search(logits, state=ctcx.BeamState(), **options)
    first = ctcx.ctc_beam_search(logits[:, :5], state=ctcx.BeamState(), **options)
    array = LIBRARIES[library](logits[:, 5:])
    found = ctcx.ctc_beam_search(array, state=first.state, **options)
    assert_same(found, whole)
    for part in (found.labels, found.log_probs, found.scores, found.starts):
        assert type(part) is type(array)
        assert getattr(part, "device", None) == getattr(array, "device", None)
    assert found.log_probs.dtype == array.dtype
    assert "int32" in str(found.labels.dtype)


@pytest.mark.parametrize("library", ["numpy", "torch", "strict"])
def test_exact_scores_are_those_of_the_loss_with_times_of_the_alignment(library):
    rng = np.random.default_rng(7)
    logits = rng.normal(size=(1, 12, 5))
    boost = {(1, 2): 1.0, (3,): 0.4}
    found = ctcx.ctc_beam_search(LIBRARIES[library](logits), boost=boost, top=3, width=4)
    assert found.state is None
    for k, (labels, log_prob, score) in enumerate(results(found, 0)):
        loss = float(ctcx.ctc_loss(logits[0], list(labels)))
        assert float(found.log_probs[0, k]) == pytest.approx(-loss, abs=1e-9)
        assert log_prob <= -loss + 1e-9
        assert score == pytest.approx(-loss + boost_of(labels, boost), abs=1e-9)
        starts = ctcx.ctc_align(logits[0], list(labels)).starts.tolist()
        assert to_lists(found.starts[0, k, :])[: len(labels)] == starts
    scores = to_lists(found.scores[0, :])
    assert scores == sorted(scores, reverse=True)


def test_one_sequence_has_no_batch_axis_and_time_may_come_first():
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(2, 9, 5))
    options = {"boost": {(3, 1): 2.0}, "top": 3}
    whole = ctcx.ctc_beam_search(logits, **options)
    turned = ctcx.ctc_beam_search(logits.transpose(1, 0, 2), time_major=True, **options)
    assert_same(turned, whole)
    one = ctcx.ctc_beam_search(logits[1], **options)
    assert one.labels.shape[0] == 3
    assert one.scores.tolist() == whole.scores[1].tolist()


PEAKS = np.log([[0.1, 0.6, 0.3], [0.8, 0.1, 0.1], [0.1, 0.6, 0.3]])  # says 1 1


def test_a_beam_of_one_finds_a_phrase():
    def said(**options):
        return to_lists(ctcx.ctc_beam_search(PEAKS, width=1, **options).labels[0])

    assert said() == [1, 1]
    assert said(boost={(2, 2): 1.0}) == [2, 2]
    # The first label gets its weight, too, and is taken if the phrase turns out unfinished.
    assert said(boost={(2, 2, 2, 1): 0.1}) == [1, 1]


def test_phrases_that_change_from_call_to_call_are_seen():
    x, boost = np.random.default_rng(0).normal(size=(1, 12, 4)), {(1, 2): 1.0, (3,): 0.5}

    def score(boost, **options):
        return ctcx.ctc_beam_search(x, width=8, boost=boost, **options).scores[0, 0]

    first = score(boost)
    assert score(boost) == first
    for change in ({(1, 2): 2.0}, {(1, 3): 3.0}, {(3,): 4}):
        boost |= change
        assert score(boost) == score(dict(boost.items())) > first
        first = score(boost)
    del boost[(1, 3)]
    assert score(boost) < first
    with pytest.raises(ctcx.CTCInputError, match="blank"):
        score(boost, blank=3)
    boost[(1, 2)] = math.nan
    with pytest.raises(ctcx.CTCInputError, match="weight"):
        score(boost)


def test_what_an_unfinished_phrase_had_is_taken_back():
    options = {"width": 40, "top": 40, "exact_scores": False}
    plain = ctcx.ctc_beam_search(PEAKS, **options)
    found = ctcx.ctc_beam_search(PEAKS, boost={(2, 1, 2, 1): 5.0, (1, 2, 2, 2): 3.0}, **options)
    assert found.labels.tolist() == plain.labels.tolist()
    np.testing.assert_allclose(found.scores, plain.scores, atol=1e-12)
    ends = ctcx.ctc_beam_search(PEAKS, boost={(2, 1): 5.0}, **options)
    gains = {tuple(ends.labels[k]): ends.scores[k] - ends.log_probs[k] for k in range(ends.count)}
    assert len(gains) == plain.count
    for labels, gain in gains.items():
        assert gain == pytest.approx(10.0 if "2, 1" in str(list(map(int, labels))) else 0.0)


def test_a_label_gets_the_largest_weight_of_its_phrases_once():
    logits = np.log([[0.05, 0.9, 0.05], [0.05, 0.05, 0.9]] * 2)  # says 1 2 1 2
    for boost, gain in (
        ({(1, 2): 1.0}, 4.0),
        ({(1, 2): 1.0, (1, 2, 1): 0.5}, 4.0),
        ({(1, 2): 1.0, (2, 1): 2.0}, 6.0),
        ({(1,): 1.0, (1, 2, 1, 2): 0.75}, 3.5),
        ({(1, 2, 1): 1.0, (2, 1, 2): 1.0}, 4.0),
        ({(2,): -1.0}, -2.0),
        ({}, 0.0),
    ):
        found = ctcx.ctc_beam_search(logits, boost=boost)
        assert found.labels.tolist() == [[1, 2, 1, 2]]
        assert float(found.scores[0] - found.log_probs[0]) == pytest.approx(gain)


def test_a_model_is_asked_about_few_labels():
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(1, 30, 200), scale=3.0)
    logits[0, :, 7] += 12
    lm = Bigrams(200, 0)
    found = ctcx.ctc_beam_search(logits, blank=7, lm=lm, width=8, exact_scores=False)
    assert lm.asked < 30 * 200 * 8 / 4
    truth = textbook(logits[0], width=8, blank=7, bonus=lm.of)
    assert results(found, 0)[0][0] == truth[0][0]


def test_labels_that_a_model_excludes_are_never_said():
    lm = Bigrams(3, 0, forbidden=[(3, 1), (2, 3)])  # 1 isn't first, 2 isn't last
    found = ctcx.ctc_beam_search(PEAKS, lm=lm, width=40, top=40)
    said = [y for y, _, _ in results(type(found)(*(a[None] for a in found)), 0)]
    assert said
    assert all(y[:1] != (1,) and y[-1:] != (2,) for y in said)


def test_a_weight_of_zero_is_no_model_and_no_wish_is_a_plain_search():
    lm = Bigrams(3, 0)
    plain = ctcx.ctc_beam_search(PEAKS, top=3)
    assert_same(ctcx.ctc_beam_search(PEAKS, top=3, lm=lm, lm_weight=0), plain)
    assert_same(ctcx.ctc_beam_search(PEAKS, top=3, boost={}), plain)
    assert lm.asked == 0
    with ctcx.trace() as runs:
        ctcx.ctc_beam_search(PEAKS, boost={}, exact_scores=False)
    assert [run.operation for run in runs] == ["beam_search"]


class Marked(Bigrams):
    def __init__(self, classes, seed, fingerprint):
        super().__init__(classes, seed)
        self.fingerprint = fingerprint


class Broken(Bigrams):
    def __init__(self, number):
        super().__init__(3, 0)
        self.number = number

    def score(self, _state, _label):
        return self.number


class BrokenEnd(Bigrams):
    def finish(self, _state):
        return 0.5


STATE = ctcx.ctc_beam_search(PEAKS, exact_scores=False, state=ctcx.BeamState()).state
MODEL = Bigrams(3, 0)
GUIDED = ctcx.ctc_beam_search(PEAKS, exact_scores=False, state=ctcx.BeamState(), lm=MODEL).state
ON = {"exact_scores": False}
WRONG = {
    "boost of a list": ({"boost": [(1, 2)]}, "boost must be a dict"),
    "a phrase of text": ({"boost": {"12": 1.0}}, "phrase '12': expected a tuple of labels"),
    "an empty phrase": ({"boost": {(): 1.0}}, "at least one label"),
    "the blank": ({"boost": {(1, 0): 1.0}}, r"\(1, 0\): it has the blank \(0\)"),
    "a label beyond": ({"boost": {(1, 3): 1.0}}, "labels of 0 to 2; got 3 in it"),
    "a negative label": ({"boost": {(-1,): 1.0}}, "labels of 0 to 2; got -1"),
    "a label of text": ({"boost": {("a",): 1.0}}, "labels of 0 to 2; got 'a'"),
    "a float where an int is its equal": (
        {"boost": {(1, 2): 1.0, (2.0,): 1.0}},
        r"phrase \(2.0,\): expected labels of 0 to 2; got 2.0",
    ),
    "an infinite weight": ({"boost": {(1,): math.inf}}, "its weight must be a number of at most"),
    "a weight that is too large": (
        {"boost": {(1,): -1.1e9}},
        "of at most 1e9 in size; got -1100000000",
    ),
    "a whole number beyond floats": (
        {"label_bonus": 10**400},
        "label_bonus must be a number of at",
    ),
    "a large weight of a model": (
        {"lm": Bigrams(3, 0), "lm_weight": 1e10},
        "lm_weight must be a num",
    ),
    "a weight of text": ({"boost": {(1,): "1"}}, "its weight must be a number of .* got '1'"),
    "a fingerprint of bytes": (
        {"state": ctcx.BeamState(), "lm": Marked(3, 0, b"a"), **ON},
        "lm.fingerprint must be a str that another model doesn't have, or None; got bytes",
    ),
    "no model": ({"lm": 3}, "lm must have the methods .* int has no start"),
    "a path": ({"lm": "words.arpa"}, "got a path: read it with ctcx.NGram.from_arpa"),
    "a class": ({"lm": Bigrams}, "got the class Bigrams instead of an object of it"),
    "results": (
        {"state": ctcx.ctc_beam_search(PEAKS, state=ctcx.BeamState(), **ON), **ON},
        "got the results themselves: pass their .state",
    ),
    "a weight below 0": ({"lm": Bigrams(3, 0), "lm_weight": -1}, "lm_weight is -1: expected 0"),
    "a weight of NaN": ({"lm": Bigrams(3, 0), "lm_weight": math.nan}, "lm_weight must be a number"),
    "a bonus of text": ({"label_bonus": "x"}, "label_bonus must be a number of .* got 'x'"),
    "a number alone": ({"lm": Broken(0.0)}, r"lm.score\(state, \d\) returned 0.0: expected \(log"),
    "a probability": ({"lm": Broken((0.5, 0))}, "a log_prob of 0.5: expected the logarithm"),
    "NaN": ({"lm": Broken((math.nan, 0))}, "a log_prob of nan"),
    "a number beyond floats": ({"lm": Broken((-(10**400), 0))}, "a log_prob of -1000"),
    "an end of 0.5": ({"lm": BrokenEnd(3, 0)}, r"lm.finish\(state\) returned a log_prob of 0.5"),
    "no state": ({"state": {}, **ON}, "state must be ctcx.BeamState"),
    "exact scores": ({"state": STATE}, "exact_scores must be False with a state"),
    "another width": ({"state": STATE, "width": 3, **ON}, r"another width \(16; now 3\)"),
    "another boost": ({"state": STATE, "boost": {(1,): 1.0}, **ON}, "another boost"),
    "a model later": (
        {"state": STATE, "lm": Bigrams(3, 0), **ON},
        r"another lm .None; now <Bigrams at 0x",
    ),
    "more classes": (
        {"state": replace(STATE, settings=(("classes", 9), *STATE.settings[1:])), **ON},
        r"another number of classes \(9; now",
    ),
    "another blank": ({"state": STATE, "blank": 1, **ON}, r"another blank \(0; now 1\)"),
    "other labels": ({"state": replace(STATE, labels=STATE.labels + 1), **ON}, "doesn't hold what"),
    "another shape": ({"state": replace(STATE, blank=STATE.blank[:, 1:]), **ON}, "doesn't hold"),
    "NaN in it": ({"state": replace(STATE, label=STATE.label * np.nan), **ON}, "doesn't hold what"),
    "no settings": ({"state": replace(STATE, settings=("abc",)), **ON}, "doesn't hold what"),
    "a number for settings": ({"state": replace(STATE, settings=5), **ON}, "doesn't hold what"),
    "an array for settings": (
        {"state": replace(STATE, settings=np.zeros(8)), **ON},
        "doesn't hold what",
    ),
    "arrays for names": (
        {"state": replace(STATE, settings=((np.zeros(2), 3), *STATE.settings[1:])), **ON},
        "doesn't hold what",
    ),
    "an array for a setting": (
        {"state": replace(STATE, settings=(("classes", np.zeros(2)), *STATE.settings[1:])), **ON},
        r"another number of classes \(array\(\[0., 0.\]\); now 3\)",
    ),
    "few settings": ({"state": replace(STATE, settings=STATE.settings[:3]), **ON}, "doesn't hold"),
    "no guides": ({"state": replace(STATE, guides=((),)), **ON}, "doesn't hold what"),
    "a number for lengths": (
        {"state": replace(STATE, lengths=np.int32(1)), **ON},
        "doesn't hold what",
    ),
    "numbers for guides": (
        {"state": replace(GUIDED, guides=(3,)), "lm": MODEL, **ON},
        "doesn't hold what",
    ),
    "no states of the model": (
        {"state": replace(GUIDED, guides=((),)), "lm": MODEL, **ON},
        "doesn't hold what",
    ),
    "a weight without a model": ({"lm_weight": 2}, "lm_weight is 2, but there is no lm"),
    "a weight of 0 without a model": ({"lm_weight": 0, "boost": {(1,): 1.0}}, "there is no lm"),
}


def test_scores_are_in_order_as_they_are_rounded():
    """Of these two results, rounding turns the order of the probabilities round."""
    logits = np.array([[1, -3, 0], [1, -1, 0]], np.float32)
    found = ctcx.ctc_beam_search(logits, width=9, top=9, label_bonus=2.5, exact_scores=False)
    count = int(found.count)
    scores = found.scores[:count]
    assert (np.diff(scores) <= 0).all()
    bonus = np.float32(2.5) * found.lengths[:count]
    np.testing.assert_array_equal(scores, (found.log_probs[:count] + bonus).astype(np.float32))


@pytest.mark.parametrize(
    ("before", "after", "is_same", "is_same_later"),
    [
        (MODEL, MODEL, True, True),
        (MODEL, Bigrams(3, 1), False, True),  # another process has no such object
        (MODEL, Marked(3, 0, None), False, False),
        (Marked(3, 0, "a"), Marked(3, 0, "a"), True, True),
        (Marked(3, 0, "a"), Marked(3, 0, "b"), False, False),
    ],
    ids=["itself", "its class", "another class", "its fingerprint", "another fingerprint"],
)
def test_a_state_belongs_to_one_language_model(before, after, is_same, is_same_later):
    state = ctcx.ctc_beam_search(PEAKS, lm=before, state=ctcx.BeamState(), **ON).state
    for same, one in ((is_same, state), (is_same_later, pickle.loads(pickle.dumps(state)))):
        if same:
            ctcx.ctc_beam_search(PEAKS, lm=after, state=one, **ON)
            continue
        with pytest.raises(ctcx.CTCInputError, match="another lm"):
            ctcx.ctc_beam_search(PEAKS, lm=after, state=one, **ON)


def test_only_the_core_calls_a_model_written_in_python(plugins, monkeypatch):
    plugins.write(
        "other",
        "from ctcx.plugin import Backend, hookimpl\n@hookimpl\ndef ctcx_backends():\n"
        "    yield Backend(name='other', kernels={'loss': 'json:loads'}, namespaces={'numpy'})\n",
    )
    plugins.load()
    options = {"lm": MODEL, "exact_scores": False}
    words = "names 'other', but only the core .backend 'array-api'. calls a language model written"
    with pytest.raises(ctcx.CTCInputError, match=f"^the argument backend= {words}"):
        ctcx.ctc_beam_search(PEAKS, backend="other", **options)
    with (
        ctcx.use_backend("other"),
        pytest.raises(ctcx.CTCInputError, match=rf"^use_backend\(\) {words}"),
    ):
        ctcx.ctc_beam_search(PEAKS, **options)
    with pytest.raises(ctcx.UnknownBackendError, match="the backend 'nowhere', which no usable"):
        ctcx.ctc_beam_search(PEAKS, backend="nowhere", **options)
    monkeypatch.setenv("CTCX_BACKEND", "other")
    with pytest.raises(ctcx.CTCInputError, match=f"^the environment variable CTCX_BACKEND {words}"):
        ctcx.ctc_beam_search(PEAKS, **options)
    assert ctcx.ctc_beam_search(PEAKS, backend="array-api", **options).count == 1


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of memory holds on Linux")
@pytest.mark.parametrize("options", ["", ", boost={(1,): 1.0}"], ids=["plain", "guided"])
def test_a_beam_too_large_for_memory_is_an_error_that_names_width(options):
    code = f"""
import numpy as np, resource, ctcx
logits = np.zeros((3, 2))
ctcx.ctc_beam_search(logits{options})
resource.setrlimit(resource.RLIMIT_AS, (2**32, resource.RLIM_INFINITY))
try:
    ctcx.ctc_beam_search(logits, width=2**31 - 1{options})
except MemoryError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    expected = "the 2147483647 prefixes that width asks for (of one sequence at least 34 GB)"
    assert expected in ran.stdout, ran.stderr


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_arguments_are_refused(kind):
    options, message = WRONG[kind]
    with pytest.raises(ctcx.CTCInputError, match=message):
        ctcx.ctc_beam_search(PEAKS, **options)


def test_wrong_logits_and_other_sequences_are_refused():
    bad = np.zeros((2, 4, 3))
    bad[1, 2, 0] = np.nan
    with pytest.raises(ctcx.CTCInputError, match=r"logits\[1, 2, 0\] is nan .sequence 1, frame 2"):
        ctcx.ctc_beam_search(bad, boost={(1,): 1.0})
    with pytest.raises(
        ctcx.CTCInputError, match="state is of 1 sequences, but the logits are of 2"
    ):
        ctcx.ctc_beam_search(bad, [4, 2], state=STATE, exact_scores=False)


def test_unchecked_wrong_values_mark_their_sequence_for_good():
    logits = np.random.default_rng(5).normal(size=(3, 6, 4))
    right = ctcx.ctc_beam_search(logits, state=ctcx.BeamState(), exact_scores=False)
    logits[1, 2, 0] = np.nan
    options = {"exact_scores": False, "validate": False}
    found = ctcx.ctc_beam_search(logits, state=ctcx.BeamState(), **options)
    assert found.count.tolist() == [1, 0, 1]
    assert np.isnan(found.log_probs[1]).all()
    assert found.labels[[0, 2]].tolist() == right.labels[[0, 2]].tolist()
    again = ctcx.ctc_beam_search(logits[:, :1], state=found.state, **options)
    assert np.isnan(again.scores[:, 0]).tolist() == [False, True, False]
    beyond = ctcx.ctc_beam_search(logits[:1], [9], boost={(1,): 1.0}, **options)
    assert np.isnan(beyond.scores).all()


def test_frames_that_say_nothing_leave_nothing():
    logits = np.zeros((2, 3, 4))
    logits[0, 1] = -np.inf
    found = ctcx.ctc_beam_search(logits, boost={(1,): 1.0}, top=2)
    assert found.count.tolist() == [0, 2]
    after = ctcx.ctc_beam_search(logits, state=ctcx.BeamState(), exact_scores=False).state
    again = ctcx.ctc_beam_search(logits[:, :1], state=after, exact_scores=False)
    assert again.count.tolist() == [0, 1]


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (2, 5, 1), (0, 3), (0, 0, 2)])
def test_nothing_is_found_in_nothing(shape):
    found = ctcx.ctc_beam_search(np.zeros(shape), top=2, exact_scores=False, state=ctcx.BeamState())
    assert found.labels.shape == (*shape[:-2], 2, 0)
    assert found.lengths.reshape(-1, 2).tolist() == [[0, -1]] * (len(found.lengths.ravel()) // 2)


def test_a_score_beyond_float32_is_that_of_no_result():
    x = np.zeros((2, 3))
    found = ctcx.ctc_beam_search(x, lm=Broken((-1e40, 0)), top=2, exact_scores=False)
    assert found.count == 2
    assert found.scores[1] < -1e39
    found = ctcx.ctc_beam_search(
        x.astype(np.float32), lm=Broken((-1e40, 0)), top=2, exact_scores=False
    )
    assert found.lengths.tolist() == [0, -1]


def test_a_call_that_a_library_traces_is_refused():
    def call(x):
        return ctcx.ctc_beam_search(x, boost={(1,): 1.0}).labels

    with pytest.raises(ctcx.CTCInputError, match="outside of the compiled function"):
        jax.jit(call)(jnp.asarray(PEAKS))
    with pytest.raises(ctcx.CTCInputError, match="outside of the compiled function"):
        torch.func.vmap(call)(torch.tensor(PEAKS)[None])


def test_torch_compile_interrupts_its_graph():
    def call(x):
        return ctcx.ctc_beam_search(2 * x, boost={(1, 2): 1.0}, exact_scores=False).scores + 1

    expected = call(torch.tensor(PEAKS))
    compiled = torch.compile(call, backend="eager")
    torch.testing.assert_close(compiled(torch.tensor(PEAKS)), expected)
    torch.compiler.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"compiler.disable|dynamo.disable"):
        torch.compile(call, backend="eager", fullgraph=True)(torch.tensor(PEAKS))


def test_memory_of_a_stream_is_that_of_its_labels():
    rng = np.random.default_rng(6)
    state = ctcx.BeamState()
    for _ in range(30):
        chunk = rng.normal(size=(20, 4), scale=4.0)
        state = ctcx.ctc_beam_search(chunk, state=state, exact_scores=False, width=4).state
    assert state.labels.shape[:2] == (1, 4)
    assert len(pickle.dumps(state)) < 4 * (state.labels.nbytes + 2000)


def test_examples_on_the_page_are_so(capsys, tmp_path, monkeypatch):
    page = Path(__file__).parents[1] / "docs/decode.md"
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for code, printed in re.findall(
        r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", page.read_text("utf-8"), re.DOTALL
    ):
        exec(compile(code, page.name, "exec"), namespace)
        assert capsys.readouterr().out == printed
