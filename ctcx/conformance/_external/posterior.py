"""Occupancies and entropies of a program: whether they are right, and how they go wrong."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ctcx._errors import CTCInputError
from ctcx._reference.tolerances import TOLERANCES
from ctcx.conformance._external.asked import number_rows
from ctcx.conformance._external.likely import known, new

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from ctcx.conformance._external.asked import Asked
    from ctcx.conformance._external.likely import Ways
    from ctcx.fixtures import Fixture

__all__ = [
    "MISTAKEN_ENTROPIES",
    "MISTAKEN_OCCUPANCIES",
    "SaidNumbers",
    "entropy_fault",
    "occupancies_fault",
    "read_entropies",
    "read_occupancies",
    "same_entropy",
    "same_occupancies",
]


class SaidNumbers(NamedTuple):
    """Numbers of one sequence."""

    values: NDArray[np.float64]

    def trimmed(self, said: SaidNumbers) -> SaidNumbers:
        """Return them; nothing can be left out."""
        del said
        return self


def read_occupancies(document: dict[str, Any], fixture: Fixture) -> list[SaidNumbers]:
    """Return the occupancies of each sequence, (T, C); see :func:`number_rows` for the errors."""
    return _read(document, "classes", fixture.arrays["class_occupancy"].shape)


def read_entropies(document: dict[str, Any], fixture: Fixture) -> list[SaidNumbers]:
    """Return the entropy of each sequence; see :func:`number_rows` for the errors."""
    return _read(document, "entropy", fixture.arrays["entropy"].shape)


def _read(document: dict[str, Any], name: str, shape: tuple[int, ...]) -> list[SaidNumbers]:
    values = number_rows(document, name, shape[0])
    if values is None:
        msg = f"the answer has no {name!r}"
        raise CTCInputError(msg, argument="answer")
    if values.shape != shape and values.size + math.prod(shape):
        msg = f"answer.{name} has the shape {values.shape}: expected {shape}"
        raise CTCInputError(msg, argument=f"answer.{name}")
    return [SaidNumbers(row) for row in values.reshape(shape)]


def occupancies_fault(asked: Asked, said: SaidNumbers, dtype: str) -> str | None:
    """Return what is wrong with occupancies."""
    expected = asked.truth("class_occupancy")
    wrong = np.argwhere(~(np.abs(said.values - expected) <= TOLERANCES[dtype].grad))
    if not len(wrong):
        return None
    t, k = wrong[0].tolist()
    past = f", past the length {asked.frames}" if t >= asked.frames else ""
    return (
        f"classes at frame {t}, class {k}: got {float(said.values[t, k])!r}, expected "
        f"{float(expected[t, k])!r}{past} ({len(wrong)} such entries)"
    )


def entropy_fault(asked: Asked, said: SaidNumbers, dtype: str) -> str | None:
    """Return what is wrong with an entropy."""
    expected = float(asked.truth("entropy"))
    if abs(float(said.values) - expected) <= _entropy_tolerance(asked, dtype):
        return None
    return f"entropy: got {float(said.values)!r}, expected {expected!r}"


def _entropy_tolerance(asked: Asked, dtype: str) -> float:
    # It is a difference of numbers of the size of the loss.
    loss = np.array([asked.truth("loss")], dtype=np.float64)
    return 10 * float(TOLERANCES[dtype].loss(loss, np.array([asked.frames]))[0])


def same_occupancies(asked: Asked, mistaken: SaidNumbers, said: SaidNumbers, dtype: str) -> bool:
    """Return whether what is said is what a mistake gives, in the frames that count."""
    off = np.abs(said.values - mistaken.values)[: asked.frames]
    return bool((off <= TOLERANCES[dtype].grad).all())


def same_entropy(asked: Asked, mistaken: SaidNumbers, said: SaidNumbers, dtype: str) -> bool:
    """Return whether what is said is what a mistake gives."""
    return abs(float(said.values - mistaken.values)) <= _entropy_tolerance(asked, dtype)


def _array(asked: Asked, make: Callable[[Asked], Any]) -> SaidNumbers | None:
    if not asked.truth("feasible"):
        return None
    return SaidNumbers(np.asarray(make(asked), dtype=np.float64))


def _best_path(asked: Asked) -> Any:
    symbols = asked.truth("extended")
    occupancy = np.zeros(asked.padded.shape)
    frames = np.arange(asked.frames)
    occupancy[frames, symbols[asked.truth("alignment")[: asked.frames]]] = 1.0
    return occupancy


def _overwritten(asked: Asked) -> Any:
    occupancy = np.zeros(asked.padded.shape)
    for state, symbol in enumerate(asked.truth("extended")[: 2 * len(asked.labels) + 1]):
        occupancy[:, symbol] = asked.truth("occupancy")[:, state]
    return occupancy


def _frames_alone(asked: Asked) -> float:
    """Return the entropy of the classes of all frames, whatever the labels."""
    possible = asked.log_probs[asked.log_probs > -np.inf]
    return -math.fsum(np.exp(possible) * possible)


def _entropy(asked: Asked, *, factor: Callable[[Asked], float]) -> float:
    return float(asked.truth("entropy")) * factor(asked)


def _mistaken_occupancies() -> Iterator[Ways[SaidNumbers]]:
    yield (
        new("gradient-for-occupancy", "The gradient is returned: occupancy is softmax minus it."),
        (partial(_array, make=lambda asked: asked.truth("gradient")),),
    )
    yield (
        new("softmax-for-occupancy", "The softmax is returned: the labels are ignored."),
        (partial(_array, make=lambda asked: asked.truth("softmax")),),
    )
    yield known("best-path-only"), (partial(_array, make=_best_path),)
    yield known("occupancy-overwritten"), (partial(_array, make=_overwritten),)


def _mistaken_entropies() -> Iterator[Ways[SaidNumbers]]:
    def scaled(name: str, sentence: str, factor: Callable[[Asked], float]) -> Ways[SaidNumbers]:
        make = partial(_entropy, factor=factor)
        return new(name, sentence), (partial(_array, make=make),)

    yield scaled(
        "entropy-in-bits",
        "The entropy is in bits: nats are asked for, by the natural logarithm.",
        lambda _: 1 / math.log(2),
    )
    yield scaled(
        "entropy-negated",
        "The entropy has the other sign: it is minus the mean of the log-probabilities.",
        lambda _: -1.0,
    )
    yield scaled(
        "entropy-averaged",
        "The entropy is divided by the number of frames: that of whole paths is asked for.",
        lambda asked: 1 / max(1, asked.frames),
    )
    yield (
        new(
            "entropy-of-frames",
            "The entropy is that of the classes of each frame, added up: the labels are ignored.",
        ),
        (partial(_array, make=_frames_alone),),
    )


MISTAKEN_OCCUPANCIES = tuple(_mistaken_occupancies())
"""Mistakes of occupancies, each with the ways to make it."""

MISTAKEN_ENTROPIES = tuple(_mistaken_entropies())
"""Mistakes of entropies, each with the ways to make it."""
