"""Files that say which token each class is, and the labels that a text is spelled with."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctcx._errors import CTCInputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["SPACES", "TokenTable", "read_text", "read_tokens"]

SPACES = (" ", "<space>", "|", "▁")
"""Tokens that stand for a space, in vocabularies of speech recognisers."""

_NUMBERED = re.compile(r"(\S+)[ \t]+(\d{1,18})")
"""A line of a file that names the class of each token, such as Kaldi's and k2's."""


@dataclass(frozen=True)
class TokenTable:
    """The tokens of a model."""

    path: str
    """Of the file, for messages."""
    names: Mapping[int, str]
    """The token of each class."""
    blank: int
    """Class of the blank, from 0."""
    places: Mapping[int, str]
    """Where in the file the token of each class is, for messages."""

    @property
    def space(self) -> str | None:
        """What stands between words; None if no token does."""
        known = {name for label, name in self.names.items() if label != self.blank}
        found = next((space for space in SPACES if space in known), None)
        return found or ("▁" if any(name.startswith("▁") for name in known) else None)

    def text_of(self, labels: Iterable[int]) -> str:
        """Join the tokens of labels; a class without one is written as its number, ``<7>``."""
        text = "".join(self.names.get(label, f"<{label}>") for label in labels)
        space = self.space
        if space is None:
            return text
        text = text.replace(space, " ")
        return text.removeprefix(" ") if space == "▁" else text  # as SentencePiece begins each

    def labels_of(self, text: str, *, or_else: str = "") -> list[int]:
        """Spell a text: at each place with the longest token that is there.

        Raises CTCInputError: no token stands for a character, or several classes have the same one;
        ``or_else`` is what helps besides another file of tokens.
        """
        classes: dict[str, list[int]] = {}
        for label, name in self.names.items():
            if name and label != self.blank:
                classes.setdefault(name, []).append(label)
        longest = max(map(len, classes), default=0)
        space, found, place, added = self.space, [], 0, 0
        spelled = text if space is None else text.replace(" ", space)
        begins = any(name.startswith("▁") and name != "▁" for name in classes)
        if space == "▁" and begins and text[:1] not in {"", " "}:
            spelled, added = f"▁{spelled}", 1  # as SentencePiece begins each text
        while place < len(spelled):
            sizes = range(min(longest, len(spelled) - place), 0, -1)
            token = next((t for n in sizes if (t := spelled[place : place + n]) in classes), None)
            if token is None and place < added:
                msg = (
                    f"text {text!r}: {self.path} has no token to begin it with, neither '▁' nor "
                    f"one that begins with '▁{text[0]}'"
                )
                raise CTCInputError(msg, argument="text", position=0, value=text[0])
            if token is None:
                before = spelled[added:place].replace(space or " ", " ")
                self._refuse(text, len(before), classes)
            elif len(classes[token]) > 1:
                several = " and ".join(f"{k} ({self.places[k]})" for k in classes[token])
                msg = (
                    f"{self.path} has {token!r} for the classes {several}, so a text doesn't say "
                    f"which one it means: name them differently{or_else}"
                )
                raise CTCInputError(msg, argument="tokens", value=token)
            else:
                found.append(classes[token][0])
                place += len(token)
        return found

    def _refuse(self, text: str, place: int, classes: Mapping[str, object]) -> None:
        character = text[place : place + 1] or " "
        why = f"no token of {self.path}"
        if self.names.get(self.blank) == character:
            why = f"the token of the blank (class {self.blank}), which no label may be"
        other = next((c for c in (character.upper(), character.lower()) if c in classes), None)
        hint = "" if other is None else f"; there is {other!r}"
        msg = (
            f"text has {character!r} (U+{ord(character):04X}) as character {place + 1} of "
            f"{text!r}: that is {why}{hint}"
        )
        raise CTCInputError(msg, argument="text", position=place, value=character)


def read_text(argument: str, path: str) -> str:
    """Return the text of a file; an error says which argument named it."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        msg = f"{argument}: {path} can't be read: {error.strerror}"
    except UnicodeDecodeError as error:
        msg = f"{argument}: {path} is no UTF-8 text: {error.reason} at byte {error.start}"
    raise CTCInputError(msg, argument=argument, value=path)


