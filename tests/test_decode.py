"""Decoders as callers see them: results, errors, and other libraries."""

import itertools
import math

import array_api_strict
import numpy as np
import pytest

import ctcx
from ctcx._inputs.host_data import to_lists
from ctcx._reference.decoding import best_classes, enumerate_labels, merged
from tests.helpers import optional

torch, jax, jnp = optional("torch"), optional("jax"), optional("jax.numpy")
LOGITS = np.log([[0.8, 0.1, 0.1], [0.1, 0.7, 0.2], [0.1, 0.8, 0.1], [0.3, 0.1, 0.6]])
LIBRARIES = {
    "numpy": lambda a: a,
    "torch": lambda a: torch.tensor(a),
    "jax": lambda a: jnp.asarray(a),
    "strict": lambda a: array_api_strict.asarray(a, device=array_api_strict.Device("device1")),
}


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


def test_a_kernel_that_returns_what_can_not_be_is_named(monkeypatch):
    from ctcx._core import greedy

    right = greedy.greedy
    for change in (lambda c, p: (c + 9, p), lambda c, p: (c, p * np.nan), lambda c, p: (c, p + 9)):
        monkeypatch.setattr(greedy, "greedy", lambda *a, _c=change, **k: _c(*right(*a, **k)))
        from ctcx._plugins.targets import load_target

        load_target.cache_clear()
        with pytest.raises(ctcx.KernelError, match="classes or log_probs for sequence 0"):
            ctcx.ctc_greedy(LOGITS, backend="array-api")
    monkeypatch.undo()
    load_target.cache_clear()
