"""Decoders as callers see them: results, errors, and other libraries."""

import functools
import itertools
import math
import runpy
from pathlib import Path

import array_api_strict
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ctcx
from ctcx.conformance.oracle import best_classes, enumerate_labels, merged, prefix_beams
from tests.helpers import optional, to_lists

torch, jax, jnp = optional("torch"), optional("jax"), optional("jax.numpy")
LOGITS = np.log([[0.8, 0.1, 0.1], [0.1, 0.7, 0.2], [0.1, 0.8, 0.1], [0.3, 0.1, 0.6]])
LIBRARIES = {
    "numpy": lambda a: a,
    "torch": lambda a: torch.tensor(a),
    "jax": lambda a: jnp.asarray(a),
    "strict": lambda a: array_api_strict.asarray(a, device=array_api_strict.Device("device1")),
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_is_certain_has_the_log_probability_zero_and_not_minus_zero(library):
    certain = LIBRARIES[library](np.asarray([[0, -np.inf], [-np.inf, 0]], dtype=np.float32))
    greedy = ctcx.ctc_greedy(certain)
    found = (*greedy.log_probs, greedy.score, *ctcx.ctc_beam_search(certain).log_probs[:1])
    assert [str(float(value)) for value in found] == ["0.0"] * len(found)


def test_labels_of_the_reference_add_up_to_one_and_have_the_losses_that_ctcx_says():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 4), scale=2.0)
    found = enumerate_labels(logits, 2)
    assert math.fsum(found.values()) == pytest.approx(1, abs=1e-12)
    for labels, probability in itertools.islice(found.items(), 40):
        loss = ctcx.ctc_loss(logits, list(labels), blank=2)
        assert math.exp(-loss) == pytest.approx(probability, rel=1e-10)


@pytest.mark.parametrize("library", LIBRARIES)
def test_greedy_drops_the_batch_axis_of_one_sequence(library):
    found = ctcx.ctc_greedy(LIBRARIES[library](LOGITS.astype(np.float32)))
    assert [array.shape for array in found] == [(2,), (), (2,), (2,), (2,), ()]
    assert to_lists(found.labels) == [1, 2]
    assert (to_lists(found.starts), to_lists(found.ends)) == ([1, 3], [3, 4])
    np.testing.assert_allclose(to_lists(found.log_probs), np.log([0.8, 0.6]), atol=1e-6)
    assert float(found.score) == pytest.approx(math.log(0.8 * 0.7 * 0.8 * 0.6), abs=1e-6)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("merge_repeated", [True, False])
def test_greedy_is_that_of_the_reference(library, merge_repeated):
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(5, 30, 3)).astype(np.float32)
    lengths = [30, 0, 1, 17, 30]
    found = ctcx.ctc_greedy(
        LIBRARIES[library](logits), lengths, blank=-2, merge_repeated=merge_repeated
    )
    truth = best_classes(logits, lengths, 1)
    rows = [
        merged(said[:length].tolist(), 1, merge_repeated=merge_repeated)
        for said, length in zip(truth.classes, lengths, strict=True)
    ]
    width = max(map(len, rows))
    assert found.labels.shape == (5, width)
    for i, name in enumerate(("labels", "starts", "ends")):
        padded = [[one[i] for one in row] + [-1] * (width - len(row)) for row in rows]
        assert to_lists(getattr(found, name)) == padded
    assert to_lists(found.lengths) == [len(row) for row in rows]
    np.testing.assert_allclose(to_lists(found.score), truth.log_probs.sum(axis=1), rtol=1e-5)


