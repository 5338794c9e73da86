"""Mistakes that implementations of CTC make, recognised by computing what they would give.

Every mistake is a hypothesis: the same problem, computed with that mistake. If its numbers are
those of the answer in every sequence, and the right ones are not, it is named.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ctcx._diagnosis.divergence import wrong_cells
from ctcx._reference.tolerances import TOLERANCES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from ctcx._diagnosis.answer import Answer
    from ctcx.fixtures._fixture import Fixture

__all__ = ["MISTAKES", "Mistake", "diagnose"]


class _Hypothesis(NamedTuple):
    """What one way of making a mistake gives for one sequence."""

    loss: float
    gradients: tuple[NDArray[np.float64], ...]
    """(T, C) each, as wide as the padded batch: several ways to go on from the same loss."""


@dataclass(frozen=True, eq=False)
class _PaddedSequence:
    """One sequence with its padding."""

    logits: NDArray[np.float64]
    labels: NDArray[np.int64]
    frames: int
    count: int
    blank: int

    def run(
        self,
        log_probs: NDArray[np.float64] | None = None,
        *,
        labels: NDArray[np.int64] | None = None,
        blank: int | None = None,
        frames: int | None = None,
        skip: bool | None = None,
        starts: Sequence[int] = (0, 1),
        ends: Sequence[int] = (-1, -2),
    ) -> _Hypothesis:
        """Return loss and the usual gradient of the recursion, with something changed.

        ``skip`` is True for always and False for never.
        """
        frames = self.frames if frames is None else frames
        if log_probs is None:
            log_probs = _log_softmax(self.logits)
        labels = self.labels[: self.count] if labels is None else labels
        blank = self.blank if blank is None else blank
        loss, occupancy = _forward_backward(
            log_probs[:frames], labels, blank, skip=skip, starts=starts, ends=ends
        )
        full = np.zeros(self.logits.shape)
        full[:frames] = occupancy
        if not np.isfinite(loss):
            return _Hypothesis(loss, (full,))
        used = (np.arange(len(full)) < frames)[:, None]
        with np.errstate(over="ignore"):
            of_probs = np.where(used, np.exp(log_probs) - full, 0.0)
        of_logits = np.where(used, np.exp(_log_softmax(self.logits)) - full, 0.0)
        return _Hypothesis(loss, (of_probs, of_logits, -full))


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    top = logits.max(axis=-1, keepdims=True)
    shifted = logits - np.where(np.isneginf(top), 0.0, top)
    with np.errstate(divide="ignore"):
        total = np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    result: NDArray[np.float64] = shifted - np.where(np.isneginf(total), 0.0, total)
    return result


def _forward_backward(
    log_probs: NDArray[np.float64],
    labels: NDArray[np.int64],
    blank: int,
    *,
    skip: bool | None,
    starts: Sequence[int],
    ends: Sequence[int],
) -> tuple[float, NDArray[np.float64]]:
    """Return the loss, and the occupancy of each class, (T, C)."""
    by_class = np.zeros(log_probs.shape)
    states = np.full(2 * len(labels) + 1, blank)
    states[1::2] = labels
    width = len(states)
    skips = np.zeros(width, dtype=np.bool_)
    skips[3::2] = labels[1:] != labels[:-1] if skip is None else skip
    if not len(log_probs):
        return (np.inf if len(labels) else 0.0), by_class
    emission = log_probs[:, states]
    alpha, beta = np.full(emission.shape, -np.inf), np.full(emission.shape, -np.inf)
    first = [s for s in starts if s < width]
    last = [width + s for s in ends if width + s >= 0]
    alpha[0, first] = emission[0, first]
    for t in range(1, len(alpha)):
        alpha[t] = _step(alpha[t - 1], skips) + emission[t]
    beta[-1, last] = 0.0
    back = np.zeros_like(skips)
    back[2:] = skips[2:][::-1]
    for t in range(len(beta) - 2, -1, -1):
        beta[t] = _step((beta[t + 1] + emission[t + 1])[::-1], back)[::-1]
    loss = -float(np.logaddexp.reduce(alpha[-1, last]))
    if np.isfinite(loss):
        occupancy = np.exp(alpha + beta + loss)
        for s, state in enumerate(states):
            by_class[:, state] += occupancy[:, s]
    return loss, by_class


def _step(values: NDArray[np.float64], skips: NDArray[np.bool_]) -> NDArray[np.float64]:
    total = values.copy()
    total[1:] = np.logaddexp(total[1:], values[:-1])
    total[2:] = np.where(skips[2:], np.logaddexp(total[2:], values[:-2]), total[2:])
    return total


def _wrong_blank(one: _PaddedSequence) -> Iterator[_Hypothesis]:
    for blank in sorted({0, one.logits.shape[1] - 1} - {one.blank}):
        yield one.run(blank=blank)


def _repeat_allowed(one: _PaddedSequence) -> Iterator[_Hypothesis]:
    yield one.run(skip=True)


def _no_skip(one: _PaddedSequence) -> Iterator[_Hypothesis]:
    yield one.run(skip=False)


def _no_softmax(one: _PaddedSequence) -> Iterator[_Hypothesis]:
    raw = one.run(one.logits)
    yield raw
    # "Likelihoods" above 1 have a negative loss, which a careful program clips.
    yield _Hypothesis(max(0.0, raw.loss), raw.gradients)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(np.maximum(one.logits, 0.0))
    yield one.run(logs)


def _two_softmaxes(one: _PaddedSequence) -> Iterator[_Hypothesis]:
    yield one.run(_log_softmax(np.exp(_log_softmax(one.logits))))


def _end_state(one: _PaddedSequence) -> Iterator[_Hypothesis]:
    yield one.run(ends=(-1,))
    if one.count:
        yield one.run(ends=(-2,))
    else:
        yield one.run()


def _start_state(one: _PaddedSequence) -> Iterator[_Hypothesis]:
    yield one.run(starts=(0,))
    yield one.run(starts=(1,) if one.count else (0,))


def _shifted(one: _PaddedSequence) -> Iterator[_Hypothesis]:
    for by in (1, -1):
        yield one.run(labels=(one.labels[: one.count] + by) % one.logits.shape[1])


def _padding(one: _PaddedSequence) -> Iterator[_Hypothesis]:
    # Outside of the lengths may stand what no softmax takes.
    logits = np.nan_to_num(one.logits, nan=0.0, posinf=0.0, neginf=-np.inf)
    whole = replace(one, logits=logits)
    for changed in (
        whole.run(frames=len(logits)),
        whole.run(labels=one.labels),
        whole.run(frames=len(logits), labels=one.labels),
    ):
        yield _Hypothesis(changed.loss, changed.gradients[:2])
    right = one.run()
    unmasked = right.gradients[0].copy()
    unmasked[one.frames :] = np.exp(_log_softmax(logits))[one.frames :]
    yield _Hypothesis(right.loss, (unmasked,))


def _of_log_probs(one: _PaddedSequence) -> Iterator[_Hypothesis]:
    right = one.run()
    if not np.isfinite(right.loss):
        yield right
        return
    minus_occupancy = right.gradients[2]
    with np.errstate(divide="ignore", invalid="ignore"):
        of_probs = minus_occupancy / np.exp(_log_softmax(one.logits))
    yield _Hypothesis(right.loss, (minus_occupancy, np.where(minus_occupancy == 0, 0.0, of_probs)))


def _minus(one: _PaddedSequence) -> Iterator[_Hypothesis]:
    right = one.run()
    yield _Hypothesis(right.loss, (-right.gradients[0],))


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A mistake with a name.

    Attributes
    ----------
    name : str
        For programs.
    sentence : str
        For people: what is likely wrong, and what would be right.
    hypotheses : callable or None
        What it gives for a sequence: always the same number of ways to make it. None if it is told
        by a pattern.
    in_loss : bool
        Whether it is in the loss, so that right losses are evidence against it.
    """

    name: str
    sentence: str
    hypotheses: Callable[[_PaddedSequence], Iterator[_Hypothesis]] | None = None
    in_loss: bool = True


