"""Kernels on drawn problems, with pages that can't be touched around all memory that they get.

``python guarded.py ROUTE SEED COUNT [SHORT]``. A read or write of one element past an end ends the
process with SIGSEGV; the line printed last is the problem. ``SHORT`` is what to make one element
too short on purpose: logits, labels, results or scratch. ``longest``: scratch is what a sequence of
the most frames and the most labels needs.
"""

import argparse
import ctypes
import mmap
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
from ctcx_numba._work import WORTH_A_THREAD, work_of

import ctcx

PAGE = mmap.PAGESIZE
ROUTES = ["whole", "threads", "halves", "softmax first", "small", "xla"]
SHORT = ["logits", "labels", "results", "scratch", "longest"]
LANES = {"float32": 16, "float64": 8}
SPAN_ALWAYS = 2**17  # ctcx_numba._half keeps all alphas of a half up to this many numbers

_libc = ctypes.CDLL(None)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Memory:
    """Memory whose end, or begin, is next to a page that can't be touched."""

    def __init__(self):
        self.at_end = True
        self.short = None  # what is to be one element too short

    def bytes(self, size):
        pages = max(-(-size // PAGE), 1)
        mapped = mmap.mmap(-1, (pages + 2) * PAGE)
        whole = np.frombuffer(mapped, np.uint8)
        whole[:] = 0xAB
        address = whole.ctypes.data
        for guard in (address, address + (pages + 1) * PAGE):
            assert _libc.mprotect(guard, PAGE, 0) == 0
        first = PAGE + (pages * PAGE - size if self.at_end else 0)
        return whole[first : first + size]

    def empty(self, shape, dtype=float, kind=None):
        """Array of that shape; with room for an element less if that is the kind to be short."""
        shape = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
        dtype = np.dtype(dtype)
        count = int(np.prod(shape, dtype=np.int64))
        short = min(count, kind is not None and self.short == kind)
        room = self.bytes((count - short) * dtype.itemsize)
        if count == 0:
            return room.view(dtype).reshape(shape)
        interface = {
            "shape": shape,
            "typestr": dtype.str,
            "data": (room.ctypes.data, False),
            "version": 3,
        }
        return np.asarray(SimpleNamespace(__array_interface__=interface, room=room))

    def place(self, array, kind=None):
        """Copy of an array."""
        result = self.empty(array.shape, array.dtype, kind)
        short = kind is not None and self.short == kind
        flat, size = result.reshape(-1), array.size - short
        flat[:size] = array.reshape(-1)[:size]
        return result


class Allocator:
    """What compiled code calls to allocate and free."""

    def __init__(self, memory):
        self.calls = 0
        self._memory, self._used = memory, {}
        self._functions = (
            ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_uint64)(self._allocate),
            ctypes.CFUNCTYPE(None, ctypes.c_int64)(self._free),
        )

    def install(self):
        """Before any compiled code is loaded."""
        from llvmlite import binding

        for name, function in zip(("malloc", "free"), self._functions, strict=True):
            binding.add_symbol(name, ctypes.cast(function, ctypes.c_void_p).value)

    def _allocate(self, size):
        self.calls += 1
        # Scratch is whole vectors, and 63 bytes to begin at the start of one.
        short = 64 if self._memory.short == "scratch" and size % 64 == 63 else 0
        room = self._memory.bytes(size - short)
        self._used[room.ctypes.data] = room
        return room.ctypes.data

    def _free(self, address):
        del self._used[address]


# Problems


def near(rng, *thresholds):
    return int(rng.choice(thresholds)) + int(rng.integers(-1, 2))


def draw(rng, dtype, most):
    """Draw logits, labels, logit lengths and label lengths: at, below and above each threshold.

    ``most`` is the most logits.
    """
    lanes = LANES[dtype]
    labels = max(int(rng.choice([0, 1, 3, near(rng, lanes, 2 * lanes, 4 * lanes)])), 0)
    if rng.random() < 0.3:
        labels = int(rng.choice([near(rng, 100, 200, 300), 450]))
    width = (labels // lanes + 1) * lanes
    all_kept = SPAN_ALWAYS // (2 * width)  # frames of a half up to which all alphas are kept
    frames = int(rng.choice([0, 1, 2, 3, near(rng, 32, 64, 96), int(rng.integers(1, 300))]))
    if rng.random() < 0.4:
        frames = min(2 * all_kept, 3000) + int(rng.integers(-3, 4))
    row = int(rng.choice([near(rng, 2 * lanes, 4 * lanes, 8 * lanes), int(rng.integers(2, 60))]))
    if rng.random() < 0.3:
        row = int(rng.choice([near(rng, 128, 256, 4096, 8192), int(rng.integers(60, 2000))]))
    classes = max(min(row, most // max(frames, 1)), 2)
    n = int(rng.integers(1, max(min(6, most // max(frames * classes, 1)), 1) + 1))

    lengths = rng.integers(0, frames + 1, n)
    counts = rng.integers(0, labels + 1, n)
    for i in range(n):
        if rng.random() < 0.5:
            lengths[i] = frames
        if rng.random() < 0.5:
            counts[i] = labels
        elif rng.random() < 0.5:
            counts[i] = min(max(near(rng, lanes, 2 * lanes), 0), labels)
        if rng.random() < 0.6:
            own = SPAN_ALWAYS // (2 * (counts[i] // lanes + 1) * lanes)
            lengths[i] = min(max(2 * own + rng.integers(-3, 4), 0), frames)
    logits = rng.standard_normal((n, frames, classes)) * float(rng.choice([1, 5, 300]))
    if rng.random() < 0.3:
        logits[rng.random(logits.shape) < 0.2] = -np.inf
    kinds = rng.choice([np.int32, np.int64], 3)
    integers = rng.integers(1, classes, (n, labels)), lengths, counts
    return logits.astype(dtype), *(a.astype(k) for a, k in zip(integers, kinds, strict=True))


# Routes


def through_job(memory, route):
    """Return a function that computes as :mod:`ctcx_numba._batch` does, with guarded memory."""
    from ctcx_numba import _batch, _halves, _memory, _scratch

    threads = 1 if route == "whole" else 3
    _memory.KEPT_FROM = 2**62  # results are NumPy's, below
    _batch.WORTH_A_THREAD = 0
    halves = route in {"halves", "softmax first"}
    _batch.by_halves = SimpleNamespace(py_func=lambda *_: halves)
    if route == "softmax first":
        threads, _halves._WIDE, _halves._ELEMENTS_A_TASK = 13, 0, 100
    _scratch._aligned = lambda size, kind: memory.empty(size, kind, "scratch")
    sizes_of = _batch.sizes_of

    def sizes_of_longest(batch, losses):
        if memory.short == "longest":
            longest = {"frames": batch.most_frames, "counts": batch.labels.shape[1]}
            batch = batch._replace(**{name: np.array([n]) for name, n in longest.items()})
        return sizes_of(batch, losses)

    _batch.sizes_of = _halves.sizes_of = sizes_of_longest
    copied = _batch.integers
    _batch.integers = lambda array: memory.place(copied(array))

    def compute(arrays, gradient):
        _scratch.forget()
        job = _batch.Job(*arrays, 0, threads, gradient=gradient)
        job.compute()
        return job.losses

    return compute


def through_small(*_):
    from ctcx_numba import _small

    def compute(arrays, gradient):
        return _small.compute(*arrays, 0, gradient=gradient)[0]

    return compute


def through_xla(*_):
    import jax
    from ctcx_numba import kernels

    jax.config.update("jax_enable_x64", True)

    def compute(arrays, gradient):
        kernel = kernels.loss_and_grad if gradient else kernels.loss
        program = jax.jit(lambda *args: kernel(*args, blank=0, num_threads=3))
        result = program(*arrays)
        return np.asarray(result[0] if gradient else result)

    return compute


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("route", choices=ROUTES)
    parser.add_argument("seed", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("short", nargs="?", choices=SHORT)
    options = parser.parse_args()
    route = options.route

    memory = Memory()
    allocator = Allocator(memory)
    if route in {"small", "xla"}:
        allocator.install()
    through = {"small": through_small, "xla": through_xla}.get(route, through_job)
    compute = through(memory, route)
    simple = np.zeros((1, 9, 3)), np.ones((1, 2), int), np.array([9]), np.array([2])
    for dtype in LANES:  # load what is compiled, before NumPy is made another
        compute((simple[0].astype(dtype), *simple[1:]), True)
        compute((simple[0].astype(dtype), *simple[1:]), False)
    real_empty = np.empty
    memory.short = options.short
    rng = np.random.default_rng(options.seed)
    for i in range(options.count):
        dtype = ("float32", "float64")[i % 2]
        most = {"small": 8_000, "xla": 300_000}.get(route, 500_000)
        x, labels, frames, counts = draw(rng, dtype, most)
        gradient, memory.at_end = bool(rng.random() < 0.7), bool(rng.random() < 0.8)
        shape = len(x), *x.shape[1:], labels.shape[1]
        if route == "small" and work_of.py_func(*shape) >= WORTH_A_THREAD:
            continue
        problem = f"{i} {shape} {dtype} {frames} {counts} {gradient=} {memory.at_end=}"
        sys.stdout.write(" ".join(problem.split()) + "\n")
        sys.stdout.flush()
        given = (
            memory.place(x, "logits"),
            memory.place(labels, "labels"),
            memory.place(frames),
            memory.place(counts),
        )
        if route == "xla":
            given = x, labels, frames, counts  # XLA's own memory
        else:
            np.empty = partial(memory.empty, kind="results")
        try:
            losses = compute(given, gradient)
        finally:
            np.empty = real_empty
        assert not np.isnan(losses).any()
        assert np.isinf(losses[ctcx.min_frames(labels, counts) > frames]).all()
    assert allocator.calls or route not in {"small", "xla"}, "memory was not the allocator's"
    sys.stdout.write("done\n")


if __name__ == "__main__":
    main()
