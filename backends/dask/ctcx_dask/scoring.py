"""Score a corpus in a Zarr group: the loss of each sequence, in a table. See ``ctcx score``."""

from __future__ import annotations

import time
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import dask
import dask.array as da
import numpy as np
from dask.callbacks import Callback

import ctcx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

__all__ = ["Corpus", "Summary", "open_corpus", "score"]

BLOCK_BYTES = 64 * 2**20
"""Of logits in a task, if the chunks of a corpus are smaller."""

_AXES = {"logits": 3, "labels": 2, "logit_lengths": 1, "label_lengths": 1}


class Corpus(NamedTuple):
    """Arrays of a corpus; the lengths are in memory."""

    logits: Any
    labels: Any
    logit_lengths: NDArray[Any]
    label_lengths: NDArray[Any]
    blank: int


class Summary(NamedTuple):
    """What ``ctcx score`` says when it is done."""

    sequences: int
    infeasible: int
    mean: float
    seconds: float


def open_corpus(path: str, *, block_bytes: int = BLOCK_BYTES) -> Corpus:
    """Open a Zarr group as dask arrays.

    Parameters
    ----------
    path : str
        Of the group, with the arrays ``logits`` (N, T, C), ``labels`` (N, S), ``logit_lengths`` and
        ``label_lengths`` (N,), and the attribute ``blank``.
    block_bytes : int
        A block of logits is of whole sequences, of whole chunks of the file, and as large as this
        if the file's chunks are smaller.

    Raises
    ------
    CTCInputError
        It isn't there, or is no corpus; says what is wrong.
    """
    import zarr

    try:
        group = zarr.open_group(path, mode="r")
        arrays = {name: group[name] for name in _AXES if name in group}
    except (OSError, ValueError, KeyError, zarr.errors.BaseZarrError) as error:
        msg = f"{path} can't be read as a group of Zarr: {error}"
        raise ctcx.CTCInputError(msg, argument="corpus") from error
    blank = group.attrs.get("blank")
    faults = [f"it has no array {name}" for name in _AXES if name not in arrays]
    faults += [
        f"{name} has the shape {getattr(array, 'shape', 'of a group')}, expected {_AXES[name]} axes"
        for name, array in arrays.items()
        if len(getattr(array, "shape", ())) != _AXES[name]
    ]
    if isinstance(blank, bool) or not isinstance(blank, int):
        faults.append(f"its attribute blank is {blank!r}, expected the class of the blank")
    if faults:
        msg = f"{path} is no corpus: {'; '.join(faults)}"
        raise ctcx.CTCInputError(msg, argument="corpus")
    logits = arrays["logits"]
    rows = (logits.shards or logits.chunks)[0]
    row_bytes = max(1, int(np.prod(logits.shape[1:])) * logits.dtype.itemsize)
    rows = max(1, rows) * max(1, block_bytes // (max(1, rows) * row_bytes))
    return Corpus(
        da.from_zarr(logits, chunks=(rows, -1, -1), inline_array=True),
        da.from_zarr(arrays["labels"], chunks=(rows, -1), inline_array=True),
        arrays["logit_lengths"][:],
        arrays["label_lengths"][:],
        blank,
    )


def score(
    corpus: str,
    out: str,
    *,
    scheduler: str | None = None,
    backend: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> Summary:
    """Compute the loss of each sequence of a corpus, and write a table.

    Parameters
    ----------
    corpus : str
        A Zarr group, as in :func:`open_corpus`.
    out : str
        ``NAME.parquet`` or ``NAME.zarr``, with the columns, or arrays, ``sequence``, ``loss``,
        ``feasible``, ``frames`` and ``labels``. It is there whole or not at all.
    scheduler : str, optional
        Address of a scheduler of dask.distributed; default: threads of this process.
    backend : str, optional
        The backend for the blocks.
    progress : callable
        Is told how many blocks are done, and of how many.

    Returns
    -------
    Summary

    Raises
    ------
    CTCInputError
        No corpus, a wrong value in it, another kind of file to write, or no scheduler.
    CTCError
        Workers died.
    """
    start = time.perf_counter()
    writers = {".parquet": _write_parquet, ".zarr": _write_zarr}
    write = writers.get(Path(out).suffix)
    if write is None:
        msg = f"out must end in {' or '.join(writers)}, got {out!r}"
        raise ctcx.CTCInputError(msg, argument="out", value=out)
    found = open_corpus(corpus)
    names = ("dask",) if backend is None else ("dask", backend)
    with ctcx.use_backend(*names):
        losses = ctcx.ctc_loss(*found[:4], blank=found.blank)
    connected: AbstractContextManager[Any] = nullcontext()
    if scheduler is not None:
        connected = _connected(scheduler)
    with connected as client:
        loss = np.concatenate(_computed(losses, client, progress))
    feasible = loss < np.inf
    columns = {
        "sequence": np.arange(len(loss)),
        "loss": loss,
        "feasible": feasible,
        "frames": found.logit_lengths,
        "labels": found.label_lengths,
    }
    write(out, columns)
    mean = float(loss[feasible].mean(dtype=np.float64)) if feasible.any() else 0.0
    seconds = time.perf_counter() - start
    return Summary(len(loss), int((~feasible).sum()), mean, seconds)


def _computed(
    losses: Any, client: Any, progress: Callable[[int, int], None]
) -> Sequence[NDArray[Any]]:
    """Compute the blocks, and tell of each that is done."""
    total = losses.npartitions
    progress(0, total)
    if client is not None:
        from distributed import KilledWorker, as_completed

        futures = client.compute(losses.to_delayed().ravel().tolist())
        try:
            ended = as_completed(futures, loop=client.loop, raise_errors=False)
            for done, _ in enumerate(ended, 1):
                progress(done, total)
            found: Sequence[NDArray[Any]] = client.gather(futures)
        except KilledWorker as error:
            msg = f"workers died again and again: has each enough memory? {error}"
            raise ctcx.CTCError(msg) from error
        finally:
            client.cancel(futures)
        return found
    blocks = losses.to_delayed().ravel().tolist()
    with _Progress(losses, lambda done: progress(done, total)):
        return list(dask.compute(*blocks, scheduler="threads"))


class _Progress(Callback):  # type: ignore[misc]
    """Tells of each block that a scheduler in this process has computed."""

    def __init__(self, losses: Any, tell: Callable[[int], None]) -> None:
        self._name, self._tell, self._done = losses.name, tell, 0
        super().__init__(posttask=self._posttask)

    def _posttask(self, key: Any, *_: object) -> None:
        if isinstance(key, tuple) and key[0] == self._name:
            self._done += 1
            self._tell(self._done)


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Connect to a scheduler."""
    from distributed import Client

    try:
        client = Client(address, timeout="10s", set_as_default=False)
    except (OSError, ValueError) as error:
        msg = f"there is no scheduler of dask.distributed at {address!r}: {error}"
        raise ctcx.CTCInputError(msg, argument="scheduler", value=address) from error
    with client:
        yield client


def _write_parquet(out: str, columns: Mapping[str, NDArray[Any]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    partial_file = Path(f"{out}.part")
    try:
        parquet.write_table(pa.table(dict(columns)), partial_file)
        partial_file.replace(out)
    finally:
        partial_file.unlink(missing_ok=True)


def _write_zarr(out: str, columns: Mapping[str, NDArray[Any]]) -> None:
    import shutil

    import zarr

    partial_folder = Path(f"{out}.part")
    try:
        group = zarr.open_group(partial_folder, mode="w")
        for name, column in columns.items():
            group.create_array(name, data=column)
        shutil.rmtree(out, ignore_errors=True)
        partial_folder.rename(out)
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)
