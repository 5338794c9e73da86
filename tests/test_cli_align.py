"""``ctcx align`` as its users meet it: what it prints, writes, and says of wrong files."""

import itertools
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import ctcx
from ctcx.data.bundled import ocr_lines
from tests.helpers import run_cli

ROOT = Path(ctcx.__file__).parents[1]
TOKENS = ["", " ", "a", "b", "c"]
# Frames of 0.25 s: "ab b", a blank between the two b's of the second word.
SAID = [0, 2, 2, 3, 1, 3, 3, 0, 3]


def emissions(path, probability=0.9):
    probs = np.full(len(path) * len(TOKENS), (1 - probability) / (len(TOKENS) - 1))
    probs = probs.reshape(len(path), len(TOKENS))
    probs[range(len(path)), path] = probability
    return np.log(probs).astype(np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A directory with what the tests read, where they write."""
    monkeypatch.chdir(tmp_path)
    np.save("one.npy", emissions(SAID))
    np.save("silent.npy", emissions([]))
    two = np.full((2, 9, 5), np.nan, dtype=np.float32)
    two[0], two[1, :3] = emissions(SAID), emissions([4, 0, 2])
    np.savez("two.npz", logits=two, logit_lengths=[9, 3])
    Path("tokens.txt").write_text("".join(f"{token}\n" for token in TOKENS), encoding="utf-8")
    return tmp_path


@pytest.fixture
def cli(plugins, monkeypatch, folder):
    """Run the command there, with no plugins but the built-in one."""
    monkeypatch.delenv("COLUMNS", raising=False)
    plugins.load()

    def run(*args):
        ended = run_cli("align", *args)
        if ended.exception is not None and not isinstance(ended.exception, SystemExit):
            raise ended.exception
        return ended

    return run


ONE = ("one.npy", "--text", "ab bb", "--tokens", "tokens.txt")
TIMES = ("--frame-seconds", "0.25")


def test_the_table_has_frames_and_times_and_says_how_well_the_text_fits(cli):
    ended = cli(*ONE, *TIMES)
    assert ended.exit_code == 0
    assert ended.stdout.startswith("\none: 'ab bb'\n9 frames, score -0.95 nats, 0.00 nats a frame")
    assert [line.split() for line in ended.stdout.splitlines()[5:]] == [
        ["a", "2", "1", "3", "0.250", "0.750", "0.900"],
        ["b", "3", "3", "4", "0.750", "1.000", "0.900"],
        ["'", "'", "1", "4", "5", "1.000", "1.250", "0.900"],
        ["b", "3", "5", "7", "1.250", "1.750", "0.900"],
        ["b", "3", "8", "9", "2.000", "2.250", "0.900"],
    ]
    assert "0.250" not in cli(*ONE).stdout
    other = cli("one.npy", "--labels", "2,4", "--blank", "0").stdout
    assert re.search(r"score -\d+\.\d+ nats, [1-9]\.\d\d nats a frame below the best path", other)


def test_each_utterance_has_its_table(cli):
    texts = ("--text", "ab bb", "--text", "ca")
    ended = cli("two.npz", *texts, "--tokens", "tokens.txt")
    assert ended.stdout.count("best path of all") == 2
    assert "\ntwo-1: 'ca'\n3 frames" in ended.stdout
    picked = cli("two.npz", "--sequence", "1", "--labels", "4,2")
    assert picked.stdout.startswith("\ntwo-1\n3 frames")
    assert [line.split()[:4] for line in picked.stdout.splitlines()[5:]] == [
        ["4", "4", "0", "1"],
        ["2", "2", "2", "3"],
    ]
    empty = cli("one.npy", "--labels", "")
    assert empty.exit_code == 0


def test_json_has_it_all(cli, folder):
    ended = cli(*ONE, *TIMES, "--output", "found.json")
    assert ended.stderr == "written: found.json\n"
    assert "best path of all" in ended.stdout
    found = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    assert found["format"] == "ctcx-align/1"
    (one,) = found["utterances"]
    assert (one["name"], one["text"], one["frames"]) == ("one", "ab bb", 9)
    assert one["score"] == pytest.approx(9 * np.log(0.9), abs=1e-5)
    assert one["tokens"][3] == {
        "text": "b",
        "label": 3,
        "start_frame": 5,
        "end_frame": 7,
        "log_prob": pytest.approx(np.log(0.9), abs=1e-6),
        "start": 1.25,
        "end": 1.75,
    }
    assert [(w["text"], w["start"], w["end"]) for w in one["words"]] == [
        ("ab", 0.25, 1.0),
        ("bb", 1.25, 2.25),
    ]
    printed = cli("one.npy", "--labels", "2,3", "--format", "json")
    (one,) = json.loads(printed.stdout)["utterances"]
    assert one["words"] is None
    assert "start" not in one["tokens"][0]


def test_ctm(cli, folder):
    arguments = ("two.npz", "--text", "ab bb", "--text", "ca", "--tokens", "tokens.txt", *TIMES)
    cli(*arguments, "--output", "found.ctm")
    assert (folder / "found.ctm").read_text(encoding="utf-8") == (
        "two-0 1 0.250 0.750 ab 0.9000\n"
        "two-0 1 1.250 1.000 bb 0.9000\n"
        "two-1 1 0.000 0.750 ca 0.9000\n"
    )
    by_token = cli(*arguments, "--format", "ctm", "--unit", "tokens").stdout.splitlines()
    assert by_token[2] == "two-0 1 1.250 0.500 b 0.9000"
    assert len(by_token) == 6


def test_srt(cli):
    assert cli(*ONE, "--frame-seconds", "900.0005", "--format", "srt").stdout == (
        "1\n00:15:00,000 --> 01:00:00,002\nab\n\n2\n01:15:00,002 --> 02:15:00,004\nbb\n\n"
    )


def test_textgrid(cli, folder):
    Path("quoted.json").write_text('{"\\"": 2, " ": 1, "b": 3}', encoding="utf-8")
    arguments = ("one.npy", "--text", '"b bb', "--tokens", "quoted.json", *TIMES)
    ended = cli(*arguments, "--output", "found.TextGrid")
    assert ended.exit_code == 0
    text = (folder / "found.TextGrid").read_text(encoding="utf-8")
    assert text.startswith(
        'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax = 2.25\n'
    )
    assert re.findall(r'name = "(\w+)"', text) == ["words", "tokens"]
    intervals = re.findall(r"xmin = (\S+)\n +xmax = (\S+)\n +text = (.*)", text)
    assert intervals[:4] == [
        ("0.0", "0.25", '""'),
        ("0.25", "1.0", '"""b"'),
        ("1.0", "1.25", '""'),
        ("1.25", "2.25", '"bb"'),
    ]
    # Those of a tier touch, from 0 to the end.
    tokens = intervals[4:]
    assert tokens[0][0] == "0.0"
    assert tokens[-1][1] == "2.25"
    assert all(one[1] == other[0] for one, other in itertools.pairwise(tokens))
    assert re.findall(r"intervals: size = (\d+)", text) == ["4", str(len(tokens))]


