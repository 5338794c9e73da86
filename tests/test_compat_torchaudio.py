"""``ctcx.compat.torchaudio``: by hand, by enumeration, and by the rules in torchaudio's source.

torchaudio itself isn't here: its package for PyPI needs PyTorch's for CUDA. What its CPU kernel
prefers where sums are equal is written down in ``by_rule``.
"""

import dataclasses
import inspect
import itertools
import math

import array_api_strict
import numpy as np
import pytest

import ctcx
from ctcx.compat.torchaudio import TokenSpan, forced_align, merge_tokens
from tests.helpers import optional, random_problem

torch, jax, jnp = optional("torch"), optional("jax"), optional("jax.numpy")

# Probabilities in which label 2 in frame 2 may come from label 1 or from the blank: 0.45 each.
TIE = np.log([[[0.1, 0.8, 0.1], [0.45, 0.45, 0.1], [0.1, 0.1, 0.8]]])


def by_rule(log_probs, targets, rule):
    """Path of torchaudio's CPU kernel for one sequence: states over frames, blank 0.

    ``"2.9"`` goes on from the state before, or from two before, only if that beats both others;
    ``"main"`` has "at least as good as two before" for the state before.
    """
    frames, states = len(log_probs), [0]
    for label in targets:
        states += [label, 0]
    alpha = np.full(len(states), -np.inf)
    alpha[:2] = log_probs[0, states[:2]]
    back = []
    for t in range(1, frames):
        came, new = [], np.full(len(states), -np.inf)
        for s, label in enumerate(states):
            stay = alpha[s]
            one = alpha[s - 1] if s else -np.inf
            skips = s % 2 == 1 and s > 1 and label != states[s - 2]
            two = alpha[s - 2] if skips else -np.inf
            step = 0
            if two > one and two > stay:
                step = 2
            elif one > stay and (rule == "main" or one > two):
                step = 1
            came.append(step)
            new[s] = (stay, one, two)[step] + log_probs[t, label]
        back.append(came)
        alpha = new
    state = len(states) - 1 if alpha[-1] > alpha[-2] else len(states) - 2
    path = [state]
    for came in reversed(back):
        path.append(path[-1] - came[path[-1]])
    return [states[s] for s in reversed(path)]


def best_by_enumeration(log_probs, targets, blank):
    """Score of the best of all paths."""
    frames, classes = log_probs.shape
    return max(
        sum(log_probs[t, k] for t, k in enumerate(path))
        for path in itertools.product(range(classes), repeat=frames)
        if [k for k, _ in itertools.groupby(path) if k != blank] == list(targets)
    )


def test_the_signatures_are_torchaudios():
    def parameters(function):
        return [(p.name, p.default) for p in inspect.signature(function).parameters.values()]

    needed = inspect.Parameter.empty
    assert parameters(forced_align) == [
        ("log_probs", needed),
        ("targets", needed),
        ("input_lengths", None),
        ("target_lengths", None),
        ("blank", 0),
    ]
    assert parameters(merge_tokens) == [("tokens", needed), ("scores", needed), ("blank", 0)]
    assert [field.name for field in dataclasses.fields(TokenSpan)] == [
        "token",
        "start",
        "end",
        "score",
    ]


def test_worked_by_hand():
    p = np.asarray([[[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6]]])
    tokens, scores = forced_align(np.log(p), np.asarray([[1, 2]], dtype=np.int32))
    assert tokens.tolist() == [[0, 1, 1, 2]]
    assert tokens.dtype == np.int32
    np.testing.assert_allclose(np.exp(scores), [[0.7, 0.8, 0.6, 0.6]])
    spans = merge_tokens(tokens[0], scores[0])
    assert [(span.token, span.start, span.end, len(span)) for span in spans] == [
        (1, 1, 3, 2),
        (2, 3, 4, 1),
    ]
    assert spans[0].score == pytest.approx((math.log(0.8) + math.log(0.6)) / 2)
    assert spans[1] == TokenSpan(2, 3, 4, math.log(0.6))


@pytest.mark.parametrize("targets", [[], [1], [1, 1], [1, 3], [2, 1, 2], [3, 3, 1], [1, 1, 1]])
@pytest.mark.parametrize("blank", [0, -2])
def test_no_path_of_the_targets_has_a_better_score(targets, blank):
    rng = np.random.default_rng(len(targets))
    log_probs = np.log(rng.dirichlet(np.ones(4), size=5))
    log_probs = np.roll(log_probs, blank, axis=1)
    targets = [(k + blank) % 4 for k in targets]
    given = np.asarray([targets], dtype=np.int64)
    tokens, scores = forced_align(log_probs[None], given, blank=blank)
    merged = merge_tokens(tokens[0], scores[0], blank % 4)
    assert [span.token for span in merged] == targets
    np.testing.assert_array_equal(scores[0], log_probs[range(5), tokens[0]])
    best = best_by_enumeration(log_probs, targets, blank % 4)
    assert float(scores.sum()) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("seed", range(40))
