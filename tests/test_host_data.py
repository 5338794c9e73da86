"""Data of the host of every kind, in every argument: the right number, or a refusal in words."""

import functools

import numpy as np
import pytest

import ctcx
from ctcx.compat import keras, optax, tensorflow, tfjs, torchaudio
from ctcx.compat import torch as compat_torch
from tests.helpers import optional, random_problem, strict_array

torch, jnp = optional("torch"), optional("jax.numpy")
LOGITS, LABELS, FRAMES, LENGTHS = random_problem(3, 2, 7, 4, 3)
EXPECTED = ctcx.ctc_loss_and_grad(LOGITS, LABELS, FRAMES, LENGTHS)


def unaligned(array):
    """The same values at an odd address, as in a file that has a header."""
    array = np.ascontiguousarray(array)
    memory = np.zeros(array.nbytes + 1, dtype=np.uint8)
    view = np.frombuffer(memory, dtype=array.dtype, count=array.size, offset=1)
    view.flags.writeable = True
    view[:] = array.ravel()
    return view.reshape(array.shape)


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def spread(array):
    """Every other element of a larger array, backwards along each axis."""
    larger = np.zeros([2 * size for size in array.shape], dtype=array.dtype)
    every = tuple(slice(None, None, -2) for _ in array.shape)
    larger[every] = array
    return larger[every]


class Subclass(np.ndarray):
    """As astropy's quantities and others are; keeps its type through everything."""

    def __getitem__(self, key):
        return np.atleast_3d(super().__getitem__(key))


SAME = {
    "read-only": read_only,
    "unaligned": unaligned,
    "strides": spread,
    "Fortran order": np.asfortranarray,
    "subclass": lambda array: array.view(Subclass),
    "record array of numbers": lambda array: array.view(np.recarray),
}


@pytest.mark.parametrize("kind", SAME)
def test_the_same_values_in_another_kind_of_array_are_the_same_problem(kind):
    change = SAME[kind]
    result = ctcx.ctc_loss_and_grad(*map(change, (LOGITS, LABELS, FRAMES, LENGTHS)))
    np.testing.assert_array_equal(result.loss, EXPECTED.loss)
    np.testing.assert_array_equal(result.grad, EXPECTED.grad)
    assert type(result.loss) is type(result.grad) is np.ndarray
    np.testing.assert_array_equal(ctcx.min_frames(change(LABELS)), ctcx.min_frames(LABELS))


@pytest.mark.parametrize("dtype", ["i1", "u1", ">i2", "<u4", ">i8", "u8"])
def test_integers_of_every_kind_are_labels_and_lengths(dtype):
    integers = [array.astype(dtype) for array in (LABELS, FRAMES, LENGTHS)]
    result = ctcx.ctc_loss_and_grad(LOGITS, *integers)
    np.testing.assert_array_equal(result.loss, EXPECTED.loss)
    np.testing.assert_array_equal(
        ctcx.min_frames(LABELS.astype(dtype), LENGTHS.astype(dtype)),
        ctcx.min_frames(LABELS, LENGTHS),
    )


def test_a_matrix_is_one_sequence():
    expected = ctcx.ctc_loss(LOGITS[0], [1, 2])
    with pytest.warns(PendingDeprecationWarning):
        matrix = np.asmatrix(LOGITS[0])
    np.testing.assert_array_equal(ctcx.ctc_loss(matrix, [1, 2]), expected)


def test_an_array_of_one_number_that_is_spread_is_read_as_such():
    spread_out = np.broadcast_to(np.float32(2), (2, 7, 4))
    whole = np.full((2, 7, 4), 2, dtype=np.float32)
    for call in (ctcx.ctc_loss, lambda *a: ctcx.ctc_loss_and_grad(*a).grad):
        np.testing.assert_array_equal(
            call(spread_out, np.broadcast_to(1, (2, 3)), np.broadcast_to(6, 2)),
            call(whole, np.ones((2, 3), dtype=int), np.full(2, 6)),
        )


LENGTH = {
    "int": 6,
    "NumPy scalar": np.int64(6),
    "small NumPy scalar": np.uint8(6),
    "0-d array": np.asarray(6),
    "list": [6],
    "list of NumPy scalars": [np.int32(6)],
}
LIBRARIES = {
    "numpy": np.asarray,
    "torch": lambda a: torch.tensor(a),
    "jax": lambda a: jnp.asarray(a),
    "strict": lambda a: strict_array(a, "device1"),
}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("kind", LENGTH)
def test_a_length_of_one_sequence_is_an_int_of_any_kind(library, kind):
    logits = LIBRARIES[library](LOGITS[0])
    expected = ctcx.ctc_loss(LOGITS[0], [1, 2], 6)
    for labels in ([1, 2], np.asarray([1, 2])):
        loss = ctcx.ctc_loss(logits, labels, LENGTH[kind])
        assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    short = ctcx.ctc_loss(logits, [1, 2, 3], 6, np.int64(2))
    assert float(short) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("argument", ["labels", "logit_lengths", "label_lengths"])
