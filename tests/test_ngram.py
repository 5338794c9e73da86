"""N-gram models: what KenLM says of the same files, words spelled in tokens, and wrong files."""

import gzip
import json
import math
import pickle
import runpy
from pathlib import Path

import numpy as np
import pytest

import ctcx

FILES = Path(__file__).parent / "ngram"
NATS = math.log(10)
SMALL = """\\data\\
ngram 1=4
ngram 2=2

\\1-grams:
-99\t<s>\t-0.5
-0.6\t</s>
-0.5\tab\t-0.3
-0.7\tb

\\2-grams:
-0.2\t<s> ab
-0.1\tab b

\\end\\
"""


def logarithms(lm, labels):
    state, found = lm.start(), []
    for label in labels:
        log_prob, state = lm.score(state, label)
        found.append(log_prob)
    return [*found, lm.finish(state)]


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.arpa"
    path.write_text(SMALL, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["with_unknown", "without_unknown"])
def test_words_have_the_probabilities_that_kenlm_gives_them(name):
    sentences = json.loads((FILES / "kenlm.json").read_text("utf-8"))[name]
    tokens = sorted({word for each in sentences for word in each["words"]})
    assert "never" in tokens
    lm = ctcx.NGram.from_arpa(FILES / f"{name}.arpa", tokens)
    assert lm.order == 4
    for sentence in sentences:
        found = logarithms(lm, [tokens.index(word) for word in sentence["words"]])
        # KenLM keeps logarithms in float32.
        np.testing.assert_allclose(found, np.multiply(sentence["log10"], NATS), rtol=1e-6)


def test_back_off_by_hand(small):
    lm = ctcx.NGram.from_arpa(small, ["_", "ab", "b", "c"])
    found = np.divide(logarithms(lm, [1, 2, 1, 3, 2]), NATS)
    np.testing.assert_allclose(found, [-0.2, -0.1, -0.5, -0.3 - 100, -0.7, -0.6])
    np.testing.assert_allclose(np.divide(logarithms(lm, [2]), NATS), [-0.5 - 0.7, -0.6])
    np.testing.assert_allclose(np.divide(logarithms(lm, []), NATS), [-0.5 - 0.6])


def test_words_can_be_spelled_in_tokens(small):
    lm = ctcx.NGram.from_arpa(small, ["_", "a", "b", "|"], separator="|")
    # |ab||b| is the words ab and b; each is judged when it is whole.
    found = np.divide(logarithms(lm, [3, 1, 2, 3, 3, 2, 3]), NATS)
    np.testing.assert_allclose(found, [0, 0, 0, -0.2, 0, 0, -0.1, -0.6])
    np.testing.assert_allclose(
        np.divide(logarithms(lm, [1, 2, 3, 2]), NATS), [0, 0, -0.2, 0, -0.1 - 0.6]
    )
    np.testing.assert_allclose(logarithms(lm, [1])[-1], NATS * (-0.5 - 100 - 0.6))


@pytest.mark.parametrize(
    "change",
    [lambda s: s.replace("\n", "\r\n"), lambda s: "a title\n\n" + s, lambda s: "\ufeff" + s],
    ids=["carriage returns", "title", "byte order mark"],
)
def test_other_ways_to_write_a_file(tmp_path, small, change):
    expected = logarithms(ctcx.NGram.from_arpa(small, ["", "ab", "b"]), [1, 2, 2])
    data = change(SMALL.replace("\t", " ")).encode()
    plain, packed = tmp_path / "other.arpa", tmp_path / "packed.gz"
    plain.write_bytes(data)
    packed.write_bytes(gzip.compress(data))
    for path in (plain, str(packed)):
        lm = pickle.loads(pickle.dumps(ctcx.NGram.from_arpa(path, ("", "ab", "b"))))
        assert logarithms(lm, [1, 2, 2]) == expected


@pytest.mark.parametrize("separator", [None, "c"])
def test_all_labels_at_once_have_the_probabilities_that_each_has(separator):
    tokens = ["", "a", "bb", "c", "never", "a"]
    lm = ctcx.NGram.from_arpa(FILES / "with_unknown.arpa", tokens, separator)
    rng = np.random.default_rng(0)
    state = lm.start()
    for label in rng.integers(1, 6, size=40).tolist():
        each = [lm.score(state, k)[0] for k in range(6)]
        np.testing.assert_allclose(lm.log_probs(state), each, atol=1e-12)
        _, state = lm.score(state, label)