def test_the_blank_may_be_the_last_class_and_the_backend_be_named(cli):
    np.save("last.npy", np.roll(emissions(SAID).astype(np.float64), -1, axis=1))
    Path("last.txt").write_text(" \na\nb\nc\n<blk>\n", encoding="utf-8")
    arguments = ("last.npy", "--text", "ab bb", "--tokens", "last.txt", "--blank", "-1")
    ended = cli(*arguments, "--backend", "array-api")
    assert ended.stdout.splitlines()[5].split()[:4] == ["a", "1", "1", "3"]
    wrong = cli(*arguments, "--backend", "nope")
    assert wrong.exit_code == 2
    assert "'nope'" in wrong.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "aé b",
            "text has 'é' (U+00E9) as character 2 of 'aé b': that is no token of tokens.txt\n",
        ),
        (
            "ab B",
            "text has 'B' (U+0042) as character 4 of 'ab B': that is no token of tokens.txt; ",
        ),
        ("ab B", "; there is 'b'\n"),
        ("a\nb", "text has '\\n' (U+000A) as character 2"),
    ],
)
def test_a_character_without_a_token_is_named_with_its_place(cli, text, says):
    ended = cli("one.npy", "--text", text, "--tokens", "tokens.txt")
    assert ended.exit_code == 2
    assert ended.stderr.startswith("ctcx: error: ")
    assert ended.stderr.count("\n") == 1
    assert says in ended.stderr


