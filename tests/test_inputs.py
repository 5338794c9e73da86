"""The carried inputs are what they say: shapes, spellings, readings, and independent losses."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from importlib.resources import files
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ctcx.data.bundled import (
    TextLines,
    greedy_readings,
    notebook_fixture,
    notebook_random_example,
    ocr_lines,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ctcx.data.batch import Batch

MAKERS = (notebook_fixture, notebook_random_example, ocr_lines)


@pytest.fixture(scope="module")
def lines() -> TextLines:
    """Return the text lines once, for tests that only look."""
    return ocr_lines()


def clean(fixture: TextLines) -> list[int]:
    """Return which lines were drawn without blur or noise."""
    return [n for n, condition in enumerate(fixture.conditions) if condition == "clean"]


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return log-probabilities in double precision."""
    double = logits.astype(np.float64)
    shifted = double - double.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def simple_loss(log_probs: NDArray[np.float64], labels: Sequence[int], blank: int) -> float:
    """Return the CTC loss as the textbook's loop over frames and states computes it."""
    states = [blank]
    for label in labels:
        states += [int(label), blank]
    alpha = [-np.inf] * len(states)
    alpha[0] = log_probs[0, states[0]]
    if len(states) > 1:
        alpha[1] = log_probs[0, states[1]]
    for frame in log_probs[1:]:
        previous = list(alpha)
        for s, state in enumerate(states):
            total = previous[s]
            if s >= 1:
                total = np.logaddexp(total, previous[s - 1])
            if s >= 2 and state not in (blank, states[s - 2]):
                total = np.logaddexp(total, previous[s - 2])
            alpha[s] = total + frame[state]
    return -float(np.logaddexp(alpha[-1], alpha[-2]) if len(states) > 1 else alpha[0])


def line_loss(fixture: TextLines, n: int, text: str) -> float:
    """Return the loss of a text, the drawn one or another, on line n."""
    labels = [fixture.alphabet.index(character) for character in text]
    return simple_loss(
        log_softmax(fixture.logits[n, : fixture.logit_lengths[n]]), labels, fixture.blank
    )


def without_one_double(text: str) -> str:
    """Return a text less one letter of its first doubled pair."""
    for i in range(1, len(text)):
        if text[i] == text[i - 1]:
            return text[:i] + text[i + 1 :]
    raise AssertionError(f"{text!r} has no doubled letter")


@pytest.mark.parametrize("make", MAKERS)
def test_shapes_and_dtypes(make: Callable[[], Batch]) -> None:
    fixture = make()
    n, t, c = fixture.logits.shape
    assert fixture.logits.dtype == np.float32
    for whole in (fixture.labels, fixture.logit_lengths, fixture.label_lengths):
        assert whole.dtype == np.int64
    assert fixture.labels.shape[0] == n
    assert fixture.logit_lengths.shape == fixture.label_lengths.shape == (n,)
    assert fixture.logit_lengths.max() == t
    assert fixture.label_lengths.max() <= fixture.labels.shape[1]
    assert 0 <= fixture.blank < c
    assert np.isfinite(fixture.logits).all()
    assert fixture.provenance
    assert fixture.logits.flags.c_contiguous


@pytest.mark.parametrize("make", MAKERS)
def test_a_result_can_not_be_changed(make: Callable[[], Batch]) -> None:
    batch = make()
    names = ("logits", "labels", "logit_lengths", "label_lengths", "expected_loss", "expected_grad")
    for name in names:
        if (array := getattr(batch, name)) is not None:
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 77
    with pytest.raises(FrozenInstanceError):
        batch.blank = 1  # type: ignore[misc]


def test_notebook_numbers() -> None:
    fixture = notebook_fixture()
    assert fixture.expected_loss is not None
    assert fixture.expected_grad is not None
    assert fixture.logits.shape == fixture.expected_grad.shape == (1, 5, 4)
    assert fixture.blank == 3
    assert fixture.expected_loss.tolist() == [np.float32(4.448741)]
    assert fixture.labels.tolist() == [[0, 1, 0, 1, 3]]
    assert fixture.label_lengths.tolist() == [4]
    assert "TensorFlow 2.11.0" in fixture.provenance
    labels = fixture.labels[0, : fixture.label_lengths[0]].tolist()
    loss = simple_loss(log_softmax(fixture.logits[0]), labels, 3)
    assert loss == pytest.approx(4.448741, abs=1e-6)


