"""Calls of ctcx in the blocks of dask arrays: one task a block computes all results.

A block holds whole sequences. What a block returns is a tuple, which further tasks take apart;
dask computes it once for all of them if they are computed together.
"""

from __future__ import annotations

import itertools
import math
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import dask.array as da
import numpy as np

import ctcx
from ctcx import CTCError, CTCInputError
from ctcx.plugin import nested_call

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Lazy", "Part", "call_in_blocks"]

Lazy: TypeAlias = Any  # dask arrays: dask has no types
Block: TypeAlias = Any  # an array of whatever library

_ARRAYS = ("logits", "labels", "logit_lengths", "label_lengths")
_MEANS = ("mean", "mean_per_label")


@dataclass(frozen=True)
class Part:
    """One array of a result.

    Attributes
    ----------
    axes
        A letter an axis: n sequences, t frames, c classes, s label positions, b results of a beam,
        k labels of a result.
    fill
        Where blocks differ in the last axis (k), what narrower ones are padded with.
    """

    axes: str
    fill: int | None = None


def call_in_blocks(function: str, parts: tuple[Part, ...], call: dict[str, Any]) -> tuple[Any, ...]:
    """Call a function of ctcx in each block.

    Parameters
    ----------
    function
        Its name.
    parts
        The arrays that it returns.
    call
        Its arguments, and ``backends`` for :func:`ctcx.plugin.nested_call`.

    Returns
    -------
    tuple of dask.array.Array
        One for each part; of a reduced loss (blocks,), what each block adds to it.

    Raises
    ------
    CTCInputError
        Chunks that can't be used, or a wrong option.
    """
    given = {name: call[name] for name in _ARRAYS if call.get(name) is not None}
    options = {name: value for name, value in call.items() if name not in _ARRAYS}
    backends = options.pop("backends")
    axes = _axes(given, time_major=options["time_major"])
    _check_whole(given["logits"], axes["logits"])
    batched = "n" in axes["logits"]
    if batched:
        chunks = given["logits"].chunks[axes["logits"].index("n")]
        given = {name: _in_chunks(name, array, chunks) for name, array in given.items()}
    else:
        given = {name: _in_one_chunk(array) for name, array in given.items()}
    metas = _metas(function, given, axes, options, backends)
    reduced = options.get("reduction", "none") != "none"
    task = partial(
        _compute, function=function, names=tuple(given), options=options, backends=backends
    )
    sizes = dict(zip(axes["logits"], given["logits"].shape, strict=True))
    sizes |= {"k": sizes["t"], "b": options.get("top")}
    if "labels" in given:
        sizes["s"] = given["labels"].shape[-1]
    operands = [each for name, array in given.items() for each in (array, axes[name])]
    if batched:
        operands += [_first_sequences(chunks, given.values()), "n"]
        if reduced:
            count = max(1, sum(chunks))
            task = partial(task, share=1 / count if options["reduction"] in _MEANS else 1)
    pads = tuple(None if part.fill is None else (sizes["k"], part.fill) for part in parts)
    # All axes, though a tuple has none: where no axis disappears, dask reads a block in the task
    # that computes it, and needn't keep it in memory.
    outer = "".join(dict.fromkeys("".join(axes[name] for name in given)))
    tuples = da.blockwise(
        partial(task, pads=pads),
        outer,
        *operands,
        dtype=object,
        meta=np.empty((0,) * len(outer), dtype=object),
        align_arrays=False,
        token=f"ctcx-{function}",
    )
    results = []
    for number, (part, meta) in enumerate(zip(parts, metas, strict=True)):
        letters = part.axes if batched else part.axes.replace("n", "")
        results.append(
            da.blockwise(
                _part_of,
                letters,
                tuples,
                outer,
                number,
                None,
                new_axes={letter: sizes[letter] for letter in letters if letter not in outer},
                adjust_chunks={"n": 1} if batched and reduced and number == 0 else None,
                dtype=meta.dtype,
                meta=np.zeros_like(meta, shape=(0,) * len(letters)),
                align_arrays=False,
                token=f"ctcx-{function}-result",
            )
        )
    return tuple(results)


def _axes(given: dict[str, Any], *, time_major: bool) -> dict[str, str]:
    """Return a letter for each axis of each array, as in :class:`Part`; o for one of size 1."""
    if given["logits"].ndim == 2:
        lengths = {name: "o" * array.ndim for name, array in given.items() if "lengths" in name}
        return {"logits": "tc", "labels": "s"} | lengths
    lengths = {"logit_lengths": "n", "label_lengths": "n"}
    return {"logits": "tnc" if time_major else "ntc", "labels": "ns"} | lengths


def _check_whole(logits: Lazy, axes: str) -> None:
    """Refuse sequences that are cut into pieces."""
    for axis, name in (("t", "frames"), ("c", "classes")):
        number = axes.index(axis)
        if logits.numblocks[number] > 1:
            whole = {axes.index(each): -1 for each in "tc"}
            msg = (
                f"logits are in {logits.numblocks[number]} chunks along their {name} (axis "
                f"{number}), and a block must hold whole sequences: pass logits.rechunk({whole})"
            )
            raise CTCInputError(msg, argument="logits")


def _in_one_chunk(array: Any) -> Lazy:
    """Make a dask array of one chunk."""
    if isinstance(array, da.Array):
        return array.rechunk(-1)
    return da.from_array(np.asarray(array), chunks=-1)


