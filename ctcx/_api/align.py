"""The best path of the labels: which frame says what."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple

from ctcx._api.call import as_asked, as_constants
from ctcx._api.cuda_graphs import in_graph, is_captured
from ctcx._api.lazy import call_whole, is_lazy
from ctcx._arrays.facts import device_of, first_true, has_float64, looked_into
from ctcx._arrays.tensor_forms import UNREADABLE, hidden_from_dynamo, is_torch_recording
from ctcx._core.kernels import run_on_results
from ctcx._core.spans import PathFacts, are_paths, path_facts
from ctcx._dispatch.compute import compute, raise_if_infeasible
from ctcx._errors import CTCInputError, short_repr
from ctcx._inputs.host_data import as_integer, is_list, to_lists, type_name
from ctcx._inputs.options import Options, check_choice, check_flags
from ctcx._inputs.prepare import prepare
from ctcx._inputs.wildcards import Wildcards, near_zero
from ctcx._nesting import numbered
from ctcx._typing import ArrayT

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ctcx._arrays.facts import ArrayFacts
    from ctcx._inputs.prepare import KernelInputs
    from ctcx._typing import Array

__all__ = ["Alignment", "Span", "align_eagerly", "ctc_align", "spans"]

_POLICIES = ("raise", "empty")


class Alignment(NamedTuple, Generic[ArrayT]):
    """What :func:`ctcx.ctc_align` returns: arrays of the library and device of the logits.

    Shapes are for N sequences of T frames and S label positions; N is dropped for one sequence.

    Attributes
    ----------
    states
        (N, T) int32: 2j in the blank before label j (after the last one for j = L), 2j + 1 in label
        j, -1 past a sequence's length.
    classes
        (N, T) int32: the class of each frame, -1 past a sequence's length. In a wildcard the best
        class of its set; -2 where no class counts: in a "free" wildcard and in free ends.
    starts, ends
        (N, S) int32: the frames of each label, from ``starts`` up to but not including ``ends``;
        -1 past a sequence's labels.
    log_probs
        (N, T): logarithm of the probability of what each frame is said to say, in nats; 0 past a
        sequence's length.
    label_log_probs
        (N, S): the mean of ``log_probs`` over the frames of each label, 0 past a sequence's labels.
    score
        (N,): the sum of ``log_probs``, -inf where no path emits the labels.
    feasible
        (N,) boolean: whether any path emits the labels.
    """

    states: Array
    classes: Array
    starts: Array
    ends: Array
    log_probs: ArrayT
    label_log_probs: ArrayT
    score: ArrayT
    feasible: Array


class Span(NamedTuple):
    """A label and where it stands, as :func:`ctcx.spans` lists them.

    Attributes
    ----------
    label
        A class; for a wildcard that of the first frame, -2 for a "free" one.
    token
        Its name; None without ``tokens``, and for -2 unless they name it.
    start, end
        Frames, the end exclusive.
    log_prob
        Mean over the frames, in nats.
    wildcard
        The label below -1, if it is a wildcard; None for all others, and without ``labels``.
    """

    label: int
    token: str | None
    start: int
    end: int
    log_prob: float
    wildcard: int | None = None


@hidden_from_dynamo
def ctc_align(
    logits: ArrayT,
    labels: Array | Sequence[Sequence[int]],
    logit_lengths: Array | Sequence[int] | None = None,
    label_lengths: Array | Sequence[int] | None = None,
    *,
    blank: int = 0,
    time_major: bool = False,
    wildcards: Mapping[int, tuple[str | Collection[int], float]] | None = None,
    free_ends: float | tuple[float | None, float | None] | None = None,
    infeasible: Literal["raise", "empty"] = "raise",
    backend: str | None = None,
    validate: bool = True,
) -> Alignment[ArrayT]:
    r"""Most probable path that emits the labels: forced alignment.

    .. math:: \operatorname*{argmax}_{\pi \in B^{-1}(y)} \prod_t \mathrm{softmax}(x_t)_{\pi_t}

    over all paths that become the labels when equal neighbours are merged and blanks removed
    (Graves et al. 2006, eq. 3; the best path by Viterbi's algorithm). Of equally probable paths it
    is the one that, followed back from the last frame, stays in a state rather than coming from the
    state before, and that rather than from two states before; and ends in the last label rather
    than in the blank after it. The path is that of the exact sums, at any length.

    Not differentiable: ``log_probs``, ``label_log_probs`` and ``score`` are constants to PyTorch
    and JAX.

    Parameters
    ----------
    logits, labels, logit_lengths, label_lengths
        As for :func:`ctcx.ctc_loss`. Wildcards may stand among the labels.
    blank, time_major, backend, validate
        As for :func:`ctcx.ctc_loss`. ``time_major`` is about the logits only.
    wildcards : dict of int to (kind, price), optional
        Labels below -1, and what they stand for: ``"any"``, all classes but the blank, with the sum
        of their probabilities; ``"best"``, the most probable of them; ``"free"``, whatever it is,
        with probability 1; or a set of classes, with the sum of their probabilities. The price, in
        nats, is added to the logarithm in each of its frames: negative ones make it less welcome.
        Two different labels may touch, equal ones need a blank between them, as all labels do. No
        path goes through a frame whose classes are all at -inf, not even in a ``"free"`` one.
    free_ends : float or (float or None, float or None), optional
        Replaces the logarithm of the blank's probability in the frames before the first label and
        after the last one: what a frame costs there, in nats, whatever it says, silence included.
        None in a pair leaves that end as it is. Without labels the first one is that of all frames.
    infeasible : {"raise", "empty"}
        What to do where no path emits the labels: :class:`ctcx.InfeasibleError`, or -1 for all
        integers, 0 for ``log_probs``, a score of -inf and ``feasible`` False. Where values can't be
        read, as under ``jax.jit``, it is always ``"empty"``.

    Returns
    -------
    Alignment

    Raises
    ------
    CTCInputError
        As for :func:`ctcx.ctc_loss`; for a wildcard or a price that is none.
    InfeasibleError
        Under ``infeasible="raise"``; says how many frames are needed.
    BackendError
        As for :func:`ctcx.ctc_loss`.

    See Also
    --------
    spans : The same as a list for people.

    Notes
    -----
    Wildcards and free ends are computed in float64. Where there is none (JAX without its 64-bit
    mode, PyTorch on MPS), float32 rounds them by up to 4e-7 nats a frame, which adds up where
    frames are alike: to 0.02 nats in 50,000 frames.

    Examples
    --------
    >>> import numpy as np, ctcx
    >>> logits = np.log([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.3, 0.6], [0.7, 0.1, 0.2]])
    >>> found = ctcx.ctc_align(logits, [1, 2])
    >>> found.states
    array([0, 1, 3, 4], dtype=int32)
    >>> found.starts, found.ends
    (array([1, 2], dtype=int32), array([2, 3], dtype=int32))
    >>> round(float(np.exp(found.score)), 4)
    0.2688
    """
    options = Options(time_major, "none", infeasible, backend, validate)
    arguments: dict[str, Any] = {"blank": blank, "wildcards": wildcards, "free_ends": free_ends}
    arrays = {"logits": logits, "labels": labels}
    arrays |= {"logit_lengths": logit_lengths, "label_lengths": label_lengths}
    if is_torch_recording(logits):
        from ctcx._api import torch_align

        return Alignment(*torch_align.traced(*arrays.values(), **arguments, options=options))
    if is_captured(logits):
        free = options._asdict() | {"infeasible": "empty"}
        del free["reduction"]
        captured: Alignment[ArrayT] = in_graph(ctc_align, arrays, **arguments, **free)
        return captured
    if is_lazy(logits):
        free = options._asdict()
        del free["reduction"]
        if (whole := call_whole("align", arrays, **arguments, **free)) is not None:
            return Alignment(*whole)
    return align_eagerly(*arrays.values(), **arguments, options=options)


def align_eagerly(
    logits: Any,
    labels: Any,
    logit_lengths: Any,
    label_lengths: Any,
    *,
    blank: int,
    wildcards: Any,
    free_ends: Any,
    options: Options,
) -> Alignment[Any]:
    """Do what :func:`ctcx.ctc_align` does for arrays that hold values, or that JAX traces."""
    check_choice("infeasible", options.infeasible, _POLICIES)
    check_flags(time_major=options.time_major, validate=options.validate)
    arrays = (logits, labels, logit_lengths, label_lengths)
    prepared = as_constants(prepare(*arrays, blank, time_major=options.time_major))
    meaning = Wildcards.of(wildcards, free_ends, prepared.logits.shape[2])
    if prepared.facts.form & UNREADABLE:
        from ctcx._api import torch_align

        return Alignment(*torch_align.dispatched(prepared, meaning, options))
    return Alignment(*as_asked(_aligned(prepared, meaning, options), prepared, logits))


def _aligned(prepared: KernelInputs, meaning: Wildcards, options: Options) -> Alignment[Any]:
    """Align a batch; all arrays keep N."""
    facts = prepared.facts
    xp, classes = facts.xp, prepared.logits.shape[2]
    dtype = xp.float64 if facts.dtype == "float64" else xp.float32
    if meaning.needs_columns:
        # Their columns are about as large as the logits; float32 would round like frames alike.
        if has_float64(xp, device_of(prepared.logits)):
            wide = xp.astype(prepared.logits, xp.float64, copy=False)
            prepared = prepared._replace(logits=wide, facts=facts._replace(dtype="float64"))
        else:
            small = near_zero(prepared.logits, xp)
            prepared = prepared._replace(logits=small, facts=facts._replace(dtype="float32"))
    labels = meaning.columns_of(prepared.labels, classes, xp)
    beside = meaning.columns(prepared.logits, prepared.blank)
    constants = (prepared.blank, beside.ends)
    states, log_probs = compute(
        "align",
        prepared,
        options,
        {"blank": prepared.blank, "extra": beside.extra, "ends": beside.ends},
        partial(_wrong_path, prepared=prepared, labels=labels),
        labels=labels,
        wildcards=meaning.numbers,
    )
    arrays = (states, log_probs, labels, prepared.logit_lengths, prepared.label_lengths)
    path: PathFacts = run_on_results(path_facts, arrays, constants)
    if options.infeasible == "raise" and not facts.traced:
        marked = path.score != path.score  # NaN: unchecked values are wrong
        masks = "logits or prices" if meaning.needs_columns else "logits"
        raise_if_infeasible(path.feasible | marked, prepared, 'infeasible="empty"', masks=masks)
    found = meaning.classes_of(path.columns, beside, prepared.blank, classes, xp)
    log_probs, label_log_probs, score = (
        xp.astype(each, dtype, copy=False)
        for each in (path.log_probs, path.label_log_probs, path.score)
    )
    return Alignment(
        path.states,
        xp.astype(found, xp.int32, copy=False),
        path.starts,
        path.ends,
        log_probs,
        label_log_probs,
        score,
        path.feasible,
    )


def _wrong_path(
    result: tuple[Array, Array], facts: ArrayFacts, *, prepared: KernelInputs, labels: Array
) -> str | None:
    """Say for which sequence a kernel's path is none of its labels, or has no probabilities."""
    if 0 in result[0].shape:
        return None
    xp = facts.xp
    fits = run_on_results(
        are_paths, (*result, labels, prepared.logit_lengths, prepared.label_lengths), ()
    )
    if bool(xp.all(fits)):
        return None
    n = first_true(~fits, xp)
    return (
        f"returned states or log_probs for sequence {numbered(n)}, whose values "
        "passed all checks, that are "
        f"no path of its labels; expected states that go up from 0 or 1 to 2L or 2L - 1 by 0, 1 or "
        f"2 (2 between different labels only), -1 past the length, or -1 for all of them"
    )


