"""Drawn problems: what is in a batch of given sizes, and in what form it is handed over."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ctcx._reference.lattice import fewest_frames
from ctcx._reference.oracle import ReferenceAnswer, reference, within_limit
from ctcx.conformance._draws.sizes import Sizes, sizes
from ctcx.data.batch import Batch
from ctcx.fixtures._random_fixtures import PortableRandom, path_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["LAYOUTS", "DrawnProblem", "Form", "draw", "right_answer"]

LAYOUTS = (
    "contiguous",
    "time-major",
    "transposed",
    "every-other-class",
    "inside-of-larger",
    "reversed-frames",
)
"""How logits lie in memory. All but the first need a kernel that takes any strides."""


class Form(NamedTuple):
    """In what form a problem is handed over; the right answer doesn't depend on it."""

    layout: str = "contiguous"
    labels: str = "int64"
    """Dtype of the labels."""
    lengths: str = "int64"
    """Dtype of both lengths."""
    strided: bool = False
    """Whether labels and lengths are views that skip elements."""
    negative_blank: bool = False
    """Whether the blank is counted from the end."""


@dataclass(frozen=True, eq=False, kw_only=True)
class DrawnProblem:
    """A batch and its form."""

    batch: Batch
    form: Form


@lru_cache(maxsize=4)
def draw(
    seed: int, index: int, within: Sizes | None = None, blank: int | None = None
) -> DrawnProblem:
    """Return the drawn problem ``index`` of a seed; it depends on nothing else.

    For libraries that compile for each shape, the problem can be one that fits ``within`` arrays of
    some sizes, in one form. The blank class is drawn too, unless it is given.
    """
    bits = PortableRandom(seed, index, 2)
    size = sizes(seed, index) if within is None else _inside(within, bits)
    if blank is None:
        blank = (0, size.C - 1, size.C // 2, bits.integer(0, size.C - 1))[bits.integer(0, 3)]
    labels = _labels(bits, size, blank)
    frames, counts = _lengths(bits, size, labels)
    logits = _logits(bits, size, labels, frames, counts, blank)
    labels, logits = _padding(bits, labels, logits, frames, counts)
    about = f"Drawn: seed {seed}, problem {index}"
    shape = "x".join(map(str, within[:4])) if within else ""
    batch = Batch(
        name=f"drawn-{seed}-{index}" + (f"-in-{shape}-blank-{blank}" if within else ""),
        why=f"{about}{f', {size.aim}' if size.aim else ''}.",
        logits=logits,
        labels=labels,
        logit_lengths=frames,
        label_lengths=counts,
        blank=blank,
    )
    if within is not None:
        return DrawnProblem(batch=_fitted(batch, within), form=Form())
    pick = bits.uniform(5)
    return DrawnProblem(
        batch=batch,
        form=Form(
            layout=LAYOUTS[int(pick[0] * len(LAYOUTS))] if pick[4] < 0.6 else LAYOUTS[0],
            labels="int32" if pick[1] < 0.5 else "int64",
            lengths="int32" if pick[2] < 0.5 else "int64",
            strided=bool(pick[3] < 0.3),
            negative_blank=bool(pick[3] > 0.7),
        ),
    )


_KEPT = 256 << 20
_answers: OrderedDict[tuple[str, str], ReferenceAnswer] = OrderedDict()


def right_answer(batch: Batch, dtype: str) -> ReferenceAnswer:
    """Return the right answer to a drawn batch with its logits rounded to ``dtype``.

    It is kept, for the other libraries, and for other dtypes that hold the same logits.
    """
    arrays = batch.rounded(dtype)
    same = np.array_equal(arrays[0], batch.logits, equal_nan=True)
    key = (batch.name, "" if same else dtype)
    if key in _answers:
        return _answers[key]
    answer = within_limit(reference(*arrays))
    if batch.name.startswith("drawn-"):
        _answers[key] = answer
        while sum(kept.grad.nbytes for kept in _answers.values()) > _KEPT:
            _answers.popitem(last=False)
    return answer


def _inside(within: Sizes, bits: PortableRandom) -> Sizes:
    """Return sizes that fit into an array, one of them as large as it."""
    part = bits.uniform(2)
    frames = within.T if part[0] < 0.5 else max(1, int(within.T * part[0]))
    labels = min(int(within.L * min(1.0, 1.5 * part[1])), frames)
    aim = ("", "ragged", "wrong", "tight", "steady")[bits.integer(0, 4)]
    return within._replace(T=frames, L=labels, aim=aim)


def _fitted(batch: Batch, within: Sizes) -> Batch:
    """Return the batch in larger arrays."""
    num_sequences, num_frames, num_classes, width = batch.shape
    logits = np.zeros((num_sequences, within.T, num_classes))
    logits[:, :num_frames] = batch.logits
    labels = np.zeros((num_sequences, within.L), np.int64)
    labels[:, :width] = batch.labels
    return replace(batch, logits=logits, labels=labels)


def _labels(bits: PortableRandom, size: Sizes, blank: int) -> NDArray[np.int64]:
    """Return labels (N, L) of one of several styles."""
    others = size.C - 1
    shape = (size.N, size.L)
    if not others or not size.L:
        return np.full(shape, blank)
    place = (bits.uniform(*shape) * others).astype(np.int64)
    style = bits.integer(0, 6)
    if size.aim == "steady":  # all different, as far as they go
        place[:] = np.arange(size.L) % others
    elif style == 0:  # all the same
        place[:] = place[:, :1]
    elif style == 1:  # two that take turns
        place = np.where(np.arange(size.L) % 2, place[:, :1], place[:, -1:])
    elif style == 2:  # few classes, so that many states share one
        place %= min(3, others)
    elif style == 3:  # next to the blank
        place = (blank + place % 2 - 1) % others
    else:  # now and then the one before again
        again = bits.uniform(*shape) < (0.0, 0.1, 0.5)[bits.integer(0, 2)]
        for i in range(1, size.L):
            place[:, i] = np.where(again[:, i], place[:, i - 1], place[:, i])
    return place + (place >= blank)


def _lengths(
    bits: PortableRandom, size: Sizes, labels: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many frames and labels of each sequence count.

    The first sequence and the last have all frames, and as many labels as these can emit.
    """
    T, L = size.T, size.L
    needs = np.cumsum(
        np.concatenate([np.ones((size.N, 1)), 1.0 + (labels[:, 1:] == labels[:, :-1])], axis=1), 1
    )[:, :L]
    frames, counts = np.zeros(size.N, np.int64), np.zeros(size.N, np.int64)
    ragged = bits.integer(0, 2) or size.aim == "ragged"
    for n, (a, b, way) in enumerate(bits.uniform(size.N, 3).tolist()):
        length, count = T, L
        if n not in {0, size.N - 1} or (size.aim == "ragged" and n):
            if ragged:
                length = int(a * (T + 1)) if way < 0.6 else int((T + 1) ** a)
                count = int(b * (L + 1)) if way < 0.4 or way > 0.8 else int((L + 1) ** b) - 1
            if way < 0.03:
                length = 0
            elif way > 0.97:
                count = 0
        emitted = int((needs[n] <= max(length, 1)).sum())
        main = n in {0, size.N - 1}
        if main or way < 0.85:
            count = min(count, emitted)
        need = int(needs[n, count - 1]) if count else 0
        if size.aim == "tight" or (not main and 0.5 < way < 0.6):
            # Just enough frames; one fewer for a neighbour, which can't be emitted.
            length = min(T, max(0, need - (not main and way < 0.55)))
        frames[n], counts[n] = length, count
    return frames, counts


def _logits(
    bits: PortableRandom,
    size: Sizes,
    labels: NDArray[np.int64],
    frames: NDArray[np.int64],
    counts: NDArray[np.int64],
    blank: int,
) -> NDArray[np.float64]:
    """Return logits (N, T, C): plain ones, and in some sequences what breaks kernels."""
    logits = _noise(bits, size.N, size.T, size.C)
    single = bits.integer(0, 2) > 0
    for n, pick in enumerate(bits.uniform(size.N, 8)):
        rows = logits[n, : frames[n]]
        spelled = labels[n, : counts[n]].tolist()
        # Most are plain, so that a mistake which only size brings out has somewhere to show.
        kind = _kind(size, pick, main=n in {0, size.N - 1})
        rows *= 0.5 * 8.0 ** pick[2] if kind != "wide" else 4.0 * 7.5 ** pick[2]
        boost = 8.0 * 3.75 ** pick[3]
        if kind in {"right", "wrong"} and spelled:
            path = spelled if kind == "right" else _other_order(spelled, pick[4])
            rows[np.arange(len(rows)), _spread(path, len(rows), blank)] += boost
        elif kind == "blank":
            rows[:, blank] += boost
        elif kind == "flat":
            rows[:] = rows[:1, :1]
        elif kind == "steady" and len(rows):
            _repeat(bits, rows, spelled, pick[4])
        elif kind == "masked":
            _mask(bits, rows, labels[n, : counts[n]], blank, pick[4])
        if kind not in {"plain", "steady"} or pick[5] < 0.2:
            _add_offsets(bits, rows, pick[6])
    if size.aim not in {"wrong", "steady"} and bits.integer(0, 4) == 0:
        # The same for all: it changes nothing but what rounding does.
        logits += 10.0 ** (8 * float(bits.uniform(1)[0]))
    return logits.astype(np.float32).astype(np.float64) if single else logits


def _kind(size: Sizes, pick: NDArray[np.float64], *, main: bool) -> str:
    if size.aim in {"wrong", "steady"}:
        return size.aim
    return "plain" if main or pick[1] < 0.5 else _KINDS[int(pick[0] * len(_KINDS))]


_KINDS = ("wide", "right", "wrong", "blank", "flat", "masked", "plain")


def _repeat(
    bits: PortableRandom, rows: NDArray[np.float64], spelled: list[int], pick: float
) -> None:
    """Fill all frames with a few of them, in place: in stretches, or by turns.

    Errors of rounding are the same in equal frames, or nearly equal ones, and add up. They show
    where paths that have little in common are equally probable: with two stretches of the same
    length, the first for the last label, the second for the first one, each with a probability that
    is hardly below 1. float32 has room for that up to 3,000 frames.
    """
    frames, classes = len(rows), rows.shape[1]
    if len(set(spelled)) > 1 and pick < 0.7:
        half = frames // 2
        rows *= (0.0, 0.0, 1e-7, 1e-5)[bits.integer(0, 3)]
        certain = np.log(classes) + 9.0 + 7.0 * float(bits.uniform(1)[0])
        rows[:half, spelled[-1]] = rows[frames - half :, spelled[0]] = certain
        return
    count = min(frames, (1, 2, 3, 8, 40)[bits.integer(0, 4)])
    which = np.arange(frames)
    rows[:] = rows[:count].copy()[which % count if pick < 0.85 else which * count // frames]


def _noise(bits: PortableRandom, *shape: int) -> NDArray[np.float64]:
    """Return nearly normal numbers with 24 bits, from the sum of four uniform ones."""
    raw = bits.raw(int(np.prod(shape))).view(np.uint16).reshape(-1, 4)
    total = raw.sum(axis=1, dtype=np.int64) - 2 * 65535
    result: NDArray[np.float64] = np.float32(np.sqrt(3.0) / 65536) * total.astype(np.float32)
    return result.astype(np.float64).reshape(shape)


def _other_order(spelled: Sequence[int], pick: float) -> list[int]:
    """Return the labels backwards, or their halves exchanged: right somewhere, but not here."""
    half = len(spelled) // 2
    return [*spelled[half:], *spelled[:half]] if pick < 0.3 else list(spelled[::-1])


def _spread(path: list[int], num_frames: int, blank: int) -> NDArray[np.int64]:
    """Return a class for each frame: these labels in this order, as evenly as they go."""
    while fewest_frames(path) > num_frames:
        path = path[:-1]
    if not path:
        return np.full(num_frames, blank)
    return np.array(path_of(path, num_frames, blank), dtype=np.int64)


def _mask(
    bits: PortableRandom,
    rows: NDArray[np.float64],
    labels: NDArray[np.int64],
    blank: int,
    pick: float,
) -> None:
    """Make classes impossible, or nearly so, in place."""
    value = (-np.inf, -np.inf, -1e4, -1e9, -1e30, _LOWEST)[bits.integer(0, 5)]
    unused = np.setdiff1d(np.arange(rows.shape[1]), [*labels, blank])
    if pick < 0.3 and len(unused):
        rows[:, unused] = value
    elif pick < 0.5:
        rows[bits.uniform(*rows.shape) < 0.1] = value
    elif pick < 0.7:
        rows[bits.uniform(len(rows)) < 0.3, blank] = value
    elif len(rows):
        rows[bits.integer(0, len(rows) - 1), unused if len(unused) else blank] = value


_LOWEST = -float(np.finfo(np.float32).max)


def _add_offsets(bits: PortableRandom, rows: NDArray[np.float64], pick: float) -> None:
    """Add a constant to each row, in place: one for all, or another for each."""
    if pick < 0.5 or not len(rows):
        return
    signs = np.sign(bits.uniform(len(rows), 1) - 0.5)
    if pick < 0.7:
        signs[:] = signs[0]
    rows += signs * 10.0 ** (30.0 * float(bits.uniform(1)[0]) ** 2)


def _padding(
    bits: PortableRandom,
    labels: NDArray[np.int64],
    logits: NDArray[np.float64],
    frames: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Write what must not matter past the lengths."""
    logit = (0.0, np.nan, np.inf, -np.inf, 3e38)[bits.integer(0, 4)]
    label = (0, -1, 2**31 - 1, -(2**31))[bits.integer(0, 3)]
    labels = np.where(np.arange(labels.shape[1]) >= counts[:, None], label, labels)
    logits[np.arange(logits.shape[1]) >= frames[:, None]] = logit
    return labels, logits
