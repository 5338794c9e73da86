"""Beam search that prefers phrases, asks a language model, or goes on where it stopped."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from numbers import Real
from operator import is_
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ctcx._api.ngram import NGram
from ctcx._arrays.facts import describe, device_of
from ctcx._core.guided_search import BeamArrays, first_beams, search_with_states
from ctcx._dispatch.compute import compute
from ctcx._dispatch.requested import SPEAKERS, asked_for, check_known, check_type
from ctcx._errors import CTCInputError, short_repr
from ctcx._inputs.host_data import as_integer, type_name
from ctcx._inputs.prepare import prepare_logits
from ctcx._inputs.validate import check_values
from ctcx._isolation import attempt_at_once
from ctcx._nesting import numbered
from ctcx._plugins.registry import registry
from ctcx._plugins.targets import load_target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ctcx._arrays.facts import ArrayFacts
    from ctcx._core.guided_beam import LanguageModel
    from ctcx._inputs.options import Options
    from ctcx._inputs.prepare import KernelInputs
    from ctcx._typing import Array

__all__ = [
    "LARGEST_WEIGHT",
    "BeamState",
    "BestLabels",
    "Wishes",
    "naming_width",
    "on_host",
    "search",
    "uploaded",
    "wishes_of",
]


_CORE = "array-api"

LARGEST_WEIGHT = 1e9
"""Nats. Beside larger weights float64 has no digits left for probabilities."""

_LEAST_BYTES = 16
"""Of a prefix in any kernel: its two probabilities and its place among the prefixes."""

_NUMBER = "a number of at most 1e9 in size"


@dataclass(frozen=True, eq=False, kw_only=True)
class BeamState:
    """Where a beam search has stopped: what :func:`ctcx.ctc_beam_search` needs to go on.

    ``ctcx.BeamState()`` is the state before the first frame; results have the next one,
    ``beams.state``. A state can be pickled if the states of the language model can be. It holds
    NumPy arrays whatever the library of the logits is, so another library can go on with it.

    Attributes
    ----------
    labels
        (N, W, K) int32: the prefixes in the beams, the best first, padded with -1.
    lengths
        (N, W) int32: how many labels they have; -1 where there is no prefix.
    blank, label
        (N, W) float64: logarithms of the probabilities of their paths that end in the blank, and in
        the last label.
    bonus
        (N, W) float64: what phrases, language model and ``label_bonus`` add so far.
    guides
        Of each sequence and prefix, where it stands in a language model written in Python; else
        none, as the labels say it.
    failed
        (N,) bool: sequences in which unchecked values were wrong.
    settings
        Names and values of the arguments that have to be the same in each call. A language model
        is known by its ``fingerprint``, a str, if it has one, as n-gram models do; else it has to
        be the same object, of which a pickled state keeps the name of its class.
    """

    labels: NDArray[np.int32] | None = None
    lengths: NDArray[np.int32] | None = None
    blank: NDArray[np.float64] | None = None
    label: NDArray[np.float64] | None = None
    bonus: NDArray[np.float64] | None = None
    guides: tuple[tuple[Any, ...], ...] = ()
    failed: NDArray[np.bool_] | None = None
    settings: tuple[tuple[str, Any], ...] = ()


class Wishes(NamedTuple):
    """What a search prefers, as the public function takes it, and where it begins."""

    boost: Any
    lm: LanguageModel | None
    lm_weight: Any
    label_bonus: Any
    state: BeamState | None

    @property
    def are_none(self) -> bool:
        """Whether a search without any of them does the same."""
        no_boost = self.boost is None or (isinstance(self.boost, Mapping) and not self.boost)
        return no_boost and self.lm is None and self.label_bonus == 0 and self.state is None


class BestLabels(NamedTuple):
    """What was found, on the host: labels (N, top, K), lengths, log_probs, bonus (N, top)."""

    labels: NDArray[np.int32]
    lengths: NDArray[np.int32]
    log_probs: NDArray[Any]
    bonus: NDArray[Any]
    state: BeamState | None


def wishes_of(boost: Any, lm: Any, lm_weight: Any, label_bonus: Any, state: Any) -> Wishes:
    """Check all that doesn't depend on the logits.

    Raises CTCInputError: a number is too large, or no number; ``lm`` lacks a method, or there is a
    weight for none; ``state`` is no state.
    """
    if boost is not None and not isinstance(boost, Mapping):
        msg = (
            f"boost must be a dict from phrases, tuples of labels, to weights in nats a label; got "
            f"{type_name(boost)}"
        )
        raise CTCInputError(msg, argument="boost")
    if lm is not None:
        _check_methods(lm)
    weight = _number("lm_weight", lm_weight)
    if weight < 0:
        msg = f"lm_weight is {lm_weight}: expected 0 or more"
        raise CTCInputError(msg, argument="lm_weight", value=lm_weight)
    if lm is None and weight != 1:
        msg = (
            f"lm_weight is {lm_weight}, but there is no lm to give it to: pass the language model "
            f"as lm, or leave lm_weight out"
        )
        raise CTCInputError(msg, argument="lm_weight", value=lm_weight)
    per_label = _number("label_bonus", label_bonus)
    if state is not None and not isinstance(state, BeamState):
        is_result = isinstance(getattr(state, "state", None), BeamState)
        got = "the results themselves: pass their .state" if is_result else type_name(state)
        msg = f"state must be ctcx.BeamState() or the state of the results so far; got {got}"
        raise CTCInputError(msg, argument="state")
    return Wishes(boost, lm if weight else None, weight, per_label, state)


@contextmanager
def naming_width(width: int, logits: Array) -> Iterator[None]:
    """Say in a MemoryError of a search what needs so much."""
    try:
        yield
    except MemoryError as error:
        rows, frames = logits.shape[:2]
        least = _LEAST_BYTES * width / 1e9
        alone = f" (of one sequence at least {least:.2g} GB)" if least >= 0.1 else ""
        msg = (
            f"there is not enough memory for the {width} prefixes that width asks for{alone}: pass "
            f"a smaller width, or fewer or shorter sequences at once; these are {rows} of {frames} "
            f"frames"
        )
        raise MemoryError(msg) from error


def _require_memory(prefixes: int, frames: int) -> None:
    """Ask for the memory of the arrays that hold beams before and after, and give it back.

    Raises MemoryError: the system refuses so much. If they were made one after another, it might
    grant each, and end the process when they are written to.
    """
    before, after = 3 * 8, 4 * 8 + 4 * frames
    np.empty(prefixes * (before + after), dtype=np.uint8)


def _check_methods(lm: Any) -> None:
    """Refuse an ``lm`` that can't be asked."""
    names = ("start", "score", "finish")
    missing = [name for name in names if not callable(getattr(lm, name, None))]
    found = f"{type_name(lm)} has no {missing[0]}" if missing else ""
    if isinstance(lm, type):
        found = f"got the class {lm.__qualname__} instead of an object of it"
    elif isinstance(lm, (str, PathLike)):
        found = "got a path: read it with ctcx.NGram.from_arpa"
    if found:
        msg = f"lm must have the methods start(), score(state, label) and finish(state); {found}"
        raise CTCInputError(msg, argument="lm")