def test_greedy_takes_any_layout_and_dtype():
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(3, 20, 4))
    lengths = [20, 3, 11]
    expected = ctcx.ctc_greedy(logits, lengths)
    turned = ctcx.ctc_greedy(logits.transpose(1, 0, 2), np.array(lengths), time_major=True)
    for one, other in zip(turned, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    half = ctcx.ctc_greedy(logits.astype(np.float16), lengths)
    assert half.score.dtype == half.log_probs.dtype == np.float32
    assert ctcx.ctc_greedy(logits.astype(np.float32)).labels.dtype == np.int32


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (2, 5, 1), (0, 3), (0, 0, 2)])
@pytest.mark.parametrize("library", LIBRARIES)
def test_greedy_of_nothing(library, shape):
    found = ctcx.ctc_greedy(LIBRARIES[library](np.zeros(shape, dtype=np.float32)))
    rows = shape[:-2]
    assert found.labels.shape == (*rows, 0)
    assert found.lengths.shape == found.score.shape == rows
    assert not np.asarray(to_lists(found.score)).any()


def test_greedy_never_says_a_masked_class():
    logits = np.full((2, 3, 3), -np.inf)
    logits[1, :, 2] = [0.0, -5.0, 7.0]
    logits[0, 1, 1] = 1.0
    found = ctcx.ctc_greedy(logits)
    assert found.labels.tolist() == [[1], [2]]
    assert found.score.tolist() == [-np.inf, 0.0]


def test_greedy_says_the_lowest_of_equal_classes():
    assert ctcx.ctc_greedy(np.zeros((4, 3)), blank=2).labels.tolist() == [0]
    assert ctcx.ctc_greedy(np.zeros((4, 3)), blank=0).labels.tolist() == []


def test_an_average_of_many_frames_keeps_its_digits():
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(1, 20_000, 8)).astype(np.float32)
    expected = best_classes(logits, [20_000], 0).log_probs.sum()
    for library in ("numpy", "torch", "jax"):
        score = float(ctcx.ctc_greedy(LIBRARIES[library](logits)).score[0])
        assert score == pytest.approx(expected, rel=1e-6)


