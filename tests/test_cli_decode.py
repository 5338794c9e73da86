"""``ctcx decode``: what it prints and writes, and how it refuses."""

import json
import math
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import ctcx
from ctcx.data.bundled import ocr_lines
from tests.helpers import posix_only, run_cli

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


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' file names are text")
def test_bytes_of_a_file_name_that_are_no_text_are_question_marks():
    name = os.fsdecode(b"caf\xe9.npz")
    Path("one.npz").rename(name)
    (found,) = json.loads(decode(name, "--tokens", "tokens.txt", "--json", "-"))["utterances"]
    assert found["name"] == "caf?"
    aligned = run_cli("align", name, "--tokens", "tokens.txt", "--text", "a", "--output", "a.json")
    assert aligned.exit_code == 0, aligned.output
    assert json.loads(Path("a.json").read_text("utf-8"))["utterances"][0]["name"] == "caf?"


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


@pytest.mark.parametrize("blank", [" ", "<space>", "_"])
def test_the_token_of_the_blank_stands_for_no_space(blank):
    Path("tokens.json").write_text(json.dumps([blank, "a", "|"]))
    Path("words.arpa").write_text(
        "\\data\\\nngram 1=4\n\n\\1-grams:\n-9 <s>\n-1 </s>\n-2 <unk>\n-0.5 a\n\n\\end\\\n"
    )
    arguments = ("one.npz", "--tokens", "tokens.json", "--json", "-")
    printed = decode(*arguments, "--lm", "words.arpa", "--lm-words", "--top", "8")
    (found,) = json.loads(printed)["utterances"]
    (best,) = (one for one in found["alternatives"] if one["labels"] == [1, 2])
    assert best["text"] == "a "
    added = math.log(10) * (-0.5 - 1)  # the word and the end
    assert best["score"] == pytest.approx(best["log_prob"] + added, abs=1e-6)
    aligned = run_cli(
        "align", "one.npz", "--tokens", "tokens.json", "--text", "a ", "--output", "a.json"
    )
    assert aligned.exit_code == 0, aligned.output


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
        ("a\tnan", "finite number"),
        ("a\n|\t1e10\n", "line 2: expected a weight of at most 1e9 in size; got 1e10"),
        ("a\n|\na\t2\n", "line 3: line 1 has the same phrase 'a'"),
        ("", "--boost: p.txt has no phrases: expected one a line"),
        ("\n\r\n", "--boost: p.txt has no phrases"),
        (b"a\xff", "no UTF-8 text"),
        (None, "--boost: p.txt can't be read"),
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
        (
            ("--top", "5", "--beam", "2"),
            "a beam of width 2 holds: expected at most 2, or --beam 5 or more",
        ),
        (("--top", "17", "--label-bonus", "1"), "expected at most 16, or --beam 17 or more"),
        (
            ("--label-bonus", "nan"),
            "--label-bonus: expected a number from -1e+09 to 1e+09; got nan",
        ),
        (("--label-bonus", "-inf"), "--label-bonus: expected a number from"),
        (("--lm", "x", "--lm-weight", "nan"), "--lm-weight: expected a number from 0 to 1e+09"),
        (("--lm", "x", "--lm-weight", "inf"), "--lm-weight: expected a number from 0 to 1e+09"),
        (("--lm", "x", "--lm-weight", "-1"), "--lm-weight: expected a number from 0 to 1e+09"),
    ],
)
def test_options_without_effect_or_beyond_what_a_search_takes_are_refused(arguments, message):
    assert message in " ".join(
        decode("one.npz", "--tokens", "tokens.txt", *arguments, code=2).split()
    )


def test_wrong_models_are_refused():
    Path("lm.arpa").write_text("no model\n")
    arguments = ("one.npz", "--tokens", "tokens.txt", "--lm", "lm.arpa")

    def refused(*more):
        return " ".join(decode(*arguments, *more, code=2).split())

    assert "error: --lm: lm.arpa, line 1: the file ends" in refused()
    Path("lm.arpa").write_text(ARPA.format(4, "-1 aa\n-1 bb"))
    assert (
        "error: --lm: none of the tokens in tokens.txt is a word of lm.arpa, whose words begin "
        "with 'aa', 'bb': if tokens spell its words, add --lm-words" in refused()
    )
    Path("tokens.txt").write_text("\na\nb\n")
    assert (
        "--lm-words: no token of tokens.txt stands between words: expected one of ' ', '<space>', "
        "'|', '▁'" in refused("--lm-words")
    )
    Path("tokens.txt").write_text("\n▁a\nb\n", encoding="utf-8")
    assert "pieces that begin words with '▁', but no token '▁'" in refused("--lm-words")
    Path("lm.arpa").unlink()
    assert "error: --lm: lm.arpa can't be read: No such file" in refused()


