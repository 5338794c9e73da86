"""``ctcx.compat.tensorflow`` beside TensorFlow itself, in the same process on the same inputs."""

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import ctcx
from ctcx.compat import tensorflow as compat
from ctcx.conformance.oracle import reference
from ctcx.data.bundled import notebook_fixture
from tests.frameworks.problems import SETTINGS, assert_right, assert_same, problems
from tests.test_compat import UNMERGED, unmerged_truth

V1 = tf.compat.v1.nn.ctc_loss
LOGITS = np.zeros((4, 2, 3), dtype=np.float32)  # (T, N, C)
LABELS, LENGTHS, FRAMES = np.asarray([[1, 2], [1, 1]]), [2, 2], [4, 4]
# To trace a function takes long, so only some examples do.
IN_GRAPH = st.sampled_from([False] * 4 + [True])


def answer(function, logits, *, weights=None, graph=False):
    """Loss and gradient, each sequence weighed, in eager mode or in a ``tf.function``."""

    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = function(x)
            total = tf.reduce_sum(loss if weights is None else loss * weights)
        return loss, tape.gradient(total, x)

    loss, grad = (tf.function(run) if graph else run)(tf.constant(logits))
    return loss.numpy(), grad.numpy()


def both(ours, theirs, problem, *, time_major, graph):
    """Answers of both, the gradients as (N, T, C)."""
    logits = problem.logits.transpose(1, 0, 2) if time_major else problem.logits
    for function in (ours, theirs):
        loss, grad = answer(function, logits, weights=problem.weights(), graph=graph)
        yield loss, grad.transpose(1, 0, 2) if time_major else grad


def sparse(problem):
    rows = [(n, s) for n, count in enumerate(problem.lengths) for s in range(count)]
    indices = np.asarray(rows, dtype=np.int64).reshape(-1, 2)
    values = problem.labels[tuple(indices.T)].astype(np.int32)
    return tf.SparseTensor(indices, values, problem.labels.shape)


@SETTINGS
@given(problems(dtypes=("float32",), min_labels=1), st.booleans(), IN_GRAPH, st.booleans())
def test_dense_loss_and_gradient_are_those_of_tensorflow(problem, time_major, graph, negative):
    options = {
        "label_length": problem.lengths,
        "logit_length": problem.frames,
        "logits_time_major": time_major,
        "blank_index": problem.blank - (problem.logits.shape[2] if negative else 0),
    }
    ours, theirs = both(
        lambda x: compat.ctc_loss(problem.labels, x, **options),
        lambda x: tf.nn.ctc_loss(problem.labels, x, **options),
        problem,
        time_major=time_major,
        graph=graph,
    )
    fine = problem.feasible
    assert_same(ours[0][fine], theirs[0][fine], "float32")
    assert_same(ours[1][fine], theirs[1][fine], "float32")
    assert (ours[0][~fine] == np.inf).all()
    assert (ours[1][~fine] == 0).all()
    assert (theirs[0][~fine] > 700).all()
    assert_right(problem, *ours, problem.weights())


@SETTINGS
@given(problems(dtypes=("float32",), min_labels=1), st.booleans(), IN_GRAPH)
def test_strict_compat_is_tensorflow_with_its_finite_infinity(problem, time_major, graph):
    options = {
        "label_length": problem.lengths,
        "logit_length": problem.frames,
        "logits_time_major": time_major,
        "blank_index": problem.blank,
    }
    ours, theirs = both(
        lambda x: compat.ctc_loss(problem.labels, x, **options, strict_compat=True),
        lambda x: tf.nn.ctc_loss(problem.labels, x, **options),
        problem,
        time_major=time_major,
        graph=graph,
    )
    assert_same(ours[0], theirs[0], "float32")
    assert_same(ours[1], theirs[1])


@SETTINGS
@given(problems(dtypes=("float32",), min_labels=1, min_length=1), st.booleans(), IN_GRAPH)
def test_sparse_loss_and_gradient_are_those_of_tensorflow(problem, time_major, graph):
    problem = problem.with_a_frame_a_label()  # what else is an error there
    options = {"logits_time_major": time_major, "blank_index": problem.blank}
    frames = problem.frames.astype(np.int32)
    ours, theirs = both(
        lambda x: compat.ctc_loss(sparse(problem), x, None, frames, **options),
        lambda x: tf.nn.ctc_loss(sparse(problem), x, None, frames, **options),
        problem,
        time_major=time_major,
        graph=graph,
    )
    assert_same(ours[0], theirs[0], "float32")
    assert_same(ours[1][problem.feasible], theirs[1][problem.feasible], "float32")
    assert_right(problem, *ours, problem.weights())


@pytest.mark.parametrize("labels", UNMERGED)
@pytest.mark.parametrize("frames", [0, 1, 4])
def test_gradients_of_unmerged_labels_are_a_sum_over_all_paths(labels, frames):
    logits = np.random.default_rng(len(labels)).standard_normal((1, 4, 3))
    indices = np.reshape([(0, s) for s in range(len(labels))], (-1, 2))
    labels_of = tf.SparseTensor(indices.astype(np.int64), np.asarray(labels, np.int32), (1, 5))
    options = {"sequence_length": [frames], "ctc_merge_repeated": False, "time_major": False}
    loss, grad = answer(lambda x: compat.ctc_loss_v1(labels_of, x, **options), logits)
    right = unmerged_truth(logits[0, :frames], labels, 2)
    np.testing.assert_allclose(loss, [right[0]], rtol=1e-12)
    np.testing.assert_allclose(grad[0, :frames], right[1], atol=1e-12)
    assert not grad[0, frames:].any()


