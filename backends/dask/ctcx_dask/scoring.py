"""Score a corpus in a Zarr group: the loss of each sequence, in a table. See ``ctcx score``."""

from __future__ import annotations

import asyncio
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from importlib import util
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


class _Stored:
    """An array of a corpus, which each process opens anew to read from it.

    Where a path leads nowhere, Zarr would read zeros from an array that was opened elsewhere.
    """

    def __init__(self, corpus: str, name: str, array: Any) -> None:
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim
        self._corpus, self._name = corpus, name

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        import zarr

        try:
            array = zarr.open_array(self._corpus, path=self._name, mode="r")
            if (array.shape, array.dtype) == (self.shape, self.dtype):
                return np.asarray(array[index])
            why = f"here it has the shape {array.shape} and the dtype {array.dtype}"
        except Exception as error:  # noqa: BLE001 - of codecs and stores, which raise what they like
            why = f"{type(error).__name__}: {error}"
        first, end, _ = index[0].indices(self.shape[0])
        msg = f"{self._name}[{first}:{end}] can't be read from {self._corpus}: {why}"
        raise ctcx.CTCInputError(msg, argument="corpus", sequence=first)


def open_corpus(path: str, *, block_bytes: int = BLOCK_BYTES) -> Corpus:
    """Open a Zarr group as dask arrays.

    Parameters
    ----------
    path : str
        Of the group, the same for all workers of a cluster. It has the arrays ``logits``
        (N, T, C), ``labels`` (N, S), ``logit_lengths`` and ``label_lengths`` (N,), and the
        attribute ``blank``.
    block_bytes : int
        A block of logits is of whole sequences, of whole chunks of the file, and as large as this
        if the file's chunks are smaller.

    Raises
    ------
    CTCInputError
        It isn't there, or is no corpus; says what is wrong.

    Warns
    -----
    UserWarning
        The file lacks chunks, which Zarr reads as zeros: writing it may have been interrupted.
    """
    _require("zarr")
    import zarr

    if "://" not in path:
        path = str(Path(path).absolute())  # as workers have other working directories
    try:
        group = zarr.open_group(path, mode="r")
        arrays = {name: group[name] for name in _AXES if name in group}
    except Exception as error:  # of damaged metadata, Zarr raises what comes up
        msg = f"{path} can't be read as a group of Zarr: {type(error).__name__}: {error}"
        raise ctcx.CTCInputError(msg, argument="corpus") from error
    blank = group.attrs.get("blank")
    faults = [f"it has no array {name}" for name in _AXES if name not in arrays]
    faults += [
        f"{name} has the shape {getattr(array, 'shape', 'of a group')}, expected {_AXES[name]} axes"
        for name, array in arrays.items()
        if len(getattr(array, "shape", ())) != _AXES[name]
    ]
    if isinstance(blank, bool) or not isinstance(blank, int):
        faults.append(
            f"its attribute blank is {blank!r}, expected the class of the blank, an integer"
        )
    if faults:
        msg = f"{path} is no corpus: {'; '.join(faults)}"
        raise ctcx.CTCInputError(msg, argument="corpus")
    for name, array in arrays.items():
        missing = array.nchunks - array.nchunks_initialized if array.store.supports_listing else 0
        if missing and 0 not in array.shape:
            msg = (
                f"{path} lacks {missing} of the {array.nchunks} chunks of {name}, which count as "
                f"zeros: was its writing interrupted?"
            )
            warnings.warn(msg, stacklevel=2)
    logits = arrays["logits"]
    rows = logits.chunks[0]  # of a shard, too: it may be larger than memory
    row_bytes = max(1, int(np.prod(logits.shape[1:])) * logits.dtype.itemsize)
    rows = max(1, rows) * max(1, block_bytes // (max(1, rows) * row_bytes))
    stored = {name: _Stored(path, name, array) for name, array in arrays.items()}

    def lazy(name: str, *chunks: int) -> Any:
        meta = np.empty((0,) * len(chunks), arrays[name].dtype)
        options = {"chunks": chunks, "meta": meta, "inline_array": True, "name": False}
        return da.from_array(stored[name], **options)

    return Corpus(
        lazy("logits", rows, -1, -1),
        lazy("labels", rows, -1),
        stored["logit_lengths"][:,],
        stored["label_lengths"][:,],
        blank,
    )


def _require(*modules: str) -> None:
    """Refuse to go on without packages, before anything is computed."""
    for module in modules:
        if util.find_spec(module) is None:
            msg = f"this needs {module}, which is not installed (pip install 'ctcx-dask[score]')"
            raise ctcx.CTCError(msg)


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
        ``feasible``, ``frames`` and ``labels``. It is there whole or not at all. A file is
        replaced, a folder is not.
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
        No corpus, a wrong value in it, another kind of file to write, one that can't be written, or
        no scheduler.
    CTCError
        Workers died, or a package is missing here or there.

    Warns
    -----
    UserWarning
        As :func:`open_corpus`; or the scheduler has no workers yet.
    """
    start = time.perf_counter()
    writers = {".parquet": _write_parquet, ".zarr": _write_zarr}
    write = writers.get(Path(out).suffix)
    if write is None:
        msg = f"out must end in {' or '.join(writers)}, got {out!r}"
        raise ctcx.CTCInputError(msg, argument="out", value=out)
    _check_free(out)
    with _folder_beside(out):  # better now than after hours
        pass
    _require(*["pyarrow"] * out.endswith(".parquet"), *["distributed"] * (scheduler is not None))
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
    with _folder_beside(out) as folder:
        whole = folder / "table"
        write(whole, columns)
        _check_free(out)  # it may have come into being
        whole.replace(out)
    mean = float(loss[feasible].mean(dtype=np.float64)) if feasible.any() else float("nan")
    seconds = time.perf_counter() - start
    return Summary(len(loss), int((~feasible).sum()), mean, seconds)


def _check_free(out: str) -> None:
    """Refuse to write where a folder would be replaced, such as the corpus, or there is none."""
    target = Path(out)
    problem = None
    try:
        if target.is_dir() or (target.exists() and target.suffix == ".zarr"):
            problem = "exists: remove it, or choose another name"
        elif not target.absolute().parent.is_dir():
            problem = "can't be written, as its directory doesn't exist"
    except OSError as error:  # a name that is too long, a folder that can't be searched
        problem = f"can't be written: {error.strerror}"
    if problem is not None:
        msg = f"out={out!r} {problem}"
        raise ctcx.CTCInputError(msg, argument="out", value=out)


@contextmanager
def _folder_beside(out: str) -> Iterator[Path]:
    """Make a folder in which a file becomes whole before it is moved.

    Raises CTCInputError: nothing can be written there.
    """
    target = Path(out)
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            yield Path(folder)
    except OSError as error:
        msg = f"out={out!r} can't be written: {error.strerror or error}"
        raise ctcx.CTCInputError(msg, argument="out", value=out) from error


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
        except ImportError as error:
            msg = f"the workers of the cluster need ctcx-dask and zarr: {error}"
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
    from distributed.core import rpc
    from distributed.security import Security

    async def ask() -> object:
        arguments = Security().get_connection_args("client")
        async with rpc(address, timeout=10, connection_args=arguments) as server:
            answer = await asyncio.wait_for(server.identity(), 10)
            return answer.get("type", answer)

    # A client that can't connect waits far longer, and in vain, to say goodbye. In a thread of its
    # own, as a notebook has a loop already.
    try:
        with ThreadPoolExecutor(1) as thread:
            kind = thread.submit(asyncio.run, ask()).result()
        why = "" if kind == "Scheduler" else f"it is a {kind}"
    except Exception as error:  # noqa: BLE001 - an address can be wrong in any way
        why = str(error) or "no answer within 10 s"
    if why:
        msg = f"there is no scheduler of dask.distributed at {address!r}: {why}"
        raise ctcx.CTCInputError(msg, argument="scheduler", value=address)
    with Client(address, timeout="10s", set_as_default=False) as client:
        if not client.scheduler_info()["workers"]:
            warnings.warn(f"the scheduler at {address} has no workers yet", stacklevel=4)
        _check_workers(client)
        yield client


def _check_workers(client: Any) -> None:
    """Refuse workers that lack a package: a task that they can't read ends them without a word."""
    # A function of this module couldn't be read there, either.
    answers = client.run(exec, "import ctcx_dask.blocks, zarr", {}, on_error="return")
    for worker, answer in answers.items():
        if isinstance(answer, ImportError):
            msg = f"the workers of the cluster need ctcx-dask and zarr: {worker} says: {answer}"
            raise ctcx.CTCError(msg) from answer


def _write_parquet(out: Path, columns: Mapping[str, NDArray[Any]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table(dict(columns)), out)


def _write_zarr(out: Path, columns: Mapping[str, NDArray[Any]]) -> None:
    import zarr

    group = zarr.open_group(out, mode="w")
    for name, column in columns.items():
        group.create_array(name, data=column)
