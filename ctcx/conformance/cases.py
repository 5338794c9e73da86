"""The problems that every kernel is given: named, reproducible, and each there for a reason.

A case is a batch. Small sequences that belong together share one, and most of those batches have
the same shape, because libraries that compile do so once for each shape.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ctcx._reference.oracle import (
    ReferenceAnswer,
    enumerate_paths,
    reference,
    within_limit,
)
from ctcx.data.batch import Batch
from ctcx.data.bundled import notebook_fixture, ocr_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["case", "cases", "pick", "truth"]


class _Sequence(NamedTuple):
    """One sequence before it is padded: what it is, logits (T, C), labels."""

    name: str
    logits: NDArray[np.float64]
    labels: Sequence[int]


# Most cases are padded to one of these: sequences, frames, classes, labels.
_SMALL = (8, 8, 5, 5)
_RAGGED = (7, 23, 7, 6)
_TALL = (2, 160, 40, 60)
_LOWEST = -float(np.finfo(np.float64).max)


@lru_cache(maxsize=1)
def cases() -> tuple[Batch, ...]:
    """Return all built-in cases, in the order that they are run.

    Their groups are ``published`` and ``closed-form`` (carry expected numbers), ``enumerable`` (few
    enough paths), ``oracle`` (the everyday ones), ``infeasible`` (some sequence can't emit its
    labels), ``limit`` (losses that are too large), ``masked``, ``confident``, ``degenerate`` (an
    axis of size 0 or 1), ``real``, ``long`` and ``very-long``.
    """
    return tuple(make() for make in _MAKERS)


def case(name: str) -> Batch:
    """Return the built-in case of that name."""
    return next(one for one in cases() if one.name == name)


def pick(batch: Batch, rows: NDArray[np.int64]) -> Batch:
    """Return some sequences of a batch, in this order, without the expected numbers."""
    return replace(
        batch,
        logits=batch.logits[rows],
        labels=batch.labels[rows],
        logit_lengths=batch.logit_lengths[rows],
        label_lengths=batch.label_lengths[rows],
        sequences=tuple(batch.sequences[n] for n in rows) if batch.sequences else (),
        expected_loss=None,
        expected_grad=None,
    )


@lru_cache(maxsize=256)
def truth(problem: Batch, dtype: str) -> ReferenceAnswer:
    """Return the right answer to ``problem`` with its logits rounded to ``dtype``."""
    solve = enumerate_paths if "enumerable" in problem.groups else reference
    return within_limit(solve(*problem.rounded(dtype)))


def _noise(seed: int, *shape: int, scale: float = 2.0) -> NDArray[np.float64]:
    """Return normal logits, rounded to float32 so that float32 and float64 share one truth."""
    values = np.random.default_rng(seed).normal(scale=scale, size=shape)
    return values.astype(np.float32).astype(np.float64)


def _coarse(seed: int, *shape: int) -> NDArray[np.float64]:
    """Return multiples of 1/8 below 8, which every dtype has: one closed form serves them all."""
    return np.clip(np.round(8 * _noise(seed, *shape)), -63, 63) / 8


def _batch(
    name: str,
    why: str,
    sequences: Sequence[_Sequence],
    *,
    groups: str,
    blank: int = 0,
    shape: tuple[int, int, int, int] = _SMALL,
    expected_loss: Sequence[float] | None = None,
    provenance: str = "",
) -> Batch:
    """Return a case padded to ``shape`` with empty sequences, zeros and the blank."""
    num_sequences, num_frames, num_classes, width = shape
    logits = np.zeros((num_sequences, num_frames, num_classes))
    # Labels of the empty sequences, and padding, are the blank, which no label may be.
    labels = np.full((num_sequences, width), blank)
    logit_lengths = np.zeros(num_sequences, dtype=np.int64)
    label_lengths = np.zeros(num_sequences, dtype=np.int64)
    for n, sequence in enumerate(sequences):
        logits[n, : len(sequence.logits)] = sequence.logits
        labels[n, : len(sequence.labels)] = sequence.labels
        logit_lengths[n], label_lengths[n] = len(sequence.logits), len(sequence.labels)
    filler = num_sequences - len(sequences)
    loss = None
    if expected_loss is not None:
        loss = np.array([*expected_loss, *[0.0] * filler])
    return Batch(
        name=name,
        why=why,
        logits=logits,
        labels=labels,
        logit_lengths=logit_lengths,
        label_lengths=label_lengths,
        blank=blank,
        sequences=tuple(s.name for s in sequences) + ("empty filler",) * filler,
        expected_loss=loss,
        provenance=provenance,
        groups=frozenset(groups.split()),
    )


def _notebook() -> Batch:
    return _in_float64(
        notebook_fixture(),
        why="The published example: labels that come back after one another, blank last, "
        "T = L + 1, a padded label.",
        # TensorFlow printed float32 numbers that it had computed in float32.
        expected_digits=2e-6,
        groups=frozenset({"published", "enumerable", "oracle"}),
    )


def _in_float64(batch: Batch, **about: Any) -> Batch:
    """Return a bundled batch in the kit's dtype, with what the kit says about it."""
    return replace(batch, logits=batch.logits.astype(np.float64), **about)


