"""Each kind of bad input gets an error that says argument, place, value and expectation."""

import array_api_compat
import array_api_strict
import numpy as np
import pytest

import ctcx
from ctcx.data.bundled import notebook_random_example
from tests.helpers import optional

torch, jax, jnp = optional("torch"), optional("jax"), optional("jax.numpy")

LOGITS = np.zeros((2, 6, 4), dtype=np.float32)
LABELS = np.array([[1, 2, 3], [3, 2, 1]])


def with_value(array, index, value):
    changed = np.array(array)
    changed[index] = value
    return changed


def test_the_notebooks_random_example():
    """Label 4 with 4 classes: TensorFlow takes it silently and returns a wrong number."""
    example = notebook_random_example()
    with pytest.raises(ctcx.CTCInputError) as caught:
        ctcx.ctc_loss(example.logits, example.labels, blank=example.blank)
    error = caught.value
    assert (error.argument, error.sequence, error.position, error.value) == ("labels", 0, 2, 4)
    assert "labels[0, 2] is 4" in str(error)
    assert "expected 0 to 3" in str(error)


VALUES = {
    "label too large": (
        (LOGITS, with_value(LABELS, (1, 2), 4)),
        {},
        ("labels", 1, 2, 4),
        r"labels\[1, 2\] is 4 .*expected 0 to 3",
    ),
    "label negative": (
        (LOGITS, with_value(LABELS, (0, 1), -1)),
        {},
        ("labels", 0, 1, -1),
        r"is -1 .*padding belongs past the sequence's label_lengths",
    ),
    "label is the blank": (
        (LOGITS, LABELS),
        {"blank": -2},
        ("labels", 0, 1, 2),
        r"labels\[0, 1\] is 2 .*the blank \(blank=2\)",
    ),
    "label beyond int32": (
        (LOGITS, [[1], [2**40]]),
        {},
        ("labels", 1, 0, 2**40),
        r"is 1099511627776",
    ),
    "logit length too large": (
        (LOGITS, LABELS, [6, 7]),
        {},
        ("logit_lengths", 1, None, 7),
        r"logit_lengths\[1\] is 7: expected 0 to 6, the number of frames",
    ),
    "logit length negative": (
        (LOGITS, LABELS, [-1, 6]),
        {},
        ("logit_lengths", 0, None, -1),
        r"logit_lengths\[0\] is -1",
    ),
    "label length too large": (
        (LOGITS, LABELS, None, [3, 4]),
        {},
        ("label_lengths", 1, None, 4),
        r"label_lengths\[1\] is 4: expected 0 to 3",
    ),
    "NaN": (
        (with_value(LOGITS, (1, 2, 3), np.nan), LABELS),
        {},
        ("logits", 1, (2, 3), None),
        r"logits\[1, 2, 3\] is nan \(sequence 1, frame 2, class 3\)",
    ),
    "+inf": (
        (with_value(LOGITS, (0, 5, 0), np.inf), LABELS),
        {},
        ("logits", 0, (5, 0), np.inf),
        r"is inf .*-inf for a masked class",
    ),
}
LIBRARIES = {
    "numpy": lambda a: a,
    "torch": lambda a: torch.tensor(a),
    "jax": lambda a: jnp.asarray(a),
    "strict": lambda a: array_api_strict.asarray(a, device=array_api_strict.Device("device1")),
}


def sample_paths(logits, labels, *lengths, time_major=False, **options):
    """Draw a path of each sequence; only the logits and labels are wrong."""
    shape = [1] if logits.ndim == 2 else [logits.shape[1 if time_major else 0], 1]
    frames = logits.shape[0 if logits.ndim == 2 or time_major else 1]
    make = array_api_compat.array_namespace(logits).zeros
    uniforms = make((*shape, frames), dtype=logits.dtype, device=array_api_compat.device(logits))
    options["time_major"] = time_major
    names = ("logit_lengths", "label_lengths")
    lengths = dict(zip(names, lengths, strict=False))
    return ctcx.ctc_sample_paths(logits, labels, uniforms, **lengths, **options)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("kind", VALUES)
