"""What one Keras backend and ctcx say of problems on stdin, as JSON; the backend is per process."""

import json
import sys

import keras
import numpy as np

from ctcx.compat import keras as compat


def values(tensor):
    """As floats that JSON takes, infinities as strings."""
    return [str(float(value)) for value in np.reshape(keras.ops.convert_to_numpy(tensor), -1)]


def attempt(function, *arguments, **options):
    try:
        return values(function(*arguments, **options))
    except Exception as error:  # noqa: BLE001 - to be told, whatever it is
        return f"{type(error).__name__}: {error}"


def train(loss):
    """Losses of a small model over some epochs."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 6, 4)).astype("float32")
    y = np.asarray([[1, 2, 0], [3, 3, 0], [2, 0, 0], [1, 3, 2]] * 2)
    model = keras.Sequential([keras.Input((6, 4)), keras.layers.Dense(5)])
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss=loss)
    return model.fit(x, y, batch_size=4, epochs=3, shuffle=False, verbose=0).history["loss"]


def strict():
    """Losses of labels with zeros among them and after them, of ctcx and of Keras."""
    rng = np.random.default_rng(4)
    labels = np.asarray([[1, 2, 1, 0], [1, 2, 0, 2], [0, 1, 0, 1], [0, 0, 2, 0], [1, 1, 0, 0]])
    logits = rng.standard_normal((5, 7, 3)).astype("float32")
    loss = compat.CTC(reduction=None, strict_compat=True)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    theirs = keras.losses.CTC(reduction=None)
    return [values(each(labels, logits)) for each in (loss, again, theirs)]


def half():
    """Losses, and their dtypes, of classes that float16 can't tell apart, for each dtype."""
    logits = np.random.default_rng(0).standard_normal((1, 6, 4200)).astype("float32")
    answers = {}
    for dtype in (None, "float16", "bfloat16", "mixed_float16", "mixed_bfloat16"):
        loss = compat.CTC(dtype=dtype)(np.asarray([[4097, 4099]]), logits)
        answers[str(dtype)] = [values(loss), keras.backend.standardize_dtype(loss.dtype)]
    before = keras.config.floatx()
    keras.config.set_floatx("float16")
    try:
        loss = compat.CTC()(np.asarray([[4097, 4099]]), logits)
    finally:
        keras.config.set_floatx(before)
    return answers | {"floatx": [values(loss), keras.backend.standardize_dtype(loss.dtype)]}


DECODINGS = (
    {},
    {"merge_repeated": False, "mask_index": 1},
    {"mask_index": None},
    {"strategy": "beam_search", "beam_width": 400, "top_paths": 2},
    {"strategy": "beam_search", "beam_width": 400, "mask_index": 2},
    {"strategy": "beam_search", "beam_width": 400, "mask_index": None},
    {"mask_index": -2},
)


def decode():
    """Labels, scores, shapes and dtypes for each of the options, of ctcx and of Keras."""
    logits = 2 * np.random.default_rng(3).standard_normal((3, 5, 4)).astype("float32")
    arrays = [keras.ops.convert_to_tensor(each) for each in (logits, np.asarray([5, 3, 1]))]

    def told(function, options):
        labels, scores = map(keras.ops.convert_to_numpy, function(*arrays, **options))
        kinds = [list(labels.shape), labels.dtype.name, list(scores.shape), scores.dtype.name]
        return labels.tolist(), scores.tolist(), kinds

    with np.errstate(divide="ignore"):  # of Keras on NumPy
        return [
            [told(function, options) for function in (compat.ctc_decode, keras.ops.ctc_decode)]
            for options in DECODINGS
        ]


def decode_symbolic():
    """Shapes and dtypes that a model knows beforehand, and what such a model says."""
    logits = keras.Input((6, 4))
    lengths = keras.Input((), dtype="int32")
    spec = compat.ctc_decode(logits, lengths, "beam_search", 8, 2)
    return [[list(each.shape), each.dtype] for each in spec]