def _number(argument: str, value: Any) -> float:
    real = isinstance(value, (Real, np.floating, np.integer)) and not isinstance(value, bool)
    if not (real and abs(value) <= LARGEST_WEIGHT):
        msg = f"{argument} must be {_NUMBER}; got {short_repr(value)}"
        raise CTCInputError(msg, argument=argument, value=value)
    return float(value)


def search(
    prepared: KernelInputs,
    sizes: dict[str, int | None],
    wishes: Wishes,
    options: Options,
) -> BestLabels:
    """Search the most probable labels on the host.

    Raises CTCInputError: wrong values; phrases that can't be; a state of another search; a language
    model that returns what is no logarithm of a probability. BackendError: as for any operation.
    """
    # As NumPy has them: kernels for this need no other library.
    logits = on_host(prepared.logits)
    if logits.dtype not in (np.float32, np.float64):
        logits = logits.astype(np.float32)
    lengths = on_host(prepared.logit_lengths)
    hosted = prepare_logits(logits, lengths, prepared.blank, time_major=False)
    rows, frames, classes = logits.shape
    weights = _phrases(wishes.boost or {}, classes, prepared.blank)
    lm, width = wishes.lm, int(sizes["width"] or 1)
    if isinstance(lm, NGram) and len(lm.tokens) != classes:
        msg = (
            f"lm has the tokens of {len(lm.tokens)} classes, but the logits have {classes}: read "
            f"it with one for each"
        )
        raise CTCInputError(msg, argument="lm")
    # A class that inherits from NGram may say something else than its n-grams do.
    is_python = not (lm is None or type(lm) is NGram)
    settings: tuple[tuple[str, Any], ...] = ()
    if wishes.state is not None:
        settings = (
            ("classes", classes),
            ("blank", prepared.blank),
            ("width", width),
            ("max_classes", sizes["max_classes"]),
            ("boost", weights),
            ("lm", _identity_of(lm)),
            ("lm_weight", wishes.lm_weight if lm is not None else None),
            ("label_bonus", wishes.label_bonus),
        )
    _require_memory(rows * width, frames)
    before, states = first_beams(rows, width), None
    failed = np.zeros(rows, dtype=bool)
    if wishes.state is not None and not _is_new(wishes.state):
        before = _entries(wishes.state, settings, rows, has_guides=is_python)
        states = [list(row) for row in wishes.state.guides]
        failed |= wishes.state.failed
    arguments = {
        "blank": prepared.blank,
        "width": width,
        "max_classes": sizes["max_classes"],
        "entries": before,
        "phrases": weights,
        "model": lm,
        "model_weight": wishes.lm_weight,
        "label_bonus": wishes.label_bonus,
    }
    guides: list[list[Any]] = []
    if not is_python:
        wrong = partial(_wrong_beams, classes=classes, blank=prepared.blank)
        found = compute("guided_search", hosted, options, arguments, wrong)
    else:
        _refuse_other_backends(options.backend)
        if options.validate:
            check_values(hosted, time_major=options.time_major)
        found, guides = search_with_states(logits, lengths, states, **arguments)
    beams, final_bonus = BeamArrays(*found[:4]), found[4]
    failed |= np.isnan(beams.ends_blank[:, 0])
    real = np.float64 if prepared.facts.dtype == "float64" else np.float32
    results = _results(beams, final_bonus, failed, int(sizes["top"] or 1), real)
    if wishes.state is None:
        return BestLabels(*results, None)
    beams.labels[failed] = -1
    beams.labels[failed, :, : before.labels.shape[2]] = before.labels[failed]
    for now, old in zip(beams[1:], before[1:], strict=True):
        now[failed] = old[failed]
    counts = (beams.labels >= 0).sum(axis=2)
    after = BeamState(
        labels=beams.labels[:, :, : counts.max(initial=0)].copy(),
        lengths=np.where(_is_there(beams), counts, -1).astype(np.int32),
        blank=beams.ends_blank,
        label=beams.ends_label,
        bonus=beams.bonus,
        guides=tuple(map(tuple, guides)),
        failed=failed,
        settings=settings,
    )
    return BestLabels(*results, after)


