"""``ctcx decode``: what it prints and writes, and how it refuses."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

import ctcx
from ctcx.data.bundled import ocr_lines
from tests.helpers import run_cli

LOGITS = np.log([[0.6, 0.4, 1e-9], [0.6, 0.4, 1e-9], [0.01, 0.01, 0.98]])


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("one.npz", logits=LOGITS)
    np.savez("two.npz", logits=np.stack([LOGITS, LOGITS]), logit_lengths=[3, 2])
    (tmp_path / "tokens.txt").write_text("\na\n|\n")


def decode(*arguments, code=0):
    result = run_cli("decode", *arguments)
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


@pytest.mark.parametrize("way", [(), ("--beam", "4")])
@pytest.mark.parametrize("frames", [slice(0, 2), slice(1, 2)])  # all of them, or one
def test_what_says_nothing(way, frames):
    logits = LOGITS.copy()
    logits[frames] = -np.inf
    np.save("none.npy", logits)
    arguments = ("none.npy", "--tokens", "tokens.txt", *way)
    assert "3 frames, of which logits of -inf allow no text" in decode(*arguments)
    (found,) = json.loads(decode(*arguments, "--json", "-"))["utterances"]
    assert (found["alternatives"], found["tokens"]) == ([], [])


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


@pytest.mark.parametrize(
    ("tokens", "labels", "text"),
    [
        ({"": 0, "▁a": 1, "b": 2, "▁": 3}, [1, 2, 3, 1, 9], "ab  a<9>"),
        ({"": 0, "a": 1, "<space>": 2}, [1, 2, 1], "a a"),
        ({"": 0, "a": 1}, [1, 1], "aa"),
    ],
)
def test_texts_have_spaces_where_tokens_stand_for_them(tokens, labels, text):
    path = [symbol for label in labels for symbol in (label, 0)]
    np.save("said.npy", np.log(np.eye(10)[path] + 1e-9))
    Path("tokens.json").write_text(json.dumps(tokens), encoding="utf-8")
    found = json.loads(decode("said.npy", "--tokens", "tokens.json", "--json", "-"))
    assert found["utterances"][0]["alternatives"][0]["text"] == text


def write_lines():
    lines = ocr_lines()
    np.savez("lines.npz", logits=lines.logits, logit_lengths=lines.logit_lengths)
    Path("characters.txt").write_text("\n".join((*lines.alphabet, "")), encoding="utf-8")


def test_phrases_of_a_file_are_preferred():
    write_lines()
    Path("phrases.txt").write_text("wooden\t1.5\r\nfloor\n\nhot coffee\n", encoding="utf-8")
    arguments = ("lines.npz", "--tokens", "characters.txt", "--sequence")
    assert "'hot coffoe'" in decode(*arguments, "7")
    assert "lines-6: 'wooden floor'" in decode(*arguments, "6", "--boost", "phrases.txt")
    found = json.loads(decode(*arguments, "7", "--boost", "phrases.txt", "--json", "-"))
    best = found["utterances"][0]["alternatives"][0]
    assert best["text"] == "hot coffee"
    assert best["score"] - best["log_prob"] == pytest.approx(10, abs=1e-4)


ARPA = """\\data\\
ngram 1={}

\\1-grams:
-99 <s>
-1 </s>
{}

\\end\\
"""


def test_a_model_of_tokens_and_one_of_words():
    def printed(words, *arguments):
        lines = "\n".join(words)
        Path("lm.arpa").write_text(ARPA.format(len(words) + 2, lines), encoding="utf-8")
        return decode("one.npz", "--tokens", "spaced.txt", "--lm", "lm.arpa", *arguments)

    Path("spaced.txt").write_text("\na\n \n")
    plain = decode("one.npz", "--tokens", "spaced.txt", "--beam", "16")
    assert "one: 'a '" in plain
    assert "one: ' '" in printed(["-9 a", "-0.1 <space>"])
    assert "one: 'a '" in printed(["-9 a", "-0.1 <space>"], "--lm-weight", "0.001")
    assert "one: 'a '" in printed(["-9 a", "-9 <space>"], "--label-bonus", "30")
    assert "one: 'a '" in printed(["-0.1 a", "-9 aa"], "--lm-words")
    assert "one: ' '" in printed(["-9 a"], "--lm-words")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nb\n", "line 2: text has 'b' (U+0062)"),
        ("a\tx\n", "line 1: expected a phrase, or one, a tab and a finite number; got 'a\\tx'"),
        ("a\n\n\t2\n", "line 3: expected a phrase"),
        ("a\tinf", "finite number"),
        (b"a\xff", "no UTF-8 text"),
        (None, "can't be read"),
    ],
)
def test_wrong_phrases_are_refused_with_their_line(text, message):
    if text is not None:
        Path("p.txt").write_bytes(text.encode() if isinstance(text, str) else text)
    printed = decode("one.npz", "--tokens", "tokens.txt", "--boost", "p.txt", code=2)
    assert message in " ".join(printed.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--lm-words",), "--lm-words: there is no model: name its file with --lm"),
        (("--lm-weight", "2"), "--lm-weight: there is no model"),
        (("--top", "2"), "--top: greedy decoding has one result: say --beam, too"),
    ],
)
def test_options_without_effect_are_refused(arguments, message):
    assert message in " ".join(
        decode("one.npz", "--tokens", "tokens.txt", *arguments, code=2).split()
    )


def test_wrong_models_are_refused():
    Path("lm.arpa").write_text("no model\n")
    arguments = ("one.npz", "--tokens", "tokens.txt", "--lm", "lm.arpa")
    assert "lm.arpa, line 1: the file ends" in " ".join(decode(*arguments, code=2).split())
    Path("tokens.txt").write_text("\na\nb\n")
    assert "stands between words" in " ".join(decode(*arguments, "--lm-words", code=2).split())
