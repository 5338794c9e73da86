"""Calls: layouts, libraries, threads, forked children, and compiled code on disk."""

import logging
import os
import subprocess
import sys
import threading

import numba
import numpy as np
import pytest
from ctcx_numba import compiled, kernels
from ctcx_numba.kernels import loss_and_grad

import ctcx

SIZES = {"many": (40, 60, 28, 20), "ragged": (9, 150, 300, 30), "one": (1, 2000, 32, 120)}


@pytest.mark.parametrize("name", SIZES)
def test_any_number_of_threads_gives_the_same_bits(batch, name, monkeypatch):
    given = batch(*SIZES[name], ragged=name == "ragged")
    monkeypatch.setattr(kernels, "usable_cores", lambda: 1)
    expected = loss_and_grad(*given, blank=0)
    monkeypatch.setattr(kernels, "_WORTH_A_THREAD", 1)
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 8)
    for threads in (2, 3, 8):
        monkeypatch.setattr(kernels, "usable_cores", lambda threads=threads: threads)
        got = loss_and_grad(*given, blank=0)
        np.testing.assert_array_equal(got[0], expected[0])
        np.testing.assert_array_equal(got[1], expected[1])


def test_calls_from_many_threads_at_once(batch, monkeypatch):
    monkeypatch.setattr(kernels, "_WORTH_A_THREAD", 1)
    given = [batch(30, 80, 40, 20, seed=seed) for seed in range(8)]
    expected = [loss_and_grad(*each, blank=0) for each in given]
    barrier, faults = threading.Barrier(len(given)), []

    def work(mine, right):
        barrier.wait()
        for _ in range(10):
            losses, grad = loss_and_grad(*mine, blank=0)
            if not (np.array_equal(losses, right[0]) and np.array_equal(grad, right[1])):
                faults.append(losses)

    pairs = zip(given, expected, strict=True)
    threads = [threading.Thread(target=work, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert not faults


def test_a_system_that_starts_no_threads(batch, monkeypatch):
    given = batch(*SIZES["many"])
    expected = loss_and_grad(*given, blank=0)
    monkeypatch.setattr(kernels, "_WORTH_A_THREAD", 1)
    monkeypatch.setattr(kernels, "usable_cores", lambda: 4)

    def refuse(thread):
        message = "can't start new thread"
        raise RuntimeError(message)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    np.testing.assert_array_equal(loss_and_grad(*given, blank=0)[1], expected[1])


def test_an_error_in_a_thread_is_the_caller_s(batch, monkeypatch):
    monkeypatch.setattr(kernels, "_WORTH_A_THREAD", 1)
    monkeypatch.setattr(kernels, "usable_cores", lambda: 4)
    here, scratch_for = threading.get_ident(), compiled.scratch_for

    def fail_elsewhere(*sizes):
        if threading.get_ident() != here:
            raise MemoryError
        return scratch_for(*sizes)

    monkeypatch.setattr(kernels, "scratch_for", fail_elsewhere)
    with pytest.raises(MemoryError):
        loss_and_grad(*batch(*SIZES["many"]), blank=0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system can't fork")
def test_forked_children_compute():
    # In a process of its own: other libraries of this one's can't be forked.
    code = """
import multiprocessing
import numpy as np
from ctcx_numba.kernels import loss_and_grad

def compute(_):
    x = np.random.default_rng(0).standard_normal((60, 200, 40), dtype=np.float32)
    losses, grad = loss_and_grad(x, np.full((60, 5), 3), *np.full((2, 60), [[200], [5]]), blank=0)
    return losses.tolist(), float(np.abs(grad).sum())

expected = compute(0)
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map_async(compute, range(4)).get(timeout=60) == [expected] * 4
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_frames_outside_are_read_and_written_where_they_lie(batch):
    x, *rest = batch(5, 20, 10, 5)
    turned = np.ascontiguousarray(x.transpose(1, 0, 2)).transpose(1, 0, 2)
    grad = loss_and_grad(turned, *rest, blank=0)[1]
    assert grad.strides == turned.strides
    np.testing.assert_array_equal(grad, loss_and_grad(x, *rest, blank=0)[1])


def test_tensors_need_no_copy_and_differentiate(batch):
    torch = pytest.importorskip("torch")
    x, labels, *lengths = batch(3, 20, 10, 5)
    expected = ctcx.ctc_loss_and_grad(x, labels, *lengths, reduction="mean", backend="array-api")
    logits = torch.from_numpy(x).requires_grad_()
    host = kernels._on_host(logits)
    assert host.__array_interface__["data"][0] == logits.data_ptr()
    loss = ctcx.ctc_loss(logits, labels, *lengths, reduction="mean", backend="numba")
    loss.backward()
    np.testing.assert_allclose(loss.detach(), expected.loss, rtol=1e-6)
    np.testing.assert_allclose(logits.grad, expected.grad, atol=1e-6)


def test_what_it_does_not_take_is_turned_down_with_a_reason():
    jnp = pytest.importorskip("jax.numpy")
    with pytest.raises(ctcx.BackendRejectedError, match=r"jax\.numpy"):
        ctcx.ctc_loss(jnp.zeros((1, 4, 3)), [[1]], backend="numba")


@pytest.mark.parametrize("damage", ["no index", "another dtype's code"])
def test_damaged_files_of_compiled_code_are_done_without(damage, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compiled, "_compiled", {})
    kernel = compiled.compiled_for("float32")
    assert compiled.compiled_for("float32") is kernel
    (index,), (code,) = tmp_path.rglob("*.nbi"), tmp_path.rglob("*.nbc")
    if damage == "no index":
        index.write_bytes(b"none")
    else:
        compiled.compiled_for("float64")
        (other,) = set(tmp_path.rglob("*.nbc")) - {code}
        code.write_bytes(other.read_bytes())
    monkeypatch.setattr(compiled, "_compiled", {})
    with caplog.at_level(logging.WARNING, "ctcx_numba"):
        losses, _ = loss_and_grad(
            np.zeros((1, 1, 3), np.float32), np.ones((1, 1), int), *np.ones((2, 1), int), blank=0
        )
    assert losses[0] == pytest.approx(np.log(3))
    assert "compiled code is not kept on disk" in caplog.text