class _ThisModel:
    """A language model without a fingerprint, which equals itself alone.

    Another process has no such object. So a pickle has the name of its class instead, which equals
    all models of that class.
    """

    def __init__(self, name: str, lm: LanguageModel) -> None:
        self._name = name
        self._lm = lm

    def __eq__(self, other: object) -> bool:
        if isinstance(other, _ThisModel):
            return self._lm is other._lm
        return self._name == other

    def __hash__(self) -> int:
        return hash(self._name)

    def __repr__(self) -> str:
        return f"<{type(self._lm).__name__} at {id(self._lm):#x}>"

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (self._name,)


def _identity_of(lm: LanguageModel | None) -> str | _ThisModel | None:
    """Say which language model it is.

    Raises CTCInputError: its fingerprint is no str.
    """
    if lm is None:
        return None
    name = f"{type(lm).__module__}.{type(lm).__qualname__}"
    fingerprint = getattr(lm, "fingerprint", None)
    if fingerprint is None:
        return _ThisModel(name, lm)
    if not isinstance(fingerprint, str):
        msg = (
            f"lm.fingerprint must be a str that another model doesn't have, or None; got "
            f"{type_name(fingerprint)}"
        )
        raise CTCInputError(msg, argument="lm")
    return f"{type(lm).__qualname__} {fingerprint}"