WRONG = {
    "blank": ({"blank": 3}, "blank"),
    "lengths": ({"logit_lengths": [5]}, "logit_lengths"),
    "too many lengths": ({"logit_lengths": [1, 2]}, "logit_lengths"),
    "time_major": ({"time_major": 1}, "time_major"),
    "merge_repeated": ({"merge_repeated": "no"}, "merge_repeated"),
    "validate": ({"validate": None}, "validate"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_greedy_refuses_wrong_options(kind):
    options, argument = WRONG[kind]
    with pytest.raises(ctcx.CTCInputError, match=argument) as caught:
        ctcx.ctc_greedy(LOGITS[None], **options)
    assert caught.value.argument == argument


@pytest.mark.parametrize("library", LIBRARIES)
def test_greedy_refuses_wrong_logits_in_the_words_of_the_loss(library):
    bad = np.zeros((2, 4, 3), dtype=np.float32)
    bad[1, 2, 0] = np.nan
    with pytest.raises(ctcx.CTCInputError, match=r"logits\[1, 2, 0\] is nan .sequence 1, frame 2"):
        ctcx.ctc_greedy(LIBRARIES[library](bad))
    with pytest.raises(ctcx.CTCInputError, match=r"logit_lengths\[0\] is 5: expected 0 to 4"):
        ctcx.ctc_greedy(LIBRARIES[library](bad), [5, 1])
    assert ctcx.ctc_greedy(LIBRARIES[library](bad), [4, 2]).lengths.shape == (2,)
    with pytest.raises(ctcx.CTCInputError, match="logits must have shape"):
        ctcx.ctc_greedy(LIBRARIES[library](bad[0, 0]))
    with pytest.raises(ctcx.CTCInputError, match="logits must be an array"):
        ctcx.ctc_greedy(bad.tolist())


def test_explain_and_trace_know_decoders():
    decision = ctcx.explain(LOGITS, operation="greedy", backend="array-api")
    assert decision.selected.backend.name == "array-api"
    assert decision.problem.S == 0
    with ctcx.trace() as runs:
        ctcx.ctc_greedy(LOGITS, backend="array-api")
    assert [(run.backend, run.operation) for run in runs] == [("array-api", "greedy")]


@pytest.mark.parametrize("enabled", [False, True])
def test_greedy_under_jax(enabled):
    with jax.enable_x64(enabled):
        rng = np.random.default_rng(5)
        logits, lengths = rng.normal(size=(3, 40, 6)), np.array([40, 7, 22])
        expected = ctcx.ctc_greedy(logits, lengths)
        arrays = (jnp.asarray(logits), jnp.asarray(lengths))
        found = jax.jit(ctcx.ctc_greedy)(*arrays)
        assert found.labels.shape == (3, 40)
        width = expected.labels.shape[1]
        for name in ("labels", "starts", "ends"):
            np.testing.assert_array_equal(getattr(found, name)[:, :width], getattr(expected, name))
        np.testing.assert_allclose(found.score, expected.score, rtol=1e-5)
        mapped = jax.vmap(ctcx.ctc_greedy)(*arrays)
        np.testing.assert_array_equal(mapped.labels, found.labels)
        slope = jax.grad(lambda x: ctcx.ctc_greedy(x).score.sum())(arrays[0])
        assert not slope.any()


def test_greedy_exported_by_jax_with_sizes_undecided():
    count, frames = jax.export.symbolic_shape("n, t")
    arguments = (
        jax.ShapeDtypeStruct((count, frames, 6), np.float32),
        jax.ShapeDtypeStruct((count,), np.int32),
    )
    exported = jax.export.export(jax.jit(lambda *arrays: tuple(ctcx.ctc_greedy(*arrays))))(
        *arguments
    )
    rng = np.random.default_rng(6)
    for n, t in ((3, 50), (1, 7)):
        logits = rng.normal(size=(n, t, 6)).astype(np.float32)
        lengths = rng.integers(0, t + 1, size=n).astype(np.int32)
        expected = ctcx.ctc_greedy(logits, lengths)
        found = ctcx.Decoded(*exported.call(logits, lengths))
        width = expected.labels.shape[1]
        np.testing.assert_array_equal(found.labels[:, :width], expected.labels)
        np.testing.assert_allclose(found.log_probs[:, :width], expected.log_probs, atol=1e-5)


def test_greedy_in_torch_operators():
    rng = np.random.default_rng(7)
    logits, lengths = torch.tensor(rng.normal(size=(3, 40, 6))), torch.tensor([40, 7, 22])
    expected = ctcx.ctc_greedy(logits, lengths)
    width = expected.labels.shape[1]
    compiled = torch.compile(
        lambda *arrays: ctcx.ctc_greedy(*arrays), fullgraph=True, backend="aot_eager"
    )
    for found in (compiled(logits, lengths), torch.func.vmap(ctcx.ctc_greedy)(logits, lengths)):
        assert found.labels.shape == (3, 40)
        for name in ("labels", "starts", "ends", "log_probs"):
            part = getattr(found, name)[:, :width]
            torch.testing.assert_close(part, getattr(expected, name))
        torch.testing.assert_close(found.lengths, expected.lengths)
        torch.testing.assert_close(found.score, expected.score)
    turned = torch.compile(
        lambda x: ctcx.ctc_greedy(x, time_major=True), fullgraph=True, backend="aot_eager"
    )(logits.permute(1, 0, 2))
    torch.testing.assert_close(turned.score, ctcx.ctc_greedy(logits).score)
    logits.requires_grad_()
    assert not ctcx.ctc_greedy(logits).score.requires_grad


WRONG_PLUGIN = """
import numpy as np
from ctcx.plugin import Backend, hookimpl, load_kernel


@hookimpl
def ctcx_backends():
    yield Backend(
        name="wrong", kernels={{"{operation}": "ctcx_wrong:kernel"}}, namespaces={{"numpy"}}
    )


def kernel(*args, **options):
    found, log_probs = load_kernel("array-api", "{operation}")(*args, **options)
    return {result}
"""


@pytest.mark.parametrize(
    "result", ["(found + 9, log_probs)", "(found, log_probs * np.nan)", "(found, log_probs + 9)"]
)
def test_a_kernel_that_returns_what_can_not_be_is_named(plugins, result):
    plugins.write("wrong", WRONG_PLUGIN.format(operation="greedy", result=result))
    plugins.load()
    with pytest.raises(ctcx.KernelError, match="classes or log_probs for sequence 0"):
        ctcx.ctc_greedy(LOGITS, backend="wrong")


def test_the_most_probable_labels_need_not_be_those_of_the_best_path():
    logits = np.log([[0.6, 0.4], [0.6, 0.4]])
    assert ctcx.ctc_greedy(logits).labels.tolist() == []
    found = ctcx.ctc_beam_search(logits, top=2)
    assert found.labels.tolist() == [[1], [-1]]
    assert found.lengths.tolist() == [1, 0]
    np.testing.assert_allclose(np.exp(found.log_probs), [0.64, 0.36])
    assert found.starts.tolist() == [[1], [-1]]
    assert int(found.count) == 2


@pytest.mark.parametrize("seed", range(20))
def test_with_room_for_all_prefixes_a_beam_finds_all_labels_with_their_probabilities(seed):
    rng = np.random.default_rng(seed)
    frames, classes = int(rng.integers(0, 6)), int(rng.integers(1, 4))
    blank = int(rng.integers(classes))
    logits = rng.normal(size=(frames, classes), scale=rng.choice([0.1, 2.0, 30.0]))
    logits[rng.random(logits.shape) < 0.1] = -np.inf
    truth = enumerate_labels(logits, blank)
    found = ctcx.ctc_beam_search(logits, width=70, top=64, blank=blank, exact_scores=False)
    assert int(found.count) == len(truth)
    results = {}
    for k in range(len(truth)):
        labels = tuple(found.labels[k, : found.lengths[k]].tolist())
        results[labels] = float(found.beam_log_probs[k])
    assert results.keys() == truth.keys()
    for labels, probability in truth.items():
        assert results[labels] == pytest.approx(math.log(probability), abs=1e-9)
    assert (np.diff(found.log_probs[: len(truth)]) <= 0).all()
    assert (found.labels[len(truth) :] == -1).all()
    assert (found.lengths[len(truth) :] == -1).all()
    assert (found.log_probs[len(truth) :] == -np.inf).all()


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.sampled_from([None, 1, 2]))
def test_a_beam_is_that_of_the_textbook(seed, width, max_classes):
    rng = np.random.default_rng(seed)
    frames, classes = int(rng.integers(1, 25)), int(rng.integers(2, 7))
    blank = int(rng.integers(classes))
    logits = rng.normal(size=(2, frames, classes), scale=rng.choice([0.2, 1.0, 3.0]))
    lengths = [frames, int(rng.integers(0, frames + 1))]
    truth = prefix_beams(logits, lengths, blank, width=width, top=width, max_classes=max_classes)
    found = ctcx.ctc_beam_search(
        logits,
        lengths,
        width=width,
        top=width,
        blank=blank,
        max_classes=max_classes,
        exact_scores=False,
    )
    most = found.labels.shape[2]
    np.testing.assert_array_equal(found.labels, truth.labels[:, :, :most])
    np.testing.assert_allclose(found.log_probs, truth.log_probs, atol=1e-9)


@pytest.mark.parametrize("library", ["numpy", "jax"])
def test_a_wide_beam_is_that_of_the_textbook(library):
    # Wide ones find parents by sorting; JAX has integers of 32 bits here.
    logits = np.random.default_rng(20).normal(size=(2, 8, 5)).astype(np.float32)
    truth = prefix_beams(logits, [8, 6], 1, width=300, top=10, max_classes=None)
    call = functools.partial(ctcx.ctc_beam_search, width=300, top=10, blank=1, exact_scores=False)
    found = (jax.jit(call) if library == "jax" else call)(logits, np.array([8, 6]))
    size = found.labels.shape[2]
    np.testing.assert_array_equal(found.labels, truth.labels[:, :, :size])
    np.testing.assert_allclose(found.log_probs, truth.log_probs, rtol=1e-5)


@pytest.mark.parametrize("state", [None, ctcx.BeamState()])
def test_the_memory_of_a_beam_is_linear_in_its_width(state):
    # A comparison of all entries with all would take 4 GiB and more.
    logits = np.random.default_rng(21).normal(size=(4, 16))
    options = {"width": 65536, "top": 65536, "exact_scores": False, "state": state}
    found = ctcx.ctc_beam_search(logits, **options, backend="array-api")
    assert found.count > 44_000
    assert np.exp(found.beam_log_probs).sum() == pytest.approx(1, abs=1e-9)


def test_a_prefix_that_left_the_beam_and_came_back_is_one_entry():
    # In a beam of 2, "ab" leaves while "aba" stays, comes back, and adds to "aba" again.
    probabilities = [
        [0.15, 0.6, 0.25],
        [0.15, 0.4, 0.45],
        [0.15, 0.65, 0.2],
        [0.1, 0.45, 0.45],
        [0.15, 0.35, 0.5],
    ]
    found = ctcx.ctc_beam_search(np.log(probabilities), width=2, top=2, exact_scores=False)
    assert found.labels.tolist() == [[1, 2, 1], [1, 2, -1]]
    np.testing.assert_allclose(np.exp(found.log_probs), [0.074486, 0.060109], atol=1e-6)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_beam_in_every_library(library):
    rng = np.random.default_rng(11)
    logits, lengths = rng.normal(size=(3, 14, 5)).astype(np.float32), [14, 0, 9]
    expected = ctcx.ctc_beam_search(logits.astype(float), lengths, top=3, width=5)
    found = ctcx.ctc_beam_search(LIBRARIES[library](logits), lengths, top=3, width=5)
    for name in ("labels", "lengths", "starts", "count"):
        assert to_lists(getattr(found, name)) == getattr(expected, name).tolist()
    np.testing.assert_allclose(to_lists(found.log_probs), expected.log_probs, rtol=1e-5, atol=1e-5)
    one = ctcx.ctc_beam_search(LIBRARIES[library](logits[0]), top=3, width=5)
    assert to_lists(one.labels) == to_lists(found.labels[0, ...])
    assert one.count.shape == ()


def test_exact_scores_are_those_of_the_loss_and_sort_the_results():
    rng = np.random.default_rng(12)
    logits = rng.normal(size=(20, 30, 6))
    found = ctcx.ctc_beam_search(logits, width=8, top=8)
    plain = ctcx.ctc_beam_search(logits, width=8, top=8, exact_scores=False)
    assert (np.diff(found.log_probs, axis=1) <= 0).all()
    assert (found.beam_log_probs <= found.log_probs + 1e-12).all()
    assert (found.beam_log_probs != plain.beam_log_probs).any()  # in another order
    np.testing.assert_array_equal(np.sort(found.beam_log_probs), np.sort(plain.beam_log_probs))
    assert (np.exp(found.log_probs).sum(axis=1) <= 1).all()
    assert (plain.starts == -1).all()
    for k in range(8):
        labels, lengths = found.labels[:, k], found.lengths[:, k]
        loss = ctcx.ctc_loss(logits, labels, None, lengths)
        np.testing.assert_allclose(found.log_probs[:, k], -loss, rtol=1e-12)
        aligned = ctcx.ctc_align(logits, labels, None, lengths)
        np.testing.assert_array_equal(found.starts[:, k], aligned.starts)


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (2, 5, 1), (0, 3), (0, 0, 2)])
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_beam_of_nothing(library, shape):
    found = ctcx.ctc_beam_search(LIBRARIES[library](np.zeros(shape, dtype=np.float32)), top=2)
    rows = shape[:-2]
    assert found.labels.shape == (*rows, 2, 0)
    # The empty result, with probability 1.
    lengths, log_probs = (np.asarray(to_lists(a)) for a in (found.lengths, found.log_probs))
    assert (lengths.reshape(-1, 2) == [0, -1]).all()
    assert (log_probs.reshape(-1, 2) == [0, -np.inf]).all()
    assert (np.asarray(to_lists(found.count)) == 1).all()


