"""Logits from the files that NumPy writes."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ctcx._errors import CTCInputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["read_emissions", "utterance_name"]


def read_emissions(path: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read logits (N, T, C), N and C at least 1, and how many frames of each count, (N,).

    Parameters
    ----------
    path : str
        Of an .npz file with the array ``logits``, and ``logit_lengths`` if there is padding; or of
        an .npy file with the logits alone. (T, C) is one sequence.

    Raises
    ------
    CTCInputError
        It can't be read, or holds something else.
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


def utterance_name(path: str, n: int, count: int) -> str:
    """Name utterance ``n`` of ``count`` by its file."""
    stem = Path(path).stem
    return stem if count == 1 else f"{stem}-{n}"


def _arrays(path: str) -> tuple[NDArray[Any], NDArray[Any] | None]:
    try:
        with Path(path).open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded, None
            arrays = {name: loaded[name] for name in loaded if name in {"logits", "logit_lengths"}}
            there = ", ".join(loaded) or "nothing"
    except OSError as error:
        _refuse(path, f"can't be read: {error.strerror or error}")
    except (ValueError, EOFError, zipfile.BadZipFile):
        _refuse(path, "is no .npz or .npy file of numbers")
    if "logits" not in arrays:
        _refuse(path, f"has no array 'logits'; it has: {there}")
    return arrays["logits"], arrays.get("logit_lengths")


def _refuse(path: str, why: str) -> NoReturn:
    msg = f"emissions: {path} {why}"
    raise CTCInputError(msg, argument="emissions", value=path)