def test_wrong_values(kind, library):
    (logits, *rest), options, facts, message = VALUES[kind]
    logits = LIBRARIES[library](logits)
    calls = (ctcx.ctc_loss, ctcx.ctc_loss_and_grad, ctcx.ctc_align)
    for call in (*calls, ctcx.ctc_occupancies, ctcx.ctc_entropy, sample_paths):
        with pytest.raises(ctcx.CTCInputError, match=message) as caught:
            call(logits, *rest, **options)
        error = caught.value
        assert (error.argument, error.sequence, error.position) == facts[:3]
        assert facts[3] is None or error.value == facts[3]


@pytest.mark.parametrize("library", ["torch", "jax"])
@pytest.mark.parametrize("kind", ["label too large", "label negative", "label is the blank"])
def test_wrong_values_in_labels_on_the_device(kind, library):
    (logits, labels), options, facts, message = VALUES[kind]
    make = LIBRARIES[library]
    with pytest.raises(ctcx.CTCInputError, match=message) as caught:
        ctcx.ctc_loss(make(logits), make(labels), **options)
    assert (caught.value.sequence, caught.value.position) == facts[1:3]


def test_frames_first_in_the_message_where_they_are_first():
    logits = with_value(LOGITS.swapaxes(0, 1), (2, 1, 3), np.nan)
    with pytest.raises(ctcx.CTCInputError, match=r"logits\[2, 1, 3\].*sequence 1, frame 2"):
        ctcx.ctc_loss(logits, LABELS, time_major=True)