def _closed_forms() -> Batch:
    """Losses that a formula gives: one path, or a product of sums."""
    one_path, only_blank, one_frame = (
        _coarse(seed, frames, 5) for seed, frames in ((1, 5), (2, 8), (3, 1))
    )
    labels = [1, 2, 3, 4, 1]
    # A single label in two frames: label blank, blank label, label label.
    single = _coarse(4, 2, 5)
    p = _probs(single)
    three = p[0, 3] * p[1, 0] + p[0, 0] * p[1, 3] + p[0, 3] * p[1, 3]
    log = np.log
    return _batch(
        "closed forms",
        "One path only (T = L, no labels, a single frame), where the loss is a plain sum; and "
        "equal logits, where it is T log C minus the log of the number of paths.",
        [
            _Sequence("one frame a label", one_path, labels),
            _Sequence("no labels", only_blank, []),
            _Sequence("one label in one frame", one_frame, [3]),
            _Sequence("one label in two frames", single, [3]),
            _Sequence("equal logits, 3 labels", np.zeros((8, 5)), [1, 2, 3]),
            _Sequence("equal logits, 2 repeats", np.full((8, 5), 7.0), [1, 1, 2, 2]),
            _Sequence("no frames, no labels", np.zeros((0, 5)), []),
        ],
        groups="closed-form oracle",
        expected_loss=[
            -math.fsum(log(_probs(one_path)[np.arange(5), labels])),
            -math.fsum(log(_probs(only_blank)[:, 0])),
            -math.log(_probs(one_frame)[0, 3]),
            -math.log(three),
            8 * math.log(5) - math.log(_count_paths(8, [1, 2, 3])),
            8 * math.log(5) - math.log(_count_paths(8, [1, 1, 2, 2])),
            0.0,
        ],
        provenance="closed forms",
    )


def _count_closed_form() -> Batch:
    labels = [1 + (i * 7) % 5 for i in range(20)]
    num_frames, num_classes = 160, 40
    return _batch(
        "counted paths",
        "Equal logits over many frames: the loss is known in closed form, to the last digit.",
        [_Sequence("equal logits", np.full((num_frames, num_classes), -3.0), labels)],
        groups="closed-form oracle",
        shape=_TALL,
        expected_loss=[
            num_frames * math.log(num_classes) - math.log(_count_paths(num_frames, labels))
        ],
        provenance="closed form: T log C - log binomial(T + L - repeats, 2 L)",
    )


