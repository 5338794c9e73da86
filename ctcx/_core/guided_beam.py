r"""Prefix beam search that prefers phrases, asks a language model, and goes on where it stopped.

It is the search of :mod:`ctcx._core.prefix_beam`, with an order of its own: a prefix y has the
score

.. math::
    \log P(y) + \text{bonus}(y)

and the W prefixes of the best scores are the next beam. The bonus depends on y alone: it is what
phrases, a language model and the number of labels add. Probabilities remain those of CTC.

All of it is NumPy on the host in float64, whatever the library of the logits: a language model is
code in Python, and so is the tree of prefixes. Logarithms are not made relative to anything: after
a million frames they still have nine digits after the point.

**Which labels are looked at.** A new prefix counts only if its score isn't below that of the last
of the entries that stay, if there are W of them. No label can add more to an entry than its
logarithm and the entry's largest gain, so most labels of a frame can be left out, and the language
model is not asked about them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from ctcx._errors import CTCInputError, short_repr

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ctcx._core.phrases import Phrases

__all__ = [
    "TOLERATED",
    "Entries",
    "Guide",
    "GuidedBeam",
    "LanguageModel",
    "log_softmax",
]

_INFINITY = float("inf")

_NOBODY, _NO_PARENT = -1, -2
"""The node of a place without an entry; the parent of such a place, and of the root."""

_ROUNDING = 1e-9

_ROUNDING_OF_PARTS = 1e-14
"""Of numbers that are added up to scores: they may be large and cancel each other."""

TOLERATED = 1e-4
"""How far above 0 the numbers of a language model may be, from rounding."""


class LanguageModel(Protocol):
    """What a language model has to offer: logarithms of probabilities, in nats."""

    def start(self) -> Any:
        """Return the state before the first label."""

    def score(self, state: Any, label: int) -> tuple[float, Any]:
        """Return the logarithm of the probability of a label after a state, and the next state."""

    def finish(self, state: Any) -> float:
        """Return the logarithm of the probability that nothing follows."""


@dataclass(frozen=True)
class Guide:
    """What a search prefers besides probability.

    Attributes
    ----------
    phrases
        Which ones, and how much.
    model, weight
        A language model, and what its logarithms are multiplied by.
    per_label
        What each label adds.
    every_label
        What the language model's ``score`` says of all labels after a state, (C,), if it can. It
        is relied on: probabilities may be above 1.
    """

    phrases: Phrases | None = None
    model: LanguageModel | None = None
    weight: float = 1.0
    per_label: float = 0.0
    every_label: Callable[[Any], NDArray[np.float64]] | None = None

    def model_gain(self, words: Any, label: int) -> float:
        """Say what the language model adds for a label."""
        if self.model is None:
            return 0.0
        return self.weight * _checked(self.model.score(words, label), label)

    def model_end(self, words: Any) -> float:
        """Say what the language model adds for the end."""
        if self.model is None:
            return 0.0
        found = self.model.finish(words)
        return self.weight * (_checked(found, None) if self.every_label is None else found)


def _checked(returned: Any, label: int | None) -> float:
    """Return the number in what a language model's ``score`` or ``finish`` has returned."""
    call = "lm.finish(state)" if label is None else f"lm.score(state, {label})"
    number = returned
    if label is not None:
        if not (isinstance(returned, tuple) and len(returned) == 2):
            msg = f"{call} returned {short_repr(returned)}: expected (log_prob, state)"
            raise CTCInputError(msg, argument="lm", value=returned)
        number = returned[0]
    try:
        found = float(number)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not found <= TOLERATED:
        msg = (
            f"{call} returned a log_prob of {short_repr(number)}: expected the logarithm of a "
            f"probability, at most 0"
        )
        raise CTCInputError(msg, argument="lm", value=number)
    return found


class Entries(NamedTuple):
    """The beams of all sequences, the best entries first.

    Attributes
    ----------
    labels
        Of each sequence and entry.
    blank, label
        (N, W): logarithms of the probabilities of paths that end in the blank, and in the last
        label. -inf where there is no entry.
    bonus
        (N, W).
    guides
        Of each sequence and entry: the state in the phrases, and that of the language model.
    """

    labels: list[list[list[int]]]
    blank: NDArray[np.float64]
    label: NDArray[np.float64]
    bonus: NDArray[np.float64]
    guides: list[list[Any]]