@SETTINGS
@given(
    problems(blanks=(-1,), min_labels=1, min_length=1, dtypes=("float32", "float64")),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    IN_GRAPH,
)
def test_version_1_and_its_options(problem, collapse, merge, time_major, graph):
    problem = problem.with_a_frame_a_label()  # what else is an error there
    options = {
        "sequence_length": problem.frames.astype(np.int32),
        "preprocess_collapse_repeated": collapse,
        "ctc_merge_repeated": merge,
        "time_major": time_major,
    }
    ours, theirs = both(
        lambda x: compat.ctc_loss_v1(sparse(problem), x, **options),
        lambda x: V1(sparse(problem), x, **options),
        problem,
        time_major=time_major,
        graph=graph,
    )
    fine = np.isfinite(theirs[0])
    # TensorFlow adds logarithms by a table, and is no more exact in float64.
    assert_same(ours[0], theirs[0], "float32")
    assert_same(ours[1][fine], theirs[1][fine], "float32")
    assert (ours[1][~fine] == 0).all()


@SETTINGS
@given(problems(dtypes=("float32",)), st.booleans())
def test_numpy_arrays_give_the_same_as_tensors(problem, strict):
    arguments = (problem.lengths, problem.frames, False, None, problem.blank)
    ours = compat.ctc_loss(problem.labels, problem.logits, *arguments, strict_compat=strict)
    assert isinstance(ours, np.ndarray)
    tensors = compat.ctc_loss(
        problem.labels, tf.constant(problem.logits), *arguments, strict_compat=strict
    )
    assert_same(ours, tensors.numpy(), "float32")


@SETTINGS
@given(problems(min_labels=1), IN_GRAPH)
def test_unique_labels_and_collapsed_labels(problem, graph):
    labels, lengths = tf.constant(problem.labels), tf.constant(problem.lengths)
    pairs = (
        (compat.ctc_unique_labels, tf.nn.ctc_unique_labels, (labels,)),
        (compat.collapse_repeated, tf.nn.collapse_repeated, (labels, lengths)),
    )
    for ours, theirs, arguments in pairs:
        one = (tf.function(ours) if graph else ours)(*arguments)
        plain = ours(*(argument.numpy() for argument in arguments))
        for mine, numpy, other in zip(one, plain, theirs(*arguments), strict=True):
            np.testing.assert_array_equal(mine.numpy(), other.numpy())
            np.testing.assert_array_equal(numpy, other.numpy())
            assert mine.dtype == other.dtype


def test_the_help_of_unique_labels_changes_nothing():
    problem = (LABELS, tf.constant(LOGITS), LENGTHS, FRAMES)
    unique = compat.ctc_unique_labels(tf.constant(LABELS))
    np.testing.assert_array_equal(
        compat.ctc_loss(*problem, unique=unique).numpy(), compat.ctc_loss(*problem).numpy()
    )


def test_a_variable_and_an_optimiser_step_in_a_function():
    variable = tf.Variable(LOGITS)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(compat.ctc_loss(LABELS, variable, LENGTHS, FRAMES))
        variable.assign_sub(tape.gradient(loss, variable))
        return loss

    losses = [float(step()) for _ in range(5)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_shapes_are_known_inside_a_function():
    seen = []

    @tf.function(input_signature=[tf.TensorSpec([None, 2, 3], tf.float32)])
    def run(x):
        loss = compat.ctc_loss(LABELS, x, LENGTHS, [4, 4])
        seen.append(loss.shape.as_list())
        return loss

    expected = tf.nn.ctc_loss(LABELS, LOGITS, LENGTHS, FRAMES)
    assert_same(run(LOGITS), expected)
    assert seen == [[2]]


def test_the_module_stands_in_for_tensorflow():
    assert compat.nn.ctc_loss is compat.ctc_loss
    assert compat.compat.v1.nn.ctc_loss is compat.ctc_loss_v1
    assert compat.constant is tf.constant
    assert compat.nn.softmax is tf.nn.softmax
    assert compat.compat.v1.placeholder is tf.compat.v1.placeholder
    assert compat.__version__ == tf.__version__
    with pytest.raises(AttributeError):
        _ = compat.no_such_name


def test_the_notebook_with_its_import_changed():
    """The calls of the notebook that ctcx began as, on the module in the place of TensorFlow."""
    fixture = notebook_fixture()
    logits = compat.Variable(compat.convert_to_tensor(fixture.logits, dtype=compat.float32))
    labels, lengths, frames = (
        compat.convert_to_tensor(array, dtype=compat.int32)
        for array in (fixture.labels, fixture.label_lengths, fixture.logit_lengths)
    )
    softmax = compat.nn.softmax(logits).numpy()
    assert_same(compat.math.log(softmax), compat.nn.log_softmax(logits))
    with compat.GradientTape() as tape:
        tape.watch(logits)
        loss = compat.nn.ctc_loss(
            labels, logits, lengths, frames, logits_time_major=False, blank_index=-1, name="test"
        )
        grads = tape.gradient(loss, logits)
    np.testing.assert_allclose(loss.numpy(), fixture.expected_loss, rtol=1e-6)
    np.testing.assert_allclose(grads.numpy(), fixture.expected_grad, atol=1e-6)


def test_a_label_that_is_wrong_is_named_in_a_function_too():
    call = tf.function(lambda x: compat.ctc_loss([[1, 7]], x, [2], [4]))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"labels\[0, 1\] is 7"):
        call(LOGITS[:, :1])


# What TensorFlow's own tests of its CTC functions state, in other words and numbers.


def test_as_many_frames_as_labels_leave_one_path():
    """Its loss is that of the frames' classes; the gradient, softmax less one; NaN past the end."""
    probabilities = np.asarray(
        [[[0.6, 0.2, 0.1, 0.1], [0.3, 0.3, 0.2, 0.2]], [[0.1, 0.5, 0.2, 0.2], [0.2, 0.1, 0.5, 0.2]]]
    ).transpose(1, 0, 2)
    x = np.concatenate([np.log(probabilities), np.full((2, 2, 4), np.nan)]).astype(np.float32)
    labels = tf.sparse.from_dense(tf.constant([[0, 1], [1, 2]]) + 1)
    labels = tf.SparseTensor(labels.indices, labels.values - 1, labels.dense_shape)
    loss, grad = answer(
        lambda x: compat.ctc_loss(labels, x, None, [2, 2], blank_index=-1), x, graph=True
    )
    np.testing.assert_allclose(loss, -np.log([0.6 * 0.3, 0.5 * 0.5]), rtol=1e-5)
    expected = probabilities - np.eye(4)[[[0, 1], [1, 2]]]
    np.testing.assert_allclose(grad[:2], expected, atol=1e-6)
    assert (grad[2:] == 0).all()


