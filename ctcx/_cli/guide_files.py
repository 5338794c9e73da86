"""Files that say what a search is to prefer: phrases, and n-gram models."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NoReturn

from ctcx._api.guided_search import LARGEST_WEIGHT
from ctcx._api.ngram import NGram
from ctcx._cli.token_files import SPACES, read_text
from ctcx._errors import CTCInputError

if TYPE_CHECKING:
    from ctcx._cli.token_files import TokenTable

__all__ = ["read_model", "read_phrases", "unknown_tokens"]

_WEIGHT = 1.0
"""Of a phrase without one, in nats a token."""

_SPACE = "<space>"
"""What a space is called in the files of models of tokens, which can't have one as a word."""


def read_phrases(path: str, table: TokenTable) -> dict[tuple[int, ...], float]:
    """Read phrases, one a line, perhaps with a tab and a weight.

    Raises CTCInputError: the file can't be read, or has no phrase; a phrase can't be spelled, or is
    there twice; a weight is no number, or too large. The message has the line.
    """
    found: dict[tuple[int, ...], float] = {}
    lines: dict[tuple[int, ...], int] = {}

    def refuse(number: int, why: str, value: str) -> NoReturn:
        msg = f"--boost: {path}, line {number}: {why}"
        raise CTCInputError(msg, argument="boost", position=number, value=value)

    for number, line in enumerate(read_text("--boost", path).split("\n"), start=1):
        phrase, tab, weight = line.removesuffix("\r").partition("\t")
        if not phrase and not tab:
            continue
        try:
            labels = tuple(table.labels_of(phrase))
        except CTCInputError as error:
            refuse(number, str(error), phrase)
        nats = _number(weight) if tab else _WEIGHT
        if not labels or not math.isfinite(nats):
            why = f"expected a phrase, or one, a tab and a finite number; got {line!r}"
            refuse(number, why, line)
        if abs(nats) > LARGEST_WEIGHT:
            refuse(number, f"expected a weight of at most 1e9 in size; got {weight}", weight)
        if labels in found:
            refuse(number, f"line {lines[labels]} has the same phrase {phrase!r}", phrase)
        found[labels], lines[labels] = nats, number
    if not found:
        msg = f"--boost: {path} has no phrases: expected one a line"
        raise CTCInputError(msg, argument="boost", value=path)
    return found


def _number(text: str) -> float:
    """Return a number, or NaN for what is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def read_model(path: str, table: TokenTable, classes: int, *, words: bool) -> NGram:
    """Read a model of tokens, or of words that are spelled in them.

    Raises CTCInputError: the file is wrong, or has none of the tokens; no token stands between
    words.
    """
    names = [table.names.get(label, f"<{label}>") for label in range(classes)]
    separator = _separator(table) if words else None
    if not words:
        names = [_SPACE if name == " " else name for name in names]
    try:
        return NGram.from_arpa(path, names, separator)
    except CTCInputError as error:
        why = str(error).removeprefix("path: ")
        if error.argument == "tokens":
            first = ", ".join(map(repr, error.value or ())) or "none"  # type: ignore[call-overload]
            why = (
                f"none of the tokens in {table.path} is a word of {path}, whose words begin with "
                f"{first}: if tokens spell its words, add --lm-words; else it needs a model of "
                f"these tokens"
            )
        msg = f"--lm: {why}"
        raise CTCInputError(msg, argument="lm", position=error.position, value=path) from None


def unknown_tokens(model: NGram, table: TokenTable) -> list[str]:
    """Return the tokens that a model doesn't have, but for the blank's."""
    return [table.names.get(k, f"<{k}>") for k in model.unknown if k != table.blank]


def _separator(table: TokenTable) -> str:
    """Return the token between words.

    Raises CTCInputError: there is none.
    """
    if table.space is not None and table.space in table.names.values():
        return table.space
    spaces = ", ".join(map(repr, SPACES))
    why = f"no token of {table.path} stands between words: expected one of {spaces}"
    if table.space is not None:
        why = (
            f"{table.path} has pieces that begin words with {table.space!r}, but no token "
            f"{table.space!r} that stands between words: make a model of the pieces, and leave "
            f"--lm-words out"
        )
    msg = f"--lm-words: {why}"
    raise CTCInputError(msg, argument="lm_words")
