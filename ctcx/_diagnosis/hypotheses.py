"""CTC with something wrong in it: what an implementation with a known mistake computes.

Each function takes a batch and yields the ways to make one mistake, always the same number of them
in the same order, so that the same way can be compared over many batches.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from ctcx.fixtures._fixture import Fixture

    Array = NDArray[np.float64]

__all__ = ["MistakenBatch", "Way", "log_softmax"]


class Way(NamedTuple):
    """What one way of making a mistake gives for a batch."""

    loss: Array
    """(N,); NaN where this way says nothing about a sequence."""
    gradients: tuple[Array, ...]
    """(N, T, C) each: several ways to go on from the same loss."""


@dataclass(frozen=True, kw_only=True)
class TransitionRules:
    """How a recursion goes; the defaults are right."""

    skips: str = "differing"
    starts: tuple[int, ...] | None = (0, 1)
    ends: tuple[int, ...] | None = (-1, -2)
    blanks: str = "everywhere"
    loops: bool = True
    best: bool = False
    wraps: tuple[tuple[int, int], ...] = ()
    """Further transitions, from a state to a state in the order of the recursion: an index below 0
    counts from the last state."""
    in_place: str = ""
    """Whether a frame's states are written over those of the frame before, in the order in which
    they are needed: "" for no, else with the "emission", or with that "later". "derivative" is the
    backward recursion that a framework makes of the first."""


RIGHT = TransitionRules()

# The same where no label is the blank. Where one is, by another mistake, programs differ in whether
# the skip looks for that.
RULES = (RIGHT, TransitionRules(skips="differing, not the blank"))


@dataclass(frozen=True, eq=False)
class MistakenBatch:
    """A batch with its padding."""

    logits: Array
    labels: NDArray[np.int64]
    frames: NDArray[np.int64]
    counts: NDArray[np.int64]
    blank: int
    _cache: dict[str, Way] = field(default_factory=dict)

    @classmethod
    def of(cls, fixture: Fixture) -> MistakenBatch:
        """Return the batch of a fixture."""
        arrays = fixture.arrays
        return cls(
            np.asarray(arrays["logits"], dtype=np.float64),
            np.asarray(arrays["labels"], dtype=np.int64),
            np.asarray(arrays["logit_lengths"], dtype=np.int64),
            np.asarray(arrays["label_lengths"], dtype=np.int64),
            fixture.blank,
        )

    @cached_property
    def log_probs(self) -> Array:
        """Logarithm of the softmax; padding that no softmax takes counts as 0."""
        return log_softmax(
            np.nan_to_num(self.logits, nan=0.0, posinf=0.0, neginf=-np.inf)
            if not np.isfinite(self.logits).all()
            else self.logits
        )

    @cached_property
    def used(self) -> NDArray[np.bool_]:
        """Which frames count, (N, T, 1)."""
        used: NDArray[np.bool_] = np.arange(self.logits.shape[1]) < self.frames[:, None]
        return used[:, :, None]

    @property
    def right(self) -> Way:
        """What is right: softmax minus occupancy, the softmax alone, and the occupancy negated."""
        if "right" not in self._cache:
            self._cache["right"] = self.run()
        return self._cache["right"]

    @property
    def occupancy(self) -> Array:
        """The right occupancy of each class, (N, T, C)."""
        return -self.right.gradients[2]

    @property
    def softmax(self) -> Array:
        """Softmax in the frames that count, else 0."""
        result: Array = np.where(self.used, np.exp(self.log_probs), 0.0)
        return result

    def run(
        self,
        forward: TransitionRules = RIGHT,
        backward: TransitionRules | None = None,
        *,
        log_probs: Array | None = None,
        labels: Sequence[NDArray[np.int64]] | None = None,
        blank: int | None = None,
        frames: NDArray[np.int64] | None = None,
    ) -> Way:
        """Return loss and the gradients that may follow, with something changed.

        The gradients: of the mistaken loss; the right softmax minus the mistaken occupancy; the
        occupancy alone; and the same from a backward recursion that is right.
        """
        N, T, C = self.logits.shape
        log_probs = self.log_probs if log_probs is None else log_probs
        frames = self.frames if frames is None else np.clip(frames, 0, T)
        blank = self.blank if blank is None else blank
        loss = np.zeros(N)
        found = np.zeros((N, T, C))
        mixed = np.zeros((N, T, C))
        # The other recursion may be right, if it goes over the same states.
        one_sided = (
            backward is None
            and forward is not RIGHT
            and forward.blanks == RIGHT.blanks
            and not forward.best
        )
        for n in range(N):
            mine = self.labels[n, : self.counts[n]] if labels is None else labels[n]
            part = log_probs[n, : frames[n]]
            loss[n], occupied = forward_backward(part, mine, blank, forward, backward or forward)
            found[n, : frames[n]] = occupied
            if one_sided and np.isfinite(loss[n]):
                _, occupied = forward_backward(part, mine, blank, forward, RIGHT)
                mixed[n, : frames[n]] = occupied
        inside = (np.arange(T) < frames[:, None])[:, :, None] & np.isfinite(loss)[:, None, None]
        with np.errstate(over="ignore", invalid="ignore"):
            of_probs = np.where(inside, np.exp(log_probs) - found, 0.0)
        of_logits = np.where(inside, np.exp(self.log_probs) - found, 0.0)
        gradients = [of_probs, of_logits, -found]
        if mixed.any():
            gradients.append(np.where(inside, np.exp(self.log_probs) - mixed, 0.0))
        else:
            gradients.append(of_logits)
        return Way(loss, tuple(gradients))


def log_softmax(logits: Array) -> Array:
    """Return the logarithm of the softmax over the last axis."""
    top = logits.max(axis=-1, keepdims=True, initial=-np.inf)
    shifted = logits - np.where(np.isneginf(top), 0.0, top)
    with np.errstate(divide="ignore"):
        total = np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    result: Array = shifted - np.where(np.isneginf(total), 0.0, total)
    return result


def forward_backward(
    log_probs: Array,
    labels: NDArray[np.int64],
    blank: int,
    forward: TransitionRules,
    backward: TransitionRules,
) -> tuple[float, Array]:
    """Return the loss, and the occupancy of each class, (T, C)."""
    by_class = np.zeros(log_probs.shape)
    states, alpha, beta, loss = lattice(log_probs, labels, blank, forward, backward)
    if not len(log_probs) or not len(states) or not np.isfinite(loss):
        return loss, by_class
    with np.errstate(over="ignore"):
        occupancy = np.exp(alpha + beta + loss)
    if forward.best:
        occupancy = (alpha + beta > -loss - 1e-9).astype(np.float64)
    for s, state in enumerate(states):
        by_class[:, state] += occupancy[:, s]
    return loss, by_class


def lattice(
    log_probs: Array,
    labels: NDArray[np.int64],
    blank: int,
    forward: TransitionRules,
    backward: TransitionRules,
) -> tuple[NDArray[np.int64], Array, Array, float]:
    """Return states, alpha, beta (without the frame's own emission) and the loss."""
    states, skips = _states(labels, blank, forward)
    emission = log_probs[:, states]
    alpha, beta = np.full(emission.shape, -np.inf), np.full(emission.shape, -np.inf)
    width = len(states)
    if not len(log_probs) or not width:
        return states, alpha, beta, (np.inf if len(labels) or len(log_probs) else 0.0)
    plus = np.maximum if forward.best else np.logaddexp
    first, last = _picked(forward.starts, width), _picked(forward.ends, width)
    if not first or not last:  # there is no such state, and no telling what a program makes of it
        return states, alpha, beta, np.nan
    alpha[0, first] = emission[0, first]
    for t in range(1, len(alpha)):
        alpha[t] = _frame(alpha[t - 1], emission[t], skips, plus, forward)
    back_skips = _states(labels, blank, backward)[1] if backward is not forward else skips
    back = np.zeros_like(skips)
    back[2:] = back_skips[2:][::-1]
    beta[-1, _picked(backward.ends, width)] = 0.0
    if backward.in_place in {"emission", "derivative"}:
        beta = _beta_in_place(beta[-1], emission, back, plus, backward)
    else:
        for t in range(len(beta) - 2, -1, -1):
            later = (beta[t + 1] + emission[t + 1])[::-1]
            beta[t] = _frame(later, np.zeros(width), back, plus, backward)[::-1]
    return states, alpha, beta, -float(plus.reduce(alpha[-1, last]))


def _picked(states: tuple[int, ...] | None, width: int) -> list[int]:
    if states is None:
        return list(range(width))
    return sorted({s % width for s in states if -width <= s < width})


def _states(
    labels: NDArray[np.int64], blank: int, how: TransitionRules
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the class of each state, and where the transition from two states before ends."""
    count = len(labels)
    states = np.full(2 * count + 1, blank, dtype=np.int64)
    states[1::2] = labels
    skips = np.zeros(len(states), dtype=np.bool_)
    differs = labels[1:] != labels[:-1]
    to_labels = {
        "differing": differs,
        "differing, not the blank": differs & (labels[1:] != blank),
        "always": np.ones_like(differs),
        "never": np.zeros_like(differs),
        "everywhere": np.ones_like(differs),
        "blanks too": differs,
        "next label": np.r_[differs[1:], True][: len(differs)],
        "label before": np.r_[True, differs[:-1]][: len(differs)],
        "equal": ~differs,
    }
    skips[3::2] = to_labels[how.skips]
    skips[2::2] = how.skips in {"everywhere", "blanks too"}
    if how.blanks == "between":
        return states[1:-1], skips[1:-1]
    if how.blanks == "nowhere":
        return labels.astype(np.int64), np.zeros(count, dtype=np.bool_)
    return states, skips


def _frame(
    values: Array,
    emission: Array,
    skips: NDArray[np.bool_],
    plus: Callable[..., Array],
    how: TransitionRules,
) -> Array:
    """Return the values of the states after a frame."""
    if how.in_place == "emission":
        return _written_over(values, emission, skips, plus)
    if how.in_place:
        return _written_over(values, np.zeros_like(values), skips, plus) + emission
    total = values.copy() if how.loops else np.full(values.shape, -np.inf)
    total[1:] = plus(total[1:], values[:-1])
    total[2:] = np.where(skips[2:], plus(total[2:], values[:-2]), total[2:])
    for source, target in how.wraps:
        if len(values) > max(target, -source - 1):
            total[target] = plus(total[target], values[source])
    return total + emission


def _written_over(
    values: Array, emission: Array, skips: NDArray[np.bool_], plus: Callable[..., Array]
) -> Array:
    """Return the values where each state adds up what the states before have become already."""
    values = values.copy()
    for s in range(len(values)):
        for before in range(max(0, s - 2 if skips[s] else s - 1), s):
            values[s] = plus(values[s], values[before])
        values[s] += emission[s]
    return values


def _beta_in_place(
    end: Array,
    emission: Array,
    skips: NDArray[np.bool_],
    plus: Callable[..., Array],
    how: TransitionRules,
) -> Array:
    """Return beta, which was written over with each frame's own emission in it."""
    derived = how.in_place == "derivative"
    own = np.full(emission.shape, -np.inf)  # with the frame's own emission
    frames = len(emission)
    for t in range(frames - 1, -1, -1):
        after = own[t + 1] if t + 1 < frames else end
        # A program begins with the last frame, the derivative ends before the first.
        alone = t == (0 if derived else frames - 1)
        own[t] = (
            after + emission[t]
            if alone
            else _written_over(after[::-1], emission[t, ::-1], skips, plus)[::-1]
        )
    result: Array = np.where(np.isneginf(own), -np.inf, own - emission)
    return result


# In the labels, the blank and the lengths


def wrong_blank(batch: MistakenBatch) -> Iterator[Way]:
    """Try the first class, the last one, and the other end."""
    last = batch.logits.shape[2] - 1
    for blank in (0, last, last - batch.blank):
        for rule in RULES:
            yield batch.run(rule, blank=blank)


def blank_beside(batch: MistakenBatch) -> Iterator[Way]:
    """Try the class beside the blank; that before the first is the last, as for an index of -1."""
    classes = batch.logits.shape[2]
    for rule in RULES:
        yield batch.run(rule, blank=min(batch.blank + 1, classes - 1))
        yield batch.run(rule, blank=max(batch.blank - 1, 0))
        yield batch.run(rule, blank=(batch.blank - 1) % classes)


def shifted_labels(batch: MistakenBatch) -> Iterator[Way]:
    """Try all labels a class further, or a class before."""
    classes = batch.logits.shape[2]
    for by in (1, -1):
        moved = (batch.labels + by) % classes
        held = np.clip(batch.labels + by, 0, classes - 1)
        for rule in RULES:
            yield batch.run(rule, labels=_cut(moved, batch.counts))
            yield batch.run(rule, labels=_cut(held, batch.counts))


def merged_labels(batch: MistakenBatch) -> Iterator[Way]:
    """Try equal neighbours are one label."""
    labels = [
        row[np.r_[True, row[1:] != row[:-1]]] if len(row) else row
        for row in _cut(batch.labels, batch.counts)
    ]
    yield batch.run(labels=labels)


def dropped_label(batch: MistakenBatch) -> Iterator[Way]:
    """Try without the last label, or the first."""
    rows = _cut(batch.labels, batch.counts)
    yield batch.run(labels=[row[:-1] for row in rows])
    yield batch.run(labels=[row[1:] for row in rows])


def zeros_as_padding(batch: MistakenBatch) -> Iterator[Way]:
    """Try labels that end at a 0, or of which zeros are left out, or only not counted."""
    for rows in (_cut(batch.labels, batch.counts), list(batch.labels)):
        ended = [row[: (row == 0).argmax()] if (row == 0).any() else row for row in rows]
        counted = [row[: np.count_nonzero(row)] for row in rows]
        for labels in (ended, [row[row != 0] for row in rows], counted):
            yield batch.run(labels=labels)


def reordered_batch(batch: MistakenBatch) -> Iterator[Way]:
    """Try sequences in the order of their lengths: the results, or what is computed."""
    loss, (right, *_) = batch.right
    for lengths in (batch.frames, batch.counts):
        for order in (np.argsort(-lengths, kind="stable"), np.argsort(lengths, kind="stable")):
            back = np.argsort(order)
            for place in (order, back):
                yield Way(loss[place], (right[place], right))
                yield Way(loss, (right[place],))
            mixed = replace(
                batch, logits=batch.logits[order], frames=batch.frames[order], _cache={}
            ).right
            own = tuple(gradient[back] for gradient in mixed.gradients[:2])
            yield Way(mixed.loss, mixed.gradients[:2] + own)
            yield Way(mixed.loss[back], own + mixed.gradients[:2])


def reversed_labels(batch: MistakenBatch) -> Iterator[Way]:
    """Try labels or frames from the end to the beginning, and the gradient either way."""
    right = batch.right
    other = batch.run(labels=[row[::-1] for row in _cut(batch.labels, batch.counts)])
    turned = tuple(_turned(batch, gradient) for gradient in other.gradients[:2])
    yield Way(other.loss, other.gradients[:2] + turned)
    yield Way(right.loss, tuple(_turned(batch, gradient) for gradient in right.gradients[:3]))


def padding(batch: MistakenBatch) -> Iterator[Way]:
    """Try lengths that are not looked at."""
    N, T, _ = batch.logits.shape
    everything, every_label = np.full(N, T), list(batch.labels)
    yield batch.run(frames=everything)
    yield batch.run(frames=np.full(N, batch.frames[0]))
    for rule in RULES:
        yield batch.run(rule, labels=every_label)
        yield batch.run(rule, frames=everything, labels=every_label)
    right = batch.right
    beyond = np.where(batch.used, 0.0, np.exp(batch.log_probs))
    yield Way(right.loss, (right.gradients[0] + beyond,))


def dropped_frame(batch: MistakenBatch) -> Iterator[Way]:
    """Try without the last frame, or the first."""
    shorter = np.maximum(batch.frames - 1, 0)
    yield batch.run(frames=shorter)
    T = batch.logits.shape[1]
    later = np.concatenate([batch.log_probs[:, 1:], batch.log_probs[:, :1]], axis=1)
    without = batch.run(log_probs=later, frames=shorter)
    back = tuple(
        np.concatenate([np.zeros_like(g[:, :1]), g[:, : T - 1]], axis=1) for g in without.gradients
    )
    # The softmax of its own frames, which have moved too.
    moved = np.where(np.abs(back[2]).sum(-1, keepdims=True) > 0, np.exp(batch.log_probs), 0.0)
    yield Way(without.loss, (moved + back[2], back[2], back[0], back[1]))


def swapped_axes(batch: MistakenBatch) -> Iterator[Way]:
    """Try numbers of (N, T, C) read in the order of (T, N, C), or of (N, C, T)."""
    N, T, C = batch.logits.shape
    other = batch.log_probs.reshape(T, N, C).swapaxes(0, 1)
    mixed = replace(batch, logits=other, _cache={})
    way = mixed.run()
    stored = tuple(g.swapaxes(0, 1).reshape(N, T, C) for g in way.gradients[:2])
    yield Way(way.loss, way.gradients[:2] + stored)
    turned = log_softmax(batch.logits.reshape(N, C, T).swapaxes(1, 2))
    way = replace(batch, logits=turned, _cache={}).run()
    stored = tuple(g.swapaxes(1, 2).reshape(N, T, C) for g in way.gradients[:2])
    yield Way(way.loss, way.gradients[:2] + stored)


def swapped_gradient(batch: MistakenBatch) -> Iterator[Way]:
    """Try the right gradient, stored in another order of its axes."""
    N, T, C = batch.logits.shape
    loss, (right, *_) = batch.right
    yield Way(loss, (right.swapaxes(0, 1).reshape(N, T, C),))
    yield Way(loss, (right.swapaxes(1, 2).reshape(N, T, C),))


def shifted_gradient(batch: MistakenBatch) -> Iterator[Way]:
    """Try the gradient, or the occupancy in it, a frame later or earlier."""
    loss, (right, *_) = batch.right
    for by in (1, -1):
        moved = [np.roll(part, by, axis=1) for part in (right, batch.occupancy)]
        ended = [part.copy() for part in moved]
        inside = [np.zeros_like(part) for part in moved]
        for part, within, whole in zip(ended, inside, (right, batch.occupancy), strict=True):
            part[:, 0 if by > 0 else -1] = 0.0
            for n, frames in enumerate(batch.frames):
                within[n, :frames] = np.roll(whole[n, :frames], by, axis=0)
        own = [np.where(batch.used, part, 0.0) for part in ended]
        yield Way(loss, tuple(part[0] for part in (moved, ended, own, inside)))
        yield Way(loss, tuple(batch.softmax - part[1] for part in (moved, ended, own, inside)))


# In the probabilities


def no_softmax(batch: MistakenBatch) -> Iterator[Way]:
    """Try logits in place of logarithms, or of probabilities."""
    raw = batch.run(log_probs=np.nan_to_num(batch.logits, nan=0.0, posinf=0.0, neginf=-np.inf))
    yield raw
    # "Likelihoods" above 1 have a negative loss, which a careful program clips.
    yield Way(np.maximum(0.0, raw.loss), raw.gradients)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(np.maximum(batch.logits, 0.0))
        way = batch.run(log_probs=logs)
        of_logits = np.where(batch.logits > 0, way.gradients[2] / batch.logits, 0.0)
    yield Way(way.loss, (*way.gradients, of_logits))


def two_softmaxes(batch: MistakenBatch) -> Iterator[Way]:
    """Try the softmax of the softmax."""
    way = batch.run(log_probs=log_softmax(np.exp(batch.log_probs)))
    yield Way(way.loss, (*way.gradients, _through_softmax(batch, way.gradients[0])))


def _through_softmax(batch: MistakenBatch, of_probs: Array) -> Array:
    """Return the gradient with respect to the logits, of one with respect to the softmax."""
    probs = np.exp(batch.log_probs)
    of_logs = np.where(probs > 0, probs * of_probs, 0.0)
    result: Array = of_logs - probs * of_logs.sum(axis=-1, keepdims=True)
    return result


def other_axis(batch: MistakenBatch) -> Iterator[Way]:
    """Try the softmax over frames, or over the sequences."""
    logits = np.nan_to_num(batch.logits, nan=0.0, posinf=0.0, neginf=-np.inf)
    own = np.where(batch.used, logits, -np.inf)  # of the frames that count
    for given, axis in ((logits, 1), (own, 1), (logits, 0)):
        turned = np.moveaxis(log_softmax(np.moveaxis(given, axis, -1)), -1, axis)
        way = batch.run(log_probs=turned)
        occupied = -way.gradients[2]
        of_logits = np.exp(turned) * occupied.sum(axis=axis, keepdims=True) - occupied
        yield Way(way.loss, (*way.gradients, of_logits))


def clamped(batch: MistakenBatch) -> Iterator[Way]:
    """Try a small number added to probabilities, or the least that they may be."""
    probs = np.exp(batch.log_probs)
    for small in (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12, 1e-15, 1e-20, 1e-30):
        for logs in (np.log(probs + small), np.log(np.maximum(probs, small))):
            # Keras takes these for logits.
            for taken, place in ((logs, 2), (log_softmax(logs), 0)):
                if np.all((np.abs(taken - batch.log_probs) < 1e-13) | (taken == batch.log_probs)):
                    yield Way(batch.right.loss, (*batch.right.gradients, batch.right.gradients[1]))
                    continue
                way = batch.run(log_probs=taken)
                kept = np.exp(logs) > small  # a clamped probability has no derivative
                of_probs = np.where(kept, way.gradients[place] / np.exp(logs), 0.0)
                yield Way(way.loss, (*way.gradients, _through_softmax(batch, of_probs)))


# In the recursion


def lattices(*changes: TransitionRules) -> Callable[[MistakenBatch], Iterator[Way]]:
    """Return the ways of a mistake in the transitions, made in both directions alike."""

    def ways(batch: MistakenBatch) -> Iterator[Way]:
        for change in changes:
            yield batch.run(change)

    return ways


def wrapped_index(batch: MistakenBatch) -> Iterator[Way]:
    """Try states before the first that are the last: one before, or two, or either."""
    one, two = (-1, 0), (-1, 1)
    for wraps in ((one,), (two,), (one, two)):
        transposed = tuple((-1 - target, -1 - source) for source, target in wraps)
        yield batch.run(TransitionRules(wraps=wraps))
        yield batch.run(TransitionRules(wraps=wraps), TransitionRules(wraps=transposed))


def updated_in_place(batch: MistakenBatch) -> Iterator[Way]:
    """Try one array for two frames, in the order in which its states are needed."""
    forward = TransitionRules(in_place="emission")
    yield batch.run(forward)
    yield batch.run(forward, TransitionRules(in_place="derivative"))
    yield batch.run(TransitionRules(in_place="later"))


def backward_alone(batch: MistakenBatch) -> Iterator[Way]:
    """Try a backward recursion that goes wrong, after a forward one that is right."""
    for skips in ("never", "always", "everywhere", "blanks too", "next label", "label before"):
        yield _from_beta(batch, replace(RIGHT, skips=skips))
    for ends in ((-1,), (-2,), None):
        yield _from_beta(batch, replace(RIGHT, ends=ends))
    yield _from_beta(batch, replace(RIGHT, loops=False))
    for in_place in ("emission", "later"):
        yield _from_beta(batch, TransitionRules(in_place=in_place))


def _from_beta(batch: MistakenBatch, backward: TransitionRules) -> Way:
    changed = batch.run(RIGHT, backward)
    occupied = -changed.gradients[2]
    total = occupied.sum(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        shared = np.where(total > 0, occupied / total, 0.0)
    inside = np.where(np.isfinite(changed.loss)[:, None, None], batch.softmax, 0.0)
    return Way(changed.loss, (inside - occupied, inside - shared))


def occupancies_wrong(batch: MistakenBatch) -> Iterator[Way]:
    """Try other things than the product of alpha and beta over the likelihood."""
    right, softmax = batch.right, batch.softmax
    N, T, C = batch.logits.shape
    made = [np.zeros((N, T, C)) for _ in range(4)]
    for n in range(N):
        labels = batch.labels[n, : batch.counts[n]]
        part = batch.log_probs[n, : batch.frames[n]]
        states, alpha, beta, loss = lattice(part, labels, batch.blank, RIGHT, RIGHT)
        if not np.isfinite(loss) or not len(part):
            continue
        emission = part[:, states]
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            usual = alpha + beta + loss
            counted = (
                alpha + beta,  # not divided by the likelihood
                usual + emission,  # with the emission of the frame twice
                usual - emission,  # without it
                alpha - np.logaddexp.reduce(alpha, axis=1, keepdims=True),  # alpha alone
            )
        for i, logs in enumerate(counted):
            weights = np.nan_to_num(np.exp(logs), nan=0.0, posinf=0.0)
            for s, state in enumerate(states):
                made[i][n, : len(part), state] += weights[:, s]
    inside = np.where(np.isfinite(right.loss)[:, None, None], softmax, 0.0)
    yield Way(right.loss, (inside - made[0],))
    for occupied in made[1:]:
        total = occupied.sum(axis=-1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            shared = np.where(total > 0, occupied / total, 0.0)
        yield Way(right.loss, (inside - occupied, inside - shared))


def overwritten(batch: MistakenBatch) -> Iterator[Way]:
    """Try the states of a class one after another, each in the place of the one before."""
    right, softmax = batch.right, batch.softmax
    for order in (1, -1):
        made = np.zeros(batch.logits.shape)
        for n in range(len(made)):
            labels = batch.labels[n, : batch.counts[n]]
            part = batch.log_probs[n, : batch.frames[n]]
            states, alpha, beta, loss = lattice(part, labels, batch.blank, RIGHT, RIGHT)
            if np.isfinite(loss) and len(part):
                for s in range(len(states))[::order]:
                    made[n, : len(part), states[s]] = np.exp(alpha[:, s] + beta[:, s] + loss)
        inside = np.where(np.isfinite(right.loss)[:, None, None], softmax, 0.0)
        only_states = np.where(made != 0, inside - made, 0.0)
        yield Way(right.loss, (inside - made, only_states, -made))


# In the gradient


def of_log_probs(batch: MistakenBatch) -> Iterator[Way]:
    """Try with respect to the logarithms of the probabilities, or to the probabilities."""
    loss, minus = batch.right.loss, -batch.occupancy
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        of_probs = minus / np.exp(batch.log_probs)
    yield Way(loss, (minus, np.where(minus == 0, 0.0, of_probs)))


def softmax_again(batch: MistakenBatch) -> Iterator[Way]:
    """Try the derivative of the softmax on what has been through it, or its diagonal alone."""
    loss, (gradient, *_) = batch.right
    softmax, occupied = batch.softmax, batch.occupancy
    mean = (softmax * gradient).sum(axis=-1, keepdims=True)
    mean_occupied = (softmax * occupied).sum(axis=-1, keepdims=True)
    yield Way(
        loss,
        (
            softmax * (gradient - mean),
            gradient - softmax * gradient.sum(axis=-1, keepdims=True) - softmax * mean,
            -softmax * (occupied - mean_occupied),
        ),
    )
    yield Way(
        loss, (-occupied * (1 - softmax), gradient * softmax, gradient * softmax * (1 - softmax))
    )


def minus(batch: MistakenBatch) -> Iterator[Way]:
    """Try the gradient of the log-likelihood."""
    loss, (gradient, *_) = batch.right
    yield Way(loss, (-gradient,))


def _by(values: Array) -> Array:
    """Return a factor for each sequence; NaN where it would be a division by 0."""
    return np.where(values > 0, values, np.nan)


Factor: TypeAlias = "Callable[[MistakenBatch], Array | float]"


def _scaled(*factors: Factor, loss_too: bool) -> Callable[[MistakenBatch], Iterator[Way]]:
    """Return the ways of a mistake that multiplies the gradient by a factor, or the loss, too."""

    def ways(batch: MistakenBatch) -> Iterator[Way]:
        loss, (gradient, *_) = batch.right
        for factor in factors:
            by = np.broadcast_to(factor(batch), loss.shape)
            scaled = gradient * np.nan_to_num(by)[:, None, None]
            with np.errstate(invalid="ignore"):
                if loss_too:
                    yield Way(loss * by, (scaled, gradient))
                else:
                    yield Way(np.where(np.isnan(by), np.nan, loss), (scaled,))

    return ways


def _labels(batch: MistakenBatch) -> Array:
    return 1.0 / _by(batch.counts.astype(np.float64))


_BY_LABELS: tuple[Factor, ...] = (
    _labels,
    lambda batch: 1.0 / max(1, batch.labels.shape[1]),
    lambda batch: _labels(batch) / len(batch.frames),
)
_BY_FRAMES: tuple[Factor, ...] = (
    lambda batch: 1.0 / _by(batch.frames.astype(np.float64)),
    lambda batch: 1.0 / max(1, batch.logits.shape[1]),
    lambda batch: 1.0 / max(1, int(batch.frames.sum())),
)


def _by_states(batch: MistakenBatch) -> Array:
    return 1.0 / (2.0 * batch.counts.astype(np.float64) + 1.0)


def _by_sequences(batch: MistakenBatch) -> float:
    return 1.0 / len(batch.frames)


def _likelihood(batch: MistakenBatch) -> Array:
    return np.exp(-batch.right.loss)


gradient_by_labels = _scaled(*_BY_LABELS, loss_too=False)
gradient_by_frames = _scaled(*_BY_FRAMES, loss_too=False)
gradient_by_sequences = _scaled(_by_sequences, loss_too=False)
gradient_of_likelihood = _scaled(_likelihood, lambda batch: -_likelihood(batch), loss_too=False)
loss_by_labels = _scaled(*_BY_LABELS, _by_states, loss_too=True)
loss_by_frames = _scaled(*_BY_FRAMES, loss_too=True)
loss_by_sequences = _scaled(_by_sequences, loss_too=True)


def doubled_gradient(batch: MistakenBatch) -> Iterator[Way]:
    """Try the right gradient times a number."""
    loss, (gradient, *_) = batch.right
    for factor in (2.0, 0.5, -2.0, float(np.log(2.0)), float(1.0 / np.log(2.0))):
        yield Way(loss, (gradient * factor,))


def other_logarithm(batch: MistakenBatch) -> Iterator[Way]:
    """Try the loss in bits, or in decimal digits."""
    loss, (gradient, *_) = batch.right
    for base in (2.0, 10.0):
        yield Way(loss / np.log(base), (gradient, gradient / np.log(base)))


def loss_of_other_sign(batch: MistakenBatch) -> Iterator[Way]:
    """Try the log-likelihood, or the likelihood itself."""
    loss, (gradient, *_) = batch.right
    by = np.exp(-loss)[:, None, None]
    yield Way(-loss, (gradient, -gradient))
    yield Way(np.exp(-loss), (gradient, -gradient, -gradient * by, gradient * by))
    yield Way(1.0 - np.exp(-loss), (gradient, gradient * by))


def reduced(batch: MistakenBatch) -> Iterator[Way]:
    """Try one number for the batch in the place of each loss."""
    loss, (gradient, *_) = batch.right
    count = len(loss)
    if count == 1:
        for _ in range(3):
            yield batch.right
        return
    finite = np.where(np.isfinite(loss), loss, 0.0)
    for total in (loss.sum() / count, loss.sum(), finite.sum() / count):
        yield Way(np.full(count, total), (gradient, gradient / count))


def _cut(labels: NDArray[np.int64], counts: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return [row[:count] for row, count in zip(labels, counts, strict=True)]


def _turned(batch: MistakenBatch, gradient: Array) -> Array:
    """Return the gradient with each sequence's frames from the end to the beginning."""
    other = np.zeros_like(gradient)
    for n, frames in enumerate(batch.frames):
        other[n, :frames] = gradient[n, :frames][::-1]
    return other
