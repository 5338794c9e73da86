"""Several processes: results, errors, a worker that is killed, and ``ctcx score``."""

import os
import signal
import subprocess
import sys

import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster
from pyarrow import parquet

import ctcx
from backends.dask.tests.problems import N, check_same, in_chunks, problem

pytestmark = pytest.mark.xdist_group("cluster")
WHOLE = problem(3)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("workers"))
    options = {"dashboard_address": ":0", "local_directory": folder, "threads_per_worker": 1}
    with LocalCluster(n_workers=2, **options) as cluster, Client(cluster) as client:
        yield client


def write_corpus(path, whole=WHOLE, blank=0, **chunks):
    group = zarr.open_group(path, mode="w")
    group.attrs["blank"] = blank
    for name, array in zip(
        ("logits", "labels", "logit_lengths", "label_lengths"), whole, strict=True
    ):
        group.create_array(name, data=array, chunks=chunks.get(name, "auto"))
    return path


def die_once(block, marker):
    """Kill the worker that gets a block first."""
    try:
        with open(marker, "x"):
            os.kill(os.getpid(), signal.SIGKILL)
    except FileExistsError:
        return block


def test_a_worker_that_is_killed_changes_no_result(client, tmp_path):
    logits, *others = in_chunks(WHOLE, 4, 4, 4, 4)
    logits = logits.map_blocks(die_once, str(tmp_path / "died"), dtype=logits.dtype, meta=logits)
    check_same(ctcx.ctc_loss_and_grad(logits, *others), ctcx.ctc_loss_and_grad(*WHOLE), client)
    assert (tmp_path / "died").exists()


def test_errors_of_workers_name_sequences_of_the_whole(client):
    logits = WHOLE[0].copy()
    logits[21, 0, 2] = np.nan
    lazy = ctcx.ctc_greedy(da.from_array(logits, chunks=(5, -1, -1)))
    with pytest.raises(ctcx.CTCInputError, match=r"logits\[21, 0, 2\] is nan") as found:
        client.gather(client.compute(lazy.labels))
    assert (found.value.sequence, found.value.position) == (21, (0, 2))


@pytest.mark.parametrize(("where", "suffix"), [("here", "zarr"), ("cluster", "parquet")])
def test_score_writes_a_table(client, tmp_path, where, suffix):
    # The chunks of the file cut sequences: reading puts them together.
    corpus = write_corpus(tmp_path / "corpus.zarr", logits=(4, 7, 3), labels=(9, 2))
    out = tmp_path / f"scores.{suffix}"
    command = [sys.executable, "-m", "ctcx", "score", str(corpus), "--out", str(out)]
    if where == "cluster":
        command += ["--scheduler", client.scheduler.address]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{N} sequences, 2 of them infeasible" in ended.stdout
    found = (
        {name: column.to_numpy() for name, column in zip(*columns_of(out), strict=True)}
        if suffix == "parquet"
        else {name: array[:] for name, array in zarr.open_group(out, mode="r").arrays()}
    )
    expected = ctcx.ctc_loss_and_grad(*WHOLE)
    np.testing.assert_allclose(found["loss"], expected.loss, rtol=1e-6)
    assert np.array_equal(found["feasible"], expected.feasible)
    assert np.array_equal(found["frames"], WHOLE[2])
    assert np.array_equal(found["labels"], WHOLE[3])
    assert np.array_equal(found["sequence"], np.arange(N))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.zarr", out.name]


def columns_of(path):
    table = parquet.read_table(path)
    return table.column_names, table.columns


def wrong_label(path):
    labels = WHOLE[1].copy()
    labels[:] = 77
    return write_corpus(path, (WHOLE[0], labels, *WHOLE[2:]))


def no_labels(path):
    zarr.open_group(path, mode="w").create_array("logits", data=WHOLE[0])
    return path


