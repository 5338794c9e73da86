"""Guided search is right: phrases, language model, label bonus, and going on where it stopped."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

import ctcx
from ctcx._api.ngram import Gram, NGram
from ctcx._core.guided_search import first_beams
from ctcx._plugins.targets import load_target
from ctcx._reference.decoding import enumerate_labels
from ctcx._reference.guided_search import bonus_of, guided_search
from ctcx._reference.oracle import round_to_dtype
from ctcx.conformance._checks.decoding import (
    BEAM_FORMS,
    Decoder,
    is_without_results,
    random_batch,
)
from ctcx.conformance._checks.delegation import raise_if_delegated
from ctcx.conformance._checks.judging import pick, raise_if
from ctcx.conformance._checks.registry import check

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ctcx.conformance._subject import Subject
    from ctcx.data.batch import Batch

    _Result = tuple[tuple[int, ...], float, float]

__all__: list[str] = []

# Labels of batches of 5 classes whose blank is 1. Phrases overlap, begin with each other, hold
# each other, and repeat a label.
_PHRASES = {
    (0, 2): 1.5,
    (2, 3, 0): 1.0,
    (0, 2, 2, 4): 0.75,
    (4,): 0.25,
    (3, 3): 2.0,
    (2, 4, 4): -1.0,
}
_DECODER = Decoder(
    name="guided_search",
    function=ctcx.ctc_beam_search,
    forms=BEAM_FORMS,
    options=lambda *_: {
        "width": 6,
        "top": 4,
        "exact_scores": False,
        "boost": {(2, 3): 1.0, (3,): 0.5},
    },
    is_marked=is_without_results,
)


@cache
def _tokens_model() -> NGram:
    """Return a model of pairs and triples of tokens; one token and many n-grams are missing.

    A back-off makes probabilities larger than 1, as those of some files do.
    """
    return NGram(
        {
            ("<s>",): Gram(-99.0, -0.25),
            ("</s>",): Gram(-1.5, 0.0),
            ("<unk>",): Gram(-3.5, 0.0),
            ("a",): Gram(-1.0, -0.5),
            ("b",): Gram(-1.25, -0.125),
            ("c",): Gram(-2.0, 2.5),
            ("<s>", "b"): Gram(-0.25, -0.5),
            ("a", "b"): Gram(-0.5, -0.25),
            ("b", "c"): Gram(-0.375, 0.0),
            ("b", "</s>"): Gram(-0.25, 0.0),
            ("c", "<unk>"): Gram(-0.75, 0.0),
            ("<s>", "b", "a"): Gram(-0.125, 0.0),
            ("a", "b", "c"): Gram(-0.0625, 0.0),
        },
        3,
        ("a", "", "b", "c", "odd"),
        None,
    )


@cache
def _words_model() -> NGram:
    """Return a model of words that tokens spell, in two ways, with 3 for the space between them."""
    return NGram(
        {
            ("<s>",): Gram(-99.0, -0.5),
            ("</s>",): Gram(-1.0, 0.0),
            ("<unk>",): Gram(-4.0, -0.25),
            ("ab",): Gram(-1.0, -0.5),
            ("a",): Gram(-1.5, 2.0),
            ("aab",): Gram(-2.0, 0.0),
            ("<s>", "a"): Gram(-0.5, 0.0),
            ("a", "ab"): Gram(-0.25, 0.0),
            ("<unk>", "a"): Gram(-0.125, 0.0),
            ("ab", "</s>"): Gram(-0.25, 0.0),
        },
        2,
        ("a", "", "b", " ", "ab"),
        " ",
    )


def _wishes() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what a search may prefer: each alone, and all together."""
    tokens, words = {"lm": _tokens_model()}, {"lm": _words_model()}
    yield "phrases", {"boost": _PHRASES}
    yield "a label bonus", {"label_bonus": 0.75}
    yield "a model of tokens", tokens
    yield "a model of words", {**words, "lm_weight": 0.5}
    everything = {"boost": _PHRASES, "lm_weight": 0.75, "label_bonus": 0.5}
    yield "all, tokens", tokens | everything
    yield "all, words", words | everything


