"""Losses and gradients where nothing has to be converted: checks and kernel in one native call."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from ctcx_cpu import _native
from ctcx_cpu._host import like_given, on_host
from ctcx_cpu._results import KEPT_FROM, empty_like
from ctcx_cpu.kernels import number_of_threads

__all__ = ["loss", "loss_and_grad"]

_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


def loss(
    logits: Any, labels: Any, logit_lengths: Any, label_lengths: Any, blank: Any
) -> Any | None:
    """CTC loss of each sequence; a shortcut for :class:`ctcx.plugin.Backend`.

    Parameters
    ----------
    logits
        (N, T, C), of NumPy or PyTorch.
    labels, logit_lengths, label_lengths, blank
        As the caller of ctcx passed them.

    Returns
    -------
    array (N,) or None
        As from :func:`ctcx_cpu.kernels.loss`; None for anything unusual or wrong.
    """
    losses = _losses(logits)
    arrays = logits, labels, logit_lengths, label_lengths
    done = _native.shortcut(*arrays, losses, None, None, blank, number_of_threads())
    return losses if done else None


def loss_and_grad(
    logits: Any,
    labels: Any,
    logit_lengths: Any,
    label_lengths: Any,
    blank: Any,
    weights: Any = None,
) -> tuple[Any, Any] | None:
    """CTC loss and its gradient; a shortcut for :class:`ctcx.plugin.Backend`.

    Parameters
    ----------
    logits, labels, logit_lengths, label_lengths, blank
        As for :func:`loss`.
    weights
        As for :func:`ctcx_cpu.kernels.loss_and_grad`.

    Returns
    -------
    (array (N,), array (N, T, C)) or None
        As from :func:`ctcx_cpu.kernels.loss_and_grad`; None for anything unusual or wrong.
    """
    losses, grad = _losses(logits), _like(logits)
    arrays = logits, labels, logit_lengths, label_lengths
    done = _native.shortcut(*arrays, losses, grad, weights, blank, number_of_threads())
    return (losses, grad) if done else None


def _losses(logits: Any) -> Any:
    """Memory for the losses."""
    if type(logits) is np.ndarray:
        return np.empty(logits.shape[0], _FLOAT64 if logits.dtype.char == "d" else _FLOAT32)
    torch = sys.modules["torch"]
    if logits.dtype is torch.float32 or logits.dtype is torch.float64:
        return logits.new_empty(logits.shape[0])
    return logits.new_empty(logits.shape[0], dtype=torch.float32)


def _like(logits: Any) -> Any:
    """Memory for the gradient."""
    if type(logits) is not np.ndarray:
        if logits.nbytes < KEPT_FROM:
            return sys.modules["torch"].empty_like(logits)
    elif logits.nbytes < KEPT_FROM and logits.flags.c_contiguous:
        return np.empty(logits.shape, logits.dtype)  # sooner than empty_like
    return like_given(empty_like(on_host(logits)), logits)
