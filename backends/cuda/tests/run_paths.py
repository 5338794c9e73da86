"""Best paths and classes of drawn sizes, for the sanitizers: ``run_paths.py THREADS COUNT [FLAW]``.

Every array and every part of the scratch memory is an allocation of its own, of the very size that
the plan gives it. FLAW is a part of the scratch memory that is 32 bytes short, or a defect of the
source.
"""

import sys

import cupy
import numpy as np
from ctcx_cuda import launch, paths, plan, variants
from run_drawn import apart

from ctcx.conformance.oracle import best_classes, best_paths

FRAMES = (0, 1, 2, 3, 4, 5, 8, 31, 32, 33, 64, 65, 97, 170)
# Around a warp, and around the 96 threads of a block. More than those go in strips.
WIDTHS = (0, 130, 1, 2, 30, 31, 32, 33, 95, 96, 97)
# What stands in the source, and what a careless hand would make of it.
DEFECTS = {
    "no-barrier": (
        "            __syncthreads();\n            const Step",
        "            const Step",
    ),
    "one-row": ("mine + u % 2 * width", "mine"),
    "no-strip-barrier": (
        "        __syncthreads();\n    }\n    return Sums",
        "    }\n    return Sums",
    ),
    "no-state-barrier": ("        __syncthreads();\n        state = last", "        state = last"),
    "past-the-last-frame": ("t < p.T; t += (i64)gridDim", "t <= p.T; t += (i64)gridDim"),
    "past-the-end": ("if (t >= frames) return;", "if (t > frames) return;"),
}


def main(threads, count, flaw=""):
    cupy.cuda.set_allocator(None)
    paths.MOST_THREADS = threads
    paths.describe = apart(paths.describe, flaw)
    if flaw in DEFECTS:
        old, new = DEFECTS[flaw]
        source = variants.source
        if not any(old in source(variant) for variant in variants.VARIANTS):
            message = f"{old!r} is not in the source"
            raise RuntimeError(message)
        launch.source = lambda variant: source(variant).replace(old, new)
    for index in range(count):
        # All choices at once, and with sums kept.
        plan._TABLE = 65536 if index % 4 == 3 else 0
        check(np.random.default_rng(index), WIDTHS[index % len(WIDTHS)])
    sys.stdout.write(f"ran {count}\n")


def check(rng, S):
    N, C, W = int(rng.integers(1, 3)), 5, int(rng.integers(3))
    T = int(rng.choice(FRAMES[-2:] if S > 33 else FRAMES))
    blank = int(rng.integers(C))
    logits = rng.integers(-3, 3, (N, T, C)).astype(np.float32)
    extra = rng.integers(-3, 1, (N, T, W)).astype(np.float32) if W else None
    columns = np.setdiff1d(np.arange(C + W), [blank])
    labels = rng.choice(columns, (N, S))
    ends = (blank, blank) if rng.random() < 0.5 else tuple(rng.integers(C + W, size=2).tolist())
    frames, counts = rng.integers(0, T + 1, N), rng.integers(0, S + 1, N)
    frames[-1], counts[-1] = T, min(S, T * 2 // 3)
    arrays = [cupy.asarray(array) for array in (logits, labels, frames, counts)]
    beside = None if extra is None else cupy.asarray(extra)
    states, log_probs = paths.align(*arrays, blank=blank, extra=beside, ends=ends)
    classes, _ = paths.greedy(arrays[0], arrays[2], blank=blank)
    said = best_classes(logits, frames, blank)
    np.testing.assert_array_equal(cupy.asnumpy(classes), said.classes)
    right = best_paths(logits, labels, frames, counts, blank, extra=extra, ends=ends)
    where = str((N, T, S, W, blank, ends))
    np.testing.assert_array_equal(cupy.asnumpy(states), right.states, err_msg=where)
    np.testing.assert_allclose(cupy.asnumpy(log_probs), right.log_probs, atol=1e-5, err_msg=where)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
