"""All fixtures, computed by one implementation: its mistake, and where that shows first."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ctcx import fixtures
from ctcx._diagnosis.divergence import first_divergence
from ctcx._diagnosis.mistakes import LikelyMistakes, diagnose
from ctcx.data.batch import Batch

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctcx._diagnosis.answer import Answer
    from ctcx.fixtures import Fixture

__all__ = ["Examined", "batch_of", "examine"]


class Examined(NamedTuple):
    """What the answers to the fixtures tell."""

    likely: LikelyMistakes
    example: str
    """The first wrong number of the smallest fixture with one, and its name; empty without one."""


def examine(answer_to: Callable[[Fixture], Answer | None], dtype: str) -> Examined:
    """Compute all fixtures, and diagnose; ``answer_to`` gives None where it can't compute.

    ``dtype`` is the one whose tolerances hold.
    """
    pairs = [
        (fixture, answer)
        for fixture in fixtures.named()
        if (answer := answer_to(fixture)) is not None
    ]
    pairs.sort(key=lambda pair: pair[0].arrays["logits"].size)
    examples = (
        f"the fixture {fixture.name!r}: {divergence}"
        for fixture, answer in pairs
        for n in range(fixture.shape[0])
        if (divergence := first_divergence(fixture, answer, n, dtype))
    )
    return Examined(diagnose(pairs, dtype), next(examples, ""))


def batch_of(fixture: Fixture) -> Batch:
    """Return the batch of a fixture."""
    arrays = fixture.arrays
    return Batch(
        name=fixture.name,
        why=fixture.about,
        logits=arrays["logits"].astype(np.float64),
        labels=arrays["labels"].astype(np.int64),
        logit_lengths=arrays["logit_lengths"].astype(np.int64),
        label_lengths=arrays["label_lengths"].astype(np.int64),
        blank=fixture.blank,
        provenance="fixture",
    )
