"""``ctcx.compat`` without the frameworks: on NumPy, and what it says of wrong calls.

Beside the frameworks themselves it is tested in ``tests/frameworks``.
"""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ctcx
from ctcx import compat
from ctcx.compat import keras, optax, tensorflow, tfjs, torch
from ctcx.conformance.oracle import reference
from ctcx.data.bundled import notebook_fixture
from tests.helpers import needed, random_problem

TFJS = json.loads((Path(__file__).parent / "tfjsctcloss.json").read_text(encoding="utf-8"))
LOGITS = np.zeros((4, 2, 3))
LABELS, FRAMES, LENGTHS = np.asarray([[1, 2], [2, 1]]), (4, 4), (2, 2)
NO_PADDING = np.zeros((4, 2)), np.zeros((4, 2))


def test_importing_it_imports_no_framework():
    code = (
        "import sys, numpy, ctcx.compat\n"
        "from ctcx.compat import keras, optax, tensorflow, tfjs, torch, torchaudio\n"
        "call = (numpy.zeros((3, 1, 4)), numpy.asarray([[1, 2]]), (3,), (2,))\n"
        "torchaudio.forced_align(call[0].swapaxes(0, 1), call[1])\n"
        "torch.ctc_loss(*call); tensorflow.ctc_loss(call[1], call[0], call[3], call[2])\n"
        "found = {'torch', 'jax', 'optax', 'tensorflow', 'keras', 'cupy'} & set(sys.modules)\n"
        "print(sorted(found))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_it_has_its_modules_and_no_others():
    assert set(dir(compat)) == set(compat.__all__)
    with pytest.raises(AttributeError, match="no attribute 'mxnet'"):
        _ = compat.mxnet


@pytest.mark.parametrize(
    ("ask", "extra"),
    [
        (lambda: torch.CTCLoss, "torch"),
        (lambda: keras.CTC, "keras"),
        (lambda: tensorflow.constant, "tensorflow"),
        (lambda: tensorflow.nn.softmax, "tensorflow"),
    ],
)
def test_a_framework_that_is_missing_is_named_with_its_extra(ask, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, extra, None)
    with pytest.raises(ImportError, match=rf"pip install 'ctcx\[{extra}\]'"):
        ask()


@pytest.mark.parametrize("module", [torch, keras])
def test_a_name_that_is_not_there_is_an_attribute_error(module):
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = module.nonsense


def test_every_way_gives_the_number_of_the_notebook():
    fixture = notebook_fixture()
    x, labels, (lengths, frames) = fixture.logits, fixture.labels, (fixture.label_lengths, [5])
    row, column = np.nonzero(np.arange(5) < lengths[:, None])
    one_hot = ctcx.labels_to_one_hot(labels, lengths, num_classes=4, num_frames=5, blank=-1)
    log_probs = np.log(np.exp(x) / np.exp(x).sum(axis=2, keepdims=True)).transpose(1, 0, 2)
    sparse = (np.stack([row, column], axis=1), labels[row, column], labels.shape)
    unused = np.arange(5) >= lengths[:, None]
    losses = [
        torch.ctc_loss(log_probs, labels, frames, lengths, blank=-1, reduction="none"),
        torch.ctc_loss(log_probs, labels[0, :4], frames, lengths, blank=-1, reduction="none"),
        tensorflow.ctc_loss(labels, x, lengths, frames, False, None, -1),
        tensorflow.ctc_loss(sparse, x, None, frames, False, None, -1),
        tensorflow.ctc_loss(labels, x, lengths, frames, False, None, -1, strict_compat=True),
        tensorflow.ctc_loss_v1(sparse, x, frames, time_major=False),
        optax.ctc_loss(x, np.zeros((1, 5)), labels, unused, blank_id=-1),
        keras.ctc_loss(labels, x, lengths, frames, mask_index=-1),
        tfjs.ctc_loss(one_hot, x),
    ]
    for loss in losses:
        np.testing.assert_allclose(loss, fixture.expected_loss, rtol=1e-6)
    np.testing.assert_allclose(tfjs.ctc_loss_gradient(one_hot, x), fixture.expected_grad, atol=1e-6)


# Labels that don't merge: truth from all paths.


def unmerged_truth(logits, labels, blank):
    """Loss and gradient of one sequence, from every path that spells the labels."""
    frames, classes = logits.shape
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    total, credit = 0.0, np.zeros_like(logits)
    for path in itertools.product(range(classes), repeat=frames):
        if [c for c in path if c != blank] == list(labels):
            p = probs[range(frames), path].prod()
            total += p
            credit[range(frames), path] += p
    return (-np.log(total), probs - credit / total) if total else (np.inf, np.zeros_like(logits))


UNMERGED = [[], [0], [1, 1], [0, 1, 0], [1, 1, 1], [1, 1, 0, 0, 1]]


@pytest.mark.parametrize("labels", UNMERGED)
@pytest.mark.parametrize("frames", [0, 1, 4])
def test_unmerged_labels_are_a_sum_over_all_paths(labels, frames):
    logits = np.random.default_rng(len(labels)).standard_normal((1, 4, 3))
    indices = [(0, s) for s in range(len(labels))]
    sparse = (np.reshape(indices, (-1, 2)), np.asarray(labels, dtype=int), (1, 5))
    loss, _ = unmerged_truth(logits[0, :frames], labels, 2)
    options = {"sequence_length": [frames], "ctc_merge_repeated": False, "time_major": False}
    np.testing.assert_allclose(
        tensorflow.ctc_loss_v1(sparse, logits, **options), [loss], rtol=1e-12
    )
    options["ignore_longer_outputs_than_inputs"] = True
    kept = tensorflow.ctc_loss_v1(sparse, logits, **options)
    np.testing.assert_allclose(kept, [loss if np.isfinite(loss) else 0])


def test_strict_compat_is_ctc_where_the_labels_fit():
    logits, labels, frames, lengths = random_problem(3, 5, 12, 6, 4, dtype=np.float64)
    truth = reference(logits, labels, frames, lengths, 0)
    ours = tensorflow.ctc_loss(labels, logits, lengths, frames, False, strict_compat=True)
    np.testing.assert_allclose(ours, truth.loss, rtol=1e-10)


# Numbers of the npm package.


@pytest.mark.parametrize("name", TFJS["problems"])
def test_tfjs_gives_what_the_npm_package_gave(name):
    problem = TFJS["problems"][name]
    logits = np.asarray(problem["logits"], dtype=np.float32)
    labels = np.eye(logits.shape[2], dtype=np.float32)[problem["labels"]]
    expected = np.asarray([float(loss) for loss in problem["loss"]])
    np.testing.assert_allclose(tfjs.ctc_loss(labels, logits), expected, rtol=1e-6)
    grad = tfjs.ctc_loss_gradient(labels, logits)
    if problem["gradient"] == "TypeError":  # labels without a label are too much for it
        np.testing.assert_allclose(grad.sum(axis=2), 0, atol=1e-6)
    elif np.isinf(expected).any():  # it returns the softmax, as if there were nothing to learn
        np.testing.assert_allclose(np.sum(problem["gradient"], axis=2), 1, rtol=1e-6)
        assert (grad == 0).all()
    else:
        np.testing.assert_allclose(grad, problem["gradient"], atol=2e-6)


def test_tfjs_takes_rows_of_zeros_for_padding():
    labels = np.eye(4)[[[1, 3, 3, 3]]]
    zeros = labels.copy()
    zeros[0, 1:] = 0
    logits = np.random.default_rng(0).standard_normal((1, 4, 4))
    np.testing.assert_array_equal(tfjs.ctc_loss(zeros, logits), tfjs.ctc_loss(labels, logits))


# Wrong calls, in the terms of the caller.

TF = tensorflow.ctc_loss
SPARSE = (np.asarray([[0, 0], [1, 0]]), np.asarray([1, 2]), (2, 1))
FIVE = np.zeros((5,))
WRONG = {
    "torch: rank": (
        torch.ctc_loss,
        (FIVE, LABELS, FRAMES, LENGTHS),
        {},
        "log_probs must have shape (T, N, C)",
    ),
    "torch: no array": (
        torch.ctc_loss,
        ([[1.0]], LABELS, FRAMES, LENGTHS),
        {},
        "log_probs must have shape",
    ),
    "torch: batch": (
        torch.ctc_loss,
        (LOGITS, LABELS[:1], FRAMES, LENGTHS),
        {},
        "targets must have shape (2, S)",
    ),
    "torch: float targets": (
        torch.ctc_loss,
        (LOGITS, LABELS * 1.0, FRAMES, LENGTHS),
        {},
        "targets must have an integer dtype, got float64",
    ),
    "torch: list targets": (
        torch.ctc_loss,
        (LOGITS, [[1]], FRAMES, LENGTHS),
        {},
        "targets must be an array of ints",
    ),
    "torch: float lengths": (
        torch.ctc_loss,
        (LOGITS, LABELS, (4.0, 4.0), LENGTHS),
        {},
        "input_lengths must have an integer dtype",
    ),
    "torch: lengths of another kind": (
        torch.ctc_loss,
        (LOGITS, LABELS, ("a", "b"), LENGTHS),
        {},
        "input_lengths must have an integer dtype",
    ),
    "torch: ragged lengths": (
        torch.ctc_loss,
        (LOGITS, LABELS, ((4, 4), 4), LENGTHS),
        {},
        "input_lengths must be integers",
    ),
    "torch: lengths' shape": (
        torch.ctc_loss,
        (LOGITS, LABELS, (4,), LENGTHS),
        {},
        "input_lengths must have shape (2,)",
    ),
    "torch: long": (torch.ctc_loss, (LOGITS, LABELS, (4, 5), LENGTHS), {}, "input_lengths[1] is 5"),
    "torch: many": (torch.ctc_loss, (LOGITS, LABELS, FRAMES, (2, 3)), {}, "target_lengths[1] is 3"),
    "torch: sum": (
        torch.ctc_loss,
        (LOGITS, LABELS[0], FRAMES, LENGTHS),
        {},
        "add up to the 2 elements",
    ),
    "torch: negative": (
        torch.ctc_loss,
        (LOGITS, LABELS[0], FRAMES, (3, -1)),
        {},
        "target_lengths must be 0 or more",
    ),
    "torch: class": (
        torch.ctc_loss,
        (LOGITS, LABELS + 1, FRAMES, LENGTHS),
        {},
        "targets[0, 1] is 3",
    ),
    "torch: blank": (
        torch.ctc_loss,
        (LOGITS, LABELS, FRAMES, LENGTHS),
        {"blank": 3},
        "blank=3 is out of range",
    ),
    "torch: reduction": (
        torch.ctc_loss,
        (LOGITS, LABELS, FRAMES, LENGTHS),
        {"reduction": "max"},
        "reduction must be",
    ),
    "torch: dtype": (
        torch.ctc_loss,
        (LOGITS.astype(int), LABELS, FRAMES, LENGTHS),
        {},
        "log_probs must have one of the dtypes",
    ),
    "torch: NaN": (
        torch.ctc_loss,
        (LOGITS * np.nan, LABELS, FRAMES, LENGTHS),
        {},
        "log_probs[0, 0, 0] is nan",
    ),
    "tensorflow: rank": (
        TF,
        (LABELS, FIVE, LENGTHS, FRAMES),
        {},
        "logits must have shape (T, N, C), frames first",
    ),
    "tensorflow: lengths": (
        TF,
        (LABELS, LOGITS, LENGTHS, (4,)),
        {},
        "logit_length must have shape (2,)",
    ),
    "tensorflow: class": (TF, (LABELS + 1, LOGITS, LENGTHS, FRAMES), {}, "labels[0, 1] is 3"),
    "tensorflow: strict class": (
        TF,
        (LABELS + 1, LOGITS, LENGTHS, FRAMES),
        {"strict_compat": True},
        "labels[0, 1] is 3",
    ),
    "tensorflow: float labels": (
        TF,
        (LABELS * 1.0, LOGITS, LENGTHS, FRAMES),
        {},
        "labels must have an integer dtype",
    ),
    "tensorflow: blank": (
        TF,
        (LABELS, LOGITS, LENGTHS, FRAMES),
        {"blank_index": -4},
        "blank_index=-4 is out of range",
    ),
    "tensorflow: sparse blank": (
        TF,
        (SPARSE, LOGITS, None, FRAMES),
        {},
        "blank_index must be given for sparse labels",
    ),
    "tensorflow: time major": (
        TF,
        (LABELS, LOGITS, LENGTHS, FRAMES, "yes"),
        {},
        "logits_time_major must be True or False",
    ),
    "tensorflow: blank a float": (
        TF,
        (LABELS, LOGITS, LENGTHS, FRAMES),
        {"blank_index": 0.0},
        "blank_index must be an int",
    ),
    "tensorflow: sparse parts": (
        TF,
        ((SPARSE[0][:1], *SPARSE[1:]), LOGITS, None, FRAMES),
        {"blank_index": 0},
        "labels must be sparse with indices (M, 2)",
    ),
    "tensorflow: sparse floats": (
        TF,
        ((SPARSE[0], SPARSE[1] * 1.0, (2, 1)), LOGITS, None, FRAMES),
        {"blank_index": 0},
        "labels must have an integer dtype",
    ),
    "tensorflow: sparse rows": (
        TF,
        ((SPARSE[0] + 1, *SPARSE[1:]), LOGITS, None, FRAMES),
        {"blank_index": 0},
        "labels must have rows from 0 to 1",
    ),
    "v1: dense": (
        tensorflow.ctc_loss_v1,
        (LABELS, LOGITS, FRAMES),
        {},
        "labels must be a SparseTensor",
    ),
    "v1: no inputs": (tensorflow.ctc_loss_v1, (SPARSE,), {}, "inputs must be given"),
    "v1: lengths": (
        tensorflow.ctc_loss_v1,
        (SPARSE, LOGITS, (9, 4)),
        {},
        "sequence_length[0] is 9",
    ),
    "unique": (tensorflow.ctc_unique_labels, (FIVE,), {}, "labels must be integers (N, S)"),
    "collapse": (
        tensorflow.collapse_repeated,
        (LABELS, [1]),
        {},
        "seq_length must have shape (2,)",
    ),
    "collapse: too long": (
        tensorflow.collapse_repeated,
        (LABELS, [2, 3]),
        {},
        "seq_length[1] is 3: expected 0 to 2",
    ),
    "collapse: negative": (
        tensorflow.collapse_repeated,
        (LABELS, [-1, 2]),
        {},
        "seq_length[0] is -1",
    ),
    "collapse: floats": (
        tensorflow.collapse_repeated,
        (LABELS, [1.5, 2.0]),
        {},
        "seq_length must have an integer dtype",
    ),
    "optax: rank": (
        optax.ctc_loss,
        (FIVE, NO_PADDING[0], LABELS, NO_PADDING[1]),
        {},
        "logits must have shape (B, T, K)",
    ),
    "optax: paddings": (
        optax.ctc_loss,
        (LOGITS, NO_PADDING[0], LABELS, np.zeros((2, 2))),
        {},
        "labels must have shape",
    ),
    "optax: frames": (
        optax.ctc_loss,
        (LOGITS, np.zeros((4, 3)), LABELS, np.zeros((2, 2))),
        {},
        "logit_paddings must have shape (4, 2)",
    ),
    "optax: values": (
        optax.ctc_loss,
        (LOGITS[:2], np.full((2, 2), 0.5), LABELS, np.zeros((2, 2))),
        {},
        "logit_paddings must be 0 or 1",
    ),
    "optax: gap": (
        optax.ctc_loss,
        (LOGITS[:2], np.zeros((2, 2)), LABELS, np.asarray([[1, 0], [0, 0]])),
        {},
        "label_paddings must have its ones after",
    ),
    "optax: blank": (
        optax.ctc_loss,
        (LOGITS[:2], np.zeros((2, 2)), LABELS, np.zeros((2, 2))),
        {"blank_id": 1},
        "labels[0, 0] is 1 (sequence 0, position 0): that is the blank (blank_id=1)",
    ),
    "keras: rank": (
        keras.ctc_loss,
        (LABELS, FIVE, LENGTHS, FRAMES),
        {},
        "output must have shape (N, T, C)",
    ),
    "keras: class": (
        keras.ctc_loss,
        (LABELS + 1, LOGITS[:2], LENGTHS, (2, 2)),
        {},
        "target[0, 1] is 3",
    ),
    "keras: lengths": (
        keras.ctc_loss,
        (LABELS, LOGITS[:2], LENGTHS, FRAMES),
        {},
        "output_length[0] is 4",
    ),
    "keras: blank": (
        keras.ctc_loss,
        (LABELS, LOGITS[:2], LENGTHS, (2, 2)),
        {"mask_index": 2},
        "(mask_index=2)",
    ),
    "tfjs: rank": (tfjs.ctc_loss, (LABELS, LOGITS), {}, "labels must have shape (N, T, C)"),
    "tfjs: shape": (
        tfjs.ctc_loss,
        (LOGITS[:, :1], LOGITS),
        {},
        "labels must have the shape of predictions",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_call_is_one_error_in_the_terms_of_the_caller(name):
    function, arguments, options, says = WRONG[name]
    with pytest.raises(ctcx.CTCInputError) as caught:
        function(*arguments, **options)
    assert says in str(caught.value)
    assert says.startswith(caught.value.argument) or caught.value.argument in str(caught.value)
    if says.partition(" ")[0] not in ("(mask_index=2)", "add"):
        assert caught.value.argument == says.partition(" ")[0].partition("[")[0].partition("=")[0]


def test_what_went_wrong_stays_where_it_was():
    with pytest.raises(ctcx.CTCInputError) as caught:
        torch.ctc_loss(LOGITS, LABELS + 1, FRAMES, LENGTHS)
    assert (caught.value.sequence, caught.value.position, caught.value.value) == (0, 1, 3)
    assert caught.value.__suppress_context__


def test_the_decoders_take_arrays_of_any_library():
    array_api_strict = needed("array_api_strict")
    frames = np.asarray([[[0, 0, 9]], [[0, 0, 9]], [[9, 0, 0]], [[0, 0, 9]]])  # c c a c; T, N, C
    for xp in (np, array_api_strict):
        x, swapped = xp.asarray(frames * 1.0), xp.asarray(frames.swapaxes(0, 1) * 1.0)
        ((indices, labels, shape),), score = tensorflow.ctc_greedy_decoder(x, [4], blank_index=0)
        assert np.asarray(labels).tolist() == [2, 2]
        assert np.asarray(indices).tolist() == [[0, 0], [0, 1]]
        assert np.asarray(shape).tolist() == [1, 2]
        assert np.asarray(score).tolist() == [[-36.0]]
        (first, _), scores = tensorflow.ctc_beam_search_decoder(x, None, 8, 2)
        assert np.asarray(first[1]).tolist() == [0]
        decoded, again = keras.ctc_decode(swapped, [4], "beam_search", 8, 2, mask_index=-1)
        assert np.asarray(decoded)[0].tolist() == [[0, -1, -1, -1]]
        np.testing.assert_array_equal(np.asarray(again), np.asarray(scores))
        assert all(isinstance(each, type(x)) for each in (indices, labels, shape, score, decoded))


def test_v1s_beam_search_merges_double_letters_unless_told_not_to():
    frames = np.eye(3)[[0, 2, 0, 1, 1]][:, None, :] * 20  # a blank a b b: aab
    for options, expected in (((), [0, 1]), ((True,), [0, 1]), ((False,), [0, 0, 1])):
        ((_, labels, shape),), scores = tensorflow.ctc_beam_search_decoder_v1(
            frames, [5], 4, 1, *options
        )
        assert labels.tolist() == expected
        assert shape.tolist() == [1, len(expected)]
        np.testing.assert_allclose(scores, [[0]], atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: tensorflow.ctc_greedy_decoder(LOGITS[0], [4]),
            r"inputs must have shape \(T, N, C",
        ),
        (lambda: tensorflow.ctc_greedy_decoder(LOGITS, [5, 1]), r"sequence_length\[0\] is 5"),
        (
            lambda: tensorflow.ctc_greedy_decoder(LOGITS, [4, 1], blank_index=3),
            "blank_index=3 is out of range",
        ),
        (
            lambda: tensorflow.ctc_beam_search_decoder(LOGITS, [4, 1], 2, 3),
            "top_paths is 3, but a beam of beam_width 2",
        ),
        (
            lambda: tensorflow.ctc_beam_search_decoder_v1(LOGITS, [4, 1], merge_repeated="no"),
            "merge_repeated must be True or False",
        ),
        (lambda: keras.ctc_decode(LOGITS[0], [4]), r"inputs must have shape \(N, T, C\)"),
        (lambda: keras.ctc_decode(LOGITS, [9] * 4), r"sequence_lengths\[0\] is 9"),
        (lambda: keras.ctc_decode(LOGITS, [1] * 4, "best"), "strategy must be one of 'greedy'"),
    ],
)
def test_the_decoders_say_what_is_wrong_in_the_terms_of_the_call(call, message):
    with pytest.raises(ctcx.CTCInputError, match=message):
        call()
