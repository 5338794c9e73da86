"""``ctcx decode``: what it prints and writes, and how it refuses."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import ctcx
from ctcx._cli import app
from ctcx._cli.token_files import TokenTable
from ctcx.data.bundled import ocr_lines

LOGITS = np.log([[0.6, 0.4, 1e-9], [0.6, 0.4, 1e-9], [0.01, 0.01, 0.98]])


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("one.npz", logits=LOGITS)
    np.savez("two.npz", logits=np.stack([LOGITS, LOGITS]), logit_lengths=[3, 2])
    np.save("none.npy", np.full((2, 3), -np.inf))
    (tmp_path / "tokens.txt").write_text("\na\n|\n")


def decode(*arguments, code=0):
    result = CliRunner().invoke(app, ["decode", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_greedily_the_best_path_says_the_text():
    printed = decode("one.npz", "--tokens", "tokens.txt")
    assert "one: ' '" in printed
    loss = ctcx.ctc_loss(LOGITS, [2])
    assert f"3 frames, probability {math.exp(-loss):.3g}" in printed
    assert "or " not in printed


def test_a_beam_finds_a_more_probable_text_and_its_alternatives():
    printed = decode("two.npz", "--tokens", "tokens.txt", "--beam", "8", "--frame-seconds", "0.5")
    first, second = printed.split("two-1")
    assert "two-0: 'a '" in first
    assert "or ' ', probability" in first
    assert "or " in second
    assert "'a'" in second
    assert "1.000 1.500" in " ".join(first.split())  # of the last token


def test_json_has_all_of_it_and_nothing_else_is_printed():
    printed = decode(
        "two.npz", "--tokens", "tokens.txt", "--beam", "8", "--top", "2", "--json", "-"
    )
    found = json.loads(printed)
    assert found["format"] == "ctcx-decode/1"
    one = found["utterances"][0]
    beams = ctcx.ctc_beam_search(LOGITS, width=8, top=2)
    for k, each in enumerate(one["alternatives"]):
        assert each["labels"] == beams.labels[k, : beams.lengths[k]].tolist()
        assert each["log_prob"] == pytest.approx(float(beams.log_probs[k]))
    assert [token["text"] for token in one["tokens"]] == ["a", "|"]
    assert [token["start_frame"] for token in one["tokens"]] == beams.starts[0].tolist()
    assert "start" not in one["tokens"][0]


def test_what_says_nothing():
    assert "allow no text" in decode("none.npy", "--tokens", "tokens.txt", "--beam", "4")


def test_real_lines_are_read():
    lines = ocr_lines()
    np.savez("lines.npz", logits=lines.logits, logit_lengths=lines.logit_lengths)
    Path("characters.txt").write_text("\n".join((*lines.alphabet, "")), encoding="utf-8")
    arguments = ("lines.npz", "--tokens", "characters.txt", "--blank", str(lines.blank))
    printed = decode(*arguments, "--sequence", "3", "--beam", "16")
    assert "lines-3: 'Mississippi'" in printed
    assert "or ' Mississippi', probability 0.352" in printed


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("one.npz", "--tokens", "tokens.txt", "--blank", "3"), "3 is no class: there are 3"),
        (("one.npz", "--tokens", "tokens.txt", "--sequence", "1"), "1 is no utterance"),
        (("one.npz", "--tokens", "tokens.txt", "--frame-seconds", "0"), "positive number"),
        (("one.npz", "--tokens", "tokens.txt", "--beam", "0"), "beam"),
        (("missing.npz", "--tokens", "tokens.txt"), "can't be read"),
        (("one.npz", "--tokens", "missing.txt"), "can't be read"),
        (("one.npz",), "--tokens"),
    ],
)
def test_what_is_wrong_is_said(arguments, says):
    assert says in " ".join(decode(*arguments, code=2).replace("│", " ").split())


def test_texts_have_spaces_where_tokens_stand_for_them():
    pieces = TokenTable("", {0: "", 1: "▁a", 2: "b", 3: "▁"}, 0)
    assert pieces.text_of([1, 2, 3, 1, 9]) == "ab  a<9>"
    assert TokenTable("", {0: "", 1: "a", 2: "<space>"}, 0).text_of([1, 2, 1]) == "a a"
    assert TokenTable("", {0: "", 1: "a"}, 0).text_of([1, 1]) == "aa"
