"""Alignments as callers see them: results, policies, errors, wildcards, and other libraries."""

import itertools
import math
import runpy
from pathlib import Path

import array_api_strict
import numpy as np
import pytest

import ctcx
from ctcx.conformance.oracle import best_paths, enumerate_best_paths
from tests.helpers import optional, random_problem, to_lists

torch, jax, jnp = optional("torch"), optional("jax"), optional("jax.numpy")
ROOT = Path(__file__).parents[1]
LOGITS = np.log([[0.9, 0.1, 1e-9], [0.2, 0.8, 1e-9], [0.1, 0.3, 0.6], [0.7, 0.1, 0.2]])
LIBRARIES = {
    "numpy": lambda a: a,
    "torch": lambda a: torch.tensor(a),
    "jax": lambda a: jnp.asarray(a),
    "strict": lambda a: array_api_strict.asarray(a, device=array_api_strict.Device("device1")),
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_one_sequence_drops_the_batch_axis(library):
    found = ctcx.ctc_align(LIBRARIES[library](LOGITS.astype(np.float32)), [1, 2])
    assert [array.shape for array in found] == [(4,), (4,), (2,), (2,), (4,), (2,), (), ()]
    assert ctcx.spans(found)[1][:4] == (2, None, 2, 3)
    assert ctcx.spans(found)[1].log_prob == pytest.approx(math.log(0.6), abs=1e-6)
    assert float(found.score) == pytest.approx(math.log(0.9 * 0.8 * 0.6 * 0.7), abs=1e-6)


def test_the_score_is_that_of_the_best_path_by_all_class_paths():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 4))
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    for labels in ([], [1], [1, 1], [3, 1, 2], [1, 2, 1, 2], [1, 1, 1]):
        best = -np.inf
        for path in itertools.product(range(4), repeat=5):
            if [k for k, _ in itertools.groupby(path) if k] == labels:
                best = max(best, sum(log_probs[t, k] for t, k in enumerate(path)))
        score = ctcx.ctc_align(logits, labels).score
        assert float(score) == pytest.approx(best, abs=1e-12)
        assert score <= -ctcx.ctc_loss(logits, labels) + 1e-12


@pytest.mark.parametrize("seed", range(60))
def test_the_two_references_agree(seed):
    rng = np.random.default_rng(seed)
    frames, count = int(rng.integers(0, 7)), int(rng.integers(0, 4))
    logits = rng.integers(-1, 2, size=(1, frames, 4)).astype(float)
    logits[rng.random(logits.shape) < 0.1] = -np.inf
    problem = (logits, rng.integers(1, 4, size=(1, count)), [frames], [count], 0)
    extra = rng.integers(-1, 2, size=(1, frames, 2)).astype(float)
    for more in ({}, {"extra": extra, "ends": (4, 5)}):
        found, listed = best_paths(*problem, **more), enumerate_best_paths(*problem, **more)
        np.testing.assert_array_equal(found.states, listed.states)
        np.testing.assert_array_equal(found.score, listed.score)


def test_ties_have_an_order():
    equal = np.zeros((6, 3))
    # The last label before the last blank; staying before one back, that before two.
    assert ctcx.ctc_align(equal, [1, 2]).states.tolist() == [1, 3, 3, 3, 3, 3]
    assert ctcx.ctc_align(equal, [1, 1]).states.tolist() == [1, 2, 3, 3, 3, 3]
    assert ctcx.ctc_align(equal, []).states.tolist() == [0] * 6


def test_infeasible_says_how_many_frames_are_needed():
    with pytest.raises(ctcx.InfeasibleError, match=r"Sequence 1 has 4 frames and 3 labels: they "):
        ctcx.ctc_align(np.zeros((2, 4, 3)), [[1], [1, 1, 1]])
    with pytest.raises(ctcx.InfeasibleError, match=r"need at least 5 frames .*\"empty\" goes on"):
        ctcx.ctc_align(np.zeros((2, 4, 3)), [[1], [1, 1, 1]])
    masked = np.zeros((1, 4, 3))
    masked[..., 1] = -np.inf
    with pytest.raises(ctcx.InfeasibleError, match="-inf") as caught:
        ctcx.ctc_align(masked, [[1]])
    assert caught.value.sequences == (0,)
    found = ctcx.ctc_align(masked, [[1]], infeasible="empty")
    assert (found.states == -1).all()
    assert (found.starts == -1).all()
    assert found.score[0] == -np.inf
    assert not found.feasible[0]
    assert ctcx.spans(found) == []