def test_tokens_that_a_model_does_not_know_are_named():
    Path("lm.arpa").write_text(ARPA.format(3, "-1 a"))
    arguments = ("one.npz", "--tokens", "tokens.txt", "--lm", "lm.arpa")
    result = run_cli("decode", *arguments, "--json", "-")
    assert json.loads(result.stdout)["format"] == "ctcx-decode/1"
    assert (
        "warning: --lm: lm.arpa knows the tokens of 1 of the 2 classes besides the blank; "
        "the others count as its <unk>: '|'" in result.stderr
    )
    Path("lm.arpa").write_text(ARPA.format(4, "-1 a\n-1 |"))
    assert "warning" not in decode(*arguments)


def test_every_alternative_of_a_guided_search_has_a_score():
    Path("p.txt").write_text("a\n")
    arguments = ("one.npz", "--tokens", "tokens.txt")
    shown = decode(*arguments, "--boost", "p.txt")
    assert shown.count("probability 0.") == shown.count(", score ") == 3
    assert "score" not in decode(*arguments, "--beam", "16")
    (found,) = json.loads(decode(*arguments, "--boost", "p.txt", "--json", "-"))["utterances"]
    beams = ctcx.ctc_beam_search(LOGITS, boost={(1,): 1.0}, top=3)
    scores = [one["score"] for one in found["alternatives"]]
    assert scores == pytest.approx(beams.scores.tolist())


def test_ambiguous_tokens_are_named_with_their_lines():
    Path("p.txt").write_text("a\n")
    Path("tokens.txt").write_text("\na\na\n")
    printed = " ".join(
        decode("one.npz", "--tokens", "tokens.txt", "--boost", "p.txt", code=2).split()
    )
    assert "tokens.txt has 'a' for the classes 1 (line 2) and 2 (line 3)" in printed
    assert "--labels" not in printed
    Path("tokens.json").write_text('{"": 0, "a": 1, "b": 2, "a": 2}')
    printed = decode("one.npz", "--tokens", "tokens.json", code=2)
    assert "tokens.json has 'a' twice, for the classes 1 (entry 2) and 2 (entry 4)" in printed
    Path("tokens.txt").write_text("b 0\na 1\nc 1\n")
    printed = decode("one.npz", "--tokens", "tokens.txt", code=2)
    assert "class 1 for 'c' (line 3): that of 'a' (line 2) too" in printed


LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_AS, (2**32, resource.RLIM_INFINITY))
sys.argv[1:] = ["decode", "one.npz", "--tokens", "tokens.txt", "--beam", "2147483647"]
runpy.run_module("ctcx", run_name="__main__")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of memory holds on Linux")
def test_a_beam_too_large_for_memory_is_one_line():
    command = [sys.executable, "-c", LIMITED]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == (
        "ctcx: error: --beam: 2147483647 prefixes of up to 3 frames take more memory than there "
        "is: pass a smaller --beam, or one utterance at a time with --sequence\n"
    )


@posix_only
@pytest.mark.parametrize("form", [(), ("--json", "-")], ids=["text", "JSON"])
def test_a_closed_pipe_ends_the_command_quietly(form):
    np.save("many.npy", np.tile(LOGITS, (2000, 1, 1)))
    arguments = ("decode", "many.npy", "--tokens", "tokens.txt", *form)
    command = [sys.executable, "-m", "ctcx", *arguments]
    # Unbuffered, Python takes a part that was written for all of it.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=env) as process:
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1