def test_too_few_frames_say_how_many_are_needed(cli):
    np.save("few.npy", emissions(SAID)[:6])
    arguments = ("few.npy", "--tokens", "tokens.txt", "--text")
    ended = cli(*arguments, "ab abab")
    assert ended.exit_code == 1
    assert ended.stderr == (
        "ctcx: error: utterance few needs at least 7 frames for its 7 labels, and has 6\n"
    )
    assert cli(*arguments, "aabb").exit_code == 0
    assert cli(*arguments, "aabbc").stderr == (
        "ctcx: error: utterance few needs at least 7 frames for its 5 labels, as a blank must "
        "stand between equal neighbours, and has 6\n"
    )
    masked = emissions(SAID)
    masked[:, 4] = -np.inf
    np.save("masked.npy", masked)
    ended = cli("masked.npy", "--labels", "4")
    assert "utterance masked has logits of -inf on every path of its 1 labels" in ended.stderr


def test_an_utterance_without_a_path_keeps_no_other_from_being_aligned(cli):
    ended = cli("two.npz", "--labels", "1,2", "--labels", "1,1,1", "--output", "two.json")
    assert ended.exit_code == 1
    needs = "needs at least 5 frames for its 3 labels"
    assert ended.stderr.splitlines()[-1].startswith(f"ctcx: error: utterance two-1 {needs}")
    assert "no path: it needs at least 5 frames" in ended.stdout
    first, second = json.loads(Path("two.json").read_text())["utterances"]
    assert [token["label"] for token in first["tokens"]] == [1, 2]
    assert first["infeasible"] is None
    assert second["tokens"] == []
    assert second["infeasible"].startswith(needs)


def files():
    """Files that can't be used, by what is said of them."""
    ones = np.ones((3, 5), dtype=np.float32)
    return {
        "no array 'logits'; it has: x, y": ("bad.npz", lambda p: np.savez(p, x=ones, y=ones)),
        "int64 and shape (3, 5): expected floats": (
            "bad.npy",
            lambda p: np.save(p, ones.astype(int)),
        ),
        "shape (5,): expected floats (T, C)": ("bad.npy", lambda p: np.save(p, ones[0])),
        "there is nothing in them": ("bad.npy", lambda p: np.save(p, ones[:, :0])),
        "is no .npz or .npy file": ("bad.npy", lambda p: Path(p).write_text("logits")),
        "no .npz or .npy file": ("bad.npy", lambda p: Path(p).write_bytes(b"")),
        "is no .npz": ("bad.npz", lambda p: Path(p).write_bytes(b"PK\x03\x04 cut")),
        "can't be read: No such file": ("none.npy", lambda _: None),
        "logit_lengths of dtype float64 and shape (1,)": (
            "bad.npz",
            lambda p: np.savez(p, logits=ones, logit_lengths=[3.0]),
        ),
        "shape (2,): expected integers (1,)": (
            "bad.npz",
            lambda p: np.savez(p, logits=ones, logit_lengths=[3, 3]),
        ),
        "an array 'lengths': the lengths must be named 'logit_lengths'": (
            "bad.npz",
            lambda p: np.savez(p, logits=ones, lengths=[3]),
        ),
        "logit_lengths[0] is 4": ("bad.npz", lambda p: np.savez(p, logits=ones, logit_lengths=[4])),
        "logits[0, 0, 0] is nan": ("bad.npy", lambda p: np.save(p, ones * np.nan)),
    }


