"""Logits from the files that NumPy writes, and the options that say which and how."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
import typer

from ctcx._errors import CTCInputError
from ctcx._files import read_arrays

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "BACKEND",
    "BLANK",
    "EMISSIONS",
    "FRAME_SECONDS",
    "SEQUENCE",
    "TOKENS",
    "UtteranceLogits",
    "read_utterances",
]

EMISSIONS = typer.Argument(
    metavar="EMISSIONS",
    help="FILE.npz with the array logits, and logit_lengths if any is padded; or FILE.npy.",
)
TOKENS = typer.Option(metavar="FILE", help="The token of each class: one a line, or JSON.")
BLANK = typer.Option(metavar="K", help="Class of the blank; -1 is the last one.")
SEQUENCE = typer.Option(min=0, metavar="N", help="Only this utterance of the file, from 0.")
FRAME_SECONDS = typer.Option(metavar="S", help="Duration of a frame, for times in seconds.")
BACKEND = typer.Option(metavar="NAME", help="As if backend=NAME were passed.")


class UtteranceLogits(NamedTuple):
    """Utterances of a file."""

    logits: NDArray[Any]
    """(N, T, C)."""
    lengths: NDArray[Any]
    """How many frames of each count, (N,)."""
    names: list[str]
    """By the name of the file."""
    in_file: int
    """How many the file has."""


def read_utterances(
    path: str, *, blank: int, sequence: int | None, frame_seconds: float | None
) -> UtteranceLogits:
    """Read a file, and return all its utterances or the one that ``sequence`` asks for.

    Raises CTCInputError: it can't be read, or holds something else. typer.BadParameter: an option
    doesn't fit it.
    """
    logits, lengths = _read(path)
    count, _, classes = logits.shape
    if not -classes <= blank < classes:
        msg = f"{blank} is no class: there are {classes}"
        raise typer.BadParameter(msg, param_hint="--blank")
    if sequence is not None and sequence >= count:
        msg = f"{sequence} is no utterance: {path} has {count}"
        raise typer.BadParameter(msg, param_hint="--sequence")
    if frame_seconds is not None and not 0 < frame_seconds < math.inf:
        msg = f"expected a positive number; got {frame_seconds}"
        raise typer.BadParameter(msg, param_hint="--frame-seconds")
    picked = list(range(count)) if sequence is None else [sequence]
    # Bytes of a file name that are no text are question marks in what is written.
    stem = Path(path).stem.encode(errors="replace").decode()
    names = [stem if count == 1 else f"{stem}-{n}" for n in picked]
    return UtteranceLogits(logits[picked], lengths[picked], names, count)


def _read(path: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read logits (N, T, C), N and C at least 1, and how many frames of each count, (N,).

    The file is an .npz file with the array ``logits``, and ``logit_lengths`` if there is padding;
    or an .npy file with the logits alone. (T, C) is one sequence.

    Raises CTCInputError: it can't be read, or holds something else.
    """
    logits, lengths = _arrays(path)
    if logits.dtype.kind != "f" or logits.dtype.itemsize > 8 or logits.ndim not in {2, 3}:
        what = f"logits of dtype {logits.dtype} and shape {logits.shape}"
        _refuse(path, f"has {what}: expected floats (T, C), or (N, T, C) for several utterances")
    logits = logits.astype(logits.dtype.newbyteorder("="))
    if logits.ndim == 2:
        logits = logits[None]
    count, frames, classes = logits.shape
    if not count or not classes:
        _refuse(path, f"has logits of shape {logits.shape}: there is nothing in them")
    if lengths is None:
        return logits, np.full(count, frames)
    if lengths.dtype.kind not in "iu" or lengths.size != count:
        what = f"logit_lengths of dtype {lengths.dtype} and shape {lengths.shape}"
        _refuse(path, f"has {what}: expected integers ({count},)")
    return logits, lengths.reshape(count)


def _arrays(path: str) -> tuple[NDArray[Any], NDArray[Any] | None]:
    try:
        with Path(path).open("rb") as file:
            arrays, names = read_arrays(file, {"logits", "logit_lengths"}.__contains__)
    except OSError as error:
        _refuse(path, f"can't be read: {error.strerror or error}")
    except ValueError as error:
        _refuse(path, f"is no .npz or .npy file of numbers: {error}")
    if names == [""]:
        return arrays[""], None
    if "logit_lengths" not in arrays:
        for name in names:
            if "length" in name and "label" not in name:
                _refuse(path, f"has an array {name!r}: the lengths must be named 'logit_lengths'")
    if "logits" not in arrays:
        _refuse(path, f"has no array 'logits'; it has: {', '.join(names) or 'nothing'}")
    return arrays["logits"], arrays.get("logit_lengths")


def _refuse(path: str, why: str) -> NoReturn:
    msg = f"emissions: {path} {why}"
    raise CTCInputError(msg, argument="emissions", value=path)
