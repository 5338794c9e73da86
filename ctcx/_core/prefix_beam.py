r"""Prefix beam search in whole-array calls of fixed width.

A prefix is one entry of the beam. It carries the logarithms of two probabilities, of its paths that
end in the blank (b) and in its last label (l), and of their sum. In a frame an entry stays, or a
label c makes a new one of it:

.. math::
    b' &= (b + l)\, p_{blank} \\
    l' &= l\, p_{last} + (\text{what its parent, if in the beam, makes it}) \\
    \text{new}_c &= (b \text{ if } c \text{ is the last label, else } b + l)\, p_c

(Graves, Supervised sequence labelling, 2012, section 7.5; Hannun et al. 2014). The W best of all
are the next beam.

**Which can be among them.** Rank entries, and the labels of a frame, by probability. The k-th label
(from 0) on the i-th entry (from 0) is preceded by every (i', k') with i' <= i and k' <= k, except
where k' repeats the last label of i', at most once an entry; and where the child is in the beam
already, by the child that stays. So it can be kept only if (i + 1) k <= W: some W log W pairs, the
same in each frame, and W + 1 labels a frame, however many classes there are. Sums are rounded
monotonically, so this holds for computed numbers too, as long as totals are carried, not computed
again.

**Whether a child is in the beam already, and whose parent an entry is,** is found by comparing all
with all where the beam is narrow; a wide one is sorted, so that memory is that of the pairs.
Prefixes are told apart by hashes of about 62 bits: in a beam of 100 over 20,000 frames two
prefixes are taken for one with a probability of 1e-10.

Numbers are relative to the best of each frame. Of what is taken off, the sum is kept apart, in two
parts, so that long sequences lose no digits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from ctcx._core.context import Context
    from ctcx._core.loops.base import Loop
    from ctcx._typing import Array

__all__ = ["Beam", "Frame", "PrefixBeam", "candidate_pairs"]

_LANES_64 = ((1103515245, 2147483647), (1812433253, 2147483629))
_LANES_32 = ((31337, 46337), (27644, 46327), (40503, 46309), (22695, 46307))
"""Multipliers and primes of the hashes; two lanes make a key. No product overflows."""

_INFINITY = float("inf")

_NARROW = 256
"""Width up to which comparing is as fast as sorting."""


class Frame(NamedTuple):
    """What one frame says: logarithms of probabilities.

    ``logits`` (N, C), of which ``peak`` and ``spread`` (N,) are to be taken off; whether the frame
    is of the sequence (N,); the blank's logarithm (N,); those of the best labels, and which they
    are, (N, K).
    """

    logits: Array
    peak: Array
    spread: Array
    inside: Array
    blank: Array
    values: Array
    labels: Array


class Beam(NamedTuple):
    """Entries of all sequences, (N * W,), in order of probability.

    ``blank``, ``label`` and ``total`` are logarithms, relative to the best; -inf where there is no
    entry. ``last`` is the last label, and ``parent`` the place in the beam of the prefix without
    it; -1 for none. ``hashes`` (lanes, N * W), and keys (lanes / 2, N * W) of prefix and parent.
    ``taken`` and ``rest`` (N,) add up to what was taken off.
    """

    blank: Array
    label: Array
    total: Array
    last: Array
    parent: Array
    hashes: Array
    key: Array
    parent_key: Array
    taken: Array
    rest: Array


_LEAST_BYTES_OF_PAIR = 64
"""A tuple of two, and the list's pointer to it; there is a pair for each entry at least."""

Origin: TypeAlias = "tuple[Array, Array]"
"""Of each entry (N, W): its place in the beam before, and the label that was added, or -1."""