@pytest.mark.parametrize("says", files())
def test_a_file_without_logits_says_so(cli, says):
    name, write = files()[says]
    write(name)
    ended = cli(name, "--labels", "2")
    assert ended.exit_code == 2
    assert says in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not ended.stdout


WRONG_TOKENS = {
    "tokens: none.txt can't be read": ("none.txt", None),
    "has 4 tokens: expected 5, one for each class (the blank needs a line too": (
        "t.txt",
        b" \na\nb\nc\n",
    ),
    "has 6 tokens: expected 5, one for each class\n": ("t.txt", b"\n \na\nb\nc\nd\n"),
    "is no UTF-8 text": ("t.txt", b"\xff\n \na\nb\nc\n"),
    "has class 5 for 'a' (line 1): 0 to 4 exist": ("t.txt", b"a 5\nb 3\n"),
    "has class 3 for 'b' (line 2): that of 'a' (line 1) too": ("t.txt", b"a 3\nb 3\n"),
    "line 1 of t.txt is ' _ 0': expected a token and its class, as 4 of 5 lines have": (
        "t.txt",
        b" _ 0\n| 1\na 2\nb 3\nc 4\n",
    ),
    "half a character, which no text can hold": ("t.json", b'["", "|", "a", "b", "\\ud800"]'),
    "no token to begin it with, neither '\u2581' nor one that begins with '\u2581a'": (
        "t.txt",
        "\n\u2581b\na\nb\nc\n".encode(),
    ),
    "is no JSON": ("t.json", b"[1, "),
    "must be a list of tokens, or an object": ("t.json", b"[1, 2]"),
    "'a' for the classes 2 (line 3) and 3 (line 4), so a text doesn't say which one it means: name "
    "them differently, or pass --labels": ("t.txt", b"\n \na\na\nb\n"),
    "that is the token of the blank (class 0), which no label may be": (
        "t.txt",
        b"a\n \nx\nb\nc\n",
    ),
}


@pytest.mark.parametrize("says", WRONG_TOKENS)
def test_a_file_of_tokens_that_does_not_fit_says_so(cli, says):
    name, content = WRONG_TOKENS[says]
    if content is not None:
        Path(name).write_bytes(content)
    ended = cli("one.npy", "--text", "ab bb", "--tokens", name)
    assert ended.exit_code == 2
    assert says in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "content",
    [
        ("t.txt", "<blk> 0\nb 3\nc 4\na 2\n| 1\n"),
        ("t.txt", "\ufeff\r\n|\r\na\r\nb\r\nc\r\n"),
        ("t.json", '["", "<space>", "a", "b", "c"]'),
        ("t.json", '{"a": 2, "▁": 1, "b": 3}'),
        ("t.txt", "\n▁\na\nb\n▁b"),
    ],
)
def test_forms_of_tokens(cli, content):
    Path(content[0]).write_text(content[1], encoding="utf-8")
    ended = cli("one.npy", "--text", "ba bb", "--tokens", content[0], *TIMES, "--format", "ctm")
    assert ended.exit_code == 0, ended.stderr
    assert [line.split()[4] for line in ended.stdout.splitlines()] == ["ba", "bb"]


def test_a_text_is_spelled_with_the_longest_tokens_and_spaces_are_whatever_the_model_has(cli):
    def spelling(text, *names):
        np.save("even.npy", np.zeros((12, len(names)), dtype=np.float32))
        Path("t.json").write_text(json.dumps(names), encoding="utf-8")
        return cli("even.npy", "--text", text, "--tokens", "t.json", "--output", "found.json")

    def spelled(*arguments):
        assert spelling(*arguments).exit_code == 0
        (one,) = json.loads(Path("found.json").read_text(encoding="utf-8"))["utterances"]
        return [token["label"] for token in one["tokens"]]

    def refusal(*arguments):
        ended = spelling(*arguments)
        assert ended.exit_code == 2
        return " ".join(ended.stderr.split())

    assert spelled("abab a", "", " ", "a", "b", "aba") == [4, 3, 1, 2]
    assert spelled("a  a", "", "|", "a") == [2, 1, 1, 2]
    assert spelled("", "", "a") == []
    assert spelled("he he", "", "▁", "▁he", "h", "e") == [2, 2]
    assert spelled("h e", "", "▁", "h", "e") == [2, 1, 3]
    assert re.search(r"' ' .* as character 2 of 'a a'", refusal("a a", "", "a"))
    assert re.search(r"'x' .* as character 4 of 'he x'", refusal("he x", "", "▁", "▁he", "h", "e"))