def damaged(path):
    write_corpus(path, logits=(4, 14, 6))
    (path / "logits" / "c" / "3" / "0" / "0").write_bytes(b"nothing that can be decompressed")
    return path


def metadata(text, *below):
    """Make a corpus in which the description of an array, or of all, is this text."""

    def write(path):
        write_corpus(path)
        path.joinpath(*below, "zarr.json").write_text(text)
        return path

    return write


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (metadata("[" * 100_000), "can't be read as a group of Zarr: RecursionError"),
        (metadata("[" * 100_000, "labels"), "can't be read as a group of Zarr: RecursionError"),
        (metadata("[1]", "labels"), "can't be read as a group of Zarr: "),
        (wrong_label, "is 77 (sequence "),
        (no_labels, "is no corpus: it has no array labels; it has no array logit_lengths"),
        (damaged, "logits[0:23] can't be read from "),
        (no_labels, "its attribute blank is None, expected the class of the blank"),
        (lambda path: write_corpus(path, WHOLE[:1] * 4), "labels has the shape (23, 14, 6), ex"),
        (lambda path: path, "can't be read as a group of Zarr"),
    ],
)
def test_score_says_what_is_wrong_and_writes_nothing(tmp_path, make, words):
    from ctcx_dask.scoring import score

    corpus = make(tmp_path / "corpus.zarr")
    with pytest.raises(ctcx.CTCInputError) as found:
        score(str(corpus), str(tmp_path / "scores.parquet"))
    assert words in str(found.value)
    assert [path.name for path in tmp_path.iterdir() if path != corpus] == []


def test_blocks_of_shards_are_of_chunks(tmp_path):
    # A shard may be larger than memory; its chunks can be read one by one.
    from ctcx_dask.scoring import open_corpus

    corpus = write_corpus(tmp_path / "corpus.zarr")
    group = zarr.open_group(corpus)
    shards = {"chunks": (4, 14, 6), "shards": (24, 14, 6), "overwrite": True}
    group.create_array("logits", data=WHOLE[0], **shards)
    logits = open_corpus(str(corpus), block_bytes=1).logits
    assert logits.chunks[0] == (4, 4, 4, 4, 4, 3)
    np.testing.assert_array_equal(logits.compute(scheduler="synchronous"), WHOLE[0])


def test_a_corpus_that_is_elsewhere_is_not_taken_for_zeros(tmp_path, monkeypatch):
    from ctcx_dask.scoring import open_corpus

    write_corpus(tmp_path / "corpus.zarr")
    monkeypatch.chdir(tmp_path)
    logits = open_corpus("corpus.zarr").logits
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(logits.compute(scheduler="synchronous"), WHOLE[0])
    (tmp_path / "corpus.zarr").rename(tmp_path / "gone.zarr")
    with pytest.raises(ctcx.CTCInputError, match=r"logits\[0:23\] can't be read from /"):
        logits.compute(scheduler="synchronous")


def test_chunks_that_were_never_written_are_told_of(tmp_path):
    from ctcx_dask.scoring import score

    corpus = write_corpus(tmp_path / "corpus.zarr", logits=(4, 14, 6))
    (corpus / "logits" / "c" / "3" / "0" / "0").unlink()
    with pytest.warns(UserWarning, match="lacks 1 of the 6 chunks of logits, which count as zeros"):
        score(str(corpus), str(tmp_path / "scores.parquet"))


