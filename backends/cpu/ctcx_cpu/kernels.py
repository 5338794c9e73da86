"""The kernels: loss, gradient, occupancies, paths and decoding of a batch in host memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from ctcx import CTCInputError
from ctcx.plugin import env_text, usable_cores
from ctcx_cpu import _jax, _native, check_instructions
from ctcx_cpu._host import TYPES, integers, like_given, on_host, rows
from ctcx_cpu._results import empty, empty_like

__all__ = [
    "VARIABLE",
    "align",
    "beam_search",
    "greedy",
    "loss",
    "loss_and_grad",
    "number_of_threads",
    "occupancies",
    "sample_paths",
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
        (N, T, C), of NumPy, or on the CPU of PyTorch, JAX or MLX; float16, bfloat16, float32,
        float64.
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
    arrays = logits, labels, logit_lengths, label_lengths
    threads, losses = number_of_threads(num_threads), ((logits.shape[0],), _loss_dtype(logits))
    if _jax.belongs_in_a_program(logits):
        return _jax.call("loss", arrays, (losses,), blank=blank, threads=threads)[0]
    x = rows(on_host(logits))
    found = np.empty(*losses)
    _native.compute(x, *_others(arrays), found, None, None, TYPES[x.dtype], blank, threads)
    return like_given(found, logits)


def loss_and_grad(
    logits: Any,
    labels: Any,
    logit_lengths: Any,
    label_lengths: Any,
    *,
    blank: int,
    weights: Any = None,
    num_threads: int | None = None,
) -> tuple[Any, ...]:
    """CTC loss and its gradient; a kernel for :class:`ctcx.plugin.Backend`.

    Parameters
    ----------
    logits, labels, logit_lengths, label_lengths, blank, num_threads
        As for :func:`loss`.
    weights
        (N,), in the dtype of the losses: what the gradient of each sequence is multiplied by.

    Returns
    -------
    array (N,), array (N, T, C)
        Losses as from :func:`loss`, and the gradient of their sum, in the dtype of the logits.
    """
    arrays = logits, labels, logit_lengths, label_lengths
    threads, losses = number_of_threads(num_threads), ((logits.shape[0],), _loss_dtype(logits))
    if _jax.belongs_in_a_program(logits):
        results = losses, (logits.shape, logits.dtype)
        loss, grad = _jax.call("loss", arrays, results, blank=blank, threads=threads)
        return loss, grad if weights is None else _jax.weighted(grad, weights)
    x = rows(on_host(logits))
    found, gradient = np.empty(*losses), empty_like(x)
    factors = None if weights is None else np.ascontiguousarray(on_host(weights))
    _native.compute(x, *_others(arrays), found, gradient, factors, TYPES[x.dtype], blank, threads)
    return like_given(found, logits), like_given(gradient, logits)


def occupancies(
    logits: Any,
    labels: Any,
    logit_lengths: Any,
    label_lengths: Any,
    *,
    blank: int,
    states: bool,
    num_threads: int | None = None,
) -> tuple[Any, ...]:
    """Compute the probability of each class and state; a kernel for :class:`ctcx.plugin.Backend`.

    Parameters
    ----------
    logits, labels, logit_lengths, label_lengths, blank, num_threads
        As for :func:`loss`.
    states
        Whether the states are wanted.

    Returns
    -------
    array (N,), array (N, T, C)[, array (N, T, 2S+1)]
        Losses as from :func:`loss`, and occupancies in their dtype: 0 where the loss is infinite,
        NaN within the sequence's frames where it is NaN.
    """
    arrays = logits, labels, logit_lengths, label_lengths
    threads, dtype = number_of_threads(num_threads), _loss_dtype(logits)
    by_state = (*logits.shape[:2], 2 * labels.shape[1] + 1), dtype
    if _jax.belongs_in_a_program(logits):
        results = ((logits.shape[0],), dtype), (logits.shape, dtype), *([by_state] * states)
        return _jax.call("occupancies", arrays, results, blank=blank, threads=threads)
    x = rows(on_host(logits))
    found = np.empty(x.shape[0], dtype), empty_like(x, dtype), empty(*by_state) if states else None
    _native.occupancies(x, *_others(arrays), *found, TYPES[x.dtype], blank, threads)
    return tuple(like_given(result, logits) for result in found if result is not None)


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
) -> tuple[Any, ...]:
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
    arrays = logits, labels, logit_lengths, label_lengths
    threads, shape = number_of_threads(num_threads), tuple(logits.shape[:2])
    results = (shape, np.int32), (shape, _loss_dtype(logits))
    if _jax.belongs_in_a_program(logits):
        given = arrays if extra is None else (*arrays, extra)
        columns = {"first_blank": ends[0], "last_blank": ends[1]}
        return _jax.call("align", given, results, blank=blank, threads=threads, **columns)
    x = rows(on_host(logits))
    more = None if extra is None else rows(on_host(extra))
    found = np.empty(*results[0]), np.empty(*results[1])
    _native.align(x, *_others(arrays), more, *found, TYPES[x.dtype], blank, *ends, threads)
    return like_given(found[0], logits), like_given(found[1], logits)


def sample_paths(
    logits: Any,
    labels: Any,
    logit_lengths: Any,
    label_lengths: Any,
    *,
    blank: int,
    uniforms: Any,
    num_threads: int | None = None,
) -> Any:
    """Draw paths by their probabilities; a kernel for :class:`ctcx.plugin.Backend`.

    Parameters
    ----------
    logits, labels, logit_lengths, label_lengths, blank, num_threads
        As for :func:`loss`.
    uniforms
        (N, K, T), from 0 up to, but not including, 1; float32 or float64.

    Returns
    -------
    array (N, K, T)
        States, int32; -1 where no path emits the labels, and for a sequence with a label, length or
        logit that is not allowed.
    """
    arrays = logits, labels, logit_lengths, label_lengths
    threads, results = number_of_threads(num_threads), ((tuple(uniforms.shape), np.int32),)
    if _jax.belongs_in_a_program(logits):
        given = (*arrays, uniforms)
        return _jax.call("sample_paths", given, results, blank=blank, threads=threads)[0]
    x, numbers = rows(on_host(logits)), np.require(on_host(uniforms), requirements=("C", "A"))
    states = empty(*results[0])
    _native.sample_paths(x, *_others(arrays), numbers, states, TYPES[x.dtype], blank, threads)
    return like_given(states, logits)


def greedy(
    logits: Any, logit_lengths: Any, *, blank: int, num_threads: int | None = None
) -> tuple[Any, ...]:
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
    threads, shape = number_of_threads(num_threads), tuple(logits.shape[:2])
    results = (shape, np.int32), (shape, _loss_dtype(logits))
    if _jax.belongs_in_a_program(logits):
        given = logits, logit_lengths
        return _jax.call("greedy", given, results, blank=blank, threads=threads)
    x = rows(on_host(logits))
    found = np.empty(*results[0]), np.empty(*results[1])
    _native.greedy(x, integers(logit_lengths), *found, TYPES[x.dtype], blank, threads)
    return like_given(found[0], logits), like_given(found[1], logits)


def beam_search(
    logits: Any,
    logit_lengths: Any,
    *,
    blank: int,
    width: int,
    top: int,
    max_classes: int | None,
    num_threads: int | None = None,
) -> tuple[Any, ...]:
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
    threads, shape = number_of_threads(num_threads), (logits.shape[0], top)
    results = ((*shape, logits.shape[1]), np.int32), (shape, _loss_dtype(logits))
    most, given = max_classes or 0, (logits, logit_lengths)
    if _jax.belongs_in_a_program(logits):
        settings = {"width": width, "top": top, "max_classes": most, "threads": threads}
        return _jax.call("beam_search", given, results, blank=blank, **settings)
    x = rows(on_host(logits))
    found = np.empty(*results[0]), np.empty(*results[1])
    lengths, kind = integers(logit_lengths), TYPES[x.dtype]
    _native.beam_search(x, lengths, *found, kind, blank, width, top, most, threads)
    return like_given(found[0], logits), like_given(found[1], logits)


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
    gradient = empty_like(x)
    others = _others((logits, labels, logit_lengths, label_lengths))
    threads = number_of_threads(num_threads)
    _native.compute(x, *others, None, gradient, None, TYPES[x.dtype], blank, threads)
    return like_given(gradient, logits)


def number_of_threads(asked: object = None) -> int:
    """Threads that a call may use: as asked, else ``CTCX_NUM_THREADS``, else the usable cores.

    Raises
    ------
    ctcx.CTCInputError
        The number or the variable is not a positive whole number.
    """
    if asked is not None:
        if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
            msg = f"num_threads must be a positive int or None, got {asked!r}"
            raise CTCInputError(msg, argument="num_threads", value=asked)
        return min(asked, _MOST_THREADS)
    text = env_text(VARIABLE)
    if not text or not text.strip():
        return usable_cores()
    digits = text.strip().lstrip("0")
    if not (digits.isascii() and digits.isdigit()):
        msg = f"the environment variable {VARIABLE} must be a positive whole number, got {text!r}"
        raise CTCInputError(msg, argument=VARIABLE, value=text)
    # Python makes no int of thousands of digits.
    return _MOST_THREADS if len(digits) > 9 else min(int(digits), _MOST_THREADS)


def _loss_dtype(logits: Any) -> type[np.floating[Any]]:
    dtype = logits.dtype
    size = dtype.itemsize if hasattr(dtype, "itemsize") else dtype.size  # which MLX's have
    return np.float64 if size == 8 else np.float32


def _others(arrays: tuple[Any, Any, Any, Any]) -> tuple[Any, Any, Any]:
    """Labels and lengths, in host memory."""
    _, labels, logit_lengths, label_lengths = arrays
    return integers(labels), integers(logit_lengths), integers(label_lengths)
