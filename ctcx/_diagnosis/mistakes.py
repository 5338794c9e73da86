"""Mistakes that implementations of CTC make, recognised by computing what they would give.

Every mistake is a hypothesis: the same problems, computed with that mistake. It is named if its
numbers are those of the answers wherever they are wrong, and if no answer is right where it would
be wrong. All problems are looked at together: one may have the same numbers by coincidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ctcx._diagnosis import hypotheses as h
from ctcx._diagnosis.divergence import wrong_cells
from ctcx._reference.tolerances import TOLERANCES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from ctcx._diagnosis.answer import Answer
    from ctcx.fixtures._fixture import Fixture

__all__ = ["MISTAKES", "LikelyMistakes", "Mistake", "diagnose"]


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A mistake with a name."""

    name: str
    """For programs."""
    sentence: str
    """For people: what is likely wrong, and what would be right."""
    ways: Callable[[h.MistakenBatch], Iterator[h.Way]] | None = None
    """What it gives for a batch: always the same number of ways to make it. None if it is told by a
    pattern."""
    in_loss: bool = True
    """Whether it must show in a loss: a right loss with a wrong gradient is no sign of it."""


@dataclass(frozen=True, kw_only=True)
class LikelyMistakes:
    """What is said of the answers to one or more problems."""

    mistakes: tuple[Mistake, ...] = ()
    """What gives these numbers. Empty: none that is known. Several: the problems can't tell them
    apart."""
    matched: int = 0
    wrong: int = 0
    total: int = 0
    """How many problems the mistake gives all numbers of; how many were answered wrongly, and how
    many were answered."""
    loss_only: bool = False
    """Whether the losses are those of the mistake, but no gradient that would follow from them."""

    @property
    def verdict(self) -> str:
        """One line."""
        if not self.wrong:
            return f"{self.total} of {self.total} problems are right"
        if not self.mistakes:
            problems = "1 problem" if self.wrong == 1 else f"{self.wrong} problems"
            return f"unknown mistake: no known one gives these numbers in {problems}"
        names = " or ".join(mistake.name for mistake in self.mistakes)
        what = "the losses of " if self.loss_only else ""
        return f"{self.matched} of {self.total} problems match {what}{names}"

    @property
    def explanation(self) -> str:
        """What the names mean; empty for an unknown mistake."""
        said = " Or: ".join(mistake.sentence for mistake in self.mistakes)
        if len(self.mistakes) > 1:
            said = f"These problems can't tell the following apart. {said}"
        if self.loss_only:
            said += " The gradient is wrong in a way that does not follow from it."
        return said


def _way(**change: object) -> h.TransitionRules:
    return h.TransitionRules(**change)  # type: ignore[arg-type]