@pytest.mark.parametrize("graph", [False, True])
def test_sparse_labels_know_their_lengths_and_any_others_are_ignored(graph):
    labels = tf.sparse.from_dense(LABELS.astype(np.int32))
    call = {"logit_length": FRAMES, "blank_index": 0}
    plain = compat.ctc_loss(LABELS, LOGITS, LENGTHS, FRAMES)
    for length in (None, LENGTHS, tf.constant(LENGTHS), [1, 1], [0]):
        for function in (compat.ctc_loss, tf.nn.ctc_loss):
            run = lambda x, f=function, n=length: f(labels, x, n, **call)
            loss, _ = answer(run, LOGITS, graph=graph)
            assert_same(loss, plain)
    triple = (labels.indices.numpy(), labels.values.numpy(), labels.dense_shape.numpy())
    np.testing.assert_array_equal(compat.ctc_loss(triple, LOGITS, LENGTHS, **call), plain)


@pytest.mark.parametrize("graph", [False, True])
def test_lists_of_logits_are_tensors(graph):
    x = np.random.default_rng(0).standard_normal(LOGITS.shape).astype(np.float32)
    expected, _ = answer(lambda x: compat.ctc_loss(LABELS, x, LENGTHS, FRAMES), x)
    wrap = tf.function if graph else lambda function: function
    for labels in (LABELS, LABELS.tolist(), tf.constant(LABELS)):
        for logits in (x.tolist(), list(x), tuple(map(tf.constant, x))):
            run = wrap(lambda y=labels, x=logits: compat.ctc_loss(y, x, LENGTHS, FRAMES))
            assert isinstance(run(), tf.Tensor)
            np.testing.assert_allclose(run(), expected, rtol=1e-6)
    wider = np.concatenate([x, x[..., :1]], axis=2)  # whose last class is the blank
    sparse_labels = tf.sparse.from_dense(LABELS)
    ours = compat.ctc_loss_v1(sparse_labels, wider.tolist(), [4, 4])
    np.testing.assert_array_equal(ours, compat.ctc_loss_v1(sparse_labels, wider, [4, 4]))
    assert isinstance(ours, tf.Tensor)


def test_gradients_reach_the_tensors_of_a_list():
    frames = [tf.Variable(frame) for frame in LOGITS]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(compat.ctc_loss(LABELS.tolist(), frames, LENGTHS, FRAMES))
    grads = tape.gradient(loss, frames)
    _, expected = answer(lambda x: compat.ctc_loss(LABELS, x, LENGTHS, FRAMES), LOGITS)
    np.testing.assert_allclose(np.stack(grads), expected, atol=1e-6)


@pytest.mark.parametrize("blank", [0, 2, -1, 3])
def test_the_blank_may_be_any_class_and_the_others_keep_their_order(blank):
    x = np.random.default_rng(1).standard_normal((6, 2, 4)).astype(np.float32)
    plain = answer(lambda x: compat.ctc_loss(LABELS, x, LENGTHS, [6, 5]), x)
    place = np.insert(np.arange(1, 4), blank % 4, 0)  # of each class in the order with blank 0
    labels = np.argsort(place)[LABELS]
    for form in (labels, tf.sparse.from_dense(labels + 1)):
        if form is not labels:
            form = tf.SparseTensor(form.indices, form.values - 1, form.dense_shape)  # noqa: PLW2901
        loss, grad = answer(
            lambda x, y=form: compat.ctc_loss(y, x, LENGTHS, [6, 5], blank_index=blank),
            x[:, :, place],
        )
        np.testing.assert_allclose(loss, plain[0], rtol=1e-6)
        np.testing.assert_allclose(grad, plain[1][:, :, place], atol=1e-6)


@pytest.mark.parametrize("unique", [False, True])
@pytest.mark.parametrize("blank", [0, -1])
def test_sizes_that_are_unknown_while_a_function_is_traced(unique, blank):
    integers = tf.TensorSpec([None], tf.int64)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 2], tf.int64),
            tf.TensorSpec([None, None, 3], tf.float32),
            integers,
            integers,
        ]
    )
    def run(labels, logits, lengths, frames):
        help_ = compat.ctc_unique_labels(labels) if unique else None
        return compat.ctc_loss(labels, logits, lengths, frames, unique=help_, blank_index=blank)

    labels = LABELS - (blank == -1)
    arguments = (LOGITS, tf.constant(LENGTHS, tf.int64), tf.constant(FRAMES, tf.int64))
    expected = compat.ctc_loss(labels, *arguments, blank_index=blank)
    np.testing.assert_allclose(run(labels, *arguments), expected, rtol=1e-6)


@pytest.mark.parametrize("lists", [False, True])
def test_merged_labels_are_as_wide_as_the_longest(lists):
    """Padding, and what stands past a length, is 0; the lengths keep their dtype."""
    labels = [[7, 7, 3, 3, 7], [5, 5, 5, 5, 5], [1, 2, 2, 8, 8]]
    cases = [
        ([5, 5, 5], [[7, 3, 7], [5, 0, 0], [1, 2, 8]], [3, 1, 3]),
        ([4, 1, 3], [[7, 3], [5, 0], [1, 2]], [2, 1, 2]),
        ([0, 0, 0], [[], [], []], [0, 0, 0]),
    ]
    for lengths, merged, counts in cases:
        given = (labels, lengths) if lists else (tf.constant(labels), tf.constant(lengths))
        ours = compat.collapse_repeated(*given)
        np.testing.assert_array_equal(ours[0], merged)
        np.testing.assert_array_equal(ours[1], counts)