def test_notebook_gradient_agrees_with_differences() -> None:
    fixture = notebook_fixture()
    assert fixture.expected_grad is not None
    labels = fixture.labels[0, : fixture.label_lengths[0]].tolist()
    step = 1e-6
    for where in np.ndindex(5, 4):
        up, down = fixture.logits[0].astype(np.float64), fixture.logits[0].astype(np.float64)
        up[where] += step
        down[where] -= step
        slope = (
            simple_loss(log_softmax(up), labels, 3) - simple_loss(log_softmax(down), labels, 3)
        ) / (2 * step)
        assert slope == pytest.approx(fixture.expected_grad[0][where], abs=2e-6)


def test_notebook_random_example_is_invalid_on_purpose() -> None:
    fixture = notebook_random_example()
    assert fixture.logits.shape == (1, 4, 4)
    assert fixture.logits[0, 1, 2] == np.float32(0.74040926)
    assert fixture.labels.tolist() == [[1, 2, 4, 3]]
    assert fixture.labels.max() == fixture.logits.shape[2]
    assert fixture.logit_lengths.tolist() == fixture.label_lengths.tolist() == [4]
    assert fixture.expected_loss is None
    assert fixture.expected_grad is None


def test_greedy_readings_count_a_negative_blank_from_the_end() -> None:
    path = np.array([0, 0, 2, 0, 1, 1])
    fixture = TextLines(
        name="spelled",
        logits=np.eye(3, dtype=np.float32)[path][None],
        labels=np.zeros((1, 1), dtype=np.int64),
        logit_lengths=np.array([5]),
        label_lengths=np.array([1]),
        blank=-1,
        provenance="made up",
        alphabet=("a", "b", ""),
    )
    assert greedy_readings(fixture) == ["aab"]


def test_labels_spell_the_texts(lines: TextLines) -> None:
    assert len(lines.texts) == len(lines.conditions) == len(lines.logits)
    assert len(lines.alphabet) == lines.logits.shape[2] == 6625
    assert len(set(lines.alphabet)) == 6625
    assert lines.alphabet[lines.blank] == ""
    for text, row, length in zip(lines.texts, lines.labels, lines.label_lengths, strict=True):
        assert "".join(lines.alphabet[k] for k in row[:length]) == text
        assert not row[length:].any()


def test_padded_frames_are_zero(lines: TextLines) -> None:
    for rows, length in zip(lines.logits, lines.logit_lengths, strict=True):
        assert not rows[length:].any()
        assert rows[:length].any(axis=-1).all()


def test_doubled_letters_are_there_and_fit(lines: TextLines) -> None:
    for text, length in zip(lines.texts, lines.logit_lengths, strict=True):
        doubles = sum(a == b for a, b in pairwise(text))
        assert doubles >= 1
        assert length >= len(text) + doubles
    for pair in ("ll", "oo", "kk", "ee", "mm", "tt", "ss", "pp", "00", "ff"):
        assert any(pair in text for text in lines.texts), pair


def test_clean_lines_read_as_drawn_and_a_spoiled_one_does_not(lines: TextLines) -> None:
    readings = greedy_readings(lines)
    assert len(clean(lines)) >= 4
    for n in clean(lines):
        assert readings[n] == lines.texts[n]
    assert any(reading != text for reading, text in zip(readings, lines.texts, strict=True))


def test_a_missing_double_costs_more_than_the_true_text(lines: TextLines) -> None:
    for n in clean(lines):
        text = lines.texts[n]
        true = line_loss(lines, n, text)
        wrong = line_loss(lines, n, without_one_double(text))
        assert 0 < true < 1
        assert wrong > true + 1, (text, true, wrong)


def test_a_misread_line_has_a_high_loss(lines: TextLines) -> None:
    readings = greedy_readings(lines)
    misread = [n for n, reading in enumerate(readings) if reading != lines.texts[n]]
    assert misread
    for n in misread:
        loss = line_loss(lines, n, lines.texts[n])
        assert loss > 3
        assert loss > line_loss(lines, n, readings[n])


def test_provenance_names_model_and_licence(lines: TextLines) -> None:
    for words in ("rapidocr-onnxruntime 1.4.4", "PP-OCR", "Apache-2.0"):
        assert words in lines.provenance


def test_files_are_small() -> None:
    data = files("ctcx.data")
    assert len((data / "ocr_lines.npz").read_bytes()) < 1_000_000
    assert len((data / "notebook.json").read_bytes()) < 10_000