def _is_there(beams: BeamArrays) -> NDArray[np.bool_]:
    return np.maximum(beams.ends_blank, beams.ends_label) > -np.inf


def _results(
    beams: BeamArrays,
    final_bonus: NDArray[np.float64],
    failed: NDArray[np.bool_],
    top: int,
    real: type[np.floating[Any]],
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[Any], NDArray[Any]]:
    """Return labels, lengths, log_probs and bonus of the best of the beams, if no frame follows.

    They are in order as they are returned, rounded to ``real``.
    """
    # A bonus beyond what float32 holds is -inf in it.
    with np.errstate(all="ignore"):
        log_probs = np.minimum(np.logaddexp(beams.ends_blank, beams.ends_label), 0.0).astype(real)
        final_bonus = final_bonus.astype(real)
        scores = np.where(_is_there(beams), log_probs + final_bonus, -np.inf)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    is_result = np.take_along_axis(scores, best, axis=1) > -np.inf
    labels = np.where(
        is_result[:, :, None], np.take_along_axis(beams.labels, best[:, :, None], axis=1), -1
    )
    counts = np.where(is_result, (labels >= 0).sum(axis=2), -1).astype(np.int32)
    log_probs = np.where(is_result, np.take_along_axis(log_probs, best, axis=1), -np.inf)
    bonus = np.where(is_result, np.take_along_axis(final_bonus, best, axis=1), 0.0)
    labels[failed], counts[failed], log_probs[failed] = -1, -1, np.nan
    labels = labels[:, :, : counts.max(initial=0)].astype(np.int32)
    return labels, counts, log_probs, bonus


def _wrong_beams(
    result: tuple[NDArray[Any], ...], _facts: ArrayFacts, *, classes: int, blank: int
) -> str | None:
    """Say for which sequence a kernel's beams can't be."""
    labels, ends_blank, ends_label, bonus, final_bonus = result
    wrong = ~((ends_blank < 1e-6) & (ends_label < 1e-6)).all(axis=1)
    wrong |= ~np.isfinite(bonus).all(axis=1) | ~(final_bonus < np.inf).all(axis=1)
    fine = (labels >= -1) & (labels < classes) & (labels != blank)
    wrong |= ~fine.all(axis=(1, 2))
    if not wrong.any():
        return None
    return (
        f"returned beams for sequence {numbered(int(wrong.argmax()))}, whose values "
        "passed all checks, that "
        f"can't be; expected labels of 0 to {classes - 1} without the blank ({blank}), padded with "
        f"-1, logarithms of probabilities, and finite numbers as bonus"
    )


def _refuse_other_backends(backend: str | None) -> None:
    check_type(backend)
    names, source = asked_for(backend)
    check_known(registry(), names, source)
    if names and _CORE not in names:
        msg = (
            f"{SPEAKERS[source]} names {', '.join(map(repr, names))}, but only the core (backend "
            f"{_CORE!r}) calls a language model written in Python: name {_CORE!r}, or no backend"
        )
        raise CTCInputError(msg, argument="backend", value=backend)