def test_a_wrong_length_is_marked_where_there_are_no_frames_at_all():
    logits, lengths = np.zeros((3, 0, 4)), np.array([0, 1, -1])
    for options in ({}, {"boost": {(1,): 1.0}}):
        found = ctcx.ctc_beam_search(logits, lengths, exact_scores=False, validate=False, **options)
        assert np.isnan(found.log_probs[:, 0]).tolist() == [False, True, True]
        assert found.count.tolist() == [1, 0, 0]


def test_a_beam_never_says_a_masked_class_and_may_find_nothing():
    logits = np.zeros((2, 3, 4))
    logits[0, :, 2] = -np.inf
    logits[1, 1] = -np.inf
    found = ctcx.ctc_beam_search(logits, width=30, top=30)
    assert 2 not in found.labels[0]
    assert found.count.tolist() == [9, 0]
    assert (found.log_probs[1] == -np.inf).all()


def test_equal_candidates_have_an_order():
    labels = ctcx.ctc_beam_search(np.zeros((1, 4)), width=9, top=4, blank=1).labels
    assert labels.tolist() == [[-1], [0], [2], [3]]
    only = ctcx.ctc_beam_search(np.zeros((1, 4)), width=9, top=4, blank=1, max_classes=1)
    assert only.labels.tolist() == [[-1], [0], [-1], [-1]]
    assert int(only.count) == 2