def ragged():
    """What becomes of a RaggedTensor, on TensorFlow alone."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    labels, logits = tf.ragged.constant([[1, 2], [1]]), np.zeros((2, 4, 3), dtype="float32")
    padded = np.asarray([[1, 2], [1, 0]])
    return [
        attempt(compat.CTC(reduction=None), labels, logits),
        attempt(compat.CTC(reduction=None), padded, logits),
        attempt(compat.ctc_loss, labels, logits, [2, 1], [4, 4]),
    ]


def padded():
    """Losses by epoch of batches that tf.data pads, so that no size is known beforehand."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    rng = np.random.default_rng(2)
    lists = [[1, 2], [3], [4, 4, 1], [1]]
    examples = [
        (rng.standard_normal((6 + len(row), 5)).astype("float32"), np.asarray(row, dtype="int32"))
        for row in lists
    ]
    kinds = (tf.TensorSpec((None, 5), tf.float32), tf.TensorSpec((None,), tf.int32))
    batches = tf.data.Dataset.from_generator(lambda: iter(examples), output_signature=kinds)
    answers = []
    for loss in (compat.CTC(), compat.CTC(strict_compat=True), keras.losses.CTC()):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((None, 5)), keras.layers.Dense(6)])
        model.compile(optimizer=keras.optimizers.SGD(0.1), loss=loss)
        data = batches.padded_batch(2).repeat()
        history = model.fit(data, steps_per_epoch=2, epochs=3, shuffle=False, verbose=0)
        answers.append(history.history["loss"])
    return answers


def of_no_size():
    """Losses of no labels, and of no sequences."""
    tensor = keras.ops.convert_to_tensor
    return [
        attempt(
            compat.CTC(reduction=None),
            tensor(np.zeros((count, width), dtype="int32")),
            tensor(np.zeros((count, 4, 3), dtype="float32")),
        )
        for count, width in ((2, 0), (0, 2), (0, 0))
    ]


def main():
    answers = []
    for problem in json.load(sys.stdin):
        target, output, *lengths = (
            keras.ops.convert_to_tensor(np.asarray(problem[name], dtype=dtype))
            for name, dtype in (
                ("labels", "int32"),
                ("logits", "float32"),
                ("lengths", "int32"),
                ("frames", "int32"),
            )
        )
        arguments = (target, output, *lengths)
        blank = problem["blank"]
        answers.append(
            {
                "ours": attempt(compat.ctc_loss, *arguments, mask_index=blank),
                "theirs": attempt(keras.ops.ctc_loss, *arguments, mask_index=blank),
            }
        )
    y_true, y_pred = np.asarray([[1, 2, 0], [1, 0, 0]]), np.zeros((2, 4, 3), dtype="float32")
    result = {
        "backend": keras.backend.backend(),
        "answers": answers,
        "class": {
            str(reduction): [
                values(loss(reduction=reduction)(y_true, y_pred))
                for loss in (compat.CTC, keras.losses.CTC)
            ]
            for reduction in ("sum_over_batch_size", "sum", None)
        },
        "interior": [
            attempt(loss(reduction=None), np.asarray([[1, 0, 2]]), y_pred[:1])
            for loss in (compat.CTC, keras.losses.CTC)
        ],
        "strict": strict(),
        "decode": decode(),
        "decode_symbolic": decode_symbolic(),
        "decode_wrong": [
            attempt(compat.ctc_decode, np.zeros((1, 2, 3), "float32"), np.asarray([2]), **options)
            for options in (
                {"strategy": "best"},
                {"strategy": "beam_search", "top_paths": 200},
                {"mask_index": 3},
            )
        ],
        "half": half(),
        "ragged": ragged(),
        "padded": padded(),
        "of_no_size": of_no_size(),
        "fractions": [
            attempt(compat.CTC(), keras.ops.convert_to_tensor(labels), y_pred[:1])
            for labels in ([[1.0, 1.5]], [[1.0, float("nan")]])
        ],
        "ranks": [
            attempt(compat.CTC(), np.zeros(label_shape), np.zeros(shape, dtype="float32"))
            for label_shape, shape in (((4,), (2, 4, 3)), ((2, 4), (2, 3)), ((2, 4, 1), (2, 4, 3)))
        ],
        "kinds": [
            attempt(compat.CTC(), labels, np.zeros((2, 4, 3), dtype="float32"))
            for labels in (
                [[1, 2], [1, 0]],
                np.ma.array([[1, 2], [1, 0]]),
                np.asarray([[True, True], [True, False]]),
                np.asarray([[1, 1.5], [1, 0]]),
            )
        ]
        + [attempt(compat.CTC(), np.ones((2, 1)), np.ma.zeros((2, 4, 3), dtype="float32"))],
        "static": compat.ctc_loss(
            *(keras.KerasTensor(shape) for shape in ((7, 5), (7, 3, 4), (7,), (7,)))
        ).shape,
        "config": keras.losses.deserialize(keras.losses.serialize(compat.CTC(name="x"))).name,
        "symbolic": list(
            compat.ctc_loss(
                keras.KerasTensor((None, 3)),
                keras.KerasTensor((None, 6, 4)),
                keras.KerasTensor((None,)),
                keras.KerasTensor((None,)),
            ).shape
        ),
    }
    if keras.backend.backend() != "numpy":  # which can't train
        result["training"] = [train(compat.CTC()), train(keras.losses.CTC())]
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()