def read_tokens(path: str, classes: int, blank: int) -> TokenTable:
    """Read the token of each class.

    The file is text with one token a line, in the order of the classes, or with lines of a token
    and its class; or it is a .json file with a list of tokens or an object from tokens to classes.

    Raises CTCInputError: it can't be read, or names more or fewer classes than there are.
    """
    text = read_text("tokens", path)
    is_json = path.lower().endswith(".json")
    tokens, labels = _of_json(path, text) if is_json else _of_lines(path, text)
    unit = "line" if not is_json else "entry"
    for token in tokens:
        if not token.isprintable() and any("\ud800" <= c <= "\udfff" for c in token):
            msg = f"tokens: {path} has {token!r}, half a character, which no text can hold"
            raise CTCInputError(msg, argument="tokens", value=token)
    if labels is None:
        if len(tokens) != classes:
            blanks = " (the blank needs a line too, which may be empty)"
            msg = (
                f"tokens: {path} has {len(tokens)} tokens: expected {classes}, one for each class"
                f"{blanks if len(tokens) == classes - 1 else ''}"
            )
            raise CTCInputError(msg, argument="tokens", value=len(tokens))
        labels = list(range(classes))
    names: dict[int, str] = {}
    places: dict[int, str] = {}
    for number, (token, label) in enumerate(zip(tokens, labels, strict=True), start=1):
        if label in names or not 0 <= label < classes:
            why = f"0 to {classes - 1} exist"
            if label in names:
                why = f"that of {names[label]!r} ({places[label]}) too"
            msg = f"tokens: {path} has class {label} for {token!r} ({unit} {number}): {why}"
            raise CTCInputError(msg, argument="tokens", value=label)
        names[label], places[label] = token, f"{unit} {number}"
    return TokenTable(path, names, blank, places)


def _of_lines(path: str, text: str) -> tuple[list[str], list[int] | None]:
    """Return tokens, and their classes if those are there."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if not lines[-1]:
        del lines[-1]
    matches = [_NUMBERED.fullmatch(line) for line in lines]
    numbered = [match for match in matches if match]
    if lines and len(numbered) == len(lines):
        return [match[1] for match in numbered], [int(match[2]) for match in numbered]
    if len(numbered) > len(lines) // 2:
        odd = matches.index(None)
        msg = (
            f"tokens: line {odd + 1} of {path} is {lines[odd]!r}: expected a token and its "
            f"class, as {len(numbered)} of {len(lines)} lines have"
        )
        raise CTCInputError(msg, argument="tokens", value=lines[odd])
    return lines, None


def _of_json(path: str, text: str) -> tuple[list[str], list[int] | None]:
    """Return tokens, and their classes if those are there."""

    def each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        first: dict[str, int] = {}
        for number, (token, label) in enumerate(pairs, start=1):
            if token in first:
                other = pairs[first[token] - 1][1]
                msg = (
                    f"tokens: {path} has {token!r} twice, for the classes {other} (entry "
                    f"{first[token]}) and {label} (entry {number}): name them differently"
                )
                raise CTCInputError(msg, argument="tokens", value=token)
            first[token] = number
        return dict(pairs)

    try:
        found = json.loads(text, object_pairs_hook=each_once)
    except CTCInputError:
        raise
    except (ValueError, RecursionError) as error:  # the latter of lists within lists within lists
        msg = f"tokens: {path} is no JSON: {error}"
        raise CTCInputError(msg, argument="tokens", value=path) from None
    if isinstance(found, list) and all(isinstance(token, str) for token in found):
        return found, None
    if isinstance(found, dict) and all(type(label) is int for label in found.values()):
        return list(found), list(found.values())
    msg = f"tokens: {path} must be a list of tokens, or an object from tokens to classes"
    raise CTCInputError(msg, argument="tokens", value=path)
