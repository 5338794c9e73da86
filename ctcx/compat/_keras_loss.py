"""Keras' classes; importing this imports Keras."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from ctcx.compat._terms import refuse
from ctcx.compat.keras import ctc_loss

__all__ = ["CTC", "CTCLossOperation"]


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
        As for all of Keras' losses.
    """

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str = "ctc",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Losses (N,); a 0 between labels is an error wherever values can be read."""
        for argument, array, rank in (("y_true", y_true, 2), ("y_pred", y_pred, 3)):
            if len(array.shape) != rank:
                shape = "(N, S)" if rank == 2 else "(N, T, C)"
                refuse(argument, f"have shape {shape}", f"shape {tuple(array.shape)}")
        # Keras hands labels over in the dtype of the loss, which is a floating one.
        labels = ops.cast(y_true, "int32")
        place = ops.arange(1, labels.shape[1] + 1, dtype="int32")
        label_length = ops.max(ops.where(labels != 0, place, 0), axis=1, initial=0)
        frames = ops.zeros_like(label_length) + ops.shape(y_pred)[1]
        return ctc_loss(labels, y_pred, label_length, frames)


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