def _results(found: ctcx.Beams[Any], n: int) -> list[_Result]:
    """Return the results of one sequence: labels, logarithm of their probability, and score."""
    return [
        (
            tuple(found.labels[n, k, : found.lengths[n, k]].tolist()),
            float(found.beam_log_probs[n, k]),
            float(found.scores[n, k]),
        )
        for k in range(int(found.count[n]))
    ]


def _judge(
    subject: Subject,
    batches: Iterable[Batch],
    wishes: dict[str, Any],
    *,
    width: int = 6,
    max_classes: int | None = None,
) -> list[str]:
    """Return all that differs from the reference."""
    faults = []
    sizes: dict[str, Any] = {"width": width, "max_classes": max_classes}
    options = {"boost": None, **wishes}
    phrases = tuple(sorted((options["boost"] or {}).items()))
    model, weight = options.get("lm"), options.get("lm_weight", 1.0)
    label_bonus = options.get("label_bonus", 0.0)
    for batch in batches:
        logits = round_to_dtype(batch.logits, subject.dtype)
        truth = guided_search(
            logits,
            batch.logit_lengths,
            batch.blank,
            entries=first_beams(len(logits), width),
            phrases=phrases,
            model=model,
            model_weight=weight,
            label_bonus=label_bonus,
            **sizes,
        )
        found = _DECODER(subject, batch, top=width, **sizes, **options)
        for n in range(len(logits)):
            log_probs = np.logaddexp(truth.ends_blank[n], truth.ends_label[n])
            scores = log_probs + truth.final_bonus[n]
            best = [k for k in np.argsort(-scores, kind="stable") if scores[k] > -np.inf]
            expected = [
                (tuple(one[one >= 0].tolist()), float(log_probs[k]), float(scores[k]))
                for k in best
                for one in (truth.labels[n, k],)
            ]
            if fault := _differs(subject, _results(found, n), expected):
                faults.append(f"case {batch.name!r}: {batch.label(n)} {fault}")
    return faults


def _differs(subject: Subject, results: list[_Result], expected: list[_Result]) -> str | None:
    relative = 1e-9 if subject.dtype == "float64" else 2e-5
    if len(results) != len(expected):
        return f"has {len(results)} results, expected {len(expected)}"
    for k, (labels, log_prob, score) in enumerate(results):
        right_labels, right, right_score = expected[k]
        allowed = relative * max(1.0, abs(right), abs(right_score))
        if not abs(score - right_score) <= allowed:
            return (
                f"has a result {k}, {list(labels)}, of the score {score}, expected "
                f"{list(right_labels)} of {right_score}"
            )
        others = [other for i, (_, _, other) in enumerate(expected) if i != k]
        is_tie = any(abs(other - right_score) <= 2 * allowed for other in others)
        if not is_tie and labels != right_labels:
            return f"has the result {k} {list(labels)}, expected {list(right_labels)}"
        if not is_tie and not abs(log_prob - right) <= allowed:
            return f"has a result {k} of {log_prob} nats, expected {right}"
    return None


@check(operation="guided_search")
def check_guided_search_by_enumeration(subject: Subject) -> None:
    """With room for all prefixes the results are all labels, with their true scores."""
    rng = np.random.default_rng(1)
    lengths = np.array([4, 3, 1, 0])
    logits = rng.normal(size=(4, 4, 5), scale=1.5)
    batch = replace(
        pick(random_batch(0, scale=1.0), np.arange(4)),
        name="enumerable",
        logits=logits,
        logit_lengths=lengths,
    )
    faults = []
    rounded = round_to_dtype(logits, subject.dtype)
    for what, wishes in _wishes():
        found = _DECODER(subject, batch, width=400, top=400, **{"boost": None, **wishes})
        bonus = bonus_of(
            tuple(wishes.get("boost", {}).items()),
            wishes.get("lm"),
            wishes.get("lm_weight", 1.0),
            wishes.get("label_bonus", 0.0),
        )
        for n, length in enumerate(lengths.tolist()):
            truth = {
                labels: math.log(probability) + bonus(labels, ended=True)
                for labels, probability in enumerate_labels(rounded[n, :length], 1).items()
            }
            scores = {labels: score for labels, _, score in _results(found, n)}
            where = f"with {what}, sequence {n}"
            if scores.keys() != truth.keys():
                odd = min(scores.keys() ^ truth.keys())
                faults.append(f"{where}: the labels {odd} are missing, or can't be")
                continue
            faults += [
                f"{where}: the labels {labels} have the score {scores[labels]}, expected {right}"
                for labels, right in truth.items()
                if not math.isclose(scores[labels], right, rel_tol=2e-5, abs_tol=2e-5)
            ]
    raise_if(faults)


