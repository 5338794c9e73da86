"""CTC loss and gradient for every array library, with kernels as plugins.

>>> import numpy as np, ctcx
>>> rng = np.random.default_rng(0)
>>> logits = rng.standard_normal((2, 50, 32), dtype=np.float32)
>>> loss, grad, feasible = ctcx.ctc_loss_and_grad(logits, [[3, 1, 4], [1, 5, 9, 2]])
>>> loss.shape, grad.shape
((2,), (2, 50, 32))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctcx._version import __version__

if TYPE_CHECKING:
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

# Where each public name lives. Modules are imported on first use, so that `import ctcx` costs next
# to nothing (tests/test_import.py holds the list of what it may import).
_HOMES = {
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
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
_SUBMODULES = ("bench", "compat", "conformance", "fixtures", "plot", "plugin")


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _SUBMODULES:
        return import_module(f"ctcx.{name}")
    try:
        home = _HOME_OF[name]
    except KeyError:
        msg = f"module 'ctcx' has no attribute {name!r}"
        raise AttributeError(msg) from None
    value = getattr(import_module(f"ctcx.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