@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize("dense", [False, True])
def test_the_same_bits_each_time(time_major, dense):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((100, 8, 10) if time_major else (8, 100, 10)).astype(np.float32)
    labels, lengths = rng.integers(1, 10, (8, 50)), rng.integers(1, 50, 8)
    labels *= np.arange(50) < lengths[:, None]
    given = labels if dense else tf.sparse.from_dense(labels)
    call = {"logits_time_major": time_major, "blank_index": 0}
    run = lambda x: compat.ctc_loss(given, x, lengths, [100] * 8, **call)
    for one, other in zip(answer(run, x), answer(run, x), strict=True):
        np.testing.assert_array_equal(one, other)


def test_logits_of_another_rank_or_without_classes_are_refused():
    for x in (np.zeros((2, 3)), np.zeros((1, 1, 1, 3)), np.zeros((4, 2, 0))):
        for convert in (np.asarray, tf.constant):
            with pytest.raises(ValueError, match="logits"):  # as TensorFlow's errors
                compat.ctc_loss(LABELS, convert(x.astype(np.float32)), LENGTHS, FRAMES)


def test_autograph_is_kept_out(caplog):
    """It rewrites what a function calls, and warns of what it can't."""
    calls = {
        "dense": lambda x: compat.ctc_loss(LABELS, x, LENGTHS, FRAMES),
        "sparse": lambda x: compat.ctc_loss_v1(tf.sparse.from_dense([[1], [1]]), x, FRAMES),
        "unique": lambda _: compat.ctc_unique_labels(tf.constant(LABELS))[0],
        "merged": lambda _: compat.collapse_repeated(tf.constant(LABELS), tf.constant(LENGTHS))[0],
    }
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with caplog.at_level("WARNING", logger="tensorflow"):
        tf.get_logger().addHandler(caplog.handler)
        try:
            for call in calls.values():
                once = tf.function(lambda x, f=call: strategy.run(f, args=(x,)))
                tf.function(call)(tf.constant(LOGITS))
                once(tf.constant(LOGITS))
        finally:
            tf.get_logger().removeHandler(caplog.handler)
    assert "AutoGraph" not in caplog.text


def test_labels_and_lengths_may_be_variables():
    plain = answer(lambda x: compat.ctc_loss(LABELS, x, LENGTHS, FRAMES), LOGITS)
    held = [tf.Variable(value) for value in (LABELS, LENGTHS, FRAMES)]
    for graph in (False, True):
        loss = answer(lambda x: compat.ctc_loss(held[0], x, *held[1:]), LOGITS, graph=graph)
        for one, other in zip(loss, plain, strict=True):
            np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(compat.ctc_loss(held[0], LOGITS, *held[1:]), plain[0])


def test_masks_are_not_dropped_beside_tensors():
    masked = np.ma.array(LOGITS)
    for logits in (masked, list(masked)):
        with pytest.raises(
            ctcx.CTCInputError, match=r"logits must not be a masked .*logit_length how"
        ):
            compat.ctc_loss(tf.constant(LABELS), logits, LENGTHS, FRAMES)
    for place in (0, 2, 3):
        arguments = [LABELS, tf.constant(LOGITS), LENGTHS, FRAMES]
        arguments[place] = np.ma.array(arguments[place])
        with pytest.raises(ctcx.CTCInputError, match="must not be a masked array"):
            compat.ctc_loss(*arguments)


def test_lists_that_make_no_array_are_refused():
    for logits in ([[[0.0, 1.0], [1.0]]], [["a"]], [None]):
        with pytest.raises(ctcx.CTCInputError, match="logits must"):
            compat.ctc_loss(LABELS, logits, LENGTHS, FRAMES)


def test_labels_that_are_ragged_are_refused_with_what_to_pass():
    ragged = tf.ragged.constant([[1, 2], [1]])
    for function, arguments in (
        (compat.ctc_loss, (ragged, LOGITS, None, FRAMES)),
        (compat.ctc_loss_v1, (ragged, LOGITS, FRAMES)),
    ):
        with pytest.raises(ctcx.CTCInputError, match=r"labels must.*to_sparse\(\).*RaggedTensor"):
            function(*arguments)
    ours = compat.ctc_loss(ragged.to_tensor(), LOGITS, ragged.row_lengths(), FRAMES)
    np.testing.assert_allclose(
        ours, compat.ctc_loss(ragged.to_sparse(), LOGITS, None, FRAMES, blank_index=0), rtol=1e-6
    )


def decoded(function, logits, frames, *, graph=False, **options):
    """Labels of each result as lists by sequence, shapes, and scores; logits are (N, T, C)."""

    def run(x):
        return function(x, frames.astype(np.int32), **options)

    labels, scores = (tf.function(run) if graph else run)(tf.constant(logits.transpose(1, 0, 2)))
    found = [tf.sparse.to_dense(tf.sparse.reorder(part), default_value=-1) for part in labels]
    assert all(part.values.dtype == tf.int64 for part in labels)
    return [part.numpy() for part in found], scores.numpy()


@SETTINGS
@given(problems(), st.booleans(), st.booleans(), IN_GRAPH)
def test_greedy_decoding_is_that_of_tensorflow(problem, merge, negative, graph):
    blank = problem.blank - (problem.logits.shape[2] if negative else 0)
    options = {"merge_repeated": merge, "blank_index": blank, "graph": graph}
    (ours,), our_score, (theirs,), their_score = (
        part
        for function in (compat.ctc_greedy_decoder, tf.nn.ctc_greedy_decoder)
        for part in decoded(function, problem.logits, problem.frames, **options)
    )
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(our_score, their_score, rtol=1e-5, atol=1e-5)
    assert our_score.dtype == their_score.dtype