def test_lists_lengths_and_axes():
    logits, labels, frames, counts = random_problem(3, 4, 30, 6, 5)
    batch = ctcx.ctc_align(logits, labels, frames, counts, infeasible="empty")
    turned = ctcx.ctc_align(
        logits.transpose(1, 0, 2), labels, frames, counts, time_major=True, infeasible="empty"
    )
    lists = [row[:count].tolist() for row, count in zip(labels, counts, strict=True)]
    by_list = ctcx.ctc_align(logits, lists, frames.tolist(), infeasible="empty")
    for name in ("states", "classes", "log_probs", "score"):
        np.testing.assert_array_equal(getattr(turned, name), getattr(batch, name))
        np.testing.assert_array_equal(getattr(by_list, name), getattr(batch, name))
    half = ctcx.ctc_align(logits.astype(np.float16), labels, frames, counts, infeasible="empty")
    assert half.log_probs.dtype == np.float32
    last = ctcx.ctc_align(
        np.roll(logits, -1, axis=2), labels - 1, frames, counts, blank=-1, infeasible="empty"
    )
    np.testing.assert_array_equal(last.states, batch.states)


WRONG = {
    "wildcards": {
        "a list": ([-2], "must be a dict of labels below -1"),
        "a class": ({2: ("any", 0.0)}, "has the label 2: expected an int below -1"),
        "padding": ({-1: ("any", 0.0)}, "has the label -1"),
        "no price": ({-2: "any"}, r"wildcards\[-2\] must be \(kind, price\)"),
        "a kind": ({-2: ("all", 0.0)}, "kind 'all': expected one of 'any', 'best', 'free'"),
        "no set": ({-2: (3, 0.0)}, "kind 3: expected one of"),
        "empty": ({-2: (set(), 0.0)}, "empty set"),
        "no class": ({-2: ({3}, 0.0)}, "has the class 3: expected 0 to 2"),
        "too much for float32": ({-2: ("any", 3.5e38)}, "got 3.5e.38"),
        "NaN": (
            {-2: ("any", math.nan)},
            "price of .* must be a number from -1e.30 to 1e.30",
        ),
    },
    "free_ends": {
        "three": ((1, 2, 3), "a number or a pair"),
        "text": ("free", "must be a number"),
        "infinite": (math.inf, "-1e.30 to 1e.30"),
    },
    "infeasible": {"inf": ("inf", "one of 'raise', 'empty'")},
    "time_major": {"a number": (1, "must be True or False")},
    "validate": {"a number": (1, "must be True or False")},
}