class _Places(NamedTuple):
    """The entries of all sequences, (N, W) each.

    ``blank``, ``label`` and ``bonus`` as in :class:`Entries`; the last label, -1 for none; nodes of
    the prefix, and of the one without its last label; the state in the phrases; the cell that
    keeps what the language model has said.
    """

    blank: NDArray[np.float64]
    label: NDArray[np.float64]
    bonus: NDArray[np.float64]
    last: NDArray[np.int64]
    node: NDArray[np.int64]
    parent: NDArray[np.int64]
    phrase: NDArray[np.int64]
    cell: NDArray[np.int64]


_NONE = (-_INFINITY, -_INFINITY, 0.0, -1, _NOBODY, _NO_PARENT, 0, -1)
"""What stands in each part where there is no entry."""


def log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Logarithms of probabilities of frames (..., C); a frame of only -inf stays so."""
    x = np.ascontiguousarray(logits, dtype=np.float64)
    peak = x.max(axis=-1, keepdims=True)
    with np.errstate(all="ignore"):
        x = x - np.where(np.isfinite(peak), peak, 0.0)
        spread = np.log(np.exp(x).sum(axis=-1, keepdims=True))
    found: NDArray[np.float64] = x - np.where(np.isfinite(spread), spread, 0.0)
    return found


class GuidedBeam:
    """Beams of several sequences, to which frames are added.

    Parameters
    ----------
    entries
        Where to begin.
    rows, classes
        N and C.
    blank, width, max_classes
        Of the search.
    guide
        What it prefers.
    """

    def __init__(
        self,
        entries: Entries,
        rows: int,
        classes: int,
        *,
        blank: int,
        width: int,
        max_classes: int | None,
        guide: Guide,
    ) -> None:
        self._rows, self._classes, self._blank_class = rows, classes, blank
        self._width, self._max_classes, self._guide = width, max_classes, guide
        # The tree of prefixes: of each node, the one above and the label that it adds.
        self._above: list[int] = []
        self._symbol: list[int] = []
        self._nodes: dict[tuple[int, int], int] = {}
        self._bases: list[list[int]] = []  # of each sequence, what all its prefixes begin with
        self._words: dict[int, Any] = {}  # of nodes, the state of the language model
        shape = (rows, width)
        self._beam = _Places(*(np.full(shape, no) for no in _NONE))
        # What the language model has said of each class, NaN for what it hasn't been asked; where
        # an entry's numbers are.
        self._said = None if guide.model is None else np.full((*shape, classes), np.nan)
        # The largest of them.
        self._most_said = np.full(shape, TOLERATED * guide.weight)
        self._beam.cell[...] = np.arange(width)
        self._begin(entries)

    def _begin(self, entries: Entries) -> None:
        # Node n is the root of sequence n.
        self._above = [_NO_PARENT] * self._rows
        self._bases = [_common(prefixes) for prefixes in entries.labels]
        self._symbol = [base[-1] if base else -1 for base in self._bases]
        self._beam.blank[...], self._beam.label[...] = entries.blank, entries.label
        self._beam.bonus[...] = entries.bonus
        for n, base in enumerate(self._bases):
            for j, prefix in enumerate(entries.labels[n]):
                node = n
                for label in prefix[len(base) :]:
                    node = self._child(node, label)
                self._enter(n, j, node, entries.guides[n][j])

    def _child(self, node: int, label: int) -> int:
        found = self._nodes.setdefault((node, label), len(self._above))
        if found == len(self._above):
            self._above.append(node)
            self._symbol.append(label)
        return found

    def _enter(self, n: int, j: int, node: int, guide: tuple[Any, Any]) -> None:
        """Put a prefix into place j of a beam, but for its numbers."""
        self._beam.node[n, j], self._beam.parent[n, j] = node, self._above[node]
        self._beam.last[n, j] = self._symbol[node]
        if self._guide.phrases is not None:
            self._beam.phrase[n, j] = self._guide.phrases.number_of(guide[0])
        if self._said is not None:
            self._words[node] = guide[1]
            self._open_cell(self._said, n, self._beam.cell[n, j], node)

    def advance(self, log_probs: NDArray[np.float64], rows: NDArray[np.intp]) -> None:
        """Add a frame (M, C) of some of the sequences (M,)."""
        at = np.arange(len(rows))[:, None]
        beam = _Places._make(part[rows] for part in self._beam)
        total = np.logaddexp(beam.blank, beam.label)
        # Nodes of all sequences are different.
        by_node = beam.node.argsort(axis=None)
        nodes = beam.node.ravel()[by_node]
        found = np.minimum(nodes.searchsorted(beam.parent), nodes.size - 1)
        has_parent = nodes[found] == beam.parent
        place = np.where(has_parent, by_node[found] % self._width, 0)
        # Those that stay.
        repeats = beam.last[at, place] == beam.last
        from_parent = np.where(repeats, beam.blank[at, place], total[at, place])
        into = np.logaddexp(beam.label, np.where(has_parent, from_parent, -_INFINITY))
        staying = beam._replace(
            blank=total + log_probs[:, self._blank_class, None],
            label=into + np.where(beam.last >= 0, log_probs[at, beam.last], -_INFINITY),
        )
        stay_score = np.logaddexp(staying.blank, staying.label) + beam.bonus
        least = stay_score.min(axis=1)  # -inf if there is room
        rounding = _ROUNDING + _ROUNDING_OF_PARTS * self._largest_part(rows, beam)
        least = np.where(
            least > -_INFINITY, least - (rounding + _ROUNDING * np.abs(least)), -_INFINITY
        )
        # New ones.
        classes, p = self._classes_to_try(rows, log_probs, beam, total, least)
        repeats = classes[:, :, None] == beam.last[:, None, :]
        new = np.where(repeats, beam.blank[:, None, :], total[:, None, :]) + p[:, :, None]
        self._leave_out_children(new, classes, beam, has_parent, place)
        new_bonus = self._bonuses(rows, beam, classes, new, least)
        scores = np.concatenate([stay_score, (new + new_bonus).reshape(len(rows), -1)], axis=1)
        # The next beam.
        chosen = _largest(scores, self._width)
        alive = scores[at, chosen] > -_INFINITY
        is_new = chosen >= self._width
        rank, entry = np.divmod(np.maximum(chosen - self._width, 0), self._width)
        entry = np.where(is_new, entry, chosen)
        stays = alive & ~is_new
        following = _Places._make(
            np.where(stays, part[at, entry], no) for part, no in zip(staying, _NONE, strict=True)
        )
        m, j = np.nonzero(alive & is_new)
        if len(m):
            pair = (m, rank[m, j], entry[m, j])
            following.label[m, j], following.bonus[m, j] = new[pair], new_bonus[pair]
            above, symbol = beam.node[m, entry[m, j]], classes[m, rank[m, j]]
            following.last[m, j], following.parent[m, j] = symbol, above
            following.node[m, j] = list(map(self._child, above.tolist(), symbol.tolist()))
            if self._guide.phrases is not None:
                before = beam.phrase[m, entry[m, j]]
                following.phrase[m, j] = self._guide.phrases.after(before, symbol)
            if self._said is not None:
                self._give_cells(self._said, rows, following, m, j)
        for mine, part in zip(self._beam, following, strict=True):
            mine[rows] = part

    def _largest_part(self, rows: NDArray[np.intp], beam: _Places) -> NDArray[np.float64]:
        """Say how large the numbers about are that are added up to scores, (M,)."""
        part: NDArray[np.float64] = np.abs(beam.bonus).max(axis=1) + abs(self._guide.per_label)
        if self._said is not None:
            part += np.maximum(self._most_said[rows], 0.0).max(axis=1)
        if self._guide.phrases is not None:
            part += self._guide.phrases.most_at_once
        return part

    def _classes_to_try(
        self,
        rows: NDArray[np.intp],
        log_probs: NDArray[np.float64],
        beam: _Places,
        total: NDArray[np.float64],
        least: NDArray[np.float64],
    ) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Return classes that can make new entries (M, K), the most probable first, and how much.

        Classes of other sequences may be among them.
        """
        p = log_probs.copy()
        p[:, self._blank_class] = -_INFINITY
        if self._max_classes is not None:
            order = np.argsort(-p, axis=1, kind="stable")[:, : self._max_classes]
            return order, np.take_along_axis(p, order, axis=1)
        most = total + beam.bonus + self._guide.per_label
        if self._said is not None:
            most = most + self._most_said[rows[:, None], beam.cell]
        if self._guide.phrases is not None:
            most = most + self._guide.phrases.most[beam.phrase]
        reach = p + most.max(axis=1)[:, None]
        may_enter = (reach >= least[:, None]) & (p > -_INFINITY)
        (some,) = np.nonzero(may_enter.any(axis=0))
        if self._guide.model is None:
            some = self._without_outnumbered(some, p[:, some], beam.phrase)
        p = p[:, some]
        order = np.argsort(-p, axis=1, kind="stable")
        return some[order], np.take_along_axis(p, order, axis=1)

    def _without_outnumbered(
        self, some: NDArray[np.intp], p: NDArray[np.float64], states: NDArray[np.int64]
    ) -> NDArray[np.intp]:
        """Leave out labels if so many others are better that none of their prefixes can be kept.

        What a label adds to an entry is a sum, of a number of its own and one of the entry, but for
        the labels that go on with the entry's phrases. So if W others are better with one entry,
        they are with all; and one of them may repeat the last label.
        """
        phrases, gains, most = self._guide.phrases, np.zeros(len(some)), self._width + 1
        if len(some) <= 4 * most:  # it doesn't pay
            return some
        goes_on = np.zeros(self._classes, dtype=bool)
        if phrases is not None:
            if phrases.most_at_once * _ROUNDING_OF_PARTS > _ROUNDING:  # sums can't tell them apart
                return some
            gains = phrases.gains[phrases.start, phrases.column[some]]
            following = [phrases.following(state) for state in set(states.ravel().tolist())]
            goes_on[np.concatenate(following)] = True
            most += max(map(len, following))
        if len(some) <= most:
            return some
        value = p + gains
        last = np.partition(value, -most, axis=1)[:, -most, None]
        is_above, is_equal = value > last, value == last
        # Of equal ones, the more probable classes come first, then the lower ones.
        is_first = is_equal & (p == np.where(is_equal, p, -_INFINITY).max(axis=1, keepdims=True))
        place = is_above.sum(axis=1, keepdims=True) + np.cumsum(is_first, axis=1)
        is_next = is_equal & ~is_first & (place[:, -1:] < most)
        kept = is_above | (is_first & (place <= most)) | is_next
        found: NDArray[np.intp] = some[kept.any(axis=0) | goes_on[some]]
        return found

    def _leave_out_children(
        self,
        new: NDArray[np.float64],
        classes: NDArray[np.intp],
        beam: _Places,
        has_parent: NDArray[np.bool_],
        place: NDArray[np.intp],
    ) -> None:
        """Leave out the prefixes that are in the beam: all comes in where they stay."""
        rank = np.full((len(new), self._classes), -1)
        np.put_along_axis(rank, classes, np.arange(classes.shape[1])[None, :], axis=1)
        m, j = np.nonzero(has_parent)
        k = rank[m, beam.last[m, j]]
        m, j, k = m[k >= 0], j[k >= 0], k[k >= 0]
        new[m, k, place[m, j]] = -_INFINITY

    def _bonuses(
        self,
        rows: NDArray[np.intp],
        beam: _Places,
        classes: NDArray[np.intp],
        new: NDArray[np.float64],
        least: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Return the bonus of new prefixes (M, K, W); of those that can't be it may be -inf."""
        bonus = beam.bonus[:, None, :] + self._guide.per_label
        if (phrases := self._guide.phrases) is not None:
            row, column = phrases.gains.shape[1] * beam.phrase, phrases.column[classes]
            bonus = bonus + phrases.gains.take(row[:, None, :] + column[:, :, None])
        if self._said is not None:
            where = (rows[:, None, None], beam.cell[:, None, :], classes[:, :, None])
            gains, wanted = self._said[where], new > -_INFINITY
            if self._guide.every_label is None:
                wanted &= new + bonus + TOLERATED * self._guide.weight >= least[:, None, None]
            for m, k, i in zip(*np.nonzero(wanted & np.isnan(gains)), strict=True):
                label = int(classes[m, k])
                gain = self._guide.model_gain(self._words[int(beam.node[m, i])], label)
                gains[m, k, i] = self._said[rows[m], beam.cell[m, i], label] = gain
            bonus = bonus + np.where(wanted, gains, -_INFINITY)
        return np.broadcast_to(bonus, new.shape)

    def _give_cells(
        self,
        said: NDArray[np.float64],
        rows: NDArray[np.intp],
        beam: _Places,
        m: NDArray[np.intp],
        j: NDArray[np.intp],
    ) -> None:
        """Give new prefixes, at (m, j), the cells of those that have left, and their state."""
        for row in sorted(set(m.tolist())):
            free = sorted(set(range(self._width)) - set(beam.cell[row].tolist()))
            for place in j[m == row].tolist():
                beam.cell[row, place] = free.pop()
                node = int(beam.node[row, place])
                if node not in self._words and self._guide.model is not None:
                    words = self._words[self._above[node]]
                    self._words[node] = self._guide.model.score(words, self._symbol[node])[1]
                self._open_cell(said, rows[row], beam.cell[row, place], node)

    def _open_cell(self, said: NDArray[np.float64], n: Any, cell: Any, node: int) -> None:
        """Put into a cell what the model says of each class, if it can say it of all at once."""
        if self._guide.every_label is None:
            said[n, cell] = np.nan
            return
        found = self._guide.weight * self._guide.every_label(self._words[node])
        said[n, cell], self._most_said[n, cell] = found, found.max()

    def entries(self) -> Entries:
        """Return what the next frames need."""
        labels: list[list[list[int]]] = []
        guides: list[list[Any]] = []
        phrases = self._guide.phrases
        for n, (row, states) in enumerate(
            zip(self._beam.node.tolist(), self._beam.phrase.tolist(), strict=True)
        ):
            places = [(node, state) for node, state in zip(row, states, strict=True) if node >= 0]
            labels.append([self._labels(n, node) for node, _ in places])
            guides.append(
                [
                    (phrases and phrases.state_of(state), self._words.get(node))
                    for node, state in places
                ]
            )
        return Entries(
            labels,
            self._beam.blank.copy(),
            self._beam.label.copy(),
            self._beam.bonus.copy(),
            guides,
        )

    def final_bonus(self) -> NDArray[np.float64]:
        """Return what entries have if no frame follows, (N, W): phrases and model have ended."""
        found = self._beam.bonus.copy()
        for n, j in zip(*np.nonzero(self._beam.node != _NOBODY), strict=True):
            words = self._words.get(int(self._beam.node[n, j]))
            whole = float(found[n, j]) + self._guide.model_end(words)
            if self._guide.phrases is not None:
                whole += self._guide.phrases.refund(int(self._beam.phrase[n, j]))
            found[n, j] = whole
        return found

    def _labels(self, n: int, node: int) -> list[int]:
        found = []
        while node != n:
            found.append(self._symbol[node])
            node = self._above[node]
        return self._bases[n] + found[::-1]


def _common(prefixes: Sequence[list[int]]) -> list[int]:
    """Return what all of them begin with."""
    if not prefixes:
        return []
    low, high = min(prefixes), max(prefixes)
    size = next(
        (i for i, (one, other) in enumerate(zip(low, high, strict=False)) if one != other),
        min(len(low), len(high)),
    )
    return low[:size]


def _largest(scores: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Places (M, count) of the largest, the first of equal ones first."""
    size = scores.shape[1]
    if size > 4 * count:
        some = np.argpartition(-scores, count - 1, axis=1)[:, :count]
        least = np.take_along_axis(scores, some, axis=1).min(axis=1, keepdims=True)
        if (((scores >= least).sum(axis=1) <= count) | (least[:, 0] == -_INFINITY)).all():
            # No tie is cut.
            some = np.sort(some, axis=1)
            order = np.argsort(-np.take_along_axis(scores, some, axis=1), axis=1, kind="stable")
            return np.take_along_axis(some, order, axis=1)
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]