MISTAKES: tuple[Mistake, ...] = (
    Mistake(
        name="blank-at-wrong-end",
        sentence="The blank is taken to be at the other end of the classes; `blank` says where.",
        hypotheses=_wrong_blank,
    ),
    Mistake(
        name="repeat-transition-allowed",
        sentence="Equal labels are let follow one another directly: a skip over the blank is only "
        "for labels that differ.",
        hypotheses=_repeat_allowed,
    ),
    Mistake(
        name="skip-missing",
        sentence="Different labels are not let follow one another directly: the skip over the "
        "blank between them is missing.",
        hypotheses=_no_skip,
    ),
    Mistake(
        name="softmax-missing",
        sentence="The logits are used as if they were probabilities or their logarithms: the "
        "softmax is missing.",
        hypotheses=_no_softmax,
    ),
    Mistake(
        name="softmax-twice",
        sentence="The softmax is applied twice: what goes in are logits, not probabilities.",
        hypotheses=_two_softmaxes,
    ),
    Mistake(
        name="alpha-end-states",
        sentence="Only one of the two end states counts: paths may end in the last label or in the "
        "blank after it.",
        hypotheses=_end_state,
    ),
    Mistake(
        name="alpha-start-states",
        sentence="Only one of the two start states counts: paths may begin with the blank or with "
        "the first label.",
        hypotheses=_start_state,
    ),
    Mistake(
        name="one-hot-shifted",
        sentence="The labels are off by one class: the one-hot rows are shifted, or classes are "
        "counted from 1.",
        hypotheses=_shifted,
    ),
    Mistake(
        name="padding-not-masked",
        sentence="What stands past a length is used: mask frames from `logit_lengths` on, labels "
        "from `label_lengths` on, and the gradient there is 0.",
        hypotheses=_padding,
        in_loss=False,
    ),
    Mistake(
        name="gradient-of-log-probabilities",
        sentence="The gradient is with respect to the (log-)probabilities: that with respect to "
        "the logits is the softmax minus the occupancy.",
        hypotheses=_of_log_probs,
        in_loss=False,
    ),
    Mistake(
        name="gradient-sign",
        sentence="The gradient has the opposite sign: it is that of the log-likelihood.",
        hypotheses=_minus,
        in_loss=False,
    ),
    Mistake(
        name="log-zero-leaks",
        sentence="A finite stand-in for log(0) leaks out: labels that can't be emitted have the "
        "loss +inf and the gradient 0.",
    ),
    Mistake(
        name="nan",
        sentence="NaN comes out, as of 0 times inf, or inf minus inf: test for -inf before "
        "subtracting it.",
    ),
)
"""What :func:`diagnose` knows, in the order of precedence."""