@pytest.mark.parametrize("name", ["corpus.zarr", "a file.zarr", "none/scores.parquet"])
def test_score_replaces_no_folder(tmp_path, name):
    from ctcx_dask.scoring import score

    corpus = write_corpus(tmp_path / "corpus.zarr")
    (tmp_path / "a file.zarr").write_text("kept")
    with pytest.raises(ctcx.CTCInputError, match=r"^out=.* exists: remove it, or|doesn't exist"):
        score(str(corpus), str(tmp_path / name))
    np.testing.assert_array_equal(zarr.open_group(corpus, mode="r")["logits"][:], WHOLE[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a file.zarr", "corpus.zarr"]


@pytest.mark.skipif(sys.platform != "linux", reason="no such folder, and no such limit")
@pytest.mark.parametrize("suffix", ["parquet", "zarr"])
def test_what_can_not_be_written_is_one_error(tmp_path, suffix):
    from ctcx_dask.scoring import score

    corpus = str(write_corpus(tmp_path / "corpus.zarr"))
    for name, why in (("/proc/a", "No such"), (f"{tmp_path}/{'a' * 300}", "File name too long")):
        with pytest.raises(ctcx.CTCInputError, match=f"^out='{name}.* can't be written: {why}"):
            score(corpus, f"{name}.{suffix}", progress=lambda *_: pytest.fail("it was computed"))
    code = """
import resource, sys
from ctcx_dask.scoring import score
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
try:
    score(*sys.argv[1:])
except ValueError as error:
    print(error)
"""
    out = str(tmp_path / f"a.{suffix}")
    command = [sys.executable, "-c", code, corpus, out]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.stdout.startswith(f"out={out!r} can't be written: "), ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.zarr"]


@pytest.mark.parametrize("address", ["nonsense", "http://x:1", "a worker"])
def test_an_address_without_a_scheduler(client, tmp_path, address):
    from ctcx_dask.scoring import score

    if address == "a worker":
        address = next(iter(client.scheduler_info()["workers"]))
    corpus = str(write_corpus(tmp_path / "corpus.zarr"))
    with pytest.raises(ctcx.CTCInputError, match=r"no scheduler of dask\.distributed at '.*': \w+"):
        score(corpus, str(tmp_path / "scores.parquet"), scheduler=address)


@pytest.mark.parametrize("module", ["ctcx_dask", "zarr"])
def test_workers_that_lack_a_package_are_told_of(tmp_path, module):
    from ctcx_dask.scoring import score

    corpus = str(write_corpus(tmp_path / "corpus.zarr"))
    options = {"dashboard_address": ":0", "local_directory": str(tmp_path), "threads_per_worker": 1}
    with LocalCluster(n_workers=1, **options) as cluster, Client(cluster) as client:
        client.run(exec, f"import sys; sys.modules[{module!r}] = None", {})
        with pytest.raises(ctcx.CTCError, match=rf"workers .* need ctcx-dask and zarr: .*{module}"):
            score(corpus, str(tmp_path / "a.zarr"), scheduler=cluster.scheduler_address)
        assert len(client.scheduler_info()["workers"]) == 1


def test_score_tells_of_each_block_and_takes_a_backend(client, tmp_path):
    from ctcx_dask import scoring

    corpus = str(write_corpus(tmp_path / "corpus.zarr", logits=(4, 14, 6)))
    for scheduler in (None, client.scheduler.address):
        told = []
        with ctcx.trace() as runs:
            summary = scoring.score(
                corpus,
                str(tmp_path / f"scores{len(told)}{scheduler is None}.zarr"),
                scheduler=scheduler,
                backend="array-api",
                progress=lambda *now, told=told: told.append(now),
            )
        assert told == [(0, 1), (1, 1)]
        # A scheduler may compute in this thread, or in others.
        assert {run.backend for run in runs} <= {"dask", "array-api"}
        assert (summary.sequences, summary.infeasible) == (N, 2)
    blocks = scoring.open_corpus(corpus, block_bytes=1).logits
    assert blocks.chunks == ((4, 4, 4, 4, 4, 3), (14,), (6,))
    with pytest.raises(ctcx.CTCInputError, match=r"must end in \.parquet or \.zarr"):
        scoring.score(corpus, str(tmp_path / "scores.csv"))
    with pytest.raises(ctcx.UnknownBackendError):
        scoring.score(corpus, str(tmp_path / "scores.zarr"), backend="no-such")