def test_far_less_probable_prefixes_stay_while_there_is_room():
    logits = np.array([[-400.0, 0.0, -np.inf], [-400.0, -np.inf, 0.0]], dtype=np.float32)
    truth = {(1, 2): 0.0, (1,): -400.0, (2,): -400.0, (): -800.0}
    for library in ("numpy", "torch", "jax"):
        found = ctcx.ctc_beam_search(LIBRARIES[library](logits), top=4)
        assert int(found.count) == 4
        for k, (labels, log_prob) in enumerate(truth.items()):
            assert tuple(to_lists(found.labels[k, : len(labels)])) == labels
            assert float(found.beam_log_probs[k]) == pytest.approx(log_prob)


def test_thousands_of_classes_are_found_by_groups():
    rng = np.random.default_rng(13)
    logits = rng.normal(size=(1, 6, 3001), scale=0.2).astype(np.float32)
    logits[0, :, ::7] = logits[0, :, 1::7][:, : logits[0, :, ::7].shape[1]]  # ties
    truth = prefix_beams(logits, [6], 3, width=4, top=4)
    for library in ("numpy", "torch", "jax"):
        given_logits = LIBRARIES[library](logits)
        found = ctcx.ctc_beam_search(given_logits, width=4, top=4, blank=3, exact_scores=False)
        np.testing.assert_allclose(to_lists(found.log_probs), truth.log_probs, rtol=1e-5)


