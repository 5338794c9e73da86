"""Tells ctcx about the CUDA kernels in this package, without importing CuPy."""

from ctcx.plugin import Backend, Feature, hookimpl
from ctcx_cuda._probe import probe, runtime_info

__all__ = ["STATUS", "ctcx_backends", "ctcx_runtime_info"]

__version__ = "0.1.0"

STATUS = "checked on the CUDA-on-CPU harness; not yet run on a GPU"


@hookimpl
def ctcx_backends() -> list[Backend]:
    """Offer one backend, for CuPy arrays and for PyTorch tensors on a CUDA device."""
    return [
        Backend(
            name="cuda",
            kernels={
                "loss": "ctcx_cuda.kernels:loss",
                "loss_and_grad": "ctcx_cuda.kernels:loss_and_grad",
                "align": "ctcx_cuda.paths:align",
                "greedy": "ctcx_cuda.paths:greedy",
            },
            namespaces=frozenset({"cupy", "torch"}),
            devices=frozenset({"cuda"}),
            dtypes=frozenset({"float16", "bfloat16", "float32", "float64"}),
            features=frozenset(
                {
                    Feature.GRAD,
                    Feature.DETERMINISTIC,
                    Feature.HALF,
                    Feature.NONCONTIGUOUS,
                    Feature.CHECKS_VALUES,
                }
            ),
            priority=100,
            opt_in=False,
            probe=probe,
            summary=f"CUDA kernels in extended exponents ({STATUS})",
        )
    ]


@hookimpl
def ctcx_runtime_info() -> dict[str, str]:
    """Lines for ``ctcx doctor`` and for the header of a benchmark."""
    return {"ctcx-cuda": f"{__version__}, {STATUS}"} | runtime_info()