_BY_NAME = {mistake.name: mistake for mistake in MISTAKES}


def diagnose(fixture: Fixture, answer: Answer, dtype: str) -> Mistake | None:
    """Return the mistake whose numbers these are; None if they are right or of no known one.

    Parameters
    ----------
    fixture : Fixture
        The problem.
    answer : Answer
        What somebody computed; the loss is needed, and the gradient helps.
    dtype : str
        Whose tolerances hold.
    """
    if "loss" not in answer:
        return None
    wrong = wrong_cells(fixture, answer, "loss", dtype)
    slope_wrong: NDArray[np.bool_] = np.zeros(len(wrong), dtype=np.bool_)
    if "gradient" in answer:
        slope_wrong = np.any(wrong_cells(fixture, answer, "gradient", dtype), axis=(1, 2))
    if not (wrong | slope_wrong).any():
        return None
    feasible = np.asarray(fixture.arrays["feasible"], dtype=np.bool_)
    partly = None
    for mistake in MISTAKES:
        where = wrong if mistake.in_loss else (wrong | slope_wrong) & feasible
        if mistake.hypotheses is None or not where.any():
            continue
        loss_fits, gradient_fits = _fits(fixture, answer, mistake.hypotheses, dtype)
        if loss_fits and gradient_fits:
            return mistake
        if loss_fits and wrong.any():
            partly = partly or mistake
    return partly or _by_pattern(fixture, answer, wrong, slope_wrong)


def _by_pattern(
    fixture: Fixture,
    answer: Answer,
    wrong: NDArray[np.bool_],
    slope_wrong: NDArray[np.bool_],
) -> Mistake | None:
    if any(np.isnan(values).any() for values in answer.values()):
        return _BY_NAME["nan"]
    infeasible = ~np.asarray(fixture.arrays["feasible"], dtype=np.bool_)
    if infeasible.any() and not ((wrong | slope_wrong) & ~infeasible).any():
        return _BY_NAME["log-zero-leaks"]
    return None


def _fits(
    fixture: Fixture,
    answer: Answer,
    hypotheses: Callable[[_PaddedSequence], Iterator[_Hypothesis]],
    dtype: str,
) -> tuple[bool, bool]:
    """Return whether some one way to make the mistake gives all losses, and all gradients too."""
    tolerance = TOLERANCES[dtype]
    loss_fits: list[bool] = []
    gradient_fits: list[NDArray[np.bool_]] = []
    for n in range(fixture.shape[0]):
        one = _PaddedSequence(
            np.asarray(fixture.arrays["logits"][n], dtype=np.float64),
            np.asarray(fixture.arrays["labels"][n], dtype=np.int64),
            int(fixture.arrays["logit_lengths"][n]),
            int(fixture.arrays["label_lengths"][n]),
            fixture.blank,
        )
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            here = list(hypotheses(one))
        loss_fits = loss_fits or [True] * len(here)
        gradient_fits = gradient_fits or [np.ones(3, dtype=np.bool_) for _ in here]
        for i, hypothesis in enumerate(here):
            allowed = 10 * float(
                tolerance.loss(np.array([hypothesis.loss]), np.array([one.frames]))[0]
            )
            got = float(answer["loss"][n])
            # The mistake may also be in what nothing depends on: a loss that stays right is no
            # evidence against it, and the gradient decides.
            loss_fits[i] &= got == hypothesis.loss or abs(got - hypothesis.loss) <= allowed
            if "gradient" in answer:
                fitting = np.zeros(3, dtype=np.bool_)
                for j in range(3):
                    slope = hypothesis.gradients[min(j, len(hypothesis.gradients) - 1)]
                    with np.errstate(invalid="ignore"):
                        off = ~(np.abs(answer["gradient"][n] - slope) <= 10 * tolerance.grad)
                    # log-zero is another mistake: an infeasible sequence may have any gradient
                    fitting[j] = not off.any() or not np.isfinite(hypothesis.loss)
                gradient_fits[i] &= fitting
    both = any(a and b.any() for a, b in zip(loss_fits, gradient_fits, strict=True))
    return any(loss_fits), both