WRONG_BEAMS = {
    "width 0": ({"width": 0}, "width", "positive integer; got 0"),
    "width of 2^31": ({"width": 2**31}, "width", "2147483648: expected at most 2147483647"),
    "top of 2^31": ({"top": 2**31}, "top", "2147483648: expected at most 2147483647"),
    "lm_weight without lm": ({"lm_weight": -1}, "lm_weight", "lm_weight is -1: expected 0 or more"),
    "label_bonus of two": ({"label_bonus": np.ones(2)}, "label_bonus", "must be a number"),
    "width of text": ({"width": "all"}, "width", "positive integer; got 'all'"),
    "top 0": ({"top": 0}, "top", "positive integer"),
    "top above width": ({"top": 5, "width": 4}, "top", "top is 5, but a beam of width 4"),
    "max_classes 0": ({"max_classes": 0}, "max_classes", "positive integer or None"),
    "exact_scores": ({"exact_scores": 1}, "exact_scores", "True or False"),
    "blank": ({"blank": 3}, "blank", "blank"),
    "lengths": ({"logit_lengths": [5]}, "logit_lengths", "expected 0 to 4"),
}


@pytest.mark.parametrize("kind", WRONG_BEAMS)
def test_a_beam_refuses_wrong_options(kind):
    options, argument, message = WRONG_BEAMS[kind]
    with pytest.raises(ctcx.CTCInputError, match=message) as caught:
        ctcx.ctc_beam_search(LOGITS[None], **options)
    assert caught.value.argument == argument
    if kind not in {"blank", "lengths"}:
        with pytest.raises(ctcx.CTCInputError, match=message):
            ctcx.ctc_beam_search(jnp.asarray(LOGITS[None]), **options)


