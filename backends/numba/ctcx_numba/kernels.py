"""The kernels: loss and gradient of a batch in host memory, on threads of this plugin's own."""

from __future__ import annotations

from typing import Any

from ctcx_numba import _small
from ctcx_numba._arrays import like_given
from ctcx_numba._batch import Job
from ctcx_numba._jax import belongs_in_a_program, call, is_jax
from ctcx_numba._threads import number_of_threads

__all__ = ["loss", "loss_and_grad", "softmax_only"]


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
        (N, S), (N,), (N,); integers of the same library.
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
    threads = number_of_threads(num_threads)
    if is_jax(logits):
        return call(*arrays, blank=blank, num_threads=threads, gradient=False)
    if (found := _small.compute(*arrays, blank, gradient=False)) is not None:
        return found[0]
    job = Job(*arrays, blank, threads, gradient=False)
    job.compute()
    return like_given(job.losses, logits)


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
    arrays = logits, labels, logit_lengths, label_lengths
    threads = number_of_threads(num_threads)
    if is_jax(logits) and belongs_in_a_program(*arrays):
        loss, grad = call(*arrays, blank=blank, num_threads=threads, gradient=True)
        return loss, grad
    if (found := _small.compute(*arrays, blank, gradient=True)) is not None:
        return found
    job = Job(*arrays, blank, threads, gradient=True)
    job.compute()
    return like_given(job.losses, logits), like_given(job.grad, logits, dtype=logits.dtype)


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
    job = Job(logits, labels, logit_lengths, label_lengths, blank, num_threads, gradient=True)
    job.compute_softmax()
    return like_given(job.grad, logits, dtype=logits.dtype)