def _probs(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the softmax over classes."""
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: NDArray[np.float64] = weights / weights.sum(axis=-1, keepdims=True)
    return result


def _count_paths(num_frames: int, labels: Sequence[int]) -> int:
    """Return how many paths of ``num_frames`` spell ``labels``: binomial(T + L - repeats, 2 L)."""
    repeats = sum(a == b for a, b in pairwise(labels))
    return math.comb(num_frames + len(labels) - repeats, 2 * len(labels))


def _tiny(blank: int) -> Callable[[], Batch]:
    """Make random sequences with few enough paths to list them all."""

    def make() -> Batch:
        rng = np.random.default_rng(10 + blank)
        others = [k for k in range(5) if k != blank]
        sequences = []
        for n, (frames, count) in enumerate(
            ((1, 1), (2, 1), (3, 2), (4, 2), (5, 2), (5, 3), (6, 3), (6, 1))
        ):
            labels = rng.choice(others, size=count).tolist()
            name = f"{frames} frames, labels {labels}"
            sequences.append(_Sequence(name, _noise(20 + 8 * blank + n, frames, 5), labels))
        where = {0: "first", 2: "in the middle"}[blank]
        return _batch(
            f"tiny, blank {where}",
            f"Random sequences so small that all paths can be listed; the blank is {where}.",
            sequences,
            groups="enumerable oracle",
            blank=blank,
        )

    return make


def _repeats() -> Batch:
    return _batch(
        "repeats",
        "A blank is due between equal labels, but not between different ones; and the blank is not "
        "class 0.",
        [
            _Sequence("a a, just enough frames", _noise(60, 3, 5), [1, 1]),
            _Sequence("a a, plenty of frames", _noise(61, 6, 5), [1, 1]),
            _Sequence("a a a, just enough frames", _noise(62, 5, 5), [3, 3, 3]),
            _Sequence("a a b b, just enough frames", _noise(63, 6, 5), [0, 0, 4, 4]),
            _Sequence("a b a, just enough frames", _noise(64, 3, 5), [0, 1, 0]),
            _Sequence("a b b a, one spare frame", _noise(65, 6, 5), [4, 3, 3, 4]),
            _Sequence("a b a b, two spare frames", _noise(66, 6, 5), [0, 1, 0, 1]),
            _Sequence("a a, two spare frames", _noise(67, 5, 5), [0, 0]),
        ],
        groups="enumerable oracle",
        blank=2,
    )


def _all_the_same() -> Batch:
    return _batch(
        "all the same label",
        "Five equal labels share one class: occupancies of several states must add up, and no skip "
        "is allowed anywhere.",
        [
            _Sequence("5 labels in 9 frames, just enough", _noise(70, 9, 7), [3] * 5),
            _Sequence("5 labels in 14 frames", _noise(71, 14, 7), [3] * 5),
            _Sequence("6 labels in 23 frames", _noise(72, 23, 7), [0] * 6),
        ],
        groups="oracle",
        blank=6,
        shape=_RAGGED,
    )


def _infeasible() -> Batch:
    return _batch(
        "too few frames",
        "No path emits the labels: the loss is +inf and the gradient 0, never NaN or a stand-in "
        "such as 1e5 or 706.89; the neighbours in the batch stay as they are.",
        [
            _Sequence("feasible", _noise(80, 6, 5), [1, 2, 1]),
            _Sequence("a a, one frame short", _noise(81, 2, 5), [1, 1]),
            _Sequence("a a a, one frame short", _noise(82, 4, 5), [3, 3, 3]),
            _Sequence("fewer frames than labels", _noise(83, 2, 5), [1, 2, 3]),
            _Sequence("a a b b, one frame short", _noise(84, 5, 5), [1, 1, 4, 4]),
            _Sequence("no frames, one label", _noise(85, 0, 5), [2]),
            _Sequence("one frame, five labels", _noise(86, 1, 5), [1, 2, 3, 4, 1]),
            _Sequence("feasible, just enough frames", _noise(87, 3, 5), [4, 4]),
        ],
        groups="infeasible enumerable oracle",
    )


def _edge_lengths() -> Batch:
    return _batch(
        "edge lengths",
        "No frames, no labels, one of each, and the full width of both.",
        [
            _Sequence("no frames, no labels", _noise(90, 0, 5), []),
            _Sequence("no frames, two labels", _noise(91, 0, 5), [1, 2]),
            _Sequence("one frame, no labels", _noise(92, 1, 5), []),
            _Sequence("all frames, no labels", _noise(93, 8, 5), []),
            _Sequence("one frame, one label", _noise(94, 1, 5), [4]),
            _Sequence("all frames, one label", _noise(95, 8, 5), [4]),
            _Sequence("all frames, all labels", _noise(96, 8, 5), [1, 2, 3, 4, 4]),
            _Sequence("one frame, two labels", _noise(97, 1, 5), [1, 2]),
        ],
        groups="infeasible oracle",
    )


def _ragged() -> Batch:
    rng = np.random.default_rng(100)
    sequences = []
    for n, (frames, count) in enumerate(
        ((23, 6), (1, 1), (17, 0), (9, 5), (23, 1), (14, 6), (4, 2))
    ):
        labels = rng.integers(0, 6, size=count).tolist()
        sequences.append(
            _Sequence(f"{frames} frames, {count} labels", _noise(101 + n, frames, 7), labels)
        )
    return _batch(
        "ragged",
        "Very different lengths in one batch: each sequence must start and end at its own.",
        sequences,
        groups="oracle",
        blank=6,
        shape=_RAGGED,
    )


def _masked() -> Batch:
    """-inf logits: what is impossible, and what is only made impossible in places."""
    logits = _noise(120, 8, 8, 5)
    logits[0, :, 4] = -np.inf  # not among the labels
    logits[1, :, 2] = -np.inf  # among them
    logits[2, 2:5, 0] = -np.inf  # the blank, for three frames
    logits[3, 3, [0, 1, 3, 4]] = -np.inf  # all but one class
    logits[4, :, 0] = -np.inf  # the blank, everywhere: one frame a label still works
    logits[5, :, 0] = -np.inf  # the same, where equal labels need a blank
    logits[6, 0, 1] = -np.inf  # the first label, where it could start
    logits[7, 7, [0, 2]] = -np.inf  # blank and last label, in the last frame
    labels = [[1, 2], [1, 2], [1, 3], [1, 2, 4], [1, 2, 3], [1, 1], [1, 3], [3, 2]]
    names = (
        "an unused class is masked",
        "a needed class is masked",
        "the blank is masked in some frames",
        "all but one class are masked in a frame",
        "the blank is masked everywhere",
        "the blank is masked everywhere, labels repeat",
        "the first label is masked in the first frame",
        "blank and last label are masked in the last frame",
    )
    return _batch(
        "masked with -inf",
        "Masked classes: -inf is a probability of 0, not a NaN in loss or gradient; a needed class "
        "that is masked everywhere makes the sequence infeasible.",
        [_Sequence(*sequence) for sequence in zip(names, logits, labels, strict=True)],
        groups="masked infeasible oracle",
    )


def _masked_by_number() -> Batch:
    logits = _noise(130, 8, 8, 5)
    logits[0, :, 4] = _LOWEST
    logits[1, 2:5, 0] = _LOWEST
    logits[2, 3, [0, 1, 3, 4]] = _LOWEST
    logits[3, 0, 1] = _LOWEST
    logits[4, :, [3, 4]] = _LOWEST
    logits[5, 1::2, 4] = _LOWEST
    logits[6, 2:5, 0] = -1e4
    logits[7, 1:7, [0, 2]] = -1e9
    labels = [[1, 2], [1, 3], [1, 2, 4], [1, 3], [1, 1, 2], [3, 3], [2, 2, 3], [4, 1]]
    names = (
        "an unused class is masked",
        "the blank is masked in some frames",
        "all but one class are masked in a frame",
        "the first label is masked in the first frame",
        "two unused classes are masked",
        "an unused class is masked in every other frame",
        "the blank is masked with -1e4 in some frames",
        "the blank and an unused class are masked with -1e9 in most frames",
    )
    return _batch(
        "masked with a number",
        "Large negative numbers as masks, up to the most negative one: adding two of those "
        "overflows, and a difference from a masked class has no digits left.",
        [_Sequence(*sequence) for sequence in zip(names, logits, labels, strict=True)],
        groups="masked oracle",
    )


def _largest() -> Batch:
    """Losses just below the largest that counts as a number, just above it, and far above."""
    logits = np.zeros((8, 8, 5))
    labels: list[list[int]] = [[], [], [], [], [1, 2, 3], [1, 2, 3], [4], [4, 4]]
    frames = (8, 8, 1, 1, 3, 3, 8, 8)
    for n, nats in enumerate((1.7998e8, 1.8002e8, 1.799e8, 1.801e8, 1.7998e8, 1.8002e8, 1e30)):
        logits[n, : frames[n], [0, *labels[n]]] = -nats / frames[n]
    logits[7] = 1e30
    names = (
        "just below, no labels",
        "just above, no labels",
        "just below, one frame",
        "just above, one frame",
        "just below, a label in each frame",
        "just above, a label in each frame",
        "far above",
        "equal logits of 1e30",
    )
    return _batch(
        "largest losses",
        "A loss above 1.8e8 is +inf, with gradient 0 and feasible False; up to there it is right.",
        [
            _Sequence(name, rows[:count], spelled)
            for name, rows, count, spelled in zip(names, logits, frames, labels, strict=True)
        ],
        groups="limit",
    )


def _confident() -> Batch:
    """Logits of a trained model: nearly one-hot, for the right answer and for a wrong one."""
    spelled = [1, 0, 2, 2, 0, 3, 0, 3]
    sequences: list[_Sequence] = []
    for scale in (30.0, 100.0):
        for name, path in (
            ("right", spelled),
            ("wrong label at the end", [*spelled[:-1], 4]),
            ("another label everywhere", [4] * 8),
            ("blank everywhere", [0] * 8),
        ):
            logits = _noise(140 + len(sequences), 8, 5, scale=1.0)
            logits[np.arange(8), path] += scale
            sequences.append(_Sequence(f"scale {scale:g}, {name}", logits, [1, 2, 3, 3]))
    return _batch(
        "confident",
        "Nearly one-hot emissions, right or wrong: probabilities underflow, the loss of a right "
        "answer is nearly 0 (and never below), that of a wrong one is large.",
        sequences,
        groups="confident oracle",
    )


def _confident_long() -> Batch:
    """A confident model that is wrong for long: alpha and beta peak in different places."""
    rng = np.random.default_rng(150)
    labels = rng.integers(1, 40, size=40)
    sequences: list[_Sequence] = []
    for name, spelled in (("right", labels), ("wrong", rng.permutation(labels))):
        path = np.zeros(160, dtype=np.int64)
        path[2::4] = spelled
        logits = _noise(151 + len(sequences), 160, 40, scale=1.0)
        logits[np.arange(160), path] += 12.0
        sequences.append(_Sequence(f"scale 12, {name}", logits, labels.tolist()))
    return _batch(
        "confident for long",
        "160 nearly one-hot frames: states far below a frame's best are later the only way "
        "through, so plain probabilities that are rescaled by frame underflow.",
        sequences,
        groups="confident oracle",
        shape=_TALL,
    )


def _nearly_certain() -> Batch:
    """A confident model with many classes: what the loss is of, float32 loses beside 1."""
    labels = np.arange(1, 11)
    path = np.zeros(40, dtype=np.int64)
    path[2::4] = labels
    sequences: list[_Sequence] = []
    for seed in (180, 181, 182):
        logits = _noise(seed, 40, 1000, scale=1.0)
        logits[np.arange(40), path] += 18.0
        sequences.append(_Sequence(f"seed {seed}", logits, labels.tolist()))
    return _batch(
        "nearly certain",
        "One class of 1000 has all but 1e-5 of the probability: the loss is the sum of what the "
        "others have, which a sum in float32 that includes the 1 loses.",
        sequences,
        groups="confident",
        shape=(3, 40, 1000, 10),
    )


def _nearly_certain_of_many() -> Batch:
    logits = _noise(183, 12, 6000, scale=1.0)
    logits[np.arange(12), [0, 7, 0, 0, 5999, 0, 0, 0, 7, 0, 0, 0]] += 18.0
    return _batch(
        "nearly certain, of many",
        "The same with 6000 classes: each of them adds less than a digit of 1.",
        [_Sequence("scale 18", logits, [7, 5999, 7])],
        groups="confident",
        shape=(1, 12, 6000, 3),
    )


def _wide() -> Batch:
    rng = np.random.default_rng(160)
    return _batch(
        "many classes",
        "A vocabulary of 1000: the softmax runs over all of them, the labels are few, and indices "
        "don't fit into 8 bits.",
        [
            _Sequence("5 labels", _noise(161, 12, 1000), rng.integers(0, 1000, size=5).tolist()),
            _Sequence("last class", _noise(162, 9, 1000), [999, 999, 0]),
        ],
        groups="oracle",
        blank=500,
        shape=(2, 12, 1000, 5),
    )


def _long_label() -> Batch:
    rng = np.random.default_rng(170)
    return _batch(
        "long label",
        "More label states than frames to spare: the band of reachable states is narrow.",
        [
            _Sequence(
                "60 labels in 90 frames", _noise(171, 90, 40), rng.integers(1, 40, 60).tolist()
            ),
            _Sequence(
                "33 labels in 90 frames", _noise(172, 90, 40), rng.integers(1, 40, 33).tolist()
            ),
        ],
        groups="oracle",
        shape=_TALL,
    )


def _degenerate(name: str, why: str, shape: tuple[int, int, int, int]) -> Callable[[], Batch]:
    """Make a batch with an axis of size 0 or 1, and no labels where there can't be any."""

    def make() -> Batch:
        num_sequences, num_frames, num_classes, width = shape
        counts = [0] * num_sequences
        if num_classes > 1 and width:
            counts = [min(n, width) for n in range(num_sequences)]
        sequences = [
            _Sequence(
                f"{num_frames} frames, {count} labels",
                _noise(180 + n, num_frames, num_classes),
                [1] * count,
            )
            for n, count in enumerate(counts)
        ]
        return _batch(name, why, sequences, groups="degenerate", shape=shape)

    return make


def _long() -> Batch:
    labels = np.random.default_rng(190).integers(1, 30, size=200).tolist()
    return _batch(
        "long",
        "2000 frames, loss in the thousands: unnormalised log-alpha and log-beta in float32 have "
        "no digits left for the gradient.",
        [_Sequence("2000 frames, 200 labels", _noise(191, 2000, 30), labels)],
        groups="long",
        shape=(1, 2000, 30, 200),
    )


def _very_long() -> Batch:
    labels = np.random.default_rng(195).integers(1, 30, size=2000).tolist()
    return _batch(
        "very long",
        "20,000 frames: the only way through may be a state that underflowed long before.",
        [_Sequence("20000 frames, 2000 labels", _noise(196, 20_000, 30), labels)],
        groups="very-long",
        shape=(1, 20_000, 30, 2000),
    )


def _ocr() -> Batch:
    lines = ocr_lines()
    return _in_float64(
        lines,
        name="text lines",
        why="What a real recogniser emits: 6625 classes, peaks, long runs of blanks, and lines "
        "that it misread.",
        sequences=tuple(
            f"{text!r}, {condition}"
            for text, condition in zip(lines.texts, lines.conditions, strict=True)
        ),
        groups=frozenset({"real"}),
    )


_MAKERS: tuple[Callable[[], Batch], ...] = (
    _notebook,
    _closed_forms,
    _count_closed_form,
    _tiny(0),
    _tiny(2),
    _repeats,
    _all_the_same,
    _infeasible,
    _edge_lengths,
    _ragged,
    _masked,
    _masked_by_number,
    _largest,
    _confident,
    _confident_long,
    _nearly_certain,
    _nearly_certain_of_many,
    _wide,
    _long_label,
    _degenerate("no sequences", "An empty batch has an empty loss.", (0, 4, 5, 3)),
    _degenerate(
        "no frames", "A time axis of size 0: only empty labels can be emitted.", (3, 0, 5, 2)
    ),
    _degenerate("no label axis", "Labels of width 0: every frame is a blank.", (2, 6, 5, 0)),
    _degenerate(
        "only the blank", "One class: the blank is certain, so the loss is 0.", (2, 6, 1, 2)
    ),
    _degenerate("one of everything", "One sequence, one frame, one label.", (2, 1, 2, 1)),
    _ocr,
    _long,
    _very_long,
)