def test_a_beam_refuses_wrong_logits_in_the_words_of_the_loss():
    bad = np.zeros((2, 4, 3))
    bad[1, 2, 0] = np.inf
    with pytest.raises(ctcx.CTCInputError, match=r"logits\[1, 2, 0\] is inf .sequence 1, frame 2"):
        ctcx.ctc_beam_search(bad)


@pytest.mark.parametrize("enabled", [False, True])
def test_a_beam_under_jax(enabled):
    with jax.enable_x64(enabled):
        rng = np.random.default_rng(15)
        logits, lengths = rng.normal(size=(3, 20, 6)).astype(np.float32), np.array([20, 7, 12])
        expected = ctcx.ctc_beam_search(logits, lengths, width=4, top=2)
        arrays = (jnp.asarray(logits), jnp.asarray(lengths))
        call = functools.partial(ctcx.ctc_beam_search, width=4, top=2)
        found = jax.jit(call)(*arrays)
        assert found.labels.shape == (3, 2, 20)
        width = expected.labels.shape[2]
        for name in ("labels", "starts"):
            np.testing.assert_array_equal(
                getattr(found, name)[:, :, :width], getattr(expected, name)
            )
        np.testing.assert_array_equal(found.lengths, expected.lengths)
        np.testing.assert_allclose(found.log_probs, expected.log_probs, rtol=1e-5)
        plain = ctcx.ctc_beam_search(logits, lengths, width=4, top=2, exact_scores=False)
        mapped = jax.vmap(functools.partial(call, exact_scores=False))(*arrays)
        np.testing.assert_allclose(mapped.log_probs, plain.log_probs, rtol=1e-5)


def test_a_beam_in_torch_operators():
    rng = np.random.default_rng(16)
    logits, lengths = torch.tensor(rng.normal(size=(3, 20, 6))), torch.tensor([20, 7, 12])
    expected = ctcx.ctc_beam_search(logits, lengths, width=4, top=2)
    width = expected.labels.shape[2]

    def call(*arrays):
        return ctcx.ctc_beam_search(*arrays, width=4, top=2)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for found in (compiled(logits, lengths), torch.func.vmap(call)(logits, lengths)):
        torch.testing.assert_close(found.labels[:, :, :width], expected.labels)
        torch.testing.assert_close(found.starts[:, :, :width], expected.starts)
        for name in ("lengths", "log_probs", "beam_log_probs", "count"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name))


def test_long_beams_keep_their_digits():
    rng = np.random.default_rng(17)
    logits = rng.normal(size=(1, 1500, 4), scale=3.0).astype(np.float32)
    truth = prefix_beams(logits, [1500], 0, width=3, top=1)
    for library in ("numpy", "torch", "jax"):
        found = ctcx.ctc_beam_search(LIBRARIES[library](logits), width=3, exact_scores=False)
        assert float(found.log_probs[0, 0]) == pytest.approx(truth.log_probs[0, 0], rel=1e-5)


@pytest.mark.parametrize(
    "result", ["(found * 0, log_probs)", "(found, log_probs * np.nan)", "(found, log_probs + 9)"]
)
def test_a_beam_kernel_that_returns_what_can_not_be_is_named(plugins, result):
    plugins.write("wrong", WRONG_PLUGIN.format(operation="beam_search", result=result))
    plugins.load()
    with pytest.raises(ctcx.KernelError, match="labels or log_probs for sequence 0"):
        ctcx.ctc_beam_search(LOGITS, backend="wrong")


def test_the_example_reads_six_of_eight_lines_and_doubts_the_others(capsys):
    example = Path(__file__).parents[1] / "docs/examples/decode_lines.py"
    runpy.run_path(str(example), run_name="__main__")
    printed = capsys.readouterr().out
    assert printed.count(", right") == printed.count("<- as written") == 6
    assert printed.count(", wrong") == 2
    assert "  0.109  'hot coffoe'" in printed
