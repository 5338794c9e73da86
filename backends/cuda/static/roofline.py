"""The least time that memory and the recursion allow: ``python backends/cuda/static/roofline.py``.

Prints the table of docs/cuda-kernel.md. All of it is arithmetic on the sizes of arrays, on H100's
data sheet and on a static schedule; nothing here was measured on a GPU.
"""

from __future__ import annotations

from ctcx_cuda.plan import make_plan

# The named shapes of `ctcx bench`, all in float32: sequences, frames, classes, labels.
WORKLOADS = {
    "warpctc-28": (64, 150, 28, 40),
    "warpctc-5k": (64, 150, 5000, 20),
    "asr-char": (32, 400, 32, 60),
    "asr-bpe": (16, 500, 1024, 80),
    "ocr-zh": (64, 100, 6000, 20),
    "long": (1, 20_000, 32, 2000),
}

BANDWIDTH = 3.35e12
"""Bytes a second: NVIDIA's data sheet of the H100 SXM5."""
CLOCK = 1.755e9
"""Cycles a second, assumed under load; the sheet's boost clock is 1.98e9."""
CYCLES = {"labels-31": 69, "labels-143": 71, "labels-539": 130}
"""Issue and stall cycles a frame, sm_90: what schedule.py prints, the slower way, rounded up."""
TORCH_CYCLES = 331
"""The same of torch 2.14.1's log_alpha; its beta runs after it."""
LIMIT = 256 << 20


def our_bytes(N: int, T: int, C: int, S: int, slots: int) -> int:
    """Return bytes that the three launches move: twice the logits, once the gradient, the paths."""
    frames = N * T
    probabilities = frames * (slots + 2) * 8  # written once, read by alpha and by beta
    paths = 2 * frames * (S + 1) * 16  # written once, read once
    return 3 * frames * C * 4 + 3 * probabilities + 2 * paths


def torch_bytes(N: int, T: int, C: int, S: int) -> int:
    """Return bytes for log_softmax, ctc_loss and both gradients in torch, from its source.

    log_softmax reads and writes (2); the gradient of ctc_loss starts from exp(log_probs) (2); that
    of log_softmax reads both and writes (3). Log-alpha and log-beta are written and read.
    """
    return 7 * N * T * C * 4 + 4 * N * T * (2 * S + 1) * 4


def main() -> None:
    print(
        "| workload | N, T, C, S | variant | MB moved | torch | at 3.35 TB/s | recursion | torch |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, (N, T, C, S) in WORKLOADS.items():
        plan = make_plan(N, T, C, S, real=4, grad=True, limit=LIMIT)
        theirs = torch_bytes(N, T, C, S)
        torch_time = 2 * T * TORCH_CYCLES / CLOCK
        row = [name, f"{N}, {T}, {C}, {S}", plan.variant.name]
        if plan.variant.name in CYCLES:
            ours = our_bytes(N, T, C, S, plan.variant.slots)
            recursion = T * CYCLES[plan.variant.name] / CLOCK
            row += [f"{ours / 1e6:.1f}", f"{theirs / 1e6:.1f}", f"{ours / BANDWIDTH * 1e6:.1f} µs"]
            row += [f"{recursion * 1e6:.0f} µs"]
        else:
            row += ["not modelled", f"{theirs / 1e6:.1f}", "not modelled", "not modelled"]
        print("| " + " | ".join([*row, f"{torch_time * 1e6:.0f} µs"]) + " |")


if __name__ == "__main__":
    main()
