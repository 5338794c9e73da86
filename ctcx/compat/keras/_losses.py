"""Keras' classes; importing this imports Keras."""

from __future__ import annotations

import sys
from typing import Any

import keras
import numpy as np
from keras import ops

from ctcx._arrays.facts import is_numpy
from ctcx._inputs.host_data import plain
from ctcx.compat._shared.argument_names import is_ragged, refuse
from ctcx.compat._shared.tensorflow_bridge import holds_tensors, without_autograph
from ctcx.compat.keras._ops import ctc_decode, ctc_loss

__all__ = ["CTC", "CTCDecodeOperation", "CTCLossOperation"]


@keras.saving.register_keras_serializable(package="ctcx")
class CTC(keras.losses.Loss):  # type: ignore[misc] # keras is skipped by mypy
    """``keras.losses.CTC``, computed by :func:`ctcx.compat.keras.ctc_loss`.

    ``y_true`` (N, S) holds classes from 1, padded with 0 on the right; ``y_pred`` (N, T, C) logits,
    of which all frames count. The blank is 0.

    Parameters
    ----------
    reduction : str or None
        As for all of Keras' losses.
    name : str
        Of the loss.
    dtype : str or keras.DTypePolicy, optional
        As for all of Keras' losses, but that halves are computed in float32, and the loss stays in
        it: Keras makes labels numbers of this dtype, and float16 has none between 4096 and 4100.
    strict_compat : bool
        Keras' rule for labels with a 0 between others: as many of the first labels count as there
        are labels other than 0, and a 0 among them is a label that is emitted as the blank is. For
        comparing with Keras; otherwise such a 0 raises an error.
    """

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str = "ctc",
        dtype: Any = None,
        *,
        strict_compat: bool = False,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.strict_compat = strict_compat

    @property
    def dtype(self) -> str:
        """What labels and logits are turned into: float32 or float64."""
        dtype = super().dtype
        return "float32" if dtype in {"float16", "bfloat16"} else dtype

    def get_config(self) -> dict[str, Any]:
        """Options, for saving."""
        config: dict[str, Any] = super().get_config()
        return config | {"strict_compat": self.strict_compat}

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Reduced loss; ``y_true`` may be a RaggedTensor."""
        if is_ragged(y_true):
            y_true = y_true.to_tensor(0)
        y_true, y_pred = _array("y_true", y_true), _array("y_pred", y_pred)
        if is_numpy(y_true) or str(getattr(y_true, "dtype", "")).endswith("bool"):
            _check_integers(y_true)
        return super().__call__(y_true, y_pred, sample_weight)

    @without_autograph
    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Losses (N,); a 0 between labels raises an error wherever values can be read."""
        for argument, array, rank in (("y_true", y_true, 2), ("y_pred", y_pred, 3)):
            if len(array.shape) != rank:
                shape = "(N, S)" if rank == 2 else "(N, T, C)"
                refuse(argument, f"have shape {shape}", f"shape {tuple(array.shape)}")
        # Keras hands labels over in the dtype of the loss, which is a floating one.
        xp: Any = ops
        if holds_tensors(y_true) and sys.modules["tensorflow"].executing_eagerly():
            # NumPy reads these as they are, and a dozen of TensorFlow's operations take longer than
            # a small loss.
            xp, given = np, np.asarray(y_true)
            _check_integers(given)
            with np.errstate(invalid="ignore"):  # what is too large is out of range afterwards
                labels = given.astype(np.int32)
        else:
            labels = ops.cast(y_true, "int32")
        if self.strict_compat:
            label_length = xp.sum(xp.where(labels != 0, 1, 0), axis=1)
            return _with_zeros(labels, y_pred, label_length)
        # Of a batch that tf.data pads, the width is known only when it is there.
        width = labels.shape[1] if xp is np else ops.shape(labels)[1]
        place = xp.arange(1, width + 1, dtype="int32")
        if 0 in tuple(labels.shape):  # of which a maximum would have no axis in PyTorch
            label_length = xp.sum(labels, axis=1)
        else:
            label_length = xp.max(xp.where(labels != 0, place, 0), axis=1, initial=0)
        return ctc_loss(labels, y_pred, label_length, None)


def _array(argument: str, value: Any) -> Any:
    """Keep an array or tensor as it is; Keras would take each element of a list for one."""
    if isinstance(value, (list, tuple)):
        refuse(argument, "be an array or a tensor", f"a {type(value).__name__}")
    return plain(argument, value)


def _check_integers(labels: Any) -> None:
    if str(labels.dtype).endswith("bool") or not np.array_equal(labels, np.trunc(labels)):
        refuse("y_true", "be integers", f"values that are none, of {labels.dtype}")


def _with_zeros(labels: Any, logits: Any, label_length: Any) -> Any:
    r"""Losses of labels among which 0, the blank, counts as a label.

    A class of its own, a copy of the blank's, stands for such a label. The softmax of the copied
    log probabilities divides each frame by 1 + p, with p the blank's probability, so that

    .. math:: \mathrm{loss} = \mathrm{loss}' - \sum_t \ln(1 + p_t)
    """
    log_probs = ops.log_softmax(logits)
    blank = log_probs[:, :, :1]
    copied = ops.concatenate([log_probs, blank], axis=2)
    labels = ops.where(labels == 0, logits.shape[2], labels)
    loss = ctc_loss(labels, copied, label_length, None)
    return loss - ops.sum(ops.log1p(ops.exp(blank)), axis=(1, 2))


class CTCLossOperation(keras.Operation):  # type: ignore[misc] # keras is skipped by mypy
    """:func:`ctcx.compat.keras.ctc_loss` in a model made of symbolic tensors."""

    def __init__(self, mask_index: int = 0, *, name: str | None = None) -> None:
        super().__init__(name=name)
        self.mask_index = mask_index

    def call(self, target: Any, output: Any, target_length: Any, output_length: Any) -> Any:
        """Compute the loss."""
        return ctc_loss(target, output, target_length, output_length, self.mask_index)

    def compute_output_spec(
        self, target: Any, output: Any, target_length: Any, output_length: Any
    ) -> Any:
        """Shape and dtype of the loss: one number a sequence."""
        del target, target_length, output_length
        dtype = "float64" if output.dtype == "float64" else "float32"
        return keras.KerasTensor((output.shape[0],), dtype=dtype)


class CTCDecodeOperation(keras.Operation):  # type: ignore[misc] # keras is skipped by mypy
    """:func:`ctcx.compat.keras.ctc_decode` in a model made of symbolic tensors."""

    def __init__(
        self,
        strategy: str = "greedy",
        beam_width: int = 100,
        top_paths: int = 1,
        merge_repeated: bool = True,  # noqa: FBT001, FBT002
        mask_index: int | None = 0,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.options = (strategy, beam_width, top_paths, merge_repeated, mask_index)
        self.paths = top_paths if strategy == "beam_search" else 1

    def call(self, inputs: Any, sequence_lengths: Any) -> Any:
        """Decode."""
        return ctc_decode(inputs, sequence_lengths, *self.options)

    def compute_output_spec(self, inputs: Any, sequence_lengths: Any) -> Any:
        """Shapes and dtypes of labels (P, N, T) and scores (N, P)."""
        del sequence_lengths
        count, frames, _ = inputs.shape
        dtype = "float64" if inputs.dtype == "float64" else "float32"
        labels = keras.KerasTensor((self.paths, count, frames), dtype="int32")
        return labels, keras.KerasTensor((count, self.paths), dtype=dtype)