MISTAKES: tuple[Mistake, ...] = (
    Mistake(
        name="blank-at-wrong-end",
        sentence="The blank is taken to be at the other end of the classes; `blank` says where.",
        ways=h.wrong_blank,
    ),
    Mistake(
        name="blank-off-by-one",
        sentence="The class beside the blank is taken for the blank; `blank` says which it is, "
        "counted from 0.",
        ways=h.blank_beside,
    ),
    Mistake(
        name="repeat-transition-allowed",
        sentence="Equal labels are let follow one another directly: a skip over the blank is only "
        "for labels that differ.",
        ways=h.lattices(_way(skips="always")),
    ),
    Mistake(
        name="skip-missing",
        sentence="Different labels are not let follow one another directly: the skip over the "
        "blank between them is missing.",
        ways=h.lattices(_way(skips="never")),
    ),
    Mistake(
        name="skip-rule",
        sentence="Transitions over a state are allowed where they must not be: only from a label "
        "to the next label, and only if the two differ. Compare state s with state s - 2.",
        ways=h.lattices(
            _way(skips="everywhere"),
            _way(skips="blanks too"),
            _way(skips="next label"),
            _way(skips="label before"),
            _way(skips="equal"),
        ),
    ),
    Mistake(
        name="self-loop-missing",
        sentence="A state can't be held for a second frame: the transition from a state to itself "
        "is missing.",
        ways=h.lattices(_way(loops=False)),
    ),
    Mistake(
        name="index-wraps-around",
        sentence="The first states are entered from the last ones: s - 1 or s - 2 is below 0 "
        "there, and such an index counts from the end.",
        ways=h.wrapped_index,
    ),
    Mistake(
        name="updated-in-place",
        sentence="States of a frame are added up from states of the same frame: one array holds "
        "both frames, and s - 1 is overwritten before s is computed. Use two arrays.",
        ways=h.updated_in_place,
    ),
    Mistake(
        name="blanks-missing",
        sentence="Blanks are missing from the states: one stands before, between and after all "
        "labels, 2 L + 1 states in all.",
        ways=h.lattices(
            _way(blanks="between", starts=(0,), ends=(-1,)),
            _way(blanks="nowhere", starts=(0,), ends=(-1,)),
        ),
    ),
    Mistake(
        name="best-path-only",
        sentence="The best path is taken for the sum over all paths: a maximum stands where "
        "log-sum-exp belongs.",
        ways=h.lattices(_way(best=True)),
    ),
    Mistake(
        name="alpha-end-states",
        sentence="Paths end in the wrong states: they may end in the last label or in the blank "
        "after it, and in no other state.",
        ways=h.lattices(
            _way(ends=(-1,)), _way(ends=(-2,)), _way(ends=None), _way(ends=(-1, -2, -3))
        ),
    ),
    Mistake(
        name="alpha-start-states",
        sentence="Paths begin in the wrong states: they may begin with the blank or with the first "
        "label, and in no other state.",
        ways=h.lattices(_way(starts=(0,)), _way(starts=(1,)), _way(starts=None)),
    ),
    Mistake(
        name="softmax-missing",
        sentence="The logits are used as if they were probabilities or their logarithms: the "
        "softmax is missing.",
        ways=h.no_softmax,
    ),
    Mistake(
        name="softmax-twice",
        sentence="The softmax is applied twice: what goes in are logits, not probabilities.",
        ways=h.two_softmaxes,
    ),
    Mistake(
        name="softmax-over-wrong-axis",
        sentence="The softmax is taken over the frames or over the sequences: it belongs over the "
        "classes, the last axis.",
        ways=h.other_axis,
    ),
    Mistake(
        name="probabilities-clamped",
        sentence="A small number is added to the probabilities, or they are clamped from below: "
        "use log-softmax, which needs neither.",
        ways=h.clamped,
    ),
    Mistake(
        name="one-hot-shifted",
        sentence="The labels are off by one class: the one-hot rows are shifted, or classes are "
        "counted from 1.",
        ways=h.shifted_labels,
    ),
    Mistake(
        name="repeats-merged",
        sentence="Equal labels that follow one another are merged before the loss: merging is for "
        "paths, never for labels.",
        ways=h.merged_labels,
    ),
    Mistake(
        name="label-dropped",
        sentence="The first or the last label of each sequence is left out.",
        ways=h.dropped_label,
    ),
    Mistake(
        name="label-0-as-padding",
        sentence="The label 0 is taken for padding, or not counted: where the blank is another "
        "class, 0 is a label as any other, and `label_lengths` says where padding begins.",
        ways=h.zeros_as_padding,
    ),
    Mistake(
        name="batch-reordered",
        sentence="The sequences of a batch are in the order of their lengths, in the results or in "
        "part of what is computed: results are in the order of the input.",
        ways=h.reordered_batch,
        in_loss=False,
    ),
    Mistake(
        name="frame-dropped",
        sentence="The first or the last frame of each sequence is left out.",
        ways=h.dropped_frame,
    ),
    Mistake(
        name="time-reversed",
        sentence="Frames or labels are in reverse order, in the input or in the gradient.",
        ways=h.reversed_labels,
        in_loss=False,
    ),
    Mistake(
        name="axes-swapped",
        sentence="The logits are read in another order of their axes: they are sequences, frames, "
        "classes; transpose, do not reshape.",
        ways=h.swapped_axes,
    ),
    Mistake(
        name="gradient-axes-swapped",
        sentence="The gradient is stored in another order of its axes: it has the shape of the "
        "logits; transpose, do not reshape.",
        ways=h.swapped_gradient,
        in_loss=False,
    ),
    Mistake(
        name="gradient-shifted",
        sentence="The gradient, or the occupancy in it, is a frame too late or too early.",
        ways=h.shifted_gradient,
        in_loss=False,
    ),
    Mistake(
        name="padding-not-masked",
        sentence="What stands past a length is used: mask frames from `logit_lengths` on, labels "
        "from `label_lengths` on, and the gradient there is 0.",
        ways=h.padding,
        in_loss=False,
    ),
    Mistake(
        name="loss-divided-by-labels",
        sentence="The loss is divided by the number of labels, as a mean per label: each loss is "
        "asked for as it is.",
        ways=h.loss_by_labels,
    ),
    Mistake(
        name="loss-divided-by-frames",
        sentence="The loss is divided by the number of frames: each loss is asked for as it is.",
        ways=h.loss_by_frames,
    ),
    Mistake(
        name="loss-divided-by-sequences",
        sentence="The loss is divided by the number of sequences, as for a mean over the batch: "
        "each loss is asked for as it is.",
        ways=h.loss_by_sequences,
    ),
    Mistake(
        name="loss-reduced",
        sentence="The losses of a batch are summed or averaged: one loss for each sequence is "
        "asked for.",
        ways=h.reduced,
    ),
    Mistake(
        name="loss-not-negated",
        sentence="The loss is minus the natural logarithm of the likelihood: here it has the other "
        "sign, or no logarithm was taken.",
        ways=h.loss_of_other_sign,
    ),
    Mistake(
        name="logarithm-base",
        sentence="The loss is in bits or in decimal digits: nats are asked for, by the natural "
        "logarithm.",
        ways=h.other_logarithm,
    ),
    Mistake(
        name="gradient-of-log-probabilities",
        sentence="The gradient is with respect to the (log-)probabilities: that with respect to "
        "the logits is the softmax minus the occupancy.",
        ways=h.of_log_probs,
        in_loss=False,
    ),
    Mistake(
        name="gradient-through-softmax-twice",
        sentence="The gradient goes through the derivative of the softmax once too often, or "
        "through its diagonal alone: softmax minus occupancy is with respect to the logits.",
        ways=h.softmax_again,
        in_loss=False,
    ),
    Mistake(
        name="gradient-sign",
        sentence="The gradient has the opposite sign: it is that of the log-likelihood.",
        ways=h.minus,
        in_loss=False,
    ),
    Mistake(
        name="gradient-divided-by-label-length",
        sentence="The gradient is divided by the number of labels, and the loss is not: it belongs "
        "to the loss as it is.",
        ways=h.gradient_by_labels,
        in_loss=False,
    ),
    Mistake(
        name="gradient-divided-by-frames",
        sentence="The gradient is divided by the number of frames, and the loss is not: it belongs "
        "to the loss as it is.",
        ways=h.gradient_by_frames,
        in_loss=False,
    ),
    Mistake(
        name="gradient-divided-by-sequences",
        sentence="The gradient is divided by the number of sequences, and the loss is not: it "
        "belongs to the sum of the losses.",
        ways=h.gradient_by_sequences,
        in_loss=False,
    ),
    Mistake(
        name="gradient-of-likelihood",
        sentence="The gradient is that of the likelihood: that of its logarithm is divided by it.",
        ways=h.gradient_of_likelihood,
        in_loss=False,
    ),
    Mistake(
        name="gradient-scaled",
        sentence="The gradient is the right one times a constant, such as 2, 1/2 or ln 2.",
        ways=h.doubled_gradient,
        in_loss=False,
    ),
    Mistake(
        name="occupancy-overwritten",
        sentence="States of the same class overwrite one another's occupancy: those of all states "
        "of a class, the blanks' too, are added up.",
        ways=h.overwritten,
        in_loss=False,
    ),
    Mistake(
        name="occupancy-wrong",
        sentence="The occupancy is not alpha times beta over the likelihood: not divided by the "
        "likelihood, with the frame's emission twice or not at all, or of alpha alone.",
        ways=h.occupancies_wrong,
        in_loss=False,
    ),
    Mistake(
        name="backward-recursion",
        sentence="The loss is right and the backward recursion is not: beta goes over the same "
        "transitions as alpha, from both end states.",
        ways=h.backward_alone,
        in_loss=False,
    ),
    Mistake(
        name="half-precision",
        sentence="All losses are numbers of half precision (float16 or bfloat16): accumulate in "
        "float32 at least.",
    ),
    Mistake(
        name="underflow",
        sentence="The loss is inf where the likelihood is too small for a plain number: compute "
        "with logarithms, or normalise each frame.",
    ),
    Mistake(
        name="infeasible-as-zero",
        sentence="Labels that can't be emitted get the loss 0, as by `zero_infinity`: their loss "
        "is +inf and their gradient 0.",
    ),
    Mistake(
        name="infeasible-gradient",
        sentence="Labels that can't be emitted get a gradient, such as the softmax: it is 0 where "
        "the loss is +inf.",
    ),
    Mistake(
        name="log-zero-leaks",
        sentence="A finite stand-in for log(0) leaks out: labels that can't be emitted have the "
        "loss +inf and the gradient 0.",
    ),
    Mistake(
        name="nan",
        sentence="NaN is returned, as of 0 times inf, or inf minus inf: test for -inf before "
        "subtracting it.",
    ),
)
"""What :func:`diagnose` knows."""

