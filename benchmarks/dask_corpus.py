"""Score a corpus of many times the memory of a worker, with one worker and with two.

    python benchmarks/dask_corpus.py                       a corpus of 20 times 500 MB
    python benchmarks/dask_corpus.py --limit-mb 1000 --times 20 --folder /scratch

Needs ctcx-dask[score]. A worker is a process of one thread with that limit of memory, which
dask.distributed enforces: it pauses a worker at 80 % of it and kills it at 95 %. Prints the time of
all blocks in one thread without dask, with one worker and with two, the peak memory of the workers,
and what dask costs for a task. The corpus is made first, of one random chunk that is written over
and over; its losses must be the same over and over, too.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import zarr
from ctcx_dask.scoring import open_corpus
from distributed import Client, LocalCluster

import ctcx

FRAMES, CLASSES, LABELS = 200, 32, 30
CHUNK = 512  # sequences, 13 MB


def make_corpus(folder: str, megabytes: int) -> int:
    """Write a corpus of so many megabytes; return the number of its sequences."""
    rng = np.random.default_rng(0)
    chunk = rng.standard_normal((CHUNK, FRAMES, CLASSES), dtype=np.float32)
    chunks = max(1, megabytes * 10**6 // chunk.nbytes)
    group = zarr.open_group(folder, mode="w")
    group.attrs["blank"] = 0
    logits = group.create_array(
        "logits",
        shape=(chunks * CHUNK, FRAMES, CLASSES),
        chunks=chunk.shape,
        dtype=chunk.dtype,
        compressors=None,
    )
    for first in range(0, chunks * CHUNK, CHUNK):
        logits[first : first + CHUNK] = chunk
    labels = np.tile(rng.integers(1, CLASSES, (CHUNK, LABELS)), (chunks, 1))
    group.create_array("labels", data=labels)
    group.create_array("logit_lengths", data=np.full(chunks * CHUNK, FRAMES))
    group.create_array("label_lengths", data=np.full(chunks * CHUNK, LABELS))
    return chunks * CHUNK


def in_this_thread(folder: str) -> tuple[np.ndarray, float]:
    """Read and score block by block, without dask."""
    corpus, group = open_corpus(folder), zarr.open_group(folder, mode="r")
    start = time.perf_counter()
    found, first = [], 0
    for rows in corpus.logits.chunks[0]:
        part = np.s_[first : first + rows]
        arrays = (group["logits"][part], group["labels"][part])
        found.append(ctcx.ctc_loss(*arrays, corpus.logit_lengths[part], corpus.label_lengths[part]))
        first += rows
    return np.concatenate(found), time.perf_counter() - start


def in_workers(folder: str, workers: int, limit: int) -> tuple[np.ndarray, float, float, int]:
    """Return losses, seconds, the largest memory of a worker in MB, and how many blocks."""
    options = {"threads_per_worker": 1, "memory_limit": limit, "dashboard_address": None}
    with (
        tempfile.TemporaryDirectory() as spill,
        LocalCluster(n_workers=workers, local_directory=spill, **options) as cluster,
        Client(cluster) as client,
    ):
        client.run(ctcx.ctc_loss, np.zeros((1, 2, 2), np.float32), [[1]])  # imports
        corpus = open_corpus(folder)
        losses = ctcx.ctc_loss(*corpus[:4], blank=corpus.blank)
        processes = [psutil.Process(pid) for pid in client.run(os.getpid).values()]
        start = time.perf_counter()
        future = client.compute(losses)
        peak = 0
        while not future.done():
            peak = max(peak, *(process.memory_info().rss for process in processes))
            time.sleep(0.05)
        seconds = time.perf_counter() - start
        return future.result(), seconds, peak / 1e6, losses.npartitions


def cost_of_a_task(workers: int = 1, blocks: int = 500) -> tuple[float, float]:
    """Return milliseconds a block for tiny blocks: in this thread's scheduler, and in a worker."""
    import dask.array as da

    logits = da.zeros((blocks, 2, 2), chunks=(1, -1, -1), dtype=np.float32)
    labels = np.ones((blocks, 1), int)
    losses = ctcx.ctc_loss(logits, labels)
    losses[:2].compute(scheduler="synchronous")
    start = time.perf_counter()
    losses.compute(scheduler="synchronous")
    here = time.perf_counter() - start
    options = {"threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(n_workers=workers, **options) as cluster, Client(cluster) as client:
        client.compute(losses[:2]).result()
        start = time.perf_counter()
        client.compute(losses).result()
        there = time.perf_counter() - start
    return 1e3 * here / blocks, 1e3 * there / blocks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--limit-mb", type=int, default=500)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--folder", default=None, help="for the corpus; default: temporary")
    chosen = parser.parse_args()
    # One thread a block: the scaling is that of the workers.
    os.environ["OMP_NUM_THREADS"] = "1"
    parent = Path(tempfile.mkdtemp(dir=chosen.folder))
    try:
        folder = str(parent / "corpus.zarr")
        size = chosen.limit_mb * chosen.times
        print(f"{make_corpus(folder, size)} sequences, {size} MB of logits")
        expected, alone = in_this_thread(folder)
        assert (expected.reshape(-1, CHUNK) == expected[:CHUNK]).all()
        print(f"without dask   {alone:7.1f} s")
        times = []
        for workers in (1, 2):
            losses, seconds, peak, blocks = in_workers(folder, workers, chosen.limit_mb * 10**6)
            assert np.allclose(losses, expected, rtol=1e-6)
            times.append(seconds)
            print(f"{workers} worker(s)    {seconds:7.1f} s, {blocks} blocks, peak {peak:.0f} MB")
        print(f"2 workers are {times[0] / times[1]:.2f} times as fast as 1")
    finally:
        shutil.rmtree(parent)
    here, there = cost_of_a_task()
    print(
        f"a task of next to no work takes {here:.2f} ms in this thread, {there:.2f} ms in a worker"
    )


if __name__ == "__main__":
    main()