@pytest.mark.parametrize(
    ("argument", "kind"), [(name, kind) for name, kinds in WRONG.items() for kind in kinds]
)
def test_wrong_options(argument, kind):
    value, message = WRONG[argument][kind]
    with pytest.raises(ctcx.CTCInputError, match=message) as caught:
        ctcx.ctc_align(LOGITS, [1, 2], **{argument: value})
    assert caught.value.argument == argument


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_label_that_is_no_wildcard(library):
    logits = LIBRARIES[library](LOGITS[None].astype(np.float32))
    for label in (-3, 3, 4):  # a wildcard's column is no class that callers may name
        with pytest.raises(ctcx.CTCInputError, match=rf"is {label} .*or a wildcard \(-2\)"):
            ctcx.ctc_align(logits, [[1, label]], wildcards={-2: ("any", 0.0)})


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_wildcard_of_all_classes_but_the_blank_is_a_label_of_their_sum(library):
    logits = LOGITS.astype(np.float32)
    found = ctcx.ctc_align(LIBRARIES[library](logits), [-7], wildcards={-7: ("any", -0.5)})
    merged = np.log([[0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [0.7, 0.3]])
    expected = merged - [0, 0.5]
    best = max(
        expected[np.arange(4), [0, 1, 1, 0]].sum(), expected[np.arange(4), [0, 0, 1, 0]].sum()
    )
    assert float(found.score) == pytest.approx(best, abs=1e-5)
    assert to_lists(found.states) == [0, 1, 1, 2]
    assert to_lists(found.classes) == [0, 1, 2, 0]


def test_free_ends_and_a_free_wildcard_have_no_class():
    found = ctcx.ctc_align(LOGITS, [1, -2], wildcards={-2: ("free", -0.01)}, free_ends=(0.0, -9.0))
    assert found.classes.tolist() == [-2, 1, -2, -2]
    np.testing.assert_allclose(found.log_probs, [0, math.log(0.8), -0.01, -0.01], atol=1e-7)
    assert [span.label for span in ctcx.spans(found, tokens="_ab")] == [1, -2]
    assert ctcx.spans(found, tokens="_ab")[1].token is None
    assert ctcx.spans(found, tokens={1: "a", -2: "?"})[1].token == "?"


@pytest.mark.parametrize("ends", [(None, -0.3), (-0.3, None), (-0.3, -1.5)])
def test_each_end_is_free_at_its_own_price_or_is_not(ends):
    log_probs = np.log(np.random.default_rng(3).dirichlet([0.4] * 3, size=6))
    found = ctcx.ctc_align(log_probs, [1, 2], free_ends=ends)
    scores = []
    for path in itertools.product(range(3), repeat=6):
        if [label for label, _ in itertools.groupby(path) if label] != [1, 2]:
            continue
        first, last = path.index(1), 5 - path[::-1].index(2)
        price = log_probs[range(6), path].copy()
        for frames, end in ((slice(first), ends[0]), (slice(last + 1, 6), ends[1])):
            if end is not None:
                price[frames] = end
        scores.append(price.sum())
    assert float(found.score) == pytest.approx(max(scores), abs=1e-12)
    states, classes = found.states, found.classes
    assert (classes[states == 0] == (0 if ends[0] is None else -2)).all()
    assert (classes[states == 4] == (0 if ends[1] is None else -2)).all()
    assert ctcx.ctc_align(log_probs, [1, 2], free_ends=(None, None)).score == pytest.approx(
        float(ctcx.ctc_align(log_probs, [1, 2]).score), abs=1e-12
    )


def test_a_set_of_classes_far_below_the_others_keeps_its_digits():
    logits = np.array([[300.0, 0.0, -1.0]] * 3, dtype=np.float32)
    found = ctcx.ctc_align(logits, [-2], wildcards={-2: ({1, 2}, 0.0)})
    assert float(found.score) == pytest.approx(-300 + math.log(1 + math.exp(-1)), rel=1e-6)


def test_an_error_for_infeasible_labels_names_what_forbids_them():
    price = {"wildcards": {-2: ("any", -math.inf)}}
    with pytest.raises(ctcx.InfeasibleError, match=r"logits or prices of -inf, .* forbid them"):
        ctcx.ctc_align(LOGITS, [-2], **price)
    # Wrong values that nobody checks are no reason: they are marked by NaN, as losses are.
    wrong = np.where(LOGITS.max() == LOGITS, np.nan, LOGITS)
    assert math.isnan(ctcx.ctc_align(wrong, [1], validate=False).score)


@pytest.mark.parametrize("library", ["numpy", "jax"])  # with float64, and by default without
def test_what_all_logits_of_a_frame_have_in_common_changes_nothing_beside_wildcards(library):
    make = LIBRARIES[library]
    free = {"wildcards": {-2: ("free", 0.0)}}
    # Rounding of like frames would add up.
    row = np.array([9.3, -11.7, 20.21, 3.1], dtype=np.float32)
    silence = np.tile(row, (2000, 1))
    close = 1e-7 if library == "numpy" else 1e-3
    assert float(ctcx.ctc_align(make(silence), [-2], **free).score) == pytest.approx(0, abs=close)
    silence[1000] = [0, 12, 0, 0]
    found = ctcx.ctc_align(make(silence), [1], free_ends=0.0)
    assert float(found.score) == pytest.approx(0, abs=1e-3)
    rng = np.random.default_rng(4)
    logits = rng.integers(-8, 9, size=(500, 6)).astype(np.float32)
    labels = [1, 2, -2, 3, 4, -3, 5]
    options = {"wildcards": {-2: ("any", -0.5), -3: ({1, 2}, 0.0)}, "free_ends": -0.25}
    right = ctcx.ctc_align(logits, labels, **options)
    moved = logits + rng.choice([0.0, 1e3, 2.0**17], size=(500, 1)).astype(np.float32)
    found = ctcx.ctc_align(make(moved), labels, **options)
    assert found.states.tolist() == right.states.tolist()
    assert float(found.score) == pytest.approx(float(right.score), rel=1e-6)
    assert found.score.dtype == found.log_probs.dtype == make(moved).dtype


@pytest.mark.parametrize("library", LIBRARIES)
def test_spans_tell_wildcards_from_labels_if_they_get_the_labels(library):
    labels = [[1, -2], [2]]
    logits = LIBRARIES[library](np.stack([LOGITS, LOGITS]))
    found = ctcx.ctc_align(logits, labels, wildcards={-2: ("best", 0.0)})
    padded = LIBRARIES[library](np.asarray([[1, -2], [2, -7]]))
    for given in (labels, padded):
        spans = ctcx.spans(found, 0, labels=given)
        assert [(span.label, span.wildcard) for span in spans] == [(1, None), (2, -2)]
        assert [span.wildcard for span in ctcx.spans(found, -1, labels=given)] == [None]
    assert {span.wildcard for span in ctcx.spans(found)} == {None}


def test_spans_refuses_what_it_cannot_read():
    found = ctcx.ctc_align(LOGITS, [1, 2])
    for arguments, message in (
        (((1, 2),), "must be what ctcx.ctc_align returns"),
        ((found, 1), "n is 1: expected the number of a sequence, 0 to 0"),
        ((found, 0, "_a"), "no name for class 2"),
        ((found, 0, None, [1, 1]), r"are not those .* it has \[1, 2\] where they have \[1, 1\]"),
        ((found, 0, None, [1]), "labels are not those of the alignment"),
        ((found, 0, None, [[1, 2]]), "labels must be those that were aligned; got"),
        ((found, 0, None, 1), "labels must be those that were aligned; got 1"),
    ):
        with pytest.raises(ctcx.CTCInputError, match=message):
            ctcx.spans(*arguments)


def test_an_optional_operation_is_computed_by_the_core_unless_another_is_named():
    decision = ctcx.explain(LOGITS, [1, 2], operation="align")
    assert decision.selected.backend.name == "array-api"
    with ctcx.trace() as runs:
        ctcx.ctc_align(LOGITS, [1, 2])
    assert [(run.backend, run.operation) for run in runs] == [("array-api", "align")]


@pytest.mark.slow
def test_long_sequences_take_little_memory():
    import tracemalloc

    frames, count = 20_000, 2_000
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1, frames, 8)).astype(np.float32)
    labels = rng.integers(1, 8, size=(1, count))
    tracemalloc.start()
    ctcx.ctc_align(logits, labels)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # A byte for each state of each frame would be 80 MB.
    assert peak < 20e6