def test_where_sums_are_equal_the_path_is_that_of_the_corrected_rule(seed):
    rng = np.random.default_rng(seed)
    log_probs = -rng.integers(1, 6, size=(9, 4)) / 4  # whose sums are exact
    targets = rng.integers(1, 4, size=int(rng.integers(1, 5)))
    tokens, _ = forced_align(log_probs[None], targets[None])
    assert tokens[0].tolist() == by_rule(log_probs, targets.tolist(), "main")


def test_a_tie_that_torchaudio_2_9_loses():
    assert by_rule(TIE[0], [1, 2], "2.9") == [1, 2, 2]  # 0.8 * 0.1 * 0.8
    tokens, scores = forced_align(TIE, np.asarray([[1, 2]]))
    assert tokens.tolist() == [[1, 0, 2]] == [by_rule(TIE[0], [1, 2], "main")]
    assert math.exp(scores.sum()) == pytest.approx(0.8 * 0.45 * 0.8)


def test_a_batch_is_its_sequences_with_their_lengths():
    logits, targets, frames, counts = random_problem(5, 4, 30, 6, 5)
    frames[1], counts[2] = 30, 0
    log_probs = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
    # Padding is ignored, also where it is no number and no class.
    log_probs[np.arange(30) >= frames[:, None]] = np.nan
    targets[np.arange(5) >= counts[:, None]] = -7
    tokens, scores = forced_align(log_probs, targets, frames, counts)
    assert tokens.shape == scores.shape == (4, 30)
    assert scores.dtype == np.float32
    for n, (t, s) in enumerate(zip(frames, counts, strict=True)):
        alone, alone_scores = forced_align(log_probs[n : n + 1, :t], targets[n : n + 1, :s])
        np.testing.assert_array_equal(tokens[n, :t], alone[0])
        np.testing.assert_array_equal(scores[n, :t], alone_scores[0])
        assert (tokens[n, t:] == 0).all()
        assert (scores[n, t:] == 0).all()
        found = [span.token for span in merge_tokens(tokens[n], scores[n])]
        assert found == targets[n, :s].tolist()
    again = forced_align(log_probs, targets, frames.tolist(), counts.tolist())
    np.testing.assert_array_equal(again[0], tokens)


def test_scores_are_the_values_that_were_passed():
    """A column of zeros for anything at all, as the models of MMS have it, is no distribution."""
    star = np.concatenate([TIE, np.zeros((1, 3, 1))], axis=2)
    tokens, scores = forced_align(star, np.asarray([[1, 3]]))
    assert tokens.tolist() == [[1, 3, 3]]
    np.testing.assert_array_equal(scores, [[star[0, 0, 1], 0, 0]])


LIBRARIES = {
    "numpy float16": (np.float16, lambda a: a),
    "torch bfloat16": (np.float32, lambda a: torch.tensor(a)),
    "torch float64": (np.float64, lambda a: torch.tensor(a)),
    "jax float32": (np.float32, lambda a: jnp.asarray(a)),
    "strict float32": (
        np.float32,
        lambda a: array_api_strict.asarray(a, device=array_api_strict.Device("device1")),
    ),
}


@pytest.mark.parametrize("name", LIBRARIES)
def test_libraries_and_dtypes(name):
    dtype, convert = LIBRARIES[name]
    log_probs, targets = convert(TIE.astype(dtype)), convert(np.asarray([[1, 2]], dtype=np.int32))
    if name == "torch bfloat16":
        log_probs = log_probs.to(torch.bfloat16)
    tokens, scores = forced_align(log_probs, targets)
    assert type(tokens) is type(scores) is type(log_probs)
    assert tokens.dtype == targets.dtype
    assert scores.dtype == log_probs.dtype
    assert tokens.device == log_probs.device
    first, last = merge_tokens(tokens[0, ...], scores[0, ...])
    assert (first.token, first.start, first.end) == (1, 0, 1)
    assert (last.token, last.start, last.end) == (2, 2, 3)
    assert last.score == pytest.approx(math.log(0.8), abs=2e-3)
    wide, _ = forced_align(log_probs, np.asarray([[1, 2]]), np.asarray([3]))
    assert str(wide.dtype).rpartition(".")[2] == ("int32" if "jax" in name else "int64")


def test_gradients_go_to_the_values_on_the_path():
    log_probs = torch.tensor(np.repeat(TIE, 2, axis=0), requires_grad=True)
    tokens, scores = forced_align(log_probs, torch.tensor([[1, 2], [1, 2]]), [3, 2])
    assert not tokens.requires_grad
    scores.sum().backward()
    expected = np.zeros((2, 3, 3))
    for n, path in enumerate([[1, 0, 2], [1, 2]]):
        expected[n, range(len(path)), path] = 1
    np.testing.assert_array_equal(log_probs.grad.numpy(), expected)


def test_it_compiles_in_one_graph():
    log_probs, targets = torch.tensor(TIE), torch.tensor([[1, 2]])
    compiled = torch.compile(forced_align, fullgraph=True, backend="aot_eager")
    tokens, scores = compiled(log_probs, targets)
    assert tokens.tolist() == [[1, 0, 2]]
    assert torch.equal(scores, forced_align(log_probs, targets)[1])