def test_a_large_integer_is_named_as_the_caller_wrote_it(library, argument):
    """Also where the library's integers are smaller."""
    for value in (2**32 + 1, 2**62, -(2**40)):
        arguments = {"labels": [[1, 2], [3, 1]], "logit_lengths": [6, 6], "label_lengths": [2, 2]}
        changed = arguments[argument]
        (changed[1] if argument == "labels" else changed)[1] = value
        with pytest.raises(
            ctcx.CTCInputError, match=rf"^{argument}\[1(, 1)?\] is {value}\b"
        ) as got:
            ctcx.ctc_loss(LIBRARIES[library](LOGITS), **arguments)
        assert (got.value.argument, got.value.sequence, got.value.value) == (argument, 1, value)


def masked(array):
    return np.ma.array(array, mask=np.zeros(array.shape, dtype=bool))


class Frame:
    """As a data frame of pandas, as far as anybody can see."""

    def to_numpy(self):
        return LABELS

    def __iter__(self):
        return iter(["first", "second"])


class Wrapped:
    """As an array of xarray."""

    def __array__(self, dtype=None, copy=None):
        return np.asarray(LOGITS)


ARGUMENTS = ("logits", "labels", "logit_lengths", "label_lengths")


def with_argument(argument, value, **options):
    arguments = dict(zip(ARGUMENTS, (LOGITS, LABELS, FRAMES, LENGTHS), strict=True))
    return arguments | {argument: value} | options