class OneByOne:
    """The same model, which is asked about labels one by one."""

    def __init__(self, lm):
        self.start, self.score, self.finish = lm.start, lm.score, lm.finish


def test_a_search_does_not_depend_on_how_the_model_is_asked(small):
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(2, 30, 6))
    for tokens, separator in ((["", "ab", "b", "c", "x", "b"], None), ([*"_ab|xa"], "|")):
        lm = ctcx.NGram.from_arpa(small, tokens, separator)
        one, other = (
            ctcx.ctc_beam_search(logits, lm=each, width=8, top=8, label_bonus=1.0, lm_weight=0.4)
            for each in (lm, OneByOne(lm))
        )
        assert one.labels.tolist() == other.labels.tolist()
        np.testing.assert_allclose(one.scores, other.scores)


class Stricter(ctcx.NGram):
    def score(self, state, label):
        log_prob, state = super().score(state, label)
        return log_prob - 2.0, state


def test_a_class_that_inherits_from_ngrams_is_asked_itself(small):
    lm, stricter = (each.from_arpa(small, ["", "ab", "b"]) for each in (ctcx.NGram, Stricter))
    logits = np.random.default_rng(2).normal(size=(5, 3))
    options = {"top": 16, "exact_scores": False}
    plain = ctcx.ctc_beam_search(logits, lm=lm, **options)
    found = ctcx.ctc_beam_search(logits, lm=stricter, **options)
    expected = ctcx.ctc_beam_search(logits, lm=lm, label_bonus=-2.0, **options)
    assert found.labels.tolist() == expected.labels.tolist()
    np.testing.assert_allclose(found.scores, expected.scores)
    assert found.scores[0] < plain.scores[0]


def test_what_a_model_has_said_is_the_callers(small):
    lm = ctcx.NGram.from_arpa(small, ["", "ab", "b"])
    said = lm.log_probs(lm.start())
    before = said.copy()
    said[:] = 0.0
    np.testing.assert_array_equal(lm.log_probs(lm.start()), before)


def test_a_search_prefers_what_the_model_knows(small):
    logits = np.log([[0.1, 0.4, 0.5], [0.9, 0.05, 0.05], [0.1, 0.4, 0.5]])
    lm = ctcx.NGram.from_arpa(small, ["", "ab", "b"])
    assert ctcx.ctc_beam_search(logits).labels.tolist() == [[2, 2]]
    found = ctcx.ctc_beam_search(logits, lm=lm, width=30, top=30)
    assert found.labels[0].tolist() == [1, 2, -1]
    for k in range(int(found.count)):
        labels = found.labels[k, : found.lengths[k]].tolist()
        total = sum(logarithms(lm, labels)) - ctcx.ctc_loss(logits, labels)
        assert float(found.scores[k]) == pytest.approx(total)
    state = ctcx.BeamState()
    for chunk in logits[:, None]:
        options = {"lm": lm, "width": 30, "top": 30, "exact_scores": False}
        so_far = ctcx.ctc_beam_search(chunk, state=state, **options)
        state = pickle.loads(pickle.dumps(so_far.state))
    assert so_far.labels.tolist() == found.labels.tolist()


