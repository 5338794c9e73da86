"""Beam search decoding: the most probable labels."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

import numpy as np

from ctcx._api.align import ctc_align
from ctcx._api.call import as_asked, as_constants
from ctcx._api.cuda_graphs import in_graph, is_captured, is_capturing
from ctcx._api.guided_search import (
    BeamState,
    Wishes,
    naming_width,
    search,
    uploaded,
    wishes_of,
)
from ctcx._api.lazy import call_whole, is_lazy
from ctcx._api.loss import ctc_loss
from ctcx._arrays.facts import is_numpy, namespace_of
from ctcx._arrays.lending import given_back, lent
from ctcx._arrays.tensor_forms import UNREADABLE, hidden_from_dynamo, is_torch_recording
from ctcx._core.kernels import run
from ctcx._core.results import beams_in_order, label_lengths
from ctcx._dispatch.compute import compute
from ctcx._dispatch.results import first_where
from ctcx._errors import CTCInputError, short_repr
from ctcx._inputs.host_data import whole_number
from ctcx._inputs.options import Options, check_flags
from ctcx._inputs.prepare import prepare_logits
from ctcx._nesting import numbered
from ctcx._plugins.registry import registry
from ctcx._typing import ArrayT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ctcx._arrays.facts import ArrayFacts
    from ctcx._core.guided_beam import LanguageModel
    from ctcx._inputs.prepare import KernelInputs
    from ctcx._typing import Array

__all__ = ["Beams", "beam_search_eagerly", "check_sizes", "ctc_beam_search"]


class Beams(NamedTuple, Generic[ArrayT]):
    """What :func:`ctcx.ctc_beam_search` returns: arrays of the library and device of the logits.

    Shapes are for N sequences, ``top`` results each, the longest of K labels; N is dropped for one
    sequence. Where values can't be read, as under ``jax.jit``, K is T. The property ``state`` is
    the :class:`ctcx.BeamState` to go on with, if the call had one, else None.

    Attributes
    ----------
    labels
        (N, top, K) int32: the labels, -1 past a result's own and where there is no result.
    lengths
        (N, top) int32: how many there are, -1 where there is no result.
    log_probs
        (N, top): logarithm of the probability of the labels, in nats, by all their paths; with
        ``exact_scores=False`` the same as ``beam_log_probs``. -inf where there is no result.
    beam_log_probs
        (N, top): what the beam has gathered, never more than ``log_probs`` but for rounding: what
        reaches the labels through a prefix that had left the beam is missing.
    scores
        (N, top): ``log_probs`` and what phrases, language model and label bonus add. Results are in
        this order, the best first. -inf where there is no result.
    starts
        (N, top, K) int32: the frame where each label starts in the most probable path of the
        labels (:func:`ctcx.ctc_align`); -1 elsewhere, and with ``exact_scores=False``.
    count
        (N,) int32: how many results there are, at most ``top``.
    """

    labels: Array
    lengths: Array
    log_probs: ArrayT
    beam_log_probs: ArrayT
    scores: ArrayT
    starts: Array
    count: Array

    @property
    def state(self) -> BeamState | None:
        """Where the search has stopped; None unless it was called with a state."""
        return None


class _BeamsSoFar(Beams[ArrayT]):
    """Results of a search that can go on."""

    # No field of the tuple, as it is no array, and vmap takes arrays only.
    state: BeamState | None = None


@hidden_from_dynamo
def ctc_beam_search(
    logits: ArrayT,
    logit_lengths: Array | Sequence[int] | None = None,
    *,
    width: int = 16,
    top: int = 1,
    blank: int = 0,
    time_major: bool = False,
    exact_scores: bool = True,
    max_classes: int | None = None,
    boost: Mapping[tuple[int, ...], float] | None = None,
    lm: LanguageModel | None = None,
    lm_weight: float = 1.0,
    label_bonus: float = 0.0,
    state: BeamState | None = None,
    backend: str | None = None,
    validate: bool = True,
) -> Beams[ArrayT]:
    r"""Search for the most probable labels: prefix beam search.

    .. math::
        \operatorname*{argmax}_{y} \sum_{\pi \in B^{-1}(y)} \prod_t \mathrm{softmax}(x_t)_{\pi_t}

    After each frame the ``width`` most probable prefixes are kept, each once, with the
    probabilities of their paths so far (Graves 2012, section 7.5; Hannun et al. 2014). Nothing else
    is pruned: with ``width`` at least the number of prefixes the results are the most probable
    labels of all, and ``beam_log_probs`` are exact. A prefix that has left starts anew.

    Of equally probable candidates, those in the beam come first, in its order; then new ones, by
    the probability of the class in this frame, the lower of equally probable classes first; then by
    the order of the prefix that they add to. Probabilities are equal if they are as computed, so
    backends may differ where different sums have the same value but for rounding.

    With ``boost``, ``lm`` or ``label_bonus`` prefixes and results have a score, which takes the
    place of the probability in all this:

    .. math::
        \text{score}(y) = \log P(y) + \text{boost}(y) + \text{lm\_weight}\cdot\log P_{LM}(y)
            + \text{label\_bonus}\cdot |y|

    Calls with these, or with ``state``, run on the host in float64, so logits on another device are
    copied: on a backend that offers ``guided_search``, else on the core, which alone asks language
    models written in Python. They need values and can't be compiled; ``torch.compile`` interrupts
    its graph for them.

    Not differentiable: probabilities are constants to PyTorch and JAX.

    Parameters
    ----------
    logits, logit_lengths
        As for :func:`ctcx.ctc_loss`.
    width : int
        How many prefixes are kept.
    top : int
        How many results to return, at most ``width``.
    blank, time_major, backend, validate
        As for :func:`ctcx.ctc_loss`. A backend named is that of the search; losses and alignments
        come from it if it offers them. To find out K the numbers of labels are read, unless the
        library traces.
    exact_scores : bool
        Whether to compute the probability of each result by :func:`ctcx.ctc_loss`, to sort by it,
        and to find ``starts``; both take another pass over the logits for each of ``top``.
    max_classes : int, optional
        Only so many labels of each frame, the most probable, make new prefixes. None for all.
    boost : dict of tuple of int to float, optional
        Phrases to prefer, as labels, and what each of their labels adds, in nats: at most 1e9 in
        size, as ``lm_weight`` and ``label_bonus``. A label that is
        in several gets the largest of their weights. The last labels of a prefix get it as soon as
        they begin a phrase, and lose it if the phrase breaks off or ends unfinished.
    lm : object, optional
        A language model: ``start()`` gives the state before the first label; ``score(state,
        label)`` the logarithm of the label's probability, in nats, and the next state, and leaves
        the given one as it is; and ``finish(state)`` that of the end. The end counts in results
        only, not in the search.
    lm_weight : float
        What the logarithms of ``lm`` are multiplied by; 0 or more. With 0 the model is ignored.
        Without ``lm`` it can't be anything but 1.
    label_bonus : float
        What each label adds, in nats.
    state : BeamState, optional
        Where to begin: :class:`ctcx.BeamState` () before the first frame, then the ``state`` of the
        results. Chunks of any size, frames or none, give exactly what one chunk of all frames
        gives; a search without a state may differ by rounding, and where candidates tie.
        Results are of all frames so far. Needs ``exact_scores=False``, as logits aren't kept.

    Returns
    -------
    Beams

    Raises
    ------
    CTCInputError
        As for :func:`ctcx.ctc_loss`; ``top`` above ``width``; sizes that are no positive integers;
        phrases that no labels can say; ``lm_weight`` without ``lm``; a state of another search; one
        of the arguments from ``boost`` to ``state`` while a library traces.
    BackendError
        As for :func:`ctcx.ctc_loss`.
    MemoryError
        ``width`` is too large for it: the message says how much its prefixes take at least.

    Examples
    --------
    >>> import numpy as np, ctcx
    >>> logits = np.log([[0.6, 0.4], [0.6, 0.4]])  # the best path is blank, blank
    >>> found = ctcx.ctc_beam_search(logits, top=2)
    >>> found.labels.tolist(), found.lengths.tolist()
    ([[1], [-1]], [1, 0])
    >>> [round(float(np.exp(p)), 2) for p in found.log_probs]
    [0.64, 0.36]

    In chunks:

    >>> state = ctcx.BeamState()
    >>> for chunk in np.split(logits, 2):
    ...     found = ctcx.ctc_beam_search(chunk, state=state, exact_scores=False)
    ...     state = found.state
    >>> found.labels.tolist(), round(float(np.exp(found.log_probs[0])), 2)
    ([[1]], 0.64)
    """
    settings = (blank, time_major, width, top, exact_scores, max_classes, backend, validate)
    names = ("blank", "time_major", "width", "top", "exact_scores", "max_classes", "backend")
    options: dict[str, Any] = dict(zip(names, settings, strict=False))
    arrays = {"logits": logits, "logit_lengths": logit_lengths}
    wishes = None
    is_plain = boost is None and lm is None and state is None
    # Anything but the defaults is looked at: what isn't used mustn't be nonsense, either.
    if not (is_plain and _is_default(lm_weight, 1) and _is_default(label_bonus, 0)):
        wishes = wishes_of(boost, lm, lm_weight, label_bonus, state)
    if not is_torch_recording(logits) and is_lazy(logits):
        check_flags(exact_scores=exact_scores, validate=validate)
        check_sizes(width, top, max_classes)
        guide: dict[str, Any] = {
            "boost": boost,
            "lm": lm,
            "lm_weight": lm_weight,
            "label_bonus": label_bonus,
        }
        guide |= {"state": state, "validate": validate}
        if (whole := call_whole("beam_search", arrays, **options, **guide)) is not None:
            return Beams(*whole)
    if wishes is not None and not wishes.are_none:
        search_guided = _guided
        if is_torch_recording(logits):
            from ctcx._api import torch_decode

            search_guided = partial(torch_decode.outside_of_graphs, _guided)
        return search_guided(
            logits,
            logit_lengths,
            wishes,
            check_sizes(width, top, max_classes),
            blank=blank,
            time_major=time_major,
            exact_scores=exact_scores,
            backend=backend,
            validate=validate,
        )
    if is_torch_recording(logits):
        from ctcx._api import torch_decode

        return _plain(*torch_decode.beam_search_traced(logits, logit_lengths, *settings))
    if is_captured(logits):
        captured: Beams[ArrayT] = in_graph(ctc_beam_search, arrays, **options)
        return captured
    return _plain(*beam_search_eagerly(logits, logit_lengths, *settings))


def _plain(*parts: Any) -> Beams[Any]:
    """Return results whose scores are probabilities."""
    labels, lengths, log_probs, beam_log_probs, starts, count = parts
    return Beams(labels, lengths, log_probs, beam_log_probs, log_probs, starts, count)


def _guided(
    logits: Any,
    logit_lengths: Any,
    wishes: Wishes,
    sizes: dict[str, int | None],
    *,
    blank: int,
    time_major: bool,
    exact_scores: bool,
    backend: str | None,
    validate: bool,
) -> Beams[Any]:
    """Search with wishes or a state."""
    check_flags(time_major=time_major, exact_scores=exact_scores, validate=validate)
    if wishes.state is not None and exact_scores:
        msg = (
            "exact_scores must be False with a state, as it holds no logits to compute the "
            "probabilities from"
        )
        raise CTCInputError(msg, argument="exact_scores", value=exact_scores)
    prepared = None
    if not is_torch_recording(logits) and not is_capturing(logits):
        prepared = as_constants(prepare_logits(logits, logit_lengths, blank, time_major=time_major))
    if prepared is None or prepared.facts.traced or prepared.facts.form & UNREADABLE:
        msg = (
            "boost, lm, label_bonus and state need values, which can't be read while a library "
            "traces or captures, and of wrapped or lazy tensors: call ctc_beam_search outside of "
            "the compiled function, with plain tensors"
        )
        raise CTCInputError(msg, argument="logits")
    options = Options(time_major, "none", "inf", backend, validate)
    with naming_width(sizes["width"] or 1, prepared.logits):
        found = search(prepared, sizes, wishes, options)
    labels, lengths, log_probs, bonus = found[:4]
    if lent(prepared.logit_lengths) is None:  # else NumPy goes on, for JAX
        labels, lengths, log_probs, bonus = (uploaded(array, prepared) for array in found[:4])
    done = _completed(
        labels, lengths, log_probs, prepared, backend, exact=bool(exact_scores), bonus=bonus
    )
    parts = as_asked(_returned(done, prepared), prepared, logits)
    beams = _BeamsSoFar(*parts)
    beams.state = found.state
    return beams


def beam_search_eagerly(
    logits: Any,
    logit_lengths: Any,
    blank: int,
    time_major: bool,  # noqa: FBT001 - in the order of the operator
    width: int,
    top: int,
    exact_scores: bool,  # noqa: FBT001
    max_classes: int | None,
    backend: str | None,
    validate: bool,  # noqa: FBT001
    *,
    full_width: bool = False,
) -> tuple[Any, ...]:
    """Do what :func:`ctcx.ctc_beam_search` does for arrays with values, or that JAX traces.

    Returns labels, lengths, log_probs, beam_log_probs, starts and count. ``full_width``: K is T.
    """
    check_flags(time_major=time_major, exact_scores=exact_scores, validate=validate)
    sizes = check_sizes(width, top, max_classes)
    options = Options(time_major, "none", "inf", backend, validate)
    prepared = as_constants(prepare_logits(logits, logit_lengths, blank, time_major=time_major))
    if prepared.facts.form & UNREADABLE:
        from ctcx._api import torch_decode

        dispatched = torch_decode.beam_search_dispatched
        return dispatched(prepared, sizes, bool(exact_scores), options)
    arguments = {"blank": prepared.blank, **sizes}
    wrong = partial(_wrong_beams, num_classes=prepared.logits.shape[2], blank=prepared.blank)
    with naming_width(sizes["width"] or 1, prepared.logits):
        results = compute("beam_search", prepared, options, arguments, wrong)
    labels, beam_log_probs = lent(*results) or results
    lengths = run(label_lengths, (labels, beam_log_probs), ())
    most, some = _most_labels(lengths, prepared, full_width=full_width)
    labels = labels[:, :, :some]
    found = _completed(labels, lengths, beam_log_probs, prepared, backend, exact=bool(exact_scores))
    found = (*found[:4], *found[5:])
    if most is not some:
        found = tuple(part[:, :, :most] if part.ndim == 3 else part for part in found)
    return as_asked(_returned(found, prepared), prepared, logits)


def _is_default(number: Any, default: int) -> bool:
    return isinstance(number, int | float) and number == default


def check_sizes(width: Any, top: Any, max_classes: Any) -> dict[str, int | None]:
    """Return the options of a kernel that are sizes.

    Raises CTCInputError: one is no positive integer; ``top`` is above ``width``.
    """
    sizes = {"width": _size("width", width), "top": _size("top", top)}
    if sizes["top"] > sizes["width"]:
        msg = (
            f"top is {top}, but a beam of width {width} has no more results: expected at most "
            f"{width}, or a larger width"
        )
        raise CTCInputError(msg, argument="top", value=top)
    most = None if max_classes is None else _size("max_classes", max_classes, or_none=" or None")
    return {**sizes, "max_classes": most}


def _size(argument: str, value: Any, *, or_none: str = "") -> int:
    size = whole_number(value)
    if size is None or size < 1:
        msg = f"{argument} must be a positive integer{or_none}; got {short_repr(value)}"
        raise CTCInputError(msg, argument=argument, value=value)
    if size >= 2**31:  # as large as kernels count
        msg = f"{argument} is {short_repr(value)}: expected at most 2147483647"
        raise CTCInputError(msg, argument=argument, value=value)
    return size


def _most_labels(lengths: Array, prepared: KernelInputs, *, full_width: bool) -> tuple[Any, Any]:
    """How many label positions to return, and how many to compute with."""
    rows, frames, _ = prepared.logits.shape
    if full_width or prepared.facts.traced or is_capturing(prepared.logits):
        return frames, frames
    if 0 in (rows, frames):
        return 0, 0
    most = max(0, int(namespace_of(lengths).max(lengths)))
    # A compiler gets few different numbers to compile for.
    compiles = prepared.facts.namespace == "jax.numpy"
    return most, min(frames, 1 << max(0, most - 1).bit_length()) if compiles else most


def _completed(
    labels: Array,
    lengths: Array,
    beam_log_probs: Array,
    prepared: KernelInputs,
    backend: str | None,
    *,
    exact: bool,
    bonus: Array | None = None,
) -> tuple[Array, ...]:
    """Add exact probabilities and starts, in order, if asked to; the first parts of Beams.

    ``bonus`` is what is added to probabilities for the scores. For logits of JAX the others may be
    NumPy's: see :mod:`ctcx._arrays.lending`.
    """
    is_lent = _is_lent(labels, prepared)
    xp = namespace_of(labels)
    log_probs = beam_log_probs
    bonus = xp.zeros_like(log_probs) if bonus is None else bonus
    counts = xp.where(lengths >= 0, lengths, 0)
    results = range(labels.shape[1])

    def with_labels(function: Any, operation: str, k: int, **options: Any) -> Any:
        rows = labels[:, k, :], counts[:, k]
        row, count = given_back(rows, prepared.logits) if is_lent else rows
        return function(
            prepared.logits,
            row,
            prepared.logit_lengths,
            count,
            blank=prepared.blank,
            backend=_offering(backend, operation),
            validate=False,
            **options,
        )

    def stacked(parts: list[Array]) -> Array:
        return xp.stack([np.asarray(part) for part in parts] if is_lent else parts, axis=1)

    if exact:
        losses = stacked([with_labels(ctc_loss, "loss", k) for k in results])
        arrays = (labels, lengths, 0.0 - losses, beam_log_probs, bonus)  # never -0.0
        labels, lengths, log_probs, beam_log_probs, bonus = run(beams_in_order, arrays, ())
        counts = xp.where(lengths >= 0, lengths, 0)
        starts = stacked(
            [with_labels(ctc_align, "align", k, infeasible="empty").starts for k in results]
        )
    else:
        starts = xp.full_like(labels, -1)
    count = xp.sum(xp.astype(lengths >= 0, xp.int32), axis=1, dtype=xp.int32)
    return labels, lengths, log_probs, beam_log_probs, log_probs + bonus, starts, count


def _is_lent(result: Array, prepared: KernelInputs) -> bool:
    """Whether NumPy computes with results for JAX."""
    return prepared.facts.namespace == "jax.numpy" and is_numpy(result)


def _returned(found: tuple[Array, ...], prepared: KernelInputs) -> tuple[Array, ...]:
    """Return results of the library of the logits."""
    if _is_lent(found[0], prepared):
        found = given_back(found, prepared.logits)
    return found


def _offering(backend: str | None, operation: str) -> str | None:
    """Name of the backend if it offers a kernel for the operation."""
    entry = registry().backends.get(backend) if backend else None
    return backend if entry is not None and operation in entry.backend.kernels else None


def _wrong_beams(
    result: tuple[Array, Array], _facts: ArrayFacts, *, num_classes: int, blank: int
) -> str | None:
    """Say for which sequence a kernel's labels or probabilities can't be."""
    labels, log_probs = lent(*result) or result
    if log_probs.shape[0] == 0:
        return None
    xp = namespace_of(labels)
    wrong = ~xp.all(log_probs <= 0.0, axis=1)
    if labels.shape[2]:
        fine = (labels >= -1) & (labels < num_classes) & (labels != blank)
        wrong = wrong | ~xp.all(xp.reshape(fine, (fine.shape[0], -1)), axis=1)
    n = first_where(wrong)
    if n is None:
        return None
    return (
        f"returned labels or log_probs for sequence {numbered(n)}, whose values "
        "passed all checks, that "
        f"can't be; expected labels of 0 to {num_classes - 1} without the blank ({blank}), padded "
        f"with -1, and log_probs of at most 0"
    )
