"""The kernels: loss, gradient, best paths and decoding of a batch in host memory."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ctcx.plugin import usable_cores
from ctcx_cpu import _jax, _native, check_instructions
from ctcx_cpu._host import BFLOAT16, TYPES, integers, like_given, on_host, rows
from ctcx_cpu._results import empty_like

__all__ = [
    "VARIABLE",
    "align",
    "beam_search",
    "greedy",
    "loss",
    "loss_and_grad",
    "number_of_threads",
    "softmax_only",
]

VARIABLE = "CTCX_NUM_THREADS"
_MOST_THREADS = 2**15
"""More than this are as good as this many: no call has so much to share."""

check_instructions()


def loss(
    logits: Any,
    labels: Any,
    logit_lengths: Any,
    label_lengths: Any,
    *,
    blank: int,
    num_threads: int | None = None,
) -> Any:
    """CTC loss of each sequence; a kernel for :class:`ctcx.plugin.Backend`.

    Parameters
    ----------
    logits
        (N, T, C), of NumPy, or of PyTorch or JAX on the CPU; float16, bfloat16, float32, float64.
    labels, logit_lengths, label_lengths
        (N, S), (N,), (N,); int32 or int64, of the same library.
    blank
        Class of the blank.
    num_threads
        How many threads to use at most; default: ``CTCX_NUM_THREADS``, or the usable cores.

    Returns
    -------
    array (N,)
        In nats; NaN for a sequence with a label, length or logit that is not allowed.
    """
    threads = number_of_threads(num_threads)
    arrays = logits, labels, logit_lengths, label_lengths
    if _jax.is_jax(logits) and _jax.belongs_in_a_program(logits):
        return _jax.call(*arrays, blank=blank, num_threads=threads, gradient=False)
    losses, _ = _compute(*arrays, blank, threads, gradient=False)
    return like_given(losses, logits)


def loss_and_grad(
    logits: Any,
    labels: Any,
    logit_lengths: Any,
    label_lengths: Any,
    *,
    blank: int,
    num_threads: int | None = None,
) -> tuple[Any, Any]:
    """CTC loss and its gradient; a kernel for :class:`ctcx.plugin.Backend`.

    Parameters
    ----------
    logits, labels, logit_lengths, label_lengths, blank, num_threads
        As for :func:`loss`.

    Returns
    -------
    array (N,), array (N, T, C)
        Losses as from :func:`loss`, and the gradient of their sum, in the dtype of the logits.
    """
    threads = number_of_threads(num_threads)
    arrays = logits, labels, logit_lengths, label_lengths
    if _jax.is_jax(logits) and _jax.belongs_in_a_program(logits):
        found, gradient = _jax.call(*arrays, blank=blank, num_threads=threads, gradient=True)
        return found, gradient
    losses, gradient = _compute(*arrays, blank, threads, gradient=True)
    return like_given(losses, logits), like_given(gradient, logits)


def align(
    logits: Any,
    labels: Any,
    logit_lengths: Any,
    label_lengths: Any,
    *,
    blank: int,
    extra: Any,
    ends: tuple[int, int],
    num_threads: int | None = None,
) -> tuple[Any, Any]:
    """Find the best path of each sequence; a kernel for :class:`ctcx.plugin.Backend`.

    Parameters
    ----------
    logits, labels, logit_lengths, label_lengths, blank, num_threads
        As for :func:`loss`. Labels may name columns of ``extra``.
    extra
        (N, T, W), more columns beside the classes, in the dtype of the losses; or None.
    ends
        Columns of the blanks before the first and after the last label.

    Returns
    -------
    array (N, T), array (N, T)
        States, int32, and logarithms of probabilities; -1 and NaN for a sequence with a label,
        length or logit that is not allowed.
    """
    threads = number_of_threads(num_threads)
    x = rows(on_host(logits))
    columns = None if extra is None else rows(on_host(extra))
    states = np.empty(x.shape[:2], np.int32)
    log_probs = np.empty(x.shape[:2], _loss_dtype(x))
    others = integers(labels), integers(logit_lengths), integers(label_lengths)
    results = states, log_probs
    _native.align(x, *others, columns, *results, _type_of(x), blank, *ends, threads)
    return like_given(states, logits), like_given(log_probs, logits)


def greedy(
    logits: Any, logit_lengths: Any, *, blank: int, num_threads: int | None = None
) -> tuple[Any, Any]:
    """Find the most probable class of each frame; a kernel for :class:`ctcx.plugin.Backend`.

    Parameters
    ----------
    logits, logit_lengths, blank, num_threads
        As for :func:`loss`.

    Returns
    -------
    array (N, T), array (N, T)
        Classes, int32, and logarithms of their probabilities; -1 and 0 past a sequence's length, -1
        and NaN for a sequence with a length or logit that is not allowed.
    """
    threads = number_of_threads(num_threads)
    x = rows(on_host(logits))
    classes = np.empty(x.shape[:2], np.int32)
    log_probs = np.empty(x.shape[:2], _loss_dtype(x))
    lengths = integers(logit_lengths)
    _native.greedy(x, lengths, classes, log_probs, _type_of(x), blank, threads)
    return like_given(classes, logits), like_given(log_probs, logits)


def beam_search(
    logits: Any,
    logit_lengths: Any,
    *,
    blank: int,
    width: int,
    top: int,
    max_classes: int | None,
    num_threads: int | None = None,
) -> tuple[Any, Any]:
    """Find the most probable labels by prefix beam search; a kernel for a backend.

    Parameters
    ----------
    logits, logit_lengths, blank, num_threads
        As for :func:`loss`.
    width
        Number of prefixes that are kept after each frame.
    top
        Number of prefixes that are returned, at most ``width``.
    max_classes
        Number of labels that may extend prefixes in a frame, the most probable; None: all.

    Returns
    -------
    array (N, top, T), array (N, top)
        Labels, int32, padded with -1, and logarithms of their probabilities in the beam: -inf where
        there are fewer prefixes, NaN for a sequence with a length or logit that is not allowed.
    """
    threads = number_of_threads(num_threads)
    x = rows(on_host(logits))
    labels = np.empty((x.shape[0], top, x.shape[1]), np.int32)
    log_probs = np.empty((x.shape[0], top), _loss_dtype(x))
    settings = width, top, max_classes or 0, threads
    _native.beam_search(
        x, integers(logit_lengths), labels, log_probs, _type_of(x), blank, *settings
    )
    return like_given(labels, logits), like_given(log_probs, logits)


def softmax_only(
    logits: Any,
    labels: Any,
    logit_lengths: Any,
    label_lengths: Any,
    *,
    blank: int,
    num_threads: int | None = None,
) -> Any:
    """Softmax of all frames within the sequences, and nothing else: a lower bound of the gradient.

    Parameters
    ----------
    logits, labels, logit_lengths, label_lengths, blank, num_threads
        As for :func:`loss`.

    Returns
    -------
    array (N, T, C)
        In the dtype of the logits.
    """
    x = rows(on_host(logits))
    kind = _type_of(x)
    gradient = empty_like(x)
    others = integers(labels), integers(logit_lengths), integers(label_lengths)
    threads = number_of_threads(num_threads)
    _native.compute(x, *others, None, gradient, kind, blank, threads)
    return like_given(gradient, logits)


def number_of_threads(asked: object = None) -> int:
    """Threads that a call may use: as asked, else ``CTCX_NUM_THREADS``, else the usable cores.

    Raises
    ------
    ValueError
        The number or the variable is not a positive whole number.
    """
    if asked is not None:
        if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
            msg = f"num_threads must be a positive int or None, got {asked!r}"
            raise ValueError(msg)
        return min(asked, _MOST_THREADS)
    text = os.environ.get(VARIABLE)
    if not text or not text.strip():
        return usable_cores()
    if not text.strip().isdecimal() or int(text) < 1:
        msg = f"the environment variable {VARIABLE} must be a positive whole number, got {text!r}"
        raise ValueError(msg)
    return min(int(text), _MOST_THREADS)


def _type_of(x: Any) -> int:
    return BFLOAT16 if x.dtype == np.uint16 else TYPES[x.dtype]


def _loss_dtype(x: Any) -> type[np.floating[Any]]:
    return np.float64 if x.itemsize == 8 else np.float32


def _compute(
    logits: Any,
    labels: Any,
    logit_lengths: Any,
    label_lengths: Any,
    blank: int,
    threads: int,
    *,
    gradient: bool,
) -> tuple[Any, Any]:
    x = rows(on_host(logits))
    kind = _type_of(x)
    losses = np.empty(x.shape[0], _loss_dtype(x))
    grad = empty_like(x) if gradient else None
    others = integers(labels), integers(logit_lengths), integers(label_lengths)
    _native.compute(x, *others, losses, grad, kind, blank, threads)
    return losses, grad