def spans(
    alignment: Alignment[Any],
    n: int = 0,
    tokens: Sequence[str] | Mapping[int, str] | None = None,
    labels: Array | Sequence[Sequence[int]] | None = None,
) -> list[Span]:
    """List the labels of one sequence with their frames, for people.

    Parameters
    ----------
    alignment : Alignment
        Of :func:`ctcx.ctc_align`.
    n : int
        Which sequence of a batch.
    tokens : sequence or mapping of int to str, optional
        Names of the classes; a mapping may name -2, too.
    labels : array (N, S) or (S,), or lists, optional
        Those that were aligned, to tell which of them are wildcards: arrays don't say.

    Returns
    -------
    list of Span
        One a label, in the order of the labels, wildcards included; empty for an infeasible
        sequence.

    Raises
    ------
    CTCInputError
        No alignment, no such sequence, a class without a token, or the labels of something else.

    Examples
    --------
    >>> import numpy as np, ctcx
    >>> logits = np.log([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.3, 0.6], [0.7, 0.1, 0.2]])
    >>> for span in ctcx.spans(ctcx.ctc_align(logits, [1, 2]), tokens="_ab"):
    ...     print(span.token, span.start, span.end, round(span.log_prob, 2))
    a 1 2 -0.22
    b 2 3 -0.51

    An unreadable label:

    >>> labels = [1, -9]
    >>> found = ctcx.ctc_align(logits, labels, wildcards={-9: ("any", 0.0)})
    >>> [(span.token, span.wildcard) for span in ctcx.spans(found, tokens="_ab", labels=labels)]
    [('a', None), ('b', -9)]
    """
    given: object = alignment
    if not isinstance(given, Alignment):
        msg = f"alignment must be what ctcx.ctc_align returns; got {type_name(given)}"
        raise CTCInputError(msg, argument="alignment")
    single = alignment.starts.ndim == 1
    count = 1 if single else alignment.starts.shape[0]
    index = as_integer(n)
    if index is None or not -count <= index < count:
        msg = f"n is {short_repr(n)}: expected the number of a sequence, 0 to {count - 1}"
        raise CTCInputError(msg, argument="n", value=n)
    classes, starts, ends, log_probs = (
        to_lists(array if single else looked_into(array)[index, ...])
        for array in (
            alignment.classes,
            alignment.starts,
            alignment.ends,
            alignment.label_log_probs,
        )
    )
    found = []
    for start, end, log_prob in zip(starts, ends, log_probs, strict=True):
        if start >= 0:
            label = classes[start]
            found.append(Span(label, _token(tokens, label), start, end, log_prob))
    if labels is None:
        return found
    aligned = _labels_of(labels, None if single else index)[: len(found)]
    fits = [said == span.label or said < -1 for said, span in zip(aligned, found, strict=False)]
    if len(fits) < len(found) or not all(fits):
        msg = (
            f"labels are not those of the alignment: it has {[span.label for span in found[:20]]} "
            f"where they have {aligned[:20]}"
        )
        raise CTCInputError(msg, argument="labels", value=labels)
    return [
        span._replace(wildcard=said) if said < -1 else span
        for span, said in zip(found, aligned, strict=True)
    ]


def _labels_of(labels: Any, index: int | None) -> list[int]:
    """Return the labels of a sequence as a list of integers."""
    try:
        row = labels
        if index is not None:
            row = labels[index] if is_list(labels) else looked_into(labels)[index, ...]
        found = [as_integer(label) for label in (row if is_list(row) else to_lists(row))]
    except (LookupError, TypeError, AttributeError):
        found = [None]
    if None in found:
        msg = f"labels must be those that were aligned; got {short_repr(labels)}"
        raise CTCInputError(msg, argument="labels", value=labels)
    return [label for label in found if label is not None]


def _token(tokens: Any, label: int) -> str | None:
    """Name of a class; what no class says (-2) has none, unless a mapping names it."""
    if tokens is None or (label < 0 and not (isinstance(tokens, Mapping) and label in tokens)):
        return None
    try:
        token: str = tokens[label]
    except (LookupError, TypeError):
        msg = f"tokens has no name for class {label}; it must be a sequence of names, or a mapping"
        raise CTCInputError(msg, argument="tokens", value=label) from None
    return token