@SETTINGS
@given(problems(blanks=(-1,), max_frames=4), st.sampled_from([None, True, False]), IN_GRAPH)
def test_a_wide_beam_finds_what_tensorflow_finds(problem, merge, graph):
    """Beams as wide as there are prefixes: both are exact."""
    ours, theirs = compat.ctc_beam_search_decoder, tf.nn.ctc_beam_search_decoder
    options = {"beam_width": 1000, "top_paths": 2, "graph": graph}
    if merge is not None:
        ours, theirs = compat.ctc_beam_search_decoder_v1, tf.compat.v1.nn.ctc_beam_search_decoder
        options["merge_repeated"] = merge
    frames = np.maximum(problem.frames, 1)  # else there are not two results
    our_labels, our_scores = decoded(ours, problem.logits, frames, **options)
    their_labels, their_scores = decoded(theirs, problem.logits, frames, **options)
    np.testing.assert_allclose(our_scores, their_scores, rtol=1e-4, atol=1e-4)
    assert our_scores.dtype == their_scores.dtype
    # Where the first two are as good as equal, either may go first.
    clear = our_scores[:, 0] - our_scores[:, 1] > 1e-3
    first, theirs_first = (
        [[label for label in row if label >= 0] for row in found[0][clear].tolist()]
        for found in (our_labels, their_labels)
    )
    assert first == theirs_first


@SETTINGS
@given(problems(blanks=(-1,), dtypes=("float64",)), st.integers(1, 4))
def test_a_narrow_beam_never_says_less_than_tensorflow_of_the_same_labels(problem, width):
    logits, frames = problem.logits, problem.frames
    (ours,), our_score = decoded(compat.ctc_beam_search_decoder, logits, frames, beam_width=width)
    (theirs,), their_score = decoded(
        tf.nn.ctc_beam_search_decoder, logits, frames, beam_width=width
    )
    truth = ctcx.ctc_loss(logits, np.maximum(ours, 0), frames, (ours >= 0).sum(axis=1), blank=-1)
    np.testing.assert_allclose(our_score[:, 0], -truth, atol=1e-9)
    for n in range(len(frames)):
        if [x for x in ours[n] if x >= 0] == [x for x in theirs[n] if x >= 0]:
            assert our_score[n, 0] >= their_score[n, 0] - 1e-6


def test_the_decoders_stand_in_for_tensorflows():
    assert compat.nn.ctc_greedy_decoder is compat.ctc_greedy_decoder
    assert compat.nn.ctc_beam_search_decoder is compat.ctc_beam_search_decoder
    v1 = compat.compat.v1.nn
    assert v1.ctc_greedy_decoder is compat.ctc_greedy_decoder
    assert v1.ctc_beam_search_decoder is compat.ctc_beam_search_decoder_v1
    assert v1.ctc_beam_search_decoder_v2 is compat.ctc_beam_search_decoder
    sizes = [None, None]

    @tf.function(input_signature=[tf.TensorSpec([None, 3, 5]), tf.TensorSpec([3], tf.int32)])
    def run(x, frames):
        labels, scores = v1.ctc_beam_search_decoder(x, frames, 4, 2)
        sizes[:] = scores.shape, [part.shape.rank for part in labels]
        return scores

    run(tf.zeros((4, 3, 5)), tf.constant([4, 0, 2]))
    assert sizes == [[3, 2], [2, 2]]


def test_a_half_tensor_is_decoded_in_single_precision():
    x = tf.constant(np.arange(12).reshape(2, 2, 3), tf.bfloat16)
    labels, score = compat.ctc_greedy_decoder(x, [2, 2], blank_index=0)
    assert (score.dtype, labels[0].values.numpy().tolist()) == (tf.float32, [2, 2])


# Each of these is a row of the table on the page "Coming from TensorFlow":
# what is passed | what TensorFlow does | what ctcx does.


def test_difference_infeasible():
    """Labels that no path emits, dense | 706.9 and more, a gradient that means nothing | +inf,
    gradient 0; with `strict_compat=True` as TensorFlow"""
    call = {"label_length": LENGTHS, "logit_length": [4, 2]}
    loss, grad = answer(lambda x: tf.nn.ctc_loss(LABELS, x, **call), LOGITS)
    assert 706.8 < loss[1] < 720
    assert np.abs(grad[:, 1]).max() > 0.1
    loss, grad = answer(lambda x: compat.ctc_loss(LABELS, x, **call), LOGITS)
    assert np.isinf(loss[1])
    assert (grad[:, 1] == 0).all()


def test_difference_saturation():
    """A loss that is really over 707, dense | capped near 707, with a wrong gradient | the loss
    and its gradient"""
    generator = np.random.default_rng(0)
    logits = generator.standard_normal((400, 1, 10)).astype(np.float32)
    logits[:, :, 0] += 10
    labels = 1 + generator.integers(0, 9, (1, 150))
    call = {"label_length": [150], "logit_length": [400]}
    truth = reference(logits.transpose(1, 0, 2), labels, [400], [150], 0)
    assert truth.loss[0] > 1000
    loss, grad = answer(lambda x: tf.nn.ctc_loss(labels, x, **call), logits)
    assert loss[0] < 720
    assert np.abs(grad[:, 0] - truth.grad[0]).max() > 0.5
    loss, grad = answer(lambda x: compat.ctc_loss(labels, x, **call), logits)
    np.testing.assert_allclose(loss, truth.loss, rtol=1e-5)
    np.testing.assert_allclose(grad[:, 0], truth.grad[0], atol=1e-4)


def test_difference_blank_among_labels():
    """The blank among the labels | silently another class's label, or a wrong gradient | an error
    that names it"""
    x = np.random.default_rng(0).standard_normal((4, 1, 4)).astype(np.float32)
    theirs = [tf.nn.ctc_loss([[0, k]], x, [2], [4], blank_index=-1).numpy() for k in (3, 2)]
    np.testing.assert_array_equal(*theirs)
    for convert in (np.asarray, tf.constant):
        with pytest.raises(ctcx.CTCInputError, match=r"labels\[0, 1\] is 3 .*blank_index=3"):
            compat.ctc_loss([[0, 3]], convert(x), [2], [4], blank_index=-1)


