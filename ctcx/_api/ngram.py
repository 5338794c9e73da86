"""N-gram language models, from files in the form that ARPA made common."""

from __future__ import annotations

import gzip
import hashlib
import math
import re
import zlib
from collections.abc import Iterable
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias

import numpy as np

from ctcx._errors import CTCInputError, short_repr
from ctcx._inputs.host_data import type_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["Gram", "NGram"]

_Context: TypeAlias = "tuple[str, ...]"

_BEGIN, _END, _UNKNOWN = "<s>", "</s>", "<unk>"

_MISSING = -100.0
"""log10 of the probability of unknown words if the file doesn't say: as in KenLM."""

_COUNT = re.compile(r"ngram[ \t]+(\d{1,18})[ \t]*=[ \t]*(\d{1,18})")
_BLANKS = re.compile(r"[ \t]+")  # not all of Unicode's: words may hold those


_MOST_KEPT = 2**22
"""How many logarithms of labels are kept to be used again, 32 MiB."""


class Gram(NamedTuple):
    """Natural logarithms: of the probability, and of what to multiply shorter contexts by."""

    log_prob: float
    back_off: float


class NGram:
    r"""An n-gram model with back-off, as ``lm`` of :func:`ctcx.ctc_beam_search`.

    .. math::
        P(w \mid u v) = \begin{cases}
            p(u v w) & \text{if the file has the n-gram} \\
            \text{back-off}(u v)\, P(w \mid v) & \text{else, with 1 if it has no } u v
        \end{cases}

    It begins after ``<s>`` and ends with ``</s>``. A word that the file doesn't have is ``<unk>``,
    which has a probability of 1e-100 if the file has none. This is how KenLM reads these files.
    Where the back-offs of a file make a probability larger than 1, it counts as it is.

    Made by ``ctcx.NGram.from_arpa``. It holds plain dicts, and can be pickled. The property
    ``grams`` is a dict of each n-gram, a tuple of words, to natural logarithms of its probability
    and of its back-off (0 if it has none). The property ``unknown`` is a tuple of the classes whose
    token isn't a word of the file, so that it counts as ``<unk>``; empty with a separator.

    Attributes
    ----------
    order : int
        The most words of an n-gram.
    tokens : tuple of str
        Of the classes.
    separator : str or None
        The token between words; None if each token is a word.
    """

    def __init__(
        self,
        entries: dict[_Context, Gram],
        order: int,
        tokens: tuple[str, ...],
        separator: str | None,
    ) -> None:
        self._entries = entries
        # What an n-gram begins with may be no n-gram itself.
        self._contexts = {(), *(gram for gram in entries if len(gram) < order)}
        for gram in entries:
            context = gram[:-1]
            while context not in self._contexts:
                self._contexts.add(context)
                context = context[:-1]
        self.order = order
        self.tokens = tokens
        self.separator = separator
        # After each context, the classes that n-grams of the file end in, and their numbers.
        self._followers: dict[_Context, tuple[list[int], list[float]]] = {}
        self._rows: dict[_Context, NDArray[np.float64]] = {}
        if separator is None:
            self._index(entries)

    def _index(self, entries: dict[_Context, Gram]) -> None:
        classes: dict[str, list[int]] = {}
        for label, token in enumerate(self.tokens):
            known = token if (token,) in entries else _UNKNOWN
            classes.setdefault(known, []).append(label)
        for gram, entry in entries.items():
            if gram[-1] in classes:
                labels, log_probs = self._followers.setdefault(gram[:-1], ([], []))
                labels += classes[gram[-1]]
                log_probs += [entry.log_prob] * len(classes[gram[-1]])

    @property
    def grams(self) -> Mapping[tuple[str, ...], tuple[float, float]]:
        """Probability and back-off of the file's n-grams, as logarithms."""
        return self._entries

    @classmethod
    def from_arpa(
        cls,
        path: str | PathLike[str],
        tokens: Sequence[str],
        separator: str | None = None,
    ) -> NGram:
        r"""Read a model from an ARPA file.

        Parameters
        ----------
        path : str or path-like
            Of the file, UTF-8, plain or compressed by gzip.
        tokens : sequence of str
            The token of each class, as the file writes it; that of the blank doesn't matter. The
            file can't have a space as a word, so a model of characters calls it something else.
            A token that the file doesn't have is ``<unk>``: ``unknown`` lists its class.
        separator : str, optional
            The token between words, for a model of words that are spelled in tokens. The model
            gives the probability of a word at the separator after it, or at the end.

        Returns
        -------
        NGram

        Raises
        ------
        CTCInputError
            The file can't be read, or a line isn't what it should be: with its number. A token is
            no string (with its index), or none is in the file; the separator isn't one of them.

        Examples
        --------
        >>> import ctcx, pathlib, tempfile
        >>> text = '''\\data\\
        ... ngram 1=4
        ... ngram 2=2
        ...
        ... \\1-grams:
        ... -99 <s> -0.5
        ... -0.6 </s>
        ... -0.5 a -0.3
        ... -0.7 b
        ...
        ... \\2-grams:
        ... -0.2 <s> a
        ... -0.1 a b
        ...
        ... \\end\\
        ... '''
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "small.arpa")
        ...     _ = file.write_text(text, encoding="utf-8")
        ...     lm = ctcx.NGram.from_arpa(file, tokens=["", "a", "b"])
        >>> log_prob, state = lm.score(lm.start(), 1)
        >>> round(log_prob, 3)  # -0.2 ln 10
        -0.461
        """
        _check_path(path)
        tokens = _checked_tokens(tokens)
        if separator is not None and separator not in tokens:
            msg = f"separator must be one of the tokens; {separator!r} is none"
            raise CTCInputError(msg, argument="separator", value=separator)
        entries, order = _Reader(path).read()
        if separator is None and not any((token,) in entries for token in tokens):
            words = sorted({gram[0] for gram in entries} - {_BEGIN, _END, _UNKNOWN})[:3]
            shown = ", ".join(map(repr, words)) or "none"
            msg = (
                f"tokens: none is a word of {path}, whose words begin with {shown}: write them as "
                f"the file does, or name a separator, if tokens spell its words"
            )
            raise CTCInputError(msg, argument="tokens", value=tuple(words))
        return cls(entries, order, tokens, separator)

    def __repr__(self) -> str:
        if self.separator is None:
            known = len(self.tokens) - len(self.unknown)
            what = f"knows {known} of {len(self.tokens)} tokens"
        else:
            others = {(_BEGIN,), (_END,), (_UNKNOWN,)}
            words = sum(len(gram) == 1 and gram not in others for gram in self._entries)
            spelled = f"spelled in {len(self.tokens)} tokens with {self.separator!r} between"
            what = f"{words} words, {spelled}"
        return f"<{type(self).__name__} of order {self.order}: {what}>"

    @property
    def unknown(self) -> tuple[int, ...]:
        """The classes whose token the file doesn't have; none with a separator.

        Such a token counts as ``<unk>``. That of the blank, which the model isn't asked about, is
        often among them.
        """
        if self.separator is not None:
            return ()
        entries = self._entries
        return tuple(k for k, token in enumerate(self.tokens) if (token,) not in entries)

    @cached_property
    def fingerprint(self) -> str:
        """A text that other n-grams, other tokens or another separator change."""
        digest = hashlib.blake2b(digest_size=8)
        texts = [*map(" ".join, self._entries), *self.tokens, repr(self.separator)]
        digest.update("\n".join(texts).encode("utf-8", "surrogatepass"))
        digest.update(np.array(list(self._entries.values())).tobytes())
        return digest.hexdigest()

    def start(self) -> tuple[_Context, str]:
        """Return the state before the first label."""
        return self._kept((_BEGIN,)), ""

    def score(self, state: tuple[_Context, str], label: int) -> tuple[float, tuple[_Context, str]]:
        """Return the logarithm of the probability of a label, in nats, and the next state."""
        if not 0 <= label < len(self.tokens):
            msg = f"label {label} has no token: the model was made for {len(self.tokens)} classes"
            raise CTCInputError(msg, argument="lm", value=label)
        context, spelled = state
        token = self.tokens[label]
        if self.separator is None:
            log_prob, context = self._word(context, token)
        elif token != self.separator:
            return 0.0, (context, spelled + token)
        elif spelled:
            log_prob, context = self._word(context, spelled)
        else:
            return 0.0, state
        return log_prob, (context, "")

    def log_probs(self, state: tuple[_Context, str]) -> NDArray[np.float64]:
        """Return the logarithm of the probability of each label, (C,), as ``score`` gives it."""
        context, spelled = state
        if self.separator is None:
            return self._row(context).copy()
        found = np.zeros(len(self.tokens))
        if spelled:
            ends = [token == self.separator for token in self.tokens]
            found[ends] = self._word(context, spelled)[0]
        return found

    def after_labels(self, labels: Sequence[int]) -> tuple[_Context, str]:
        """Return the state after labels, of which only the last words matter."""
        first, words = len(labels), 0
        while first > 0 and words < self.order:
            first -= 1
            words += self.separator is None or self._is_end_of_word(labels, first)
        state = self.start() if first == 0 else ((), "")
        for label in labels[first:]:
            state = self.score(state, label)[1]
        return state

    def _is_end_of_word(self, labels: Sequence[int], place: int) -> bool:
        """Whether a word ends in the separator at a place."""
        before = self.tokens[labels[place - 1]] if place > 0 else ""
        return self.tokens[labels[place]] == self.separator and before not in ("", self.separator)

    def _row(self, context: _Context) -> NDArray[np.float64]:
        missing = []
        while (found := self._rows.get(context)) is None and context:
            missing.append(context)
            context = context[1:]
        if found is None:
            found = self._keep_row((), np.empty(len(self.tokens)))
        for longer in reversed(missing):
            entry = self._entries.get(longer)
            found = self._keep_row(longer, found + (entry.back_off if entry is not None else 0.0))
        return found

    def _keep_row(self, context: _Context, row: NDArray[np.float64]) -> NDArray[np.float64]:
        """Put in what the file says of a context, and keep the row to be used again."""
        labels, log_probs = self._followers.get(context, ([], []))
        row[labels] = log_probs
        if len(self._rows) * len(row) >= _MOST_KEPT:
            self._rows.clear()
        self._rows[context] = row
        return row

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what can be computed again."""
        return {**vars(self), "_rows": {}}

    def finish(self, state: tuple[_Context, str]) -> float:
        """Return the logarithm of the probability that nothing follows, in nats."""
        context, spelled = state
        last = 0.0
        if spelled:
            last, context = self._word(context, spelled)
        return last + self._word(context, _END)[0]

    def _word(self, context: _Context, word: str) -> tuple[float, _Context]:
        """Return the logarithm of a word's probability, and the next context."""
        if (word,) not in self._entries:
            word = _UNKNOWN
        back_off = 0.0
        for first in range(len(context) + 1):
            found = self._entries.get((*context[first:], word))
            if found is not None:
                return back_off + found.log_prob, self._kept((*context, word))
            shorter = self._entries.get(context[first:])
            back_off += shorter.back_off if shorter is not None else 0.0
        raise AssertionError  # pragma: no cover - there is an entry for unknown words

    def _kept(self, words: _Context) -> _Context:
        """Return as many of the last words as can matter."""
        first = max(0, len(words) - self.order + 1)
        while first < len(words) and words[first:] not in self._contexts:
            first += 1
        return words[first:]


