"""Inputs that come with the package: a notebook's printed numbers and real text-line emissions.

Every function builds fresh arrays on each call, so what a caller does to one result never reaches
the next.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from ctcx.data.batch import Batch

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "TextLines",
    "greedy_readings",
    "notebook_fixture",
    "notebook_random_example",
    "ocr_lines",
]


@dataclass(frozen=True, eq=False, kw_only=True)
class TextLines(Batch):
    """A batch whose classes are characters."""

    texts: tuple[str, ...] = ()
    """The text that each label sequence spells."""
    alphabet: tuple[str, ...] = ()
    """The character of each class, the empty string for the blank."""
    conditions: tuple[str, ...] = ()
    """How each line was made, such as ``"clean"``."""


def notebook_fixture() -> Batch:
    """Return the notebook's worked example, with its printed loss and gradient.

    One sequence of five frames and four classes; the blank is the last class.
    """
    numbers = _notebook()
    example = numbers["fixture"]
    return Batch(
        name="notebook",
        logits=np.array(example["logits"], dtype=np.float32),
        labels=np.array(example["labels"], dtype=np.int64),
        logit_lengths=np.array(example["logit_lengths"], dtype=np.int64),
        label_lengths=np.array(example["label_lengths"], dtype=np.int64),
        blank=int(example["blank"]),
        expected_loss=np.array(example["loss"], dtype=np.float32),
        expected_grad=np.array(example["gradient"], dtype=np.float32),
        provenance=str(numbers["provenance"]),
    )


def notebook_random_example() -> Batch:
    """Return the notebook's random example, whose labels are invalid.

    One sequence of four frames and four classes, with the label 4, which is out of range. It serves
    to test that a loss refuses the label, so it has no expected loss.
    """
    numbers = _notebook()
    example = numbers["random_example"]
    # The notebook puts the frames first; every fixture here puts the sequences first.
    logits = np.ascontiguousarray(np.array(example["logits"], dtype=np.float32).transpose(1, 0, 2))
    labels = np.array(example["labels"], dtype=np.int64)
    return Batch(
        name="notebook-random",
        logits=logits,
        labels=labels,
        logit_lengths=np.full(logits.shape[0], logits.shape[1], dtype=np.int64),
        label_lengths=np.full(labels.shape[0], labels.shape[1], dtype=np.int64),
        blank=-1,
        provenance=str(numbers["provenance"]),
    )


def ocr_lines() -> TextLines:
    """Return what a text recogniser emitted for a few drawn lines of text.

    A padded batch: frames past a sequence's length hold 0.0, and labels past it 0. The labels are
    the text that was drawn, not the text that was read, so a misread line has a high loss.
    """
    raw = (files("ctcx.data") / "ocr_lines.npz").read_bytes()
    with np.load(io.BytesIO(raw), allow_pickle=False) as stored:
        quantised = stored["quantised_logits"]
        step = np.float32(stored["step"])
        logit_lengths = stored["logit_lengths"].astype(np.int64)
        labels = stored["labels"].astype(np.int64)
        label_lengths = stored["label_lengths"].astype(np.int64)
        blank = int(stored["blank"])
        texts = _strings(stored["texts"])
        alphabet = _strings(stored["alphabet"])
        conditions = _strings(stored["conditions"])
        provenance = f"{stored['provenance'].item()} {stored['licence'].item()}"
    logits = np.zeros((len(texts), int(logit_lengths.max()), len(alphabet)), dtype=np.float32)
    # The file holds the lines' frames one after another, without padding.
    starts = np.cumsum(logit_lengths) - logit_lengths
    for row, start, length in zip(logits, starts, logit_lengths, strict=True):
        np.multiply(quantised[start : start + length], step, out=row[:length])
    return TextLines(
        name="ocr-lines",
        logits=logits,
        labels=labels,
        logit_lengths=logit_lengths,
        label_lengths=label_lengths,
        blank=blank,
        provenance=provenance,
        texts=texts,
        alphabet=alphabet,
        conditions=conditions,
    )


def greedy_readings(lines: TextLines) -> list[str]:
    """Read each sequence by its best path: the best classes, less repeats and blanks."""
    readings = []
    for logits, length in zip(lines.logits, lines.logit_lengths, strict=True):
        path = logits[:length].argmax(axis=-1)
        starts_run = np.ones(len(path), dtype=np.bool_)
        starts_run[1:] = path[1:] != path[:-1]
        readings.append(
            "".join(lines.alphabet[k] for k in path[starts_run & (path != lines.blank)])
        )
    return readings


def _notebook() -> dict[str, Any]:
    """Return the notebook's numbers as they are stored."""
    text = (files("ctcx.data") / "notebook.json").read_text(encoding="utf-8")
    numbers: dict[str, Any] = json.loads(text)
    return numbers


def _strings(array: NDArray[np.str_]) -> tuple[str, ...]:
    """Return a vector of strings as a tuple of plain ones."""
    return tuple(str(item) for item in array)