STATIC = {
    "logits no array": (([[[0.0]]], LABELS), {}, "logits", "got list"),
    "logits of ints": ((LOGITS.astype(int), LABELS), {}, "logits", "got int64"),
    "logits complex": ((LOGITS.astype(complex), LABELS), {}, "logits", "got complex128"),
    "logits 1-D": ((LOGITS[0, 0], [1]), {}, "logits", r"got \(4,\)"),
    "no classes": ((LOGITS[:, :, :0], LABELS), {}, "logits", "0 classes"),
    "batch sizes": ((LOGITS, LABELS[:1]), {}, "labels", r"\(2, S\).*got \(1, 3\)"),
    "one-hot labels": ((LOGITS, np.eye(4, dtype=int)[LABELS]), {}, "labels", "labels_from_one_hot"),
    "labels of floats": ((LOGITS, LABELS * 1.0), {}, "labels", "integer dtype, got float64"),
    "labels a number": ((LOGITS, 3), {}, "labels", "got int"),
    "flat list": ((LOGITS, [1, 2]), {}, "labels", "list of lists"),
    "float in a list": ((LOGITS, [[1, 2.5], [1]]), {}, "labels", r"labels\[0\]\[1\] is 2.5"),
    "string in a list": ((LOGITS, [[1], "ab"]), {}, "labels", r"labels\[1\] must be a list"),
    "bool in a list": ((LOGITS, [[1], [True]]), {}, "labels", r"labels\[1\]\[0\] is True"),
    "bool beside ints": (
        (LOGITS, [[1, 2], [3, True]]),
        {},
        "labels",
        "True of type bool: expected an integer, which booleans don't count as",
    ),
    "a bool of NumPy": ((LOGITS, [[1], [np.True_]]), {}, "labels", "booleans don't count"),
    "lengths of floats": (
        (LOGITS, LABELS, [6.0, 6.0]),
        {},
        "logit_lengths",
        r"\[0\] is 6.0 of type float",
    ),
    "too few lengths": ((LOGITS, LABELS, [6]), {}, "logit_lengths", r"\(2,\).*got \(1,\)"),
    "lengths no numbers": ((LOGITS, LABELS, None, ["a", "b"]), {}, "label_lengths", r"is 'a' of"),
    "lengths ragged": ((LOGITS, LABELS, [[1], [1, 2]]), {}, "logit_lengths", r"\[0\] is \[1\] of"),
    "lengths beyond a list": (
        (LOGITS, [[1, 2], [3]], None, [2, 2]),
        {},
        "label_lengths",
        r"label_lengths\[1\] is 2, but the list labels\[1\] holds 1",
    ),
    "lists for one sequence": ((LOGITS[0], [[1, 2]]), {}, "labels", "one list of classes"),
    "frames first": (
        (LOGITS.swapaxes(0, 1), LABELS),
        {},
        "labels",
        r"of shape \(6, 2, 4\); got \(2, 3\); they would fit with time_major=True",
    ),
    "frames not first": (
        (LOGITS, LABELS),
        {"time_major": True},
        "labels",
        r"\(T, N, C\) of shape \(2, 6, 4\); got \(2, 3\); they would fit without",
    ),
    "labels in one axis": (
        lambda: (torch.tensor(LOGITS), torch.tensor([1, 2, 3]), None, torch.tensor([2, 1])),
        {},
        "labels",
        r"got \(3,\); labels of all sequences in one axis are for ctcx.compat.torch.ctc_loss",
    ),
    "keys of JAX for labels": (
        lambda: (jnp.asarray(LOGITS), jax.random.split(jax.random.key(0), 2)[:, None]),
        {},
        "labels",
        "must have an integer dtype, got key",
    ),
    "blank too large": ((LOGITS, LABELS), {"blank": 4}, "blank", "expected -4 to 3"),
    "blank too small": ((LOGITS, LABELS), {"blank": -5}, "blank", "out of range for 4 classes"),
    "blank of more than 64 bits": (
        (LOGITS, LABELS),
        {"blank": 2**70},
        "blank",
        f"blank={2**70} is out of range for 4 classes: expected -4 to 3",
    ),
    "blank a float": ((LOGITS, LABELS), {"blank": 0.0}, "blank", "got 0.0 of type float"),
    "blank a bool": ((LOGITS, LABELS), {"blank": True}, "blank", "of type bool"),
    "reduction": (
        (LOGITS, LABELS),
        {"reduction": "max"},
        "reduction",
        "'mean_per_label'; got 'max'",
    ),
    "infeasible": ((LOGITS, LABELS), {"infeasible": "tf"}, "infeasible", "'inf', 'zero', 'raise'"),
    "another library": (
        lambda: (LOGITS, torch.tensor(LABELS)),
        {},
        "labels",
        "torch, but the logits are of numpy",
    ),
    "another device": (
        lambda: (torch.zeros((2, 6, 4)), torch.zeros((2, 3), dtype=torch.int64, device="meta")),
        {},
        "labels",
        "on device meta, but the logits are on cpu",
    ),
    "lengths of another library": (
        lambda: (torch.tensor(LOGITS), LABELS, jnp.asarray([6, 6])),
        {},
        "logit_lengths",
        "jax.numpy, but the logits are of torch",
    ),
}


@pytest.mark.parametrize("kind", STATIC)
def test_wrong_types_shapes_and_places(kind):
    arguments, options, argument, message = STATIC[kind]
    arguments = arguments() if callable(arguments) else arguments
    for validate in (True, False):  # these are checked in any case
        with pytest.raises(ctcx.CTCInputError, match=message) as caught:
            ctcx.ctc_loss(*arguments, **options, validate=validate)
        assert caught.value.argument == argument
    assert isinstance(caught.value, ValueError)


def test_what_stands_past_a_length_is_not_checked():
    logits = with_value(LOGITS, (1, slice(4, None)), np.nan)
    labels = with_value(LABELS, (slice(None), 2), 99)
    assert np.isfinite(ctcx.ctc_loss(logits, labels, [6, 4], [2, 2])).all()