@check(operation="guided_search")
def check_guided_search(subject: Subject) -> None:
    """Labels, probabilities and scores are those of a textbook search of the same width."""
    drawn = [random_batch(seed, scale=scale) for seed, scale in enumerate((0.5, 1.0, 3.0))]
    faults = []
    for what, wishes in _wishes():
        for sizes in ({}, {"width": 1}, {"width": 5, "max_classes": 2}):
            found = _judge(subject, drawn if not sizes else drawn[1:2], wishes, **sizes)
            faults += [f"with {what}, {fault}" for fault in found]
    raise_if(faults)


def _saying(subject: Subject, labels: tuple[int, ...], **options: Any) -> float:
    """Return the bonus of the best labels of logits that can hardly say anything else."""
    logits = np.full((1, 2 * len(labels), 5), -60.0)
    logits[0, np.arange(0, 2 * len(labels), 2), labels] = 0.0
    logits[0, 1::2, 1] = 0.0
    batch = replace(
        pick(random_batch(0, scale=1.0), np.zeros(1, dtype=int)),
        name=f"saying {labels}",
        logits=logits,
        logit_lengths=np.array([2 * len(labels)]),
    )
    found = _DECODER(subject, batch, **options)
    return float(found.scores[0, 0] - found.log_probs[0, 0])


def _bonus_faults(
    subject: Subject, cases: Iterable[tuple[dict[str, Any], tuple[int, ...], float, str]]
) -> list[str]:
    faults = []
    for wishes, labels, right, why in cases:
        got = _saying(subject, labels, **{"boost": None, **wishes})
        if not math.isclose(got, right, abs_tol=1e-4):
            faults.append(f"{wishes} adds {got} to the labels {labels}, expected {right}: {why}")
    return faults


@check(operation="guided_search")
def check_guided_search_takes_back_phrases(subject: Subject) -> None:
    """A phrase that breaks off, or isn't finished at the end, adds nothing."""
    once = {"boost": {(0, 2, 3): 1.0}}
    inner = {"boost": {(0, 2, 3, 4): 1.0, (2, 3): 0.5}}
    raise_if(
        _bonus_faults(
            subject,
            [
                (once, (0, 2, 3), 3.0, "it is whole"),
                (once, (0, 2, 4), 0.0, "it breaks off"),
                (once, (0, 0, 2, 3), 3.0, "it breaks off and begins again"),
                (once, (4, 0, 2), 0.0, "it is unfinished at the end"),
                (once, (0, 2, 3, 0), 3.0, "the second one is unfinished at the end"),
                (inner, (0, 2, 3, 0), 1.0, "the longer one breaks off, the shorter one stays"),
                (inner, (0, 2, 3), 1.0, "the longer one is unfinished, the shorter one stays"),
            ],
        )
    )


@check(operation="guided_search")
def check_guided_search_counts_labels_once(subject: Subject) -> None:
    """A label in several phrases gets the largest of their weights."""
    raise_if(
        _bonus_faults(
            subject,
            [
                ({"boost": {(0, 2): 1.0, (2, 3): 2.0}}, (0, 2, 3), 5.0, "they overlap"),
                ({"boost": {(0, 2): 1.0, (0, 2, 3): 0.5}}, (0, 2, 3), 2.5, "one begins the other"),
                ({"boost": {(0, 0): 1.0}}, (0, 0, 0), 3.0, "it overlaps itself"),
                ({"boost": {(2,): -1.0, (0, 2): 0.5}}, (2, 0, 2), 0.0, "one is to be avoided"),
            ],
        )
    )


@check(operation="guided_search")
def check_guided_search_label_bonus(subject: Subject) -> None:
    """Each label adds the bonus once: blanks and repeated frames add nothing."""
    each = {"label_bonus": 0.5}
    raise_if(_bonus_faults(subject, [(each, (0, 2, 2), 1.5, "there are three labels")]))