CALLS = {
    "ctc_loss": ctcx.ctc_loss,
    "ctc_loss_and_grad": ctcx.ctc_loss_and_grad,
    "explain": ctcx.explain,
    "ctc_hvp": functools.partial(ctcx.ctc_hvp, vector=LOGITS),
}
NO_LOGITS = {
    "masked": (masked(LOGITS), r"masked array.*\.filled\(0\).*logit_lengths"),
    "masked where nothing is": (np.ma.array(LOGITS), "masked array"),
    "long double": (LOGITS.astype(np.longdouble), "got (float128|longdouble|float64)"),
    "complex": (LOGITS.astype(np.complex64), "got complex64"),
    "bool": (LOGITS > 0, "got bool"),
    "objects": (LOGITS.astype(object), "got object"),
    "strings": (LOGITS.astype(str), "got "),
    "another byte order": (LOGITS.astype(LOGITS.dtype.newbyteorder()), r"byte order: pass"),
    "structured": (np.zeros((2, 7, 4), dtype=[("a", "f4"), ("b", "f4")]), "got "),
    "dates": (np.zeros((2, 7, 4), dtype="M8[s]"), "got datetime64"),
    "a data frame": (Frame(), r"got .*Frame; pass its values, x.to_numpy\(\)"),
    "what can be an array": (Wrapped(), r"got .*Wrapped; pass numpy.asarray\(x\)"),
    "a memory view": (memoryview(LOGITS), r"got memoryview; pass numpy.asarray\(x\)"),
    "a scalar": (np.float32(3), r"must have shape"),
    "None": (None, "got NoneType"),
    "a generator": ((row for row in LOGITS), "got generator; it decides"),
    "lists": (LOGITS.tolist(), "got list; it decides"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", NO_LOGITS)
def test_other_logits_are_refused_in_words(call, kind):
    value, message = NO_LOGITS[kind]
    with pytest.raises(ctcx.CTCInputError, match=rf"(?s)^logits.*{message}") as caught:
        CALLS[call](**with_argument("logits", value))
    assert caught.value.argument == "logits"


ROWS = [[1, 2, 3], [1, 2, 3]]
NO_LABELS = {
    "masked": (masked(LABELS), r"masked array.*\.filled\(0\).*label_lengths", None),
    "floats": (LABELS * 1.0, "integer dtype, got float64", None),
    "complex": (LABELS * 1j, "integer dtype, got complex128", None),
    "bools": (LABELS > 1, "integer dtype, got bool", None),
    "objects": (LABELS.astype(object), "integer dtype, got object", None),
    "a set": ({1, 2}, "got set; pass a list, in the order", None),
    "a dict": ({0: [1], 1: [2]}, "got dict; pass a list", None),
    "a string": ("12", "got str", None),
    "a generator": ((row for row in ROWS), "got generator; pass a list", None),
    "a data frame": (Frame(), r"x.to_numpy\(\)", None),
    "a memory view": (memoryview(LABELS), r"numpy.asarray\(x\)", None),
    "a set as a row": ([[1], {2, 1}], r"labels\[1\] must be a list .*set", (1, None)),
    "a dict as a row": ([{1: 2}, [1]], r"labels\[0\] must be a list .*dict", (0, None)),
    "a string as a row": ([[1], "23"], r"labels\[1\] must be a list .*str", (1, None)),
    "a generator as a row": ([[1], iter([2])], r"labels\[1\] must be a list", (1, None)),
    "bytes as a row": ([[1], b"\1"], r"labels\[1\] must be a list .*bytes", (1, None)),
    "a masked row": ([masked(np.asarray([1])), [1]], r"labels\[0\] .*masked", (0, None)),
    "a row of floats": ([np.asarray([1.0]), [1]], r"labels\[0\] must have an int", (0, None)),
    "a row of bools": ([[1], np.asarray([True])], r"labels\[1\] must have an int", (1, None)),
    "a row of two axes": ([[1], np.ones((1, 1), int)], r"labels\[1\] must have one", (1, None)),
    "a number that is masked": ([[1, np.ma.masked], [1]], r"labels\[0\]\[1\] is", (0, 1)),
    "nested too deep": ([[[1]], [[2]]], r"labels\[0\]\[0\] is \[1\] of type list", (0, 0)),
    "a float": ([[1, 2], [1, 2.0]], r"labels\[1\]\[1\] is 2.0 of type float", (1, 1)),
    "a bool": ([[1], [3, True]], r"labels\[1\]\[1\] is True of type bool", (1, 1)),
    "a NumPy bool": ([[1], [np.True_]], r"labels\[1\]\[0\] is ", (1, 0)),
    "None": ([[1], [None]], r"labels\[1\]\[0\] is None", (1, 0)),
    "a huge integer": ([[1], [2**70]], r"labels\[1\]\[0\] is 1180591620717411303424", (1, 0)),
    "a huge negative integer": ([[-(2**70)], [1]], r"labels\[0\]\[0\] is -118", (0, 0)),
    "a huge unsigned one": (
        np.full((2, 1), 2**64 - 1, dtype=np.uint64),
        r"labels\[0, 0\] is 18446744073709551615",
        (0, 0),
    ),
    "a negative one": ([[1], [2, -1]], r"labels\[1, 1\] is -1 .*padding belongs past", (1, 1)),
}


def test_lengths_beyond_the_ends_of_lists_are_refused():
    labels, lengths = [[1], [2, 3]], [2, 2]
    logits, elsewhere = strict_array(LOGITS, "CPU_DEVICE"), strict_array(lengths, "CPU_DEVICE")
    for call in (
        lambda: ctcx.ctc_loss(logits, labels, None, elsewhere, blank=-1),
        lambda: ctcx.min_frames(labels, lengths),
        lambda: ctcx.labels_to_one_hot(labels, lengths, num_classes=4, num_frames=7, blank=0),
    ):
        with pytest.raises(ctcx.CTCInputError, match=r"labels\[0, 1\] is -1 .*that of lists"):
            call()


ONE_HOT = functools.partial(ctcx.labels_to_one_hot, num_classes=4, num_frames=7, blank=0)


@pytest.mark.parametrize("kind", NO_LABELS)
@pytest.mark.parametrize("call", ["ctc_loss", "ctc_loss_and_grad", "min_frames", "one_hot"])
def test_other_labels_are_refused_in_words(kind, call):
    value, message, place = NO_LABELS[kind]
    if kind.endswith("a generator"):
        value = (row for row in ROWS)
    run = {
        "min_frames": ctcx.min_frames,
        "one_hot": ONE_HOT,
        "ctc_loss": lambda labels: ctcx.ctc_loss(LOGITS, labels),
        "ctc_loss_and_grad": lambda labels: ctcx.ctc_loss_and_grad(LOGITS, labels),
    }[call]
    with pytest.raises(
        ctcx.CTCInputError, match=rf"(?s)^labels.*{message}".replace("^labels.*labels", "^labels")
    ) as caught:
        run(value)
    assert caught.value.argument == "labels"
    if place is not None:
        assert (caught.value.sequence, caught.value.position) == place


NO_LENGTHS = {
    "masked": (masked(LENGTHS), r"masked array.*\.filled", None),
    "floats": (LENGTHS * 1.0, "integer dtype, got float64", None),
    "bools": (LENGTHS > 1, "integer dtype, got bool", None),
    "objects": (LENGTHS.astype(object), "integer dtype, got object", None),
    "a float": ([2, 1.9], r"\[1\] is 1.9 of type float", 1),
    "a bool": ([True, 2], r"\[0\] is True of type bool", 0),
    "a huge integer": ([2, 2**70], r"\[1\] is 1180591620717411303424", 1),
    "a masked one": ([np.ma.masked, 1], r"\[0\] is", 0),
    "a set": ({1, 2}, "got set", None),
    "a dict": ({1: 2, 2: 1}, "got dict", None),
    "a string": ("12", "got str", None),
    "a generator": ((n for n in (1, 2)), "got generator", None),
    "a data frame": (Frame(), r"x.to_numpy\(\)", None),
    "nested": ([[1], [2]], r"\[0\] is \[1\] of type list", 0),
    "too few": ([1], r"must have shape \(2,\).*got \(1,\)", None),
    "an int for two": (2, r"must have shape \(2,\).*got \(\)", None),
    "a NumPy scalar for two": (np.int64(2), r"must have shape \(2,\).*got \(\)", None),
    "a column": (LENGTHS[:, None], r"must have shape \(2,\).*got \(2, 1\)", None),
    "a negative one": ([2, -1], r"\[1\] is -1: expected 0 to", 1),
    "one too large": (np.asarray([99, 1]), r"\[0\] is 99: expected 0 to", 0),
}


@pytest.mark.parametrize("kind", NO_LENGTHS)
@pytest.mark.parametrize("argument", ["logit_lengths", "label_lengths", "min_frames", "one_hot"])
def test_other_lengths_are_refused_in_words(kind, argument):
    value, message, sequence = NO_LENGTHS[kind]
    if kind == "a generator":
        value = (n for n in (1, 2))
    call = {"min_frames": ctcx.min_frames, "one_hot": ONE_HOT}.get(argument)
    if call is None:
        call, arguments = ctcx.ctc_loss, with_argument(argument, value)
    else:
        arguments = {"labels": LABELS, "label_lengths": value}
    with pytest.raises(ctcx.CTCInputError, match=message) as caught:
        call(**arguments)
    expected = argument if argument.endswith("lengths") else "label_lengths"
    assert caught.value.argument == expected
    assert str(caught.value).startswith(expected)
    assert sequence is None or caught.value.sequence == sequence


NO_OPTIONS = {
    "blank": (1.0, 0.0, True, False, np.True_, "0", None, [0], np.asarray([0]), 2**70, 4, -5),
    "time_major": ("yes", 1, 0, None, [], np.asarray(True)),
    "validate": ("bad", 1, 0, None, [], np.asarray(True)),
    "reduction": ("max", None, 3, ["sum"], np.asarray(["sum", "mean"]), b"sum"),
    "infeasible": ("tf", None, True, {"inf"}),
    "backend": (3, ["numba"], b"numba", True),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("option", NO_OPTIONS)
def test_other_options_are_refused_in_words(call, option):
    for value in NO_OPTIONS[option]:
        with pytest.raises(ctcx.CTCInputError, match=option) as caught:
            CALLS[call](LOGITS, LABELS, **{option: value})
        assert caught.value.argument == option


@pytest.mark.parametrize("call", CALLS)
def test_options_of_numpy_are_options(call):
    CALLS[call](LOGITS, LABELS, blank=np.int64(0), validate=np.True_, time_major=np.False_)
    CALLS[call](LOGITS, LABELS, blank=np.asarray(0), reduction=np.str_("sum"))


def test_explain_knows_the_operations():
    for operation in ("gradient", None, 3):
        with pytest.raises(ctcx.CTCInputError, match="operation must be one of 'loss', ") as caught:
            ctcx.explain(LOGITS, LABELS, operation=operation)
        assert caught.value.argument == "operation"


def test_sizes_of_one_hot_labels():
    for name, wrong in (("num_classes", (0, -1, 4.0, True, "4")), ("num_frames", (-1, 7.0, None))):
        for value in wrong:
            with pytest.raises(ctcx.CTCInputError, match=f"{name} must be an int") as caught:
                ONE_HOT(LABELS, **{name: value})
            assert caught.value.argument == name
    with pytest.raises(ctcx.CTCInputError, match=r"labels\[0, 1\] is 2 .*the blank") as caught:
        ctcx.labels_to_one_hot([[1, 2]], num_classes=4, num_frames=3, blank=2)
    assert (caught.value.sequence, caught.value.position, caught.value.value) == (0, 1, 2)


ROW = np.eye(3)[[[0, 1], [1, 2]]]
NO_ONE_HOT = {
    "masked": (masked(ROW), "masked array"),
    "complex": (ROW * 1j, "got complex128"),
    "strings": (ROW.astype(str), "real numbers"),
    "objects": (ROW.astype(object), "got object"),
    "a data frame": (Frame(), r"x.to_numpy\(\)"),
    "no classes": (ROW[:, :, :0], "C >= 1"),
    "NaN": (np.where(ROW[:1] * [[[1], [0]]] == 1, np.nan, ROW), "NaN in row 0 of sequence 0"),
}


@pytest.mark.parametrize("kind", NO_ONE_HOT)
def test_other_one_hot_labels_are_refused_in_words(kind):
    value, message = NO_ONE_HOT[kind]
    with pytest.raises(ctcx.CTCInputError, match=message) as caught:
        ctcx.labels_from_one_hot(value, blank=0)
    assert caught.value.argument == "one_hot"


def test_lists_that_are_empty_or_of_arrays_are_lists():
    assert ctcx.ctc_loss(LOGITS[:0], []).shape == (0,)
    assert ctcx.min_frames(np.zeros((0, 3), dtype=int)).shape == (0,)
    assert ctcx.min_frames([]) == 0
    expected = ctcx.ctc_loss(LOGITS, [[1, 2, 3], [1]])
    ragged = ([np.asarray([1, 2, 3]), np.asarray([1])], [(1, 2, 3), [np.int8(1)]])
    for labels in (*ragged, [range(1, 4), np.asarray([1], dtype=">u2")], ([1, 2, 3], (1,))):
        np.testing.assert_array_equal(ctcx.ctc_loss(LOGITS, labels), expected)
        np.testing.assert_array_equal(ctcx.min_frames(labels), [3, 1])
    np.testing.assert_array_equal(
        ctcx.ctc_loss(LOGITS, [torch.tensor([1, 2, 3]), torch.tensor([1])]), expected
    )


MASKED_IN_COMPAT = {
    "tensorflow: logits": lambda: tensorflow.ctc_loss(LABELS, masked(LOGITS), None, None, False),
    "tensorflow: labels": lambda: tensorflow.ctc_loss(masked(LABELS), LOGITS, None, None, False),
    "tensorflow: values": lambda: tensorflow.ctc_loss(
        (np.asarray([[0, 0]]), masked(np.asarray([1])), (2, 1)), LOGITS, None, None, False, None, 0
    ),
    "tensorflow: unique": lambda: tensorflow.ctc_unique_labels(masked(LABELS)),
    "tensorflow: collapse": lambda: tensorflow.collapse_repeated(LABELS, masked(LENGTHS)),
    "torch: log_probs": lambda: compat_torch.ctc_loss(masked(LOGITS[:, 0]), LABELS[0], 2, 1),
    "torch: targets": lambda: compat_torch.ctc_loss(LOGITS[:, 0], masked(LABELS[0]), (2,), (1,)),
    "torch: input_lengths": lambda: compat_torch.ctc_loss(
        LOGITS[:, 0], LABELS[0], masked(np.asarray([2])), (1,)
    ),
    "keras: target": lambda: keras.ctc_loss(masked(LABELS), LOGITS, LENGTHS, FRAMES),
    "keras: output_length": lambda: keras.ctc_loss(LABELS, LOGITS, LENGTHS, masked(FRAMES)),
    "optax: logit_paddings": lambda: optax.ctc_loss(
        LOGITS, masked(np.zeros((2, 7))), LABELS, np.zeros((2, 3))
    ),
    "optax: label_paddings": lambda: optax.ctc_loss(
        LOGITS, np.zeros((2, 7)), LABELS, masked(np.zeros((2, 3)))
    ),
    "torchaudio: log_probs": lambda: torchaudio.forced_align(masked(LOGITS), LABELS),
    "torchaudio: input_lengths": lambda: torchaudio.forced_align(LOGITS, LABELS, masked(FRAMES)),
    "torchaudio: tokens": lambda: torchaudio.merge_tokens(masked(FRAMES), FRAMES),
    "tfjs: labels": lambda: tfjs.ctc_loss(masked(LOGITS), LOGITS),
    "tfjs: predictions": lambda: tfjs.ctc_loss(LOGITS, masked(LOGITS)),
}


@pytest.mark.parametrize("what", MASKED_IN_COMPAT)
def test_masks_are_not_dropped_by_the_functions_of_other_libraries(what):
    with pytest.raises(ctcx.CTCInputError, match="masked array"):
        MASKED_IN_COMPAT[what]()