_BY_NAME = {mistake.name: mistake for mistake in MISTAKES}

_MOST = 0.8
"""So much of what is wrong must be explained: long and extreme problems have faults of their own,
such as underflow."""


_SMALLEST = 80.0
"""Minus the logarithm of about the smallest positive float32."""

_FEW_DIGITS = ((70.0, 110.0), (690.0, 760.0))
"""Where a likelihood has few digits, or parts of it none, in float32 and in float64: minus the
logarithms of numbers around the smallest normal and the smallest subnormal ones."""


def diagnose(pairs: Sequence[tuple[Fixture, Answer]], dtype: str) -> LikelyMistakes:
    """Return the mistake that gives these numbers; a problem without a loss is not looked at.

    ``dtype`` is the one whose tolerances hold.
    """
    given = [_Judged.of(fixture, answer, dtype) for fixture, answer in pairs if "loss" in answer]
    given.sort(key=lambda one: one.batch.logits.size)
    wrong = sum(one.is_wrong for one in given)
    if not wrong:
        return LikelyMistakes(total=len(given))
    scores = [
        (mistake, score)
        for mistake in MISTAKES
        if mistake.ways is not None
        for score in _scores(mistake.ways, given)
    ]
    for loss_only in (False, True):
        accepted = [
            (mistake, score)
            for mistake, score in scores
            if score.loss_only == loss_only
            and score.accepted
            and (score.in_losses or not mistake.in_loss)
        ]
        if not accepted:
            continue
        best = max(score.rank for _, score in accepted)
        first = [(mistake, score) for mistake, score in accepted if score.rank == best]
        mistakes = tuple({mistake.name: mistake for mistake, _ in first}.values())
        if _underflows(given):  # these make labels impossible, with which all of that may agree
            mistakes = (_BY_NAME["underflow"], *mistakes)
        return LikelyMistakes(
            mistakes=mistakes,
            matched=first[0][1].problems,
            wrong=wrong,
            total=len(given),
            loss_only=loss_only,
        )
    pattern, matched = _by_pattern(given)
    return LikelyMistakes(
        mistakes=() if pattern is None else (pattern,),
        matched=matched,
        wrong=wrong,
        total=len(given),
    )