def test_difference_out_of_range():
    """A label that is negative or not a class, dense | a label that costs nothing: too small a
    loss | an error that names it"""
    x = np.zeros((4, 1, 4), dtype=np.float32)
    right = tf.nn.ctc_loss([[1, 2]], x, [2], [4]).numpy()
    for wrong in (-2, 9):
        assert tf.nn.ctc_loss([[1, wrong]], x, [2], [4]).numpy() < right - 0.5
        with pytest.raises(ctcx.CTCInputError, match=rf"labels\[0, 1\] is {wrong} "):
            compat.ctc_loss([[1, wrong]], tf.constant(x), [2], [4])


def test_difference_blank_index_out_of_range():
    """A `blank_index` that is no class | a wrong number | an error"""
    assert np.isfinite(tf.nn.ctc_loss(LABELS, LOGITS, LENGTHS, FRAMES, blank_index=7)).all()
    with pytest.raises(ctcx.CTCInputError, match="blank_index=7 is out of range"):
        compat.ctc_loss(LABELS, LOGITS, LENGTHS, FRAMES, blank_index=7)


def test_difference_length_out_of_range():
    """A `logit_length` over T, or a `label_length` over S | taken for T; about 712 | an error that
    names it"""
    theirs = tf.nn.ctc_loss(LABELS, LOGITS, LENGTHS, [4, 9])
    np.testing.assert_array_equal(theirs, tf.nn.ctc_loss(LABELS, LOGITS, LENGTHS, FRAMES))
    assert tf.nn.ctc_loss(LABELS, LOGITS, [2, 3], FRAMES)[1] > 700
    with pytest.raises(ctcx.CTCInputError, match=r"logit_length\[1\] is 9"):
        compat.ctc_loss(LABELS, LOGITS, LENGTHS, [4, 9])
    with pytest.raises(ctcx.CTCInputError, match=r"label_length\[1\] is 3"):
        compat.ctc_loss(LABELS, LOGITS, [2, 3], FRAMES)


def test_difference_no_labels():
    """Dense labels of shape (N, 0) | too small by ln 2 | right"""
    call = (np.zeros((2, 0), dtype=np.int64), LOGITS, [0, 0], FRAMES)
    expected = 4 * np.log(3)
    assert_same(tf.nn.ctc_loss(*call), [expected - np.log(2)] * 2)
    np.testing.assert_allclose(compat.ctc_loss(*call), [expected] * 2, rtol=1e-6)


def test_difference_padding():
    """NaN or inf in frames past `logit_length` | NaN loss and gradient | they never matter"""
    x = LOGITS.copy()
    x[3] = np.nan
    call = {"label_length": [2, 1], "logit_length": [3, 3]}
    loss, _ = answer(lambda x: tf.nn.ctc_loss(LABELS, x, **call), x)
    assert np.isnan(loss).all()
    ours = answer(lambda x: compat.ctc_loss(LABELS, x, **call), x)
    clean = answer(lambda x: tf.nn.ctc_loss(LABELS, x, **call), LOGITS)
    for one, other in zip(ours, clean, strict=True):
        assert_same(one, other)


def test_difference_masked_class():
    """A logit of -inf, for any class | NaN loss and gradient | right"""
    x = np.concatenate([LOGITS, np.full((4, 2, 1), -np.inf, dtype=np.float32)], axis=2)
    call = {"label_length": LENGTHS, "logit_length": FRAMES}
    loss, _ = answer(lambda x: tf.nn.ctc_loss(LABELS, x, **call), x)
    assert np.isnan(loss).all()
    loss, grad = answer(lambda x: compat.ctc_loss(LABELS, x, **call), x)
    clean = answer(lambda x: tf.nn.ctc_loss(LABELS, x, **call), LOGITS)
    assert_same(loss, clean[0])
    assert_same(grad[..., :3], clean[1])
    assert (grad[..., 3] == 0).all()


def test_difference_float64():
    """float64, dense | an error | computed in float64"""
    x = LOGITS.astype(np.float64)
    with pytest.raises(tf.errors.InvalidArgumentError):
        tf.nn.ctc_loss(LABELS, x, LENGTHS, FRAMES)
    ours = compat.ctc_loss(LABELS, tf.constant(x), LENGTHS, FRAMES)
    assert ours.dtype == tf.float64
    assert_same(ours, tf.nn.ctc_loss(LABELS, LOGITS, LENGTHS, FRAMES))


def test_difference_half():
    """float16 and bfloat16 | computed in float32, the loss rounded to half | computed in float32,
    and a float32 loss; the gradient as the logits"""
    for dtype in (tf.float16, tf.bfloat16):
        x = tf.cast(LOGITS, dtype)
        assert tf.nn.ctc_loss(LABELS, x, LENGTHS, FRAMES).dtype == dtype
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = compat.ctc_loss(LABELS, x, LENGTHS, FRAMES)
        assert loss.dtype == tf.float32
        assert tape.gradient(loss, x).dtype == dtype


def test_difference_lengths_left_out():
    """`label_length=None` with dense labels, `logit_length=None` | an error | all labels, all
    frames"""
    with pytest.raises(ValueError, match="None"):
        tf.nn.ctc_loss(LABELS, LOGITS, None, FRAMES)
    ours = compat.ctc_loss(LABELS, tf.constant(LOGITS), None, None)
    assert_same(ours, tf.nn.ctc_loss(LABELS, LOGITS, LENGTHS, FRAMES))


