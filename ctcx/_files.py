"""Files: written whole or not at all, and read without trust in what is in them."""

from __future__ import annotations

import errno
import math
import os
import tempfile
import tokenize
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

__all__ = ["json_safe", "read_arrays", "replaced"]

_BEGINNINGS = (b"\x93NUMPY", b"PK\x03\x04", b"PK\x05\x06")
"""Of NPY; of a ZIP archive, as NPZ is; of an empty one."""


@contextmanager
def replaced(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a binary file that takes the place of ``path`` at the end, unless an error comes first.

    The directory must exist. What is there already stays until the new file is whole.
    """
    target = Path(path)
    # A link keeps pointing where it did.
    target = target.resolve() if target.is_symlink() else target
    if target.exists() and not target.is_file():  # /dev/null, a pipe
        with target.open("wb") as file:
            yield file
        return
    number, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(number, "wb") as file:
            yield file
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(0o666 & ~mask)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def json_safe(value: Any) -> Any:
    """Return a copy of plain data with infinities and NaN as strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    return value


def read_arrays(
    file: IO[bytes], wanted: Callable[[str], bool] = lambda _: True
) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Read arrays of an NPZ or NPY file, whatever is in it.

    Parameters
    ----------
    file : binary file
        Open for reading, and seekable.
    wanted : callable
        Says of a name whether to read that array; default: all of them.

    Returns
    -------
    arrays : dict
        By name; that of an NPY file has the empty name, and is always read.
    names : list of str
        Of all arrays of the file, read or not.

    Raises
    ------
    ValueError
        It is no such file, is damaged, or has objects in it; the message is the reason in one line.
    OSError
        Reading failed, or there is too little memory for what the file says that it holds.
    """
    beginning = file.read(max(map(len, _BEGINNINGS)))
    file.seek(0)
    if not beginning.startswith(_BEGINNINGS):
        why = "it begins as neither of them does" if beginning else "it is empty"
        raise ValueError(why)
    try:
        # NumPy computes with the sizes in a header before it doubts them, and warns of the result.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"": loaded}, [""]
            with loaded:
                names = list(loaded)
                arrays = {name: loaded[name] for name in names if wanted(name)}
    except OSError:
        raise
    except MemoryError as error:
        raise OSError(errno.ENOMEM, str(error) or "out of memory") from None
    except tokenize.TokenError:
        why = "the header of an array is cut off"
        raise ValueError(why) from None
    except Exception as error:  # noqa: BLE001 - zipfile, zlib and NumPy raise many kinds
        first, *_ = [*str(error).splitlines(), ""]
        raise ValueError(first or type(error).__name__) from None
    # NumPy returns the bytes of a member that is no NPY.
    if others := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        msg = f"its member {others[0]!r} is no array"
        raise ValueError(msg)
    return arrays, names