def _phrases(
    boost: Mapping[Any, Any], classes: int, blank: int
) -> tuple[tuple[tuple[int, ...], float], ...]:
    """Return phrases and their weights in a fixed order.

    Raises CTCInputError: one that can't be emitted, or a weight that is too large, or no number.
    """

    def refuse(phrase: Any, why: str) -> CTCInputError:
        msg = f"boost has the phrase {short_repr(phrase)}: {why}"
        return CTCInputError(msg, argument="boost", value=phrase)

    if (plain := _in_order_at_once(boost, classes, blank)) is not None:
        return plain
    found: dict[tuple[int, ...], float] = {}
    for phrase, weight in boost.items():
        if not isinstance(phrase, tuple):
            raise refuse(phrase, "expected a tuple of labels")
        if not phrase:
            raise refuse(phrase, "expected at least one label")
        labels = tuple(map(as_integer, phrase))
        for place, label in enumerate(labels):
            if label is None or not 0 <= label < classes:
                why = (
                    f"expected labels of 0 to {classes - 1}; got {short_repr(phrase[place])} in it"
                )
                raise refuse(phrase, why)
            if label == blank:
                raise refuse(phrase, f"it has the blank ({blank}), which is no label")
        try:
            found[tuple(int(label) for label in labels if label is not None)] = _number(
                "boost", weight
            )
        except CTCInputError:
            why = f"its weight must be {_NUMBER}; got {short_repr(weight)}"
            raise refuse(phrase, why) from None
    return tuple(sorted(found.items()))


class _Passed(NamedTuple):
    """Phrases and weights that are all right, and of Python's own types, which don't change."""

    phrases: tuple[Any, ...] = ()
    weights: tuple[Any, ...] = ()
    classes: int = 0
    blank: int = 0
    found: tuple[tuple[tuple[int, ...], float], ...] = ()

    def are(self, boost: Mapping[Any, Any], classes: int, blank: int) -> bool:
        """Whether these are the same objects, which takes less time than looking at them."""
        return (
            (classes, blank, len(boost)) == (self.classes, self.blank, len(self.phrases))
            and all(map(is_, boost, self.phrases))
            and all(map(is_, boost.values(), self.weights))
        )


_latest = _Passed()


def _in_order_at_once(
    boost: Mapping[Any, Any], classes: int, blank: int
) -> tuple[tuple[tuple[int, ...], float], ...] | None:
    """Return phrases in a fixed order if all is right and of Python's own types, or None."""
    global _latest  # noqa: PLW0603 - a stream passes the same phrases with each chunk
    if (latest := _latest).are(boost, classes, blank):
        return latest.found
    if not _are_plain(boost, classes, blank):
        return None
    found = _in_order(tuple(boost.items()))
    _latest = _Passed(tuple(boost), tuple(boost.values()), classes, blank, found)
    return found


def _are_plain(boost: Mapping[Any, Any], classes: int, blank: int) -> bool:
    """Whether all is right and of Python's own types, found out at once."""
    if set(map(type, boost)) != {tuple} or () in boost:
        return False
    labels = list(chain.from_iterable(boost))
    return (
        set(map(type, labels)) == {int}  # of each: in a set of 1, 1.0 and True is one of them
        and min(labels) >= 0
        and max(labels) < classes
        and blank not in labels
        and set(map(type, boost.values())) <= {int, float}
        and all(abs(weight) <= LARGEST_WEIGHT for weight in boost.values())
    )


@lru_cache(maxsize=8)  # a stream passes the same phrases with each chunk
def _in_order(
    phrases: tuple[tuple[tuple[int, ...], float], ...],
) -> tuple[tuple[tuple[int, ...], float], ...]:
    return tuple((phrase, float(weight)) for phrase, weight in sorted(phrases))


def _entries(
    state: BeamState, settings: tuple[tuple[str, Any], ...], rows: int, *, has_guides: bool
) -> BeamArrays:
    """Return the beams that a state holds.

    Raises CTCInputError: it isn't of a search like this, or of as many sequences.
    """
    foreign = CTCInputError(
        "state doesn't hold what a search leaves behind: pass the state of the results so far "
        "as it is, or begin with ctcx.BeamState()",
        argument="state",
    )
    if not _has_names(state.settings, settings):
        raise foreign
    for (name, old), (_, new) in zip(state.settings, settings, strict=True):
        if not _are_equal(old, new):
            same = "the same"
            if isinstance(new, _ThisModel) and old is not None:
                same = "the same object, or give it a fingerprint (a str) if others are the same"
            what = "number of classes" if name == "classes" else name
            msg = (
                f"state comes from a search with another {what} ({short_repr(old)}; now "
                f"{short_repr(new)}): pass {same}, or begin with ctcx.BeamState()"
            )
            raise CTCInputError(msg, argument="state")
    shape = (rows, dict(settings)["width"])
    there = getattr(state.lengths, "shape", ())[:1] or shape[:1]
    if there != shape[:1]:
        msg = f"state is of {there[0]} sequences, but the logits are of {rows}"
        raise CTCInputError(msg, argument="state")
    if not _is_whole(state, shape, dict(settings), has_guides=has_guides):
        raise foreign
    arrays: Any = (state.labels, state.blank, state.label, state.bonus)
    return BeamArrays(*arrays)