def test_difference_sparse_infeasible():
    """Sparse labels that no path emits | an error with fewer frames than labels; else +inf and the
    gradient of a softmax | +inf, gradient 0"""
    labels = tf.sparse.from_dense(LABELS.astype(np.int32))
    with pytest.raises(tf.errors.InvalidArgumentError, match="Not enough time"):
        tf.nn.ctc_loss(labels, LOGITS, None, [4, 1], blank_index=0)
    for frames in ([4, 1], [4, 2]):
        loss, grad = answer(
            lambda x, f=frames: compat.ctc_loss(labels, x, None, f, blank_index=0), LOGITS
        )
        assert np.isinf(loss[1])
        assert (grad[:, 1] == 0).all()
    loss, grad = answer(lambda x: tf.nn.ctc_loss(labels, x, None, [4, 2], blank_index=0), LOGITS)
    assert np.isinf(loss[1])
    assert_same(grad[:2, 1], 1 / 3)


def test_difference_ignore_longer():
    """v1's `ignore_longer_outputs_than_inputs` | loss 0 with fewer frames than labels only | loss
    0 wherever no path emits the labels"""
    labels = tf.sparse.from_dense([[1, 2], [1, 1]])
    logits = np.zeros((4, 2, 4), dtype=np.float32)
    for frames, theirs in (([4, 1], 0), ([4, 2], np.inf)):
        options = {"sequence_length": frames, "ignore_longer_outputs_than_inputs": True}
        assert V1(labels, logits, **options)[1] == theirs
        loss, grad = answer(lambda x, o=options: compat.ctc_loss_v1(labels, x, **o), logits)
        assert loss[1] == 0
        assert (grad[:, 1] == 0).all()


def test_difference_no_sequences():
    """A batch of 0 sequences, sparse | an error | no losses"""
    labels = tf.SparseTensor(np.zeros((0, 2), dtype=np.int64), np.zeros(0, dtype=np.int32), [0, 5])
    x, frames = tf.zeros((1, 0, 3)), tf.zeros(0, tf.int32)
    with pytest.raises(tf.errors.InvalidArgumentError, match="batch_size"):
        tf.nn.ctc_loss(labels, x, None, frames, blank_index=-1)
    assert compat.ctc_loss(labels, x, None, frames, blank_index=-1).shape == (0,)


def test_difference_sparse_empty():
    """A sequence without labels, sparse | an error | the loss of blanks only"""
    labels = tf.SparseTensor([[0, 0]], [1], [2, 1])
    with pytest.raises(tf.errors.InvalidArgumentError, match="length is zero"):
        tf.nn.ctc_loss(labels, LOGITS, None, FRAMES, blank_index=0)
    ours = compat.ctc_loss(labels, tf.constant(LOGITS), None, FRAMES, blank_index=0)
    np.testing.assert_allclose(ours[1], 4 * np.log(3), rtol=1e-6)


@pytest.mark.parametrize("graph", [False, True])
def test_gradients_stay_as_they_are_when_others_follow(graph):
    """Of more than a megabyte, which TensorFlow takes over without a copy."""
    draws = np.random.default_rng(0).normal(size=(3, 4, 300, 260)).astype(np.float32)
    labels = np.tile(np.arange(1, 31), (4, 1))
    lengths, frames = [30] * 4, [300, 299, 200, 100]

    def ours(x):
        return compat.ctc_loss(labels, x, lengths, frames, logits_time_major=False)

    weights = (None, np.asarray([1, 2, 0, -1], dtype=np.float32), None)
    found = [
        answer(ours, x, weights=weight, graph=graph)[1]
        for x, weight in zip(draws, weights, strict=True)
    ]
    for x, weight, grad in zip(draws, weights, found, strict=True):
        right = ctcx.ctc_loss_and_grad(x, labels, frames).grad
        factor = 1 if weight is None else weight[:, None, None]
        np.testing.assert_allclose(grad, right * factor, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 9, 5), (4, 300, 260)])
def test_a_tape_may_be_asked_again(shape):
    """Each time for other derivatives, eagerly and in a graph; no answer changes an earlier one."""
    frames = np.asarray([shape[1], 5, 9, 2])  # the last one is too short for its labels
    labels = np.asarray([[1, 2, 3], [1, 1, 4], [4, 3, 2], [1, 1, 1]])
    x = tf.Variable(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    right = ctcx.ctc_loss_and_grad(x.numpy(), labels, frames).grad
    factors = {"sum": np.ones(4), "mean": np.full(4, 0.25), "some": np.asarray([3, 0, 0, 0])}
    with tf.GradientTape(persistent=True) as tape:
        losses = compat.ctc_loss(labels, x, [3] * 4, frames, logits_time_major=False)
        totals = {
            "sum": tf.reduce_sum(losses),
            "mean": tf.reduce_mean(losses),
            "some": 3 * tf.gather(losses, [0])[0],  # whose derivative is of a sparse kind
        }
    given = []
    for name in ("mean", "sum", "mean", "some", "sum"):
        given.append((name, tape.gradient(totals[name], x)))
        given.append((name, tf.function(lambda name=name: tape.gradient(totals[name], x))()))
    for name, gradient in given:
        expected = right * factors[name][:, None, None]
        np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-7)


def test_a_tape_remembers_the_labels_of_its_call():
    """A second backward is of the same loss, though the caller has written over the arrays."""
    labels, lengths, frames = np.asarray([[1, 2, 3]] * 2), np.asarray([3, 2]), np.asarray([9, 7])
    x = tf.Variable(np.random.default_rng(0).normal(size=(2, 9, 5)).astype(np.float32))
    with tf.GradientTape(persistent=True) as tape:
        loss = compat.ctc_loss(labels, x, lengths, frames, logits_time_major=False)
    first = tape.gradient(loss, x)
    labels[:], lengths[:], frames[:] = 4, 1, 5
    np.testing.assert_array_equal(tape.gradient(loss, x), first)


def test_derivatives_that_are_no_numbers_are_taken_in_silence():
    """As TensorFlow does; a scaled loss may overflow, and its step is then left out."""
    x = tf.Variable(np.random.default_rng(0).normal(size=(3, 9, 5)).astype(np.float32))
    with tf.GradientTape() as tape:
        loss = compat.ctc_loss([[1]] * 3, x, [1] * 3, [9, 9, 5], logits_time_major=False)
    upstream = tf.constant([1, np.nan, np.inf])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grad = tape.gradient(loss, x, output_gradients=upstream)
    assert np.isfinite(grad[0]).all()
    assert np.isnan(grad[1]).all()
    assert np.isinf(grad[2, :5]).all()