WRONG = {
    "no ARPA": (lambda _: "hello\n", 1, "ends without .data."),
    "nothing": (lambda _: "", 1, "ends without .data."),
    "counts alone": (lambda s: s[: s.index("\\1")], 4, "expected .1-grams:; the file ends here"),
    "cut off": (lambda s: s[: s.index("-0.7")], 8, "there are 3, and the file ends here"),
    "no counts": (lambda s: s.replace("ngram 1=4\nngram 2=2\n", ""), 3, "expected 'ngram 1='"),
    "an order left out": (lambda s: s.replace("ngram 2=2", "ngram 3=2"), 3, "number of 2-grams"),
    "fewer n-grams": (lambda s: s.replace("1=4", "1=5"), 11, "expected 5 1-grams.*there are 4"),
    "more n-grams": (lambda s: s.replace("1=4", "1=3"), 9, r"2-grams: after 3 1-grams.*got '-0.7"),
    "more at the end": (lambda s: s.replace("2=2", "2=1"), 13, r"end. after 1 2-grams"),
    "another title": (lambda s: s.replace("\\1-grams", "\\2-grams"), 5, r"expected .1-grams:; got"),
    "no end": (
        lambda s: s.replace("\\end\\\n", ""),
        14,
        "expected .end. after 2 2-grams.*; the file ends here",
    ),
    "more after the end": (
        lambda s: s + "\nngram 1=4\n",
        17,
        "nothing after .end.; got 'ngram 1=4'",
    ),
    "no number": (
        lambda s: s.replace("-0.7", "x"),
        9,
        "as the logarithm of a probability; got 'x'",
    ),
    "another back-off": (
        lambda s: s.replace("-0.3", "x"),
        8,
        "the back-off, after 1 word; got 'x'",
    ),
    "a back-off of pairs": (
        lambda s: s.replace("ab b", "ab b\tx"),
        13,
        "the back-off, after 2 words; got 'x'",
    ),
    "a Python number": (lambda s: s.replace("-0.7", "-0_7"), 9, "expected a number .*; got '-0_7'"),
    "NaN": (lambda s: s.replace("-0.7", "nan"), 9, "expected a number .*; got 'nan'"),
    "a probability": (lambda s: s.replace("-0.7", "0.7"), 9, "at most 0, got 0.7"),
    "an infinite back-off": (lambda s: s.replace("-0.3", "inf"), 8, "finite back-off, got inf"),
    "a back-off too many": (lambda s: s.replace("ab b", "ab b\t-1"), 13, "no back-off, got -1"),
    "too few words": (lambda s: s.replace("ab b", "ab"), 13, "a logarithm, 2 words and"),
    "too many words": (lambda s: s.replace("ab b", "a b c d"), 13, "a logarithm, 2 words and"),
    "a word of its own": (lambda s: s.replace("ab b", "ab c"), 13, "the word 'c' is not among"),
    "the same again": (lambda s: s.replace("\tb\n", "\tab\n"), 9, "'ab' is there twice"),
    "no end of sentences": (lambda s: s.replace("</s>", "x"), 15, "has no 1-gram </s>"),
    "no UTF-8": (lambda s: s.replace("ab b", "ab \udcff"), 13, "no UTF-8: .* at byte 8"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_file_is_refused_with_the_line(tmp_path, kind):
    change, line, message = WRONG[kind]
    path = tmp_path / "wrong.arpa"
    text = change(SMALL)
    assert text != SMALL
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(
        ctcx.CTCInputError, match=rf"path: .*wrong.arpa, line {line}: .*{message}"
    ) as caught:
        ctcx.NGram.from_arpa(path, ["", "ab"])
    assert caught.value.position == line


def test_probabilities_above_1_count_as_they_are(small):
    small.write_text(SMALL.replace("-0.3", "0.9"), encoding="utf-8")
    for tokens, separator in ((["", "ab", "b"], None), (["", "ab", "b", "|"], "|")):
        lm = ctcx.NGram.from_arpa(small, tokens, separator)
        logits = np.random.default_rng(2).normal(size=(6, len(tokens)))
        for sizes in ({"width": 200, "top": 50}, {"width": 2, "top": 2}):
            found = ctcx.ctc_beam_search(logits, lm=lm, **sizes)
            for k in range(int(found.count)):
                labels = found.labels[k, : found.lengths[k]].tolist()
                expected = float(found.log_probs[k]) + sum(logarithms(lm, labels))
                assert float(found.scores[k]) == pytest.approx(expected)
        assert max(logarithms(lm, [1, *([3] * bool(separator)), 1])) > 0


def test_contexts_of_any_length_have_their_probabilities(tmp_path):
    size = 1100
    lines = ["\\data\\", *(f"ngram {k}={3 if k == 1 else 1}" for k in range(1, size + 1))]
    for k in range(1, size + 1):
        lines += [f"\\{k}-grams:", *(["-9 <s>", "-1 </s>"] if k == 1 else [])]
        lines += ["-0.25" + " a" * k + (" -0.001" if k < size else "")]
    path = tmp_path / "long.arpa"
    path.write_text("\n".join([*lines, "\\end\\", ""]), encoding="utf-8")
    lm = ctcx.NGram.from_arpa(path, ["</s>", "a"])
    state = lm.after_labels([1] * size)
    expected = NATS * np.array([-1 - 0.001 * (size - 1), -0.25])
    np.testing.assert_allclose(lm.log_probs(state), expected)


def test_a_state_goes_on_with_its_own_model_only(tmp_path, small):
    tokens, logits = ["", "ab", "b"], np.zeros((4, 3))
    options = {"exact_scores": False, "width": 4}
    state = ctcx.ctc_beam_search(
        logits, lm=ctcx.NGram.from_arpa(small, tokens), state=ctcx.BeamState(), **options
    ).state
    other = tmp_path / "other.arpa"
    other.write_text(SMALL.replace("-0.2\t", "-0.25\t"), encoding="utf-8")
    for lm in (
        ctcx.NGram.from_arpa(other, tokens),
        ctcx.NGram.from_arpa(small, ["", "b", "ab"]),
        ctcx.NGram.from_arpa(small, tokens, separator="b"),
        OneByOne(ctcx.NGram.from_arpa(small, tokens)),
    ):
        with pytest.raises(ctcx.CTCInputError, match=r"another lm \('NGram \w{16}'; now ['<]\w"):
            ctcx.ctc_beam_search(logits, lm=lm, state=state, **options)
    same = pickle.loads(pickle.dumps(ctcx.NGram.from_arpa(small, tokens)))
    assert ctcx.ctc_beam_search(logits, lm=same, state=state, **options).state is not None


def test_other_mistakes_are_refused(tmp_path, small):
    with pytest.raises(ctcx.CTCInputError, match=r"none.arpa can't be read: No such file"):
        ctcx.NGram.from_arpa(tmp_path / "none.arpa", ["a"])
    broken = tmp_path / "broken.gz"
    broken.write_bytes(gzip.compress(SMALL.encode())[:-20])
    with pytest.raises(ctcx.CTCInputError, match=r"broken.gz can't be read after line \d+: "):
        ctcx.NGram.from_arpa(broken, ["a"])
    broken.write_bytes(gzip.compress(SMALL.encode())[:-4])  # all lines are there
    with pytest.raises(ctcx.CTCInputError, match=r"broken.gz can't be read after line 15: "):
        ctcx.NGram.from_arpa(broken, ["a"])
    for path in (5, None, SMALL.encode()):
        with pytest.raises(ctcx.CTCInputError, match=r"path must be a str or .*; got \w+$"):
            ctcx.NGram.from_arpa(path, ["a"])
    with pytest.raises(
        ctcx.CTCInputError, match=r"tokens\[1\] is 5, of type int: .*class 1"
    ) as one:
        ctcx.NGram.from_arpa(small, ["a", 5])
    assert (one.value.position, one.value.value) == (1, 5)
    with pytest.raises(ctcx.CTCInputError, match=r"tokens must be a sequence .*got NoneType"):
        ctcx.NGram.from_arpa(small, None)
    with pytest.raises(ctcx.CTCInputError, match=r"tokens must be a sequence of strings.*got str"):
        ctcx.NGram.from_arpa(small, "ab")
    with pytest.raises(
        ctcx.CTCInputError, match=r"none is a word of .*small.arpa, whose words begin"
    ):
        ctcx.NGram.from_arpa(small, ["x", "y"])
    with pytest.raises(ctcx.CTCInputError, match=r"separator must .* ' ' is none"):
        ctcx.NGram.from_arpa(small, ["a"], separator=" ")
    lm = ctcx.NGram.from_arpa(small, ["", "ab"])
    with pytest.raises(ctcx.CTCInputError, match=r"label 2 has no token.*made for 2 classes"):
        lm.score(lm.start(), 2)
    with pytest.raises(ctcx.CTCInputError, match="tokens of 2 classes, but the logits have 3"):
        ctcx.ctc_beam_search(np.zeros((1, 3)), lm=lm)


def test_a_model_says_what_it_is_of_and_what_it_does_not_know(small):
    lm = ctcx.NGram.from_arpa(small, (token for token in ["", "ab", "b", "x"]))
    assert repr(lm) == "<NGram of order 2: knows 2 of 4 tokens>"
    assert lm.unknown == (0, 3)
    # The file has no <unk>, so each of those has a probability of 1e-100.
    assert lm.score(((), ""), 3)[0] == lm.score(((), ""), 0)[0] == pytest.approx(-100 * NATS)
    spelled = ctcx.NGram.from_arpa(small, ["", "a", "b", "|"], separator="|")
    assert repr(spelled) == "<NGram of order 2: 2 words, spelled in 4 tokens with '|' between>"
    assert spelled.unknown == ()


def test_the_example_reads_one_more_line(capsys):
    example = Path(__file__).parents[1] / "docs/examples/decode_lines_with_a_model.py"
    runpy.run_path(str(example), run_name="__main__")
    rows = [line.split("'")[1::2] for line in capsys.readouterr().out.splitlines()]
    assert sum(written == plain for written, plain, _ in rows) == 6
    assert sum(written == found for written, _, found in rows) == 7