def _check_path(path: Any) -> None:
    if not isinstance(path, (str, PathLike)):
        msg = f"path must be a str or a path-like object; got {type_name(path)}"
        raise CTCInputError(msg, argument="path", value=path)


def _checked_tokens(tokens: Any) -> tuple[str, ...]:
    if isinstance(tokens, (str, bytes)) or not isinstance(tokens, Iterable):
        msg = f"tokens must be a sequence of strings, one a class; got {type_name(tokens)}"
        raise CTCInputError(msg, argument="tokens")
    found = tuple(tokens)
    for label, token in enumerate(found):
        if not isinstance(token, str):
            msg = (
                f"tokens[{label}] is {short_repr(token)}, of type {type_name(token)}: expected the "
                f"token of class {label} as a str"
            )
            raise CTCInputError(msg, argument="tokens", position=label, value=token)
    return found


class _Reader:
    """Reads an ARPA file, line by line."""

    def __init__(self, path: str | PathLike[str]) -> None:
        self._path = str(path)
        self._number = 0
        self._title = ""
        self._last = 0
        self._entries: dict[_Context, Gram] = {}

    def read(self) -> tuple[dict[_Context, Gram], int]:
        """Return n-grams and the longest's length."""
        try:
            with Path(self._path).open("rb") as file:
                is_gzip = file.read(2) == b"\x1f\x8b"
            with gzip.open(self._path) if is_gzip else Path(self._path).open("rb") as file:
                lines = self._lines(file)
                counts = self._counts(lines)
                for order in sorted(counts):
                    self._section(lines, order, counts[order], longest=max(counts))
                if (line := self._following(lines)) != "\\end\\":
                    most = f"{counts[max(counts)]} {max(counts)}-grams, as \\data\\ says"
                    self._refuse(f"expected \\end\\ after {most}; {_got(line)}")
                # Reading on shows, too, whether a compressed file is whole.
                if line := self._following(lines):
                    self._refuse(f"expected nothing after \\end\\; {_got(line)}")
        except (OSError, EOFError, zlib.error) as error:
            where = f" after line {self._number}" if self._number else ""
            why = getattr(error, "strerror", None) or error
            msg = f"path: {self._path} can't be read{where}: {why}"
            raise CTCInputError(msg, argument="path", value=self._path) from None
        self._complete()
        return self._entries, max(counts)

    def _lines(self, file: Iterable[bytes]) -> Iterator[str]:
        for line in file:
            self._number += 1
            try:
                # Some editors put a mark before the first line.
                text = line.decode("utf-8-sig" if self._number == 1 else "utf-8")
                yield text.strip(" \t\r\n")
            except UnicodeDecodeError as error:
                self._refuse(f"it is no UTF-8: {error.reason} at byte {error.start}")

    def _following(self, lines: Iterator[str]) -> str:
        """Return the next line that isn't empty; an empty one at the end of the file."""
        return next((line for line in lines if line), "")

    def _refuse(self, why: str) -> NoReturn:
        line = max(1, self._number)  # what isn't in an empty file would be in its first line
        msg = f"path: {self._path}, line {line}: {why}"
        raise CTCInputError(msg, argument="path", position=line, value=self._path)

    def _counts(self, lines: Iterator[str]) -> dict[int, int]:
        """Read how many n-grams of each order there are; leaves the title of the first ones."""
        if not any(line == "\\data\\" for line in lines):
            self._refuse("the file ends without \\data\\: it is no ARPA file")
        counts: dict[int, int] = {}
        while match := _COUNT.fullmatch(line := self._following(lines)):
            order, count = int(match[1]), int(match[2])
            if order != len(counts) + 1:
                self._refuse(f"expected the number of {len(counts) + 1}-grams; {_got(line)}")
            counts[order] = count
        if not counts:
            self._refuse(f"expected 'ngram 1=' and a number; {_got(line)}")
        self._title = line
        return counts

    def _section(self, lines: Iterator[str], order: int, count: int, *, longest: int) -> None:
        title = self._title if order == 1 else self._following(lines)
        if title != f"\\{order}-grams:":
            before = f" after {self._last} {order - 1}-grams, as \\data\\ says" if order > 1 else ""
            self._refuse(f"expected \\{order}-grams:{before}; {_got(title)}")
        self._last = count
        for k in range(count):
            line = self._following(lines)
            if not line or line[0] == "\\":
                ends = "" if line else ", and the file ends here"
                self._refuse(
                    f"expected {count} {order}-grams, as \\data\\ says; there are {k}{ends}"
                )
            self._gram(line, order, longest=longest)

    def _gram(self, line: str, order: int, *, longest: int) -> None:
        fields = _BLANKS.split(line)
        if len(fields) not in {order + 1, order + 2}:
            self._refuse(
                f"expected a logarithm, {order} words and perhaps a back-off, got {line!r}"
            )
        log_prob = self._number_in(fields[0], "as the logarithm of a probability")
        if not log_prob <= 0:
            self._refuse(f"expected the logarithm of a probability, at most 0, got {fields[0]}")
        back_off = 0.0
        if len(fields) == order + 2:
            words_before = f"{order} word{'s' * (order > 1)}"
            back_off = self._number_in(fields[-1], f"as the back-off, after {words_before}")
        if order == longest and back_off != 0:
            self._refuse(f"the longest n-grams have no back-off, got {fields[-1]}")
        if not math.isfinite(back_off):
            self._refuse(f"expected a finite back-off, got {fields[-1]}")
        words = tuple(_UNKNOWN if w == "<UNK>" else w for w in fields[1 : order + 1])
        if words in self._entries:
            self._refuse(f"the n-gram {' '.join(words)!r} is there twice")
        if order > 1:
            unknown = next((word for word in words if (word,) not in self._entries), None)
            if unknown is not None:
                self._refuse(f"the word {unknown!r} is not among the 1-grams")
        scale = math.log(10)
        self._entries[words] = Gram(scale * log_prob, scale * back_off)

    def _number_in(self, text: str, what: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if math.isnan(number) or "_" in text:
            self._refuse(f"expected a number {what}; got {text!r}")
        return number

    def _complete(self) -> None:
        for word in (_BEGIN, _END):
            if (word,) not in self._entries:
                self._refuse(f"the file has no 1-gram {word}")
        self._entries.setdefault((_UNKNOWN,), Gram(math.log(10) * _MISSING, 0.0))


def _got(line: str) -> str:
    """Say what a line has; an empty one stands for the end of the file."""
    return f"got {line!r}" if line else "the file ends here"
