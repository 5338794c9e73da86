"""What a comparison of all implementations is made of, and how it reads in words."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ctcx._files import json_safe
from ctcx._reference.tolerances import PRINTED, TOLERANCES

if TYPE_CHECKING:
    from collections.abc import Sequence


__all__ = [
    "LONG",
    "SCHEMA",
    "TOLERANCE_OF",
    "BackendResult",
    "Comparison",
    "TextLine",
    "Verdict",
    "error_text",
]

SCHEMA = "ctcx-compare/2"

Verdict: TypeAlias = Literal["ok", "differs", "inexact", "failed", "unusable"]
"""ok: right within the tolerance. differs: not. inexact: the same of another library's own CTC,
which fails nothing. failed: raised an exception. unusable: can't be used here."""

LONG = "3200-frames"
"""Name of the input on which others lose digits."""

TOLERANCE_OF = {
    "notebook": PRINTED,
    "ocr-lines": TOLERANCES["float32"],
    LONG: TOLERANCES["float32"],
}
"""How far from its reference the result of an input may be, by the name of the input."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendResult:
    """One backend on one library and device with one input, or another library's own CTC."""

    input: str | None
    backend: str | None
    library: str | None
    device: str | None
    """None stands for all: the reason for not being usable lies elsewhere."""
    verdict: Verdict
    """``ok``, ``differs``, ``inexact``, ``failed`` or ``unusable``."""
    peer: bool = False
    """Whether it is another library's own CTC, by the name in :data:`ctcx._peers.PEERS`, instead of
    a backend."""
    reason: str = ""
    """Why it is not ok, or what it could not be asked for; else empty."""
    loss: tuple[float, ...] = ()
    """Of each sequence, in nats."""
    loss_error: float | None = None
    grad_error: float | None = None
    """Largest absolute difference from the reference; NaN where the result is."""
    seconds: float | None = None
    """Median time of a call with its gradient, until the result was there."""

    @property
    def computed(self) -> bool:
        """Whether there is a result to judge, or an exception instead of one."""
        return self.verdict != "unusable"

    @property
    def bad(self) -> bool:
        """Whether the comparison fails for it; another library's CTC fails nothing."""
        return not self.peer and self.verdict in {"differs", "failed"}

    @property
    def name(self) -> str:
        """What people call it, as far as it is anything in particular."""
        where = self.library or ""
        # Of the names of a device only those that say something.
        if self.device and not self.device.lower().startswith("cpu"):
            where += f" {self.device}"
        return " on ".join(part for part in (self.backend or "", where.strip()) if part)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextLine:
    """One real line of text, and what the recogniser that emitted the logits made of it."""

    text: str
    """What was drawn."""
    condition: str
    """How it was drawn."""
    reading: str
    """The best path: the best class of each frame, less repeats and blanks."""
    frames: int
    """Length of the emissions."""
    loss: float
    """Negative log probability of the text that was drawn, in nats."""

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
    """What :func:`compare` found."""

    rows: tuple[BackendResult, ...]
    """By input, then what can't be used."""
    lines: tuple[TextLine, ...]
    """The real lines of text."""
    references: dict[str, tuple[float, ...]]
    """By input: the loss of each sequence that is right."""
    repeat: int
    """How many calls each time is the median of."""
    versions: dict[str, str]
    """What it ran on."""

    @property
    def passed(self) -> bool:
        """Whether ctcx computed something, and all of it is right."""
        ours = self._ours()
        return bool(ours) and not any(row.bad for row in ours)

    def headline(self) -> str:
        """Say how it went."""
        ours = self._ours()
        if not ours:
            return (
                "FAILED: nothing could be computed: no backend can be used with any of the array "
                "libraries that were asked for."
            )
        if bad := [row for row in ours if row.bad]:
            names = ", ".join(dict.fromkeys(row.name for row in bad))
            return f"FAILED: {len(bad)} of {len(ours)} results are not as they should be: {names}."
        ways = len({(row.backend, row.library, row.device) for row in ours})
        tried = "the one way that was" if ways == 1 else f"all {ways} ways that were"
        return f"PASSED: in {tried} tried, ctcx computes the CTC loss and its gradient right."

    def findings(self) -> tuple[str, ...]:
        """Say what was seen with each input, in a sentence or two each."""
        said = []
        for name, tell in (
            ("notebook", self._notebook),
            ("ocr-lines", self._text_lines),
            (LONG, self._digits),
        ):
            ours = [row for row in self._ours() if row.input == name and row.verdict == "ok"]
            if ours:
                said.append(tell(ours))
        return tuple(said)

    def fastest_peer(self, name: str) -> BackendResult | None:
        """Return the result of the fastest of the other libraries with an input."""
        timed = [row for row in self.rows if row.peer and row.input == name and row.seconds]
        return min(timed, key=lambda row: row.seconds or 0.0, default=None)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; infinities and NaN are strings, as JSON has none."""
        plain = {
            "schema": SCHEMA,
            "passed": self.passed,
            "summary": " ".join((self.headline(), *self.findings())),
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

    def _ours(self) -> list[BackendResult]:
        return [row for row in self.rows if row.computed and not row.peer]

    def _notebook(self, ours: Sequence[BackendResult]) -> str:
        loss = fmean(self.references["notebook"])
        return (
            f"The notebook's printed numbers are reproduced: loss {loss:.6f}, and a gradient that "
            f"is off by {_worst_gradient(ours)} at most."
        )

    def _text_lines(self, ours: Sequence[BackendResult]) -> str:
        return (
            f"{len(self.lines)} real lines of text are scored; the gradient is off by "
            f"{_worst_gradient(ours)} at most. {_sense(self.lines)}"
        )

    def _digits(self, ours: Sequence[BackendResult]) -> str:
        """Say what is left of the gradient, and how long it took."""
        said = f"A line of 3,200 frames: the gradient of ctcx is off by {_worst_gradient(ours)}"
        others = [row for row in self.rows if row.peer and row.input == LONG and row.computed]
        lost = [row for row in others if row.grad_error is not None]
        if lost:
            said += ", that of " + ", ".join(
                f"{row.name} by {error_text(row.grad_error)}" for row in lost
            )
        said += "; no entry is larger than 1."
        timed = [row for row in ours if row.seconds]
        peer = self.fastest_peer(LONG)
        if timed and peer is not None and peer.seconds:
            best = min(timed, key=lambda row: row.seconds or 0.0)
            assert best.seconds  # noqa: S101 - for the type checker
            said += (
                f" {best.name} takes {best.seconds * 1e3:.2f} ms, {peer.name}, the fastest of the "
                f"others, {peer.seconds * 1e3:.2f} ms."
            )
        if not others:
            said += " No other CTC is installed to compare with; torch and optax are two."
        return said


def error_text(error: float | None) -> str:
    """Return an error as people read it."""
    if error is None:
        return "-"
    return "0" if error == 0 else f"{error:.1e}" if math.isfinite(error) else str(error)


def _worst_gradient(rows: Sequence[BackendResult]) -> str:
    errors = [row.grad_error for row in rows if row.grad_error is not None]
    return error_text(max(errors, default=None))


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
        f"The recogniser misread {len(misread)} of the {len(lines)}; the texts drawn there have "
        f"{'the highest losses of all' if telling else 'losses'}: {wrong_ones} nats, against "
        f"{max(right):.2f} at most where it read right."
    )