def test_words_join_tokens_with_their_frames(cli):
    names = ("", "▁", "▁he", "y", "you")
    Path("t.json").write_text(json.dumps(names), encoding="utf-8")
    logits = emissions([2, 2, 0, 3, 1, 0, 4, 0, 1])
    logits[3] = emissions([3], probability=0.5)
    np.save("one.npy", logits)
    cli("one.npy", "--labels", "2,3,1,4,1", "--tokens", "t.json", "--output", "found.json")
    (one,) = json.loads(Path("found.json").read_text(encoding="utf-8"))["utterances"]
    assert [token["text"] for token in one["tokens"]] == ["▁he", "y", "▁", "you", "▁"]
    places = [(word["text"], word["start_frame"], word["end_frame"]) for word in one["words"]]
    assert places == [("hey", 0, 4), ("you", 6, 7)]
    lengths = [token["end_frame"] - token["start_frame"] for token in one["tokens"]]
    assert lengths[:2] == [2, 1]
    first, second, *_ = (token["log_prob"] for token in one["tokens"])
    assert one["words"][0]["log_prob"] == pytest.approx((2 * first + second) / 3)
    assert first - second > 0.5


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("one.npy",), "expected either --text or --labels"),
        ((*ONE, "--labels", "1"), "expected either --text or --labels"),
        (("one.npy", "--text", "ab"), "--tokens must say which class each character is"),
        ((*ONE, "--text", "b"), "expected one for each of the 1 utterances; got 2"),
        (("one.npy", "--labels", "1;2"), "expected classes like 3,1,4; got '1;2'"),
        (("one.npy", "--labels", "1,9"), "labels[0, 1] is 9"),
        (("one.npy", "--labels", "1", "--blank", "5"), "5 is no class: there are 5"),
        (("two.npz", "--labels", "1", "--sequence", "2"), "2 is no utterance: two.npz has 2"),
        ((*ONE, "--frame-seconds", "0"), "expected a positive number; got 0.0"),
        ((*ONE, "--output", "x.txt"), "doesn't end in .json, .ctm, .textgrid, .srt"),
        ((*ONE, "--output", "-"), "--format must say which it is"),
        ((*ONE, "--output", "no/x.srt"), "there is no directory"),
        ((*ONE, "--format", "srt"), "srt has times: --frame-seconds must say"),
        (
            ("silent.npy", "--labels", "", "--output", "x.TextGrid", *TIMES),
            "a textgrid of 0 seconds has no place for labels: utterance silent has no frames",
        ),
        (("one.npy", "--labels", "1", "--unit", "words"), "no token says where a word ends"),
        (
            ("two.npz", "--labels", "2", "--labels", "2", "--format", "srt", *TIMES),
            "srt is for one utterance of the 2: pick it with --sequence",
        ),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_expected(cli, args, says):
    ended = cli(*args)
    assert ended.exit_code == 2
    assert says in " ".join(ended.stderr.replace("│", " ").split())
    assert not ended.stdout
    assert not list(Path().glob("x.*"))


def test_the_page_shows_what_is_printed(cli):
    page = (ROOT / "docs" / "align.md").read_text(encoding="utf-8")
    section = page.partition("## From the command line\n")[2]
    code, command, printed = re.search(
        r"```python\n(.*?)```\n\n```sh\nctcx align (.*?)\n```\n\n```text\n(.*?)```",
        section,
        re.DOTALL,
    ).groups()
    exec(compile(code, "align.md", "exec"), {"np": np, "lines": ocr_lines()})
    ended = cli(*shlex.split(command.replace("\\\n", " ")))
    assert ended.stdout.lstrip("\n") == printed
