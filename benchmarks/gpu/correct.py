"""Hold losses, gradients, best paths and greedy decoding of a GPU to those of the host."""

import argparse
import sys
from importlib import import_module
from importlib.util import find_spec

import numpy as np
from problems import SIZES, SMALL, make_ragged

import ctcx

# Of the gradient, and of the loss relative to the larger of 1 and itself.
ALLOWED = {"float32": 5e-6, "float64": 1e-9, "float16": 3e-3}


def cupy_arrays():
    cupy = import_module("cupy")
    return cupy.asarray, cupy.asnumpy


def torch_tensors():
    torch = import_module("torch")
    return lambda a: torch.tensor(a, device="cuda"), lambda a: a.cpu().numpy()


LIBRARIES = {"cupy": cupy_arrays, "torch": torch_tensors}


def error_of(logits, others, to_device, to_host, backend):
    """Return the largest error of loss and gradient; raise AssertionError where more is wrong."""
    right = ctcx.ctc_loss_and_grad(logits.astype(np.float64), *others, backend="array-api")
    on_device = to_device(logits)
    got, again = (ctcx.ctc_loss_and_grad(on_device, *others, backend=backend) for _ in range(2))
    loss, grad = (to_host(part).astype(np.float64) for part in (got.loss, got.grad))
    assert np.array_equal(to_host(again.grad), to_host(got.grad)), "two calls differ"
    feasible = np.isfinite(right.loss)
    assert np.array_equal(np.isfinite(loss), feasible), "other sequences have no path"
    loss_error = np.abs(loss - right.loss)[feasible] / np.maximum(1, right.loss[feasible])
    return max(loss_error.max(initial=0), np.abs(grad - right.grad).max())


def check_paths(logits, others, to_device, to_host, backend):
    """Raise AssertionError unless best paths, and greedy decoding, are those of the host.

    Both add up the same numbers in float64, in the same order.
    """
    options = {"infeasible": "empty", "validate": False}
    right = ctcx.ctc_align(logits, *others, backend="array-api", **options)
    got, again = (
        ctcx.ctc_align(to_device(logits), *others, backend=backend, **options) for _ in range(2)
    )
    assert np.array_equal(to_host(again.log_probs), to_host(got.log_probs)), "two calls differ"
    assert np.array_equal(to_host(got.states), right.states), "the best paths are others"
    error = np.abs(to_host(got.log_probs).astype(np.float64) - right.log_probs).max(initial=0)
    assert error <= 1e-5, f"log_probs of the best paths are off by {error:.2g}"
    lengths = others[1]
    said = ctcx.ctc_greedy(logits, lengths, backend="array-api")
    got = ctcx.ctc_greedy(to_device(logits), lengths, backend=backend)
    assert np.array_equal(to_host(got.labels), said.labels), "greedy decoding says other labels"
    error = np.abs(to_host(got.log_probs).astype(np.float64) - said.log_probs).max(initial=0)
    assert error <= 1e-5, f"log_probs of greedy decoding are off by {error:.2g}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", action="store_true", help="two small batches only")
    parser.add_argument("--backend", default="cuda")
    parser.add_argument("--library", choices=LIBRARIES, help="default: all that are installed")
    arguments = parser.parse_args()
    names = [arguments.library] if arguments.library else filter(find_spec, LIBRARIES)
    wrong, worst = 0, {}
    for name in names:
        to_device, to_host = LIBRARIES[name]()
        for sizes in SMALL if arguments.few else SIZES:
            logits, *others = make_ragged(*sizes)
            for dtype, allowed in ALLOWED.items():
                problem = f"{name} {dtype} {sizes}"
                try:
                    error = error_of(
                        logits.astype(dtype), others, to_device, to_host, arguments.backend
                    )
                    check_paths(logits.astype(dtype), others, to_device, to_host, arguments.backend)
                except Exception as failure:  # noqa: BLE001 - the other problems are of interest too
                    print(f"wrong: {problem}: {type(failure).__name__}: {failure}")
                    wrong += 1
                    continue
                worst[name, dtype] = max(worst.get((name, dtype), 0), error)
                if not error <= allowed:
                    print(f"wrong: {problem}: off by {error:.2g}, allowed is {allowed:.2g}")
                    wrong += 1
    for (name, dtype), error in worst.items():
        print(f"{name} {dtype}: off by {error:.2g} at most")
    if not worst:
        sys.exit("nothing could be computed: neither CuPy nor PyTorch works here")
    print(f"{wrong} problems are wrong")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