@dataclass(frozen=True, eq=False)
class _Judged:
    """A problem and its answer, sequence by sequence."""

    fixture: Fixture
    answer: Answer
    batch: h.MistakenBatch
    dtype: str
    loss: NDArray[np.float64]
    gradient: NDArray[np.float64] | None
    true_loss: NDArray[np.float64]
    true_gradient: NDArray[np.float64]
    loss_wrong: NDArray[np.bool_]
    gradient_wrong: NDArray[np.bool_]

    @classmethod
    def of(cls, fixture: Fixture, answer: Answer, dtype: str) -> _Judged:
        loss_wrong = wrong_cells(fixture, answer, "loss", dtype)
        gradient_wrong = np.zeros_like(loss_wrong)
        if "gradient" in answer:
            gradient_wrong = np.any(wrong_cells(fixture, answer, "gradient", dtype), axis=(1, 2))
        return cls(
            fixture=fixture,
            answer=answer,
            batch=h.MistakenBatch.of(fixture),
            dtype=dtype,
            loss=answer["loss"],
            gradient=answer.get("gradient"),
            true_loss=np.asarray(fixture.arrays["loss"], dtype=np.float64),
            true_gradient=np.asarray(fixture.arrays["gradient"], dtype=np.float64),
            loss_wrong=loss_wrong,
            gradient_wrong=gradient_wrong,
        )

    @property
    def wrong(self) -> NDArray[np.bool_]:
        return self.loss_wrong | self.gradient_wrong

    @property
    def is_wrong(self) -> bool:
        return bool(self.wrong.any())

    @property
    def impossible(self) -> NDArray[np.bool_]:
        """Whose labels no path emits."""
        return ~np.isfinite(self.true_loss)

    @property
    def undefined(self) -> NDArray[np.bool_]:
        """Who has NaN for a loss or in the gradient."""
        result: NDArray[np.bool_] = np.isnan(self.loss)
        if self.gradient is not None:
            result |= np.isnan(self.gradient).any(axis=(1, 2))
        return result

    @property
    def underflown(self) -> NDArray[np.bool_]:
        """Whose likelihood is too small for a plain number, and taken for 0."""
        lost = np.isposinf(self.loss) & np.isfinite(self.true_loss) & (self.true_loss > _SMALLEST)
        if self.gradient is None:
            return lost
        empty = ~np.any(self.gradient, axis=(1, 2)) | self.same_gradient(
            self.gradient, self.batch.softmax
        )
        result: NDArray[np.bool_] = lost | (
            empty & np.isfinite(self.true_loss) & (self.true_loss > _SMALLEST)
        )
        return result

    @property
    def losing_digits(self) -> NDArray[np.bool_]:
        """Whose likelihood is a plain number of few digits: the loss is about right."""
        with np.errstate(invalid="ignore"):
            near = np.abs(self.loss - self.true_loss) < 0.05 * self.true_loss
        ranges = [(low < self.true_loss) & (self.true_loss < high) for low, high in _FEW_DIGITS]
        result: NDArray[np.bool_] = near & np.any(ranges, axis=0)
        return result

    def same_loss(self, one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return where two losses are the same by ten times the tolerance."""
        allowed = 10 * TOLERANCES[self.dtype].loss(other, self.batch.frames)
        with np.errstate(invalid="ignore"):
            result: NDArray[np.bool_] = (one == other) | (np.abs(one - other) <= allowed)
        return result

    def same_gradient(
        self, one: NDArray[np.float64], other: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Return for which sequences two gradients are the same by ten times the tolerance.

        It is relative where a mistake makes the gradient larger than it can be.
        """
        grad = 10 * TOLERANCES[self.dtype].grad
        with np.errstate(invalid="ignore", over="ignore"):
            allowed = grad * np.maximum(1.0, np.abs(other))
            near = (np.abs(one - other) <= allowed) | (one == other)
        result: NDArray[np.bool_] = near.all(axis=(1, 2))
        return result


@dataclass(eq=False)
class _Score:
    """How well one way of one mistake explains the answers."""

    loss_only: bool
    explained: int = 0
    unexplained: int = 0
    problems: int = 0
    refuted: bool = False
    in_losses: int = 0

    @property
    def accepted(self) -> bool:
        enough = self.explained >= _MOST * (self.explained + self.unexplained)
        return not self.refuted and self.explained > 0 and enough

    @property
    def rank(self) -> tuple[int, int]:
        return self.explained, self.problems

    def add(
        self,
        wrong: NDArray[np.bool_],
        same: NDArray[np.bool_],
        differs: NDArray[np.bool_],
        loss_differs: NDArray[np.bool_],
        said: NDArray[np.bool_],
    ) -> None:
        """Count a problem: who is wrong, like the mistake, and where that differs from right."""
        # An answer that is right where the mistake would not be: it is another one.
        if (said & differs & ~wrong & ~same).any():
            self.refuted = True
        self.explained += int((said & wrong & same & differs).sum())
        self.in_losses += int((said & wrong & same & loss_differs).sum())
        self.unexplained += int((said & wrong & ~same).sum())
        self.problems += bool((same | ~said).all())


def _scores(
    ways: Callable[[h.MistakenBatch], Iterator[h.Way]], given: Sequence[_Judged]
) -> list[_Score]:
    """Return a score for each way and each gradient of a mistake, and for its losses alone."""
    scores: list[list[_Score]] = []
    for one in given:
        with np.errstate(all="ignore"):
            found = list(ways(one.batch))
        if not scores:
            scores = [
                [_Score(loss_only=False) for _ in way.gradients] + [_Score(loss_only=True)]
                for way in found
            ]
        for way, row in zip(found, scores, strict=True):
            _count(one, way, row)
        if all(score.refuted for row in scores for score in row):
            return []
    return [score for row in scores for score in row]


def _count(one: _Judged, way: h.Way, row: list[_Score]) -> None:
    said = ~np.isnan(way.loss)
    # Where the mistake makes labels impossible, or they are, a program may say anything but the
    # right number: how it stands for log(0) is another matter.
    gone = np.isposinf(way.loss)
    same_loss = one.same_loss(one.loss, way.loss)
    loss_differs = ~one.same_loss(way.loss, one.true_loss)
    both_gone = gone & np.isposinf(one.loss) & ~one.impossible
    loose = gone & (one.loss_wrong | one.impossible) & ~both_gone
    *gradients, loss_alone = row
    if not loss_alone.refuted:
        loss_alone.add(one.loss_wrong & ~loose, same_loss | loose, loss_differs, loss_differs, said)
    for j, score in enumerate(gradients):
        if score.refuted:
            continue
        if one.gradient is None:
            score.add(one.loss_wrong & ~loose, same_loss | loose, loss_differs, loss_differs, said)
            continue
        slope = way.gradients[min(j, len(way.gradients) - 1)]
        same = same_loss & (one.same_gradient(one.gradient, slope) | both_gone)
        differs = loss_differs | ~one.same_gradient(slope, one.true_gradient)
        differs &= ~(one.impossible & gone)
        score.add(one.wrong & ~loose, same | loose, differs, loss_differs, said)


def _by_pattern(given: Sequence[_Judged]) -> tuple[Mistake | None, int]:
    """Return a mistake that is known by a pattern of the results, and of how many problems."""
    if _underflows(given) and not any((one.wrong & one.impossible).any() for one in given):
        return _BY_NAME["underflow"], len(given)
    undefined = [one.undefined & one.wrong for one in given]
    if any(places.any() for places in undefined) and all(
        (places | one.underflown | one.impossible)[one.wrong].all()
        for one, places in zip(given, undefined, strict=True)
    ):
        return _BY_NAME["nan"], len(given)
    if half := _half_precision(given):
        return half, len(given)
    elsewhere = [one.wrong & ~one.impossible for one in given]
    under = [one.underflown | one.losing_digits for one in given]
    left = [bool((a & ~b).any()) for a, b in zip(elsewhere, under, strict=True)]
    if any(left):
        return None, 0
    losses = np.concatenate([one.loss[one.wrong & one.impossible] for one in given])
    matched = sum(not places.any() for places in elsewhere)
    if not losses.size:
        return None, 0
    if np.isposinf(losses).all():
        return _BY_NAME["infeasible-gradient"], matched
    return _BY_NAME["infeasible-as-zero" if (losses == 0).all() else "log-zero-leaks"], matched


def _underflows(given: Sequence[_Judged]) -> bool:
    """Whether all that is wrong is a likelihood too small for a plain number, or nearly."""
    wrong = [one.wrong & ~one.impossible for one in given]
    lost = [one.underflown for one in given]
    return any((a & b).any() for a, b in zip(wrong, lost, strict=True)) and not any(
        (places & ~(gone | one.losing_digits)).any()
        for one, places, gone in zip(given, wrong, lost, strict=True)
    )


def _half_precision(given: Sequence[_Judged]) -> Mistake | None:
    """Tell losses that are near the right ones and have no more digits than half precision."""
    there = [np.isfinite(one.loss) & (one.loss != 0) for one in given]
    losses = np.concatenate([one.loss[places] for one, places in zip(given, there, strict=True)])
    truth = np.concatenate(
        [one.true_loss[places] for one, places in zip(given, there, strict=True)]
    )
    if len(losses) < 2 or not np.all(np.abs(losses - truth) <= 0.1 * np.abs(truth) + 0.1):
        return None
    with np.errstate(over="ignore"):
        half = losses.astype(np.float16).astype(np.float64) == losses
        single = losses.astype(np.float32)
    # A bfloat16 is a float32 whose last 16 bits are 0.
    brain = (single.view(np.uint32) & 0xFFFF == 0) & (single.astype(np.float64) == losses)
    return _BY_NAME["half-precision"] if half.all() or brain.all() else None
