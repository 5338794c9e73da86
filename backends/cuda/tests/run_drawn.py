"""Drawn sizes around each threshold, for AddressSanitizer: ``run_drawn.py SEED COUNT [PART]``.

Every array and every part of the scratch memory is an allocation of its own, of the very size that
the plan gives it, so that a byte too far is an overrun. With PART, that part is 32 bytes short,
which must be found.
"""

import sys

import cupy
import numpy as np
from ctcx_cuda import kernels
from ctcx_cuda.plan import make_plan

import ctcx

# The widths that a variant begins and ends with, and those beside them.
WIDTHS = (0, 1, 2, 30, 31, 32, 33, 142, 143, 144, 145, 538, 539, 540, 541)
# Around the frames of a group (4 and 8), of a block (4), of a segment (32), and of two.
FRAMES = (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65)
# Around a warp, a block, and the four loads of a warp.
CLASSES = (1, 2, 3, 5, 31, 32, 33, 96, 97, 127, 128, 129, 161, 257)
DTYPES = ("float16", "float32", "float64")


def main(seed, count, short=""):
    cupy.cuda.set_allocator(None)
    kernels.THREADS.update(ctc_checkpoints=64, ctc_segments=64)
    kernels.describe = apart(kernels.describe, short)
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        check(rng, WIDTHS[index % len(WIDTHS)], DTYPES[index % 7 % 3])
    sys.stdout.write(f"ran {count}\n")


def apart(describe, short):
    def described(plan=None, scratch=None, **facts):
        problem = describe(plan, scratch, **facts)
        described.kept = []
        for name, size in plan.sizes.items() if plan else ():
            less = 32 if name == short and size >= 64 else 0
            part = cupy.empty(size - less, np.uint8)
            described.kept.append(part)
            problem[name] = part.data.ptr
        return problem

    return described


def check(rng, S, dtype):
    N, T = int(rng.integers(1, 4)), int(rng.choice(FRAMES))
    C = int(rng.choice(CLASSES[1:] if S else CLASSES))
    blank = int(rng.integers(C))
    logits = rng.normal(scale=2, size=(N, T, C)).astype(dtype)
    labels = (blank + rng.integers(1, max(2, C), size=(N, S))) % C
    logit_lengths, label_lengths = rng.integers(0, T + 1, N), rng.integers(0, S + 1, N)
    logit_lengths[-1], label_lengths[-1] = T, S
    # Short enough for the frames, in every other sequence.
    label_lengths[:-1:2] = np.minimum(label_lengths[:-1:2], logit_lengths[:-1:2] // 2)
    integers = [
        array.astype(rng.choice(["int32", "int64"]))
        for array in (labels, logit_lengths, label_lengths)
    ]
    arrays = [cupy.asarray(array) for array in (logits, *integers)]
    if rng.random() < 0.3:
        arrays[0] = cupy.asarray(logits.transpose(1, 0, 2).copy()).transpose(1, 0, 2)
    real = 8 if dtype == "float64" else 4
    facts = {"real": real, "grad": True, "limit": 1 << 40}
    limit = make_plan(N, T, C, S, **facts).scratch
    # All at once; in slices; without registers; in slices without registers.
    for share in (1, 0.7, 0.05, 0.01):
        kernels.scratch_limit = lambda share=share: max(1, int(limit * share))
        loss, grad = kernels.loss_and_grad(*arrays, blank=blank)
        alone = kernels.loss(*arrays, blank=blank)
        wanted = ctcx.ctc_loss_and_grad(
            logits.astype(np.float64), *integers, blank=blank, backend="array-api"
        )
        loose = {"float16": 6e-4, "float32": 5e-6, "float64": 1e-10}[dtype]
        exact = {"rtol": 1e-10 if dtype == "float64" else 2e-6, "atol": 2e-6}
        where = str((N, T, C, S, blank, dtype, share))
        np.testing.assert_allclose(cupy.asnumpy(loss), wanted.loss, **exact, err_msg=where)
        np.testing.assert_allclose(cupy.asnumpy(alone), wanted.loss, **exact, err_msg=where)
        np.testing.assert_allclose(
            cupy.asnumpy(grad), wanted.grad, rtol=0, atol=loose, err_msg=where
        )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