def test_a_second_derivative_by_weights_is_an_error_too():
    x, weights = tf.Variable(LOGITS), tf.Variable(np.ones(len(FRAMES), dtype=np.float32))
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            loss = compat.ctc_loss(LABELS, x, LENGTHS, FRAMES) * weights
        norm = tf.reduce_sum(inner.gradient(loss, x) ** 2)
    with pytest.raises(LookupError, match="second derivative"):
        outer.gradient(norm, weights)


def test_difference_second_derivative():
    """A second derivative on TensorFlow's tensors | NaN for dense labels, silently | an error"""
    x = tf.constant(LOGITS)
    for function in (tf.nn.ctc_loss, compat.ctc_loss):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                loss = function(LABELS, x, LENGTHS, FRAMES)
            grad = inner.gradient(loss, x)
            norm = tf.reduce_sum(grad**2)
        if function is tf.nn.ctc_loss:
            assert np.isnan(outer.gradient(norm, x)).any()
        else:
            with pytest.raises(LookupError, match="second derivative"):
                outer.gradient(norm, x)


def test_compare_says_nothing_of_what_tensorflow_logs():
    words = ("compare", "--library", "numpy", "--input", "notebook", "--repeat", "1", "--json", "-")
    peers = ("--peer", "tensorflow-v1", "--peer", "tensorflow-v2")
    done = subprocess.run(
        [sys.executable, "-m", "ctcx", *words, *peers], capture_output=True, text=True, check=True
    )
    assert {"tensorflow-v1", "tensorflow-v2"} < {
        row["backend"] for row in json.loads(done.stdout)["rows"] if row["verdict"] == "ok"
    }
    assert not done.stderr


def test_difference_xla():
    """`tf.function(jit_compile=True)` | compiled | an error: ctcx runs outside of TensorFlow"""
    for function, works in ((tf.nn.ctc_loss, True), (compat.ctc_loss, False)):
        call = tf.function(lambda x, f=function: f(LABELS, x, LENGTHS, FRAMES), jit_compile=True)
        if works:
            assert np.isfinite(call(tf.constant(LOGITS))).all()
        else:
            with pytest.raises(tf.errors.InvalidArgumentError, match="PyFunc"):
                call(tf.constant(LOGITS))


def test_difference_decoder_score():
    """`log_probability` of beam search | of the paths that the beam has kept, which is too low |
    of all paths of the labels"""
    logits = np.random.default_rng(0).standard_normal((2, 40, 6))
    frames = np.asarray([40, 40])
    options = {"beam_width": 4}
    (ours,), score = decoded(compat.ctc_beam_search_decoder, logits, frames, **options)
    _, theirs = decoded(tf.nn.ctc_beam_search_decoder, logits, frames, **options)
    truth = ctcx.ctc_loss(logits, np.maximum(ours, 0), frames, (ours >= 0).sum(axis=1), blank=-1)
    np.testing.assert_allclose(score[:, 0], -truth, rtol=1e-9)
    assert (score > theirs + 0.1).all()


def test_difference_decoder_fewer_results():
    """`top_paths` above the number of results that a beam can have | an error | no labels and
    -inf for those that aren't there"""
    x, frames = tf.zeros((1, 1, 2)), [1]
    with pytest.raises(tf.errors.InvalidArgumentError, match="Less leaves"):
        tf.nn.ctc_beam_search_decoder(x, frames, 5, 3)
    labels, scores = compat.ctc_beam_search_decoder(x, frames, 5, 3)
    np.testing.assert_allclose(scores, [[np.log(0.5), np.log(0.5), -np.inf]], rtol=1e-6)
    assert [len(part.values) for part in labels] == [0, 1, 0]


def test_difference_decoder_masked_frame():
    """A frame whose logits are all -inf, decoded greedily | class 0 | no label"""
    x = np.zeros((1, 1, 3), np.float32) - np.inf
    (theirs,), their_score = tf.nn.ctc_greedy_decoder(x, [1])
    (ours,), score = compat.ctc_greedy_decoder(tf.constant(x), [1])
    assert theirs.values.numpy().tolist() == [0]
    assert ours.values.numpy().tolist() == []
    assert score[0, 0] == their_score[0, 0] == np.inf


def test_difference_decoder_nan():
    """A NaN logit, in a decoder | labels all the same | an error that says where"""
    x = LOGITS.copy()
    x[2, 1, 0] = np.nan
    for name in ("ctc_greedy_decoder", "ctc_beam_search_decoder"):
        (theirs, *_), _ = getattr(tf.nn, name)(x, FRAMES)
        assert theirs.values.shape[0] > 0
        with pytest.raises(ctcx.CTCInputError, match=r"inputs\[2, 1, 0\] is nan"):
            getattr(compat, name)(tf.constant(x), FRAMES)


def test_difference_decoder_negative_length():
    """A negative `sequence_length`, in a decoder | counts as 0 | an error"""
    (theirs,), _ = tf.nn.ctc_greedy_decoder(LOGITS, [-1, 0])
    assert theirs.values.shape == [0]
    with pytest.raises(ctcx.CTCInputError, match=r"sequence_length\[0\] is -1"):
        compat.ctc_greedy_decoder(tf.constant(LOGITS), [-1, 0])


def test_difference_decoder_no_frames():
    """No frames, in a decoder | an error | no labels, of probability 1"""
    x = tf.zeros((0, 2, 3))
    with pytest.raises(tf.errors.InvalidArgumentError, match="empty"):
        tf.nn.ctc_beam_search_decoder(x, [0, 0])
    (ours,), scores = compat.ctc_beam_search_decoder(x, [0, 0])
    assert ours.dense_shape.numpy().tolist() == [2, 0]
    assert (scores.numpy() == 0).all()
