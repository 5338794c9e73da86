"""Ones and zeros for every call, but for one thing."""

import sys

import array_api_compat
import numpy as np


class Unprintable(BaseException):
    def __str__(self):
        raise self


def form(logits):
    """Loss and gradient of the right form."""
    xp = array_api_compat.array_namespace(logits)
    wide = xp.float64 if logits.dtype == xp.float64 else xp.float32
    loss = xp.ones(logits.shape[:1], dtype=wide, device=array_api_compat.device(logits))
    return xp, loss, xp.zeros_like(logits)


def replaced(loss, position, value):
    xp = array_api_compat.array_namespace(loss)
    place = xp.arange(loss.shape[0]) == position % loss.shape[0]
    return xp.where(place, xp.asarray(value, dtype=loss.dtype), loss)


def exits(*_):
    sys.exit("goodbye")


def interrupts(*_):
    raise KeyboardInterrupt


def throws(*_):
    raise BaseExceptionGroup("several", [GeneratorExit()])


def unprintable(*_):
    raise Unprintable


def foreign(array):
    if isinstance(array, np.ndarray):
        import array_api_strict

        return array_api_strict.asarray(array)
    return np.zeros(array.shape, dtype="float32")


def read_only(array):
    array.flags.writeable = False
    return array


def elsewhere(array):
    return array.to_device(type(array.device)("device2"))


LOSSES = {
    "right": lambda loss: loss,
    "none": lambda loss: None,
    "list": lambda loss: [1.0] * loss.shape[0],
    "scalar": lambda loss: 1.0,
    "shape": lambda loss: loss[1:],
    "two_axes": lambda loss: loss[:, None],
    "dtype": lambda loss: array_api_compat.array_namespace(loss).astype(
        loss, array_api_compat.array_namespace(loss).int32
    ),
    "half": lambda loss: loss.astype("float16"),
    "complex": lambda loss: loss * 1j,
    "library": foreign,
    "masked": np.ma.masked_array,
    "wants_gradient": lambda loss: loss.requires_grad_(),
    "lazy": lambda loss: sys.modules["torch"]._neg_view(-loss),
    "device": elsewhere,
    "nan": lambda loss: replaced(loss, 0, float("nan")),
    "last_nan": lambda loss: replaced(loss, -1, float("nan")),
    "negative": lambda loss: replaced(loss, -1, -1e-3),
    "minus_inf": lambda loss: replaced(loss, 0, -float("inf")),
    "exits": exits,
    "interrupts": interrupts,
    "throws": throws,
    "unprintable": unprintable,
}
GRADS = {
    "read_only": read_only,
    "grad_none": lambda grad: None,
    "grad_shape": lambda grad: grad[:, 1:],
    "grad_dtype": lambda grad: array_api_compat.array_namespace(grad).astype(
        grad, array_api_compat.array_namespace(grad).int32
    ),
    "grad_library": foreign,
}
PAIRS = {
    "none": lambda loss, grad: None,
    "list": lambda loss, grad: [loss, grad],
    "bare": lambda loss, grad: grad,
    "three": lambda loss, grad: (loss, grad, loss),
}


RIGHT = 7.0
"""Each backend is right for arrays of NumPy that begin with this logit."""


def is_marked(logits):
    return isinstance(logits, np.ndarray) and logits.size > 0 and logits.flat[0] == RIGHT


def kernel(name):
    """The function that an attribute of this module stands for."""
    way, _, operation = name.partition("_loss")

    def loss(logits, labels, logit_lengths, label_lengths, *, blank):
        _, found, _ = form(logits)
        return found if is_marked(logits) else LOSSES.get(way, LOSSES["right"])(found)

    def loss_and_grad(logits, labels, logit_lengths, label_lengths, *, blank):
        _, loss, grad = form(logits)
        if is_marked(logits):
            return loss, grad
        if way == "grad_input":
            return loss, logits[...]
        if way in PAIRS:
            return PAIRS[way](loss, grad)
        if way in GRADS:
            return loss, GRADS[way](grad)
        return LOSSES[way](loss), grad

    return loss_and_grad if operation else loss


def shortcut(name):
    """The same as a shortcut, which takes every call."""
    its_kernel = kernel(name)
    return lambda *arguments: its_kernel(*arguments[:4], blank=arguments[4])


def __getattr__(name):
    if "_loss" not in name:
        raise AttributeError(name)
    if name.startswith("shortcut_"):
        return shortcut(name.removeprefix("shortcut_"))
    return kernel(name)
