"""Files that say what a search is to prefer: phrases, and n-gram models."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ctcx._api.ngram import NGram
from ctcx._cli.token_files import read_text
from ctcx._errors import CTCInputError

if TYPE_CHECKING:
    from ctcx._cli.token_files import TokenTable

__all__ = ["read_model", "read_phrases"]

_WEIGHT = 1.0
"""Of a phrase without one, in nats a token."""

_SPACE = "<space>"
"""What a space is called in the files of models of tokens, which can't have one as a word."""


def read_phrases(path: str, table: TokenTable) -> dict[tuple[int, ...], float]:
    """Read phrases, one a line, perhaps with a tab and a weight.

    Raises CTCInputError: the file can't be read; a phrase can't be spelled; a weight is no finite
    number.
    """
    found: dict[tuple[int, ...], float] = {}
    for number, line in enumerate(read_text("boost", path).split("\n"), start=1):
        phrase, tab, weight = line.removesuffix("\r").partition("\t")
        if not phrase and not tab:
            continue
        try:
            labels = tuple(table.labels_of(phrase))
            nats = float(weight) if tab else _WEIGHT
        except CTCInputError as error:
            msg = f"boost: {path}, line {number}: {error}"
            raise CTCInputError(msg, argument="boost", position=number, value=phrase) from None
        except ValueError:
            nats = math.nan
        if not labels or not math.isfinite(nats):
            msg = (
                f"boost: {path}, line {number}: expected a phrase, or one, a tab and a finite "
                f"number; got {line!r}"
            )
            raise CTCInputError(msg, argument="boost", position=number, value=line)
        found[labels] = nats
    return found


def read_model(path: str, table: TokenTable, classes: int, *, words: bool) -> NGram:
    """Read a model of tokens, or of words that are spelled in them.

    Raises CTCInputError: the file is wrong; no token stands between words.
    """
    names = [table.names.get(label, f"<{label}>") for label in range(classes)]
    if not words:
        return NGram.from_arpa(path, [_SPACE if name == " " else name for name in names])
    if table.space is None or table.space not in names:
        msg = f"--lm-words: no token of {table.path} stands between words"
        raise CTCInputError(msg, argument="lm_words")
    return NGram.from_arpa(path, names, separator=table.space)