def test_errors_change_nothing():
    labels = with_value(LABELS, (1, 2), 4)
    logits, before = LOGITS.copy(), labels.copy()
    with pytest.raises(ctcx.CTCInputError):
        ctcx.ctc_loss_and_grad(logits, labels)
    np.testing.assert_array_equal(labels, before)
    np.testing.assert_array_equal(logits, LOGITS)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bool", "int64"])
def test_one_hot_labels_are_told_what_to_call(dtype):
    one_hot = np.eye(4)[[[1, 2], [3, 1]]].astype(dtype)
    with pytest.raises(ctcx.CTCInputError, match=r"labels_from_one_hot"):
        ctcx.ctc_loss(np.zeros((2, 5, 4), np.float32), one_hot)


def test_a_place_is_found_on_a_device_without_64_bit_types():
    device = array_api_strict.Device("no_x64")
    wrong = np.where(np.arange(LOGITS.size).reshape(LOGITS.shape) == 30, np.nan, LOGITS)
    logits = array_api_strict.asarray(wrong.astype(np.float32), device=device)
    labels = array_api_strict.asarray(LABELS.astype(np.int32), device=device)
    with pytest.raises(ctcx.CTCInputError, match=r"logits\[1, 1, 2\] is nan"):
        ctcx.ctc_loss(logits, labels)


HUGE = 10**5000  # more digits than Python writes
WILD, ENDS = {HUGE: ("any", 0.0)}, {-2: ("any", HUGE)}
HIDDEN = (np.zeros((2, 6, 3)), np.zeros((4, 3)), None, LABELS)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ctcx.ctc_loss(LOGITS, LABELS, blank=HUGE), "blank=an int of 16610 bits is out of"),
        (lambda: ctcx.ctc_loss(LOGITS, [[HUGE], [1]]), r"labels\[0\]\[0\] is an int of 16610 bits"),
        (
            lambda: ctcx.ctc_beam_search(LOGITS, width=2**63),
            "width is 9223372036854775808: expected at most 2147483647",
        ),
        (
            lambda: ctcx.ctc_beam_search(LOGITS, top=HUGE),
            "top is an int of 16610 bits: expected",
        ),
        (lambda: ctcx.ctc_beam_search(LOGITS, lm_weight=HUGE), "lm_weight must .* an int of 16610"),
        (lambda: ctcx.ctc_beam_search(LOGITS, boost={(HUGE,): 1.0}), "got an int of 16610 bits"),
        (lambda: ctcx.ctc_align(LOGITS, LABELS, wildcards=WILD), "the label an int of 16610 bits"),
        (lambda: ctcx.ctc_align(LOGITS, LABELS, wildcards=ENDS), "nats; got an int of 16610 bits"),
        (lambda: ctcx.ctc_align(LOGITS, LABELS, free_ends=HUGE), "nats; got an int of 16610 bits"),
        (lambda: ctcx.linear_ctc_loss_and_grad(*HIDDEN, chunk=-HUGE), "got an int of 16610 bits"),
        (
            lambda: ctcx.labels_to_one_hot([[1]], num_classes=2**64, num_frames=2, blank=0),
            "num_classes must be an int from 1 to 2147483647, got 18446744073709551616",
        ),
        (lambda: ctcx.spans(ctcx.ctc_align(LOGITS[0], [1]), n=HUGE), "n is an int of 16610 bits"),
    ],
)
def test_integers_of_any_size_are_named(call, words):
    with pytest.raises(ctcx.CTCInputError, match=words):
        call()


def test_a_chunk_may_be_larger_than_any_number_of_classes():
    found = ctcx.linear_ctc_loss_and_grad(*HIDDEN, chunk=2**70)
    assert found.loss.tolist() == ctcx.linear_ctc_loss_and_grad(*HIDDEN, chunk=4).loss.tolist()
