"""Run one variant, for the sanitizers: ``python run_kernels.py VARIANT [DEFECT]``."""

import sys

import cupy
from ctcx_cuda import kernels, launch, variants
from problems import problem

# What stands in the source, and what a careless hand would make of it.
DEFECTS = {
    "no-barrier": (
        "    __syncthreads();\n    if (warp > 0 && lane < LEFT)",
        "    if (warp > 0 && lane < LEFT)",
    ),
    "one-buffer": ("exchange(a, edges[turn], lane, warp)", "exchange(a, edges[0], lane, warp)"),
    "no-warp-barrier": ("    __syncwarp();\n    gather_equal", "    gather_equal"),
    "no-frame-barrier": ("        __syncthreads();\n        Pair* swap", "        Pair* swap"),
    "past-the-end": (
        "const i64 T = num_frames(p, n);\n        i64 t",
        "const i64 T = p.T + 1;\n        i64 t",
    ),
}


def main(variant, defect=""):
    cupy.cuda.set_allocator(None)
    if defect:
        old, new = DEFECTS[defect]
        source = variants.source

        def defective(which):
            text = source(which)
            if old not in text:
                message = f"{old!r} is not in the source of {which.name}"
                raise RuntimeError(message)
            return text.replace(old, new)

        launch.source = defective
    # ThreadSanitizer tells about 250 threads apart.
    kernels.THREADS.update(ctc_checkpoints=96, ctc_segments=96)
    logits, labels, frames, counts = problem(variant, sequences=1 + (variant == "labels-31"))
    if variant == "any-length":
        logits, labels = logits[:, :12], labels[:, :5]
        frames, counts = frames - frames + 12, counts - counts + 5
        kernels.make_plan = lambda *a, **k: small_plan(*a, **k)
    arrays = [cupy.asarray(array) for array in (logits, labels, frames, counts)]
    loss, _ = kernels.loss_and_grad(*arrays, blank=0)
    print("ran", variant, defect, cupy.asnumpy(loss))


def small_plan(*shape, limit, **rest):
    """Checkpoints for short labels too: a thousand threads' worth of work isn't needed."""
    from ctcx_cuda.plan import any_length_plan

    return any_length_plan(*shape, shift=5, limit=limit, **rest)


if __name__ == "__main__":
    main(*sys.argv[1:])
