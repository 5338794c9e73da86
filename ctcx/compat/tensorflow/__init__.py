"""TensorFlow's CTC functions, on TensorFlow's tensors and on any array library.

``import ctcx.compat.tensorflow as tf`` stands in for ``import tensorflow as tf``: ``tf.nn`` and
``tf.compat.v1.nn`` have ctcx's functions in place of TensorFlow's CTC loss and decoders, and all
other names are TensorFlow's own. TensorFlow is imported when one of those is asked for, and not
before.

>>> import numpy as np
>>> from ctcx.compat.tensorflow import ctc_loss
>>> ctc_loss(np.asarray([[1, 2]]), np.zeros((3, 1, 4)), [2], [3])
array([2.54944517])
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from ctcx.compat._shared.argument_names import required
from ctcx.compat.tensorflow._ctc import (
    collapse_repeated,
    ctc_loss,
    ctc_loss_v1,
    ctc_unique_labels,
)
from ctcx.compat.tensorflow._decoders import (
    ctc_beam_search_decoder,
    ctc_beam_search_decoder_v1,
    ctc_greedy_decoder,
)

__all__ = [
    "collapse_repeated",
    "ctc_beam_search_decoder",
    "ctc_beam_search_decoder_v1",
    "ctc_greedy_decoder",
    "ctc_loss",
    "ctc_loss_v1",
    "ctc_unique_labels",
]


class _TensorFlowModule:
    """Some functions of ctcx, and whatever else a module of TensorFlow has."""

    def __init__(self, module: str, **names: Any) -> None:
        self._module = module
        self.__dict__.update(names)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        tf = required("tensorflow", "tensorflow", f"ctcx.compat.tensorflow.{self._module}.{name}")
        return getattr(attrgetter(self._module)(tf), name)


nn = _TensorFlowModule(
    "nn",
    ctc_beam_search_decoder=ctc_beam_search_decoder,
    ctc_greedy_decoder=ctc_greedy_decoder,
    ctc_loss=ctc_loss,
    ctc_unique_labels=ctc_unique_labels,
    collapse_repeated=collapse_repeated,
)


compat = _TensorFlowModule(
    "compat",
    v1=_TensorFlowModule(
        "compat.v1",
        nn=_TensorFlowModule(
            "compat.v1.nn",
            ctc_beam_search_decoder=ctc_beam_search_decoder_v1,
            ctc_beam_search_decoder_v2=ctc_beam_search_decoder,
            ctc_greedy_decoder=ctc_greedy_decoder,
            ctc_loss=ctc_loss_v1,
            ctc_loss_v2=ctc_loss,
            ctc_unique_labels=ctc_unique_labels,
            collapse_repeated=collapse_repeated,
        ),
    ),
)


def __getattr__(name: str) -> Any:
    if name.startswith("__") and name != "__version__":
        msg = f"module 'ctcx.compat.tensorflow' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(required("tensorflow", "tensorflow", f"ctcx.compat.tensorflow.{name}"), name)