def candidate_pairs(width: int, labels: int) -> list[tuple[int, int]]:
    """Pairs (label, entry), by rank from 0, of which a new entry can come; in their order."""
    # All at once, so that what is too much is refused before any of it is used.
    bytearray(_LEAST_BYTES_OF_PAIR * width)
    return sorted((k, i) for i in range(width) for k in range(min(labels, width // (i + 1) + 1)))


class PrefixBeam:
    """The step from one beam to the next.

    Parameters
    ----------
    rows, classes, labels
        N, C and K: how many labels of a frame can make new entries.
    width
        W.
    sorts
        Whether the library's sort is stable, and gives integers that the device has.
    """

    def __init__(
        self,
        rows: int,
        classes: int,
        labels: int,
        width: int,
        loop: Loop,
        context: Context,
        *,
        sorts: bool,
    ) -> None:
        xp = context.xp
        self._rows, self._classes, self._width = rows, classes, width
        self._loop, self._context = loop, context
        pairs = candidate_pairs(width, labels)

        def constant(values: list[int]) -> Array:
            return xp.asarray(values, dtype=context.index_dtype, device=context.device)

        row = context.arange(0, rows)[:, None]
        entry, label = constant([i for _, i in pairs]), constant([k for k, _ in pairs])
        self._pair_entry = self._flat(row * width + entry[None, :])
        self._pair_label = self._flat(row * labels + label[None, :])
        self._pair_code = entry[None, :] * classes
        self._source = constant([*range(width), *(i for _, i in pairs)])
        self._row_entry = self._flat(row * width + constant([0] * width)[None, :])
        self._row_class = self._flat(row * classes + constant([0] * width)[None, :])
        self._row_candidate = row * (width + len(pairs))
        self._by_sorting = sorts and width > _NARROW
        self._place = context.arange(0, width)[None, :, None]
        lanes = _LANES_64 if context.index_dtype == xp.int64 else _LANES_32
        self._lanes = len(lanes)
        self._multiplier = constant([one for one, _ in lanes])[:, None]
        self._prime = constant([prime for _, prime in lanes])[:, None]
        self._base = 2**31 if lanes is _LANES_64 else 46340

    def _flat(self, array: Array) -> Array:
        return self._context.xp.reshape(array, (-1,))

    def first(self) -> Beam:
        """Give the beam before the first frame: the empty prefix, with probability 1."""
        context, xp = self._context, self._context.xp
        size = self._rows * self._width
        is_first = context.arange(0, size) % self._width == 0
        none = context.full((size,), -_INFINITY)
        total = xp.where(is_first, 0.0, none)
        nowhere = context.integers((size,), -1)
        half = self._lanes // 2
        hashes = context.integers((self._lanes, size), 7)
        key = xp.where(is_first[None, :], self._keys(hashes), -3)
        zero = context.full((self._rows,), 0.0)
        parent_key = context.integers((half, size), -1)
        return Beam(total, none, total, nowhere, nowhere, hashes, key, parent_key, zero, zero)

    def _keys(self, hashes: Array) -> Array:
        half = self._lanes // 2
        return hashes[:half, :] * self._base + hashes[half:, :]

    def step(self, beam: Beam, frame: Frame) -> tuple[Beam, Origin]:
        """Return the next beam, and where its entries come from."""
        context, xp = self._context, self._context.xp
        rows, width = self._rows, self._width

        def take(array: Array, index: Array) -> Array:
            return xp.take(array, index, axis=0)

        def each_entry(array: Array) -> Array:
            return xp.reshape(xp.broadcast_to(array[:, None], (rows, width)), (-1,))

        # Those that stay.
        has_parent = beam.parent >= 0
        parent = xp.where(has_parent, beam.parent, 0) + self._row_entry
        from_parent = xp.where(
            take(beam.last, parent) == beam.last, take(beam.blank, parent), take(beam.total, parent)
        )
        from_parent = xp.where(has_parent, from_parent, -_INFINITY)
        said = context.cast(
            take(self._flat(frame.logits), xp.maximum(beam.last, 0) + self._row_class)
        )
        said = (said - each_entry(frame.peak)) - each_entry(frame.spread)
        said = xp.where((beam.last >= 0) & each_entry(frame.inside), said, -_INFINITY)
        label = xp.logaddexp(beam.label, from_parent) + said
        blank = beam.total + each_entry(frame.blank)
        stay = xp.logaddexp(blank, label)
        # New ones.
        added = take(self._flat(frame.labels), self._pair_label)
        repeats = added == take(beam.last, self._pair_entry)
        new = xp.where(
            repeats, take(beam.blank, self._pair_entry), take(beam.total, self._pair_entry)
        )
        new = xp.reshape(new + take(self._flat(frame.values), self._pair_label), (rows, -1))
        new = xp.where(self._are_there(added, beam, has_parent), -_INFINITY, new)
        # The best.
        score = xp.concat([xp.reshape(stay, (rows, width)), new], axis=1)
        order = self._loop.largest(score, width, context)
        chosen = self._flat(order + self._row_candidate)
        order = self._flat(order)
        total = take(xp.reshape(score, (-1,)), chosen)
        is_new = order >= width
        source = take(self._source, order)
        before = source + self._row_entry
        every_last = xp.concat(
            [xp.reshape(beam.last, (rows, width)), xp.reshape(added, (rows, -1))], axis=1
        )
        last = take(self._flat(every_last), chosen)
        alive = total > -_INFINITY
        best = xp.reshape(total, (rows, width))[:, 0]
        best = xp.where(best > -_INFINITY, best, 0.0)
        off = each_entry(best)
        total = total - off
        taken = beam.taken + best
        # What rounding has lost: Knuth's sum of two numbers, whichever is larger.
        part = taken - beam.taken
        lost = (beam.taken - (taken - part)) + (best - part)
        hashes = xp.take(beam.hashes, before, axis=1)
        key, old_key = xp.take(beam.parent_key, before, axis=1), xp.take(beam.key, before, axis=1)
        hashes = xp.where(
            is_new[None, :], (hashes * self._multiplier + (last + 1)[None, :]) % self._prime, hashes
        )
        parent_key = xp.where(alive[None, :], xp.where(is_new[None, :], old_key, key), -1)
        key = xp.where(alive[None, :], self._keys(hashes), -3)
        following = Beam(
            xp.where(is_new, -_INFINITY, take(blank, before) - off),
            xp.where(is_new, total, take(label, before) - off),
            total,
            last,
            self._parents(key, parent_key),
            hashes,
            key,
            parent_key,
            taken,
            beam.rest + lost,
        )
        origin = (xp.reshape(source, (rows, width)), xp.where(is_new, last, -1))
        return following, (origin[0], xp.reshape(origin[1], (rows, width)))

    def _are_there(self, added: Array, beam: Beam, has_parent: Array) -> Array:
        """Which new ones are in the beam already, (N, pairs): all comes in where they stay."""
        xp, shape = self._context.xp, (self._rows, self._width)
        child = xp.where(has_parent, beam.parent * self._classes + beam.last, -1)
        child = xp.reshape(child, shape)
        code = xp.reshape(added, (self._rows, -1)) + self._pair_code
        if self._by_sorting:
            return places(child[None, ...], code[None, ...], self._context) >= 0
        return xp.any(code[:, None, :] == child[:, :, None], axis=1)

    def _parents(self, key: Array, parent_key: Array) -> Array:
        """Place in the beam of each entry's parent, (N * W,), or -1."""
        xp, shape = self._context.xp, (self._rows, self._width)
        if self._by_sorting:
            mine, wanted = (
                xp.reshape(part, (self._lanes // 2, *shape)) for part in (key, parent_key)
            )
            return self._flat(places(mine, wanted, self._context))
        same = None
        for lane in range(self._lanes // 2):
            mine = xp.reshape(key[lane, :], (*shape, 1))
            wanted = xp.reshape(parent_key[lane, :], (shape[0], 1, shape[1]))
            same = mine == wanted if same is None else same & (mine == wanted)
        return self._flat(xp.max(xp.where(same, self._place, -1), axis=1))


def places(keys: Array, wanted: Array, context: Context) -> Array:
    """Where the wanted ones (lanes, N, B) stand in each row of keys (lanes, N, A), or -1: (N, B).

    A key that is wanted stands in its row once. Both are sorted together, keys before what equals
    them; so the last key up to a wanted one is it, or none is.
    """
    xp, count = context.xp, keys.shape[2]
    both = xp.concat([keys, wanted], axis=2)
    order = None
    for lane in reversed(range(keys.shape[0])):
        values = both[lane, ...]
        if order is None:
            order = _order(values, context)
        else:
            following = _order(xp.take_along_axis(values, order, axis=1), context)
            order = xp.take_along_axis(order, following, axis=1)
    is_key = xp.astype(order < count, context.index_dtype)
    so_far = xp.cumulative_sum(is_key, axis=1, dtype=context.index_dtype)
    sorted_keys = xp.take_along_axis(order, _order(-is_key, context)[:, :count], axis=1)
    of_wanted = _order(order, context)[:, count:]
    before = xp.take_along_axis(so_far, of_wanted, axis=1)
    place = xp.take_along_axis(sorted_keys, xp.maximum(before - 1, 0), axis=1)
    same = before > 0
    for lane in range(keys.shape[0]):
        same = same & (xp.take_along_axis(keys[lane, ...], place, axis=1) == wanted[lane, ...])
    return xp.where(same, place, -1)


def _order(values: Array, context: Context) -> Array:
    return context.as_indices(context.xp.argsort(values, axis=1, stable=True))