@pytest.mark.parametrize("enabled", [False, True])
def test_under_jax(enabled):
    with jax.enable_x64(enabled):
        logits, labels, frames, counts = random_problem(5, 3, 40, 6, 5)
        expected = ctcx.ctc_align(logits, labels, frames, counts, infeasible="empty")
        arrays = tuple(map(jnp.asarray, (logits, labels, frames, counts)))
        found = jax.jit(ctcx.ctc_align)(*arrays)  # "raise" can't be, under jit
        np.testing.assert_array_equal(found.states, expected.states)
        np.testing.assert_array_equal(found.starts, expected.starts)
        np.testing.assert_allclose(found.score, expected.score, rtol=1e-6)
        mapped = jax.vmap(lambda x, y, t, s: ctcx.ctc_align(x, y, t, s))(*arrays)
        np.testing.assert_array_equal(mapped.states, expected.states)
        slope = jax.grad(lambda x: ctcx.ctc_align(x, *arrays[1:], infeasible="empty").score.sum())
        assert not slope(arrays[0]).any()


def test_exported_by_jax_with_sizes_undecided():
    shapes = jax.export.symbolic_shape("n, t, s")
    count, frames, width = shapes
    arguments = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in (
            ((count, frames, 6), np.float32),
            ((count, width), np.int32),
            ((count,), np.int32),
            ((count,), np.int32),
        )
    ]
    exported = jax.export.export(jax.jit(lambda *arrays: tuple(ctcx.ctc_align(*arrays))))(
        *arguments
    )
    for n, t, s in ((3, 200, 9), (1, 7, 20)):
        logits, labels, frames, counts = random_problem(1, n, t, 6, s)
        arrays = (logits, *(array.astype(np.int32) for array in (labels, frames, counts)))
        expected = ctcx.ctc_align(*arrays, infeasible="empty")
        found = ctcx.Alignment(*exported.call(*arrays))
        for name in ("states", "classes", "starts", "ends", "feasible"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_in_torch_operators():
    logits, labels, frames, counts = map(torch.tensor, random_problem(5, 3, 40, 6, 5))
    options = {"wildcards": {-2: ({1, 2}, -1.0), -3: ("any", 0.0)}, "free_ends": (-1.0, None)}
    labels[0, 0], labels[1, 1] = -2, -3
    expected = ctcx.ctc_align(logits, labels, frames, counts, infeasible="empty", **options)

    def call(*arrays):
        return ctcx.ctc_align(*arrays, infeasible="empty", **options)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for found in (
        compiled(logits, labels, frames, counts),
        torch.func.vmap(call)(logits, labels, frames, counts),
    ):
        for name in ctcx.Alignment._fields:
            torch.testing.assert_close(getattr(found, name), getattr(expected, name))
    logits.requires_grad_()
    assert not call(logits, labels, frames, counts).score.requires_grad


def test_the_example_doubts_the_lines_that_were_misread(capsys):
    runpy.run_path(str(ROOT / "docs/examples/align_lines.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert printed.count("fits") == 6
    assert printed.count("in doubt") == 2
    assert "  k  " in printed


@pytest.fixture
def plot():
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    from ctcx import plot

    yield plot
    plt.close("all")


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_figure_shows_the_path_over_the_probabilities_of_its_states(plot, library):
    logits = LIBRARIES[library](np.stack([LOGITS[::-1], LOGITS]) + 3.0)
    found = ctcx.ctc_align(logits, [[1], [1, 2]])
    axes = plot.alignment(logits, found, 1, tokens="_ ,").axes[0]
    (image,) = axes.images
    probabilities = np.exp(LOGITS)[:, [0, 1, 0, 2, 0]].T
    np.testing.assert_allclose(image.get_array(), probabilities, atol=1e-6)
    (line,) = axes.lines
    assert line.get_xdata().tolist() == [0, 1, 2, 3]
    assert line.get_ydata().tolist() == to_lists(found.states[1, ...]) == [0, 1, 3, 4]
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == ["blank", "' '", "blank", ",", "blank"]


def test_a_figure_has_seconds_padding_left_out_and_empty_rows_for_what_no_class_says(plot):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2)
    logits = np.stack([LOGITS, np.full((4, 3), np.nan)])
    logits[1, :2] = LOGITS[:2]
    found = ctcx.ctc_align(logits, [[-2], [0]], [4, 2], blank=1, wildcards={-2: ("free", 0.0)})
    assert plot.alignment(logits, found, 1, blank=-2, frame_seconds=0.5, ax=axes[1]) is figure
    (image,) = axes[1].images
    assert image.get_array().shape == (3, 2)
    assert image.get_extent() == [0, 1, 2.5, -0.5]
    assert axes[1].lines[0].get_xdata().tolist() == [0.25, 0.75]
    assert axes[1].get_xlabel() == "seconds"
    assert [t.get_text() for t in axes[1].get_yticklabels()] == ["blank", "class 0", "blank"]
    plot.alignment(logits, found, 0, blank=1, ax=axes[0])
    rows = axes[0].images[0].get_array()
    assert rows.mask[1].all()
    assert not rows.mask[[0, 2]].any()
    assert axes[0].get_yticklabels()[1].get_text() == "free"
    named = plot.alignment(logits, found, 0, blank=1, tokens={-2: "?"}).axes[0]
    assert named.get_yticklabels()[1].get_text() == "?"


def test_a_figure_refuses_what_does_not_belong_together(plot):
    found = ctcx.ctc_align(LOGITS, [1, 2])
    empty = ctcx.ctc_align(LOGITS[:1], [1, 2], infeasible="empty")
    for arguments, options, says in (
        ((LOGITS, tuple(found)), {}, "found must be what ctcx.ctc_align returns; got tuple"),
        ((LOGITS[:3], found), {}, "must have shape (4, C), as the alignment has; got (3, 3)"),
        ((LOGITS.tolist(), found), {}, "got list"),
        ((LOGITS, found, 1), {}, "sequence is 1: expected 0 to 0"),
        ((LOGITS, found, ["_", "a"]), {}, "sequence is ['_', 'a']: expected 0 to 0"),
        ((LOGITS[:1], empty), {}, "sequence 0 has no path to plot"),
        ((LOGITS, found), {"blank": 3}, "blank must be a class, of 3; got 3"),
        ((LOGITS, found), {"tokens": "ab"}, "tokens has no name for class 2"),
        ((LOGITS, found), {"frame_seconds": 0}, "frame_seconds must be a positive number; got 0"),
    ):
        with pytest.raises(ctcx.CTCInputError) as caught:
            plot.alignment(*arguments, **options)
        assert says in str(caught.value)
        assert caught.value.argument in str(caught.value)
