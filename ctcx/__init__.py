"""CTC loss and gradient for every array library, with kernels as plugins.

>>> import numpy as np, ctcx
>>> rng = np.random.default_rng(0)
>>> logits = rng.standard_normal((2, 50, 32), dtype=np.float32)
>>> loss, grad, feasible = ctcx.ctc_loss_and_grad(logits, [[3, 1, 4], [1, 5, 9, 2]])
>>> loss.shape, grad.shape
((2,), (2, 50, 32))
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ctcx import compat, conformance, plugin
    from ctcx._api.align import Alignment, Span, ctc_align, spans
    from ctcx._api.beam_search import Beams, ctc_beam_search
    from ctcx._api.explain import explain
    from ctcx._api.greedy import Decoded, ctc_greedy
    from ctcx._api.guided_search import BeamState
    from ctcx._api.hvp import ctc_hvp
    from ctcx._api.linear import LinearLossAndGrad, linear_ctc_loss_and_grad
    from ctcx._api.loss import LossAndGrad, ctc_loss, ctc_loss_and_grad
    from ctcx._api.ngram import NGram
    from ctcx._api.posterior import Occupancies, ctc_entropy, ctc_occupancies, ctc_sample_paths
    from ctcx._api.torch_linear import LinearCTCLoss as LinearCTCLoss
    from ctcx._dispatch.dispatcher import trace, use_backend
    from ctcx._dispatch.report import backends, show_versions
    from ctcx._errors import (
        BackendError,
        BackendRejectedError,
        CTCError,
        CTCInputError,
        InfeasibleError,
        KernelError,
        PluginError,
        PluginWarning,
        UnknownBackendError,
    )
    from ctcx._inputs.labels import labels_from_one_hot, labels_to_one_hot, min_frames

__all__ = [
    "Alignment",
    "BackendError",
    "BackendRejectedError",
    "BeamState",
    "Beams",
    "CTCError",
    "CTCInputError",
    "Decoded",
    "InfeasibleError",
    "KernelError",
    "LinearLossAndGrad",
    "LossAndGrad",
    "NGram",
    "Occupancies",
    "PluginError",
    "PluginWarning",
    "Span",
    "UnknownBackendError",
    "__version__",
    "backends",
    "compat",
    "conformance",
    "ctc_align",
    "ctc_beam_search",
    "ctc_entropy",
    "ctc_greedy",
    "ctc_hvp",
    "ctc_loss",
    "ctc_loss_and_grad",
    "ctc_occupancies",
    "ctc_sample_paths",
    "explain",
    "labels_from_one_hot",
    "labels_to_one_hot",
    "linear_ctc_loss_and_grad",
    "min_frames",
    "plugin",
    "show_versions",
    "spans",
    "trace",
    "use_backend",
]

__version__ = "0.1.0"


def _on_first_use(
    package: str,
    public: list[str],
    homes: Mapping[str, Sequence[str]],
    submodules: Sequence[str] = (),
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package that imports public names on first use.

    ``homes`` has the names by the modules that they live in, as these are called in the package.
    """
    home_of = {name: module for module, names in homes.items() for name in names}

    def get(name: str) -> Any:
        from importlib import import_module

        if name in submodules:
            return import_module(f"{package}.{name}")
        if name not in home_of:
            msg = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(msg)
        value = getattr(import_module(f"{package}.{home_of[name]}"), name)
        vars(sys.modules[package])[name] = value
        return value

    return get, lambda: sorted(public)


# So that `import ctcx` costs next to nothing: tests/test_import.py holds the list of what it may
# import.
__getattr__, __dir__ = _on_first_use(
    __name__,
    __all__,
    {
        "_api.align": ("Alignment", "Span", "ctc_align", "spans"),
        "_api.beam_search": ("Beams", "ctc_beam_search"),
        "_api.explain": ("explain",),
        "_api.greedy": ("Decoded", "ctc_greedy"),
        "_api.guided_search": ("BeamState",),
        "_errors": (
            "BackendError",
            "BackendRejectedError",
            "CTCError",
            "CTCInputError",
            "InfeasibleError",
            "KernelError",
            "PluginError",
            "PluginWarning",
            "UnknownBackendError",
        ),
        "_api.hvp": ("ctc_hvp",),
        "_api.linear": ("LinearLossAndGrad", "linear_ctc_loss_and_grad"),
        "_api.torch_linear": ("LinearCTCLoss",),  # needs PyTorch, so it isn't in __all__
        "_api.loss": ("LossAndGrad", "ctc_loss", "ctc_loss_and_grad"),
        "_api.ngram": ("NGram",),
        "_api.posterior": ("Occupancies", "ctc_entropy", "ctc_occupancies", "ctc_sample_paths"),
        "_inputs.labels": ("labels_from_one_hot", "labels_to_one_hot", "min_frames"),
        "_dispatch.report": ("backends", "show_versions"),
        "_dispatch.requested": ("use_backend",),
        "_dispatch.tracing": ("trace",),
    },
    ("bench", "compat", "conformance", "fixtures", "plot", "plugin"),
)
