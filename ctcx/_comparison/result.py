"""What a comparison of all backends is made of, and how it reads in a sentence."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ctcx._files import json_safe
from ctcx._reference.tolerances import PRINTED, TOLERANCES

if TYPE_CHECKING:
    from collections.abc import Sequence


__all__ = ["SCHEMA", "TOLERANCE_OF", "BackendResult", "Comparison", "TextLine", "Verdict"]

SCHEMA = "ctcx-compare/1"

Verdict: TypeAlias = Literal["ok", "differs", "failed", "unusable"]
"""ok: right within the tolerance. differs: not. failed: raised an exception. unusable: can't be
used here, which is nobody's fault."""


TOLERANCE_OF = {"notebook": PRINTED, "ocr-lines": TOLERANCES["float32"]}
"""How far from its reference the result of an input may be, by the name of the input."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendResult:
    """One backend on one library and device with one input.

    Attributes
    ----------
    input, backend, library, device : str or None
        None stands for all: the reason for not being usable lies elsewhere.
    verdict : str
        ``ok``, ``differs``, ``failed`` or ``unusable``.
    reason : str
        Why it is not ok, or what it could not be asked for; else empty.
    loss : tuple of float
        Of each sequence, in nats.
    loss_error, grad_error : float or None
        Largest absolute difference from the reference; NaN where the result is.
    seconds : float or None
        Median time of a call with its gradient, until the result was there.
    """

    input: str | None
    backend: str | None
    library: str | None
    device: str | None
    verdict: Verdict
    reason: str = ""
    loss: tuple[float, ...] = ()
    loss_error: float | None = None
    grad_error: float | None = None
    seconds: float | None = None

    @property
    def computed(self) -> bool:
        """Whether there is a result to judge, or an exception instead of one."""
        return self.verdict != "unusable"

    @property
    def bad(self) -> bool:
        """Whether the comparison fails for it."""
        return self.verdict in {"differs", "failed"}


@dataclass(frozen=True, kw_only=True, slots=True)
class TextLine:
    """One real line of text, and what the recogniser that emitted the logits made of it.

    Attributes
    ----------
    text : str
        What was drawn.
    condition : str
        How it was drawn.
    reading : str
        The best path: the best class of each frame, less repeats and blanks.
    frames : int
        Length of the emissions.
    loss : float
        Negative log probability of the text that was drawn, in nats.
    """

    text: str
    condition: str
    reading: str
    frames: int
    loss: float

    @property
    def misread(self) -> bool:
        """Whether the reading is not the text."""
        return self.reading != self.text

    @property
    def probability(self) -> float:
        """Probability that the recogniser gives to the text that was drawn."""
        return math.exp(-self.loss)

    @property
    def loss_per_character(self) -> float:
        """Nats for each character."""
        return self.loss / max(1, len(self.text))


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What :func:`compare` found.

    Attributes
    ----------
    rows : tuple of BackendResult
        By input, then what can't be used.
    lines : tuple of TextLine
        The real lines of text.
    references : dict of str to tuple of float
        By input: the loss of each sequence that is right.
    repeat : int
        How many calls each time is the median of.
    versions : dict of str to str
        What it ran on.
    """

    rows: tuple[BackendResult, ...]
    lines: tuple[TextLine, ...]
    references: dict[str, tuple[float, ...]]
    repeat: int
    versions: dict[str, str]

    @property
    def passed(self) -> bool:
        """Whether nothing differs and nothing failed; what is unusable does not count."""
        return not any(row.bad for row in self.rows)

    def summary(self) -> str:
        """Say in a sentence or two what is seen."""
        return f"{self._agreement()} {_sense(self.lines)}"

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; infinities and NaN are strings, as JSON has none."""
        plain = {
            "schema": SCHEMA,
            "passed": self.passed,
            "summary": self.summary(),
            "versions": self.versions,
            "repeat": self.repeat,
            "tolerances": {name: asdict(tolerance) for name, tolerance in TOLERANCE_OF.items()},
            "references": {name: list(losses) for name, losses in self.references.items()},
            "rows": [asdict(row) for row in self.rows],
            "lines": [
                asdict(line)
                | {
                    "misread": line.misread,
                    "probability": line.probability,
                    "loss_per_character": line.loss_per_character,
                }
                for line in self.lines
            ],
        }
        result: dict[str, Any] = json_safe(plain)
        return result

    def _agreement(self) -> str:
        computed = [row for row in self.rows if row.computed]
        if not computed:
            return "Nothing could be compared: no backend can be used with any array library here."
        if bad := [row for row in computed if row.bad]:
            names = dict.fromkeys(
                " on ".join(part for part in (row.backend, row.library) if part) for row in bad
            )
            return (
                f"{len(bad)} of {len(computed)} results are not as they should be: "
                f"{', '.join(names)}."
            )
        places = {(row.backend, row.library, row.device) for row in computed}
        return (
            f"{_all_of(len(places), 'combination')} of backend, array library and device "
            f"{'gives' if len(places) == 1 else 'give'} the notebook's printed loss and gradient "
            f"(off by {_worst(computed, 'notebook')} at most) and, on {len(self.lines)} real lines "
            f"of text, those of a float64 reference (off by {_worst(computed, 'ocr-lines')} at "
            f"most)."
        )


def _worst(rows: Sequence[BackendResult], name: str) -> str:
    """Return the largest error in an input, of loss or gradient."""
    errors = [
        error
        for row in rows
        if row.input == name
        for error in (row.loss_error, row.grad_error)
        if error is not None
    ]
    return f"{max(errors, default=0.0):.1e}"


def _all_of(count: int, what: str) -> str:
    if count <= 2:
        return f"The one {what}" if count == 1 else f"Both {what}s"
    return f"All {count} {what}s"


def _sense(lines: Sequence[TextLine]) -> str:
    """Say how the losses go with the readings."""
    misread = [line.loss for line in lines if line.misread]
    right = [line.loss for line in lines if not line.misread]
    if not misread:
        return f"The recogniser read all of the {len(lines)} lines as they were drawn."
    if not right:
        return f"The recogniser misread all of the {len(lines)} lines."
    wrong_ones = " and ".join(f"{loss:.2f}" for loss in sorted(misread))
    telling = min(misread) > max(right)
    return (
        f"The recogniser misread {len(misread)} of them; the texts drawn there have "
        f"{'the highest losses of all' if telling else 'losses'}: {wrong_ones} nats, against "
        f"{max(right):.2f} at most where it read right."
    )
