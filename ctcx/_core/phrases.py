"""Phrases that a beam search prefers: what they add to a prefix, label by label.

Each label that stands in a phrase gets the phrase's weight, the largest where phrases overlap. The
last labels may begin a phrase: while the search runs, they get its weight as if it were finished.
When a label breaks the phrase off, that is taken back.

The phrases are an automaton of Aho and Corasick (Efficient string matching, 1975), whose node is
the longest end of the prefix that begins a phrase. What a prefix gets in whole phrases depends on
more labels than the node tells; so a state is a node, and the weights that its labels have so far.
"""

from __future__ import annotations

from collections import deque
from threading import Lock
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["PhraseState", "Phrases"]

PhraseState: TypeAlias = "tuple[int, tuple[float, ...]]"
"""A node, and the weight of each of its labels in whole phrases; ``NONE`` where it is in none."""

NONE = -float("inf")


class Phrases:
    """What phrases add to prefixes.

    States get numbers when they are first seen. ``gains`` (states, columns) says how much more a
    prefix has with a label, of ``column[label]``; ``most`` (states,) is the largest of each row.

    The weight of a phrase, which isn't empty, is that of each of its labels, in ``range(classes)``.
    """

    def __init__(self, weights: Mapping[tuple[int, ...], float], classes: int) -> None:
        labels = sorted({label for phrase in weights for label in phrase})
        # Labels that are in no phrase are all the same: column 0.
        self._labels = [-1, *labels]
        self.column = np.zeros(classes, dtype=np.int64)
        self.column[labels] = np.arange(1, len(labels) + 1)
        self._longest = max(map(len, weights), default=0)
        # A label adds about so much at most, and takes no more away.
        self.most_at_once = 2.0 * self._longest * max(map(abs, weights.values()), default=0.0)
        self._children: list[dict[int, int]] = [{}]
        self._fail = [0]
        # Weights for the last labels of each node's, as in a phrase that isn't finished.
        self._unfinished: list[tuple[float, ...]] = [()]
        # Lengths and weights of the phrases that end in each node.
        self._ends: list[list[tuple[int, float]]] = [[]]
        self._build(weights)
        self._lock = Lock()
        self._states: list[PhraseState] = []
        self._numbers: dict[PhraseState, int] = {}
        self._go_on: list[NDArray[np.int64]] = []
        self.gains = np.zeros((0, len(labels) + 1))
        self._following = np.zeros((0, len(labels) + 1), dtype=np.int64)
        self.most = np.zeros(0)
        self._from_root = np.zeros(len(labels) + 1)
        start: PhraseState = (0, ())
        for column, label in enumerate(labels, start=1):
            if label in self._children[0]:
                self._from_root[column] = self._step(start, label)[1]
        self.start = self.number_of(start)

    def _build(self, weights: Mapping[tuple[int, ...], float]) -> None:
        largest = [NONE]  # of the phrases that go on after a node
        for phrase, weight in weights.items():
            node = 0
            for label in phrase:
                largest[node] = max(largest[node], weight)
                following = self._children[node].setdefault(label, len(self._children))
                if following == len(self._children):
                    self._children.append({})
                    self._fail.append(0)
                    self._ends.append([])
                    self._unfinished.append(())
                    largest.append(NONE)
                node = following
            self._ends[node].append((len(phrase), weight))
        waiting = deque((child, 0, label, 1) for label, child in self._children[0].items())
        while waiting:  # nodes nearer to the root come first
            node, parent, label, depth = waiting.popleft()
            if parent:
                self._fail[node] = self._next_node(self._fail[parent], label)
            fail = self._fail[node]
            self._ends[node] += self._ends[fail]
            shorter = self._unfinished[fail]
            longer = (NONE,) * (depth - len(shorter)) + shorter
            self._unfinished[node] = tuple(max(largest[node], one) for one in longer)
            waiting.extend((to, node, of, depth + 1) for of, to in self._children[node].items())

    def _next_node(self, node: int, label: int) -> int:
        while node and label not in self._children[node]:
            node = self._fail[node]
        return self._children[node].get(label, 0)

    def _step(self, state: PhraseState, label: int) -> tuple[PhraseState, float]:
        """Add a label: the next state, and how much more the prefix has than before."""
        node = self._next_node(state[0], label)
        depth = len(self._unfinished[node])
        all_of_it = [*state[1], NONE]
        settled = all_of_it[: len(all_of_it) - depth]
        window = all_of_it[len(all_of_it) - depth :]
        for length, weight in self._ends[node]:
            for place in range(depth - length, depth):
                window[place] = max(window[place], weight)
        following = (node, tuple(window))
        return following, _sum(settled) + self._value(following) - self._value(state)

    def _value(self, state: PhraseState) -> float:
        """Add up what the labels of the node have, in unfinished phrases too."""
        return _sum(map(max, state[1], self._unfinished[state[0]]))

    def _refund(self, state: PhraseState) -> float:
        return _sum(state[1]) - self._value(state)

    def number_of(self, state: PhraseState) -> int:
        """Return the row of a state in ``gains`` and ``most``."""
        with self._lock:
            found = self._numbers.get(state)
            if found is None:
                found = len(self._states)
                if found == len(self.most):
                    self._grow(max(64, 2 * found))
                # A label that goes on with nothing may begin a phrase, as after no label at all.
                gains = self._from_root + self._refund(state)
                node, labels = state[0], set[int]()
                while node:
                    labels.update(self._children[node])
                    node = self._fail[node]
                for label in labels:
                    gains[self.column[label]] = self._step(state, label)[1]
                self._go_on.append(np.array(sorted(labels), dtype=np.int64))
                self.gains[found] = gains
                self.most[found] = gains.max()
                self._states.append(state)
                self._numbers[state] = found
        return found

    def _grow(self, count: int) -> None:
        columns = len(self._labels)
        for name, value in (("gains", 0.0), ("_following", -1), ("most", 0.0)):
            old = getattr(self, name)
            shape = (count, columns) if old.ndim == 2 else (count,)
            new = np.full(shape, value, dtype=old.dtype)
            new[: len(old)] = old
            setattr(self, name, new)

    def state_of(self, number: int) -> PhraseState:
        """Return the state of a row."""
        return self._states[number]

    def following(self, number: int) -> NDArray[np.int64]:
        """Return the labels that go on with a phrase that the state has begun."""
        return self._go_on[number]

    def after(self, numbers: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the states (K,) that labels (K,) make of states (K,)."""
        columns = self.column[labels]
        found = self._following[numbers, columns]
        for k in np.flatnonzero(found < 0).tolist():
            number, column = int(numbers[k]), int(columns[k])
            state, _ = self._step(self._states[number], self._labels[column])
            found[k] = self.number_of(state)
            self._following[number, column] = found[k]
        return found

    def refund(self, number: int) -> float:
        """Say what is to be added, at most 0 for weights above 0, if no label follows."""
        return self._refund(self._states[number])

    def after_labels(self, labels: Sequence[int]) -> PhraseState:
        """Return the state of a prefix.

        A state is about as many labels as the longest phrase has, and these about as many more.
        """
        state = self._states[self.start]
        for label in labels[max(0, len(labels) - 2 * self._longest) :]:
            state, _ = self._step(state, label)
        return state


def _sum(weights: Iterable[float]) -> float:
    return sum(weight for weight in weights if weight != NONE)
