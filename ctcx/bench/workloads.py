"""What is computed: real inputs, named shapes, sweeps over one size, and plugins' cases."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ctcx.data.batch import Batch

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctcx._plugins.case import Case

__all__ = ["SWEEPS", "Sweep", "Workload", "random_inputs", "workloads"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Workload:
    """A named input for the benchmarks."""

    name: str
    """What ``--workload`` takes."""
    origin: str
    """Where it comes from, in a few words."""
    make: Callable[[], Batch]
    """Returns the :class:`~ctcx.data.batch.Batch` in float32, the same on every machine."""
    quick: bool = False
    """Whether ``--quick`` measures it."""
    sweep: str | None = None
    """``"T"``, ``"N"``, ``"C"`` or ``"L"`` for a point of a scaling plot."""
    size: int = 0
    """That dimension's size at this point."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """One size that grows while the others stay."""

    what: str
    """In words."""
    sizes: tuple[int, ...]
    """What the growing one takes."""
    N: int = 8
    T: int = 200
    C: int = 32
    L: int = 20
    """The sizes that stay; the one that grows is not looked at."""

    def shape(self, letter: str, size: int) -> tuple[int, int, int, int]:
        """Return N, T, C, L at one point."""
        return tuple(size if each == letter else getattr(self, each) for each in "NTCL")  # type: ignore[return-value]


SWEEPS = {
    "T": Sweep(what="frames", sizes=(50, 200, 800, 3200)),
    "N": Sweep(what="sequences", sizes=(1, 4, 16, 64)),
    "C": Sweep(what="classes", sizes=(32, 256, 2048, 8192)),
    "L": Sweep(what="labels a sequence", sizes=(5, 20, 80, 320), T=800),
}
"""By the letter of the size that grows."""

# N, T, C, L, where from, and whether a quick run has time for it.
_NAMED = {
    "warpctc-28": (64, 150, 28, 40, "warp-ctc's published benchmark, small alphabet", True),
    "warpctc-5k": (64, 150, 5000, 20, "warp-ctc's published benchmark, large alphabet", False),
    "asr-char": (32, 400, 32, 60, "speech, characters", False),
    "asr-bpe": (16, 500, 1024, 80, "speech, word pieces", False),
    "ocr-zh": (64, 100, 6000, 20, "text lines, Chinese characters", False),
    "long": (1, 20_000, 32, 2_000, "an audio book in one piece", False),
}


def workloads() -> dict[str, Workload]:
    """Return all workloads by name: real inputs, named shapes, plugins' cases, sweeps.

    Plugins add theirs with the hook :func:`ctcx._plugins.hookspecs.ctcx_conformance_cases`.

    Returns
    -------
    dict of str to Workload
        In the order in which they are measured and shown.

    Examples
    --------
    >>> from ctcx.bench.workloads import workloads
    >>> workloads()["warpctc-28"].make().logits.shape
    (64, 150, 28)
    """
    from ctcx._plugins.registry import registry
    from ctcx.data.bundled import notebook_fixture, ocr_lines

    found = [
        Workload(
            name="notebook-fixture",
            origin="the notebook's example, with the loss that it printed",
            quick=True,
            make=notebook_fixture,
        ),
        Workload(
            name="ocr-lines",
            origin="what a text recogniser emitted for eight lines",
            quick=True,
            make=ocr_lines,
        ),
    ]
    found += [
        Workload(
            name=name, origin=origin, quick=quick, make=partial(random_inputs, n, t, c, length)
        )
        for name, (n, t, c, length, origin, quick) in _NAMED.items()
    ]
    found += [_of_case(case) for case in registry().cases]
    found += [
        Workload(
            name=f"scale-{letter}-{size}",
            origin=f"{size} {sweep.what}",
            quick=letter == "T" and size <= 800,
            sweep=letter,
            size=size,
            make=partial(random_inputs, *sweep.shape(letter, size)),
        )
        for letter, sweep in SWEEPS.items()
        for size in sweep.sizes
    ]
    # Two plugins may name their cases alike: the later ones get a number.
    unique: dict[str, Workload] = {}
    for each in found:
        name, number = each.name, 2
        while name in unique:
            name, number = f"{each.name}-{number}", number + 1
        unique[name] = each if name == each.name else _renamed(each, name)
    return unique


def random_inputs(n: int, t: int, c: int, length: int) -> Batch:
    """Return logits of scale 2, blank 0, and labels of which no two neighbours are equal."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((n, t, c), dtype=np.float32) * 2
    labels = rng.integers(1, c, (n, length))
    for i in range(1, length):
        same = labels[:, i] == labels[:, i - 1]
        labels[same, i] = 1 + labels[same, i] % (c - 1)
    return Batch(
        logits=logits,
        labels=labels,
        logit_lengths=np.full(n, t),
        label_lengths=np.full(n, length),
        blank=0,
    )


def _of_case(case: Case) -> Workload:
    make = partial(Batch.of_case, case, np.float32)
    return Workload(name=case.name, origin=case.description, quick=True, make=make)


def _renamed(workload: Workload, name: str) -> Workload:
    return Workload(name=name, origin=workload.origin, quick=workload.quick, make=workload.make)