def test_under_jit_an_impossible_sequence_is_marked():
    log_probs = jnp.asarray(np.repeat(TIE, 2, axis=0))
    targets = jnp.asarray([[1, 2], [1, 2]])
    tokens, scores = jax.jit(forced_align)(log_probs, targets, jnp.asarray([2, 1]))
    assert tokens.tolist() == [[1, 2, 0], [-1, -1, -1]]
    assert (scores[1] == -jnp.inf).all()
    assert merge_tokens(tokens[1], scores[1]) == []


def test_impossible_targets_say_how_many_frames_are_needed():
    with pytest.raises(ctcx.InfeasibleError, match="need at least 4 frames") as caught:
        forced_align(TIE, np.asarray([[1, 1, 2]]))
    assert isinstance(caught.value, RuntimeError)
    assert (caught.value.argument, caught.value.sequences) == ("targets", (0,))
    assert "Sequence 0 has 3 frames and 3 targets" in str(caught.value)
    assert str(caught.value).endswith('ctcx.ctc_align(..., infeasible="empty") goes on.')
    masked = TIE.copy()
    masked[..., 2] = -np.inf
    with pytest.raises(ctcx.InfeasibleError, match=r"log_probs of -inf, .* forbid them"):
        forced_align(masked, np.asarray([[1, 2]]))
    assert forced_align(TIE, np.zeros((1, 0), dtype=np.int64))[0].tolist() == [[0, 0, 0]]


ONE = np.asarray([[1, 2]])
WRONG = {
    "rank": ((TIE[0], ONE), "log_probs must have shape (B, T, C); got shape (3, 3)"),
    "targets": ((TIE, ONE[0]), "targets must have shape (B, L); got shape (2,)"),
    "list": ((TIE, [[1, 2]]), "targets must have shape (B, L); got a list"),
    "floats": ((TIE, ONE * 1.0), "targets must have an integer dtype"),
    "integers": ((TIE.astype(int), ONE), "log_probs must"),
    "batch": ((TIE, np.ones((2, 2), dtype=int)), "targets must have shape"),
    "class": ((TIE, ONE + 1), "targets[0, 1] is 3"),
    "negative": ((TIE, ONE - 2), "targets[0, 0] is -1"),
    "blank in targets": ((TIE, ONE - 1), "targets[0, 0] is 0"),
    "blank": ((TIE, ONE, None, None, 3), "blank"),
    "input_lengths": ((TIE, ONE, [4]), "input_lengths[0] is 4"),
    "target_lengths": ((TIE, ONE, [3], [3]), "target_lengths[0] is 3"),
    "float lengths": ((TIE, ONE, np.asarray([3.0])), "input_lengths must have an integer dtype"),
    "NaN": ((TIE * np.nan, ONE), "log_probs"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_call_is_an_error_in_the_terms_of_the_caller(kind):
    arguments, says = WRONG[kind]
    with pytest.raises(ctcx.CTCInputError) as caught:
        forced_align(*arguments)
    assert says in str(caught.value)
    assert str(caught.value).startswith(caught.value.argument)
    assert isinstance(caught.value, RuntimeError)
    assert isinstance(caught.value, ValueError)


def test_merging():
    scores = -np.arange(1.0, 8.0)
    tokens = np.asarray([3, 3, 0, 3, 2, 2, 0])
    assert merge_tokens(tokens, scores) == [
        TokenSpan(3, 0, 2, -1.5),
        TokenSpan(3, 3, 4, -4.0),
        TokenSpan(2, 4, 6, -5.5),
    ]
    assert merge_tokens(tokens, scores, blank=3) == [
        TokenSpan(0, 2, 3, -3.0),
        TokenSpan(2, 4, 6, -5.5),
        TokenSpan(0, 6, 7, -7.0),
    ]
    assert merge_tokens(tokens[:0], scores[:0]) == []
    assert merge_tokens(tokens[2:3], scores[:1]) == []
    assert merge_tokens(np.asarray([-1, 2, -1]), scores[:3]) == [TokenSpan(2, 1, 2, -2.0)]
    for arguments, says in (
        (
            (tokens[None], scores),
            "tokens must have shape (T,): pass one sequence; got shape",
        ),
        ((tokens, scores[None]), "scores must have shape (T,)"),
        ((tokens, scores[1:]), "scores must have shape (7,), as tokens have; got shape (6,)"),
        ((tokens.tolist(), scores), "tokens must have shape (T,): pass one sequence; got a list"),
        ((tokens, scores, -1), "blank must be the class of the blank, from 0; got -1"),
        ((tokens, scores, 0.5), "blank must be the class"),
    ):
        with pytest.raises(ctcx.CTCInputError) as caught:
            merge_tokens(*arguments)
        assert says in str(caught.value)
        assert str(caught.value).startswith(caught.value.argument)
