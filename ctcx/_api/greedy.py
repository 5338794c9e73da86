"""Greedy decoding: the labels of the most probable path."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

import numpy as np

from ctcx._api.call import as_asked, as_constants
from ctcx._api.cuda_graphs import in_graph, is_captured, is_capturing
from ctcx._api.lazy import call_whole, is_lazy
from ctcx._arrays.facts import namespace_of
from ctcx._arrays.lending import given_back, lent
from ctcx._arrays.tensor_forms import UNREADABLE, hidden_from_dynamo, is_torch_recording
from ctcx._core.kernels import run
from ctcx._core.readout import Readout, label_counts, readout, readout_of_numpy
from ctcx._dispatch.compute import compute
from ctcx._dispatch.results import first_where
from ctcx._inputs.options import Options, check_flags
from ctcx._inputs.prepare import prepare_logits
from ctcx._nesting import numbered
from ctcx._typing import ArrayT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ctcx._arrays.facts import ArrayFacts
    from ctcx._inputs.prepare import KernelInputs
    from ctcx._typing import Array

__all__ = ["Decoded", "ctc_greedy", "greedy_eagerly"]


class Decoded(NamedTuple, Generic[ArrayT]):
    """What :func:`ctcx.ctc_greedy` returns: arrays of the library and device of the logits.

    Shapes are for N sequences, the longest of K labels; N is dropped for one sequence. Where values
    can't be read, as under ``jax.jit``, K is T.

    Attributes
    ----------
    labels
        (N, K) int32: the labels, -1 past a sequence's own.
    lengths
        (N,) int32: how many there are.
    starts, ends
        (N, K) int32: the frames of each label, from ``starts`` up to but not including ``ends``;
        -1 past a sequence's labels.
    log_probs
        (N, K): logarithm of the probability of each label in its best frame, in nats; 0 past a
        sequence's labels.
    score
        (N,): logarithm of the probability of the path, blanks included; 0 without frames.
    """

    labels: Array
    lengths: Array
    starts: Array
    ends: Array
    log_probs: ArrayT
    score: ArrayT


@hidden_from_dynamo
def ctc_greedy(
    logits: ArrayT,
    logit_lengths: Array | Sequence[int] | None = None,
    *,
    blank: int = 0,
    time_major: bool = False,
    merge_repeated: bool = True,
    backend: str | None = None,
    validate: bool = True,
) -> Decoded[ArrayT]:
    r"""Labels of the most probable path: greedy, or best path, decoding.

    .. math:: B(\operatorname*{argmax}_{\pi} \prod_t \mathrm{softmax}(x_t)_{\pi_t})

    Each frame says its most probable class, of equal ones the lowest. Equal neighbours are merged
    and blanks removed (Graves et al. 2006, section 3.2). These need not be the most probable
    labels, since the probability of labels is that of all their paths. A frame whose logits are all
    -inf says nothing, and the score of its sequence is -inf.

    Not differentiable: ``log_probs`` and ``score`` are constants to PyTorch and JAX.

    Parameters
    ----------
    logits, logit_lengths
        As for :func:`ctcx.ctc_loss`.
    blank, time_major, backend, validate
        As for :func:`ctcx.ctc_loss`. To find out K the numbers of labels are read, unless the
        library traces.
    merge_repeated : bool
        Whether equal neighbours are one label. False makes a label of each frame that isn't blank.

    Returns
    -------
    Decoded

    Raises
    ------
    CTCInputError
        As for :func:`ctcx.ctc_loss`.
    BackendError
        As for :func:`ctcx.ctc_loss`.

    Examples
    --------
    >>> import numpy as np, ctcx
    >>> logits = np.log([[0.8, 0.1, 0.1], [0.1, 0.7, 0.2], [0.1, 0.8, 0.1], [0.3, 0.1, 0.6]])
    >>> found = ctcx.ctc_greedy(logits)
    >>> found.labels, found.starts, found.ends
    (array([1, 2], dtype=int32), array([1, 3], dtype=int32), array([3, 4], dtype=int32))
    >>> round(float(np.exp(found.score)), 4)
    0.2688
    """
    settings = (blank, time_major, merge_repeated, backend, validate)
    if is_torch_recording(logits):
        from ctcx._api import torch_decode

        return Decoded(*torch_decode.greedy_traced(logits, logit_lengths, *settings))
    arrays = {"logits": logits, "logit_lengths": logit_lengths}
    names = ("blank", "time_major", "merge_repeated", "backend")
    options: dict[str, Any] = dict(zip(names, settings, strict=False))
    if is_captured(logits):
        captured: Decoded[ArrayT] = in_graph(ctc_greedy, arrays, **options)
        return captured
    if is_lazy(logits):
        whole = call_whole("greedy", arrays, **options, validate=validate)
        if whole is not None:
            return Decoded(*whole)
    return greedy_eagerly(logits, logit_lengths, *settings)


def greedy_eagerly(
    logits: Any,
    logit_lengths: Any,
    blank: int,
    time_major: bool,  # noqa: FBT001 - in the order of the operator
    merge_repeated: bool,  # noqa: FBT001
    backend: str | None,
    validate: bool,  # noqa: FBT001
    *,
    full_width: bool = False,
) -> Decoded[Any]:
    """Do what :func:`ctcx.ctc_greedy` does for arrays that hold values, or that JAX traces.

    ``full_width``: K is T.
    """
    check_flags(time_major=time_major, merge_repeated=merge_repeated, validate=validate)
    options = Options(time_major, "none", "inf", backend, validate)
    prepared = as_constants(prepare_logits(logits, logit_lengths, blank, time_major=time_major))
    if prepared.facts.form & UNREADABLE:
        from ctcx._api import torch_decode

        return Decoded(*torch_decode.greedy_dispatched(prepared, bool(merge_repeated), options))
    arguments = {"blank": prepared.blank}
    classes, log_probs = compute(
        "greedy",
        prepared,
        options,
        arguments,
        partial(_wrong_classes, num_classes=prepared.logits.shape[2]),
    )
    rules = (prepared.blank, bool(merge_repeated))
    if (read := _on_host(classes, log_probs, prepared.facts)) is not None:
        host = readout_of_numpy(
            read[0],
            read[1],
            prepared.blank,
            merge_repeated=bool(merge_repeated),
            width=prepared.logits.shape[1] if full_width else None,
        )
        if prepared.facts.namespace == "jax.numpy":
            host = given_back(host, prepared.logits)
        elif prepared.facts.namespace != "numpy":
            host = Readout(*map(prepared.facts.xp.asarray, host))
        return Decoded(*as_asked(host, prepared, logits))
    width, most = _widths(classes, log_probs, rules, prepared, full_width=full_width)
    parts: Readout = run(readout, (classes, log_probs), (*rules, width))
    found = tuple(part[:, :most] if part.ndim == 2 and most != width else part for part in parts)
    return Decoded(*as_asked(found, prepared, logits))


def _widths(
    classes: Array,
    log_probs: Array,
    rules: tuple[int, bool],
    prepared: KernelInputs,
    *,
    full_width: bool,
) -> tuple[Any, Any]:
    """How many label positions to compute, and how many of these to return."""
    rows, frames, _ = prepared.logits.shape
    if full_width or prepared.facts.traced or is_capturing(prepared.logits):
        return frames, frames
    if 0 in (rows, frames):
        return 0, 0
    most = int(prepared.facts.xp.max(run(label_counts, (classes, log_probs), rules)))
    # A compiler gets few different numbers to compile for.
    compiles = prepared.facts.namespace == "jax.numpy"
    return (min(frames, 1 << max(0, most - 1).bit_length()) if compiles else most), most


def _on_host(
    classes: Array, log_probs: Array, facts: ArrayFacts
) -> tuple[NDArray[Any], ...] | None:
    """Return a kernel's results as NumPy arrays, if that takes no copy."""
    if facts.namespace == "numpy" or (
        facts.namespace == "torch" and facts.device == "cpu" and not facts.traced
    ):
        return np.asarray(classes), np.asarray(log_probs)
    return lent(classes, log_probs)


def _wrong_classes(
    result: tuple[Array, Array], _facts: ArrayFacts, *, num_classes: int
) -> str | None:
    """Say for which sequence a kernel's classes or probabilities can't be."""
    classes, log_probs = lent(*result) or result
    if 0 in classes.shape:
        return None
    xp = namespace_of(classes)
    fine = (classes >= -1) & (classes < num_classes) & (log_probs <= 0.0)
    if bool(xp.all(fine)):
        return None
    n = first_where(~xp.all(fine, axis=1))
    if n is None:
        return None
    return (
        f"returned classes or log_probs for sequence {numbered(n)}, whose values "
        "passed all checks, that "
        f"can't be; expected classes of -1 to {num_classes - 1}, and log_probs of at most 0"
    )