@check(operation="guided_search")
def check_guided_search_end_of_model(subject: Subject) -> None:
    """The end counts in results, once, and in nothing that goes on."""
    model = {"lm": _tokens_model()}
    cases = [
        (model, (2,), -0.25 - 0.5 - 0.25, "p(b | <s>) b(<s> b) p(</s> | b)"),
        (model, (2, 0), -0.25 - 0.125 - 0.5 - 1.5, "p(b | <s>) p(a | <s> b) b(a) p(</s>)"),
    ]
    faults = _bonus_faults(subject, cases)
    drawn = [random_batch(seed, scale=0.3) for seed in (21, 22)]
    faults += _judge(subject, drawn, model, width=2)
    raise_if(faults)


@check(operation="guided_search")
def check_guided_search_chunks(subject: Subject) -> None:
    """Chunks of any size, none too, give exactly what all frames give at once."""
    faults = []
    for what, wishes in (("nothing", {}), *_wishes()):
        batch = random_batch(5, scale=1.5)
        options = {"boost": None, **wishes, "top": 6}
        whole = _in_chunks(subject, batch, [batch.shape[1]], options)
        for sizes in ([1] * 7 + [0, 33], [13, 0, 27], [39, 1]):
            parts = _in_chunks(subject, batch, sizes, options)
            faults += [
                f"with {what}, {name} differs in chunks of {sizes}"
                for name, one, other in zip(whole._fields, whole, parts, strict=True)
                if one.tobytes() != other.tobytes()
            ]
    raise_if(faults)


def _in_chunks(subject: Subject, batch: Batch, sizes: list[int], options: dict[str, Any]) -> Any:
    state, first, found = ctcx.BeamState(), 0, None
    for size in sizes:
        inside = np.clip(batch.logit_lengths - first, 0, size)
        part = replace(batch, logits=batch.logits[:, first : first + size], logit_lengths=inside)
        inputs = _DECODER.inputs(subject, part)
        keep: list[ctcx.BeamState] = []

        def decode(*arrays: Any, keep: Any = keep, **settings: Any) -> Any:
            beams = ctcx.ctc_beam_search(*arrays, **settings)
            keep.append(beams.state)
            return beams

        decoder = replace(_DECODER, function=decode)
        found = decoder(subject, part, inputs, state=state, **options)
        state, first = keep[0], first + size
    return found


@check(operation="guided_search")
def check_guided_search_many_classes(subject: Subject) -> None:
    """No class is left out, of hundreds, that phrases or probability bring into the beam."""
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(6, 12, 300), scale=0.5)
    logits[3:, :, 20:] = -np.inf
    boost = {
        tuple(rng.choice([c for c in range(300) if c != 17], size=size).tolist()): 1.0 + size / 4
        for size in (1, 2, 3, 4)
        for _ in range(40)
    }
    lengths = np.array([12, 3, 7, 12, 5, 0])
    base = random_batch(0, scale=1.0)
    batch = replace(base, name="many classes", logits=logits, blank=17, logit_lengths=lengths)
    raise_if(_judge(subject, [batch], {"boost": boost}, width=8))


@check(operation="guided_search")
def check_guided_search_edge_cases(subject: Subject) -> None:
    """No frames, masked classes and frames without any class."""
    masked = [random_batch(seed, scale=3.0, masked=share) for seed, share in ((11, 0.3), (12, 0.8))]
    wishes = {"boost": _PHRASES, "lm": _tokens_model()}
    raise_if(_judge(subject, masked, wishes))


_DECODER.register(leaving_out={"jit", "computes_by_itself"})


@check(operation="guided_search")
def check_guided_search_computes_by_itself(subject: Subject) -> None:
    """No other backend's code runs meanwhile, as check_computes_by_itself says of the loss."""
    kernel = load_target(subject.descriptor.kernels["guided_search"])

    def call(batch: Batch) -> None:
        # Made here: the core's function for it is code of another backend.
        labels = np.full((len(batch.logits), 4, 0), -1, dtype=np.int32)
        nothing = np.full(labels.shape[:2], -np.inf)
        begins = np.where(np.arange(4) == 0, 0.0, nothing)
        kernel(
            batch.logits.astype(np.float32),
            batch.logit_lengths,
            blank=batch.blank,
            width=4,
            max_classes=None,
            entries=(labels, begins, nothing, np.zeros_like(nothing)),
            phrases=(),
            model=None,
            model_weight=1.0,
            label_bonus=0.5,
        )

    raise_if_delegated(subject, call)
