"""The functions of the npm package ``tfjsctcloss``, for porters who compare with it.

TensorFlow.js takes one-hot labels in the shape of the logits; the blank is the last class, and
blanks among the labels are padding wherever they stand. There are no lengths: all frames count.

>>> import numpy as np
>>> from ctcx.compat.tfjs import ctc_loss
>>> labels = np.eye(4)[[[0, 3, 1]]]
>>> ctc_loss(labels, np.zeros((1, 3, 4)))
array([2.54944517])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctcx._api.loss import ctc_loss as _ctc_loss
from ctcx._api.loss import ctc_loss_and_grad as _ctc_loss_and_grad
from ctcx._arrays.facts import is_array
from ctcx._inputs.labels import labels_from_one_hot
from ctcx.compat._shared.argument_names import refuse, shape_of

if TYPE_CHECKING:
    from ctcx._typing import Array

__all__ = ["ctc_loss", "ctc_loss_gradient"]


def ctc_loss(labels: Array, predictions: Array) -> Array:
    """CTC loss with the arguments of ``ctcLoss(labels, predictions)``.

    Parameters
    ----------
    labels : array (N, T, C)
        One-hot, or soft: the largest element of a row is its class. Rows of zeros are padding, as
        blanks are. Of the library of ``predictions``, or NumPy's.
    predictions : array (N, T, C)
        Before the softmax.

    Returns
    -------
    array (N,)
        In nats, +inf where no path emits the labels.

    Raises
    ------
    CTCInputError
        Shapes that differ, or aren't (N, T, C); NaN or +inf among ``predictions``.

    Examples
    --------
    >>> import numpy as np
    >>> from ctcx.compat.tfjs import ctc_loss
    >>> blanks_anywhere = np.eye(4)[[[3, 0, 3, 1, 3]]]
    >>> logits = np.eye(4)[[[0, 3, 0, 3, 3]]]
    >>> ctc_loss(blanks_anywhere, logits).round(4)
    array([2.7835])
    """
    ids, lengths = _indices(labels, predictions)
    return _ctc_loss(predictions, ids, None, lengths, blank=-1)


def ctc_loss_gradient(labels: Array, predictions: Array) -> Array:
    """Gradient that training with ``ctcLossGradient(labels, predictions)`` gets.

    In TensorFlow.js that function returns the loss, and has this gradient.

    Parameters
    ----------
    labels, predictions : array (N, T, C)
        As for :func:`ctc_loss`.

    Returns
    -------
    array (N, T, C)
        Of the sum of the losses with respect to ``predictions``; 0 where no path emits the labels.

    Raises
    ------
    CTCInputError
        As for :func:`ctc_loss`.

    Examples
    --------
    >>> import numpy as np
    >>> from ctcx.compat.tfjs import ctc_loss_gradient
    >>> ctc_loss_gradient(np.eye(2)[[[0, 1]]], np.zeros((1, 2, 2))).round(4)
    array([[[-0.1667,  0.1667],
            [-0.1667,  0.1667]]])
    """
    ids, lengths = _indices(labels, predictions)
    return _ctc_loss_and_grad(predictions, ids, None, lengths, blank=-1).grad


def _indices(labels: Array, predictions: Array) -> tuple[Array, Array]:
    for argument, array in (("labels", labels), ("predictions", predictions)):
        if not is_array(array) or array.ndim != 3:
            refuse(argument, "have shape (N, T, C)", shape_of(array))
    if tuple(labels.shape) != tuple(predictions.shape):
        refuse(
            "labels",
            f"have the shape of predictions, {tuple(predictions.shape)}",
            shape_of(labels),
        )
    return labels_from_one_hot(labels, blank=-1)