def _in_chunks(name: str, array: Any, chunks: tuple[Any, ...]) -> Lazy:
    """Bring labels or lengths into the chunks of the logits, and labels whole."""
    if name == "logits":
        return array
    lazy = isinstance(array, da.Array)
    known = _are_known(chunks)
    if known and not lazy:
        return da.from_array(np.asarray(array), chunks=(chunks, *[-1] * (array.ndim - 1)))
    if known and _are_known(array.chunks[0]):
        return array.rechunk({0: chunks} | dict.fromkeys(range(1, array.ndim), -1))
    if lazy and array.numblocks[0] == len(chunks):
        return array.rechunk(dict.fromkeys(range(1, array.ndim), -1))
    form = f"are in {array.numblocks[0]} chunks" if lazy else "are an array of NumPy"
    unknown = name if known else "logits"
    msg = (
        f"{name} {form} and logits in {len(chunks)}, and the sizes of those of {unknown} are "
        f"unknown: call {unknown}.compute_chunk_sizes() first, or pass a dask array whose chunks "
        f"hold the same sequences as those of logits"
    )
    raise CTCInputError(msg, argument=name)


def _are_known(chunks: tuple[Any, ...]) -> bool:
    return not any(map(math.isnan, chunks))


def _first_sequences(chunks: tuple[Any, ...], arrays: Iterable[Lazy]) -> Lazy:
    """Make an array with the number of each block's first sequence.

    Where no array knows it, it is -1 less the number of the block.
    """
    others = (array.chunks[0] for array in arrays if array.ndim < 3)
    sizes = next(filter(_are_known, (chunks, *others)), chunks)
    firsts = itertools.accumulate(sizes[:-1], initial=0)
    numbers = [~n if math.isnan(first) else int(first) for n, first in enumerate(firsts)]
    if not _are_known(sizes):
        numbers = [~n for n in range(len(sizes))]
    return da.from_array(np.array(numbers), chunks=1)


def _metas(
    function: str,
    given: dict[str, Any],
    axes: dict[str, str],
    options: dict[str, Any],
    backends: tuple[str, ...] | None,
) -> tuple[Block, ...]:
    """Call the function on no sequences: what blocks will be, and whether the options are right."""
    empty = []
    for name in ("logits", "labels"):
        if name in given:
            sizes = dict(zip(axes[name], given[name].shape, strict=True)) | {"n": 0}
            letters = axes[name] if "n" in axes[name] else f"n{axes[name]}"
            kind = np.empty(0) if name == "labels" else given[name]._meta  # noqa: SLF001
            shape = tuple(sizes[letter] for letter in letters)
            dtype = given[name].dtype if name == "logits" else np.int64
            empty.append(np.zeros_like(kind, shape=shape, dtype=dtype))

    def call() -> tuple[Block, ...]:
        with nested_call(backends=backends):
            return _tuple_of(getattr(ctcx, function)(*empty, **options))

    return Context().run(call)  # where no ctcx.trace() looks on


def _tuple_of(found: Any) -> tuple[Block, ...]:
    return tuple(found) if isinstance(found, tuple) else (found,)


def _compute(
    *operands: Any,
    function: str,
    names: tuple[str, ...],
    options: dict[str, Any],
    backends: tuple[str, ...] | None,
    pads: tuple[tuple[int, int] | None, ...],
    share: float | None = None,
) -> tuple[Block, ...]:
    """Compute a block: the task that dask runs.

    ``operands`` are the arrays of ``names`` and, of a batch, the number of the first sequence.
    ``share`` is for a reduced loss: the share of a sequence in it.
    """
    blocks = dict(zip(names, map(_only, operands), strict=False))
    first = int(operands[-1][0]) if len(operands) > len(names) else 0
    if share is not None and options["reduction"] == "mean":
        options = options | {"reduction": "sum"}
    with nested_call(first=max(0, first), backends=backends):
        try:
            found = _tuple_of(getattr(ctcx, function)(**blocks, **options))
        except CTCError as error:
            if first < 0:
                error.add_note(
                    f"in block {~first}, whose sequences are numbered from 0, as the sizes of the "
                    f"blocks before it are unknown: logits.compute_chunk_sizes() finds them out"
                )
            raise
    if share is not None:
        if options["reduction"] == "mean_per_label":  # it is a mean over the block
            share *= blocks["logits"].shape[1 if options["time_major"] else 0]
        loss, *others = found
        if share != 1:
            loss = loss * share
            # NumPy makes float32 of bfloat16 times a number.
            others[:1] = [(grad * share).astype(grad.dtype) for grad in others[:1]]
        found = (loss.reshape(1), *others)
    return tuple(
        part if pad is None else _padded(part, *pad) for part, pad in zip(found, pads, strict=True)
    )


def _part_of(results: Any, number: int) -> Block:
    """Take a part out of what a task has computed."""
    return _only(results)[number]


def _only(block: Any) -> Block:
    """Take a block out of the lists that dask puts axes into over which it doesn't go."""
    while isinstance(block, list):
        (block,) = block
    return block


def _padded(part: Block, width: int, fill: int) -> Block:
    """Pad the last axis on the right."""
    missing = width - part.shape[-1]
    ends = [(0, 0)] * (part.ndim - 1) + [(0, missing)]
    return np.pad(part, ends, constant_values=fill) if missing else part
