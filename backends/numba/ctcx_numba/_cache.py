"""Compiled code on disk: looked at before it is used, and done without where that fails.

Numba trusts its files: one that is cut or has a wrong bit ends each call, or the process, and so
does a full disk. Here each file ends with a digest of the rest. What doesn't match is compiled
anew, and what can't be written is not kept. Either is said once a process.

This module knows Numba's private classes. They are those of Numba 0.68.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.registry import cpu_target

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Cache", "damaged_files", "reasons_not_kept", "say_once"]

logger = logging.getLogger("ctcx_numba")

_DIGEST = hashlib.sha256().digest_size

_said: set[str] = set()
_not_kept: list[str] = []


def say_once(what: str, message: str) -> None:
    """Log a warning, unless there was one of that kind in this process."""
    if what not in _said:
        _said.add(what)
        logger.warning(message)


def reasons_not_kept() -> list[str]:
    """Why something that this process has compiled is not on disk; empty if all is."""
    return list(_not_kept)


def damaged_files(folder: Path, sources: str) -> Iterator[Path]:
    """Files of compiled code of the sources with that digest that are not as they were written."""
    for path in sorted(folder.glob(f"*_{sources}-*.nb[ci]")):
        try:
            damaged = _content(path.read_bytes()) is None
        except OSError:
            damaged = True
        if damaged:
            yield path


def _content(data: bytes) -> bytes | None:
    """A file without the digest at its end; None if that is not the digest of the rest."""
    content, digest = data[:-_DIGEST], data[-_DIGEST:]
    return content if hashlib.sha256(content).digest() == digest else None


class Cache(FunctionCache):  # type: ignore[misc] - Numba has no types
    """Cache of the variants of one function."""

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        stamp = self._impl.locator.get_source_stamp()
        self._cache_file = _Files(self._cache_path, self._impl.filename_base, stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """As Numba's, but whatever goes wrong, there is nothing to load."""
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # noqa: BLE001 - of unpickling, LLVM, the file system
            self._cache_file.distrust(f"{type(error).__name__}: {error}")
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """As Numba's, but whatever goes wrong, it is not kept."""
        try:
            super().save_overload(sig, data)
        except Exception as error:  # noqa: BLE001 - a full disk, for one
            reason = f"{type(error).__name__}: {error}"
            _not_kept.append(reason)
            say_once(
                "not kept",
                f"compiled kernels can't be kept in {self._cache_path} ({reason}): each process "
                "compiles them anew; make room there, or set NUMBA_CACHE_DIR to another folder",
            )

    def variants(self) -> int:
        """Count the variants for this processor that are on disk, undamaged."""
        codegen = cpu_target.target_context.codegen()
        keys = list(self._cache_file.keys())
        mine = [key for key in keys if key == self._index_key(key[0], codegen)]
        return sum(self._cache_file.load(key) is not None for key in mine)


class _Files(IndexDataCacheFile):  # type: ignore[misc] - Numba has no types
    """Numba's files, with a digest at the end of each, and its key beside each variant.

    Processes that write at the same time may give one name to two variants.
    """

    def keys(self) -> Any:
        return self._load_index().keys()

    def save(self, key: Any, data: Any) -> None:
        super().save(key, (key, data))

    def load(self, key: Any) -> Any:
        found = super().load(key)
        return found[1] if found is not None and found[0] == key else None

    def distrust(self, reason: str, path: str | None = None) -> None:
        say_once(
            "damaged",
            f"{path or self._index_path} can't be used ({reason}): the kernels in it are compiled "
            "anew, and it is replaced; `python -m ctcx_numba warmup` does so for all that are "
            f"damaged in {self._cache_path}",
        )

    def _load_index(self) -> dict[Any, str]:
        content = self._read(self._index_path)
        if content is None:
            return {}
        version = pickle.dumps(self._version, protocol=-1)
        if not content.startswith(version):
            return {}  # of another version of Numba
        stamp, overloads = pickle.loads(content[len(version) :])  # noqa: S301 - as it was written
        return overloads if stamp == self._source_stamp else {}

    def _save_index(self, overloads: dict[Any, str]) -> None:
        version = pickle.dumps(self._version, protocol=-1)
        self._write(self._index_path, version + self._dump((self._source_stamp, overloads)))

    def _load_data(self, name: str) -> Any:
        content = self._read(self._data_path(name))
        return None if content is None else pickle.loads(content)  # noqa: S301 - as it was written

    def _save_data(self, name: str, data: Any) -> None:
        self._write(self._data_path(name), self._dump(data))

    def _read(self, path: str) -> bytes | None:
        try:
            data = Path(path).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self.distrust(f"{type(error).__name__}: {error}", path)
            return None
        content = _content(data)
        if content is None:
            self.distrust("damaged", path)
        return content

    def _write(self, path: str, content: bytes) -> None:
        with self._open_for_write(path) as file:
            file.write(content + hashlib.sha256(content).digest())
