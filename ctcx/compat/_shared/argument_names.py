"""Say errors in the terms of the function that was called, not in those of ctcx."""

from __future__ import annotations

import re
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ctcx._errors import CTCInputError
from ctcx._inputs.host_data import plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["in_terms", "is_ragged", "refuse", "renamed", "required", "shape_of", "to_host"]


@contextmanager
def in_terms(terms: Mapping[str, str], kind: type[CTCInputError] = CTCInputError) -> Iterator[None]:
    """Rename ctcx's arguments in the errors of a block: ``{"logits": "log_probs", ...}``.

    They are raised as errors of the class ``kind``, but for those that have a more special one.
    """
    try:
        yield
    except CTCInputError as error:
        if isinstance(error, (RuntimeError, TypeError)):
            raise
        raise kind(
            renamed(str(error), terms),
            argument=terms.get(error.argument, error.argument),
            sequence=error.sequence,
            position=error.position,
            value=error.value,
        ) from None


def renamed(message: str, terms: Mapping[str, str]) -> str:
    """Return a message of ctcx with the arguments renamed as :func:`in_terms` says."""
    # "the blank" is a word too: the argument stands first, or before its value.
    names = "|".join(name for name in terms if name != "blank")
    words = re.compile(rf"\b({names})\b|\b(blank)(?==)|\A(blank)\b")
    return words.sub(lambda word: terms.get(word[0], word[0]), message)


def refuse(
    argument: str, expected: str, got: object, kind: type[CTCInputError] = CTCInputError
) -> NoReturn:
    """Raise the error that says what an argument must be and what it is.

    Raises CTCInputError: always; of the class ``kind``.
    """
    msg = f"{argument} must {expected}; got {got}"
    raise kind(msg, argument=argument)


def is_ragged(value: Any) -> bool:
    """Whether it is a RaggedTensor of TensorFlow."""
    return hasattr(value, "row_lengths") and hasattr(value, "to_tensor")


def shape_of(value: Any) -> str:
    """Shape of an array, or the type of something else, for a message."""
    shape = getattr(value, "shape", None)
    if shape is None:
        return f"a {type(value).__name__}"
    return f"shape {tuple(shape)}"


def to_host(argument: str, value: Any) -> Any:
    """Small integers of any library, or lists, as a NumPy array.

    Raises CTCInputError: a masked array.
    """
    if hasattr(value, "get") and hasattr(value, "dtype"):  # CuPy
        value = value.get()
    elif hasattr(value, "detach"):  # PyTorch
        value = value.detach().cpu()
    return np.asarray(plain(argument, value))


def required(module: str, extra: str, what: str) -> Any:
    """Import a framework for something that can't do without it.

    Raises ImportError: it isn't installed; names the extra of ctcx that installs it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        msg = f"{what} needs {module}, which is not installed: pip install 'ctcx[{extra}]'"
        raise ImportError(msg, name=error.name) from error