def npy(shape, *, rest=b"") -> bytes:
    """The header of an array of float32 of any shape, and what follows it."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + rest


def archive(member=b"", *, method=zipfile.ZIP_STORED) -> bytearray:
    """An NPZ file whose logits are these bytes."""
    with zipfile.ZipFile("made.zip", "w", method) as file:
        file.writestr("logits.npy", member)
    return bytearray(Path("made.zip").read_bytes())


def with_header(place, value) -> bytearray:
    """An NPZ file with one more byte in the description of its member, there twice in a ZIP."""
    whole = archive(npy((3, 2), rest=bytes(24)))
    directory = whole.index(b"PK\x01\x02")
    whole[place] = whole[directory + place + 2] = value
    return whole


def no_deflate() -> bytearray:
    whole = archive(npy((300, 2), rest=bytes(2400)), method=zipfile.ZIP_DEFLATED)
    name, extra = struct.unpack_from("<HH", whole, 26)
    whole[30 + name + extra] = 0xFF  # a block of a kind that doesn't exist
    return whole


def wrong_sum() -> bytearray:
    whole = archive(npy((3, 2), rest=bytes(24)))
    whole[whole.index(b"PK\x01\x02") - 1] ^= 1
    return whole


DAMAGED = {
    "it is empty": lambda: b"",
    "it begins as neither": lambda: b"logits",
    "File is not a zip file": lambda: archive(npy((3, 2)))[:-30],
    "Bad CRC-32 for file 'logits.npy'": wrong_sum,
    "Error -3 while decompressing": no_deflate,
    "its member 'logits' is no array": lambda: archive(b"hello"),
    "the header of an array is cut off": lambda: archive(b"\x93NUMPY\x01\x00\x05\x00{((((\n"),
    "'logits.npy' is encrypted": lambda: with_header(6, 1),
    "compression method is not supported": lambda: with_header(8, 99),
    "can't be read: Unable to allocate": lambda: archive(npy((10**6, 10**6, 100))),
    "Maximum allowed dimension exceeded": lambda: archive(npy((10**19, 10, 10))),
}
"""How files are damaged, by what is said of each."""


@pytest.mark.parametrize("says", DAMAGED)
@pytest.mark.parametrize(
    "command",
    [
        ("decode", "bad.npz", "--tokens", "tokens.txt"),
        ("align", "bad.npz", "--labels", "1"),
        ("diagnose", "bad.npz"),
        ("fixtures", "--check", "bad.npz"),
    ],
    ids=lambda command: command[0],
)
def test_of_a_damaged_file_one_line_says_what_is_wrong(command, says, recwarn):
    Path("bad.npz").write_bytes(DAMAGED[says]())
    ended = run_cli(*command)
    assert ended.exit_code == 2, ended.output
    assert not ended.stdout
    assert ended.stderr.count("\n") == 1
    assert "bad.npz" in ended.stderr
    assert says in ended.stderr
    assert not recwarn.list


def test_lengths_that_are_no_array_are_refused():
    with zipfile.ZipFile("one.npz", "a") as file:
        file.writestr("logit_lengths.npy", b"hello")
    ended = run_cli("decode", "one.npz", "--tokens", "tokens.txt")
    assert ended.exit_code == 2
    assert "its member 'logit_lengths' is no array" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_arrays_of_other_names_are_not_read():
    np.savez("one.npz", logits=LOGITS, texts=np.array(["a", None], dtype=object))
    assert "one: ' '" in decode("one.npz", "--tokens", "tokens.txt")


def test_numbers_of_thousands_of_digits_are_refused():
    Path("tokens.txt").write_text(f"a 1\n| 2\n_ {'9' * 5000}\n")
    assert "expected a token and its class" in decode("one.npz", "--tokens", "tokens.txt", code=2)
    Path("tokens.txt").write_text("\na\n|\n")
    Path("lm.arpa").write_text(f"\\data\\\nngram 1={'9' * 5000}\n")
    refused = decode("one.npz", "--tokens", "tokens.txt", "--lm", "lm.arpa", code=2)
    assert "expected 'ngram 1=' and a number" in refused


@pytest.mark.parametrize(
    "command",
    [
        ("decode", "one.npz", "--tokens", "deep.json"),
        ("align", "one.npz", "--labels", "1", "--tokens", "deep.json"),
        ("diagnose", "deep.json"),
        ("diagnose", "notebook", "--against", "deep.json"),
        ("fixtures", "--check", "deep.json"),
        ("conformance", "array-api", "--replay", "deep.json"),
        ("bench", "--report", "deep.json"),
        ("bench", "--diff", "deep.json", "deep.json"),
    ],
    ids=" ".join,
)
def test_json_of_lists_within_lists_without_end_is_refused(command):
    Path("deep.json").write_text("[" * 100_000)
    ended = run_cli(*command)
    assert ended.exit_code == 2, ended.output
    assert isinstance(ended.exception, SystemExit)
    assert "deep.json" in ended.stderr
    assert "JSON: maximum recursion depth exceeded" in ended.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
@pytest.mark.parametrize("last", [(), ("--json", "-"), ("--help",)], ids=" ".join)
def test_a_full_disk_is_one_line(last):
    command = [sys.executable, "-m", "ctcx", "decode", "one.npz", "--tokens", "tokens.txt", *last]
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False
        )
    assert ended.returncode == 2
    assert ended.stderr == "ctcx: error: can't write the output: No space left on device\n"
