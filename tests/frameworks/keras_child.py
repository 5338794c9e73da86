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