def _is_new(state: BeamState) -> bool:
    """Whether it is the state before the first frame."""
    settings: object = state.settings  # something else, if they were exchanged
    return isinstance(settings, tuple) and not settings


def _has_names(given: object, settings: tuple[tuple[str, Any], ...]) -> bool:
    """Whether settings are pairs of the same names."""
    names = [name for name, _ in settings]
    return (
        isinstance(given, tuple)
        and all(isinstance(pair, tuple) and len(pair) == 2 for pair in given)
        and all(isinstance(name, str) for name, _ in given)
        and [name for name, _ in given] == names
    )


def _are_equal(old: object, new: object) -> bool:
    """Whether two settings are equal; an exchanged one may be an array, of which none is told."""
    equal, failed = attempt_at_once(lambda: bool(old == new))
    return failed is None and equal


def _is_whole(
    state: Any, shape: tuple[int, int], settings: dict[str, Any], *, has_guides: bool
) -> bool:
    """Whether the parts of a state fit together."""
    labels, lengths, numbers = state.labels, state.lengths, (state.blank, state.label, state.bonus)
    if not (
        isinstance(labels, np.ndarray)
        and isinstance(lengths, np.ndarray)
        and labels.dtype == lengths.dtype == np.int32
        and labels.ndim == 3
        and labels.shape[:2] == lengths.shape == shape
        and all(isinstance(a, np.ndarray) and a.dtype == np.float64 for a in numbers)
        and all(a is not None and a.shape == shape for a in numbers)
        and isinstance(state.failed, np.ndarray)
        and (state.failed.dtype, state.failed.shape) == (np.bool_, shape[:1])
        and isinstance(state.guides, tuple)
        and len(state.guides) == (shape[0] if has_guides else 0)
    ):
        return False
    there = np.arange(labels.shape[2]) < lengths[:, :, None]
    fine = (labels >= 0) & (labels < settings["classes"]) & (labels != settings["blank"])
    if not (np.where(there, fine, labels == -1).all() and (lengths <= labels.shape[2]).all()):
        return False
    if not (np.diff((lengths >= 0).astype(int), axis=1) <= 0).all():
        return False
    with np.errstate(all="ignore"):
        total = np.logaddexp(state.blank, state.label)
    is_there = lengths >= 0
    if (
        not (((total > -np.inf) & (total < 1e-6)) == is_there).all()
        or not np.isfinite(state.bonus).all()
    ):
        return False
    sizes = is_there.sum(axis=1).tolist()
    if any(
        len(set(map(bytes, row[:size]))) < size for row, size in zip(labels, sizes, strict=True)
    ):
        return False  # a prefix is there twice
    if not all(isinstance(row, tuple) for row in state.guides):
        return False
    return not has_guides or [len(row) for row in state.guides] == sizes


def on_host(array: Array) -> NDArray[Any]:
    """Return a copy as a NumPy array."""
    library = registry().namespaces.get(describe(array).namespace)
    if library is None:
        return np.asarray(array)
    copy: NDArray[Any] = load_target(library.namespace.to_numpy)(array)
    return copy


def uploaded(array: NDArray[Any], like: KernelInputs) -> Array:
    """Return an array (N, ...) of the library and device of the logits."""
    facts = like.facts
    device = device_of(like.logits)
    made = facts.xp.asarray(array, dtype=getattr(facts.xp, array.dtype.name), device=device)
    if facts.namespace != "jax.numpy":
        return made
    from ctcx._arrays.jax import sharded_like_batch

    return sharded_like_batch(made, like.logits)
